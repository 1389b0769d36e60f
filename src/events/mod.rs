//! Stage: what happened, in order: the streams of the executors that hold our missions.

pub mod worker;

use crate::domain::id::{ExecutorId, MissionId};
use crate::domain::secret::Token;
use crate::protocol::envelope::Frame;
use crate::protocol::executor_v1::MissionStatus;
use std::collections::HashMap;

/// How the streams are followed.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Base address of the registry.
    pub serve_url: String,
    /// Executors that are followed from the start.
    pub subscribe: Vec<ExecutorId>,
    /// Tokens for registries whose observers need one.
    pub tokens: HashMap<ExecutorId, Token>,
    /// Ask instead of listening.
    pub no_ws: bool,
    /// The registry's operator token.
    pub operator: Option<Token>,
}

/// Whom to follow.
#[derive(Debug)]
pub enum Command {
    /// A live mission, with its executor when that is known.
    Follow {
        /// The mission.
        mission: MissionId,
        /// Its executor.
        executor: Option<ExecutorId>,
    },
    /// It has ended.
    Unfollow {
        /// The mission.
        mission: MissionId,
    },
}

/// What was heard.
#[derive(Debug)]
pub enum Report {
    /// An event.
    Event {
        /// With its text.
        frame: Frame,
    },
    /// The registry's record of a mission.
    Snapshot {
        /// The mission.
        mission: MissionId,
        /// What it says.
        status: Box<MissionStatus>,
    },
    /// The registry does not know the mission.
    NotFound {
        /// The mission.
        mission: MissionId,
    },
    /// The line to an executor's stream.
    Executor {
        /// The executor.
        executor: ExecutorId,
        /// Whether it stands.
        connected: bool,
        /// Why not.
        why: Option<String>,
    },
}
