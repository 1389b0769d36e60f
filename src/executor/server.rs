//! Service: the REST surface that the registry forwards to, and the door through which it may dial in.
//!
//! Orders need the token that the registry gave this executor. Reading needs none from this host, but a page in a browser
//! must not get in: the host must be ours, an origin is refused.

use crate::domain::id::MissionId;
use crate::domain::secret::Token;
use crate::executor::digest::strip;
use crate::executor::effect::{Event, Refusal};
use crate::executor::line::{Line, Lines};
use crate::executor::log_file::{self, Position};
use crate::executor::roster::{Accepted, Dispatch, OrderRefused, Refused, Roster};
use crate::executor::store::MissionRecord;
use crate::protocol::executor_v1::{
    CommandResponse, DispatchRequest, DispatchResponse, HitlResponse, MissionStatus,
};
use crate::protocol::problem::{CONTENT_TYPE, Problem};
use crate::runtime::shutdown::Shutdown;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State, WebSocketUpgrade};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Largest body of a request, in bytes: the limit of the contract.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// How long a sender should wait when everything is full.
const RETRY_AFTER: &str = "5";

/// How often a followed log is looked at.
const FOLLOW_EVERY: Duration = Duration::from_millis(100);

/// Bytes of log in one chunk.
const LOG_CHUNK: usize = 256 * 1024;

/// What the routes share.
#[derive(Debug, Clone)]
pub struct Surface {
    /// The missions.
    pub roster: Roster,
    /// The token that the registry gave us.
    pub token: watch::Receiver<Option<Token>>,
    /// Control lines.
    pub lines: Lines,
    /// The end.
    pub shutdown: Shutdown,
    /// Where we listen.
    pub address: SocketAddr,
}

/// Returns all routes.
pub fn router(surface: Surface) -> Router {
    Router::new()
        .route("/api/v1/sessions/{session}/dispatch", post(dispatch))
        .route("/dispatch", post(old_dispatch))
        .route("/api/v1/missions/{mission}", get(mission))
        .route("/api/v1/missions/{mission}/log", get(log))
        .route("/api/v1/missions/{mission}/pause", post(pause))
        .route("/api/v1/missions/{mission}/resume", post(resume))
        .route("/api/v1/missions/{mission}/abort", post(abort))
        .route("/api/v1/missions/{mission}/hitl_response", post(answer))
        .route("/api/health", get(health))
        .route("/ws/executors/{executor}", get(control_line))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(surface.clone(), guard))
        .with_state(surface)
}

/// How long a server of the older route may take to note whom it gave a mission to: the Node registry drops what it hears
/// before. 500 ms: it does little else between reading our answer and that.
const SETTLING: Duration = Duration::from_millis(500);

/// How long it may take until our answer is ready: a durable write, on a slow disk.
const TAKING_IN: Duration = Duration::from_secs(10);

/// Serves until the shutdown is complete.
///
/// # Errors
/// The listener broke.
pub async fn run(
    listener: TcpListener,
    surface: Surface,
    end: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, router(surface)).with_graceful_shutdown(end).await
}

fn refuse(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, problem.to_json()).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    response
}

fn problem(status: u16, error: &str, detail: impl Into<String>) -> Response {
    refuse(&Problem::new(status, error, detail))
}

