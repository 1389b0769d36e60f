//! A registry in this process, and executors and observers that talk to it over real sockets.

use crate::support::DEADLINE;
use aiwg_rs::net::http;
use aiwg_rs::registry::Config;
use aiwg_rs::registry::server;
use aiwg_rs::runtime::shutdown::{Cause, Shutdown};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::{SinkExt as _, StreamExt as _};
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_tls_with_config};

/// Fails loudly when a fact takes too long.
pub(crate) async fn soon<T>(fact: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, Box::pin(fact)).await.unwrap()
}

/// Runs beside the test; whoever starts it ends it.
#[expect(clippy::disallowed_methods, reason = "a peer is no task of the program under test")]
pub(crate) fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(work)
}

/// A running registry.
pub(crate) struct Serve {
    pub(crate) base: String,
    pub(crate) http: reqwest::Client,
    running: Option<(Shutdown, JoinHandle<Result<(), server::ServeError>>)>,
    /// For WebSockets over TLS.
    tls: Option<tokio_tungstenite::Connector>,
}

/// An answer with its body read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Serve {
    pub(crate) async fn start() -> Self {
        Self::with(Config::default()).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        Self::on("127.0.0.1:0", config).await
    }

    pub(crate) async fn on(bind: &str, config: Config) -> Self {
        http::install_tls();
        let listener = TcpListener::bind(bind).await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = Shutdown::new();
        let running = spawn(server::run(listener, config, shutdown.clone()));
        Self { running: Some((shutdown, running)), ..Self::elsewhere(base) }
    }

    /// One that runs in a process of its own.
    pub(crate) fn elsewhere(base: String) -> Self {
        http::install_tls();
        let policy = reqwest::redirect::Policy::none();
        let http = reqwest::Client::builder().no_proxy().redirect(policy).build().unwrap();
        Self { base, http, running: None, tls: None }
    }

    /// One elsewhere whose certificate is of this authority.
    pub(crate) fn over_tls(base: String, authority: &[u8]) -> Self {
        http::install_tls();
        let known = reqwest::Certificate::from_pem(authority).unwrap();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([known]).build().unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(rustls::pki_types::CertificateDer::from_pem_slice(authority).unwrap()).unwrap();
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let tls = Some(tokio_tungstenite::Connector::Rustls(Arc::new(config)));
        Self { base, http: client, running: None, tls }
    }

    pub(crate) async fn stop(self) {
        let (shutdown, running) = self.running.unwrap();
        shutdown.start(Cause::Finished);
        soon(running).await.unwrap().unwrap();
    }

    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = soon(request.send()).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = soon(response.bytes()).await.unwrap();
        Answer { status, headers, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.http.get(format!("{}{path}", self.base))).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.http.post(format!("{}{path}", self.base)).json(body)).await
    }

    pub(crate) async fn dispatch(&self, mission: &str) -> Answer {
        self.dispatch_in("s1", mission).await
    }

    pub(crate) async fn dispatch_in(&self, session: &str, mission: &str) -> Answer {
        self.post(&format!("/api/v1/sessions/{session}/dispatch"), &order(mission)).await
    }

    /// Waits until a mission is in this state.
    pub(crate) async fn mission_in(&self, mission: &str, state: &str) -> Value {
        soon(async {
            loop {
                let answer = self.get(&format!("/api/v1/missions/{mission}")).await;
                if answer.body["state"] == state {
                    return answer.body;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }

    /// Waits until an executor's line is open, or is not.
    pub(crate) async fn executor_connected(&self, id: &str, connected: bool) -> Value {
        soon(async {
            loop {
                let answer = self.get(&format!("/api/v1/executors/{id}")).await;
                if answer.body["connected"] == connected {
                    return answer.body;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }

    /// Opens a WebSocket; `query` begins with `?` or is empty.
    pub(crate) async fn socket(&self, executor: &str, query: &str) -> Socket {
        let url = format!("{}/ws/executors/{executor}{query}", self.base.replacen("http", "ws", 1));
        let tls = self.tls.clone();
        Socket(soon(connect_async_tls_with_config(url, None, true, tls)).await.unwrap().0)
    }
}

/// A dispatch in the strict form.
pub(crate) fn order(mission: &str) -> Value {
    json!({
        "mission_id": mission, "objective": "do it", "completion": "it is done", "long_running": false,
        "executor_filter": {"executor_id": null, "capabilities": []}, "metadata": {"n": 1}
    })
}

/// The n-th executor id.
pub(crate) fn id(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}

/// A WebSocket from outside.
pub(crate) struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    pub(crate) async fn say(&mut self, frame: &Value) {
        self.say_text(frame.to_string()).await;
    }

    pub(crate) async fn say_text(&mut self, text: String) {
        soon(self.0.send(Message::Text(text.into()))).await.unwrap();
    }

    /// Returns the next frame, or the close code.
    pub(crate) async fn hear(&mut self) -> Result<Value, u16> {
        soon(async {
            loop {
                match self.0.next().await {
                    Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                    Some(Ok(Message::Close(frame))) => {
                        return Err(frame.map_or(1005, |frame| frame.code.into()));
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Err(1006),
                }
            }
        })
        .await
    }

    /// Returns the next frame of this kind, skipping others.
    pub(crate) async fn hear_event(&mut self, event: &str) -> Value {
        loop {
            let frame = self.hear().await.unwrap();
            if frame["event"] == event {
                return frame;
            }
        }
    }
}

/// What an executor's REST surface answers.
#[derive(Debug, Clone)]
pub(crate) enum Behaviour {
    Accept,
    Refuse(u16),
    Hang,
    /// 404 on the session route, as executors that know only `/dispatch`.
    OldRouteOnly,
}

/// What an executor's REST surface saw and says.
#[derive(Debug)]
pub(crate) struct Surface {
    pub(crate) behaviour: Behaviour,
    /// Path, bearer token, body of every dispatch.
    pub(crate) dispatches: Vec<(String, String, Value)>,
    /// What it says when asked about any mission; `None` is 404.
    pub(crate) knows: Option<Value>,
    /// When asked about a mission that it was sent, it says that it runs.
    pub(crate) remembers: bool,
    /// Mission and command of every order that came over REST.
    pub(crate) commands: Vec<(String, String)>,
}

/// An executor: its REST surface, and what it registered with.
pub(crate) struct Peer {
    pub(crate) id: String,
    pub(crate) token: String,
    pub(crate) rest: String,
    pub(crate) surface: Arc<Mutex<Surface>>,
    serving: JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Peer {
    /// Starts a REST surface and registers it.
    pub(crate) async fn register(serve: &Serve, number: u32, capabilities: &[&str]) -> Self {
        let surface = Surface {
            behaviour: Behaviour::Accept,
            dispatches: Vec::new(),
            knows: None,
            remembers: false,
            commands: Vec::new(),
        };
        let surface = Arc::new(Mutex::new(surface));
        let app = axum::Router::new()
            .route("/api/v1/sessions/{id}/dispatch", post(new_dispatch))
            .route("/dispatch", post(old_dispatch))
            .route("/api/v1/missions/{id}", get(mission))
            .route("/api/v1/missions/{id}/{command}", post(command))
            .with_state(Arc::clone(&surface));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let rest = format!("http://{}", listener.local_addr().unwrap());
        let serving = spawn(async move { axum::serve(listener, app).await.unwrap() });
        let mut peer = Self { id: id(number), token: String::new(), rest, surface, serving };
        peer.register_again(serve, capabilities).await;
        peer
    }

    pub(crate) async fn register_again(&mut self, serve: &Serve, capabilities: &[&str]) {
        let answer = serve.post("/api/v1/executors/register", &self.registration(capabilities)).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.body["token"].as_str().unwrap().clone_into(&mut self.token);
    }

    pub(crate) fn registration(&self, capabilities: &[&str]) -> Value {
        json!({
            "executor_id": self.id, "name": "peer", "version": "1", "spec_version": "1.0.0",
            "transport_endpoints": {"rest": self.rest, "ws": self.rest.replace("http", "ws")},
            "capabilities": capabilities
        })
    }

    /// Registers and opens the line.
    pub(crate) async fn connected(serve: &Serve, number: u32, capabilities: &[&str]) -> (Self, Socket) {
        let peer = Self::register(serve, number, capabilities).await;
        let socket = peer.connect(serve, &[]).await;
        (peer, socket)
    }

    /// Opens the line and says what it owns.
    pub(crate) async fn connect(&self, serve: &Serve, owned: &[&str]) -> Socket {
        let mut socket = serve.socket(&self.id, &format!("?token={}", self.token)).await;
        socket.say(&self.frame("executor.resync", None, json!({"owned_mission_ids": owned}))).await;
        serve.executor_connected(&self.id, true).await;
        socket
    }

    #[expect(clippy::needless_pass_by_value, reason = "every caller makes the data on the spot")]
    pub(crate) fn frame(&self, event: &str, mission: Option<&str>, data: Value) -> Value {
        let ts = jiff::Timestamp::now().to_string();
        let mut frame = json!({"event": event, "executor_id": self.id, "ts": ts, "data": data});
        if let Some(mission) = mission {
            frame["mission_id"] = mission.into();
        }
        frame
    }

    pub(crate) fn behave(&self, behaviour: Behaviour) {
        self.surface.lock().unwrap().behaviour = behaviour;
    }

    pub(crate) fn dispatches(&self) -> Vec<(String, String, Value)> {
        self.surface.lock().unwrap().dispatches.clone()
    }
}

type Shared = State<Arc<Mutex<Surface>>>;

async fn new_dispatch(
    surface: Shared,
    Path(session): Path<String>,
    headers: HeaderMap,
    body: String,
) -> Response {
    if matches!(surface.lock().unwrap().behaviour, Behaviour::OldRouteOnly) {
        return StatusCode::NOT_FOUND.into_response();
    }
    take(surface, format!("new:{session}"), &headers, &body).await
}

async fn old_dispatch(surface: Shared, headers: HeaderMap, body: String) -> Response {
    take(surface, "old".to_owned(), &headers, &body).await
}

async fn take(State(surface): Shared, path: String, headers: &HeaderMap, body: &str) -> Response {
    let token = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    let behaviour = {
        let mut surface = surface.lock().unwrap();
        let body = serde_json::from_str(body).unwrap();
        surface.dispatches.push((path, token.unwrap_or_default(), body));
        surface.behaviour.clone()
    };
    match behaviour {
        Behaviour::Accept | Behaviour::OldRouteOnly => {
            (StatusCode::ACCEPTED, axum::Json(json!({"estimated_start": "soon"}))).into_response()
        }
        Behaviour::Refuse(status) => {
            let status = StatusCode::from_u16(status).unwrap();
            (status, axum::Json(json!({"error": "no", "detail": "not today"}))).into_response()
        }
        Behaviour::Hang => std::future::pending().await,
    }
}

async fn command(State(surface): Shared, Path(order): Path<(String, String)>) -> StatusCode {
    surface.lock().unwrap().commands.push(order);
    StatusCode::ACCEPTED
}

async fn mission(State(surface): Shared, Path(id): Path<String>) -> Response {
    let surface = surface.lock().unwrap();
    let has =
        surface.remembers && surface.dispatches.iter().any(|(.., body)| body["mission_id"] == id.as_str());
    match surface.knows.clone().or(has.then(|| json!({"mission_id": id, "state": "running"}))) {
        Some(status) => axum::Json(status).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
