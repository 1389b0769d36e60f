//! The executor's own REST surface.

use super::{Host, host, text};
use serde_json::{Value, json};

pub(super) async fn own_url(host: &Host) -> String {
    let list = host.get("/api/v1/executors").await;
    text(&list, "/executors/0/transport_endpoints/rest").to_owned()
}

async fn ask(url: &str) -> (u16, String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.get(url).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_log_can_be_read_while_it_runs_and_after() {
    let host = host(&[]).await;
    let url = own_url(&host).await;
    let objective = "printf '\\033[31mred\\033[0m\\n'; while ! test -f go; do sleep 0.05; done; echo last";
    host.dispatch("m 1", objective, json!({})).await;
    host.reaches("m%201", "running").await;
    let following = ask_later(format!("{url}/api/v1/missions/m%201/log?follow=1"));
    let (status, body) = ask(&format!("{url}/api/v1/missions/m%201")).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, text(&body, "/state")), (200, "running"));
    host.repository.write("go", "");
    host.end_of("m%201").await;
    let followed = following.await.unwrap();
    assert_eq!(followed, "\u{1b}[31mred\u{1b}[0m\r\nlast\r\n");
    let (_, plain) = ask(&format!("{url}/api/v1/missions/m%201/log?plain=1")).await;
    assert_eq!(plain, "red\nlast\n");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_aiwg-rs"))
        .args(["--log", "error", "mc", "logs", "m 1", "--follow", "--serve-url", &host.registry.url])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "red\nlast\n", "{output:?}");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_aiwg-rs"))
        .args(["--log", "error", "mc", "logs", "m 1", "--json"])
        .env("AIWG_RS_SERVE_URL", &host.registry.url)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "{\"line\":\"red\"}\n{\"line\":\"last\"}\n");
    assert_eq!(ask(&format!("{url}/api/v1/missions/nobody/log")).await.0, 404);
}

fn ask_later(url: String) -> tokio::task::JoinHandle<String> {
    #[expect(clippy::disallowed_methods, reason = "joined by the test")]
    tokio::spawn(async move { ask(&url).await.1 })
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_gives_orders() {
    let host = host(&[]).await;
    let url = own_url(&host).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let body = json!({"mission_id": "m-1", "objective": "touch pwned", "completion": "x"});
    let dispatch = || client.post(format!("{url}/api/v1/sessions/s/dispatch")).json(&body);
    let status = async |request: reqwest::RequestBuilder| request.send().await.unwrap().status().as_u16();
    assert_eq!(status(dispatch()).await, 401);
    assert_eq!(status(dispatch().bearer_auth("wrong")).await, 401);
    assert_eq!(status(dispatch().header("origin", "https://evil.example")).await, 403);
    assert_eq!(status(dispatch().header("host", "evil.example")).await, 421);
    let page =
        client.post(format!("{url}/dispatch")).header("content-type", "text/plain").body(body.to_string());
    assert_eq!(status(page).await, 415);
    assert_eq!(status(client.get(format!("{url}/api/health"))).await, 200);
    assert!(!host.repository.root().join("pwned").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_executor_says_when_to_come_back_and_the_same_mission_never_runs_twice() {
    let host = host(&["--max-concurrency", "1", "--max-waiting", "1"]).await;
    let url = own_url(&host).await;
    let dispatch = async |mission: &str, objective: &str, key: Option<&str>| {
        host.dispatch_to_itself(mission, objective, key).await
    };
    let objective = "echo x >> ran; while ! test -f go; do sleep 0.05; done";
    assert_eq!(dispatch("m-1", objective, None).await.0, 202);
    let again = dispatch("m-1", objective, None).await;
    assert_eq!((again.0, again.2.get("idempotent_replayed")), (202, Some(&json!(true))));
    assert_eq!(dispatch("m-1", "something else", None).await.0, 422);
    assert_eq!(dispatch("m-2", "true", None).await.0, 202);
    let full = dispatch("m-3", "true", None).await;
    assert_eq!((full.0, full.1), (503, true), "{}", full.2);
    host.repository.write("go", "");
    host.until("both ended", async || {
        let (_, status) = ask(&format!("{url}/api/v1/missions/m-2")).await;
        status.contains("\"state\":\"done\"").then_some(())
    })
    .await;
    assert_eq!(dispatch("m-1", objective, None).await.0, 202, "an ended mission is not run again");
    assert_eq!(std::fs::read_to_string(host.repository.root().join("ran")).unwrap(), "x\n");
    assert_eq!(dispatch("m-1", objective, Some("m-1#2")).await.0, 202);
    host.until("it ran again, for that was asked", async || {
        (std::fs::read_to_string(host.repository.root().join("ran")).unwrap() == "x\nx\n").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_may_dial_in_and_its_line_is_the_one_that_counts() {
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio_tungstenite::tungstenite::Message;
    let host = host(&[]).await;
    let url = own_url(&host).await;
    let list = host.get("/api/v1/executors").await;
    let id = text(&list, "/executors/0/executor_id").to_owned();
    let store: Value = serde_json::from_slice(
        &std::fs::read(host.registry.directory.path().join("identities.json")).unwrap(),
    )
    .unwrap();
    let base = url.replace("http://", "ws://");
    let wrong = tokio_tungstenite::connect_async(format!("{base}/ws/executors/{id}?token=wrong")).await;
    assert!(wrong.is_err(), "a wrong token opens no line");
    host.dispatch("m-1", "while ! test -f go; do sleep 0.05; done; echo over", json!({})).await;
    host.reaches("m-1", "running").await;
    let address = format!("{base}/ws/executors/{id}?token={}", text(&store, "/0/token"));
    let (mut line, _) = tokio_tungstenite::connect_async(address).await.unwrap();
    let mut next = async || {
        let message =
            tokio::time::timeout(crate::support::DEADLINE, line.next()).await.unwrap().unwrap().unwrap();
        serde_json::from_str::<Value>(message.to_text().unwrap()).unwrap()
    };
    let first = next().await;
    assert_eq!(text(&first, "/event"), "executor.resync");
    assert_eq!(first.pointer("/data/owned_mission_ids"), Some(&json!(["m-1"])));
    let order = json!({
        "event": "mission.paused", "executor_id": id, "mission_id": "m-1",
        "ts": "2026-01-01T00:00:00.000Z", "data": {"state": "paused"},
    });
    line.send(Message::text(order.to_string())).await.unwrap();
    let message =
        tokio::time::timeout(crate::support::DEADLINE, line.next()).await.unwrap().unwrap().unwrap();
    let confirmed: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
    assert_eq!(text(&confirmed, "/event"), "mission.paused", "{confirmed}");
}