async fn guard(State(surface): State<Surface>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(host) = text(header::HOST)
        && surface.address.ip().is_loopback()
        && !is_own_host(host)
    {
        return problem(421, "misdirected_request", format!("{host} is not this host"));
    }
    if let Some(origin) = text(header::ORIGIN) {
        return problem(403, "foreign_origin", format!("pages of {origin} may not ask this executor"));
    }
    let is_order = request.method() == axum::http::Method::POST;
    let has_body = text(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
    let is_json = text(header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/json"));
    if is_order && has_body && !is_json {
        return problem(415, "unsupported_media_type", "send application/json");
    }
    let is_line = request.uri().path().starts_with("/ws/");
    if (is_order || is_line) && !is_authorized(&surface, headers, request.uri().query()) {
        return problem(401, "token_invalid", "send the bearer token that the registry gave this executor");
    }
    next.run(request).await
}

fn is_own_host(host: &str) -> bool {
    let name =
        host.rsplit_once(':').map_or(host, |(name, port)| if port.contains(']') { host } else { name });
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

fn is_authorized(surface: &Surface, headers: &HeaderMap, query: Option<&str>) -> bool {
    let Some(expected) = surface.token.borrow().clone() else { return false };
    let bearer = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()?.strip_prefix("Bearer "));
    let in_query = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("token="));
    bearer.or(in_query).is_some_and(|sent| Token::new(sent) == expected)
}

async fn dispatch(
    State(surface): State<Surface>,
    Path(session): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    take_in(&surface, Some(session), &headers, &body).await
}

async fn old_dispatch(State(surface): State<Surface>, headers: HeaderMap, body: Bytes) -> Response {
    take_in(&surface, None, &headers, &body).await
}

/// Takes a mission in; without a session it came over the older route.
async fn take_in(surface: &Surface, session: Option<String>, headers: &HeaderMap, body: &[u8]) -> Response {
    let request = match DispatchRequest::parse(body) {
        Ok(request) => request,
        Err(error) => {
            return refuse(
                &Problem::new(400, "invalid_request", error.to_string()).with("field", error.field),
            );
        }
    };
    let payload: Value = match serde_json::from_slice(body) {
        Ok(payload) => payload,
        Err(error) => return problem(400, "invalid_request", error.to_string()),
    };
    let named = |pointer: &str| payload.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let is_old_route = session.is_none();
    let session = session
        .or_else(|| named("/session_id"))
        .or_else(|| named("/metadata/mc_session_id"))
        .unwrap_or_else(|| "default".to_owned());
    let key = headers.get("idempotency-key").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mission = request.mission_id;
    let reporter = &surface.roster.shared.reporter;
    if is_old_route {
        reporter.hold(&mission, TAKING_IN);
    }
    let outcome = surface.roster.dispatch(Dispatch { mission: mission.clone(), session, key, payload }).await;
    if is_old_route {
        reporter.hold(&mission, SETTLING);
    }
    match outcome {
        Ok(accepted) => {
            let answer = DispatchResponse {
                mission_id: mission,
                executor_id: surface.roster.shared.executor.clone(),
                status: "assigned".to_owned(),
                estimated_start: None,
                dispatch_path: "v1".to_owned(),
                idempotent_replayed: accepted == Accepted::Replayed,
            };
            (StatusCode::ACCEPTED, Json(answer)).into_response()
        }
        Err(refused) => {
            let (status, word) = match &refused {
                Refused::Full { .. } => (503, "executor_full"),
                Refused::Ending => (503, "executor_shutting_down"),
                Refused::Differs { .. } => (422, "idempotency_key_reused"),
                Refused::InProgress { .. } => (409, "idempotency_conflict"),
                Refused::Order(_) => (422, "not_possible_here"),
                Refused::Store(_) => (500, "state_not_writable"),
            };
            let mut response = problem(status, word, refused.to_string());
            let wait = match refused {
                Refused::Full { .. } | Refused::Ending => Some(RETRY_AFTER),
                Refused::InProgress { .. } => Some("1"),
                Refused::Differs { .. } | Refused::Order(_) | Refused::Store(_) => None,
            };
            if let Some(wait) = wait {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(wait));
            }
            response
        }
    }
}

fn find(surface: &Surface, mission: &str) -> Result<MissionRecord, Box<Response>> {
    let unknown =
        || Box::new(problem(404, "mission_not_found", format!("there is no mission {mission:?} here")));
    let id = MissionId::new(mission).map_err(|_invalid| unknown())?;
    match surface.roster.record(&id) {
        Ok(Some(record)) => Ok(record),
        Ok(None) => Err(unknown()),
        Err(error) => Err(Box::new(problem(500, "state_not_readable", error.to_string()))),
    }
}

async fn mission(State(surface): State<Surface>, Path(mission): Path<String>) -> Response {
    match find(&surface, &mission) {
        Ok(record) => Json(status(&surface, record)).into_response(),
        Err(response) => *response,
    }
}

fn status(surface: &Surface, record: MissionRecord) -> MissionStatus {
    let last: Value = record
        .recent_events
        .last()
        .and_then(|event| serde_json::from_str(event.get()).ok())
        .unwrap_or(Value::Null);
    let ended = record.state.is_terminal();
    let word = |pointer: &str| last.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    MissionStatus {
        mission_id: record.mission_id,
        executor_id: Some(surface.roster.shared.executor.clone()),
        state: record.state,
        created_at: Some(record.accepted_at),
        updated_at: Some(record.updated_at),
        completed_at: ended.then_some(record.updated_at),
        exit_code: last.pointer("/data/exit_code").and_then(Value::as_i64).filter(|_| ended),
        error: word("/data/error").or_else(|| word("/data/reason")).filter(|_| ended),
        recent_events: record.recent_events,
        pty_session_ref: None,
        waiting: None,
        never_began: None,
    }
}

