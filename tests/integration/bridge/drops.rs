//! Missions dropped as files, and the dry run.

use super::Watched;
use super::registry::{Behaviour, Registry};
use crate::support::daemon::Daemon;
use crate::support::eventually::eventually;
use std::fs;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
const AT_ONCE: Behaviour = Behaviour { is_idempotent: true, ends_after: Duration::ZERO };

#[test]
fn a_dropped_file_runs_and_a_broken_one_is_rejected_with_the_place_of_the_fault() {
    let registry = Registry::start(AT_ONCE);
    let folder = Watched::new();
    let mut bridge = Daemon::bridge(folder.root(), &registry.url, &["--no-ws"]);
    let inbox = folder.root().join("inbox");
    eventually("the bridge to make the drop folder", PATIENCE, || inbox.is_dir().then_some(()));
    // It may go, and come again.
    fs::remove_dir(&inbox).unwrap();
    fs::create_dir(&inbox).unwrap();
    fs::write(inbox.join("one.json"), r#"{"objective":"x","priority":"high","mine":1.50}"#).unwrap();
    fs::write(
        inbox.join("two.json"),
        r#"[{"objective":"x","session":"other"},{"objective":"y","session":"other"}]"#,
    )
    .unwrap();
    fs::write(inbox.join(".hidden.json"), r#"{"objective":"no"}"#).unwrap();
    fs::write(inbox.join("later.json.part"), r#"{"objective":"no"}"#).unwrap();
    fs::write(inbox.join("bad.json"), "{\n  \"objective\": 7\n}").unwrap();
    fs::write(inbox.join("cut.json"), "{\n  \"objective\": \"x").unwrap();
    eventually("one to be done", PATIENCE, || {
        folder
            .mission("inbox", "one")
            .filter(|mission| mission["status"] == "done" && mission["priority"] == "high")
    });
    eventually("two to be done", PATIENCE, || (folder.count("other", "done")? == 2).then_some(()));
    assert!(fs::read_to_string(folder.file("inbox")).unwrap().contains("1.50"));
    eventually("both bad ones to be rejected", PATIENCE, || {
        let reason = |name: &str| fs::read_to_string(inbox.join(format!("rejected/{name}.error.txt"))).ok();
        let (bad, cut) = (reason("bad.json")?, reason("cut.json")?);
        assert!(bad.contains("objective"), "{bad}");
        assert!(cut.contains("line 2"), "{cut}");
        Some(())
    });
    fs::write(inbox.join("one.json"), r#"{"objective":"another one with the same id"}"#).unwrap();
    eventually("the same id to be a duplicate", PATIENCE, || {
        fs::read_dir(inbox.join("duplicate")).ok()?.next().map(drop)
    });
    assert!(inbox.join(".hidden.json").exists() && inbox.join("later.json.part").exists());
    assert_eq!(registry.dispatches(), 3);
    assert!(bridge.terminate().success());
}

#[test]
fn a_dry_run_shows_everything_and_touches_nothing() {
    let folder = Watched::new();
    folder.put(
        "s",
        &serde_json::json!({"id": "wire id", "missions": [
            {"id": "low", "objective": "x", "status": "queued", "priority": "low"},
            {"id": "first", "objective": "x", "status": "queued", "priority": "critical"},
            {"id": "ended", "objective": "x", "status": "done"},
        ]}),
    );
    let before = fs::read_to_string(folder.file("s")).unwrap();
    let inbox = folder.root().join("inbox");
    fs::create_dir(&inbox).unwrap();
    fs::write(
        inbox.join("dropped.json"),
        r#"[{"objective":"y"},{"id":"low","session":"s","objective":"x"}]"#,
    )
    .unwrap();
    fs::write(inbox.join("cut.json"), "{\"objective").unwrap();
    let torn = folder.file("torn");
    fs::create_dir(torn.parent().unwrap()).unwrap();
    fs::write(torn, "{\n  \"missions\": [").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_aiwg-rs"))
        .args(["mc", "bridge", "--dry-run", "--once", "--serve-url", "http://127.0.0.1:9", "--watch-dir"])
        .arg(folder.root())
        .output()
        .unwrap();
    assert!(output.status.success());
    let lines: Vec<serde_json::Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let ids: Vec<&str> = lines.iter().map(|line| line["missionId"].as_str().unwrap()).collect();
    assert_eq!(ids, ["first", "low", "dropped-1"]);
    assert_eq!(lines[2]["payload"]["metadata"]["mc_session_id"], "inbox");
    assert_eq!(lines[2]["dropped"], inbox.join("dropped.json").to_str().unwrap());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("cut.json") && said.contains("line 2, column 16"), "{said}");
    assert_eq!(lines[0]["endpoint"], "http://127.0.0.1:9/api/v1/sessions/wire%20id/dispatch");
    assert_eq!(lines[0]["payload"]["metadata"]["mc_session_id"], "wire id");
    assert_eq!(fs::read_to_string(folder.file("s")).unwrap(), before);
    let names: Vec<_> =
        fs::read_dir(folder.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "sessions and inbox: {names:?}");
    assert_eq!(fs::read_dir(inbox).unwrap().count(), 2);
}

#[test]
fn once_ends_when_everything_was_answered_for_or_nobody_is_there() {
    let registry = Registry::start(AT_ONCE);
    let folder = Watched::new();
    folder.queue("s", 20);
    let mut bridge = Daemon::bridge(folder.root(), &registry.url, &["--once", "--no-ws"]);
    assert!(bridge.wait().success());
    assert_eq!(folder.count("s", "queued"), Some(0));
    folder.queue("t", 1);
    let mut bridge = Daemon::bridge(folder.root(), "http://127.0.0.1:9", &["--once", "--no-ws"]);
    assert_eq!(bridge.wait().code(), Some(5));
    assert_eq!(folder.count("t", "queued"), Some(1));
    let nowhere = folder.root().join("nowhere");
    let mut bridge = Daemon::bridge(&nowhere, &registry.url, &["--once"]);
    assert_eq!(bridge.wait().code(), Some(4));
    assert!(bridge.said().contains("does not exist"), "{}", bridge.said());
}
