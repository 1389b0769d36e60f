//! Pure: every refusal of the registry, with its status, its word for programs and its hint.

use crate::domain::id::{ExecutorId, MissionId};
use crate::domain::lifecycle::MissionState;
use crate::protocol::field::FieldError;
use crate::protocol::problem::{BUSY, Problem};
use crate::registry::routing::Explanation;
use std::fmt::Write as _;

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A field of the body is wrong.
    #[error("{0}")]
    Invalid(#[from] FieldError),
    /// The executor speaks another major version.
    #[error("spec_version {version:?} is not supported; this registry speaks 1.x")]
    UnsupportedSpecVersion {
        /// What it said.
        version: String,
    },
    /// No such executor.
    #[error("no executor {id} is registered")]
    ExecutorNotFound {
        /// Which.
        id: String,
    },
    /// No such mission.
    #[error("no mission {id} is known")]
    MissionNotFound {
        /// Which.
        id: String,
    },
    /// A bearer token that is not the right one.
    #[error("the bearer token is not valid")]
    TokenInvalid,
    /// A bearer token was needed.
    #[error("a bearer token is required")]
    TokenMissing,
    /// The first dispatch under this key is still being forwarded.
    #[error("mission {mission_id} is being forwarded under the same idempotency key")]
    InFlight {
        /// Which.
        mission_id: MissionId,
    },
    /// The mission lives under another key.
    #[error("mission {mission_id} is {state} on {executor_id} under another idempotency key")]
    Conflict {
        /// Which.
        mission_id: MissionId,
        /// Where it stands.
        state: MissionState,
        /// Who runs it.
        executor_id: ExecutorId,
    },
    /// The key was used for another payload.
    #[error("the idempotency key was used for another payload, of mission {mission_id}")]
    KeyReused {
        /// Which.
        mission_id: MissionId,
    },
    /// Nobody fits.
    #[error("{}", no_executor(explanation, *resumable))]
    NoExecutor {
        /// A long mission, so it had to be a resumable one.
        resumable: bool,
        /// Why not.
        explanation: Box<Explanation>,
    },
    /// The session has as many live missions as it may.
    #[error("session {session} is full: {live} of its missions are live, {limit} may be at a time")]
    SessionFull {
        /// Which.
        session: String,
        /// How many are live.
        live: u32,
        /// How many may be.
        limit: u32,
    },
    /// The executor could not be reached.
    #[error("executor {executor_id} is unreachable: {message}")]
    ExecutorUnreachable {
        /// Which.
        executor_id: ExecutorId,
        /// What happened.
        message: String,
    },
    /// The executor said no.
    #[error("executor {executor_id} refused the mission with HTTP {status}: {message}")]
    ForwardFailed {
        /// Which.
        executor_id: ExecutorId,
        /// With this status.
        status: u16,
        /// And these words.
        message: String,
        /// When to come again, in whole seconds.
        retry_after_seconds: Option<u64>,
    },
    /// Nothing leaves an ended mission.
    #[error("mission {mission_id} has ended: it is {state}")]
    MissionTerminal {
        /// Which.
        mission_id: MissionId,
        /// How.
        state: MissionState,
    },
    /// The order makes no sense in this state.
    #[error("mission {mission_id} is {state} and cannot be {wanted}")]
    IllegalTransition {
        /// Which.
        mission_id: MissionId,
        /// Where it stands.
        state: MissionState,
        /// What was asked, as a participle.
        wanted: &'static str,
    },
    /// There is no such open question.
    #[error("mission {mission_id} has no open question {hitl_id}")]
    HitlNotPending {
        /// Which mission.
        mission_id: MissionId,
        /// The question that was answered.
        hitl_id: String,
    },
    /// The answer came too late.
    #[error("question {hitl_id} of mission {mission_id} has expired")]
    HitlExpired {
        /// Which mission.
        mission_id: MissionId,
        /// The question that was answered.
        hitl_id: String,
    },
    /// The executor's line is down.
    #[error("executor {executor_id} is not connected")]
    ExecutorNotConnected {
        /// Which.
        executor_id: ExecutorId,
    },
    /// The registry is ending, or has too much to do.
    #[error("the registry takes nothing new: {why}")]
    Unavailable {
        /// Why.
        why: String,
    },
}

fn no_executor(explanation: &Explanation, resumable: bool) -> String {
    let kind = if resumable { "resumable executor" } else { "executor" };
    let mut text = format!(
        "no {kind} is available: {} registered, {} connected, {} fit",
        explanation.registered, explanation.connected, explanation.capable
    );
    for passed in explanation.passed_over.iter().take(3) {
        // Writing to a String cannot fail.
        write!(text, "; {} {}", passed.executor_id, passed.why).ok();
    }
    text
}

