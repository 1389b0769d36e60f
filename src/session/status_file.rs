//! Pure: `bridge-status.json`, what a running bridge knows and the folder cannot show.
//!
//! It lies beside `sessions/`, is written whole at most once a second and at least every [`HEARTBEAT`], and answers the
//! question that a waiting mission raises: why? Whoever reads it says when it is stale.

use crate::domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The file's name in the watched folder.
pub const FILE_NAME: &str = "bridge-status.json";

/// How often it is written when nothing changes.
pub const HEARTBEAT: Duration = Duration::from_secs(5);

/// After this long without a heartbeat the bridge is gone or stuck: three heartbeats missed.
pub const STALE_AFTER: Duration = Duration::from_secs(15);

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BridgeStatus {
    /// Version of this format: 1.
    pub format: u32,
    /// Process id of the bridge.
    pub pid: u32,
    /// When the bridge started.
    pub started_at: Timestamp,
    /// When this was written.
    pub updated_at: Timestamp,
    /// It ended in order; nobody is watching.
    pub ended: bool,
    /// The registry's address.
    pub serve_url: String,
    /// Since when the registry cannot be reached, if it cannot.
    pub unreachable_since: Option<Timestamp>,
    /// Why it cannot.
    pub unreachable_cause: Option<String>,
    /// Whether the operating system tells about changes, or the folder is polled.
    pub watch_native: bool,
    /// Why it is polled, if it is.
    pub watch_why: Option<String>,
    /// Sessions in the folder.
    pub sessions: usize,
    /// Requests that are open.
    pub in_flight: usize,
    /// Missions that wait for a slot or for the registry.
    pub queued: usize,
    /// Missions accepted by the registry since the start.
    pub accepted: u64,
    /// Bytes written to `session.json` files since the start.
    pub written_bytes: u64,
    /// Missions that were begun and are held up, and live ones that the registry does not know; at most 1,000 of each.
    pub delayed: Vec<Delayed>,
    /// Sessions whose file cannot be read; at most 1,000.
    pub unreadable: Vec<UnreadableSession>,
    /// Missions that cannot be used; at most 1,000.
    pub problems: Vec<MissionProblem>,
    /// Sessions whose file cannot be written; at most 1,000.
    pub unwritable: Vec<UnwritableSession>,
}

/// A mission that is held up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delayed {
    /// The session.
    pub session: String,
    /// The mission.
    pub mission: String,
    /// When it is tried again, when that is known.
    pub until: Option<Timestamp>,
    /// Why it waits, for people.
    pub why: String,
    /// Requests sent so far.
    pub attempts: u32,
}

/// A session whose file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnreadableSession {
    /// The session.
    pub session: String,
    /// Line of the fault, from 1, when it is one of syntax.
    pub line: Option<usize>,
    /// Column of the fault, from 1, when it is one of syntax.
    pub column: Option<usize>,
    /// What is wrong, for people.
    pub message: String,
}

/// A mission that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MissionProblem {
    /// The session.
    pub session: String,
    /// The place in `missions[]`, from 0.
    pub index: usize,
    /// The field.
    pub field: String,
    /// What is wrong, for people.
    pub message: String,
}

/// A session whose file cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnwritableSession {
    /// The session.
    pub session: String,
    /// What is wrong, for people.
    pub message: String,
}

impl BridgeStatus {
    /// Says whether nobody keeps this up to date at `now`.
    pub fn is_stale(&self, now: Timestamp) -> bool {
        self.ended || now.since(self.updated_at) > STALE_AFTER
    }
}
