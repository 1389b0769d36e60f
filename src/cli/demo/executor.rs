//! Command: the executor of the demonstration: shells in the care of this process, no resources, nothing kept.
//!
//! It speaks the executor's side of the contract and no more. A line of output is progress; one that begins with `ask: ` is
//! a question, and its answer comes in on standard input. Work that matters belongs on `aiwg-rs executor`.

use crate::domain::event::{Body, Envelope, ExecutorEvent, MissionEvent};
use crate::domain::id::{ExecutorId, HitlId, MissionId};
use crate::net::http::{self, Http};
use crate::net::ws::Connection;
use crate::protocol::envelope::{encode_envelope, parse_envelope};
use crate::protocol::executor_v1::{
    DispatchRequest, DispatchResponse, RegisterRequest, RegisterResponse, TransportEndpoints,
};
use crate::protocol::route;
use crate::runtime::clock;
use crate::runtime::shutdown::{Cause, Shutdown};
use crate::runtime::tasks::Tasks;
use anyhow::Context as _;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{ChildStdin, Command};
use tokio::sync::{Mutex, mpsc};

/// Begins a line of output that is a question.
const QUESTION: &str = "ask: ";

struct Executor {
    id: ExecutorId,
    bearer: String,
    /// The missions' shells run here.
    directory: PathBuf,
    /// Every mission that was ever accepted, and the way to those that still run.
    missions: Mutex<HashMap<MissionId, mpsc::Sender<Order>>>,
    events: mpsc::Sender<Envelope>,
    tasks: Tasks,
    shutdown: Shutdown,
}

enum Order {
    Answer(String),
    Abort,
}

/// Registers with the registry at `registry`, opens the line to it and takes missions until the shutdown.
///
/// # Errors
/// It cannot listen, register or connect.
pub async fn start(
    registry: &str,
    directory: &Path,
    tasks: &Tasks,
    shutdown: &Shutdown,
) -> anyhow::Result<ExecutorId> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("listen for the registry")?;
    let address = listener.local_addr()?;
    let id = ExecutorId::new(uuid::Uuid::new_v4().to_string())?;
    let token = register(registry, &id, address).await?;
    let url = route::join(&route::socket_base(registry), &route::socket(id.as_str()));
    let mut line = Connection::open(&url, Some(&token), Duration::from_secs(5)).await?;
    let (events, outbox) = mpsc::channel(256);
    let executor = Arc::new(Executor {
        id: id.clone(),
        bearer: format!("Bearer {token}"),
        directory: directory.to_owned(),
        missions: Mutex::default(),
        events,
        tasks: tasks.clone(),
        shutdown: shutdown.clone(),
    });
    let resync = ExecutorEvent::Resync { owned_mission_ids: Vec::new() };
    line.send_text(encode_envelope(&Envelope::executor(id.clone(), clock::wall(), resync))).await?;
    tasks.spawn("demo-executor-line", hold(Arc::clone(&executor), line, outbox));
    let router = Router::new()
        .route("/api/v1/sessions/{session}/dispatch", post(dispatch))
        .with_state(Arc::clone(&executor));
    let ending = shutdown.clone();
    tasks.spawn("demo-executor-server", async move {
        let serving =
            axum::serve(listener, router).with_graceful_shutdown(async move { ending.started().await });
        if let Err(error) = serving.await {
            tracing::error!(%error, "the executor cannot be reached any more");
            executor.shutdown.start(Cause::Fatal("demo-executor"));
        }
    });
    Ok(id)
}

async fn register(registry: &str, id: &ExecutorId, address: std::net::SocketAddr) -> anyhow::Result<String> {
    let request = RegisterRequest {
        executor_id: id.clone(),
        name: "demo".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        spec_version: "1.0.0".to_owned(),
        transport_endpoints: TransportEndpoints {
            rest: format!("http://{address}"),
            ws: format!("ws://{address}"),
            grpc: None,
        },
        capabilities: ["isolation:none", "runtime:custom:sh", "hitl"].map(str::to_owned).into(),
        a2a_instance_id: None,
    };
    let http = Http::new(http::Config::default()).context("set up the HTTP client")?;
    let url = route::join(registry, "/api/v1/executors/register");
    let answer = http.send(http.request(reqwest::Method::POST, &url).json(&request)).await?;
    anyhow::ensure!(answer.is_success(), "the registry refused the executor: {}", answer.message());
    Ok(serde_json::from_slice::<RegisterResponse>(&answer.body).context("read the registration")?.token)
}

/// Holds the line to the registry: events out, orders in.
async fn hold(executor: Arc<Executor>, mut line: Connection, mut outbox: mpsc::Receiver<Envelope>) {
    loop {
        let step = tokio::select! {
            Some(event) = outbox.recv() => line.send_text(encode_envelope(&event)).await,
            order = line.next_text() => match order {
                Ok(text) => {
                    executor.obey(&text).await;
                    Ok(())
                }
                Err(lost) => Err(lost),
            },
            () = executor.shutdown.started() => return line.close().await,
        };
        if let Err(error) = step {
            if !executor.shutdown.is_started() {
                tracing::error!(%error, "the executor has lost its line to the registry");
                executor.shutdown.start(Cause::Fatal("demo-executor"));
            }
            return;
        }
    }
}

