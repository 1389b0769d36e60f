//! A registry of somebody else: it tells what a test wants told, and keeps count of who asks.

use crate::support::DEADLINE;
use crate::support::chaos_proxy::spawn;
use aiwg_rs::domain::id::{ExecutorId, MissionId};
use aiwg_rs::events::messages::{Command, Report};
use aiwg_rs::events::{Config, worker};
use aiwg_rs::net::http::{self, Http};
use aiwg_rs::runtime::shutdown::{Cause, Shutdown};
use axum::Router;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;

/// What the registry does with observers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Observers {
    Welcome,
    /// Refused with this status on the upgrade.
    Status(u16),
    /// Taken, then closed with 4001, as the Node registry does.
    Close4001,
}

#[derive(Debug, Clone)]
struct Told {
    observers: Observers,
    records: HashMap<String, String>,
    asked: HashMap<String, usize>,
    dials: Vec<(String, Option<String>)>,
    closes: Vec<u16>,
}

#[derive(Clone)]
struct Shared {
    told: Arc<Mutex<Told>>,
    frames: broadcast::Sender<(String, String)>,
}

/// A running foreign registry, on a port of its own.
pub(crate) struct Foreign {
    pub(crate) address: SocketAddr,
    shared: Shared,
    running: JoinHandle<()>,
}

impl Foreign {
    pub(crate) async fn start(observers: Observers) -> Self {
        let told = Told {
            observers,
            records: HashMap::new(),
            asked: HashMap::new(),
            dials: Vec::new(),
            closes: Vec::new(),
        };
        let shared = Shared { told: Arc::new(Mutex::new(told)), frames: broadcast::channel(1 << 18).0 };
        let router = Router::new()
            .route("/api/v1/missions/{id}", get(record))
            .route("/ws/executors/{id}", get(observe))
            .with_state(shared.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let running = spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, shared, running }
    }

    pub(crate) fn set(&self, observers: Observers) {
        self.shared.told.lock().unwrap().observers = observers;
    }

    /// Makes this the record of a mission; `events` are whole envelopes.
    pub(crate) fn record(&self, mission: &str, executor: u8, state: &str, events: &[String]) {
        let text = format!(
            r#"{{"mission_id":"{mission}","executor_id":"{}","state":"{state}","created_at":"2026-01-01T00:00:00.000Z","updated_at":"2026-01-01T00:00:00.000Z","recent_events":[{}],"theirs":1}}"#,
            executor_id(executor),
            events.join(",")
        );
        self.shared.told.lock().unwrap().records.insert(mission.to_owned(), text);
    }

    /// Sends a frame to everyone who observes this executor right now.
    pub(crate) fn send(&self, executor: u8, frame: impl Into<String>) {
        self.shared.frames.send((executor_id(executor).as_str().to_owned(), frame.into())).ok();
    }

