//! Command: a registry whose store is full: how long it takes to start, and whether it stays as fast.

use crate::dispatches::{load, mission_id, order};
use crate::peers::{Caller, bare_server, executor, keep_reading};
use crate::process::Registry;
use aiwg_rs::domain::id::{ExecutorId, MissionId};
use aiwg_rs::domain::lifecycle::MissionState;
use aiwg_rs::domain::time::Timestamp;
use aiwg_rs::registry::idempotency::Fingerprint;
use aiwg_rs::registry::record::{Mission, Order, StoredEvent, Write};
use aiwg_rs::registry::store::Store;
use std::sync::Arc;
use std::time::Duration;

/// Missions that are already there have other numbers than those that are dispatched.
const STORED_FROM: usize = 1 << 30;

fn stored(number: usize, now: Timestamp) -> [Write; 2] {
    let id = MissionId::new(mission_id(STORED_FROM + number)).unwrap();
    let executor_id = ExecutorId::new(crate::peers::id(0)).unwrap();
    let body = order(id.as_str());
    let seq = u64::try_from(number).unwrap() + 1;
    let raw = format!(
        r#"{{"event":"mission.completed","executor_id":"{executor_id}","mission_id":"{id}","ts":"{now}","data":{{"state":"done","exit_code":0,"summary":"the build is green"}}}}"#
    );
    let event = StoredEvent {
        seq,
        executor_id: executor_id.clone(),
        mission_id: Some(id.clone()),
        kind: Arc::from("mission.completed"),
        ts: now,
        raw: Arc::from(raw),
    };
    let mission = Mission {
        number: seq,
        order: Arc::new(Order {
            session: "bench".to_owned(),
            key: id.to_string(),
            fingerprint: Fingerprint::of(body.as_bytes()),
            body,
            long_running: false,
        }),
        id,
        executor_id,
        state: MissionState::Done,
        state_since: now,
        state_ts: Some(now),
        created_at: now,
        updated_at: now,
        completed_at: Some(now),
        is_accepted: true,
        is_resent: false,
        estimated_start: None,
        pty_session_ref: None,
        exit_code: Some(0),
        error: None,
        question: None,
        expired_question: None,
        pending: None,
        events_after: 0,
    };
    [Write::NewMission(Box::new(mission)), Write::Event(Arc::new(event))]
}

/// Makes a store with so many ended missions, one event each.
fn fill(count: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(&folder.path().join("registry")).unwrap();
    let now = Timestamp::from_millis(
        i64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap(),
    );
    let mut number = 0;
    while number < count {
        let until = count.min(number + 50_000);
        let writes: Vec<Write> = (number..until).flat_map(|number| stored(number, now)).collect();
        store.commit(writes.iter()).unwrap();
        number = until;
    }
    folder
}

pub(crate) async fn measure_start() {
    for count in [0, 100_000] {
        let registry = Registry::on(fill(count)).await;
        println!(
            "start, {count:>7} missions      {:>8.2?} to ready  {} MB resident",
            registry.start_took,
            registry.resident_mb()
        );
    }
}

/// Both registries run all the time and are loaded in turns, so that what else the machine does hits both.
pub(crate) async fn measure_growth() {
    const TURNS: usize = 4;
    const COUNT: usize = 5_000;
    let mut sides = Vec::new();
    // Filled before any of them runs: a line that nobody reads meanwhile would be given up.
    let folders = [1_000, 1_000_000].map(|stored| (stored, fill(stored)));
    for (stored, folder) in folders {
        let registry = Registry::on(folder).await;
        let line = keep_reading(executor(&registry, 0, &bare_server().await).await);
        load(&registry.address, 0, 2_000).await;
        // One that is there: the store is asked, and answers as it did then.
        let known = mission_id(STORED_FROM + stored / 2);
        let mut caller = Caller::connect(&registry.address).await;
        let (status, answer) = caller.post("/api/v1/sessions/bench/dispatch", &order(&known)).await;
        assert_eq!((status, &answer["idempotent_replayed"]), (202, &true.into()), "{answer}");
        sides.push((stored, registry, line, Duration::ZERO));
    }
    for turn in 0..TURNS {
        for (_, registry, _, took) in &mut sides {
            *took += load(&registry.address, 2_000 + turn * COUNT, COUNT).await.took;
        }
    }
    let mut rates = Vec::new();
    for (stored, registry, _, took) in &sides {
        let rate = f64::from(u32::try_from(TURNS * COUNT).unwrap()) / took.as_secs_f64();
        let bytes = std::fs::metadata(registry.folder().join("registry/registry.sqlite3")).unwrap().len();
        println!(
            "dispatch, {stored:>7} stored     {rate:>7.0}/s  {} MB resident, {} MB of store, {:.2?} to ready",
            registry.resident_mb(),
            bytes / 1_000_000,
            registry.start_took
        );
        rates.push(rate);
    }
    println!("growth                       {:>7.0} % of the rate with few", rates[1] / rates[0] * 100.0);
}
