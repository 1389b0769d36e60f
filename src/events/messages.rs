//! Pure: what the streams are told, and what they tell.

use crate::domain::id::{ExecutorId, MissionId};
use crate::protocol::envelope::Frame;
use crate::protocol::executor_v1::MissionStatus;

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
    /// A question was not answered, or one is answered again.
    Registry {
        /// Why it could not be reached.
        unreachable: Option<String>,
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