impl Refusal {
    /// Returns the HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::Invalid(_) | Self::UnsupportedSpecVersion { .. } => 400,
            Self::TokenInvalid | Self::TokenMissing => 401,
            Self::ExecutorNotFound { .. } | Self::MissionNotFound { .. } => 404,
            Self::InFlight { .. }
            | Self::Conflict { .. }
            | Self::MissionTerminal { .. }
            | Self::IllegalTransition { .. }
            | Self::HitlNotPending { .. } => 409,
            Self::HitlExpired { .. } => 410,
            Self::KeyReused { .. } => 422,
            Self::ExecutorUnreachable { .. } | Self::ForwardFailed { .. } => 502,
            Self::NoExecutor { .. }
            | Self::SessionFull { .. }
            | Self::ExecutorNotConnected { .. }
            | Self::Unavailable { .. } => 503,
        }
    }

    /// Returns the word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid_request",
            Self::UnsupportedSpecVersion { .. } => "unsupported_spec_version",
            Self::ExecutorNotFound { .. } => "executor_not_found",
            Self::MissionNotFound { .. } => "mission_not_found",
            Self::TokenInvalid => "token_invalid",
            Self::TokenMissing => "token_missing",
            Self::InFlight { .. } | Self::Conflict { .. } => "idempotency_conflict",
            Self::KeyReused { .. } => "idempotency_key_reused",
            Self::NoExecutor { resumable: true, .. } => "no_resumable_executor_available",
            Self::NoExecutor { resumable: false, .. } => "no_executor_available",
            Self::SessionFull { .. } => "session_full",
            Self::ExecutorUnreachable { .. } => "executor_unreachable",
            Self::ForwardFailed { .. } => "executor_forward_failed",
            Self::MissionTerminal { .. } => "mission_terminal",
            Self::IllegalTransition { .. } => "illegal_transition",
            Self::HitlNotPending { .. } => "hitl_not_pending",
            Self::HitlExpired { .. } => "hitl_expired",
            Self::ExecutorNotConnected { .. } => "executor_not_connected",
            Self::Unavailable { .. } => "unavailable",
        }
    }

    /// Returns when to come again, in whole seconds.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        match self {
            Self::InFlight { .. } | Self::Unavailable { .. } => Some(1),
            // The one that was chosen had no room; another one has.
            Self::NoExecutor { explanation, .. } if explanation.capable > 0 => Some(1),
            Self::NoExecutor { .. } | Self::SessionFull { .. } | Self::ExecutorNotConnected { .. } => Some(2),
            Self::ForwardFailed { retry_after_seconds, .. } => *retry_after_seconds,
            Self::Invalid(_)
            | Self::UnsupportedSpecVersion { .. }
            | Self::ExecutorNotFound { .. }
            | Self::MissionNotFound { .. }
            | Self::TokenInvalid
            | Self::TokenMissing
            | Self::Conflict { .. }
            | Self::KeyReused { .. }
            | Self::ExecutorUnreachable { .. }
            | Self::MissionTerminal { .. }
            | Self::IllegalTransition { .. }
            | Self::HitlNotPending { .. }
            | Self::HitlExpired { .. } => None,
        }
    }

    /// Returns the body of the answer.
    pub fn problem(&self) -> Problem {
        let problem = Problem::new(self.status(), self.code(), self.to_string());
        match self {
            Self::Invalid(error) => problem.with("field", error.field.as_str()),
            Self::UnsupportedSpecVersion { .. } => problem.with("field", "spec_version"),
            Self::NoExecutor { explanation, .. } => {
                let is_busy = explanation.is_busy();
                let problem = problem
                    .with("executors", serde_json::to_value(explanation).unwrap_or_default())
                    .with(BUSY, is_busy);
                if is_busy {
                    problem.hint("come again when one of their missions has ended")
                } else {
                    problem.hint("connect an executor that has the asked capabilities, or ask for fewer")
                }
            }
            Self::Conflict { .. } => {
                problem.hint("wait for its end, or abort it, before dispatching it anew")
            }
            Self::SessionFull { live, limit, .. } => problem
                .with(BUSY, true)
                .with("live", *live)
                .with("limit", *limit)
                .hint("wait until some have ended, or dispatch to another session"),
            Self::KeyReused { .. } => problem.hint("use a new Idempotency-Key for a changed mission"),
            Self::TokenInvalid => problem.hint("register again to get the current token"),
            Self::ExecutorNotFound { .. }
            | Self::MissionNotFound { .. }
            | Self::TokenMissing
            | Self::InFlight { .. }
            | Self::ExecutorUnreachable { .. }
            | Self::ForwardFailed { .. }
            | Self::MissionTerminal { .. }
            | Self::IllegalTransition { .. }
            | Self::HitlNotPending { .. }
            | Self::HitlExpired { .. }
            | Self::ExecutorNotConnected { .. }
            | Self::Unavailable { .. } => problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_dispatch_says_how_many_there_are_and_what_each_lacks() {
        let explanation = Explanation {
            registered: 2,
            connected: 1,
            capable: 0,
            full: 0,
            chosen: None,
            reason: None,
            passed_over: Vec::new(),
        };
        let refusal = Refusal::NoExecutor { resumable: true, explanation: Box::new(explanation) };
        let problem = refusal.problem();
        assert_eq!(problem.error, "no_resumable_executor_available");
        assert_eq!(problem.more["executors"]["registered"], 2);
        assert!(problem.detail.contains("2 registered, 1 connected, 0 fit"), "{}", problem.detail);
        assert_eq!(refusal.retry_after_seconds(), Some(2));
    }
}
