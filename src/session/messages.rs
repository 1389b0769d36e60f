//! Pure: what the folder and the dispatcher tell each other.
//!
//! The two stages do not know one another. The folder's side owns every `session.json` and says what waits in it; the
//! dispatcher owns the requests and says what became of them.

use crate::domain::id::{ExecutorId, MissionId, SessionId};
use crate::domain::mission::{FailureReason, Priority};
use crate::domain::time::Timestamp;
use crate::protocol::executor_v1::MissionStatus;
use crate::session::mission_view::MissionText;
use std::sync::Arc;

/// One mission of one session; mission ids alone are unique only by convention.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MissionKey {
    /// The session, named as its directory.
    pub session: SessionId,
    /// The mission.
    pub mission: MissionId,
}

/// A mission that may be dispatched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The mission.
    pub mission: MissionId,
    /// How urgent it is.
    pub priority: Priority,
    /// When it was queued, if the file says so.
    pub created_at: Option<Timestamp>,
    /// Its place in the array.
    pub index: usize,
}

/// A request that is ready to leave: its journal line is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispatch {
    /// The session's id on the wire, which may differ from its directory.
    pub wire_session: Arc<str>,
    /// The mission as it lies in the file.
    pub mission: MissionText,
    /// The idempotency key.
    pub idempotency_key: String,
    /// Which life of the mission this is, from 1.
    pub run: u32,
    /// Which request of this run it is, from 1.
    pub attempt: u32,
}

/// What somebody who edited the file wants of a live mission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// End it.
    Abort,
    /// Hold it.
    Pause,
    /// Let it go on.
    Resume,
    /// Hand over a human's answer.
    Answer {
        /// The question.
        hitl_id: String,
        /// The answer.
        response: String,
    },
}

impl Wish {
    /// Returns the word used in logs and in the journal.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Abort => "abort",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Answer { .. } => "hitl_response",
        }
    }
}

/// From the folder to the dispatcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Everything that may be dispatched from this session now; what was offered before and is missing is withdrawn.
    Offers {
        /// The session.
        session: SessionId,
        /// Its missions, in the order of the array.
        missions: Vec<Offer>,
    },
    /// The answer to [`Order::Begin`]: send this.
    Begun {
        /// Which mission.
        key: MissionKey,
        /// What to send.
        dispatch: Dispatch,
    },
    /// The answer to [`Order::Begin`]: do not send, the file no longer asks for it.
    Skipped {
        /// Which mission.
        key: MissionKey,
        /// Why, for the log.
        why: &'static str,
    },
    /// A bridge before us may have sent this one: ask before it is sent again.
    Uncertain {
        /// Which mission.
        key: MissionKey,
        /// Which life of the mission this is.
        run: u32,
        /// Requests sent so far in this run.
        attempts: u32,
        /// When the last one left.
        since: Timestamp,
    },
    /// So many missions have ended: there may be room for others.
    Room(usize),
    /// The registry does not answer those who ask about missions, for this reason; or it does again.
    Reachable(Result<(), String>),
    /// Somebody edited a live mission.
    Steer {
        /// Which mission.
        key: MissionKey,
        /// What they want.
        wish: Wish,
    },
}

/// From the dispatcher to the folder.
#[derive(Debug, Clone)]
pub enum Order {
    /// Look at the file once more, claim the mission in the journal and hand over the request.
    Begin {
        /// Which mission.
        key: MissionKey,
    },
    /// The registry accepted it.
    Assigned {
        /// Which mission.
        key: MissionKey,
        /// Which life of the mission the request was for.
        run: u32,
        /// The executor, when the answer named one.
        executor: Option<ExecutorId>,
        /// The answer's estimate, when it had one.
        estimated_start: Option<String>,
        /// When the answer came.
        at: Timestamp,
    },
    /// It will not run.
    Failed {
        /// Which mission.
        key: MissionKey,
        /// Which life of the mission the request was for.
        run: u32,
        /// The word for programs.
        reason: FailureReason,
        /// The sentence for people.
        message: String,
        /// When it was decided.
        at: Timestamp,
    },
    /// Nothing was sent, or it certainly did not arrive: the claim is void and the mission is as if never begun.
    Unsent {
        /// Which mission.
        key: MissionKey,
        /// Which life of the mission the request was for.
        run: u32,
    },
    /// The registry's record of a mission.
    Known {
        /// Which mission.
        key: MissionKey,
        /// What it says.
        status: Box<MissionStatus>,
    },
    /// What became of a wish.
    Steered {
        /// Which mission.
        key: MissionKey,
        /// The wish.
        wish: Wish,
        /// The registry's word on it.
        result: Steered,
    },
}

/// How the registry took a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Steered {
    /// Accepted; the executor's event will confirm it.
    Accepted,
    /// The mission had ended already; its result is being asked for.
    Terminal,
    /// The registry does not know the mission.
    NotFound,
    /// Refused for another reason.
    Refused(String),
}
