//! Somebody edits the file.

use super::Watched;
use super::registry::{Answer, Behaviour, Registry};
use crate::support::daemon::Daemon;
use crate::support::eventually::eventually;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
const LONG: Behaviour = Behaviour { is_idempotent: true, ends_after: Duration::from_secs(600) };

fn command(registry: &Registry, wanted: &str) {
    eventually(&format!("the command {wanted}"), PATIENCE, || {
        registry.commands().into_iter().find(|(mission, command, _)| mission == "s-0" && command == wanted)
    });
}

#[test]
fn abort_pause_and_resume_are_passed_on_once() {
    let registry = Registry::start(LONG);
    let folder = Watched::new();
    folder.queue("s", 1);
    let _bridge = Daemon::bridge(folder.root(), &registry.url, &["--no-ws"]);
    eventually("it to run", PATIENCE, || {
        folder.mission("s", "s-0").filter(|mission| mission["status"] == "running")
    });
    folder.edit("s", "s-0", |mission| mission["status"] = "paused".into());
    command(&registry, "pause");
    folder.edit("s", "s-0", |mission| mission["status"] = "running".into());
    command(&registry, "resume");
    folder.edit("s", "s-0", |mission| mission["status"] = "aborted".into());
    command(&registry, "abort");
    assert_eq!(registry.commands().len(), 3, "{:?}", registry.commands());
}

#[test]
fn an_abort_that_nobody_can_carry_out_any_more_ends_the_mission_with_its_time() {
    let registry = Registry::start(LONG);
    let folder = Watched::new();
    folder.queue("s", 1);
    let _bridge = Daemon::bridge(folder.root(), &registry.url, &["--no-ws"]);
    eventually("it to run", PATIENCE, || folder.mission("s", "s-0").filter(|m| m["status"] == "running"));
    registry.ask_and_refuse_commands_with(404);
    folder.edit("s", "s-0", |mission| mission["status"] = "aborted".into());
    let mission = eventually("its end to be written", PATIENCE, || {
        folder.mission("s", "s-0").filter(|mission| mission["abortedAt"].is_string())
    });
    assert_eq!((&mission["status"], &mission["abortedBy"]), (&"aborted".into(), &"operator".into()));
    assert!(mission["abortReason"].as_str().unwrap().contains("does not know"), "{mission}");
}

#[test]
fn an_abort_of_what_was_on_its_way_when_the_bridge_was_killed_is_passed_on_by_the_next_one() {
    let registry = Registry::start(LONG);
    registry.answer_next_with([Answer::RunsButNeverSays]);
    let folder = Watched::new();
    folder.queue("s", 1);
    let mut bridge = Daemon::bridge(folder.root(), &registry.url, &["--no-ws"]);
    eventually("it to run", PATIENCE, || registry.runs().contains_key("s-0").then_some(()));
    bridge.kill();
    let abort = std::process::Command::new(env!("CARGO_BIN_EXE_aiwg-rs"))
        .args(["mc", "abort", "s-0", "--watch-dir"])
        .arg(folder.root())
        .output()
        .unwrap();
    assert!(abort.status.success(), "{abort:?}");
    let _next = Daemon::bridge(folder.root(), &registry.url, &["--no-ws"]);
    command(&registry, "abort");
    assert_eq!(registry.runs()["s-0"], 1);
}

#[test]
fn a_status_that_nobody_knows_is_left_alone_and_not_sent() {
    let registry = Registry::start(Behaviour { ends_after: Duration::ZERO, ..LONG });
    registry.answer_next_with([Answer::Status(503, None)]);
    let folder = Watched::new();
    folder.queue("s", 1);
    let options = ["--no-ws", "--retry-base-ms", "700"];
    let _bridge = Daemon::bridge(folder.root(), &registry.url, &options);
    eventually("it to be refused", PATIENCE, || (registry.dispatches() == 1).then_some(()));
    folder.edit("s", "s-0", |mission| mission["status"] = "later".into());
    aiwg_rs::disk::wait::rest(Duration::from_secs(2));
    assert_eq!((folder.count("s", "later"), registry.dispatches()), (Some(1), 1));
    folder.edit("s", "s-0", |mission| mission["status"] = "queued".into());
    eventually("it to be done", PATIENCE, || (folder.count("s", "done")? == 1).then_some(()));
}

/// Others write the times of an end before there is one, as null.
#[test]
fn an_abort_while_no_bridge_runs_is_passed_on_by_the_next_one_whatever_nulls_the_file_has() {
    let registry = Registry::start(LONG);
    let folder = Watched::new();
    let mission = serde_json::json!({"id": "s-0", "objective": "x", "status": "queued", "completedAt": null,
        "failedAt": null, "abortedAt": null});
    folder.put("s", &serde_json::json!({"missions": [mission]}));
    let mut bridge = Daemon::bridge(folder.root(), &registry.url, &["--no-ws"]);
    eventually("it to run", PATIENCE, || folder.mission("s", "s-0").filter(|m| m["status"] == "running"));
    bridge.kill();
    folder.edit("s", "s-0", |mission| mission["status"] = "aborted".into());
    let _next = Daemon::bridge(folder.root(), &registry.url, &["--no-ws"]);
    command(&registry, "abort");
}

