//! Command: `mc start` and `mc dispatch`.

use super::{Desk, finish};
use serde_json::json;
use std::io::Write as _;
use std::process::Stdio;

#[test]
fn a_session_is_begun_under_a_name_of_its_own() {
    let desk = Desk::new();
    let id = desk.mc(&["start", "Release 2.4", "--max-missions", "7"]).answer();
    let digits = id.strip_prefix("mc-").unwrap();
    assert!(digits.len() == 13 && digits.as_bytes()[8] == b'-', "{id}");
    let session = desk.session(&id);
    assert_eq!((&session["name"], &session["maxMissions"]), (&json!("Release 2.4"), &json!(7)));
    assert_eq!(desk.mc(&["start", "--id", "nightly"]).answer(), "nightly");
    desk.mc(&["start", "--id", "nightly"]).refused(4, &["nightly exists already", "hint: "]);
    desk.mc(&["start", "--id", "../out"]).refused(2, &["session id"]);
    let line = desk.mc(&["start", "--id", "third", "--json"]).json().remove(0);
    assert_eq!(line["session"], "third");
}

#[test]
fn a_mission_is_written_as_mission_control_writes_it() {
    let desk = Desk::new();
    let id = desk.mc(&["dispatch", "say hello"]).answer();
    assert!(id.starts_with("m-") && id.len() == 10, "{id}");
    let mission = desk.mission("default", &id);
    let keys: Vec<&String> = mission.as_object().unwrap().keys().collect();
    let expected =
        ["id", "objective", "completion", "status", "loop", "maxIterations", "priority", "mode", "createdAt"];
    assert_eq!(keys, expected);
    assert_eq!((&mission["completion"], &mission["loop"]), (&json!(null), &json!(0)));
    assert_eq!((&mission["status"], &mission["mode"]), (&json!("queued"), &json!("direct")));
}

#[test]
fn every_option_reaches_the_file() {
    let desk = Desk::new();
    let executor = "0b7e0c1e-8a53-4c7e-9d52-6f0e5f3f9a11";
    let words = [
        "dispatch",
        "build it",
        "--id",
        "m-full",
        "--completion",
        "tests pass",
        "--priority",
        "critical",
        "--mode",
        "pty-orchestrator",
        "--target-agent",
        "claude",
        "--target-executor",
        executor,
        "--capability",
        "rust",
        "--capability",
        "docker",
        "--long-running",
        "--metadata",
        "depth=1.10",
        "--metadata",
        "branch=main",
        "--metadata",
        "deep={\"a\":[1]}",
        "--max-iterations",
        "3",
        "--json",
    ];
    let line = desk.mc(&words).json().remove(0);
    assert_eq!(line, json!({"session": "default", "mission": "m-full", "status": "queued"}));
    let mission = desk.mission("default", "m-full");
    assert_eq!(mission["completion"], "tests pass");
    assert_eq!((&mission["priority"], &mission["mode"]), (&json!("critical"), &json!("pty-orchestrator")));
    assert_eq!((&mission["targetAgent"], &mission["targetExecutorId"]), (&json!("claude"), &json!(executor)));
    assert_eq!(mission["requiredCapabilities"], json!(["rust", "docker"]));
    assert_eq!((&mission["longRunning"], &mission["maxIterations"]), (&json!(true), &json!(3)));
    assert_eq!(mission["metadata"], json!({"depth": 1.1, "branch": "main", "deep": {"a": [1]}}));
    let text = std::fs::read_to_string(desk.session_file("default")).unwrap();
    assert!(text.contains("\"depth\": 1.10"), "the spelling of numbers is kept: {text}");
}

#[test]
fn the_objective_comes_as_text_from_a_file_or_from_standard_input() {
    let desk = Desk::new();
    let path = desk.root().join("objective.md");
    std::fs::write(&path, "# Do it\nwell\n").unwrap();
    let id = desk.mc(&["dispatch", "--file", path.to_str().unwrap()]).answer();
    assert_eq!(desk.mission("default", &id)["objective"], "# Do it\nwell");
    let mut child = desk.command(&["dispatch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all("from a pipe\n".as_bytes()).unwrap();
    let id = finish(child).answer();
    assert_eq!(desk.mission("default", &id)["objective"], "from a pipe");
    desk.mc(&["dispatch", " "]).refused(2, &["objective is empty"]);
    desk.mc(&["dispatch"]).refused(2, &["OBJECTIVE"]);
    desk.mc(&["dispatch", "x", "--metadata", "nothing"]).refused(2, &["KEY=VALUE"]);
    desk.mc(&["dispatch", "--file", "/nonexistent/file"]).refused(1, &["/nonexistent/file", "caused by: "]);
}

#[test]
fn the_newest_active_session_is_taken_when_none_is_named() {
    let desk = Desk::new();
    let old = r#"{"id":"old","createdAt":"2026-01-01T00:00:00.000Z","missions":[]}"#;
    let new = r#"{"id":"new","createdAt":"2026-02-01T00:00:00.000Z","missions":[]}"#;
    let held = r#"{"id":"held","state":"paused","createdAt":"2026-03-01T00:00:00.000Z","missions":[]}"#;
    let drops = r#"{"id":"inbox","createdAt":"2026-04-01T00:00:00.000Z","missions":[]}"#;
    for (id, text) in [("old", old), ("new", new), ("held", held), ("inbox", drops)] {
        desk.write(id, text);
    }
    let line = desk.mc(&["dispatch", "x", "--json"]).json().remove(0);
    assert_eq!(line["session"], "new");
    let ran = desk.mc(&["dispatch", "x", "--session", "held"]);
    assert!(ran.err.contains("mc resume --session held"), "{}", ran.err);
    desk.mc(&["dispatch", "x", "--session", "hedl"])
        .refused(2, &["no session \"hedl\"", "did you mean held?"]);
}

#[test]
fn a_taken_id_and_a_full_session_are_refused_by_name() {
    let desk = Desk::new();
    desk.mc(&["start", "--id", "small", "--max-missions", "1"]).answer();
    desk.mc(&["dispatch", "x", "--id", "m-1"]).answer();
    desk.mc(&["dispatch", "y", "--id", "m-1"])
        .refused(4, &["mission m-1 is in session small already", "mc retry"]);
    desk.mc(&["dispatch", "y"])
        .refused(4, &["session small is full: 1 missions are unfinished, 1 are allowed"]);
    desk.mc(&["abort", "m-1"]).answer();
    desk.mc(&["dispatch", "y"]).answer();
    desk.mc(&["retry", "m-1"]).refused(4, &["is full"]);
}

#[test]
fn what_cannot_be_read_is_not_written_to() {
    let desk = Desk::new();
    let torn = "{\n  \"id\": \"torn\",\n  \"missions\": [ {\"id\": \"m-1\"";
    desk.write("torn", torn);
    desk.mc(&["dispatch", "x", "--session", "torn"]).refused(4, &["session torn", "line 3", "hint: "]);
    desk.mc(&["abort", "m-1"]).refused(4, &["session torn cannot be read"]);
    assert_eq!(std::fs::read_to_string(desk.session_file("torn")).unwrap(), torn);
}