async fn dispatch(State(executor): State<Arc<Executor>>, headers: HeaderMap, body: Bytes) -> Response {
    let bearer = executor.bearer.as_bytes();
    if headers.get(header::AUTHORIZATION).is_none_or(|sent| sent.as_bytes() != bearer) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let request = match DispatchRequest::parse(&body) {
        Ok(request) => request,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    let known = executor.accept(request.mission_id.clone(), request.objective).await;
    let answer = DispatchResponse {
        mission_id: request.mission_id,
        executor_id: executor.id.clone(),
        status: "assigned".to_owned(),
        estimated_start: None,
        dispatch_path: "v1".to_owned(),
        idempotent_replayed: known,
    };
    (StatusCode::ACCEPTED, Json(answer)).into_response()
}

impl Executor {
    /// Starts a mission, unless it was started before; says so.
    async fn accept(self: &Arc<Self>, mission: MissionId, objective: String) -> bool {
        let mut missions = self.missions.lock().await;
        let Entry::Vacant(place) = missions.entry(mission.clone()) else { return true };
        let (orders, inbox) = mpsc::channel(4);
        place.insert(orders);
        let executor = Arc::clone(self);
        self.tasks.spawn("demo-mission", async move { executor.run(&mission, &objective, inbox).await });
        false
    }

    async fn obey(&self, text: &str) {
        let Ok(Envelope { mission_id: Some(mission), body: Body::Mission(event), .. }) = parse_envelope(text)
        else {
            return;
        };
        let order = if let MissionEvent::HitlResponded { response, .. } = event {
            Order::Answer(response)
        } else if matches!(event, MissionEvent::Aborted { .. }) {
            Order::Abort
        } else {
            return;
        };
        if let Some(orders) = self.missions.lock().await.get(&mission) {
            // A mission that has ended, or that was told four things already, has no use for a fifth.
            drop(orders.try_send(order));
        }
    }

    async fn say(&self, mission: &MissionId, event: MissionEvent) {
        let envelope = Envelope::mission(self.id.clone(), mission.clone(), clock::wall(), event);
        // The line is gone, and with it whoever would want to know.
        drop(self.events.send(envelope).await);
    }

    async fn run(&self, mission: &MissionId, objective: &str, orders: mpsc::Receiver<Order>) {
        let started =
            MissionEvent::Started { agent_runtime: Some("custom:sh".to_owned()), pty_session_id: None };
        self.say(mission, started).await;
        let ended =
            self.work(mission, objective, orders).await.unwrap_or_else(|error| MissionEvent::Failed {
                reason: Some("io".to_owned()),
                error: Some(error.to_string()),
                exit_code: None,
                tokens_total: None,
            });
        self.say(mission, ended).await;
    }

    async fn work(
        &self,
        mission: &MissionId,
        objective: &str,
        mut orders: mpsc::Receiver<Order>,
    ) -> anyhow::Result<MissionEvent> {
        let mut shell = Command::new("sh")
            .args(["-c", &format!("exec 2>&1\n{objective}")])
            .current_dir(&self.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("start sh")?;
        let group =
            shell.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).context("sh has no pid")?;
        let mut input = shell.stdin.take().context("sh has no standard input")?;
        let mut output = BufReader::new(shell.stdout.take().context("sh has no output")?).split(b'\n');
        let (mut last, mut asked) = (None, 0_u32);
        loop {
            let order = tokio::select! {
                line = output.next_segment() => {
                    let Some(line) = line.context("read the output")? else { break };
                    let line = String::from_utf8_lossy(&line).into_owned();
                    self.say(mission, told(&line, &mut asked)?).await;
                    last = Some(line);
                    continue;
                }
                Some(order) = orders.recv() => order,
                () = self.shutdown.started() => Order::Abort,
            };
            match order {
                Order::Answer(answer) => pass_on(&mut input, &answer).await,
                Order::Abort => {
                    kill_process_group(group, Signal::KILL).context("end the shell")?;
                    shell.wait().await.context("wait for the shell")?;
                    return Ok(MissionEvent::Aborted {
                        aborted_by: Some("operator".to_owned()),
                        reason: None,
                    });
                }
            }
        }
        drop(input);
        let status = shell.wait().await.context("wait for the shell")?;
        let exit_code = status.code().map(i64::from);
        Ok(if status.success() {
            MissionEvent::Completed { exit_code, tokens_total: None, summary: last, artifacts: Vec::new() }
        } else {
            MissionEvent::Failed {
                reason: Some("exit_nonzero".to_owned()),
                error: last,
                exit_code,
                tokens_total: None,
            }
        })
    }
}

/// Makes the event of one line of output.
fn told(line: &str, asked: &mut u32) -> anyhow::Result<MissionEvent> {
    let Some(prompt) = line.strip_prefix(QUESTION) else {
        return Ok(MissionEvent::Progress {
            phase: None,
            iteration: None,
            tokens_used: None,
            summary: Some(line.to_owned()),
            pct_complete: None,
        });
    };
    *asked += 1;
    let hitl_id = HitlId::new(format!("question-{asked}"))?;
    Ok(MissionEvent::HitlRequired { hitl_id, prompt: prompt.to_owned(), context: None, expires_at: None })
}

async fn pass_on(input: &mut ChildStdin, answer: &str) {
    if let Err(error) = input.write_all(format!("{answer}\n").as_bytes()).await {
        tracing::warn!(%error, "the mission does not read the answer");
    }
}
