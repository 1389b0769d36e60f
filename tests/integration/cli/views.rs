//! Command: `mc list`, `mc status` and `mc watch`.

use super::Desk;
use crate::support::DEADLINE;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader};
use std::sync::mpsc;

fn bridge_status(desk: &Desk, updated_at: &str, changes: &Value) {
    let mut status = json!({
        "format": 1, "pid": 7, "startedAt": updated_at, "updatedAt": updated_at, "ended": false,
        "serveUrl": "http://registry:1", "unreachableSince": null, "unreachableCause": null, "watchNative": true,
        "watchWhy": null, "sessions": 1, "inFlight": 0, "queued": 0, "accepted": 0, "writtenBytes": 0,
        "delayed": [], "unreadable": [], "problems": [], "unwritable": []
    });
    for (key, value) in changes.as_object().unwrap() {
        status[key] = value.clone();
    }
    std::fs::write(desk.root().join("bridge-status.json"), status.to_string()).unwrap();
}

/// A time that stays fresh while the test runs.
const AHEAD: &str = "2100-01-01T00:00:00.000Z";

fn waits(desk: &Desk, mission: &str) -> Value {
    let lines = desk.mc(&["status", mission, "--json"]).json();
    assert!(lines[0]["bridge"].is_object());
    assert_eq!(lines[1]["mission"], mission);
    lines[1]["waits"].clone()
}

#[test]
fn a_list_counts_what_stands_where_and_names_what_it_cannot_read() {
    let desk = Desk::new();
    assert_eq!(desk.mc(&["list"]).answer(), "");
    desk.write_missions(
        "a",
        &json!([{"id": "1", "objective": "x", "status": "queued"}, {"id": "2", "status": "hitl_required"},
                {"id": "3", "status": "done"}, {"status": "queued"}]),
    );
    desk.write("b", "{\n  \"missions\": [,]\n}");
    let lines = desk.mc(&["list"]).json();
    assert_eq!(lines.len(), 2);
    let counts = |key: &str| lines[0][key].as_u64().unwrap();
    assert_eq!([counts("queued"), counts("live"), counts("asking"), counts("done")], [2, 1, 1, 1]);
    assert_eq!(counts("unusable"), 1);
    assert!(lines[1]["unreadable"].as_str().unwrap().contains("line 2, column 16"), "{}", lines[1]);
}

#[test]
fn every_waiting_mission_says_why() {
    let desk = Desk::new();
    desk.write_missions(
        "s",
        &json!([
            {"id": "m-1", "objective": "x", "status": "queued"},
            {"id": "m-2", "objective": " ", "status": "queued"},
            {"id": "m-3", "objective": "x", "status": "hitl_required", "hitlPrompt": "Which?", "hitlAt": AHEAD},
        ]),
    );
    let why = waits(&desk, "m-1");
    assert_eq!(why["cause"], "no_bridge");
    assert!(why["remedy"].as_str().unwrap().starts_with("aiwg-rs mc bridge --watch-dir "), "{why}");
    assert_eq!(waits(&desk, "m-2")["cause"], "invalid_mission");
    let why = waits(&desk, "m-3");
    assert_eq!(why["cause"], "question_open");
    assert!(why["remedy"].as_str().unwrap().starts_with("aiwg-rs mc respond m-3 TEXT"), "{why}");
    bridge_status(&desk, "2026-01-01T00:00:00.000Z", &json!({}));
    assert!(waits(&desk, "m-1")["text"].as_str().unwrap().contains("has not been heard of"));
    bridge_status(&desk, AHEAD, &json!({}));
    assert_eq!(waits(&desk, "m-1")["cause"], "turn");
    let delayed = json!([{"session": "s", "mission": "m-1", "until": null, "why": "no executor can gpu", "attempts": 2}]);
    bridge_status(&desk, AHEAD, &json!({ "delayed": delayed }));
    assert_eq!(waits(&desk, "m-1")["text"], "no executor can gpu, sent 2 times so far");
    let away =
        json!({"unreachableSince": "2026-01-01T00:00:00.000Z", "unreachableCause": "connection refused"});
    bridge_status(&desk, AHEAD, &away);
    let why = waits(&desk, "m-1");
    assert_eq!(
        (&why["cause"], &why["since"]),
        (&json!("registry_unreachable"), &json!("2026-01-01T00:00:00.000Z"))
    );
    desk.mc(&["pause", "--session", "s"]).answer();
    assert_eq!(waits(&desk, "m-1")["cause"], "session_held");
    std::fs::write(desk.root().join("bridge-status.json"), "{").unwrap();
    desk.mc(&["resume", "--session", "s"]).answer();
    assert!(waits(&desk, "m-1")["text"].as_str().unwrap().contains("cannot be read"));
}

#[test]
fn a_status_tells_the_whole_folder_or_one_part_of_it() {
    let desk = Desk::new();
    let failed = json!([{"id": "m-1", "objective": "x", "status": "failed", "failureReason": "unreachable",
                         "failureMessage": "nobody there", "exitCode": 3}]);
    desk.write_missions("a", &failed);
    desk.write_missions("b", &json!([{"id": "m-2", "objective": "y", "status": "queued"}]));
    let all = desk.mc(&["status"]).json();
    assert_eq!(all.len(), 5, "the bridge, two sessions, two missions: {all:?}");
    assert_eq!((&all[0]["bridge"]["running"], &all[1]["session"]), (&json!(false), &json!("a")));
    assert_eq!((&all[2]["outcome"], &all[2]["exitCode"]), (&json!("unreachable: nobody there"), &json!(3)));
    assert_eq!(desk.mc(&["status", "b"]).json().len(), 3);
    desk.mc(&["status", "m-3"]).refused(2, &["no session or mission \"m-3\"", "did you mean m-"]);
}

#[test]
fn a_watch_prints_what_moves_and_ends_when_nothing_is_left() {
    let desk = Desk::new();
    let id = desk.mc(&["dispatch", "x"]).answer();
    let mut child = desk.start(&["watch", "--until-idle"]);
    let (sender, lines) = mpsc::channel();
    let out = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(out).lines() {
            sender.send(serde_json::from_str::<Value>(&line.unwrap()).unwrap()).unwrap();
        }
    });
    let first = lines.recv_timeout(DEADLINE).unwrap();
    assert_eq!(
        (&first["mission"], &first["status"], &first["from"]),
        (&json!(id), &json!("queued"), &json!(null))
    );
    desk.mc(&["abort", &id]).answer();
    let second = lines.recv_timeout(DEADLINE).unwrap();
    assert_eq!((&second["status"], &second["from"]), (&json!("aborted"), &json!("queued")));
    assert!(child.wait().unwrap().success());
    reader.join().unwrap();
}

#[test]
fn an_interrupt_ends_a_watch_in_order() {
    let desk = Desk::new();
    desk.mc(&["dispatch", "x"]).answer();
    let mut child = desk.start(&["watch"]);
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
