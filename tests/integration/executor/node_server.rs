//! The Node server as the contract records it: what it sends, and what it accepts, strictly.

use super::text;
use crate::support::DEADLINE;
use crate::support::chaos_proxy::spawn;
use crate::support::daemon::Daemon;
use crate::support::repository::Repository;
use axum::extract::ws::{Message, WebSocket};
use axum::extract::{Path, Query, State, WebSocketUpgrade};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use std::collections::HashMap;
use tokio::sync::mpsc;

const TOKEN: &str = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY";
const STAMP: &str = "2026-01-31T12:00:00.000Z";

/// What the executor did at the server.
enum Seen {
    Registered(Value),
    Connected(Box<WebSocket>),
    Gone,
}

type Seeing = mpsc::Sender<Seen>;

async fn register(State(seeing): State<Seeing>, Json(payload): Json<Value>) -> Response {
    let answer = json!({"executor_id": payload["executor_id"], "token": TOKEN, "registered_at": STAMP});
    drop(seeing.send(Seen::Registered(payload)).await);
    (StatusCode::CREATED, Json(answer)).into_response()
}

async fn connect(
    State(seeing): State<Seeing>,
    Path(_executor): Path<String>,
    Query(query): Query<HashMap<String, String>>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let is_known = query.get("token").is_some_and(|token| token == TOKEN);
    upgrade.on_upgrade(async move |mut socket| {
        if is_known {
            drop(seeing.send(Seen::Connected(Box::new(socket))).await);
        } else {
            let frame = axum::extract::ws::CloseFrame { code: 4001, reason: "token".into() };
            drop(socket.send(Message::Close(Some(frame))).await);
        }
    })
}

async fn deregister(State(seeing): State<Seeing>, headers: HeaderMap) -> StatusCode {
    if headers.get("authorization").is_none_or(|value| value != &format!("Bearer {TOKEN}")) {
        return StatusCode::UNAUTHORIZED;
    }
    drop(seeing.send(Seen::Gone).await);
    StatusCode::NO_CONTENT
}

/// The server, with an executor that is connected to it.
struct NodeServer {
    seen: mpsc::Receiver<Seen>,
    line: Box<WebSocket>,
    executor: String,
    rest: String,
    http: reqwest::Client,
    daemon: Daemon,
    repository: Repository,
    _state: tempfile::TempDir,
}

impl NodeServer {
    async fn start() -> Self {
        aiwg_rs::net::http::install_tls();
        let (seeing, mut seen) = mpsc::channel(64);
        let app = Router::new()
            .route("/api/v1/executors/register", post(register))
            .route("/api/v1/executors/{id}", delete(deregister))
            .route("/ws/executors/{id}", get(connect))
            .with_state(seeing);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        spawn(async move { axum::serve(listener, app).await.unwrap() });
        let (repository, state) = (Repository::new(), tempfile::tempdir().unwrap());
        let (root, own) = (repository.root().to_str().unwrap(), state.path().to_str().unwrap());
        // As an operator starts the Node program.
        let daemon = Daemon::start([
            "local-executor",
            "serve",
            "--port",
            "0",
            "--bind",
            "127.0.0.1",
            "--aiwg-serve",
            &url,
            "--max-concurrency",
            "2",
            "--executor-id",
            "6f9619ff-8b86-4d01-b42d-00cf4fc964ff",
            "--workspace",
            root,
            "--state-dir",
            own,
            "--runtime",
            "shell",
            "--drain",
        ]);
        let Some(Seen::Registered(payload)) = next(&mut seen).await else { panic!("it registers first") };
        let known = ["executor_id", "name", "version", "spec_version", "transport_endpoints", "capabilities"];
        assert_eq!(keys(&payload), sorted(&known), "{payload}");
        assert_eq!(text(&payload, "/spec_version"), "1.0.0");
        let Some(Seen::Connected(line)) = next(&mut seen).await else { panic!("then it connects") };
        let mut server = Self {
            seen,
            line,
            executor: text(&payload, "/executor_id").to_owned(),
            rest: text(&payload, "/transport_endpoints/rest").to_owned(),
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            daemon,
            repository,
            _state: state,
        };
        assert_eq!(server.resync().await, json!([]));
        server
    }

