//! Edge: missions, executors and events as rows of the store, in both directions.

use crate::domain::id::{ExecutorId, HitlId, IdError, MissionId};
use crate::domain::lifecycle::MissionState;
use crate::domain::time::Timestamp;
use crate::protocol::executor_v1::RegisterRequest;
use crate::protocol::route::OperatorCommand;
use crate::registry::idempotency::{Fingerprint, KeyAnswer, KeyEntry};
use crate::registry::record::{ExecutorRecord, Mission, Notice, Order, Question, StoredEvent, TokenHash};
use rusqlite::types::Type;
use rusqlite::{Connection, Error, Result, Row, params};
use serde_json::{Value, json};
use std::sync::Arc;

/// The columns of a mission, in the order in which [`mission`] reads them.
pub(super) const MISSION: &str = "number, mission_id, session, executor_id, state, state_since, state_ts, created_at, \
    updated_at, completed_at, is_accepted, is_resent, estimated_start, pty_session_ref, exit_code, error, question, \
    expired_question, pending, key, fingerprint, long_running, body, events_after";

/// The columns of an event, in the order in which [`event`] reads them.
pub(super) const EVENT: &str = "seq, executor_id, mission_id, kind, ts, raw";

fn broken(index: usize, cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::FromSqlConversionFailure(index, Type::Text, Box::new(cause))
}

fn id<T>(index: usize, made: Result<T, IdError>) -> Result<T> {
    made.map_err(|error| broken(index, error))
}

fn time(row: &Row<'_>, index: usize) -> Result<Timestamp> {
    row.get(index).map(Timestamp::from_millis)
}

fn optional_time(row: &Row<'_>, index: usize) -> Result<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(index)?.map(Timestamp::from_millis))
}

/// Adds a mission or replaces the row with its number.
pub(super) fn put_mission(connection: &Connection, mission: &Mission) -> Result<()> {
    let statement = "INSERT INTO missions (number, mission_id, session, executor_id, state, state_since, state_ts, \
        created_at, updated_at, completed_at, is_accepted, is_resent, estimated_start, pty_session_ref, exit_code, error, \
        question, expired_question, pending, key, fingerprint, long_running, body, events_after) \
        VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,?20,?21,?22,?23,?24) \
        ON CONFLICT (number) DO UPDATE SET session=?3, executor_id=?4, state=?5, state_since=?6, state_ts=?7, \
        created_at=?8, updated_at=?9, completed_at=?10, is_accepted=?11, is_resent=?12, estimated_start=?13, \
        pty_session_ref=?14, exit_code=?15, error=?16, question=?17, expired_question=?18, pending=?19, key=?20, \
        fingerprint=?21, long_running=?22, body=?23, events_after=?24";
    let order = &mission.order;
    connection.prepare_cached(statement)?.execute(params![
        mission.number,
        mission.id.as_str(),
        order.session,
        mission.executor_id.as_str(),
        mission.state.as_wire(),
        mission.state_since.as_millis(),
        mission.state_ts.map(Timestamp::as_millis),
        mission.created_at.as_millis(),
        mission.updated_at.as_millis(),
        mission.completed_at.map(Timestamp::as_millis),
        mission.is_accepted,
        mission.is_resent,
        mission.estimated_start,
        mission.pty_session_ref,
        mission.exit_code,
        mission.error,
        mission.question.as_ref().map(question_text),
        mission.expired_question.as_ref().map(HitlId::as_str),
        mission.pending.map(OperatorCommand::as_str),
        order.key,
        order.fingerprint.0,
        order.long_running,
        order.body,
        mission.events_after,
    ])?;
    Ok(())
}

/// Changes what moves about a mission that has a row.
pub(super) fn update_mission(connection: &Connection, mission: &Mission) -> Result<()> {
    let statement = "UPDATE missions SET state=?2, state_since=?3, state_ts=?4, updated_at=?5, completed_at=?6, \
        is_accepted=?7, is_resent=?8, estimated_start=?9, pty_session_ref=?10, exit_code=?11, error=?12, question=?13, \
        expired_question=?14, pending=?15 WHERE number=?1";
    connection.prepare_cached(statement)?.execute(params![
        mission.number,
        mission.state.as_wire(),
        mission.state_since.as_millis(),
        mission.state_ts.map(Timestamp::as_millis),
        mission.updated_at.as_millis(),
        mission.completed_at.map(Timestamp::as_millis),
        mission.is_accepted,
        mission.is_resent,
        mission.estimated_start,
        mission.pty_session_ref,
        mission.exit_code,
        mission.error,
        mission.question.as_ref().map(question_text),
        mission.expired_question.as_ref().map(HitlId::as_str),
        mission.pending.map(OperatorCommand::as_str),
    ])?;
    Ok(())
}

