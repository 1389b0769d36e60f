//! Service: `/api/v1/missions`.

use crate::protocol::executor_v1::{CommandResponse, HitlResponse, MissionStatus};
use crate::protocol::route::OperatorCommand;
use crate::registry::http::body::JsonBody;
use crate::registry::http::params::Segment;
use crate::registry::http::state::App;
use crate::registry::recovery::Recalled;
use crate::registry::refusal::Refusal;
use crate::registry::worker::Message;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::value::RawValue;
use std::sync::Arc;

type Accepted = (StatusCode, Json<CommandResponse>);

/// `GET /api/v1/missions/{id}`.
pub async fn get(State(app): State<Arc<App>>, Segment(id): Segment) -> Result<Json<MissionStatus>, Refusal> {
    let status = app.registry.ask(|reply| Message::Mission { id: id.clone(), reply }).await?;
    if let Some(status) = status {
        return Ok(Json(*status));
    }
    let recalled = recall(&app, &id).await?.ok_or(Refusal::MissionNotFound { id })?;
    let events = recalled.events.iter().filter_map(|event| RawValue::from_string(event.raw.to_string()).ok());
    Ok(Json(recalled.mission.status(events.collect(), false)))
}

/// Looks for an ended mission that has left the memory.
async fn recall(app: &App, id: &str) -> Result<Option<Recalled>, Refusal> {
    let asked = id.to_owned();
    let recalled = app.query(move |reader| reader.recall(&asked)).await?;
    Ok(recalled.filter(|found| found.mission.id.as_str() == id))
}

/// An order or an answer for a mission that has left the memory: it has ended.
async fn ended(app: &App, refusal: Refusal) -> Refusal {
    let Refusal::MissionNotFound { id } = refusal else { return refusal };
    match recall(app, &id).await {
        Ok(Some(found)) => {
            Refusal::MissionTerminal { mission_id: found.mission.id, state: found.mission.state }
        }
        Ok(None) => Refusal::MissionNotFound { id },
        Err(refusal) => refusal,
    }
}

/// `POST /api/v1/missions/{id}/hitl_response`.
pub async fn hitl_response(
    State(app): State<Arc<App>>,
    Segment(id): Segment,
    JsonBody(body): JsonBody,
) -> Result<Accepted, Refusal> {
    let answer = HitlResponse::parse(&body)?;
    let hitl_id = answer.hitl_id.to_string();
    let answered = app.registry.ask(|reply| Message::Answer { id, answer, reply }).await?;
    let response = match answered {
        Ok(response) => response,
        Err(refusal) => {
            let refusal = ended(&app, refusal).await;
            return Err(if let Refusal::MissionTerminal { mission_id, .. } = refusal {
                Refusal::HitlNotPending { mission_id, hitl_id }
            } else {
                refusal
            });
        }
    };
    Ok((StatusCode::ACCEPTED, Json(response)))
}

/// `POST /api/v1/missions/{id}/pause`.
pub async fn pause(app: State<Arc<App>>, id: Segment) -> Result<Accepted, Refusal> {
    command(app, id, OperatorCommand::Pause).await
}

/// `POST /api/v1/missions/{id}/resume`.
pub async fn resume(app: State<Arc<App>>, id: Segment) -> Result<Accepted, Refusal> {
    command(app, id, OperatorCommand::Resume).await
}

/// `POST /api/v1/missions/{id}/abort`.
pub async fn abort(app: State<Arc<App>>, id: Segment) -> Result<Accepted, Refusal> {
    command(app, id, OperatorCommand::Abort).await
}

async fn command(
    State(app): State<Arc<App>>,
    Segment(id): Segment,
    command: OperatorCommand,
) -> Result<Accepted, Refusal> {
    let ordered = app.registry.ask(|reply| Message::Command { id, command, reply }).await?;
    let response = match ordered {
        Ok(response) => response,
        Err(refusal) => return Err(ended(&app, refusal).await),
    };
    Ok((StatusCode::ACCEPTED, Json(response)))
}
