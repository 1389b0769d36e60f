//! What was answered survives: an orderly restart, `kill -9`, a store from another time.

use super::peer::{Peer, Serve, order, soon};
use aiwg_rs::registry::Config;
use aiwg_rs::registry::store::{Store, StoreError};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

fn kept_in(folder: &Path) -> Config {
    Config {
        state_dir: Some(folder.to_owned()),
        identity_file: Some(folder.join("ids.json")),
        dial_after: Duration::from_secs(60),
        ..Config::default()
    }
}

#[tokio::test]
async fn a_restarted_registry_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let serve = Serve::with(kept_in(folder.path())).await;
    let (peer, mut line) = Peer::connected(&serve, 1, &["hitl"]).await;
    for mission in ["m-done", "m-live", "m-asks"] {
        assert_eq!(serve.dispatch(mission).await.status, 202);
    }
    line.say(&peer.frame("mission.completed", Some("m-done"), json!({"exit_code": 0}))).await;
    line.say(&peer.frame("mission.started", Some("m-live"), json!({}))).await;
    let question = json!({"hitl_id": "h-1", "prompt": "really?", "context": {"a": 1}});
    line.say(&peer.frame("mission.hitl_required", Some("m-asks"), question)).await;
    serve.mission_in("m-asks", "hitl-required").await;
    let before = serve.get("/api/v1/missions/m-done").await.body;
    serve.stop().await;

    let serve = Serve::with(kept_in(folder.path())).await;
    assert_eq!(serve.get("/api/v1/missions/m-done").await.body, before, "from the store, events included");
    let executor = serve.get(&format!("/api/v1/executors/{}", peer.id)).await.body;
    assert_eq!((&executor["connected"], &executor["active_mission_count"]), (&json!(false), &json!(2)));
    // With the old token, and no new registration.
    let mut line = peer.connect(&serve, &["m-live", "m-asks"]).await;
    assert_eq!(serve.get("/api/v1/missions/m-asks").await.body["state"], "hitl-required");
    let answer = json!({"hitl_id": "h-1", "response": "yes"});
    assert_eq!(serve.post("/api/v1/missions/m-asks/hitl_response", &answer).await.status, 202);
    line.hear_event("mission.hitl_responded").await;
    let mut observer = serve.socket(&peer.id, "?role=observer").await;
    assert_eq!(
        observer.hear().await.unwrap()["event"],
        "mission.hitl_required",
        "the replay goes back further than the restart"
    );
    for mission in ["m-done", "m-live"] {
        let again = serve.dispatch(mission).await;
        assert_eq!((again.status, &again.body["idempotent_replayed"]), (202, &json!(true)), "{again:?}");
        let mut other = order(mission);
        other["objective"] = json!("else");
        assert_eq!(serve.post("/api/v1/sessions/s1/dispatch", &other).await.status, 422);
    }
    assert_eq!(
        serve.post("/api/v1/missions/m-done/abort", &json!({})).await.body["error"],
        "mission_terminal"
    );
    assert_eq!(peer.dispatches().len(), 3);
    serve.stop().await;
}

#[tokio::test]
async fn keys_of_earlier_attempts_survive_too() {
    let folder = tempfile::tempdir().unwrap();
    let serve = Serve::with(kept_in(folder.path())).await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    serve.dispatch("m-1").await;
    line.say(&peer.frame("mission.failed", Some("m-1"), json!({"reason": "r"}))).await;
    serve.mission_in("m-1", "failed").await;
    let with_key = async |serve: &Serve, key: &str| {
        let url = format!("{}/api/v1/sessions/s1/dispatch", serve.base);
        serve.send(serve.http.post(url).header("idempotency-key", key).json(&order("m-1"))).await
    };
    assert_eq!(with_key(&serve, "m-1#2").await.body["idempotent_replayed"], false);
    line.say(&peer.frame("mission.completed", Some("m-1"), json!({}))).await;
    serve.mission_in("m-1", "done").await;
    serve.stop().await;
    let serve = Serve::with(kept_in(folder.path())).await;
    for key in ["m-1#2", "m-1"] {
        let again = with_key(&serve, key).await;
        assert_eq!(again.body["idempotent_replayed"], true, "{key}: {again:?}");
    }
    assert_eq!(peer.dispatches().len(), 2);
    serve.stop().await;
}

