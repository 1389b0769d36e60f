//! `/api/v1/sessions/{id}/dispatch`.

use super::peer::{Behaviour, Peer, Serve, id, order, soon};
use aiwg_rs::registry::Config;
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn a_mission_is_forwarded_once_and_a_repeated_dispatch_gets_the_first_answer() {
    let serve = Serve::start().await;
    let (peer, _line) = Peer::connected(&serve, 1, &[]).await;
    let first = serve.dispatch("m-1").await;
    assert_eq!(first.status, 202, "{first:?}");
    let expected = json!({
        "mission_id": "m-1", "executor_id": peer.id, "status": "assigned", "estimated_start": "soon",
        "dispatch_path": "v1", "idempotent_replayed": false
    });
    assert_eq!(first.body, expected);
    let again = serve.dispatch("m-1").await;
    assert_eq!((again.status, &again.body["idempotent_replayed"]), (202, &json!(true)));
    let dispatches = peer.dispatches();
    assert_eq!(dispatches.len(), 1);
    assert_eq!(dispatches[0].0, "new:s1");
    assert_eq!(dispatches[0].1, format!("Bearer {}", peer.token));
    assert_eq!(dispatches[0].2, order("m-1"));

    let mut other = order("m-1");
    other["objective"] = json!("something else");
    let reused = serve.post("/api/v1/sessions/s1/dispatch", &other).await;
    assert_eq!((reused.status, &reused.body["error"]), (422, &json!("idempotency_key_reused")));

    let url = format!("{}/api/v1/sessions/s1/dispatch", serve.base);
    let conflict =
        serve.send(serve.http.post(&url).header("idempotency-key", "m-1#2").json(&order("m-1"))).await;
    assert_eq!((conflict.status, &conflict.body["error"]), (409, &json!("idempotency_conflict")));
    assert!(!conflict.headers.contains_key("retry-after"), "it will not pass by waiting a second");
    serve.stop().await;
}

#[tokio::test]
async fn an_ended_mission_is_dispatched_anew_under_a_new_key() {
    let serve = Serve::start().await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    serve.dispatch("m-1").await;
    line.say(&peer.frame("mission.failed", Some("m-1"), json!({"state": "failed", "reason": "r"}))).await;
    serve.mission_in("m-1", "failed").await;
    let url = format!("{}/api/v1/sessions/s1/dispatch", serve.base);
    let anew = serve.send(serve.http.post(&url).header("idempotency-key", "m-1#2").json(&order("m-1"))).await;
    assert_eq!(anew.status, 202);
    assert_eq!(peer.dispatches().len(), 2);
    assert_eq!(serve.get("/api/v1/missions/m-1").await.body["state"], "assigned");
    serve.stop().await;
}

