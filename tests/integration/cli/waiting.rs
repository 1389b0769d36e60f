//! Command: `mc wait` and `mc dispatch --wait`.

use super::{Desk, finish};
use crate::support::DEADLINE;
use serde_json::json;
use std::io::{BufRead as _, BufReader};
use std::time::{Duration, Instant};

fn ended(desk: &Desk, status: &str) {
    let mission = json!([{"id": "m-1", "objective": "x", "status": status, "exitCode": 7, "summary": "well done",
                          "failureReason": "exit", "failureMessage": "status 7", "startedAt": "then"}]);
    desk.write_missions("s", &mission);
}

#[test]
fn a_wait_ends_with_the_missions_outcome() {
    let desk = Desk::new();
    ended(&desk, "done");
    assert_eq!(desk.mc(&["wait", "m-1"]).answer(), "m-1 done: well done");
    assert_eq!(desk.mc(&["wait", "s/m-1", "--for", "running"]).answer(), "m-1 done: well done");
    ended(&desk, "failed");
    let ran = desk.mc(&["wait", "m-1"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, "m-1 failed: exit: status 7\n"));
    let ran = desk.mc(&["wait", "m-1", "--for", "ended", "--json"]);
    let line = ran.json().remove(0);
    assert_eq!((&line["status"], &line["exitCode"]), (&json!("failed"), &json!(7)));
    ended(&desk, "aborted");
    assert_eq!(desk.mc(&["wait", "m-1"]).code, 1);
}

#[test]
fn a_wait_that_takes_too_long_says_what_it_waited_for() {
    let desk = Desk::new();
    let id = desk.mc(&["dispatch", "x"]).answer();
    desk.mc(&["wait", &id, "--timeout", "150ms"])
        .refused(124, &["is still queued after 150ms", "no bridge is running"]);
    desk.mc(&["wait", &id, "--timeout", "5"]).refused(2, &["a number and a unit"]);
    desk.mc(&["wait", &id, "--for", "finished"]).refused(2, &["ended"]);
    desk.mc(&["wait", "m-none"]).refused(2, &["no mission"]);
    desk.mc(&["dispatch", "x", "--wait", "--timeout", "100ms"]).refused(124, &["still queued"]);
}

#[test]
fn a_dispatch_that_waits_prints_the_id_first_and_the_outcome_last() {
    let desk = Desk::new();
    let mut child = desk.start(&["dispatch", "x", "--id", "m-1", "--wait"]);
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "m-1\n");
    let started = Instant::now();
    desk.write("default", "{\"missions\": [{\"id\": \"m-1\",");
    desk.write_missions("default", &json!([{"id": "m-1", "status": "running"}]));
    desk.write_missions("default", &json!([{"id": "m-1", "status": "done", "summary": "fine"}]));
    line.clear();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "m-1 done: fine\n");
    assert!(started.elapsed() < DEADLINE);
    assert_eq!(finish(child).code, 0);
}

#[test]
fn a_mission_that_is_removed_ends_the_wait() {
    let desk = Desk::new();
    let id = desk.mc(&["dispatch", "x"]).answer();
    let waiting = desk.start(&["wait", &id, "--timeout", "20s"]);
    // The wait is known to have begun once it has looked the mission up; both orders end it the same way.
    let asked = desk.mc(&["wait", &id, "--timeout", "300ms"]);
    assert_eq!(asked.code, 124);
    desk.write_missions("default", &json!([]));
    let ran = finish(waiting);
    assert!(ran.code == 4 || ran.code == 2, "{}: {}", ran.code, ran.err);
    assert!(Duration::from_secs(20) > Duration::ZERO && ran.err.contains(&id), "{}", ran.err);
}
