//! `/api/v1/executors`.

use super::peer::{Peer, Serve, id};
use serde_json::{Value, json};

#[tokio::test]
async fn a_registered_executor_is_listed_found_and_taken_out() {
    let serve = Serve::start().await;
    let mut peer = Peer::register(&serve, 1, &["isolation:host", "hitl"]).await;
    assert_eq!(peer.token.len(), 43);
    let list = serve.get("/api/v1/executors").await;
    assert_eq!(list.body["executors"].as_array().unwrap().len(), 1);
    let found = serve.get(&format!("/api/v1/executors/{}", peer.id)).await.body;
    assert_eq!(found["connected"], false);
    assert_eq!(found["active_mission_count"], 0);
    assert_eq!(found["capabilities"], json!(["isolation:host", "hitl"]));
    let before = peer.token.clone();
    peer.register_again(&serve, &["hitl"]).await;
    assert_eq!(peer.token, before, "registering again gives the same token");

    let url = format!("{}/api/v1/executors/{}", serve.base, peer.id);
    assert_eq!(serve.send(serve.http.delete(&url)).await.status, 401);
    let wrong = serve.send(serve.http.delete(&url).bearer_auth("wrong")).await;
    assert_eq!((wrong.status, &wrong.body["error"]), (401, &json!("token_invalid")));
    assert_eq!(serve.send(serve.http.delete(&url).bearer_auth(&peer.token)).await.status, 204);
    let gone = serve.get(&format!("/api/v1/executors/{}", peer.id)).await;
    assert_eq!((gone.status, &gone.body["error"]), (404, &json!("executor_not_found")));
    serve.stop().await;
}

#[tokio::test]
async fn a_bad_registration_is_refused_with_its_field() {
    let serve = Serve::start().await;
    let peer = Peer::register(&serve, 1, &[]).await;
    for (field, value) in [
        ("executor_id", json!("me")),
        ("name", json!("")),
        ("transport_endpoints", json!({"rest": "x", "ws": "y"})),
        ("capabilities", json!(["magic"])),
        ("spec_version", json!("2.0.0")),
        ("spec_version", Value::Null),
    ] {
        let mut body = peer.registration(&[]);
        body[field] = value;
        let answer = serve.post("/api/v1/executors/register", &body).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.body["field"].as_str().unwrap().starts_with(field), "{answer:?}");
        assert!(
            answer.body["detail"].as_str().unwrap().contains("version")
                || answer.body["error"] == "invalid_request"
        );
        assert_eq!(answer.headers["content-type"], "application/problem+json");
    }
    serve.stop().await;
}

#[tokio::test]
async fn a_token_that_is_sent_must_be_valid_for_reading_too() {
    let serve = Serve::start().await;
    let peer = Peer::register(&serve, 1, &[]).await;
    for path in ["/api/v1/executors".to_owned(), format!("/api/v1/executors/{}", peer.id)] {
        let url = format!("{}{path}", serve.base);
        assert_eq!(serve.send(serve.http.get(&url).bearer_auth(&peer.token)).await.status, 200);
        let wrong = serve.send(serve.http.get(&url).bearer_auth("nobody")).await;
        assert_eq!((wrong.status, &wrong.body["error"]), (401, &json!("token_invalid")));
    }
    serve.stop().await;
}

#[tokio::test]
async fn bodies_must_be_json_small_and_complete() {
    let serve = Serve::start().await;
    let url = format!("{}/api/v1/executors/register", serve.base);
    let plain = serve.send(serve.http.post(&url).header("content-type", "text/plain").body("{}")).await;
    assert_eq!(plain.status, 415);
    let broken = serve.send(serve.http.post(&url).header("content-type", "application/json").body("{")).await;
    assert_eq!((broken.status, &broken.body["field"]), (400, &json!("body")));
    let large = serve.post("/api/v1/executors/register", &json!({"x": "y".repeat(1 << 20)})).await;
    assert_eq!(large.status, 413);
    assert_eq!(serve.get("/api/nothing").await.status, 404);
    assert_eq!(serve.get("/api/v1/executors/register/").await.status, 404);
    assert_eq!(serve.get(&format!("/api/v1/executors/{}", id(9))).await.status, 404);
    assert_eq!(serve.get("/api/v1/sessions/s/dispatch").await.status, 405);
    assert_eq!(serve.get("/api/health").await.body["status"], "ok");
    serve.stop().await;
}