#[tokio::test]
async fn the_same_key_while_the_first_is_under_way_is_a_conflict_that_passes() {
    let config = Config { forward_timeout: Duration::from_millis(300), ..Config::default() };
    let serve = Serve::with(config).await;
    let (peer, _line) = Peer::connected(&serve, 1, &[]).await;
    peer.behave(Behaviour::Hang);
    let (first, second) = tokio::join!(serve.dispatch("m-1"), async {
        soon(async {
            while peer.dispatches().is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        serve.dispatch("m-1").await
    });
    assert_eq!((second.status, &second.body["error"]), (409, &json!("idempotency_conflict")));
    assert_eq!(second.headers["retry-after"], "1");
    assert_eq!((first.status, &first.body["error"]), (502, &json!("executor_unreachable")));
    let status = serve.get("/api/v1/missions/m-1").await;
    assert_eq!(status.body["state"], "failed");
    // It never reached anyone, so the same key may be used again.
    peer.behave(Behaviour::Accept);
    assert_eq!(serve.dispatch("m-1").await.status, 202);
    serve.stop().await;
}

#[tokio::test]
async fn a_forward_that_timed_out_is_asked_about_before_it_is_called_failed() {
    let config = Config { forward_timeout: Duration::from_millis(200), ..Config::default() };
    let serve = Serve::with(config).await;
    let (peer, _line) = Peer::connected(&serve, 1, &[]).await;
    peer.behave(Behaviour::Hang);
    peer.surface.lock().unwrap().knows = Some(json!({"mission_id": "m-1", "state": "running"}));
    let answer = serve.dispatch("m-1").await;
    assert_eq!((answer.status, &answer.body["status"]), (202, &json!("assigned")));
    serve.stop().await;
}

#[tokio::test]
async fn an_executor_that_refuses_fails_the_mission_with_its_words() {
    let serve = Serve::start().await;
    let (peer, _line) = Peer::connected(&serve, 1, &[]).await;
    for status in [401, 403, 409, 422, 500] {
        peer.behave(Behaviour::Refuse(status));
        let answer = serve.dispatch("m-1").await;
        assert_eq!((answer.status, &answer.body["error"]), (502, &json!("executor_forward_failed")));
        assert!(answer.body["detail"].as_str().unwrap().contains("not today"), "{answer:?}");
    }
    assert_eq!(serve.get(&format!("/api/v1/executors/{}", peer.id)).await.body["active_mission_count"], 0);
    serve.stop().await;
}

#[tokio::test]
async fn an_executor_without_room_is_passed_over_until_one_of_its_missions_ends() {
    let serve = Serve::start().await;
    let (first, mut line) = Peer::connected(&serve, 1, &[]).await;
    assert_eq!(serve.dispatch("m-1").await.status, 202);
    first.behave(Behaviour::Refuse(503));
    let answer = serve.dispatch("m-2").await;
    assert_eq!((answer.status, &answer.body["error"]), (503, &json!("no_executor_available")));
    assert_eq!((&answer.body["busy"], &answer.body["executors"]["full"]), (&json!(true), &json!(1)));
    assert!(answer.body["detail"].as_str().unwrap().contains("has no room: not today"), "{answer:?}");
    assert_eq!(serve.get("/api/v1/missions/m-2").await.body["never_began"], true);
    // It is not asked again: the third would be taken.
    first.behave(Behaviour::Accept);
    assert_eq!(serve.dispatch("m-2").await.body["busy"], true);
    line.say(&first.frame("mission.completed", Some("m-1"), json!({}))).await;
    serve.mission_in("m-1", "done").await;
    assert_eq!(serve.dispatch("m-2").await.status, 202);
    // Another one with room is asked instead.
    first.behave(Behaviour::Refuse(429));
    let (second, _other_line) = Peer::connected(&serve, 2, &[]).await;
    assert_eq!(serve.dispatch("m-3").await.body["executor_id"], second.id.as_str());
    let answer = serve.dispatch("m-4").await;
    assert_eq!((answer.status, &answer.body["executors"]["capable"]), (503, &json!(1)), "{answer:?}");
    assert_eq!(serve.dispatch("m-4").await.body["executor_id"], second.id.as_str());
    serve.stop().await;
}

#[tokio::test]
async fn an_executor_that_knows_only_the_old_route_is_reached_and_remembered() {
    let serve = Serve::start().await;
    let (peer, _line) = Peer::connected(&serve, 1, &[]).await;
    peer.behave(Behaviour::OldRouteOnly);
    for mission in ["m-1", "m-2"] {
        assert_eq!(serve.dispatch(mission).await.status, 202);
    }
    let paths: Vec<String> = peer.dispatches().into_iter().map(|(path, ..)| path).collect();
    assert_eq!(paths, ["old", "old"]);
    serve.stop().await;
}

#[tokio::test]
async fn the_node_bridges_payload_is_accepted_and_made_strict() {
    let serve = Serve::start().await;
    let (peer, _line) = Peer::connected(&serve, 1, &[]).await;
    let legacy = json!({
        "mission_id": "m-1", "objective": "o", "completion": null, "long_running": false,
        "executor_filter": {"executor_id": null, "capabilities": [], "agent_id": null}, "metadata": {}
    });
    assert_eq!(serve.post("/api/v1/sessions/a%20b/dispatch", &legacy).await.status, 202);
    let (path, _, body) = peer.dispatches().remove(0);
    assert_eq!(path, "new:a b");
    assert!(!body["completion"].as_str().unwrap().is_empty());
    assert_eq!(body["executor_filter"], json!({"executor_id": null, "capabilities": []}));
    serve.stop().await;
}

#[tokio::test]
async fn without_a_fitting_executor_the_answer_says_who_lacks_what() {
    let serve = Serve::start().await;
    let (_peer, _line) = Peer::connected(&serve, 1, &["isolation:host"]).await;
    let _silent = Peer::register(&serve, 2, &["x-gpu"]).await;
    let mut wanted = order("m-1");
    wanted["executor_filter"]["capabilities"] = json!(["x-gpu"]);
    let answer = serve.post("/api/v1/sessions/s1/dispatch", &wanted).await;
    assert_eq!((answer.status, &answer.body["error"]), (503, &json!("no_executor_available")));
    assert!(answer.headers.contains_key("retry-after"));
    let executors = &answer.body["executors"];
    assert_eq!(
        (&executors["registered"], &executors["connected"], &executors["capable"]),
        (&json!(2), &json!(1), &json!(0))
    );
    assert_eq!(executors["passed_over"][0]["why"], "lacks x-gpu");
    assert_eq!(executors["passed_over"][1]["why"], "not connected");
    assert_eq!(serve.get("/api/v1/missions/m-1").await.status, 404, "nothing was begun");
    let mut long = order("m-1");
    long["long_running"] = json!(true);
    let answer = serve.post("/api/v1/sessions/s1/dispatch", &long).await;
    assert_eq!(answer.body["error"], "no_resumable_executor_available");
    let mut pinned = order("m-1");
    pinned["executor_filter"]["executor_id"] = json!(id(2));
    assert_eq!(serve.post("/api/v1/sessions/s1/dispatch", &pinned).await.status, 503);
    let explained = serve.post("/api/v1/sessions/s1/explain", &order("m-1")).await;
    assert_eq!(explained.body["reason"], "local fallback");
    serve.stop().await;
}

#[tokio::test]
async fn the_old_path_redirects_and_keeps_the_method() {
    let serve = Serve::start().await;
    let answer = serve.post("/api/sessions/a%2Fb/dispatch", &order("m-1")).await;
    assert_eq!(answer.status, 308);
    assert_eq!(answer.headers["location"], "/api/v1/sessions/a%2Fb/dispatch");
    serve.stop().await;
}

#[tokio::test]
async fn load_spreads_over_equals() {
    let serve = Serve::start().await;
    let (one, _a) = Peer::connected(&serve, 1, &[]).await;
    let (two, _b) = Peer::connected(&serve, 2, &[]).await;
    for number in 0..6 {
        assert_eq!(serve.dispatch(&format!("m-{number}")).await.status, 202);
    }
    assert_eq!((one.dispatches().len(), two.dispatches().len()), (3, 3));
    serve.stop().await;
}
