//! Executors that keep working whatever breaks: they connect again, say what they own, and say everything again that nobody has
//! confirmed.

use super::peer::{Serve, id, spawn};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

/// Events that an executor sends of each mission, from `mission.started` to `mission.completed`.
pub(crate) const EVENTS: usize = 5;

#[derive(Default)]
struct Executor {
    /// Frames of missions that the registry has not shown to know the end of.
    unconfirmed: BTreeMap<String, Vec<String>>,
    /// What is to be said on the present line.
    queue: VecDeque<String>,
    changed: Arc<Notify>,
}

#[derive(Default)]
struct Everything {
    executors: Vec<Executor>,
    /// Who began a mission, and how often someone did.
    begun: HashMap<String, Vec<usize>>,
}

type Shared = Arc<Mutex<Everything>>;

/// All of them, with one REST surface.
pub(crate) struct Fleet {
    state: Shared,
    /// Where the REST surface is; the n-th executor's is at `/n` below it.
    pub(crate) rest: String,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Fleet {
    /// Starts the REST surface of so many executors.
    pub(crate) async fn start(size: usize) -> Self {
        let executors = (0..size).map(|_| Executor::default()).collect();
        let state: Shared = Arc::new(Mutex::new(Everything { executors, begun: HashMap::new() }));
        let app = axum::Router::new()
            .route("/{executor}/api/v1/sessions/{session}/dispatch", post(begin))
            .route("/{executor}/api/v1/missions/{mission}", get(mission))
            .with_state(Arc::clone(&state));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let rest = format!("http://{}", listener.local_addr().unwrap());
        let serving = spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { state, rest, tasks: vec![serving] }
    }

    /// Registers the n-th executor, whose REST surface the registry finds below `rest`, and keeps its line open over `base`.
    pub(crate) async fn enlist(&mut self, serve: &Serve, number: usize, rest: &str, base: &str) {
        let executor_id = id(u32::try_from(number).unwrap());
        let registration = json!({
            "executor_id": executor_id, "name": "fleet", "version": "1", "spec_version": "1.0.0", "capabilities": [],
            "transport_endpoints": {"rest": format!("{rest}/{number}"), "ws": rest.replace("http", "ws")}
        });
        let answer = serve.post("/api/v1/executors/register", &registration).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let token = answer.body["token"].as_str().unwrap();
        let url = format!("{}/ws/executors/{executor_id}?token={token}", base.replace("http://", "ws://"));
        let state = Arc::clone(&self.state);
        self.tasks.push(spawn(async move {
            loop {
                line(&state, number, &url).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }));
    }

    /// Missions that were begun, each with the executors that began it.
    pub(crate) fn begun(&self) -> HashMap<String, Vec<usize>> {
        self.state.lock().unwrap().begun.clone()
    }
}

/// One connection, from the resync to its end.
async fn line(state: &Shared, number: usize, url: &str) {
    let Ok(Ok((mut socket, _))) = tokio::time::timeout(Duration::from_secs(5), connect_async(url)).await
    else {
        return;
    };
    let (owned, changed) = {
        let executor = &mut state.lock().unwrap().executors[number];
        executor.queue = executor.unconfirmed.values().flatten().cloned().collect();
        (executor.unconfirmed.keys().cloned().collect::<Vec<_>>(), Arc::clone(&executor.changed))
    };
    let data = json!({"owned_mission_ids": owned});
    let resync = frame(number, "executor.resync", None, &data);
    if socket.send(Message::Text(resync.into())).await.is_err() {
        return;
    }
    loop {
        let next = state.lock().unwrap().executors[number].queue.pop_front();
        if let Some(next) = next {
            // The next line says it again if it does not arrive.
            match tokio::time::timeout(Duration::from_secs(5), socket.send(Message::Text(next.into()))).await
            {
                Ok(Ok(())) => continue,
                Ok(Err(_)) | Err(_) => return,
            }
        }
        tokio::select! {
            () = changed.notified() => {}
            heard = socket.next() => match heard {
                Some(Ok(Message::Text(text))) => obey(state, number, &text),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
    }
}

/// An order to stop what is over there already confirms that it is over there.
fn obey(state: &Shared, number: usize, text: &str) {
    let frame: Value = serde_json::from_str(text).unwrap();
    assert_eq!(frame["event"], "mission.aborted", "nobody orders anything else: {frame}");
    let mission = frame["mission_id"].as_str().unwrap();
    state.lock().unwrap().executors[number].unconfirmed.remove(mission);
}

fn frame(number: usize, event: &str, mission: Option<&str>, data: &Value) -> String {
    let ts = jiff::Timestamp::now().to_string();
    let executor_id = id(u32::try_from(number).unwrap());
    let mut frame = json!({"event": event, "executor_id": executor_id, "ts": ts, "data": data});
    if let Some(mission) = mission {
        frame["mission_id"] = mission.into();
    }
    frame.to_string()
}

async fn begin(
    State(state): State<Shared>,
    Path((number, _session)): Path<(usize, String)>,
    body: String,
) -> Response {
    let body: Value = serde_json::from_str(&body).unwrap();
    let mission = body["mission_id"].as_str().unwrap();
    let mut state = state.lock().unwrap();
    let begun = state.begun.entry(mission.to_owned()).or_default();
    begun.push(number);
    if begun.iter().filter(|by| **by == number).count() > 1 {
        // Sent again under the same key: it runs already.
        return (StatusCode::ACCEPTED, axum::Json(json!({"status": "accepted"}))).into_response();
    }
    let words = ["started", "progress", "progress", "progress", "completed"];
    let frames: Vec<String> = words
        .iter()
        .enumerate()
        .map(|(step, word)| {
            let event = format!("mission.{word}");
            frame(number, &event, Some(mission), &json!({"step": step, "exit_code": 0}))
        })
        .collect();
    let executor = &mut state.executors[number];
    executor.queue.extend(frames.iter().cloned());
    executor.unconfirmed.insert(mission.to_owned(), frames);
    executor.changed.notify_one();
    (StatusCode::ACCEPTED, axum::Json(json!({"status": "accepted"}))).into_response()
}

async fn mission(State(state): State<Shared>, Path((number, mission)): Path<(usize, String)>) -> Response {
    let state = state.lock().unwrap();
    if state.begun.get(&mission).is_some_and(|begun| begun.contains(&number)) {
        axum::Json(json!({"mission_id": mission, "state": "running"})).into_response()
    } else {
        StatusCode::NOT_FOUND.into_response()
    }
}
