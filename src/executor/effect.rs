//! Pure: what can happen to a mission, and what there is to be done about it.

use crate::domain::event::MissionEvent;
use crate::domain::id::HitlId;
use crate::domain::lifecycle::MissionState;
use crate::executor::digest::Digest;
use crate::executor::outcome::Outcome;
use crate::executor::run::Run;
use crate::executor::runner_protocol::Ended;

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// There is a slot.
    SlotFree,
    /// The resources are there, or why not.
    Provisioned(Result<(), String>),
    /// The process of the current run lives.
    Started {
        /// Its number.
        pid: u32,
    },
    /// It said something.
    Output(Digest),
    /// Its tree is stopped.
    Paused,
    /// Its tree goes on.
    Resumed,
    /// It is gone.
    Ended(Ended),
    /// The agent asks by file.
    Question {
        /// The question's name.
        id: HitlId,
        /// The question.
        prompt: String,
    },
    /// An operator says: hold.
    OrderPause,
    /// An operator says: go on.
    OrderResume,
    /// The registry had taken it for suspended and calls it running, now that it has found us again.
    CalledRunning,
    /// An operator or the system says: end.
    OrderAbort {
        /// Who.
        by: String,
        /// Why.
        reason: Option<String>,
    },
    /// A human answers.
    Answer {
        /// Which question.
        id: HitlId,
        /// The answer.
        response: String,
    },
    /// The resources are back.
    Released {
        /// The branch that holds its work.
        branch: Option<String>,
        /// Files that it changed.
        artifacts: Vec<String>,
        /// What stayed, or could not be given back.
        remark: Option<String>,
    },
    /// Time passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub enum Effect {
    /// Lease the resources.
    Provision,
    /// Start a process.
    Start(Run),
    /// Stop the tree for now.
    Pause,
    /// Let it go on.
    Resume,
    /// End the tree.
    Stop,
    /// Type an answer.
    Type(String),
    /// Write an answer beside its question.
    WriteAnswer {
        /// Which question.
        id: HitlId,
        /// The answer.
        response: String,
    },
    /// Write down how it ends, and give the resources back.
    Release(Outcome),
    /// Tell the registry.
    Emit(MissionEvent),
    /// The end: tell the registry this last.
    Finish(MissionEvent),
}

/// An order that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The mission has ended.
    #[error("the mission has ended")]
    Terminal,
    /// Not in this state.
    #[error("that is not possible in the state {0}")]
    Illegal(MissionState),
    /// Nobody asked that.
    #[error("that question is not open")]
    NotPending,
}
