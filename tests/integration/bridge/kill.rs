//! `kill -9` at random instants.

use super::Watched;
use super::registry::{Behaviour, Registry};
use crate::support::daemon::Daemon;
use crate::support::eventually::eventually;
use std::time::Duration;

const MISSIONS: usize = 500;
const SESSIONS: usize = 10;

fn kills_in_ci() -> usize {
    std::env::var("AIWG_RS_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(100)
}

fn every_mission_runs_once(is_idempotent: bool) {
    let mut registry = Registry::start(Behaviour { is_idempotent, ends_after: Duration::from_millis(300) });
    let folder = Watched::new();
    let mut dice = crate::support::dice::Dice::new(u64::from(std::process::id()));
    for session in 0..SESSIONS {
        folder.queue(&format!("s{session}"), MISSIONS / SESSIONS);
    }
    let arguments = ["--no-ws", "--max-inflight", "8"];
    for round in 0..kills_in_ci() {
        let mut bridge = Daemon::bridge(folder.root(), &registry.url, &arguments);
        aiwg_rs::disk::wait::rest(Duration::from_millis(10 + dice.below(150)));
        bridge.kill();
        if round == 5 {
            registry.go_away();
        }
        if round == 7 {
            registry.come_back();
        }
    }
    let mut bridge = Daemon::bridge(folder.root(), &registry.url, &arguments);
    for session in 0..SESSIONS {
        let session = format!("s{session}");
        eventually("every mission to be done", Duration::from_secs(90), || {
            (folder.count(&session, "done")? == MISSIONS / SESSIONS).then_some(())
        });
        for n in 0..MISSIONS / SESSIONS {
            let mission = folder.mission(&session, &format!("{session}-{n}")).unwrap();
            assert_eq!(mission["mine"], n);
            assert_eq!(mission["exitCode"], 0);
            assert!(mission["startedAt"].is_string() && mission["dispatchedAt"].is_string(), "{mission}");
        }
        let neighbours: Vec<String> = std::fs::read_dir(folder.file(&session).parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains(".tmp"))
            .collect();
        assert!(neighbours.is_empty(), "left behind: {neighbours:?}");
    }
    let runs = registry.runs();
    assert_eq!(runs.len(), MISSIONS);
    let twice: Vec<_> = runs.iter().filter(|(_, count)| **count != 1).collect();
    assert!(twice.is_empty(), "ran more than once: {twice:?}");
    assert!(bridge.terminate().success());
}

#[test]
fn a_bridge_killed_at_any_instant_runs_every_mission_exactly_once() {
    every_mission_runs_once(true);
}

#[test]
fn the_same_against_a_registry_without_idempotency() {
    every_mission_runs_once(false);
}
