//! Service: `/api/v1/executors`.

use crate::domain::id::ExecutorId;
use crate::domain::secret::Token;
use crate::protocol::executor_v1::{
    ExecutorList, ExecutorStatus, RegisterRequest, RegisterResponse, SpecVersion, spec_version,
};
use crate::protocol::problem::Problem;
use crate::registry::http::body::JsonBody;
use crate::registry::http::error;
use crate::registry::http::guard::is_operator_token;
use crate::registry::http::params::Segment;
use crate::registry::http::state::{App, Peer};
use crate::registry::identity::{self, TokenRequest};
use crate::registry::refusal::Refusal;
use crate::registry::worker::Message;
use axum::extract::{Extension, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Json, http::HeaderName};
use std::sync::Arc;
use subtle::ConstantTimeEq as _;

const WARNING: HeaderName = HeaderName::from_static("x-aiwg-warning");

/// `POST /api/v1/executors/register`.
pub async fn register(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    JsonBody(body): JsonBody,
) -> Result<Response, Response> {
    let request = RegisterRequest::parse(&body).map_err(|error| Refusal::from(error).into_response())?;
    match spec_version(&request.spec_version) {
        SpecVersion::Same => {}
        SpecVersion::Compatible => tracing::warn!(
            executor.id = %request.executor_id,
            version = request.spec_version,
            "executor speaks another minor version of the contract"
        ),
        SpecVersion::Unsupported => {
            let version = request.spec_version.chars().take(32).collect();
            return Err(Refusal::UnsupportedSpecVersion { version }.into_response());
        }
    }
    let executor_id = request.executor_id.clone();
    let is_remote = !peer.is_local();
    let identity = app.registry.ask(|reply| Message::Identify { id: executor_id.clone(), reply }).await;
    let was_remote = identity.map_err(IntoResponse::into_response)?.is_some_and(|known| known.is_remote);
    let rotate = is_remote && !was_remote;
    let wanted = TokenRequest { executor_id: executor_id.clone(), rotate };
    let issued = app.issuer.issue(wanted).await.map_err(|failure| match failure {
        Some(cause) => error::answer(&Problem::new(500, "identity_store_unusable", cause.to_string())),
        None => Refusal::Unavailable { why: "it is shutting down".to_owned() }.into_response(),
    })?;
    let token_hash = identity::hash(issued.token.reveal());
    let registering = |reply| Message::Register { request: Box::new(request), token_hash, is_remote, reply };
    let registered_at = app.registry.ask(registering).await.map_err(IntoResponse::into_response)?;
    tracing::info!(executor.id = %executor_id, peer = %peer, "executor registered");
    let token = issued.token.reveal().to_owned();
    let answer = RegisterResponse { executor_id: executor_id.clone(), token, registered_at };
    let mut response = (StatusCode::CREATED, Json(answer)).into_response();
    if issued.rotated {
        tracing::warn!(executor.id = %executor_id, peer = %peer, "token rotated: first registration from another host");
        let text = "Token rotated: this executor registered from another host for the first time";
        response.headers_mut().insert(WARNING, HeaderValue::from_static(text));
    }
    Ok(response)
}

/// `GET /api/v1/executors`.
pub async fn list(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Result<Json<ExecutorList>, Refusal> {
    check_any_token(&app, peer, &headers)?;
    let executors = app.registry.ask(|reply| Message::Executors { reply }).await?;
    Ok(Json(ExecutorList { executors }))
}

/// `GET /api/v1/executors/{id}`.
pub async fn get(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    Segment(id): Segment,
    headers: HeaderMap,
) -> Result<Json<ExecutorStatus>, Refusal> {
    check_any_token(&app, peer, &headers)?;
    let id = known_form(&id)?;
    let status = app.registry.ask(|reply| Message::Executor { id: id.clone(), reply }).await?;
    status.map(|status| Json(*status)).ok_or_else(|| Refusal::ExecutorNotFound { id: id.to_string() })
}

/// `DELETE /api/v1/executors/{id}`, with that executor's own token.
pub async fn delete(
    State(app): State<Arc<App>>,
    Segment(id): Segment,
    headers: HeaderMap,
) -> Result<StatusCode, Refusal> {
    let id = known_form(&id)?;
    let token = bearer(&headers).ok_or(Refusal::TokenMissing)?;
    let identity = app.registry.ask(|reply| Message::Identify { id: id.clone(), reply }).await?;
    let identity = identity.ok_or_else(|| Refusal::ExecutorNotFound { id: id.to_string() })?;
    if !is_token(&token, &identity.token_hash) && !is_operator_token(&app, &token) {
        return Err(Refusal::TokenInvalid);
    }
    let reason = "graceful_shutdown";
    app.registry.ask(|reply| Message::Deregister { id: id.clone(), reason, reply }).await??;
    tracing::info!(executor.id = %id, "executor deregistered");
    Ok(StatusCode::NO_CONTENT)
}

/// Ids of another form are of nobody.
pub fn known_form(id: &str) -> Result<ExecutorId, Refusal> {
    ExecutorId::new(id).map_err(|_form| Refusal::ExecutorNotFound { id: id.chars().take(64).collect() })
}

/// Returns the bearer token of a request.
pub fn bearer(headers: &HeaderMap) -> Option<Token> {
    let text = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Token::new(token.trim()))
}

/// Compares a token with a hash, in constant time.
pub fn is_token(token: &Token, hash: &[u8; 32]) -> bool {
    identity::hash(token.reveal()).ct_eq(hash).into()
}

/// A token need not be sent, but one that is sent must be some executor's.
fn check_any_token(app: &App, peer: Peer, headers: &HeaderMap) -> Result<(), Refusal> {
    match headers.get(AUTHORIZATION).map(|_| bearer(headers)) {
        None if peer.is_local() => Ok(()),
        None => Err(Refusal::TokenMissing),
        Some(Some(token)) if app.identities.is_known(&token) || is_operator_token(app, &token) => Ok(()),
        Some(_) => Err(Refusal::TokenInvalid),
    }
}
