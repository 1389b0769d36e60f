//! Domain: what happened, one variant per kind of event.
//!
//! An [`Envelope`] is what an executor says on its line, read into types. Optional values that a peer left out, or spelled in
//! a way nobody can read, are `None`: losing the exit code is better than losing the end of a mission. Kinds that we do
//! not know are kept by name ([`MissionEvent::Other`], [`Body::Unknown`]) and move nothing.

use crate::domain::id::{ExecutorId, HitlId, MissionId};
use crate::domain::lifecycle::{Happening, MissionState};
use crate::domain::time::Timestamp;

/// A file that a mission left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Where it is, as the executor names it.
    pub path: String,
    /// What it is.
    pub description: Option<String>,
}

/// Something that happened to one mission, with what came along.
#[derive(Debug, Clone, PartialEq)]
pub enum MissionEvent {
    /// An executor accepted it.
    Assigned {
        /// When the executor expects to begin, as it wrote it.
        estimated_start: Option<String>,
    },
    /// The agent runs.
    Started {
        /// Which agent.
        agent_runtime: Option<String>,
        /// The terminal it runs in.
        pty_session_id: Option<String>,
    },
    /// The agent said something.
    Progress {
        /// What it is at.
        phase: Option<String>,
        /// Which round of its loop this is.
        iteration: Option<u64>,
        /// Tokens so far.
        tokens_used: Option<u64>,
        /// One line for people.
        summary: Option<String>,
        /// How far, 0 to 100.
        pct_complete: Option<f64>,
    },
    /// A human is asked.
    HitlRequired {
        /// Names the question in the answer.
        hitl_id: HitlId,
        /// The question.
        prompt: String,
        /// What helps to answer; JSON text when the executor sent anything but a string.
        context: Option<String>,
        /// Until when an answer counts.
        expires_at: Option<Timestamp>,
    },
    /// The human answered.
    HitlResponded {
        /// Which question.
        hitl_id: HitlId,
        /// The answer.
        response: String,
        /// When it was given.
        responded_at: Option<Timestamp>,
    },
    /// Held; from the registry to the executor: hold it.
    Paused {
        /// Why.
        reason: Option<String>,
    },
    /// Goes on; from the registry to the executor: go on.
    Resumed {
        /// `Paused` or `Suspended`.
        resumed_from: Option<MissionState>,
    },
    /// Checkpointed, or its executor is away.
    Suspended {
        /// Where it can be taken up again.
        checkpoint_id: Option<String>,
        /// Why.
        reason: Option<String>,
    },
    /// Its executor is back and took it up again.
    Reconnected {
        /// From which checkpoint.
        checkpoint_id: Option<String>,
    },
    /// Ended well.
    Completed {
        /// Of the agent's process.
        exit_code: Option<i64>,
        /// Tokens in all.
        tokens_total: Option<u64>,
        /// What was done, for people.
        summary: Option<String>,
        /// What it left behind.
        artifacts: Vec<Artifact>,
    },
    /// Ended badly.
    Failed {
        /// One word for programs; `None` reads as `unknown`.
        reason: Option<String>,
        /// The sentence for people.
        error: Option<String>,
        /// Of the agent's process.
        exit_code: Option<i64>,
        /// Tokens in all.
        tokens_total: Option<u64>,
    },
    /// Ended by order; from the registry to the executor: end it.
    Aborted {
        /// `operator` or `system`.
        aborted_by: Option<String>,
        /// Why.
        reason: Option<String>,
    },
    /// A kind of event that we do not know: kept, and moves nothing.
    Other {
        /// Its name on the wire.
        name: String,
    },
}

impl MissionEvent {
    /// Returns which row of the transition table this is; `None` for a kind that we do not know.
    pub fn happening(&self) -> Option<Happening> {
        match self {
            Self::Assigned { .. } => Some(Happening::Assigned),
            Self::Started { .. } => Some(Happening::Started),
            Self::Progress { .. } => Some(Happening::Progress),
            Self::HitlRequired { .. } => Some(Happening::HitlRequired),
            Self::HitlResponded { .. } => Some(Happening::HitlResponded),
            Self::Paused { .. } => Some(Happening::Paused),
            Self::Resumed { .. } => Some(Happening::Resumed),
            Self::Suspended { .. } => Some(Happening::Suspended),
            Self::Reconnected { .. } => Some(Happening::Reconnected),
            Self::Completed { .. } => Some(Happening::Completed),
            Self::Failed { .. } => Some(Happening::Failed),
            Self::Aborted { .. } => Some(Happening::Aborted),
            Self::Other { .. } => None,
        }
    }

    /// Returns the event's name on the wire.
    pub fn name(&self) -> &str {
        match self {
            Self::Other { name } => name,
            Self::Assigned { .. }
            | Self::Started { .. }
            | Self::Progress { .. }
            | Self::HitlRequired { .. }
            | Self::HitlResponded { .. }
            | Self::Paused { .. }
            | Self::Resumed { .. }
            | Self::Suspended { .. }
            | Self::Reconnected { .. }
            | Self::Completed { .. }
            | Self::Failed { .. }
            | Self::Aborted { .. } => self.happening().map_or("", Happening::as_wire),
        }
    }
}

/// Something that happened to an executor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecutorEvent {
    /// It registered.
    Registered {
        /// Its name for people.
        name: String,
        /// What it says it can do.
        capabilities: Vec<String>,
    },
    /// It is gone for good.
    Deregistered {
        /// `graceful_shutdown`, `operator_deleted` or `timeout`.
        reason: String,
    },
    /// Its first words after each connect.
    Resync {
        /// Every mission that it still has.
        owned_mission_ids: Vec<MissionId>,
    },
}

impl ExecutorEvent {
    /// Returns the event's name on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Registered { .. } => "executor.registered",
            Self::Deregistered { .. } => "executor.deregistered",
            Self::Resync { .. } => "executor.resync",
        }
    }
}

/// What an envelope is about.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// A mission; the envelope has its id.
    Mission(MissionEvent),
    /// The executor itself.
    Executor(ExecutorEvent),
    /// A kind of event that we do not know, outside `mission.*`.
    Unknown {
        /// Its name on the wire.
        name: String,
    },
}

/// One event with who, about which mission, and when.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// Whose line it is.
    pub executor_id: ExecutorId,
    /// Always there when the body is [`Body::Mission`].
    pub mission_id: Option<MissionId>,
    /// When it happened, by the sender's clock.
    pub ts: Timestamp,
    /// What happened.
    pub body: Body,
}

impl Envelope {
    /// Puts an event of a mission under its envelope.
    pub fn mission(executor: ExecutorId, mission: MissionId, ts: Timestamp, event: MissionEvent) -> Self {
        Self { executor_id: executor, mission_id: Some(mission), ts, body: Body::Mission(event) }
    }

    /// Puts an event of an executor under its envelope.
    pub fn executor(executor: ExecutorId, ts: Timestamp, event: ExecutorEvent) -> Self {
        Self { executor_id: executor, mission_id: None, ts, body: Body::Executor(event) }
    }

    /// Returns the event's name on the wire.
    pub fn name(&self) -> &str {
        match &self.body {
            Body::Mission(event) => event.name(),
            Body::Executor(event) => event.name(),
            Body::Unknown { name } => name,
        }
    }
}
