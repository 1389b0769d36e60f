//! Programs of others that speak the contract, byte for byte as the contract records what they send. They run on Node, and their requests
//! carry what its `fetch` adds; their packages are not published, so here they are replayed.

use super::peer::{Behaviour, Peer, Serve, soon};
use axum::extract::State;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::http::Uri;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What Node's `fetch` puts into every request of its own accord.
const OF_NODE: &str = "connection: keep-alive\r\naccept: */*\r\naccept-language: *\r\nsec-fetch-mode: cors\r\n\
    user-agent: node\r\naccept-encoding: gzip, deflate\r\n";

/// Sends one request as Node does, and returns status and body.
async fn fetch(serve: &Serve, method: &str, path: &str, more: &str, body: &str) -> (u16, String, Value) {
    let address = serve.base.strip_prefix("http://").unwrap();
    let content = if body.is_empty() {
        String::new()
    } else {
        format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len())
    };
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\n{OF_NODE}{more}{content}\r\n{body}");
    let mut stream = soon(TcpStream::connect(address)).await.unwrap();
    soon(stream.write_all(request.as_bytes())).await.unwrap();
    let mut received = Vec::new();
    soon(async {
        loop {
            let text = String::from_utf8_lossy(&received).into_owned();
            if let Some((head, rest)) = text.split_once("\r\n\r\n") {
                let length = head
                    .to_lowercase()
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: ").map(str::to_owned));
                if rest.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                    return (status, head.to_lowercase(), serde_json::from_str(rest).unwrap_or(Value::Null));
                }
            }
            assert_ne!(stream.read_buf(&mut received).await.unwrap(), 0, "{text}");
        }
    })
    .await
}

/// What the Node bridge sends for a mission: nulls where it has nothing.
const NODE_BRIDGE: &str = r#"{"mission_id":"m-1700000000-ab12","objective":"make the build green","completion":null,"long_running":false,"executor_filter":{"executor_id":null,"capabilities":[],"agent_id":null},"metadata":{"mc_session_id":"s1","mode":"direct","priority":"normal"}}"#;

#[tokio::test]
async fn the_node_bridge_gets_its_missions_accepted_and_its_events() {
    let serve = Serve::start().await;
    let (peer, mut line) = Peer::connected(&serve, 1, &["isolation:host"]).await;
    let path = "/api/v1/sessions/s1/dispatch";
    let (status, _, answer) =
        fetch(&serve, "POST", path, "idempotency-key: m-1700000000-ab12\r\n", NODE_BRIDGE).await;
    assert_eq!(
        (status, &answer["executor_id"], &answer["status"]),
        (202, &json!(peer.id), &json!("assigned"))
    );
    // Its executor is a strict one: it refuses nulls, so it must not get them.
    let (.., sent) = &peer.dispatches()[0];
    assert!(sent["completion"].is_string() && sent["executor_filter"].get("agent_id").is_none(), "{sent}");
    assert_eq!(sent["metadata"], json!({"mc_session_id": "s1", "mode": "direct", "priority": "normal"}));
    let (status, _, again) =
        fetch(&serve, "POST", path, "idempotency-key: m-1700000000-ab12\r\n", NODE_BRIDGE).await;
    assert_eq!((status, &again["idempotent_replayed"]), (202, &json!(true)));
    let (status, head, _) = fetch(&serve, "POST", "/api/sessions/s1/dispatch", "", NODE_BRIDGE).await;
    assert_eq!(status, 308);
    assert!(head.contains("location: /api/v1/sessions/s1/dispatch"), "{head}");
    // It subscribes with the executor's own token, and only listens.
    let mut bridge = serve.socket(&peer.id, &format!("?token={}", peer.token)).await;
    line.say(&peer.frame("mission.started", Some("m-1700000000-ab12"), json!({"state": "running"}))).await;
    assert_eq!(bridge.hear_event("mission.started").await["data"]["state"], "running");
    line.say(&peer.frame(
        "mission.completed",
        Some("m-1700000000-ab12"),
        json!({"state": "done", "exit_code": 0}),
    ))
    .await;
    assert_eq!(bridge.hear_event("mission.completed").await["data"]["exit_code"], 0);
    assert!(
        serve.executor_connected(&peer.id, true).await["connected"].as_bool().unwrap(),
        "the line is still the executor's"
    );
    serve.stop().await;
}

#[tokio::test]
async fn refusals_are_what_older_clients_read() {
    let serve = Serve::start().await;
    let (status, head, answer) = fetch(&serve, "POST", "/api/v1/sessions/s1/dispatch", "", NODE_BRIDGE).await;
    assert_eq!((status, &answer["error"]), (503, &json!("no_executor_available")));
    assert!(
        answer["detail"].is_string()
            && head.contains("retry-after: ")
            && head.contains("application/problem+json")
    );
    let (status, _, answer) = fetch(&serve, "GET", "/api/v1/missions/m-none", "", "").await;
    assert_eq!((status, &answer["error"]), (404, &json!("mission_not_found")));
    let (status, _, answer) =
        fetch(&serve, "GET", "/api/v1/executors", "authorization: Bearer nobody\r\n", "").await;
    assert_eq!((status, &answer["error"]), (401, &json!("token_invalid")));
    serve.stop().await;
}