/// What was refused stands in the file still; it is not asked for again and again.
#[test]
fn a_refused_wish_is_passed_on_once() {
    for status in [404, 409] {
        let registry = Registry::start(LONG);
        registry.ask_and_refuse_commands_with(status);
        let folder = Watched::new();
        folder.queue("s", 1);
        let mut bridge = Daemon::bridge(folder.root(), &registry.url, &["--no-ws"]);
        let says = |wanted: &str| {
            eventually(&format!("it to be {wanted}"), PATIENCE, || {
                folder.mission("s", "s-0").filter(|mission| mission["status"] == wanted)
            })
        };
        says("hitl_required");
        folder.edit("s", "s-0", |mission| mission["hitlResponse"] = "yes".into());
        command(&registry, "hitl_response");
        folder.edit("s", "s-0", |mission| mission["status"] = "paused".into());
        command(&registry, "pause");
        // Put back, because it is not paused; the answer is left as its author wrote it.
        says("hitl_required");
        folder.edit("s", "s-0", |mission| mission["hitlResponse"] = "no".into());
        eventually("the other answer", PATIENCE, || {
            registry.commands().into_iter().find(|(.., body)| body["response"] == "no")
        });
        assert!(bridge.terminate().success());
        let sent: Vec<String> = registry.commands().into_iter().map(|(_, command, _)| command).collect();
        assert_eq!(sent, ["hitl_response", "pause", "hitl_response"], "{status}");
        let log = std::fs::read_to_string(folder.file("s").with_file_name("log.jsonl")).unwrap();
        assert_eq!(log.matches("bridge.steering").count(), 3, "{log}");
    }
}

#[test]
fn a_held_session_waits_until_it_is_active_again() {
    let registry = Registry::start(Behaviour { ends_after: Duration::ZERO, ..LONG });
    let folder = Watched::new();
    let session = |state: &str| serde_json::json!({"state": state, "missions": [{"id": "s-0", "objective": "x", "status": "queued"}]});
    folder.put("s", &session("paused"));
    folder.queue("t", 1);
    let _bridge = Daemon::bridge(folder.root(), &registry.url, &["--no-ws"]);
    eventually("the other session to be done", PATIENCE, || (folder.count("t", "done")? == 1).then_some(()));
    assert_eq!(folder.count("s", "queued"), Some(1));
    folder.put("s", &session("active"));
    eventually("it to be done", PATIENCE, || (folder.count("s", "done")? == 1).then_some(()));
}

#[test]
fn a_mission_queued_again_runs_again_under_a_new_key_and_keeps_its_history() {
    let registry = Registry::start(Behaviour { ends_after: Duration::ZERO, ..LONG });
    let folder = Watched::new();
    folder.queue("s", 1);
    let _bridge = Daemon::bridge(folder.root(), &registry.url, &["--no-ws"]);
    eventually("it to be done", PATIENCE, || (folder.count("s", "done")? == 1).then_some(()));
    folder.edit("s", "s-0", |mission| mission["status"] = "queued".into());
    let mission = eventually("it to be done again", PATIENCE, || {
        folder
            .mission("s", "s-0")
            .filter(|mission| mission["status"] == "done" && mission["attempts"].is_array())
    });
    assert_eq!(mission["attempts"].as_array().unwrap().len(), 1);
    assert_eq!(mission["attempts"][0]["status"], "done");
    assert_eq!(registry.keys(), ["s-0", "s-0#2"]);
    assert_eq!(registry.runs()["s-0"], 2);
}

#[test]
fn an_old_copy_written_over_an_ended_mission_runs_nothing_again() {
    let registry = Registry::start(Behaviour { ends_after: Duration::ZERO, ..LONG });
    let folder = Watched::new();
    folder.queue("s", 2);
    let old = std::fs::read_to_string(folder.file("s")).unwrap();
    let mut bridge = Daemon::bridge(folder.root(), &registry.url, &["--no-ws"]);
    eventually("both to be done", PATIENCE, || (folder.count("s", "done")? == 2).then_some(()));
    folder.put_text("s", &old);
    eventually("both to be done again", PATIENCE, || (folder.count("s", "done")? == 2).then_some(()));
    assert!(bridge.terminate().success());
    folder.put_text("s", &old);
    let _next = Daemon::bridge(folder.root(), &registry.url, &["--no-ws"]);
    eventually("both to be done after a restart", PATIENCE, || {
        (folder.count("s", "done")? == 2).then_some(())
    });
    assert_eq!(registry.dispatches(), 2);
}
