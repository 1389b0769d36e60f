//! What executors report: the transition table, resync, grace.

use super::peer::{Behaviour, Peer, Serve};
use aiwg_rs::registry::Config;
use serde_json::json;
use std::time::Duration;

fn quick() -> Config {
    Config {
        executor_grace: Duration::from_millis(100),
        dial_after: Duration::from_millis(50),
        forward_timeout: Duration::from_millis(500),
        ..Config::default()
    }
}

#[tokio::test]
async fn a_mission_lives_through_its_events() {
    let serve = Serve::start().await;
    let (peer, mut line) = Peer::connected(&serve, 1, &["hitl"]).await;
    serve.dispatch("m-1").await;
    let say = |event: &str, data| peer.frame(event, Some("m-1"), data);
    line.say(&say("mission.started", json!({"state": "running", "pty_session_id": "p-9"}))).await;
    let running = serve.mission_in("m-1", "running").await;
    assert_eq!(running["pty_session_ref"], "p-9");
    line.say(&say("mission.suspended", json!({"state": "suspended", "checkpoint_id": "c"}))).await;
    serve.mission_in("m-1", "suspended").await;
    line.say(&say("mission.reconnected", json!({"checkpoint_id": "c"}))).await;
    serve.mission_in("m-1", "running").await;
    line.say(&say("mission.completed", json!({"state": "done", "exit_code": 0, "summary": "ok"}))).await;
    line.say(&say("mission.started", json!({"state": "running"}))).await;
    line.say(&say("mission.odd", json!({"kept": 1}))).await;
    let done = serve.mission_in("m-1", "done").await;
    assert_eq!(done["exit_code"], 0);
    assert!(done["completed_at"].is_string());
    // The late ones were recorded and moved nothing.
    let last = super::peer::soon(async {
        loop {
            let status = serve.get("/api/v1/missions/m-1").await.body;
            let events = status["recent_events"].as_array().unwrap().clone();
            if events.last().unwrap()["event"] == "mission.odd" {
                return (status["state"].clone(), events.len());
            }
        }
    })
    .await;
    assert_eq!(last, (json!("done"), 6));
    let executor = serve.get(&format!("/api/v1/executors/{}", peer.id)).await.body;
    assert_eq!(executor["active_mission_count"], 0);
    serve.stop().await;
}

#[tokio::test]
async fn an_event_older_than_the_state_does_not_move_it() {
    let serve = Serve::start().await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    serve.dispatch("m-1").await;
    let mut paused = peer.frame("mission.paused", Some("m-1"), json!({"state": "paused"}));
    paused["ts"] = json!("2030-01-01T00:00:02.000Z");
    let mut resumed = peer.frame("mission.resumed", Some("m-1"), json!({"state": "running"}));
    resumed["ts"] = json!("2030-01-01T00:00:01.000Z");
    line.say(&paused).await;
    line.say(&resumed).await;
    line.say(&peer.frame("mission.progress", Some("m-1"), json!({}))).await;
    super::peer::soon(async {
        while serve.get("/api/v1/missions/m-1").await.body["recent_events"].as_array().unwrap().len() < 3 {}
    })
    .await;
    assert_eq!(serve.get("/api/v1/missions/m-1").await.body["state"], "paused");
    serve.stop().await;
}

#[tokio::test]
async fn bad_frames_are_dropped_and_the_line_stays() {
    let serve = Serve::start().await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    let (other, _other_line) = Peer::connected(&serve, 2, &[]).await;
    serve.dispatch("m-1").await;
    line.say_text("not json".to_owned()).await;
    line.say_text("{}".to_owned()).await;
    line.say_text(format!("\"{}\"", "x".repeat(2 << 20))).await;
    line.say(&other.frame("mission.completed", Some("m-1"), json!({}))).await;
    line.say(&peer.frame("mission.completed", Some("m-unknown"), json!({}))).await;
    line.say(&peer.frame("mission.started", Some("m-1"), json!({}))).await;
    serve.mission_in("m-1", "running").await;
    let mut theft = other.connect(&serve, &[]).await;
    theft.say(&other.frame("mission.completed", Some("m-1"), json!({}))).await;
    theft.say(&other.frame("executor.deregistered", None, json!({"reason": "x"}))).await;
    line.say(&peer.frame("mission.paused", Some("m-1"), json!({}))).await;
    serve.mission_in("m-1", "paused").await;
    serve.stop().await;
}

#[tokio::test]
async fn after_the_grace_missions_of_a_resumable_executor_are_suspended_and_go_on_when_it_is_back() {
    let serve = Serve::with(quick()).await;
    let (peer, line) = Peer::connected(&serve, 1, &["resumable"]).await;
    serve.dispatch("m-1").await;
    let mut observer = serve.socket(&peer.id, "?role=observer").await;
    drop(line);
    let suspended = observer.hear_event("mission.suspended").await;
    assert_eq!(suspended["mission_id"], "m-1");
    let status = serve.mission_in("m-1", "suspended").await;
    assert_eq!(status["waiting"]["for"], "executor_connection");
    let mut line = peer.connect(&serve, &["m-1"]).await;
    let resumed = line.hear_event("mission.resumed").await;
    assert_eq!(resumed["data"]["resumed_from"], "suspended");
    serve.mission_in("m-1", "running").await;
    assert_eq!(observer.hear_event("mission.resumed").await["mission_id"], "m-1");
    serve.stop().await;
}

