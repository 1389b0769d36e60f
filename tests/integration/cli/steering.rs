//! Command: the verbs that change missions and sessions.

use super::Desk;
use serde_json::json;

fn with(status: &str) -> Desk {
    let desk = Desk::new();
    desk.write_missions(
        "s",
        &json!([{"id": "m-1", "objective": "x", "status": status, "executorId": "e", "odd": 1, "dispatchedAt": "then"}]),
    );
    desk
}

#[test]
fn only_an_open_question_is_answered_and_only_once() {
    let desk = with("hitl_required");
    assert_eq!(
        desk.mc(&["respond", "m-1", "yes, go on"]).answer(),
        "m-1 is answered; the bridge hands the answer over"
    );
    let mission = desk.mission("s", "m-1");
    assert_eq!(
        (&mission["hitlResponse"], &mission["status"]),
        (&json!("yes, go on"), &json!("hitl_required"))
    );
    desk.mc(&["respond", "m-1", "yes, go on"]).answer();
    desk.mc(&["respond", "m-1", "no"]).refused(4, &["answered already: \"yes, go on\"", "--replace"]);
    desk.mc(&["respond", "m-1", "no", "--replace"]).answer();
    assert_eq!(desk.mission("s", "m-1")["hitlResponse"], "no");
    with("running").mc(&["respond", "m-1", "x"]).refused(4, &["m-1 is running", "asks a question"]);
}

#[test]
fn an_ended_mission_is_queued_again_with_the_bridges_fields_in_place() {
    for ended in ["failed", "aborted", "done"] {
        let desk = with(ended);
        let line = desk.mc(&["retry", "m-1", "--json"]).json().remove(0);
        assert_eq!(line, json!({"session": "s", "mission": "m-1", "was": ended, "status": "queued"}));
        let mission = desk.mission("s", "m-1");
        assert_eq!((&mission["status"], &mission["executorId"]), (&json!("queued"), &json!("e")));
    }
    with("queued").mc(&["retry", "m-1"]).refused(4, &["m-1 is queued", "in the queue already"]);
    with("running").mc(&["retry", "m-1"]).refused(4, &["m-1 is running", "mc abort"]);
}

#[test]
fn an_abort_ends_what_waits_and_asks_for_the_end_of_what_runs() {
    let desk = Desk::new();
    desk.write_missions("s", &json!([{"id": "m-1", "objective": "x", "status": "queued"}]));
    assert_eq!(desk.mc(&["abort", "m-1"]).answer(), "m-1 is aborted; no executor had it");
    let mission = desk.mission("s", "m-1");
    assert_eq!((&mission["status"], &mission["abortedBy"]), (&json!("aborted"), &json!("operator")));
    assert!(mission["abortedAt"].is_string());
    let desk = with("running");
    assert!(desk.mc(&["abort", "m-1"]).answer().contains("a bridge tells its executor"));
    let mission = desk.mission("s", "m-1");
    assert_eq!((&mission["status"], mission.get("abortedAt")), (&json!("aborted"), None));
    desk.mc(&["abort", "m-1"]).refused(4, &["m-1 is aborted", "has not confirmed"]);
}

#[test]
fn a_mission_is_paused_and_goes_on_where_it_was() {
    for (before, after) in [("running", "running"), ("assigned", "running")] {
        let desk = with(before);
        desk.mc(&["pause", "m-1"]).answer();
        assert_eq!(desk.mission("s", "m-1")["status"], "paused");
        desk.mc(&["pause", "m-1"]).refused(4, &["nothing to do"]);
        desk.mc(&["resume", "m-1"]).answer();
        assert_eq!(desk.mission("s", "m-1")["status"], after);
    }
    let desk = Desk::new();
    let id = desk.mc(&["dispatch", "x"]).answer();
    desk.mc(&["pause", &id]).answer();
    assert_eq!(desk.mc(&["resume", &id]).answer(), format!("{id} is in the queue again"));
    assert_eq!(desk.mission("default", &id)["status"], "queued");
    desk.mc(&["resume", &id]).refused(4, &["only a paused mission"]);
    with("done").mc(&["pause", "m-1"]).refused(4, &["ended already"]);
    desk.mc(&["pause"]).refused(2, &["MISSION"]);
}

#[test]
fn a_session_is_held_let_go_and_closed() {
    let desk = Desk::new();
    desk.write_missions(
        "s",
        &json!([{"id": "a", "status": "queued"}, {"id": "b", "status": "running"}, {"id": "c", "status": "done"}]),
    );
    let line = desk.mc(&["pause", "--session", "s", "--json"]).json().remove(0);
    assert_eq!(line, json!({"session": "s", "was": "active", "state": "paused", "queued": 1, "running": 1}));
    assert_eq!(desk.session("s")["state"], "paused");
    assert_eq!(desk.mc(&["resume", "--session", "s"]).answer(), "session s is active; 1 queued may go");
    assert_eq!(
        desk.mc(&["stop", "s"]).answer(),
        "session s is stopped; 1 queued are held; 1 that runs goes on"
    );
    assert_eq!(desk.session("s")["state"], "stopped");
    assert!(desk.session("s")["updatedAt"].is_string());
    desk.mc(&["stop", "t"]).refused(2, &["no session \"t\""]);
}

#[test]
fn names_that_are_ambiguous_or_unknown_say_what_was_meant() {
    let desk = Desk::new();
    for session in ["one", "two"] {
        desk.write_missions(session, &json!([{"id": "m-12345678", "objective": "x", "status": "queued"}]));
    }
    desk.mc(&["abort", "m-12345678"])
        .refused(2, &["2 sessions have a mission", "one/m-12345678, two/m-12345678"]);
    desk.mc(&["abort", "two/m-12345678"]).answer();
    assert_eq!(desk.mission("one", "m-12345678")["status"], "queued");
    assert_eq!(desk.mission("two", "m-12345678")["status"], "aborted");
    desk.mc(&["abort", "m-12345687"]).refused(2, &["did you mean m-12345678?"]);
    desk.mc(&["abort", "one/m-1"]).refused(2, &["no mission \"one/m-1\""]);
    let nowhere = Desk::new();
    let missing = nowhere.root().join("nothing");
    let ran = nowhere.mc(&["abort", "m-1", "--watch-dir", missing.to_str().unwrap()]);
    ran.refused(2, &["the folder does not exist"]);
}

#[test]
fn foreign_fields_and_spellings_survive_every_verb() {
    let desk = Desk::new();
    let text = "{\n\t\"odd\": 1.10,\n\t\"missions\": [\n\t\t{\"id\": \"m-1\", \"x\": 1E2, \"status\": \"failed\"}\n\t]\n}\n";
    desk.write("s", text);
    desk.mc(&["retry", "m-1"]).answer();
    desk.mc(&["abort", "m-1"]).answer();
    let now = std::fs::read_to_string(desk.session_file("s")).unwrap();
    assert!(
        now.contains("\"odd\": 1.10") && now.contains("\"x\": 1E2") && now.contains("\n\t\"updatedAt\""),
        "{now}"
    );
}