/// Changes when a mission was heard of last.
pub(super) fn touch_mission(connection: &Connection, number: u64, at: Timestamp) -> Result<()> {
    let statement = "UPDATE missions SET updated_at=?2 WHERE number=?1";
    connection.prepare_cached(statement)?.execute(params![number, at.as_millis()])?;
    Ok(())
}

/// Reads a mission from a row with the columns [`MISSION`].
pub(super) fn mission(row: &Row<'_>) -> Result<Mission> {
    let state: String = row.get(4)?;
    let question: Option<String> = row.get(16)?;
    let expired: Option<String> = row.get(17)?;
    let pending: Option<String> = row.get(18)?;
    Ok(Mission {
        number: row.get(0)?,
        id: id(1, MissionId::new(row.get::<_, String>(1)?))?,
        executor_id: id(3, ExecutorId::new(row.get::<_, String>(3)?))?,
        state: MissionState::parse(&state).map_err(|error| broken(4, error))?,
        state_since: time(row, 5)?,
        state_ts: optional_time(row, 6)?,
        created_at: time(row, 7)?,
        updated_at: time(row, 8)?,
        completed_at: optional_time(row, 9)?,
        is_accepted: row.get(10)?,
        is_resent: row.get(11)?,
        estimated_start: row.get(12)?,
        pty_session_ref: row.get(13)?,
        exit_code: row.get(14)?,
        error: row.get(15)?,
        question: question.as_deref().map(read_question).transpose()?,
        expired_question: expired.map(|text| id(17, HitlId::new(text))).transpose()?,
        pending: pending.as_deref().and_then(OperatorCommand::parse),
        events_after: row.get(23)?,
        order: Arc::new(Order {
            session: row.get(2)?,
            key: row.get(19)?,
            fingerprint: Fingerprint(row.get(20)?),
            long_running: row.get(21)?,
            body: row.get(22)?,
        }),
    })
}

fn question_text(question: &Question) -> String {
    json!({
        "hitl_id": question.hitl_id, "prompt": question.prompt, "context": question.context,
        "asked_at": question.asked_at.as_millis(), "expires_at": question.expires_at.map(Timestamp::as_millis)
    })
    .to_string()
}

fn read_question(text: &str) -> Result<Question> {
    let value: Value = serde_json::from_str(text).map_err(|error| broken(16, error))?;
    let text_of = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let time_of = |key: &str| value.get(key).and_then(Value::as_i64).map(Timestamp::from_millis);
    Ok(Question {
        hitl_id: id(16, HitlId::new(text_of("hitl_id").unwrap_or_default()))?,
        prompt: text_of("prompt").unwrap_or_default(),
        context: text_of("context"),
        asked_at: time_of("asked_at").unwrap_or(Timestamp::EPOCH),
        expires_at: time_of("expires_at"),
    })
}

/// Remembers a key.
pub(super) fn put_key(connection: &Connection, key: &str, entry: &KeyEntry) -> Result<()> {
    let statement = "INSERT OR REPLACE INTO keys (key, mission_id, fingerprint, executor_id, estimated_start) \
        VALUES (?1,?2,?3,?4,?5)";
    connection.prepare_cached(statement)?.execute(params![
        key,
        entry.mission_id.as_str(),
        entry.fingerprint.0,
        entry.answer.as_ref().map(|answer| answer.executor_id.as_str()),
        entry.answer.as_ref().and_then(|answer| answer.estimated_start.as_deref()),
    ])?;
    Ok(())
}

/// Reads a key from a row with `key, mission_id, fingerprint, executor_id, estimated_start`.
pub(super) fn key(row: &Row<'_>) -> Result<(String, KeyEntry)> {
    let executor: Option<String> = row.get(3)?;
    let answer = match executor {
        Some(executor) => {
            Some(KeyAnswer { executor_id: id(3, ExecutorId::new(executor))?, estimated_start: row.get(4)? })
        }
        None => None,
    };
    let mission_id = id(1, MissionId::new(row.get::<_, String>(1)?))?;
    Ok((row.get(0)?, KeyEntry { mission_id, fingerprint: Fingerprint(row.get(2)?), answer }))
}

