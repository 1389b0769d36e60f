//! Service: `/api/v1/missions`.

use crate::protocol::executor_v1::{CommandResponse, HitlResponse, MissionStatus};
use crate::protocol::route::OperatorCommand;
use crate::registry::http::body::JsonBody;
use crate::registry::http::state::App;
use crate::registry::refusal::Refusal;
use crate::registry::worker::Message;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use std::sync::Arc;

type Accepted = (StatusCode, Json<CommandResponse>);

/// `GET /api/v1/missions/{id}`.
pub async fn get(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<MissionStatus>, Refusal> {
    let status = app.registry.ask(|reply| Message::Mission { id: id.clone(), reply }).await?;
    status.map(|status| Json(*status)).ok_or(Refusal::MissionNotFound { id })
}

/// `POST /api/v1/missions/{id}/hitl_response`.
pub async fn hitl_response(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody,
) -> Result<Accepted, Refusal> {
    let answer = HitlResponse::parse(&body)?;
    let response = app.registry.ask(|reply| Message::Answer { id, answer, reply }).await??;
    Ok((StatusCode::ACCEPTED, Json(response)))
}

/// `POST /api/v1/missions/{id}/pause`.
pub async fn pause(app: State<Arc<App>>, id: Path<String>) -> Result<Accepted, Refusal> {
    command(app, id, OperatorCommand::Pause).await
}

/// `POST /api/v1/missions/{id}/resume`.
pub async fn resume(app: State<Arc<App>>, id: Path<String>) -> Result<Accepted, Refusal> {
    command(app, id, OperatorCommand::Resume).await
}

/// `POST /api/v1/missions/{id}/abort`.
pub async fn abort(app: State<Arc<App>>, id: Path<String>) -> Result<Accepted, Refusal> {
    command(app, id, OperatorCommand::Abort).await
}

async fn command(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    command: OperatorCommand,
) -> Result<Accepted, Refusal> {
    let response = app.registry.ask(|reply| Message::Command { id, command, reply }).await??;
    Ok((StatusCode::ACCEPTED, Json(response)))
}
