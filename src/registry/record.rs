//! Pure: what the registry remembers of missions and executors, and what a decision asks for.

use crate::domain::id::{ExecutorId, HitlId, MissionId};
use crate::domain::lifecycle::MissionState;
use crate::domain::time::Timestamp;
use crate::protocol::executor_v1::RegisterRequest;
use crate::protocol::route::OperatorCommand;
use crate::registry::idempotency::{Fingerprint, KeyEntry};
use std::sync::Arc;

/// One line of the registry: the WebSocket of an executor or of someone who holds its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// One forward of one mission, so that a late outcome is not taken for that of a newer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// The SHA-256 of an executor's token.
pub type TokenHash = [u8; 32];

/// What never changes about one attempt at a mission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Which session it came from; empty for an adopted mission.
    pub session: String,
    /// The idempotency key of the attempt.
    pub key: String,
    /// Of the body as it was sent to us.
    pub fingerprint: Fingerprint,
    /// The body to forward, in the strict form; empty for an adopted mission.
    pub body: String,
    /// It asked for a resumable executor.
    pub long_running: bool,
}

/// A question that waits for a human.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Names it in the answer.
    pub hitl_id: HitlId,
    /// The question.
    pub prompt: String,
    /// What helps to answer.
    pub context: Option<String>,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// Until when an answer counts.
    pub expires_at: Option<Timestamp>,
}

/// One mission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mission {
    /// Place in the order of first dispatches.
    pub number: u64,
    /// Which.
    pub id: MissionId,
    /// What was ordered.
    pub order: Arc<Order>,
    /// Who runs it.
    pub executor_id: ExecutorId,
    /// Where it stands.
    pub state: MissionState,
    /// Since when, by our clock.
    pub state_since: Timestamp,
    /// The executor's own time of the event that led to the state; none when we decided it.
    pub state_ts: Option<Timestamp>,
    /// When it was dispatched first.
    pub created_at: Timestamp,
    /// When anything about it changed last.
    pub updated_at: Timestamp,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// The executor has answered 2xx, or spoken of it.
    pub is_accepted: bool,
    /// It was sent again after a resync; that happens once.
    pub is_resent: bool,
    /// When the executor expected to begin.
    pub estimated_start: Option<String>,
    /// The terminal it runs in.
    pub pty_session_ref: Option<String>,
    /// Of the agent's process.
    pub exit_code: Option<i64>,
    /// Why it failed.
    pub error: Option<String>,
    /// The open question.
    pub question: Option<Question>,
    /// The question that expired, so that a late answer hears so.
    pub expired_question: Option<HitlId>,
    /// An order that the executor has not confirmed yet.
    pub pending: Option<OperatorCommand>,
    /// Events up to this number belong to earlier attempts.
    pub events_after: u64,
}

/// One executor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutorRecord {
    /// What it registered with.
    pub registration: Arc<RegisterRequest>,
    /// Of its token.
    pub token_hash: TokenHash,
    /// Place in the order of registration.
    pub order: u64,
    /// When it registered last.
    pub registered_at: Timestamp,
    /// When it was heard last.
    pub last_event_ts: Option<Timestamp>,
    /// Since when its line is gone.
    pub disconnected_at: Option<Timestamp>,
    /// It has registered from another host, so its token was rotated already.
    pub is_remote: bool,
    /// It takes no new missions.
    pub is_draining: bool,
}

/// An event as it is stored and passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its place in the order of all events; grows, without promise of being dense.
    pub seq: u64,
    /// Whose line.
    pub executor_id: ExecutorId,
    /// About which mission.
    pub mission_id: Option<MissionId>,
    /// Its name on the wire.
    pub kind: Arc<str>,
    /// When, as its envelope says.
    pub ts: Timestamp,
    /// The text of the envelope, untouched.
    pub raw: Arc<str>,
}

