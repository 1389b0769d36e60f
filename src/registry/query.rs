//! Edge: lists out of the store, page by page.

use crate::domain::id::{ExecutorId, MissionId};
use crate::domain::lifecycle::MissionState;
use crate::domain::time::Timestamp;
use crate::protocol::executor_v1::MAX_RECENT_EVENTS;
use crate::registry::record::{Mission, Notice, StoredEvent};
use crate::registry::row;
use crate::registry::store::{Reader, StoreError};
use rusqlite::types::Value;
use rusqlite::{OptionalExtension as _, params, params_from_iter};
use std::sync::Arc;

/// Which missions are wanted, newest first.
#[derive(Debug, Clone, Default)]
pub struct MissionFilter {
    /// Of this session.
    pub session: Option<String>,
    /// In one of these states; empty for all.
    pub states: Vec<MissionState>,
    /// Run by this executor.
    pub executor: Option<String>,
    /// Changed at or after this time.
    pub since: Option<Timestamp>,
    /// Only those with a smaller number: where the page before ended.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: u32,
}

/// Which events are wanted, oldest first.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Of this executor.
    pub executor: Option<String>,
    /// Of this mission.
    pub mission: Option<String>,
    /// Whose name begins so, such as `mission.` or `mission.completed`.
    pub kind: Option<String>,
}

impl EventFilter {
    /// Says whether an event is wanted.
    pub fn wants(&self, event: &StoredEvent) -> bool {
        let mission = event.mission_id.as_ref().map(AsRef::as_ref);
        self.executor.as_deref().is_none_or(|executor| executor == event.executor_id.as_str())
            && self.mission.as_deref().is_none_or(|wanted| mission == Some(wanted))
            && self.kind.as_deref().is_none_or(|kind| event.kind.starts_with(kind))
    }
}

/// Returns one page of missions.
///
/// # Errors
/// [`StoreError::Database`].
pub fn missions(reader: &Reader, filter: &MissionFilter) -> Result<Vec<Mission>, StoreError> {
    let mut conditions: Vec<String> = Vec::new();
    let mut values: Vec<Value> = Vec::new();
    let mut add = |condition: &str, value: Value| {
        conditions.push(condition.to_owned());
        values.push(value);
    };
    if let Some(session) = &filter.session {
        add("session = ?", Value::from(session.clone()));
    }
    if let Some(executor) = &filter.executor {
        add("executor_id = ?", Value::from(executor.clone()));
    }
    if let Some(since) = filter.since {
        add("updated_at >= ?", Value::from(since.as_millis()));
    }
    if let Some(before) = filter.before {
        add("number < ?", Value::from(i64::try_from(before).unwrap_or(i64::MAX)));
    }
    if !filter.states.is_empty() {
        let marks = vec!["?"; filter.states.len()].join(",");
        conditions.push(format!("state IN ({marks})"));
        values.extend(filter.states.iter().map(|state| Value::from(state.as_wire().to_owned())));
        if filter.states.iter().all(|state| !state.is_terminal()) {
            // Lets the index of live missions be used, which is short.
            conditions.push("completed_at IS NULL".to_owned());
        }
    }
    let filtered =
        if conditions.is_empty() { String::new() } else { format!("WHERE {}", conditions.join(" AND ")) };
    let (columns, limit) = (row::MISSION, filter.limit);
    let query = format!("SELECT {columns} FROM missions {filtered} ORDER BY number DESC LIMIT {limit}");
    reader.read(|connection| {
        let mut statement = connection.prepare_cached(&query)?;
        statement.query_map(params_from_iter(values), row::mission)?.collect()
    })
}

/// Returns the events after `after` that are wanted, at most `limit` rows of them looked at, and the number of the last row that
/// was looked at: the place to go on from, whether or not anything was wanted.
///
/// # Errors
/// [`StoreError::Database`].
pub fn events(
    reader: &Reader,
    filter: &EventFilter,
    after: u64,
    limit: u32,
) -> Result<(Vec<StoredEvent>, Option<u64>), StoreError> {
    let columns = row::EVENT;
    let query = format!("SELECT {columns} FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2");
    reader.read(|connection| {
        let mut statement = connection.prepare_cached(&query)?;
        let rows = statement.query_map(params![after, limit], row::event)?;
        let events = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        let last = events.last().map(|event| event.seq);
        Ok((events.into_iter().filter(|event| filter.wants(event)).collect(), last))
    })
}

/// Most missions of which [`ended_lately`] tells, and bytes of their events.
const ENDED_MISSIONS: usize = 256;
const ENDED_BYTES: usize = 8 << 20;

/// Returns what missions of an executor said last that ended after `since`, up to the event `until`: of each its last events, in
/// order, those that ended first before the others. At most 256 missions and 8 MiB, the newest, and only of the last two
/// thousand that ended anywhere.
///
/// # Errors
/// [`StoreError::Database`].
pub fn ended_lately(
    reader: &Reader,
    executor: &ExecutorId,
    since: Timestamp,
    until: u64,
) -> Result<Vec<(MissionId, Arc<str>)>, StoreError> {
    let missions = "SELECT mission_id, events_after FROM (SELECT mission_id, events_after, executor_id FROM missions \
        WHERE completed_at >= ?1 ORDER BY completed_at DESC LIMIT 2000) WHERE executor_id = ?2 LIMIT ?3";
    let columns = row::EVENT;
    let events = format!(
        "SELECT {columns} FROM events WHERE mission_id = ?1 AND seq > ?2 AND seq <= ?3 ORDER BY seq DESC LIMIT ?4"
    );
    reader.read(|connection| {
        let mut missions = connection.prepare_cached(missions)?;
        let found = missions
            .query_map(params![since.as_millis(), executor.as_str(), ENDED_MISSIONS], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, u64>(1)?))
            })?;
        let mut events = connection.prepare_cached(&events)?;
        let (mut backwards, mut bytes) = (Vec::new(), 0);
        for mission in found {
            let (id, after) = mission?;
            let rows = events.query_map(params![id, after, until, MAX_RECENT_EVENTS], row::event)?;
            for event in rows {
                let StoredEvent { mission_id, raw, .. } = event?;
                bytes += raw.len();
                backwards.extend(mission_id.map(|mission| (mission, raw)));
            }
            if bytes > ENDED_BYTES {
                break;
            }
        }
        backwards.reverse();
        Ok(backwards)
    })
}

/// Returns up to which event a webhook has been sent everything; `None` for one that is new.
///
/// # Errors
/// [`StoreError::Database`].
pub fn webhook_place(reader: &Reader, url: &str) -> Result<Option<u64>, StoreError> {
    reader.read(|connection| {
        let query = "SELECT reached FROM webhooks WHERE url = ?1";
        connection.query_row(query, [url], |row| row.get(0)).optional()
    })
}

/// Returns the notices that are due first, at most `limit`.
///
/// # Errors
/// [`StoreError::Database`].
pub fn notices(reader: &Reader, limit: u32) -> Result<Vec<Notice>, StoreError> {
    let columns = row::NOTICE;
    let query = format!("SELECT {columns} FROM notices ORDER BY due LIMIT ?1");
    reader.read(|connection| {
        let mut statement = connection.prepare_cached(&query)?;
        statement.query_map([limit], row::notice)?.collect()
    })
}

/// Returns the number of the newest event; 0 when there is none.
///
/// # Errors
/// [`StoreError::Database`].
pub fn last_event(reader: &Reader) -> Result<u64, StoreError> {
    reader.read(|connection| {
        connection.query_row("SELECT coalesce(max(seq), 0) FROM events", [], |row| row.get(0))
    })
}