    /// Waits until somebody observes.
    pub(crate) async fn observed(&self) {
        let watching = async {
            while self.shared.frames.receiver_count() == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        assert!(tokio::time::timeout(DEADLINE, watching).await.is_ok(), "nobody observes");
    }

    /// How often a mission was asked about.
    pub(crate) fn asked(&self, mission: &str) -> usize {
        self.shared.told.lock().unwrap().asked.get(mission).copied().unwrap_or(0)
    }

    /// Paths with query, and bearer, of every upgrade that was asked for.
    pub(crate) fn dials(&self) -> Vec<(String, Option<String>)> {
        self.shared.told.lock().unwrap().dials.clone()
    }

    /// Codes with which observers closed.
    pub(crate) fn closes(&self) -> Vec<u16> {
        self.shared.told.lock().unwrap().closes.clone()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn record(State(shared): State<Shared>, Path(id): Path<String>) -> Response {
    let mut told = shared.told.lock().unwrap();
    *told.asked.entry(id.clone()).or_default() += 1;
    match told.records.get(&id) {
        Some(text) => ([("content-type", "application/json")], text.clone()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn observe(
    State(shared): State<Shared>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    let observers = {
        let mut told = shared.told.lock().unwrap();
        let bearer = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
        told.dials.push((uri.to_string(), bearer));
        told.observers
    };
    match observers {
        Observers::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Observers::Close4001 => upgrade.on_upgrade(|mut socket| async move {
            let frame = CloseFrame { code: 4001, reason: "token required".into() };
            socket.send(Message::Close(Some(frame))).await.ok();
        }),
        Observers::Welcome => {
            let frames = shared.frames.subscribe();
            upgrade.on_upgrade(move |socket| tell(socket, id, frames, shared))
        }
    }
}

async fn tell(
    mut socket: WebSocket,
    id: String,
    mut frames: broadcast::Receiver<(String, String)>,
    shared: Shared,
) {
    loop {
        tokio::select! {
            frame = frames.recv() => {
                let (executor, text) = frame.unwrap();
                if executor == id && socket.send(Message::Text(text.into())).await.is_err() {
                    return;
                }
            }
            message = socket.recv() => match message {
                Some(Ok(Message::Close(frame))) => {
                    let code = frame.map_or(1005, |frame| frame.code);
                    shared.told.lock().unwrap().closes.push(code);
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
        }
    }
}

/// The bridge's side: a worker under test, its commands, and what it reported.
pub(crate) struct Listener {
    pub(crate) commands: mpsc::Sender<Command>,
    reports: mpsc::Receiver<Report>,
    shutdown: Shutdown,
    running: JoinHandle<()>,
    /// Every frame, in the order in which it came.
    pub(crate) frames: Vec<String>,
    /// The last record of each mission: its state, and how many events it had.
    pub(crate) records: HashMap<String, (String, usize)>,
    pub(crate) not_found: Vec<String>,
    /// Whether each executor's line stands, by the last digit of its id.
    pub(crate) lines: HashMap<char, bool>,
    pub(crate) line_reports: usize,
}

impl Listener {
    pub(crate) fn start(serve_url: String, adjust: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config { serve_url, ..Config::default() };
        adjust(&mut config);
        let http = Http::new(http::Config::default()).unwrap();
        let (commands, commanded) = mpsc::channel(8);
        let (reporting, reports) = mpsc::channel(8);
        let shutdown = Shutdown::new();
        let running = spawn(worker::run(config, http, commanded, reporting, shutdown.clone()));
        Self {
            commands,
            reports,
            shutdown,
            running,
            frames: Vec::new(),
            records: HashMap::new(),
            not_found: Vec::new(),
            lines: HashMap::new(),
            line_reports: 0,
        }
    }

    pub(crate) async fn follow(&self, mission: &str, executor: Option<u8>) {
        let mission = MissionId::new(mission).unwrap();
        self.commands.send(Command::Follow { mission, executor: executor.map(executor_id) }).await.unwrap();
    }

    pub(crate) async fn unfollow(&self, mission: &str) {
        let mission = MissionId::new(mission).unwrap();
        self.commands.send(Command::Unfollow { mission }).await.unwrap();
    }

    /// Takes reports until `fact` holds.
    pub(crate) async fn until(&mut self, what: &str, mut fact: impl FnMut(&Self) -> bool) {
        let taking = async {
            while !fact(self) {
                let report = self.reports.recv().await.unwrap();
                self.take(report);
            }
        };
        let in_time = tokio::time::timeout(DEADLINE, taking).await.is_ok();
        assert!(
            in_time,
            "never: {what}; records {:?}, lines {:?}, {} frames",
            self.records,
            self.lines,
            self.frames.len()
        );
    }

    fn take(&mut self, report: Report) {
        match report {
            Report::Event { frame } => self.frames.push(frame.raw.as_ref().to_owned()),
            Report::Snapshot { mission, status } => {
                let record = (status.state.as_wire().to_owned(), status.recent_events.len());
                self.records.insert(mission.as_str().to_owned(), record);
            }
            Report::NotFound { mission } => self.not_found.push(mission.as_str().to_owned()),
            Report::Registry { .. } => {}
            Report::Executor { executor, connected, .. } => {
                self.line_reports += 1;
                self.lines.insert(executor.as_str().chars().last().unwrap(), connected);
            }
        }
    }

    /// Ends the worker in order.
    pub(crate) async fn end(self) {
        self.shutdown.start(Cause::Finished);
        tokio::time::timeout(DEADLINE, self.running).await.unwrap().unwrap();
        assert_eq!(self.shutdown.cause(), Some(Cause::Finished));
    }
}

pub(crate) fn executor_id(number: u8) -> ExecutorId {
    ExecutorId::new(format!("00000000-0000-4000-8000-00000000000{number}")).unwrap()
}

/// A progress event, told apart by its number.
pub(crate) fn progress(executor: u8, mission: &str, number: usize) -> String {
    format!(
        r#"{{"event":"mission.progress","executor_id":"{}","mission_id":"{mission}","ts":"2026-01-01T00:00:00.000Z","data":{{"iteration":{number}}}}}"#,
        executor_id(executor)
    )
}