/// The end of a mission on its way to the address that the mission named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Number of the event that ended it.
    pub seq: u64,
    /// Where to.
    pub url: String,
    /// Name of the event.
    pub kind: Arc<str>,
    /// Its envelope.
    pub raw: Arc<str>,
    /// When the mission ended, by our clock.
    pub since: Timestamp,
    /// Attempts that have failed.
    pub attempts: u32,
    /// When it is tried next.
    pub due: Timestamp,
}

/// Something to be on disk before anything of the same decision is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Keep this executor.
    Executor(Box<ExecutorRecord>),
    /// Forget this executor.
    ForgetExecutor(ExecutorId),
    /// Keep this mission, which is new or begins a new attempt.
    NewMission(Box<Mission>),
    /// Keep what has moved about this mission.
    Mission(Box<Mission>),
    /// The mission with this number was heard of at this time, and nothing else about it has moved.
    Touched(u64, Timestamp),
    /// Remember this key. The key of a mission's present attempt is in the mission itself when it is the mission's id.
    Key(String, KeyEntry),
    /// The mission never reached anyone: its key may be used again.
    ForgetKey(String),
    /// A webhook has been sent everything up to this event.
    Webhook(String, u64),
    /// Keep this notice, or when it is tried next.
    Notice(Box<Notice>),
    /// A notice has been delivered, or is dead.
    ForgetNotice(u64),
    /// Write anything at all, to see that it can be done.
    Probe,
    /// Keep this event.
    Event(Arc<StoredEvent>),
}

/// What kind of forward is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardKind {
    /// The first time; a caller waits.
    First,
    /// The executor lost it: once more, when the executor really does not have it.
    Resend,
    /// Nobody knows whether the executor has it: ask, send nothing.
    AskOnly,
}

/// A mission on its way to its executor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Names this forward in its outcome.
    pub ticket: Ticket,
    /// Which mission.
    pub mission_id: MissionId,
    /// To whom.
    pub executor_id: ExecutorId,
    /// Where its REST surface is.
    pub rest: String,
    /// Session and body.
    pub order: Arc<Order>,
    /// What is asked for.
    pub kind: ForwardKind,
}

/// An operator's command on its way to an executor's REST surface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestCommand {
    /// Which mission.
    pub mission_id: MissionId,
    /// Whose it is.
    pub executor_id: ExecutorId,
    /// Where its REST surface is.
    pub rest: String,
    /// What is ordered.
    pub command: OperatorCommand,
}

/// Something to be done once the writes of the same decision are on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Let observers see it.
    Publish(Arc<StoredEvent>),
    /// Tell the executor.
    Send(ConnectionId, Arc<str>),
    /// Close a line with this code.
    Close(ConnectionId, u16),
    /// This line speaks for the executor from now on.
    Promote(ConnectionId),
    /// This line only listens from now on.
    Demote(ConnectionId),
    /// Send a mission to its executor, or ask about it.
    Forward(Forward),
    /// Order over REST what was not confirmed over the line.
    Command(RestCommand),
    /// Call an executor that has not called us.
    Dial(ExecutorId),
    /// A notice waits to be sent.
    Notify,
}

/// What a decision asks for: the writes first, then the actions in order.
#[derive(Debug, Default)]
#[must_use]
pub struct Effects {
    /// For the disk.
    pub writes: Vec<Write>,
    /// For the world.
    pub actions: Vec<Action>,
}

/// How a forward ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForwardOutcome {
    /// The executor took it, or has it already.
    Accepted {
        /// When it expects to begin.
        estimated_start: Option<String>,
    },
    /// Asked about it, the executor says that it has ended there.
    EndedThere {
        /// Where it stands.
        state: MissionState,
        /// Of the agent's process.
        exit_code: Option<i64>,
        /// Why, when it failed.
        error: Option<String>,
    },
    /// The executor refused it.
    Refused {
        /// With this status.
        status: u16,
        /// And these words.
        message: String,
        /// When to come again, in whole seconds.
        retry_after_seconds: Option<u64>,
    },
    /// The executor did not get it.
    Unreachable {
        /// What happened.
        message: String,
    },
    /// It may have got it, and cannot be asked now.
    Uncertain {
        /// What happened.
        message: String,
    },
}