/// Adds an event.
pub(super) fn put_event(connection: &Connection, event: &StoredEvent) -> Result<()> {
    let statement =
        "INSERT INTO events (seq, executor_id, mission_id, kind, ts, raw) VALUES (?1,?2,?3,?4,?5,?6)";
    connection.prepare_cached(statement)?.execute(params![
        event.seq,
        event.executor_id.as_str(),
        event.mission_id.as_ref().map(MissionId::as_str),
        &*event.kind,
        event.ts.as_millis(),
        &*event.raw,
    ])?;
    Ok(())
}

/// Reads an event from a row with the columns [`EVENT`].
pub(super) fn event(row: &Row<'_>) -> Result<StoredEvent> {
    let mission: Option<String> = row.get(2)?;
    Ok(StoredEvent {
        seq: row.get(0)?,
        executor_id: id(1, ExecutorId::new(row.get::<_, String>(1)?))?,
        mission_id: mission.map(|text| id(2, MissionId::new(text))).transpose()?,
        kind: Arc::from(row.get::<_, String>(3)?),
        ts: time(row, 4)?,
        raw: Arc::from(row.get::<_, String>(5)?),
    })
}

/// The columns of a notice, in the order in which [`notice`] reads them.
pub(super) const NOTICE: &str = "seq, url, kind, raw, since, attempts, due";

/// Adds a notice or replaces it.
pub(super) fn put_notice(connection: &Connection, notice: &Notice) -> Result<()> {
    let statement = "INSERT OR REPLACE INTO notices (seq, url, kind, raw, since, attempts, due) \
        VALUES (?1,?2,?3,?4,?5,?6,?7)";
    connection.prepare_cached(statement)?.execute(params![
        notice.seq,
        notice.url,
        &*notice.kind,
        &*notice.raw,
        notice.since.as_millis(),
        notice.attempts,
        notice.due.as_millis(),
    ])?;
    Ok(())
}

/// Reads a notice from a row with the columns [`NOTICE`].
pub(super) fn notice(row: &Row<'_>) -> Result<Notice> {
    Ok(Notice {
        seq: row.get(0)?,
        url: row.get(1)?,
        kind: Arc::from(row.get::<_, String>(2)?),
        raw: Arc::from(row.get::<_, String>(3)?),
        since: time(row, 4)?,
        attempts: row.get(5)?,
        due: time(row, 6)?,
    })
}

/// Adds an executor or replaces its row.
pub(super) fn put_executor(connection: &Connection, executor: &ExecutorRecord) -> Result<()> {
    let statement = "INSERT OR REPLACE INTO executors (executor_id, registration, token_sha256, place, registered_at, \
        last_event_at, disconnected_at, is_remote, is_draining) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9)";
    let registration = serde_json::to_string(&*executor.registration)
        .map_err(|error| Error::ToSqlConversionFailure(Box::new(error)))?;
    connection.prepare_cached(statement)?.execute(params![
        executor.registration.executor_id.as_str(),
        registration,
        executor.token_hash,
        executor.order,
        executor.registered_at.as_millis(),
        executor.last_event_ts.map(Timestamp::as_millis),
        executor.disconnected_at.map(Timestamp::as_millis),
        executor.is_remote,
        executor.is_draining,
    ])?;
    Ok(())
}

/// Reads an executor from a row of all columns in the order of the schema.
pub(super) fn executor(row: &Row<'_>) -> Result<ExecutorRecord> {
    let text: String = row.get(1)?;
    let registration = RegisterRequest::parse(text.as_bytes()).map_err(|error| broken(1, error))?;
    let token_hash: TokenHash = row.get(2)?;
    Ok(ExecutorRecord {
        registration: Arc::new(registration),
        token_hash,
        order: row.get(3)?,
        registered_at: time(row, 4)?,
        last_event_ts: optional_time(row, 5)?,
        disconnected_at: optional_time(row, 6)?,
        is_remote: row.get(7)?,
        is_draining: row.get(8)?,
    })
}