#[derive(Debug, Deserialize)]
struct LogQuery {
    #[serde(default)]
    follow: Option<String>,
    #[serde(default)]
    plain: Option<String>,
}

fn is_set(flag: Option<&str>) -> bool {
    flag.is_some_and(|text| !matches!(text, "0" | "false" | "no"))
}

async fn log(
    State(surface): State<Surface>,
    Path(mission): Path<String>,
    Query(query): Query<LogQuery>,
) -> Response {
    let record = match find(&surface, &mission) {
        Ok(record) => record,
        Err(response) => return *response,
    };
    let follow = is_set(query.follow.as_deref());
    let plain = is_set(query.plain.as_deref());
    let directory = surface.roster.shared.store.directory_of(&record.mission_id);
    let begin = (surface, directory, Position::default(), false);
    let chunks = futures_util::stream::unfold(begin, move |(surface, directory, mut position, mut done)| {
        let mission = record.mission_id.clone();
        async move {
            loop {
                // Asked before reading: what was written before the end is read after it.
                let live = surface.roster.live().contains(&mission);
                let (place, mut at) = (directory.clone(), position);
                let read =
                    tokio::task::spawn_blocking(move || (log_file::read(&place, &mut at, LOG_CHUNK), at))
                        .await;
                let Ok((Ok(bytes), at)) = read else { return None };
                position = at;
                if !bytes.is_empty() {
                    let bytes = if plain { strip(&bytes).into_bytes() } else { bytes };
                    return Some((
                        Ok::<_, std::io::Error>(Bytes::from(bytes)),
                        (surface, directory, position, done),
                    ));
                }
                if done || !follow || surface.shutdown.is_started() {
                    return None;
                }
                done = !live;
                if live {
                    tokio::time::sleep(FOLLOW_EVERY).await;
                }
            }
        }
    });
    let mut response = Body::from_stream(chunks).into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn order(surface: &Surface, mission: &str, event: Event) -> Response {
    let Ok(id) = MissionId::new(mission) else {
        return problem(404, "mission_not_found", format!("there is no mission {mission:?} here"));
    };
    match surface.roster.order(&id, event).await {
        Ok(status) => {
            (StatusCode::ACCEPTED, Json(CommandResponse { mission_id: id, status })).into_response()
        }
        Err(refused) => {
            let (status, word) = match &refused {
                OrderRefused::Unknown { .. } => (404, "mission_not_found"),
                OrderRefused::Refused(Refusal::Terminal) => (409, "mission_terminal"),
                OrderRefused::Refused(Refusal::Illegal(_)) => (409, "illegal_transition"),
                OrderRefused::Refused(Refusal::NotPending) => (409, "hitl_not_pending"),
                OrderRefused::Busy { .. } => (503, "mission_busy"),
            };
            problem(status, word, refused.to_string())
        }
    }
}

async fn pause(State(surface): State<Surface>, Path(mission): Path<String>) -> Response {
    order(&surface, &mission, Event::OrderPause).await
}

async fn resume(State(surface): State<Surface>, Path(mission): Path<String>) -> Response {
    order(&surface, &mission, Event::OrderResume).await
}

async fn abort(State(surface): State<Surface>, Path(mission): Path<String>) -> Response {
    order(&surface, &mission, Event::OrderAbort { by: "operator".to_owned(), reason: None }).await
}

async fn answer(State(surface): State<Surface>, Path(mission): Path<String>, body: Bytes) -> Response {
    match HitlResponse::parse(&body) {
        Ok(answer) => {
            order(&surface, &mission, Event::Answer { id: answer.hitl_id, response: answer.response }).await
        }
        Err(error) => {
            refuse(&Problem::new(400, "invalid_request", error.to_string()).with("field", error.field))
        }
    }
}

async fn health(State(surface): State<Surface>) -> Response {
    let roster = &surface.roster;
    Json(json!({
        "status": "ok", "executor_id": roster.shared.executor, "missions": roster.live().len(),
        "max_concurrency": roster.shared.config.max_concurrency, "connected": surface.lines.is_open(),
    }))
    .into_response()
}

async fn control_line(
    State(surface): State<Surface>,
    Path(executor): Path<String>,
    upgrade: WebSocketUpgrade,
) -> Response {
    if executor != surface.roster.shared.executor.as_str() {
        return problem(404, "executor_not_found", "that is another executor");
    }
    upgrade.max_message_size(MAX_BODY_BYTES).on_upgrade(move |socket| async move {
        let line = Line::Inbound(Box::new(socket));
        let gone = surface.lines.serve(line, &surface.roster, &surface.shutdown).await;
        tracing::debug!(reason = ?gone, "the registry's line is gone");
    })
}
