//! A registry that is not ours: it counts what reaches its executor, and answers as it is told to.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub(crate) const EXECUTOR: &str = "0b7e0c1e-8a53-4c7e-9d52-6f0e5f3f9a11";

/// What the next dispatch is answered with, instead of running it.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Status(u16, Option<&'static str>),
    /// A refusal with this sentence.
    Says(u16, &'static str),
    Garbage,
    HalfABody,
    Never,
    /// The mission runs, but the answer is lost.
    RunsButBreaksOff,
    /// The mission runs, and its caller waits for ever.
    RunsButNeverSays,
}

#[derive(Debug, Default)]
struct Counts {
    /// How often each mission reached the executor.
    runs: HashMap<String, usize>,
    keys: HashSet<String>,
    seen_keys: Vec<String>,
    bodies: HashMap<String, Value>,
    started: HashMap<String, Instant>,
    commands: Vec<(String, String, Value)>,
    script: VecDeque<Answer>,
    dispatches: usize,
    executor_is_at: Option<String>,
    /// Every mission asks a human.
    asks: bool,
    refuses_commands_with: Option<u16>,
}

/// Settings of the fake.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Behaviour {
    /// The same key runs once.
    pub(crate) is_idempotent: bool,
    /// A mission ends this long after it was accepted.
    pub(crate) ends_after: Duration,
}

#[derive(Clone)]
struct Shared {
    counts: Arc<Mutex<Counts>>,
    behaviour: Behaviour,
}

pub(crate) struct Registry {
    pub(crate) url: String,
    shared: Shared,
    runtime: Option<tokio::runtime::Runtime>,
    port: u16,
}

impl Registry {
    pub(crate) fn start(behaviour: Behaviour) -> Self {
        let shared = Shared { counts: Arc::default(), behaviour };
        Self::listen(shared, 0)
    }

    fn listen(shared: Shared, port: u16) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", port))).unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new()
            .route("/api/v1/sessions/{session}/dispatch", post(dispatch))
            .route("/api/v1/missions/{mission}", get(status))
            .route("/api/v1/missions/{mission}/{command}", post(command))
            .route("/api/v1/executors/{executor}", get(executor))
            .route("/api/health", get(|| async { "{}" }))
            .with_state(shared.clone());
        let service = async move { axum::serve(listener, router).await };
        // A test's server ends with its runtime.
        drop(runtime.handle().spawn(service));
        Self { url: format!("http://127.0.0.1:{port}"), shared, runtime: Some(runtime), port }
    }

    /// Closes the port and every connection; the memory stays.
    pub(crate) fn go_away(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }

    /// Listens again on the same port.
    pub(crate) fn come_back(&mut self) {
        *self = Self::listen(self.shared.clone(), self.port);
    }

    pub(crate) fn answer_next_with(&self, answers: impl IntoIterator<Item = Answer>) {
        self.shared.counts.lock().unwrap().script.extend(answers);
    }

    /// How often each mission reached the executor.
    pub(crate) fn runs(&self) -> HashMap<String, usize> {
        self.shared.counts.lock().unwrap().runs.clone()
    }

    /// Forgets every mission, as a registry does that keeps nothing and was started again.
    pub(crate) fn forget(&self) {
        self.shared.counts.lock().unwrap().started.clear();
    }

    /// From now on every mission asks a question, `h-1`, and any command is refused.
    pub(crate) fn ask_and_refuse_commands_with(&self, status: u16) {
        let mut counts = self.shared.counts.lock().unwrap();
        (counts.asks, counts.refuses_commands_with) = (true, Some(status));
    }

    /// Says of the executor that it is reached there.
    pub(crate) fn executor_is_at(&self, url: &str) {
        self.shared.counts.lock().unwrap().executor_is_at = Some(url.to_owned());
    }

    /// Knows this mission without ever having been sent it.
    pub(crate) fn knows(&self, mission: &str) {
        self.shared.counts.lock().unwrap().started.insert(mission.to_owned(), Instant::now());
    }

    pub(crate) fn dispatches(&self) -> usize {
        self.shared.counts.lock().unwrap().dispatches
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.shared.counts.lock().unwrap().seen_keys.clone()
    }

    pub(crate) fn body_of(&self, mission: &str) -> Option<Value> {
        self.shared.counts.lock().unwrap().bodies.get(mission).cloned()
    }

    /// Commands that came: mission, command, body.
    pub(crate) fn commands(&self) -> Vec<(String, String, Value)> {
        self.shared.counts.lock().unwrap().commands.clone()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.go_away();
    }
}

fn answer(status: u16, body: impl Into<Body>) -> Response<Body> {
    Response::builder().status(status).header("content-type", "application/json").body(body.into()).unwrap()
}

