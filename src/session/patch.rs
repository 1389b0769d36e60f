//! Pure: from an event to the fields it leaves in the mission's file.
//!
//! Missing values are written as null, so that a reader can tell "none" from "not yet"; times are the event's own.

use crate::domain::event::MissionEvent;
use crate::domain::time::Timestamp;
use crate::session::json::quoted;

/// Every key that the bridge writes into a mission, besides `status`.
pub const OUR_KEYS: [&str; 32] = [
    "executorId",
    "dispatchedAt",
    "dispatchAttempts",
    "estimatedStart",
    "startedAt",
    "agentRuntime",
    "ptySessionId",
    "lastAction",
    "loop",
    "hitlId",
    "hitlPrompt",
    "hitlContext",
    "hitlAt",
    "hitlRespondedAt",
    "hitlResponse",
    "pausedAt",
    "pauseReason",
    "suspendedAt",
    "checkpointId",
    "suspendReason",
    "resumedAt",
    "resumedFrom",
    "completedAt",
    "exitCode",
    "summary",
    "failedAt",
    "failureReason",
    "failureMessage",
    "abortedAt",
    "abortedBy",
    "abortReason",
    "attempts",
];

/// The keys that nobody but a bridge writes: a mission that has one of them was dispatched once.
pub const MARKS: [&str; 6] =
    ["dispatchAttempts", "executorId", "dispatchedAt", "failedAt", "failureReason", "abortedAt"];

/// Returns the canonical spelling of one of our keys.
pub fn our_key(key: &str) -> Option<&'static str> {
    OUR_KEYS.into_iter().find(|ours| *ours == key)
}

fn text(value: Option<&str>) -> String {
    value.map_or_else(|| "null".to_owned(), quoted)
}

fn number(value: Option<i64>) -> String {
    value.map_or_else(|| "null".to_owned(), |n| n.to_string())
}

/// Returns the fields that `event`, stamped `ts`, leaves in the mission.
pub fn fields(event: &MissionEvent, ts: Timestamp) -> Vec<(&'static str, String)> {
    let at = quoted(&ts.to_string());
    match event {
        MissionEvent::Assigned { estimated_start: None }
        | MissionEvent::Reconnected { .. }
        | MissionEvent::Other { .. } => Vec::new(),
        MissionEvent::Assigned { estimated_start } => {
            vec![("estimatedStart", text(estimated_start.as_deref()))]
        }
        MissionEvent::Started { agent_runtime, pty_session_id } => vec![
            ("startedAt", at),
            ("agentRuntime", text(agent_runtime.as_deref())),
            ("ptySessionId", text(pty_session_id.as_deref())),
        ],
        MissionEvent::Progress { iteration, summary, .. } => {
            let summary = summary.as_deref().map(|s| ("lastAction", quoted(s)));
            let round = iteration.map(|n| ("loop", n.to_string()));
            summary.into_iter().chain(round).collect()
        }
        // An answer to an earlier question must not be taken for one to this question.
        MissionEvent::HitlRequired { hitl_id, prompt, context, .. } => vec![
            ("hitlId", quoted(hitl_id.as_str())),
            ("hitlPrompt", quoted(prompt)),
            ("hitlContext", text(context.as_deref())),
            ("hitlAt", at),
            ("hitlRespondedAt", "null".to_owned()),
            ("hitlResponse", "null".to_owned()),
        ],
        MissionEvent::HitlResponded { response, responded_at, .. } => vec![
            ("hitlRespondedAt", quoted(&responded_at.unwrap_or(ts).to_string())),
            ("hitlResponse", quoted(response)),
        ],
        MissionEvent::Paused { reason } => vec![("pausedAt", at), ("pauseReason", text(reason.as_deref()))],
        MissionEvent::Suspended { checkpoint_id, reason } => vec![
            ("suspendedAt", at),
            ("checkpointId", text(checkpoint_id.as_deref())),
            ("suspendReason", text(reason.as_deref())),
        ],
        MissionEvent::Resumed { resumed_from } => vec![
            ("resumedAt", at),
            ("resumedFrom", quoted(resumed_from.map_or("suspended", |state| state.as_file()))),
        ],
        MissionEvent::Completed { exit_code, summary, .. } => {
            vec![("completedAt", at), ("exitCode", number(*exit_code)), ("summary", text(summary.as_deref()))]
        }
        MissionEvent::Failed { reason, error, exit_code, .. } => vec![
            ("failedAt", at),
            ("failureReason", quoted(reason.as_deref().unwrap_or("unknown"))),
            ("failureMessage", text(error.as_deref())),
            ("exitCode", number(*exit_code)),
        ],
        MissionEvent::Aborted { aborted_by, reason } => vec![
            ("abortedAt", at),
            ("abortedBy", quoted(aborted_by.as_deref().unwrap_or("unknown"))),
            ("abortReason", text(reason.as_deref())),
        ],
    }
}