/// What an executor that only listens was called with, and what it was told.
type Calls = Arc<Mutex<Vec<String>>>;

async fn called(State(calls): State<Calls>, uri: Uri, upgrade: WebSocketUpgrade) -> axum::response::Response {
    calls.lock().unwrap().push(uri.to_string());
    let id = uri.path().rsplit('/').next().unwrap().to_owned();
    upgrade.on_upgrade(async move |mut socket| {
        let frame = |event: &str, more: &str| {
            format!(r#"{{"event":"{event}","executor_id":"{id}",{more}"ts":"2026-11-21T12:00:00.000Z","data":{{"owned_mission_ids":[],"state":"running"}}}}"#)
        };
        socket.send(Message::Text(frame("executor.resync", "").into())).await.ok();
        while let Some(Ok(message)) = socket.recv().await {
            if let Message::Text(text) = message {
                let text = text.to_string();
                calls.lock().unwrap().push(text.clone());
                if text.contains("mission.aborted") {
                    let ended = frame("mission.aborted", r#""mission_id":"m-old","#);
                    socket.send(Message::Text(ended.replace("\"running\"", "\"aborted\"").into())).await.ok();
                }
            }
        }
    })
}

#[tokio::test]
async fn an_executor_that_only_listens_and_knows_only_the_old_route_is_dialled_and_reached() {
    let serve = Serve::start().await;
    let calls = Calls::default();
    let app = axum::Router::new()
        .route("/ws/executors/{id}", axum::routing::any(called))
        .with_state(Arc::clone(&calls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ws = format!("ws://{}", listener.local_addr().unwrap());
    let listening = super::peer::spawn(async move { axum::serve(listener, app).await.unwrap() });
    // The REST surface of the fake is the old one; its registration is sent anew as Node does, with the other address.
    let peer = Peer::register(&serve, 7, &[]).await;
    peer.behave(Behaviour::OldRouteOnly);
    let registration = format!(
        r#"{{"executor_id":"{}","name":"local-executor","version":"2026.11.0","spec_version":"1.0.0","transport_endpoints":{{"rest":"{}","ws":"{ws}"}},"capabilities":["isolation:host","runtime:claude-code","platform:linux/x64"]}}"#,
        peer.id, peer.rest
    );
    let (status, _, answer) = fetch(&serve, "POST", "/api/v1/executors/register", "", &registration).await;
    assert_eq!(
        (status, &answer["token"]),
        (201, &json!(peer.token)),
        "the same executor gets the same token"
    );
    serve.executor_connected(&peer.id, true).await;
    let call = calls.lock().unwrap()[0].clone();
    assert!(
        call.starts_with(&format!("/ws/executors/{}?token=", peer.id)) && call.ends_with(&peer.token),
        "{call}"
    );
    let body = NODE_BRIDGE.replace("m-1700000000-ab12", "m-old");
    let (status, _, answer) = fetch(&serve, "POST", "/api/v1/sessions/s1/dispatch", "", &body).await;
    assert_eq!(status, 202, "{answer}");
    let (route, bearer, _) = peer.dispatches()[0].clone();
    assert_eq!((route.as_str(), bearer), ("old", format!("Bearer {}", peer.token)));
    let (status, ..) = fetch(&serve, "POST", "/api/v1/missions/m-old/abort", "", "{}").await;
    assert_eq!(status, 202);
    serve.mission_in("m-old", "aborted").await;
    assert!(
        calls.lock().unwrap().iter().any(|told| told.contains("mission.aborted")),
        "over the dialled line"
    );
    listening.abort();
    serve.stop().await;
}

/// The Node executor takes commands over REST only.
#[tokio::test]
async fn a_command_that_the_executor_does_not_confirm_over_its_line_is_ordered_over_rest() {
    let serve = Serve::start().await;
    let (peer, mut line) = Peer::connected(&serve, 1, &[]).await;
    for mission in ["m-deaf", "m-obeys"] {
        serve.dispatch(mission).await;
        assert_eq!(serve.post(&format!("/api/v1/missions/{mission}/abort"), &json!({})).await.status, 202);
    }
    line.say(&peer.frame("mission.aborted", Some("m-obeys"), json!({}))).await;
    serve.mission_in("m-obeys", "aborted").await;
    let ordered = || peer.surface.lock().unwrap().commands.clone();
    soon(async {
        while ordered().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    line.say(&peer.frame("mission.aborted", Some("m-deaf"), json!({}))).await;
    serve.mission_in("m-deaf", "aborted").await;
    // The other's time was up a little later.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(ordered(), [("m-deaf".to_owned(), "abort".to_owned())]);
    serve.stop().await;
}
