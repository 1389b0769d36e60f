//! Service: `/api/v1/sessions`.

use crate::domain::id::MAX_ID_BYTES;
use crate::protocol::executor_v1::{DispatchRequest, DispatchResponse};
use crate::protocol::field::FieldError;
use crate::protocol::notice;
use crate::protocol::route;
use crate::registry::assignment::DispatchCall;
use crate::registry::http::body::JsonBody;
use crate::registry::http::params::Segment;
use crate::registry::http::state::App;
use crate::registry::idempotency::Fingerprint;
use crate::registry::refusal::Refusal;
use crate::registry::routing::Explanation;
use crate::registry::worker::Message;
use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::Instant;

/// `POST /api/v1/sessions/{id}/dispatch`.
pub async fn dispatch(
    State(app): State<Arc<App>>,
    Segment(session): Segment,
    headers: HeaderMap,
    JsonBody(body): JsonBody,
) -> Result<(StatusCode, Json<DispatchResponse>), Refusal> {
    let started = Instant::now();
    let answered = decide(&app, session, &headers, &body).await;
    let (status, replayed) = match &answered {
        Ok(response) => (202, response.idempotent_replayed),
        Err(refusal) => (refusal.status(), false),
    };
    app.metrics.dispatched(status, replayed);
    app.metrics.dispatch.observe(started.elapsed());
    Ok((StatusCode::ACCEPTED, Json(answered?)))
}

async fn decide(
    app: &App,
    session: String,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<DispatchResponse, Refusal> {
    if session.is_empty() || session.len() > MAX_ID_BYTES || session.chars().any(char::is_control) {
        let problem = "in the path: use 1 to 256 bytes without control characters";
        return Err(FieldError::new("session", problem).into());
    }
    let request = DispatchRequest::parse(body)?;
    if let Some(url) =
        request.metadata.as_ref().map(|metadata| notice::wanted(metadata.get())).transpose()?.flatten()
    {
        let field = format!("metadata.{}", notice::KEY);
        app.reach.check(&url).map_err(|problem| FieldError::new(field, problem))?;
    }
    let key = idempotency_key(headers)?.unwrap_or_else(|| request.mission_id.to_string());
    let fingerprint = Fingerprint::of(body);
    let call = Box::new(DispatchCall { session, key, fingerprint, request });
    app.registry.ask(|reply| Message::Dispatch { call, reply }).await?
}

/// `POST /api/v1/sessions/{id}/explain`: who would get this mission, and why not the others. Dispatches nothing.
pub async fn explain(
    State(app): State<Arc<App>>,
    JsonBody(body): JsonBody,
) -> Result<Json<Explanation>, Refusal> {
    let request = Box::new(DispatchRequest::parse(&body)?);
    Ok(Json(app.registry.ask(|reply| Message::Explain { request, reply }).await?))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, FieldError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let bad = |problem: &str| FieldError::new("Idempotency-Key", problem);
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_invalid| bad("is not UTF-8"))?.trim();
    match text.len() {
        0 => Err(bad("is empty")),
        1..=512 => Ok(Some(text.to_owned())),
        _ => Err(bad("is longer than 512 bytes")),
    }
}

/// `POST /api/sessions/{id}/dispatch`: moved; 308 keeps the POST a POST.
pub async fn moved(Segment(session): Segment, RawQuery(query): RawQuery) -> Response {
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let target = format!("{}{query}", route::dispatch(&session));
    match HeaderValue::from_str(&target) {
        Ok(location) => (StatusCode::PERMANENT_REDIRECT, [(LOCATION, location)]).into_response(),
        Err(_unprintable) => StatusCode::NOT_FOUND.into_response(),
    }
}
