//! The real binary, killed again and again while missions and events rush through it.
//!
//! `AIWG_RS_TEST_REGISTRY_KILLS=50` is the full run: 10,000 dispatches, 50,000 events, 50 executors.

use super::callers::Callers;
use super::fleet::{EVENTS, Fleet};
use super::peer::{Serve, id, soon};
use super::process::{Process, free_address};
use super::reader::Reader;
use crate::support::dice::Dice;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// Missions that are dispatched between two kills.
const MISSIONS_PER_KILL: usize = 200;

fn kills() -> usize {
    std::env::var("AIWG_RS_TEST_REGISTRY_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

/// The ids of all missions that are listed, with their executors and states.
async fn listed(serve: &Serve) -> HashMap<String, (String, String)> {
    let (mut found, mut cursor) = (HashMap::new(), String::new());
    loop {
        let page = serve.get(&format!("/api/v1/missions?limit=1000{cursor}")).await.body;
        for mission in page["missions"].as_array().unwrap() {
            let text = |field: &str| mission[field].as_str().unwrap().to_owned();
            let known = found.insert(text("mission_id"), (text("executor_id"), text("state")));
            assert_eq!(known, None, "listed twice: {mission}");
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_instant_it_loses_nothing_that_was_acknowledged_and_does_nothing_twice() {
    let kills = kills();
    let (missions, executors) = (MISSIONS_PER_KILL * kills, (kills + 5).min(50));
    let folder = tempfile::tempdir().unwrap();
    let address = free_address();
    let mut process = Process::start(folder.path(), &address).await;
    let base = process.serve.base.clone();
    let mut fleet = Fleet::start(executors).await;
    let rest = fleet.rest.clone();
    for number in 0..executors {
        fleet.enlist(&process.serve, number, &rest, &base).await;
        process.serve.executor_connected(&id(u32::try_from(number).unwrap()), true).await;
    }
    let mut readers = vec![Reader::of_stream(&base)];
    readers.extend((0..3).map(|number| Reader::of_socket(&base, &id(number))));

    let mut dice = Dice::new(41);
    let callers = Callers::start(&[base], 16, missions);
    for kill in 0..kills {
        let due = missions * (2 * kill + 1) / (2 * kills);
        soon(async {
            while callers.answered_count() < due {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        tokio::time::sleep(Duration::from_micros(dice.below(50_000))).await;
        process.signal(rustix::process::Signal::KILL);
        let answered = callers.answered();
        process.child.wait().unwrap();
        process = Process::start(folder.path(), &address).await;
        let listed = listed(&process.serve).await;
        for (mission, executor) in &answered {
            let found = listed.get(mission);
            assert_eq!(found.map(|(by, _)| by), Some(executor), "{mission} after kill {kill}");
        }
    }
    let answered = soon(async {
        while callers.answered_count() < missions {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        callers.answered()
    })
    .await;

    let ended = soon(async {
        loop {
            let listed = listed(&process.serve).await;
            if listed.values().all(|(_, state)| state == "done") {
                return listed;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(ended.len(), missions);
    for (mission, executor) in &answered {
        assert_eq!(ended[mission].0, *executor);
        let again = process.serve.dispatch_in("s", mission).await;
        assert_eq!((again.status, &again.body["idempotent_replayed"]), (202, &true.into()), "{again:?}");
    }
    let begun = fleet.begun();
    assert_eq!(begun.len(), missions);
    assert!(begun.values().all(|by| by.len() == 1), "some mission was sent to an executor twice");
    let log = everything_once(&process.serve, &readers).await;
    assert_eq!(log.len(), missions * EVENTS);
}

/// Compares what observers saw with what a new one sees; returns the executors' own events, of which none may be there twice.
pub(super) async fn everything_once(serve: &Serve, readers: &[Reader]) -> BTreeSet<(String, u64)> {
    let store = Reader::of_stream(&serve.base);
    let last = soon(async {
        // Complete once it has every mission's end and no more comes.
        let mut before = 0;
        loop {
            let last = store.seen().last().map_or(0, |(number, _)| *number);
            if last > 0 && last == before {
                return last;
            }
            before = last;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    })
    .await;
    let all = store.seen();
    for (place, reader) in readers.iter().enumerate() {
        let of_executor = place.checked_sub(1).map(|number| id(u32::try_from(number).unwrap()));
        let wanted = |event: &Value| of_executor.as_deref().is_none_or(|of| event["executor_id"] == *of);
        let expected: Vec<&(u64, Value)> = all.iter().filter(|(_, event)| wanted(event)).collect();
        if let Some((number, _)) = expected.last() {
            reader.until(*number).await;
        }
        let seen = reader.seen();
        assert!(seen.iter().eq(expected.into_iter()), "observer {place} saw something else than is stored");
    }
    assert_eq!(store.seen().last().map(|(number, _)| *number), Some(last), "something came after the end");
    let mut once = BTreeSet::new();
    let mut steps: HashMap<&str, u64> = HashMap::new();
    for (number, event) in &all {
        // The registry's own events have no step.
        if let Some(step) = event["data"]["step"].as_u64() {
            let mission = event["mission_id"].as_str().unwrap();
            assert!(once.insert((mission.to_owned(), step)), "stored twice, at last as {number}: {event}");
            let before = steps.insert(mission, step);
            assert_eq!(step, before.map_or(0, |before| before + 1), "out of order: {event}");
        }
    }
    once
}
