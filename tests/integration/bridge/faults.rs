//! A wire between bridge and registry with the troubles of real ones, and a registry that is gone for a while.

use super::Watched;
use super::registry::{Behaviour, Registry};
use crate::support::chaos_proxy::{ChaosProxy, Trouble};
use crate::support::daemon::Daemon;
use crate::support::dice::Dice;
use crate::support::eventually::eventually;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(120);
const MISSIONS: usize = 200;
const AT_ONCE: Behaviour = Behaviour { is_idempotent: true, ends_after: Duration::ZERO };

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn all_done_once(folder: &Watched, registry: &Registry) {
    eventually("every mission to be done", PATIENCE, || {
        (folder.count("s", "done")? == MISSIONS).then_some(())
    });
    let runs = registry.runs();
    assert_eq!(runs.len(), MISSIONS);
    let twice: Vec<_> = runs.iter().filter(|(_, count)| **count != 1).collect();
    assert!(twice.is_empty(), "ran more than once: {twice:?}");
}

#[test]
fn whatever_the_wire_does_every_mission_runs_once() {
    let registry = Registry::start(AT_ONCE);
    let wire = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let target = registry.url.trim_start_matches("http://").parse().unwrap();
    let proxy = wire.block_on(ChaosProxy::before(target));
    let folder = Watched::new();
    let options = ["--no-ws", "--max-inflight", "8", "--retry-base-ms", "20", "--request-timeout", "400ms"];
    let mut bridge = Daemon::bridge(folder.root(), &proxy.url(), &options);
    let mut dice = Dice::new(u64::from(std::process::id()));
    folder.queue("s", MISSIONS);
    for _round in 0..number("AIWG_RS_TEST_TROUBLES", 30) {
        let cut_after = usize::try_from(dice.below(500)).unwrap();
        proxy.set(match dice.below(6) {
            0 => Trouble::Refuse,
            1 => Trouble::CutAfter(cut_after),
            2 => Trouble::Stall,
            3 => Trouble::Slow(40),
            4 => Trouble::Duplicate,
            _ => Trouble::None,
        });
        if dice.below(3) == 0 {
            proxy.cut();
        }
        aiwg_rs::disk::wait::rest(Duration::from_millis(20 + dice.below(150)));
    }
    proxy.set(Trouble::None);
    all_done_once(&folder, &registry);
    assert!(bridge.terminate().success());
    drop(proxy);
    wire.shutdown_timeout(Duration::from_secs(5));
}

#[test]
fn a_registry_that_is_gone_for_a_while_in_the_middle_delays_and_loses_nothing() {
    let mut registry = Registry::start(Behaviour { is_idempotent: false, ..AT_ONCE });
    let folder = Watched::new();
    let options = ["--no-ws", "--max-inflight", "4", "--retry-base-ms", "20"];
    let mut bridge = Daemon::bridge(folder.root(), &registry.url, &options);
    folder.queue("s", MISSIONS);
    eventually("a part to be dispatched", PATIENCE, || (registry.dispatches() > 20).then_some(()));
    registry.go_away();
    aiwg_rs::disk::wait::rest(Duration::from_secs(number("AIWG_RS_TEST_OUTAGE_SECONDS", 2)));
    registry.come_back();
    all_done_once(&folder, &registry);
    assert!(bridge.terminate().success());
}

/// With nothing queued, nobody sends anything that could find out.
#[test]
fn a_registry_that_goes_away_while_missions_run_is_called_away_and_back_again() {
    let mut registry = Registry::start(Behaviour { ends_after: Duration::from_secs(600), ..AT_ONCE });
    let folder = Watched::new();
    let mut bridge = Daemon::bridge(folder.root(), &registry.url, &["--no-ws"]);
    folder.queue("s", 1);
    eventually("it to run", PATIENCE, || (folder.count("s", "running")? == 1).then_some(()));
    let away_since = || {
        let text = std::fs::read_to_string(folder.root().join("bridge-status.json")).ok()?;
        let status: serde_json::Value = serde_json::from_str(&text).ok()?;
        Some(status["unreachableSince"].is_string())
    };
    registry.go_away();
    eventually("it to be called away", PATIENCE, || away_since().filter(|is_away| *is_away));
    registry.come_back();
    eventually("it to be called back", PATIENCE, || away_since().filter(|is_away| !is_away));
    assert!(bridge.terminate().success());
}