async fn dispatch(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let body: Value = serde_json::from_slice(&body).unwrap();
    let mission = body["mission_id"].as_str().unwrap().to_owned();
    let key = headers["idempotency-key"].to_str().unwrap().to_owned();
    let scripted = {
        let mut counts = shared.counts.lock().unwrap();
        counts.dispatches += 1;
        counts.seen_keys.push(key.clone());
        counts.bodies.insert(mission.clone(), body);
        counts.script.pop_front()
    };
    match scripted {
        Some(Answer::Status(status, retry_after)) => {
            let mut response =
                answer(status, json!({"error": "scripted", "detail": "as the test wants it"}).to_string());
            if let Some(after) = retry_after {
                response.headers_mut().insert("retry-after", after.parse().unwrap());
            }
            return response;
        }
        Some(Answer::Says(status, detail)) => {
            return answer(status, json!({"error": detail}).to_string());
        }
        Some(Answer::Garbage) => return answer(500, "<html>oops"),
        Some(Answer::HalfABody) => return broken_off(),
        Some(Answer::Never) => std::future::pending().await,
        Some(Answer::RunsButNeverSays) => {
            run(&shared, &mission, &key);
            std::future::pending::<()>().await;
        }
        Some(Answer::RunsButBreaksOff) => {
            run(&shared, &mission, &key);
            return broken_off();
        }
        None => run(&shared, &mission, &key),
    }
    let body = json!({"mission_id": mission, "executor_id": EXECUTOR, "status": "assigned"});
    answer(202, body.to_string())
}

/// A 202 whose body ends before it is whole.
fn broken_off() -> Response<Body> {
    let broken = futures_util::stream::iter([
        Ok(Bytes::from_static(b"{\"mission")),
        Err(std::io::Error::other("cut")),
    ]);
    answer(202, Body::from_stream(broken))
}

fn run(shared: &Shared, mission: &str, key: &str) {
    let mut counts = shared.counts.lock().unwrap();
    let is_new = counts.keys.insert(key.to_owned());
    if is_new || !shared.behaviour.is_idempotent {
        *counts.runs.entry(mission.to_owned()).or_default() += 1;
        counts.started.insert(mission.to_owned(), Instant::now());
    }
}

async fn status(State(shared): State<Shared>, Path(mission): Path<String>) -> Response<Body> {
    let counts = shared.counts.lock().unwrap();
    let Some(started) = counts.started.get(&mission) else {
        return answer(404, json!({"error": "mission_not_found", "detail": "no such mission"}).to_string());
    };
    // Every run happens ten seconds after the one before.
    let earlier = counts.runs.get(&mission).copied().unwrap_or(1).saturating_sub(1) * 10;
    let event = |name: &str, second: usize, data: Value| {
        let second = (earlier + second).min(59);
        json!({"event": name, "executor_id": EXECUTOR, "mission_id": mission,
               "ts": format!("2026-01-01T00:00:{second:02}.000Z"), "data": data})
    };
    let mut events = vec![event("mission.started", 1, json!({"state": "running"}))];
    if counts.asks {
        events.push(event("mission.hitl_required", 2, json!({"hitl_id": "h-1", "prompt": "really?"})));
    }
    let is_done = started.elapsed() >= shared.behaviour.ends_after;
    if is_done {
        events.push(event("mission.completed", 2, json!({"state": "done", "exit_code": 0, "summary": "ok"})));
    }
    let state = match (is_done, counts.asks) {
        (true, _) => "done",
        (false, true) => "hitl-required",
        (false, false) => "running",
    };
    let body = json!({"mission_id": mission, "executor_id": EXECUTOR, "state": state, "recent_events": events,
                      "created_at": "2026-01-01T00:00:00.000Z", "updated_at": "2026-01-01T00:00:02.000Z"});
    answer(200, body.to_string())
}

async fn executor(State(shared): State<Shared>, Path(id): Path<String>) -> Response<Body> {
    let Some(rest) = shared.counts.lock().unwrap().executor_is_at.clone() else {
        return answer(404, json!({"error": "executor_not_found"}).to_string());
    };
    let endpoints = json!({"rest": rest, "ws": "ws://127.0.0.1:1"});
    answer(200, json!({"executor_id": id, "transport_endpoints": endpoints}).to_string())
}

async fn command(
    State(shared): State<Shared>,
    Path((mission, command)): Path<(String, String)>,
    body: Bytes,
) -> Response<Body> {
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let mut counts = shared.counts.lock().unwrap();
    counts.commands.push((mission, command, body));
    answer(counts.refuses_commands_with.unwrap_or(202), r#"{"error": "scripted"}"#)
}
