//! `/api/v1/missions`: what operators and humans say.

use super::peer::{Peer, Serve};
use serde_json::json;

#[tokio::test]
async fn orders_reach_the_executor_and_count_when_it_confirms_them() {
    let serve = Serve::start().await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    serve.dispatch("m-1").await;
    line.say(&peer.frame("mission.started", Some("m-1"), json!({}))).await;
    serve.mission_in("m-1", "running").await;
    let empty = json!({});
    let answer = serve.post("/api/v1/missions/m-1/pause", &empty).await;
    assert_eq!((answer.status, &answer.body), (202, &json!({"mission_id": "m-1", "status": "running"})));
    assert_eq!(line.hear_event("mission.paused").await["mission_id"], "m-1");
    assert_eq!(serve.get("/api/v1/missions/m-1").await.body["state"], "running", "not confirmed yet");
    line.say(&peer.frame("mission.paused", Some("m-1"), json!({"state": "paused"}))).await;
    serve.mission_in("m-1", "paused").await;
    let illegal = serve.post("/api/v1/missions/m-1/pause", &empty).await;
    assert_eq!((illegal.status, &illegal.body["error"]), (409, &json!("illegal_transition")));
    assert_eq!(serve.post("/api/v1/missions/m-1/resume", &empty).await.status, 202);
    assert_eq!(line.hear_event("mission.resumed").await["data"]["resumed_from"], "paused");
    line.say(&peer.frame("mission.resumed", Some("m-1"), json!({"state": "running"}))).await;
    serve.mission_in("m-1", "running").await;
    assert_eq!(serve.post("/api/v1/missions/m-1/abort", &empty).await.status, 202);
    assert_eq!(line.hear_event("mission.aborted").await["data"]["aborted_by"], "operator");
    line.say(&peer.frame("mission.aborted", Some("m-1"), json!({"state": "aborted"}))).await;
    serve.mission_in("m-1", "aborted").await;
    let terminal = serve.post("/api/v1/missions/m-1/abort", &empty).await;
    assert_eq!((terminal.status, &terminal.body["error"]), (409, &json!("mission_terminal")));
    let unknown = serve.post("/api/v1/missions/m-9/abort", &empty).await;
    assert_eq!((unknown.status, &unknown.body["error"]), (404, &json!("mission_not_found")));
    serve.stop().await;
}

#[tokio::test]
async fn an_order_without_a_body_is_an_order() {
    let serve = Serve::start().await;
    let (_peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    serve.dispatch("m-1").await;
    let url = format!("{}/api/v1/missions/m-1/abort", serve.base);
    let answer = serve.send(serve.http.post(&url).header("content-type", "application/json")).await;
    assert_eq!(answer.status, 202);
    line.hear_event("mission.aborted").await;
    serve.stop().await;
}

#[tokio::test]
async fn an_order_for_an_executor_that_is_away_waits_for_it() {
    let serve = Serve::start().await;
    let (peer, line) = Peer::connected(&serve, 1, &[]).await;
    serve.dispatch("m-1").await;
    drop(line);
    serve.executor_connected(&peer.id, false).await;
    assert_eq!(serve.post("/api/v1/missions/m-1/abort", &json!({})).await.status, 202);
    let mut line = peer.connect(&serve, &["m-1"]).await;
    line.hear_event("mission.aborted").await;
    serve.stop().await;
}

#[tokio::test]
async fn a_question_is_answered_once() {
    let serve = Serve::start().await;
    let (peer, mut line) = Peer::connected(&serve, 1, &["hitl"]).await;
    let mut observer = serve.socket(&peer.id, "").await;
    serve.dispatch("m-1").await;
    let question = json!({"hitl_id": "h-1", "prompt": "really?"});
    line.say(&peer.frame("mission.hitl_required", Some("m-1"), question)).await;
    let asking = serve.mission_in("m-1", "hitl-required").await;
    assert_eq!(asking["waiting"]["for"], "human");
    assert_eq!(asking["waiting"]["detail"], "a human is asked: really?");
    let respond = async |hitl: &str| {
        let body = json!({"hitl_id": hitl, "response": "yes"});
        serve.post("/api/v1/missions/m-1/hitl_response", &body).await
    };
    let other = respond("h-0").await;
    assert_eq!((other.status, &other.body["error"]), (409, &json!("hitl_not_pending")));
    let bad = serve.post("/api/v1/missions/m-1/hitl_response", &json!({"hitl_id": "h-1"})).await;
    assert_eq!((bad.status, &bad.body["field"]), (400, &json!("response")));
    assert_eq!(respond("h-1").await.status, 202);
    let told = line.hear_event("mission.hitl_responded").await;
    assert_eq!((&told["data"]["response"], &told["data"]["text"]), (&json!("yes"), &json!("yes")));
    assert_eq!(observer.hear_event("mission.hitl_responded").await, told);
    serve.mission_in("m-1", "running").await;
    assert_eq!(respond("h-1").await.status, 409);
    let unknown =
        serve.post("/api/v1/missions/m-9/hitl_response", &json!({"hitl_id": "h", "response": ""})).await;
    assert_eq!(unknown.status, 404);
    serve.stop().await;
}

#[tokio::test]
async fn an_unanswered_question_expires_and_fails_the_mission() {
    let serve = Serve::start().await;
    let (peer, mut line) = Peer::connected(&serve, 1, &["hitl"]).await;
    serve.dispatch("m-1").await;
    let at = jiff::Timestamp::now() + jiff::SignedDuration::from_millis(150);
    let question = json!({"hitl_id": "h-1", "prompt": "really?", "expires_at": at.to_string()});
    line.say(&peer.frame("mission.hitl_required", Some("m-1"), question)).await;
    let told = line.hear_event("mission.aborted").await;
    assert_eq!(told["data"]["aborted_by"], "system");
    let failed = serve.mission_in("m-1", "failed").await;
    assert!(failed["error"].as_str().unwrap().starts_with("hitl_timeout"), "{failed}");
    let body = json!({"hitl_id": "h-1", "response": "yes"});
    let late = serve.post("/api/v1/missions/m-1/hitl_response", &body).await;
    assert_eq!((late.status, &late.body["error"]), (410, &json!("hitl_expired")));
    serve.stop().await;
}

#[tokio::test]
async fn an_answer_needs_the_executors_line() {
    let serve = Serve::start().await;
    let (peer, mut line) = Peer::connected(&serve, 1, &["hitl"]).await;
    serve.dispatch("m-1").await;
    let question = json!({"hitl_id": "h-1", "prompt": "really?"});
    line.say(&peer.frame("mission.hitl_required", Some("m-1"), question)).await;
    serve.mission_in("m-1", "hitl-required").await;
    drop(line);
    serve.executor_connected(&peer.id, false).await;
    let body = json!({"hitl_id": "h-1", "response": "yes"});
    let answer = serve.post("/api/v1/missions/m-1/hitl_response", &body).await;
    assert_eq!((answer.status, &answer.body["error"]), (503, &json!("executor_not_connected")));
    let _line = peer.connect(&serve, &["m-1"]).await;
    assert_eq!(serve.post("/api/v1/missions/m-1/hitl_response", &body).await.status, 202);
    serve.stop().await;
}