#[tokio::test]
async fn events_of_an_earlier_run_are_not_those_of_the_present_one() {
    let folder = tempfile::tempdir().unwrap();
    let serve = Serve::with(kept_in(folder.path())).await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    serve.dispatch("m-1").await;
    line.say(&peer.frame("mission.progress", Some("m-1"), json!({"run": 1}))).await;
    line.say(&peer.frame("mission.failed", Some("m-1"), json!({"reason": "r", "run": 1}))).await;
    serve.mission_in("m-1", "failed").await;
    let url = format!("{}/api/v1/sessions/s1/dispatch", serve.base);
    let again = serve.http.post(url).header("idempotency-key", "m-1#2").json(&order("m-1"));
    assert_eq!(serve.send(again).await.status, 202);
    line.say(&peer.frame("mission.started", Some("m-1"), json!({"run": 2}))).await;
    serve.mission_in("m-1", "running").await;
    let runs = async |serve: &Serve| -> Vec<Value> {
        let status = serve.get("/api/v1/missions/m-1").await.body;
        status["recent_events"].as_array().unwrap().iter().map(|event| event["data"]["run"].clone()).collect()
    };
    assert_eq!(runs(&serve).await, [json!(2)]);
    serve.stop().await;
    let serve = Serve::with(kept_in(folder.path())).await;
    assert_eq!(runs(&serve).await, [json!(2)], "after a restart");
    let mut observer = serve.socket(&peer.id, "").await;
    assert_eq!(observer.hear().await.unwrap()["data"]["run"], 2, "and for observers");
    let mut line = peer.connect(&serve, &["m-1"]).await;
    line.say(&peer.frame("mission.completed", Some("m-1"), json!({"run": 2}))).await;
    serve.mission_in("m-1", "done").await;
    serve.stop().await;
    let serve = Serve::with(kept_in(folder.path())).await;
    assert_eq!(runs(&serve).await, [json!(2), json!(2)], "and when it is looked up in the store");
    serve.stop().await;
}

#[tokio::test]
async fn numbers_of_events_go_on_even_when_all_events_are_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let serve = Serve::with(kept_in(folder.path())).await;
    let (mut peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    serve.dispatch("m-1").await;
    line.say(&peer.frame("mission.completed", Some("m-1"), json!({}))).await;
    serve.mission_in("m-1", "done").await;
    serve.stop().await;
    let mut store = Store::open(&folder.path().join("registry")).unwrap();
    let last = store.load().unwrap().last_seq;
    assert_eq!(store.sweep(i64::MAX, 100).unwrap(), ["m-1"]);
    drop(store);
    let serve = Serve::with(kept_in(folder.path())).await;
    peer.register_again(&serve, &[]).await;
    serve.stop().await;
    let mut store = Store::open(&folder.path().join("registry")).unwrap();
    assert_eq!(store.load().unwrap().last_seq, last + 1);
    store.sweep(i64::MAX, 100).unwrap();
    let events = || -> u64 {
        let file = rusqlite::Connection::open(folder.path().join("registry/registry.sqlite3")).unwrap();
        file.query_row("SELECT count(*) FROM events", [], |row| row.get(0)).unwrap()
    };
    assert_eq!(events(), 1, "only the newest is kept for its number");
}

#[tokio::test]
async fn two_registries_never_share_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let serve = Serve::with(kept_in(folder.path())).await;
    assert_eq!(serve.get("/api/health").await.status, 200);
    let error = Store::open(&folder.path().join("registry")).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    serve.stop().await;
    soon(async { while Store::open(&folder.path().join("registry")).is_err() {} }).await;
}

#[test]
fn a_newer_or_a_foreign_store_is_refused_and_left_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("registry.sqlite3");
    drop(Store::open(folder.path()).unwrap());
    let connection = rusqlite::Connection::open(&file).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    connection.pragma_update(None, "journal_mode", "DELETE").unwrap();
    drop(connection);
    let before = std::fs::read(&file).unwrap();
    let error = Store::open(folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error}");
    assert_eq!(std::fs::read(&file).unwrap(), before);
    for foreign in [&b"not a database at all"[..], &before[..60]] {
        std::fs::write(&file, foreign).unwrap();
        let error = Store::open(folder.path()).unwrap_err();
        assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
        assert_eq!(std::fs::read(&file).unwrap(), foreign);
    }
}
