//! Another program rewrites the files all the time, in place, in pieces, knowing no lock.

use super::Watched;
use super::registry::{Behaviour, Registry};
use crate::support::daemon::Daemon;
use crate::support::dice::Dice;
use crate::support::eventually::eventually;
use crate::support::role::{Process, report};
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

const MISSIONS: usize = 1_000;
const ADDED: usize = 50;

/// Reads, adds a field to some mission and sometimes a whole mission, and writes everything back.
pub(crate) fn rewrite_everything(folder: &Path) {
    let path = folder.join("sessions/s/session.json");
    let mut dice = Dice::new(u64::from(std::process::id()));
    let mut round = 0;
    while !folder.join("stop").exists() {
        // A breath now and then, or a slow machine never gets a whole write in between.
        let pause = if round % 12 == 11 { 250 } else { 2 + dice.below(4) };
        aiwg_rs::disk::wait::rest(Duration::from_millis(pause));
        let mut value: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let missions = value["missions"].as_array_mut().unwrap();
        let count = u64::try_from(missions.len()).unwrap();
        let chosen = usize::try_from(dice.below(count)).unwrap();
        missions[chosen][format!("foreign{round}")] = round.into();
        if round % 3 == 0 && round / 3 < ADDED {
            let id = format!("added-{}", round / 3);
            missions.push(serde_json::json!({"id": id, "objective": "true", "status": "queued"}));
        }
        let text = serde_json::to_string_pretty(&value).unwrap();
        let mut file = OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
        for piece in text.as_bytes().chunks(16 * 1024) {
            file.write_all(piece).unwrap();
        }
        drop(file);
        report(round);
        round += 1;
    }
}

#[test]
fn a_thousand_missions_survive_a_program_that_rewrites_the_file_in_place() {
    let runs = std::env::var("AIWG_RS_TEST_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    for _run in 0..runs {
        one_run();
    }
}

fn one_run() {
    let registry =
        Registry::start(Behaviour { is_idempotent: false, ends_after: Duration::from_millis(200) });
    let folder = Watched::new();
    folder.queue("s", MISSIONS);
    let foreign = Process::start("file rewriter", folder.root());
    let mut bridge = Daemon::bridge(folder.root(), &registry.url, &["--no-ws"]);
    eventually("every mission to be done", Duration::from_secs(300), || {
        let done = folder.count("s", "done")?;
        (done >= MISSIONS + ADDED).then_some(())
    });
    fs::write(folder.root().join("stop"), "").unwrap();
    let last = foreign.finish().unwrap();
    // What the last rewrite took away is put back.
    let value = eventually("the file to be whole again", Duration::from_secs(120), || {
        (folder.count("s", "done")? == MISSIONS + ADDED).then(|| folder.read("s"))?
    });
    assert!(bridge.terminate().success());
    let missions = value["missions"].as_array().unwrap();
    assert_eq!(missions.len(), MISSIONS + ADDED);
    for mission in missions {
        for key in [
            "executorId",
            "dispatchedAt",
            "dispatchAttempts",
            "startedAt",
            "completedAt",
            "exitCode",
            "summary",
        ] {
            assert!(mission.get(key).is_some(), "{key} is lost: {mission}");
        }
    }
    for n in 0..MISSIONS {
        assert_eq!(missions.iter().find(|mission| mission["id"] == format!("s-{n}")).unwrap()["mine"], n);
    }
    let all = value.to_string();
    let missing: Vec<usize> =
        (0..=last).filter(|round| !all.contains(&format!("\"foreign{round}\":{round}"))).collect();
    assert!(missing.is_empty(), "fields of the other program are lost: {missing:?} of {last}");
    let runs = registry.runs();
    assert_eq!(runs.len(), MISSIONS + ADDED);
    assert!(runs.values().all(|count| *count == 1), "ran more than once");
}
