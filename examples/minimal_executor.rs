//! Command: the smallest executor: `cargo run --example minimal_executor -- http://127.0.0.1:7337`.
//! It registers, runs the objective of every mission with `sh -c`, and ends when its line to the registry is lost.
#![expect(clippy::disallowed_methods, reason = "an example spawns plainly")]

use aiwg_rs::{net::ws::Connection, protocol::route, runtime::clock};
use anyhow::Context as _;
use axum::http::{HeaderMap, StatusCode, header::AUTHORIZATION};
use axum::{Json, Router, extract::State, routing::post};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use std::collections::{HashMap, hash_map::Entry};
use std::{process::Stdio, sync::Arc, time::Duration};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

struct Executor {
    id: String,
    bearer: String,
    /// Every mission it ever accepted, with the switch that ends it.
    missions: Mutex<HashMap<String, CancellationToken>>,
    events: mpsc::Sender<Value>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let registry = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:7337".to_owned());
    aiwg_rs::net::http::install_tls();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let (id, here) = (uuid::Uuid::new_v4().to_string(), listener.local_addr()?);
    let me = json!({"executor_id": id, "name": "minimal", "version": "1", "spec_version": "1.0.0",
        "transport_endpoints": {"rest": format!("http://{here}"), "ws": format!("ws://{here}")},
        "capabilities": ["isolation:none", "runtime:custom:sh"]});
    let client = reqwest::Client::builder().no_proxy().build()?;
    let answer = client.post(format!("{registry}/api/v1/executors/register")).json(&me).send().await?;
    let token = answer.error_for_status()?.json::<Value>().await?["token"].as_str().unwrap_or("").to_owned();
    let url = route::join(&route::socket_base(&registry), &route::socket(&id));
    let mut line = Connection::open(&url, Some(&token), Duration::from_secs(5)).await?;
    let (bearer, (events, mut outbox)) = (format!("Bearer {token}"), mpsc::channel(1024));
    let executor = Arc::new(Executor { id, bearer, missions: Mutex::default(), events });
    executor.say("executor.resync", None, json!({"owned_mission_ids": []})).await;
    let app = Router::new().route("/api/v1/sessions/{session}/dispatch", post(dispatch));
    tokio::spawn(axum::serve(listener, app.with_state(Arc::clone(&executor))).into_future());
    loop {
        tokio::select! {
            Some(event) = outbox.recv() => line.send_text(event.to_string()).await?,
            order = line.next_text() => {
                let order: Value = serde_json::from_str(&order?)?;
                let id = order["mission_id"].as_str().filter(|_| order["event"] == "mission.aborted");
                executor.missions.lock().await.get(id.unwrap_or_default()).inspect(|stop| stop.cancel());
            }
        }
    }
}

type Answer = (StatusCode, Json<Value>);

async fn dispatch(me: State<Arc<Executor>>, headers: HeaderMap, Json(body): Json<Value>) -> Answer {
    if headers.get(AUTHORIZATION).is_none_or(|bearer| bearer.as_bytes() != me.bearer.as_bytes()) {
        return (StatusCode::UNAUTHORIZED, Json(json!({"error": "token_invalid"})));
    }
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    // A mission that is known already is the same run, asked for again.
    if let Entry::Vacant(place) = me.missions.lock().await.entry(text("mission_id")) {
        let stop = place.insert(CancellationToken::new()).clone();
        tokio::spawn(Arc::clone(&me).run(text("mission_id"), text("objective"), stop));
    }
    let answer = json!({"mission_id": body["mission_id"], "executor_id": me.id, "status": "assigned"});
    (StatusCode::ACCEPTED, Json(answer))
}

impl Executor {
    async fn say(&self, event: &str, mission: Option<&str>, data: Value) {
        let (id, ts) = (&self.id, clock::wall());
        let event = json!({"event": event, "executor_id": id, "mission_id": mission, "ts": ts, "data": data});
        drop(self.events.send(event).await);
    }

    async fn run(self: Arc<Self>, id: String, objective: String, stop: CancellationToken) {
        let (event, data) = match self.work(&id, &objective, &stop).await {
            Ok(_) if stop.is_cancelled() => ("mission.aborted", json!({"state": "aborted"})),
            Ok(0) => ("mission.completed", json!({"state": "done", "exit_code": 0})),
            code => ("mission.failed", json!({"state": "failed", "reason": "exit", "exit_code": code.ok()})),
        };
        self.say(event, Some(&id), data).await;
    }

    async fn work(&self, id: &str, objective: &str, stop: &CancellationToken) -> anyhow::Result<i32> {
        self.say("mission.started", Some(id), json!({"state": "running", "agent_runtime": "custom:sh"}))
            .await;
        let mut shell = tokio::process::Command::new("sh");
        shell.arg("-c").arg(format!("exec 2>&1\n{objective}")).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut shell = shell.process_group(0).spawn()?;
        let group = shell.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).context("no process")?;
        let mut lines = BufReader::new(shell.stdout.take().context("no pipe")?).split(b'\n');
        let report = async {
            while let Some(line) = lines.next_segment().await? {
                let progress = json!({"summary": String::from_utf8_lossy(&line)});
                self.say("mission.progress", Some(id), progress).await;
            }
            anyhow::Ok(())
        };
        tokio::select! {
            ended = report => ended?,
            () = stop.cancelled() => kill_process_group(group, Signal::KILL)?,
        }
        Ok(shell.wait().await?.code().unwrap_or(-1))
    }
}