    /// Returns the next frame, which must be one that a strict server takes.
    async fn frame(&mut self) -> Value {
        loop {
            let message = tokio::time::timeout(DEADLINE, self.line.recv()).await;
            match message.unwrap().unwrap().unwrap() {
                Message::Text(frame) => {
                    let frame: Value = serde_json::from_str(frame.as_str()).unwrap();
                    assert_strict(&frame, &self.executor);
                    return frame;
                }
                Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Close(_) => {}
            }
        }
    }

    async fn resync(&mut self) -> Value {
        let frame = self.frame().await;
        assert_eq!(text(&frame, "/event"), "executor.resync", "first of all: {frame}");
        frame["data"]["owned_mission_ids"].clone()
    }

    /// Returns the next frame about a mission that is no progress.
    async fn event(&mut self, mission: &str) -> Value {
        loop {
            let frame = self.frame().await;
            if frame["mission_id"] == mission && text(&frame, "/event") != "mission.progress" {
                return frame;
            }
        }
    }

    async fn expect(&mut self, mission: &str, event: &str) -> Value {
        let frame = self.event(mission).await;
        assert_eq!(text(&frame, "/event"), event, "{frame}");
        frame
    }

    /// Forwards a dispatch as the server does.
    async fn forward(&self, path: &str, mission: &str, objective: &str) -> (u16, Value) {
        let payload = json!({
            "mission_id": mission, "objective": objective,
            "completion": "the agent process exits with status 0", "long_running": false,
            "executor_filter": {"executor_id": null, "capabilities": []},
            "metadata": {"mc_session_id": "s1", "mc_mission_id": mission, "priority": 1},
        });
        let request = self.http.post(format!("{}{path}", self.rest)).bearer_auth(TOKEN).json(&payload);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn command(&mut self, event: &str, mission: &str, data: Value) {
        let frame = json!({
            "event": event, "executor_id": self.executor, "mission_id": mission, "ts": STAMP, "data": data,
        });
        self.line.send(Message::text(frame.to_string())).await.unwrap();
    }
}

async fn next(seen: &mut mpsc::Receiver<Seen>) -> Option<Seen> {
    tokio::time::timeout(DEADLINE, seen.recv()).await.unwrap()
}

fn keys(value: &Value) -> Vec<String> {
    let mut keys: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
    keys.sort();
    keys
}

fn sorted(names: &[&str]) -> Vec<String> {
    let mut names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    names.sort();
    names
}

/// Holds a frame against the contract's tables: what must be there, and nothing that is not named there.
fn assert_strict(frame: &Value, executor: &str) {
    let event = text(frame, "/event");
    let (required, optional): (&[&str], &[&str]) = match event {
        "executor.resync" => (&["owned_mission_ids"], &["protocol_version"]),
        "mission.assigned" => (&["state"], &["estimated_start"]),
        "mission.started" => (&["state"], &["agent_runtime", "pty_session_id"]),
        "mission.progress" => (&[], &["phase", "iteration", "tokens_used", "summary", "pct_complete"]),
        "mission.hitl_required" => (&["hitl_id", "prompt"], &["context", "expires_at"]),
        "mission.paused" => (&["state"], &["reason"]),
        "mission.resumed" => (&["state"], &["resumed_from"]),
        "mission.completed" => (&["state"], &["exit_code", "tokens_total", "summary", "artifacts"]),
        "mission.failed" => (&["state", "reason"], &["error", "exit_code", "tokens_total"]),
        "mission.aborted" => (&["state"], &["aborted_by", "reason"]),
        other => panic!("{other} is not in the contract: {frame}"),
    };
    let mut envelope = vec!["event", "executor_id", "ts", "data"];
    if event.starts_with("mission.") {
        envelope.push("mission_id");
    }
    assert_eq!(keys(frame), sorted(&envelope), "{frame}");
    assert_eq!(text(frame, "/executor_id"), executor);
    let ts = text(frame, "/ts");
    assert!(ts.len() == STAMP.len() && ts.ends_with('Z'), "{ts}");
    let data = keys(&frame["data"]);
    for name in required {
        assert!(data.iter().any(|key| key == name), "{name} is missing: {frame}");
    }
    for key in data {
        assert!(required.iter().chain(optional).any(|name| *name == key), "{key} is too much: {frame}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_server_can_drive_this_executor() {
    let mut server = NodeServer::start().await;
    let route = "/api/v1/sessions/s1/dispatch";

    // A mission from its beginning to its end, on the new route and on the old one.
    for (route, mission) in [(route, "m-1"), ("/dispatch", "m-2")] {
        let (status, answer) = server.forward(route, mission, "echo well done").await;
        assert_eq!((status, text(&answer, "/status")), (202, "assigned"), "{answer}");
        assert_eq!(
            (text(&answer, "/mission_id"), text(&answer, "/executor_id")),
            (mission, &*server.executor)
        );
        assert_eq!(text(&server.expect(mission, "mission.started").await, "/data/state"), "running");
        let last = server.expect(mission, "mission.completed").await;
        assert_eq!((text(&last, "/data/summary"), &last["data"]["exit_code"]), ("well done", &json!(0)));
    }

    // Orders over the line are carried out and confirmed.
    server.forward(route, "m-3", "while :; do sleep 0.1; done").await;
    server.expect("m-3", "mission.started").await;
    server.command("mission.paused", "m-3", json!({"state": "paused"})).await;
    server.expect("m-3", "mission.paused").await;
    server.command("mission.resumed", "m-3", json!({"state": "running", "resumed_from": "paused"})).await;
    server.expect("m-3", "mission.resumed").await;
    server.command("mission.aborted", "m-3", json!({"state": "aborted", "aborted_by": "operator"})).await;
    let last = server.expect("m-3", "mission.aborted").await;
    assert_eq!(text(&last, "/data/aborted_by"), "operator");

    // A human's answer, under both names that servers give it.
    for (name, mission) in [("response", "m-4"), ("text", "m-5")] {
        let objective = "printf 'Go on? [y/N] '; read a; test \"$a\" = yes";
        server.forward(route, mission, objective).await;
        server.expect(mission, "mission.started").await;
        let asked = server.expect(mission, "mission.hitl_required").await;
        let mut data = json!({"hitl_id": asked["data"]["hitl_id"], "responded_at": STAMP});
        data[name] = json!("yes");
        server.command("mission.hitl_responded", mission, data).await;
        server.expect(mission, "mission.resumed").await;
        server.expect(mission, "mission.completed").await;
    }

    // Frames that make no sense do no harm, and a line that breaks comes back with what is owned.
    server.line.send(Message::text("{broken")).await.unwrap();
    server.command("mission.paused", "nobody", json!({"state": "paused"})).await;
    server.forward(route, "m-6", "while ! test -f go; do sleep 0.05; done; exit 4").await;
    server.expect("m-6", "mission.started").await;
    server.line.send(Message::Close(None)).await.unwrap();
    server.line = loop {
        match next(&mut server.seen).await {
            Some(Seen::Connected(line)) => break line,
            Some(Seen::Registered(_) | Seen::Gone) => {}
            None => panic!("it does not come back"),
        }
    };
    let owned = server.resync().await;
    assert!(owned.as_array().unwrap().contains(&json!("m-6")), "{owned}");
    server.repository.write("go", "");
    let last = server.expect("m-6", "mission.failed").await;
    assert_eq!((text(&last, "/data/reason"), &last["data"]["exit_code"]), ("exit_nonzero", &json!(4)));

    // At the end it says goodbye.
    assert!(server.daemon.terminate().success(), "{}", server.daemon.said());
    loop {
        match next(&mut server.seen).await {
            Some(Seen::Gone) => break,
            Some(Seen::Registered(_) | Seen::Connected(_)) => {}
            None => panic!("it went without a word"),
        }
    }
}
