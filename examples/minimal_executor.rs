//! Command: the smallest executor: `cargo run --example minimal_executor -- http://127.0.0.1:7337`.
//! It registers, runs the objective of every mission with `sh -c`, and ends when its line to the registry is lost.
#![expect(clippy::disallowed_methods, reason = "an example spawns plainly")]

use aiwg_rs::{net::ws::Connection, protocol::route, runtime::clock};
use axum::{Json, Router, extract::State, http::HeaderMap, http::StatusCode, routing::post};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use std::{collections::HashMap, process::Stdio, sync::Arc, time::Duration};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, mpsc};

struct Executor {
    id: String,
    bearer: String,
    /// Every mission it ever accepted: the key of its run, and its processes while they run.
    missions: Mutex<HashMap<String, (String, Option<Pid>)>>,
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
    let ask = reqwest::Client::builder().no_proxy().build()?.post(route::join(&registry, route::REGISTER));
    let answer: Value = ask.json(&me).send().await?.error_for_status()?.json().await?;
    let token = answer["token"].as_str().unwrap_or_default();
    let url = route::join(&route::socket_base(&registry), &route::socket(&id));
    let mut line = Connection::open(&url, Some(token), Duration::from_secs(5)).await?;
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
                let run = executor.missions.lock().await.get(id.unwrap_or_default()).cloned();
                run.and_then(|(_, group)| Some(kill_process_group(group?, Signal::KILL)));
            }
        }
    }
}

type Answer = Result<(StatusCode, Json<Value>), StatusCode>;

async fn dispatch(me: State<Arc<Executor>>, headers: HeaderMap, Json(body): Json<Value>) -> Answer {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    header("authorization").filter(|bearer| *bearer == me.bearer).ok_or(StatusCode::UNAUTHORIZED)?;
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    let (id, run) = (text("mission_id"), header("idempotency-key").unwrap_or_default());
    let mut missions = me.missions.lock().await;
    // The same key is the same run, asked for again; a mission that is to run once more has another one.
    if missions.get(&id).is_none_or(|(known, _)| known != run) {
        let mut sh = Command::new("sh");
        sh.process_group(0).arg("-c").arg(format!("exec 2>&1\n{}", text("objective"))).stdin(Stdio::null());
        let shell = sh.stdout(Stdio::piped()).spawn().or(Err(StatusCode::SERVICE_UNAVAILABLE))?;
        let group = shell.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        missions.insert(id.clone(), (run.to_owned(), group));
        tokio::spawn(Arc::clone(&me).follow(id.clone(), shell));
    }
    Ok((StatusCode::ACCEPTED, Json(json!({"mission_id": id, "executor_id": me.id, "status": "assigned"}))))
}

impl Executor {
    async fn say(&self, event: &str, mission: Option<&str>, data: Value) {
        let event = json!({"event": event, "executor_id": self.id, "mission_id": mission, "ts": clock::wall(),
            "data": data});
        drop(self.events.send(event).await);
    }

    async fn follow(self: Arc<Self>, id: String, mut shell: Child) {
        self.say("mission.started", Some(&id), json!({"state": "running"})).await;
        let mut last = String::new();
        let mut lines = shell.stdout.take().map(|output| BufReader::new(output).split(b'\n'));
        while let Some(Ok(Some(line))) = async { Some(lines.as_mut()?.next_segment().await) }.await {
            last = String::from_utf8_lossy(&line).into_owned();
            self.say("mission.progress", Some(&id), json!({"summary": last})).await;
        }
        let code = shell.wait().await.ok().and_then(|status| status.code());
        let failed = json!({"state": "failed", "reason": "exit_nonzero", "exit_code": code, "error": last});
        let (event, data) = match code {
            Some(0) => ("mission.completed", json!({"state": "done", "exit_code": 0, "summary": last})),
            Some(_) => ("mission.failed", failed),
            None => ("mission.aborted", json!({"state": "aborted", "reason": "killed"})),
        };
        self.missions.lock().await.entry(id.clone()).and_modify(|(_, group)| *group = None);
        self.say(event, Some(&id), data).await;
    }
}
