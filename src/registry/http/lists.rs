//! Service: what is there to be read: missions, those of a session, open questions.

use crate::domain::lifecycle::MissionState;
use crate::domain::time::Timestamp;
use crate::protocol::executor_v1::MissionStatus;
use crate::protocol::field::FieldError;
use crate::registry::http::params::{Params, Segment};
use crate::registry::http::state::App;
use crate::registry::query::{self, MissionFilter};
use crate::registry::record::Mission;
use crate::registry::refusal::Refusal;
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

/// Missions on a page when nobody asks for another number, and the most that anyone gets.
const PAGE: u32 = 100;
const MAX_PAGE: u32 = 1_000;

/// Characters of an objective that a list shows: a line and a half of a wide terminal.
const OBJECTIVE_CHARS: usize = 160;

/// The query of a list.
#[derive(Debug, Default, Deserialize)]
pub struct Wanted {
    session: Option<String>,
    state: Option<String>,
    executor: Option<String>,
    since: Option<String>,
    cursor: Option<String>,
    limit: Option<String>,
}

/// One page of missions.
#[derive(Debug, Serialize)]
pub struct Page {
    missions: Vec<Listed>,
    /// Ask with it for the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// A mission in a list: its status without its events, its session, and how its objective begins.
#[derive(Debug, Serialize)]
struct Listed {
    session_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    objective: Option<String>,
    #[serde(flatten)]
    status: MissionStatus,
}

/// `GET /api/v1/missions`.
pub async fn missions(
    State(app): State<Arc<App>>,
    Params(wanted): Params<Wanted>,
) -> Result<Json<Page>, Refusal> {
    page(&app, filter(wanted)?).await
}

/// `GET /api/v1/sessions/{id}/missions`.
pub async fn of_session(
    State(app): State<Arc<App>>,
    Segment(session): Segment,
    Params(wanted): Params<Wanted>,
) -> Result<Json<Page>, Refusal> {
    page(&app, MissionFilter { session: Some(session), ..filter(wanted)? }).await
}

fn filter(wanted: Wanted) -> Result<MissionFilter, FieldError> {
    let number = |field: &str, text: Option<String>| {
        let read =
            |text: String| text.parse::<u64>().map_err(|_invalid| FieldError::new(field, "is no number"));
        text.map(read).transpose()
    };
    let states = wanted.state.as_deref().unwrap_or_default().split(',').filter(|word| !word.is_empty());
    let states = states
        .map(|word| MissionState::parse(word).map_err(|error| FieldError::new("state", error.to_string())));
    let since = wanted
        .since
        .map(|text| Timestamp::parse(&text).map_err(|error| FieldError::new("since", error.to_string())));
    let limit = wanted.limit.as_deref().map_or(Ok(PAGE), |text| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // A number that is too large for any type is still more than a page holds.
        is_number
            .then(|| text.parse().unwrap_or(MAX_PAGE))
            .ok_or_else(|| FieldError::new("limit", "is no number"))
    });
    Ok(MissionFilter {
        session: wanted.session,
        states: states.collect::<Result<_, _>>()?,
        executor: wanted.executor,
        since: since.transpose()?,
        before: number("cursor", wanted.cursor)?,
        limit: limit?.clamp(1, MAX_PAGE),
    })
}

async fn page(app: &App, filter: MissionFilter) -> Result<Json<Page>, Refusal> {
    let limit = filter.limit;
    // One more than asked tells whether there is a next page.
    let filter = MissionFilter { limit: limit + 1, ..filter };
    let found = app.query(move |reader| {
        let missions = query::missions(reader, &filter)?.into_iter();
        Ok(missions.map(|mission| (begin_of_objective(&mission.order.body), mission)).collect::<Vec<_>>())
    });
    let mut missions = found.await?;
    let has_more = missions.len() > usize::try_from(limit).unwrap_or(usize::MAX);
    missions.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next_cursor = missions.last().filter(|_| has_more).map(|(_, last)| last.number.to_string());
    let connected = connected(app).await?;
    let listed = missions.into_iter().map(|(objective, mission)| {
        let status = mission.status(Vec::new(), connected.contains(mission.executor_id.as_str()));
        Listed { session_id: mission.order.session.clone(), objective, status }
    });
    Ok(Json(Page { missions: listed.collect(), next_cursor }))
}

/// The first line of the objective, as much of it as a list has room for; none for an adopted mission.
fn begin_of_objective(body: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        objective: Cow<'a, str>,
    }
    let Body { objective } = serde_json::from_str(body).ok()?;
    let whole = objective.trim();
    let line = whole.lines().next().unwrap_or_default();
    let begin: String = line.chars().take(OBJECTIVE_CHARS).collect();
    Some(if begin.len() == whole.len() { begin } else { begin + " …" })
}

async fn connected(app: &App) -> Result<HashSet<String>, Refusal> {
    let executors = app.registry.executors().await?;
    Ok(executors.into_iter().filter(|e| e.connected).map(|e| e.executor_id.to_string()).collect())
}

/// An open question.
#[derive(Debug, Serialize)]
struct OpenQuestion {
    mission_id: String,
    session_id: String,
    executor_id: String,
    hitl_id: String,
    prompt: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<String>,
    asked_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
}

/// All open questions.
#[derive(Debug, Serialize)]
pub struct Questions {
    questions: Vec<OpenQuestion>,
}

/// `GET /api/v1/hitl`: the questions that wait for a human, the oldest first.
pub async fn hitl(State(app): State<Arc<App>>) -> Result<Json<Questions>, Refusal> {
    let filter = MissionFilter {
        states: vec![MissionState::HitlRequired],
        limit: MAX_PAGE,
        ..MissionFilter::default()
    };
    let missions = app.query(move |reader| query::missions(reader, &filter)).await?;
    let mut questions: Vec<OpenQuestion> = missions.into_iter().filter_map(open_question).collect();
    questions.sort_by_key(|question| question.asked_at);
    Ok(Json(Questions { questions }))
}

fn open_question(mission: Mission) -> Option<OpenQuestion> {
    let question = mission.question?;
    Some(OpenQuestion {
        mission_id: mission.id.to_string(),
        session_id: mission.order.session.clone(),
        executor_id: mission.executor_id.to_string(),
        hitl_id: question.hitl_id.to_string(),
        prompt: question.prompt,
        context: question.context,
        asked_at: question.asked_at,
        expires_at: question.expires_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_shows_how_an_objective_begins() {
        let begin =
            |objective: &str| begin_of_objective(&serde_json::json!({"objective": objective}).to_string());
        assert_eq!(begin(" fix the \"login\" bug \n").as_deref(), Some("fix the \"login\" bug"));
        assert_eq!(begin("first\nsecond").as_deref(), Some("first …"));
        assert_eq!(begin(&"ä".repeat(161)), Some("ä".repeat(160) + " …"));
        assert_eq!(begin_of_objective(""), None, "an adopted mission has no body");
    }
}