#[tokio::test]
async fn after_the_grace_missions_of_another_executor_fail() {
    let serve = Serve::with(quick()).await;
    let (_peer, line) = Peer::connected(&serve, 1, &[]).await;
    serve.dispatch("m-1").await;
    drop(line);
    let failed = serve.mission_in("m-1", "failed").await;
    assert!(failed["error"].as_str().unwrap().starts_with("executor_disconnected"), "{failed}");
    serve.stop().await;
}

#[tokio::test]
async fn a_drop_shorter_than_the_grace_changes_nothing() {
    let serve = Serve::start().await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    serve.dispatch("m-1").await;
    line.say(&peer.frame("mission.paused", Some("m-1"), json!({}))).await;
    serve.mission_in("m-1", "paused").await;
    drop(line);
    serve.executor_connected(&peer.id, false).await;
    let _line = peer.connect(&serve, &["m-1"]).await;
    assert_eq!(serve.get("/api/v1/missions/m-1").await.body["state"], "paused");
    serve.stop().await;
}

#[tokio::test]
async fn a_mission_that_a_resumable_executor_lost_is_sent_once_more_and_then_lost() {
    let serve = Serve::start().await;
    let (peer, line) = Peer::connected(&serve, 1, &["resumable"]).await;
    serve.dispatch("m-1").await;
    drop(line);
    serve.executor_connected(&peer.id, false).await;
    let line = peer.connect(&serve, &[]).await;
    super::peer::soon(async {
        while peer.dispatches().len() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    serve.mission_in("m-1", "assigned").await;
    drop(line);
    serve.executor_connected(&peer.id, false).await;
    let _line = peer.connect(&serve, &[]).await;
    let failed = serve.mission_in("m-1", "failed").await;
    assert!(failed["error"].as_str().unwrap().starts_with("executor_lost"), "{failed}");
    assert_eq!(peer.dispatches().len(), 2);
    serve.stop().await;
}

#[tokio::test]
async fn what_ended_while_the_line_was_down_is_asked_about_not_called_lost() {
    let serve = Serve::start().await;
    let (peer, line) = Peer::connected(&serve, 1, &[]).await;
    serve.dispatch("m-1").await;
    drop(line);
    serve.executor_connected(&peer.id, false).await;
    peer.surface.lock().unwrap().knows = Some(json!({"mission_id": "m-1", "state": "done", "exit_code": 0}));
    let _line = peer.connect(&serve, &[]).await;
    serve.mission_in("m-1", "done").await;
    assert_eq!(peer.dispatches().len(), 1);
    serve.stop().await;
}

#[tokio::test]
async fn a_resync_adopts_what_is_unknown_and_stops_what_has_ended() {
    let serve = Serve::start().await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    serve.dispatch("m-1").await;
    line.say(&peer.frame("mission.completed", Some("m-1"), json!({}))).await;
    serve.mission_in("m-1", "done").await;
    drop(line);
    serve.executor_connected(&peer.id, false).await;
    let mut line = peer.connect(&serve, &["m-1", "m-new"]).await;
    let aborted = line.hear_event("mission.aborted").await;
    assert_eq!((&aborted["mission_id"], &aborted["data"]["aborted_by"]), (&json!("m-1"), &json!("system")));
    serve.mission_in("m-new", "running").await;
    serve.stop().await;
}

#[tokio::test]
async fn an_event_that_overtakes_the_answer_of_the_forward_counts() {
    let config = Config { forward_timeout: Duration::from_millis(400), ..Config::default() };
    let serve = Serve::with(config).await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    peer.behave(Behaviour::Hang);
    let (answer, ()) = tokio::join!(serve.dispatch("m-1"), async {
        super::peer::soon(async {
            while peer.dispatches().is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        line.say(&peer.frame("mission.started", Some("m-1"), json!({}))).await;
        line.say(&peer.frame("mission.completed", Some("m-1"), json!({}))).await;
    });
    assert_eq!(answer.status, 202, "it has spoken, so it has the mission: {answer:?}");
    assert_eq!(serve.get("/api/v1/missions/m-1").await.body["state"], "done");
    serve.stop().await;
}

#[tokio::test]
async fn a_draining_executor_gets_no_new_missions() {
    let serve = Serve::start().await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    line.say(&peer.frame("executor.draining", None, json!({}))).await;
    super::peer::soon(async {
        while serve.get(&format!("/api/v1/executors/{}", peer.id)).await.body["draining"] != true {}
    })
    .await;
    let answer = serve.dispatch("m-1").await;
    assert_eq!(answer.status, 503);
    assert!(answer.body["executors"]["passed_over"][0]["why"].as_str().unwrap().contains("draining"));
    serve.stop().await;
}
