//! Pure: the registry's decisions about executors: who is registered, connected, gone for too long.
//!
//! | happens | leads to |
//! |---|---|
//! | registered, and no line after `dial_after` | dial it, again and again until it has a line |
//! | the holder of its token connects while it has no line | that is its line, on probation until it speaks |
//! | … while it has one | the newcomer listens; once it speaks it is the line and the old one is closed (4009) |
//! | the line breaks | nothing that anyone can see, for `executor_grace` |
//! | … and stays away longer | missions of a resumable executor are suspended, the others fail |
//! | … for a day | it is deregistered, and what was suspended fails |
//!
//! Why a holder of the token has to speak before it replaces anyone: bridges in the field subscribe with the executor's own
//! token. They only listen, so they never take the line of the executor. An executor speaks at once, its first frame is a resync.
//!
//! What it decides about missions is in [`crate::registry::assignment`] (dispatch), [`crate::registry::following`] (events),
//! [`crate::registry::resync`] and [`crate::registry::operator`]: one machine, a file per kind of input.

use crate::domain::capability::Capability;
use crate::domain::event::{Envelope, ExecutorEvent, MissionEvent};
use crate::domain::id::{ExecutorId, HitlId, MissionId};
use crate::domain::lifecycle::MissionState;
use crate::domain::time::{Now, Timestamp};
use crate::protocol::envelope::{CLOSE_NORMAL, CLOSE_REPLACED, Frame};
use crate::protocol::executor_v1::{ExecutorStatus, RegisterRequest};
use crate::registry::Config;
use crate::registry::idempotency::KeyEntry;
use crate::registry::record::{
    Action, ConnectionId, Effects, ExecutorRecord, Mission, StoredEvent, Ticket, TokenHash, Write,
};
use crate::registry::refusal::Refusal;
use crate::registry::routing::{Candidate, Routing};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a disconnected executor is remembered. A day: a laptop that sleeps over night is still known.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// What the registry holds of one mission in memory.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) mission: Mission,
    /// The last events of its present attempt, oldest first.
    pub(super) recent: VecDeque<Heard>,
    /// The forward that is under way.
    pub(super) ticket: Option<Ticket>,
    /// When an order that was not confirmed is repeated over REST, and how often it was.
    pub(super) confirm: (Option<Instant>, u32),
}

/// An event of a mission.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) raw: Arc<str>,
    /// The connection it came over; none for our own, and for what was heard before a restart.
    pub(super) over: Option<ConnectionId>,
}

/// A control connection.
#[derive(Debug, Clone, Copy)]
struct Line {
    connection: ConnectionId,
    /// It has sent a valid frame, or we have dialled it: certainly the executor itself.
    has_spoken: bool,
}

#[derive(Debug)]
pub(super) struct Executor {
    pub(super) record: ExecutorRecord,
    line: Option<Line>,
    pub(super) grace_ends: Option<Instant>,
    dial_at: Option<Instant>,
}

impl Executor {
    pub(super) fn is_resumable(&self) -> bool {
        self.record.registration.capabilities.iter().any(|capability| capability == Capability::RESUMABLE)
    }

    /// The connection that commands go to.
    pub(super) fn control(&self) -> Option<ConnectionId> {
        self.line.map(|line| line.connection)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Dial(ExecutorId),
    Grace(ExecutorId),
    Forget(ExecutorId),
    Question(MissionId, HitlId),
    Ask(MissionId, Ticket),
    Room(ExecutorId),
    Unconfirmed(MissionId),
}

/// What a new connection became.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attached {
    /// The line of the executor.
    Line,
    /// A listener that becomes the line when it speaks.
    Listener,
}

/// Who opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// Someone who has the executor's token.
    ByTokenHolder,
    /// We did.
    ByUs,
}

/// The registry's state. One task owns it.
#[derive(Debug)]
pub struct Machine {
    pub(super) config: Config,
    pub(super) executors: HashMap<ExecutorId, Executor>,
    pub(super) routing: Routing,
    pub(super) missions: HashMap<MissionId, Held>,
    pub(super) live: HashMap<ExecutorId, BTreeSet<MissionId>>,
    /// How many missions of each session are live; counted only where there is a limit.
    pub(super) live_in_session: HashMap<String, u32>,
    pub(super) keys: HashMap<String, KeyEntry>,
    /// Ended missions in memory, the longest ended first, each with the round in which it ended.
    pub(super) ended: VecDeque<(MissionId, Ticket, u64)>,
    /// Hashes of the ids and keys of ended missions that only the store still has.
    pub(super) stored: HashSet<u64>,
    pub(super) hasher: RandomState,
    /// Counts rounds of decisions; each is committed as a whole.
    pub(super) round: u64,
    pub(super) next_number: u64,
    timers: BTreeSet<(Instant, Timer)>,
    registration_order: BTreeMap<u64, ExecutorId>,
    next_order: u64,
    pub(super) next_seq: u64,
    next_ticket: u64,
}

impl Machine {
    /// Makes an empty registry.
    pub fn new(config: Config) -> Self {
        Self {
            routing: Routing::new(config.max_missions_per_executor),
            config,
            executors: HashMap::new(),
            missions: HashMap::new(),
            live: HashMap::new(),
            live_in_session: HashMap::new(),
            keys: HashMap::new(),
            ended: VecDeque::new(),
            stored: HashSet::new(),
            hasher: RandomState::new(),
            round: 0,
            next_number: 1,
            timers: BTreeSet::new(),
            registration_order: BTreeMap::new(),
            next_order: 0,
            next_seq: 1,
            next_ticket: 1,
        }
    }

    /// Registers an executor, for the first time or again.
    pub fn register(
        &mut self,
        registration: RegisterRequest,
        token_hash: TokenHash,
        is_remote: bool,
        now: Now,
        fx: &mut Effects,
    ) -> Timestamp {
        let id = registration.executor_id.clone();
        let known = self.executors.remove(&id);
        let order = known.as_ref().map_or(self.next_order, |known| known.record.order);
        self.next_order = self.next_order.max(order + 1);
        let line = known.as_ref().and_then(|known| known.line);
        let record = ExecutorRecord {
            token_hash,
            order,
            registered_at: now.wall,
            last_event_ts: known.as_ref().and_then(|known| known.record.last_event_ts),
            disconnected_at: known.as_ref().and_then(|known| known.record.disconnected_at),
            is_remote: is_remote || known.as_ref().is_some_and(|known| known.record.is_remote),
            is_draining: false,
            registration: Arc::new(registration),
        };
        let grace_ends = known.as_ref().and_then(|known| known.grace_ends);
        let mut executor = Executor { record, line, grace_ends, dial_at: None };
        if line.is_none() {
            let dial_at = now.instant + self.config.dial_after;
            executor.dial_at = Some(dial_at);
            self.arm(dial_at, Timer::Dial(id.clone()));
            self.arm(now.instant + FORGET_AFTER, Timer::Forget(id.clone()));
        }
        self.adopt_executor(executor);
        let registration = self.executors.get(&id).map(|executor| Arc::clone(&executor.record.registration));
        if let Some(registration) = registration {
            let name = registration.name.clone();
            let capabilities = registration.capabilities.clone();
            let event = ExecutorEvent::Registered { name, capabilities };
            self.publish(Frame::encode(Envelope::executor(id.clone(), now.wall, event)), fx);
        }
        self.write_executor(&id, fx);
        now.wall
    }

    /// Takes an executor from the store: it has no line, and its grace begins now.
    pub(super) fn restore_executor(&mut self, record: ExecutorRecord, now: Now) {
        let id = record.registration.executor_id.clone();
        let (grace_ends, dial_at) =
            (now.instant + self.config.executor_grace, now.instant + self.config.dial_after);
        self.next_order = self.next_order.max(record.order + 1);
        let gone = now.wall.since(record.disconnected_at.unwrap_or(record.registered_at));
        self.arm(now.instant + FORGET_AFTER.saturating_sub(gone), Timer::Forget(id.clone()));
        self.arm(grace_ends, Timer::Grace(id.clone()));
        self.arm(dial_at, Timer::Dial(id));
        let record = ExecutorRecord { disconnected_at: record.disconnected_at.or(Some(now.wall)), ..record };
        self.adopt_executor(Executor {
            record,
            line: None,
            grace_ends: Some(grace_ends),
            dial_at: Some(dial_at),
        });
    }

    fn adopt_executor(&mut self, executor: Executor) {
        let registration = &executor.record.registration;
        let id = registration.executor_id.clone();
        self.routing.put(Candidate {
            id: id.clone(),
            order: executor.record.order,
            capabilities: registration.capabilities.iter().map(Capability::opaque).collect(),
            connected: executor.line.is_some(),
            draining: executor.record.is_draining,
            full: None,
            active: self.active_count(&id),
        });
        self.registration_order.insert(executor.record.order, id.clone());
        self.executors.insert(id, executor);
    }

    /// Takes an executor out, at its own or an operator's wish, or because it has been gone for too long.
    ///
    /// # Errors
    /// [`Refusal::ExecutorNotFound`].
    pub fn deregister(
        &mut self,
        id: &ExecutorId,
        reason: &str,
        now: Now,
        fx: &mut Effects,
    ) -> Result<(), Refusal> {
        let Some(executor) = self.executors.get(id) else {
            return Err(Refusal::ExecutorNotFound { id: id.to_string() });
        };
        let (line, order) = (executor.line, executor.record.order);
        for mission in self.live_missions(id) {
            self.fail(&mission, "executor_lost", "its executor was deregistered", now, fx);
        }
        self.executors.remove(id);
        self.routing.remove(id);
        self.registration_order.remove(&order);
        let event = ExecutorEvent::Deregistered { reason: reason.to_owned() };
        self.publish(Frame::encode(Envelope::executor(id.clone(), now.wall, event)), fx);
        fx.writes.push(Write::ForgetExecutor(id.clone()));
        if let Some(line) = line {
            fx.actions.push(Action::Close(line.connection, CLOSE_NORMAL));
        }
        Ok(())
    }

    /// Returns the hash of an executor's token, to compare with.
    pub fn token_hash(&self, id: &ExecutorId) -> Option<TokenHash> {
        self.executors.get(id).map(|executor| executor.record.token_hash)
    }

    /// Says whether this executor has registered from another host before.
    pub fn is_remote(&self, id: &ExecutorId) -> bool {
        self.executors.get(id).is_some_and(|executor| executor.record.is_remote)
    }

    /// Returns every executor in the order of registration.
    pub fn executors(&self) -> Vec<ExecutorStatus> {
        self.registration_order.values().filter_map(|id| self.executor(id)).collect()
    }

    /// Returns one executor.
    pub fn executor(&self, id: &ExecutorId) -> Option<ExecutorStatus> {
        let executor = self.executors.get(id)?;
        let record = &executor.record;
        let registration = &record.registration;
        Some(ExecutorStatus {
            executor_id: id.clone(),
            name: registration.name.clone(),
            version: registration.version.clone(),
            spec_version: registration.spec_version.clone(),
            transport_endpoints: Some(registration.transport_endpoints.clone()),
            capabilities: registration.capabilities.clone(),
            a2a_instance_id: registration.a2a_instance_id.clone(),
            connected: executor.line.is_some(),
            active_mission_count: self.active_count(id),
            registered_at: Some(record.registered_at),
            last_event_ts: record.last_event_ts,
            disconnected_at: record.disconnected_at,
            draining: record.is_draining,
        })
    }

    /// Returns where to dial an executor that has no line.
    pub fn dial_address(&self, id: &ExecutorId) -> Option<String> {
        let executor = self.executors.get(id).filter(|executor| executor.line.is_none())?;
        Some(executor.record.registration.transport_endpoints.ws.clone())
    }

    /// Takes note of a new connection.
    pub fn attach(
        &mut self,
        id: &ExecutorId,
        connection: ConnectionId,
        opened: Opened,
        now: Now,
        fx: &mut Effects,
    ) -> Attached {
        let Some(executor) = self.executors.get_mut(id) else { return Attached::Listener };
        if executor.line.is_some() {
            return Attached::Listener;
        }
        executor.line = Some(Line { connection, has_spoken: false });
        executor.record.disconnected_at = None;
        executor.dial_at = None;
        self.routing.update(id, |candidate| candidate.connected = true);
        if opened == Opened::ByUs {
            self.hear(id, connection, now, fx);
        }
        self.write_executor(id, fx);
        Attached::Line
    }

    /// Takes note that a connection sent a valid frame: it is the executor. Says whether it is the line, and not an older one
    /// whose last frames arrive late.
    pub(super) fn hear(
        &mut self,
        id: &ExecutorId,
        connection: ConnectionId,
        now: Now,
        fx: &mut Effects,
    ) -> bool {
        let Some(executor) = self.executors.get_mut(id) else { return false };
        executor.record.last_event_ts = Some(now.wall);
        match executor.line {
            Some(line) if line.connection == connection && line.has_spoken => return true,
            Some(line) if line.connection == connection => {}
            Some(line) if line.has_spoken && line.connection > connection => {
                fx.actions.push(Action::Close(connection, CLOSE_REPLACED));
                return false;
            }
            Some(line) => {
                let leave = if line.has_spoken {
                    Action::Close(line.connection, CLOSE_REPLACED)
                } else {
                    Action::Demote(line.connection)
                };
                fx.actions.push(leave);
                fx.actions.push(Action::Promote(connection));
            }
            None => fx.actions.push(Action::Promote(connection)),
        }
        executor.line = Some(Line { connection, has_spoken: true });
        executor.grace_ends = None;
        executor.dial_at = None;
        executor.record.disconnected_at = None;
        self.routing.update(id, |candidate| candidate.connected = true);
        true
    }

    /// Takes note that a connection is gone.
    pub fn detach(&mut self, id: &ExecutorId, connection: ConnectionId, now: Now, fx: &mut Effects) {
        let Some(executor) = self.executors.get_mut(id) else { return };
        if executor.control() == Some(connection) {
            self.lose_line(id, now, fx);
        }
    }

    fn lose_line(&mut self, id: &ExecutorId, now: Now, fx: &mut Effects) {
        let Some(executor) = self.executors.get_mut(id) else { return };
        executor.line = None;
        executor.record.disconnected_at = Some(now.wall);
        let grace_ends = *executor.grace_ends.get_or_insert(now.instant + self.config.executor_grace);
        let dial_at = now.instant + self.config.dial_after;
        executor.dial_at = Some(dial_at);
        self.arm(grace_ends, Timer::Grace(id.clone()));
        self.arm(dial_at, Timer::Dial(id.clone()));
        self.arm(now.instant + FORGET_AFTER, Timer::Forget(id.clone()));
        self.routing.update(id, |candidate| candidate.connected = false);
        self.write_executor(id, fx);
    }

    /// Takes note that an executor wants no new missions, or wants them again.
    pub(super) fn set_draining(&mut self, id: &ExecutorId, draining: bool, fx: &mut Effects) {
        if let Some(executor) = self.executors.get_mut(id)
            && executor.record.is_draining != draining
        {
            executor.record.is_draining = draining;
            self.routing.update(id, |candidate| candidate.draining = draining);
            self.write_executor(id, fx);
        }
    }

    /// Returns when [`Machine::tick`] wants to be called.
    pub fn next_wakeup(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Does what has become due.
    pub fn tick(&mut self, now: Now, fx: &mut Effects) {
        while let Some((at, _)) = self.timers.first()
            && *at <= now.instant
        {
            let Some((at, timer)) = self.timers.pop_first() else { return };
            match timer {
                Timer::Dial(id) => self.dial_due(&id, at, now, fx),
                Timer::Grace(id) => self.grace_over(&id, at, now, fx),
                Timer::Forget(id) => self.forget_due(&id, now, fx),
                Timer::Question(mission, question) => self.question_due(&mission, &question, now, fx),
                Timer::Ask(mission, ticket) => self.ask_due(&mission, ticket, fx),
                Timer::Unconfirmed(mission) => self.unconfirmed(&mission, at, now, fx),
                Timer::Room(id) => self.routing.update(&id, |candidate| candidate.full = None),
            }
        }
    }

    fn dial_due(&mut self, id: &ExecutorId, at: Instant, _now: Now, fx: &mut Effects) {
        if let Some(executor) = self.executors.get_mut(id)
            && executor.dial_at == Some(at)
        {
            executor.dial_at = None;
            fx.actions.push(Action::Dial(id.clone()));
        }
    }

    /// Takes note that dialling failed, and when to try again.
    pub fn dial_failed(&mut self, id: &ExecutorId, again_after: Duration, now: Now) {
        if let Some(executor) = self.executors.get_mut(id)
            && executor.line.is_none()
        {
            let at = now.instant + again_after;
            executor.dial_at = Some(at);
            self.arm(at, Timer::Dial(id.clone()));
        }
    }

    fn grace_over(&mut self, id: &ExecutorId, at: Instant, now: Now, fx: &mut Effects) {
        let Some(executor) = self.executors.get_mut(id) else { return };
        if executor.grace_ends != Some(at) {
            return;
        }
        executor.grace_ends = None;
        if let Some(line) = executor.line.take() {
            // It had the token and the line, and never said a word: not the executor.
            fx.actions.push(Action::Demote(line.connection));
            executor.record.disconnected_at.get_or_insert(now.wall);
            self.routing.update(id, |candidate| candidate.connected = false);
            self.dial_failed(id, self.config.dial_after, now);
        }
        let resumable = self.executors.get(id).is_some_and(Executor::is_resumable);
        for mission in self.live_missions(id) {
            let Some(held) = self.missions.get(&mission) else { continue };
            if held.ticket.is_some() || held.mission.state == MissionState::Suspended {
                continue;
            }
            if resumable {
                let checkpoint_id = Some("executor_disconnected".to_owned());
                let reason = Some("executor_disconnected".to_owned());
                let event = MissionEvent::Suspended { checkpoint_id, reason };
                self.decide(&mission, event, now, fx);
            } else {
                self.fail(
                    &mission,
                    "executor_disconnected",
                    "its executor lost the connection and did not come back in time",
                    now,
                    fx,
                );
            }
        }
    }

    fn forget_due(&mut self, id: &ExecutorId, now: Now, fx: &mut Effects) {
        let Some(executor) = self.executors.get(id) else { return };
        let gone_since = executor.record.disconnected_at.unwrap_or(executor.record.registered_at);
        if executor.line.is_none() && now.wall.since(gone_since) >= FORGET_AFTER {
            // It is registered, so taking it out cannot be refused.
            self.deregister(id, "timeout", now, fx).ok();
        }
    }

    pub(super) fn arm(&mut self, at: Instant, timer: Timer) {
        self.timers.insert((at, timer));
    }

    pub(super) fn active_count(&self, id: &ExecutorId) -> u64 {
        self.live.get(id).map_or(0, |live| u64::try_from(live.len()).unwrap_or(u64::MAX))
    }

    pub(super) fn live_missions(&self, id: &ExecutorId) -> Vec<MissionId> {
        self.live.get(id).map(|live| live.iter().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn take_on(&mut self, executor: &ExecutorId, mission: &MissionId, session: &str) {
        let is_new = self.live.entry(executor.clone()).or_default().insert(mission.clone());
        if is_new && self.config.max_missions_per_session.is_some() {
            *self.live_in_session.entry(session.to_owned()).or_default() += 1;
        }
        let active = self.active_count(executor);
        self.routing.update(executor, |candidate| candidate.active = active);
    }

    pub(super) fn let_go(&mut self, executor: &ExecutorId, mission: &MissionId, session: &str) {
        let mut was_live = false;
        if let Some(live) = self.live.get_mut(executor) {
            was_live = live.remove(mission);
            if live.is_empty() {
                self.live.remove(executor);
            }
        }
        if was_live && let Some(count) = self.live_in_session.get_mut(session) {
            *count -= 1;
            if *count == 0 {
                self.live_in_session.remove(session);
            }
        }
        let active = self.active_count(executor);
        self.routing.update(executor, |candidate| {
            candidate.active = active;
            candidate.full = None;
        });
    }

    pub(super) fn hash(&self, id_or_key: &str) -> u64 {
        self.hasher.hash_one(id_or_key)
    }

    /// Says whether only the store may know a mission by this id or key. Now and then it says so without need.
    pub fn may_be_stored(&self, id_or_key: &str) -> bool {
        self.stored.contains(&self.hash(id_or_key))
    }

    pub(super) fn next_ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    /// Stores an event and lets observers see it.
    ///
    /// Returns its number.
    pub(super) fn publish(&mut self, frame: Frame, fx: &mut Effects) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        let event = Arc::new(StoredEvent {
            seq,
            kind: Arc::from(frame.envelope.name()),
            executor_id: frame.envelope.executor_id,
            mission_id: frame.envelope.mission_id,
            ts: frame.envelope.ts,
            raw: frame.raw,
        });
        fx.writes.push(Write::Event(Arc::clone(&event)));
        fx.actions.push(Action::Publish(event));
        seq
    }

    /// Sends a frame to the executor, if it has a line; says whether it has.
    pub(super) fn tell(&self, id: &ExecutorId, raw: &Arc<str>, fx: &mut Effects) -> bool {
        let control = self.executors.get(id).and_then(Executor::control);
        if let Some(connection) = control {
            fx.actions.push(Action::Send(connection, Arc::clone(raw)));
        }
        control.is_some()
    }

    fn write_executor(&self, id: &ExecutorId, fx: &mut Effects) {
        if let Some(executor) = self.executors.get(id) {
            fx.writes.push(Write::Executor(Box::new(executor.record.clone())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::lifecycle::{Happening, Transition, transition};
    use crate::protocol::executor_v1::{DispatchRequest, TransportEndpoints};
    use crate::protocol::route::OperatorCommand;
    use crate::registry::assignment::{DispatchCall, Dispatched};
    use crate::registry::following::Verdict;
    use crate::registry::idempotency::Fingerprint;
    use crate::registry::record::{Forward, ForwardOutcome};
    use proptest::prelude::*;

    fn executor_id() -> ExecutorId {
        ExecutorId::new("0b7e0c1e-8a53-4c7e-9d52-6f0e5f3f9a11").unwrap()
    }

    fn registration(resumable: bool) -> RegisterRequest {
        let capabilities = if resumable { vec!["resumable".to_owned()] } else { Vec::new() };
        let url = "http://h".to_owned();
        RegisterRequest {
            executor_id: executor_id(),
            name: "e".to_owned(),
            version: "1".to_owned(),
            spec_version: "1.0.0".to_owned(),
            transport_endpoints: TransportEndpoints { rest: url.clone(), ws: url, grpc: None },
            capabilities,
            a2a_instance_id: None,
        }
    }

    fn call(mission: u8) -> DispatchCall {
        let body = format!(r#"{{"mission_id":"m-{mission}","objective":"o"}}"#);
        DispatchCall {
            session: "s".to_owned(),
            key: format!("m-{mission}"),
            fingerprint: Fingerprint::of(body.as_bytes()),
            request: DispatchRequest::parse(body.as_bytes()).unwrap(),
        }
    }

    fn frame(mission: u8, happening: Happening, said_at: Duration) -> Frame {
        let text = format!(
            r#"{{"event":"{}","executor_id":"{}","mission_id":"m-{mission}","ts":"2026-01-01T00:00:00Z","data":{{"hitl_id":"h","prompt":"?","response":"!","n":{}}}}}"#,
            happening.as_wire(),
            executor_id(),
            said_at.as_millis()
        );
        Frame::parse(&text).unwrap()
    }

    fn resync(owned: &[u8]) -> Frame {
        let owned = owned.iter().map(|mission| MissionId::new(format!("m-{mission}")).unwrap()).collect();
        let event = ExecutorEvent::Resync { owned_mission_ids: owned };
        Frame::encode(Envelope::executor(executor_id(), Timestamp::from_millis(0), event))
    }

    #[derive(Debug, Clone)]
    enum Step {
        Dispatch(u8),
        /// The oldest open forward ends.
        Outcome(u8),
        Event(u8, usize),
        Resync(Vec<u8>),
        Connect,
        Disconnect,
        Order(u8, u8),
        Wait(u16),
        Register,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0_u8..4).prop_map(Step::Dispatch),
            3 => (0_u8..5).prop_map(Step::Outcome),
            4 => (0_u8..4, 0..Happening::ALL.len()).prop_map(|(m, h)| Step::Event(m, h)),
            1 => prop::collection::vec(0_u8..5, 0..4).prop_map(Step::Resync),
            2 => Just(Step::Connect),
            1 => Just(Step::Disconnect),
            1 => (0_u8..4, 0_u8..3).prop_map(|(m, c)| Step::Order(m, c)),
            1 => (0_u16..60_000).prop_map(Step::Wait),
            1 => Just(Step::Register),
        ]
    }

    fn outcome(number: u8) -> ForwardOutcome {
        let message = "no".to_owned();
        match number {
            0 | 1 => ForwardOutcome::Accepted { estimated_start: None },
            2 => ForwardOutcome::Refused { status: 500, message, retry_after_seconds: None },
            3 => ForwardOutcome::Unreachable { message },
            _ => ForwardOutcome::Uncertain { message },
        }
    }

    /// Checks what must hold after every step.
    fn hold(machine: &Machine) -> Result<(), TestCaseError> {
        let mut live: BTreeMap<&ExecutorId, u64> = BTreeMap::new();
        let mut live_in_session: HashMap<String, u32> = HashMap::new();
        for held in machine.missions.values() {
            let mission = &held.mission;
            prop_assert!(held.recent.len() <= 50);
            prop_assert_eq!(mission.state.is_terminal(), mission.completed_at.is_some());
            prop_assert!(mission.question.is_none() || mission.state == MissionState::HitlRequired);
            let listed =
                machine.live.get(&mission.executor_id).is_some_and(|live| live.contains(&mission.id));
            prop_assert_eq!(listed, !mission.state.is_terminal());
            if let Some(entry) = machine.keys.get(&mission.order.key) {
                prop_assert!(!mission.is_accepted || entry.answer.is_some(), "its caller would ask for ever");
            }
            *live.entry(&mission.executor_id).or_default() += u64::from(listed);
            if listed {
                *live_in_session.entry(mission.order.session.clone()).or_default() += 1;
            }
        }
        prop_assert!(
            live_in_session.get("s").is_none_or(|count| *count <= 3),
            "the session holds three at most"
        );
        prop_assert_eq!(live_in_session, machine.live_in_session.clone());
        for (executor, count) in live {
            prop_assert_eq!(machine.active_count(executor), count);
        }
        Ok(())
    }

    /// A machine with an executor, a mission that was accepted, and a line that has spoken.
    fn running(now: Now) -> Machine {
        let (mut machine, mut fx) = (Machine::new(Config::default()), Effects::default());
        machine.register(registration(false), [0; 32], false, now, &mut fx);
        machine.attach(&executor_id(), ConnectionId(1), Opened::ByTokenHolder, now, &mut fx);
        assert!(matches!(machine.dispatch(call(1), now, &mut fx), Ok(Dispatched::OnItsWay(_))));
        let first = frame(1, Happening::Started, Duration::ZERO);
        let verdict = machine.frame(&executor_id(), ConnectionId(1), first, now, &mut fx);
        assert_eq!(verdict, Verdict::Accepted);
        machine
    }

    #[test]
    fn what_a_replaced_line_still_says_counts_and_does_not_bring_it_back() {
        let now = Now { instant: Instant::now(), wall: Timestamp::from_millis(0) };
        let (mut machine, mut fx) = (running(now), Effects::default());
        let attached = machine.attach(&executor_id(), ConnectionId(2), Opened::ByTokenHolder, now, &mut fx);
        assert_eq!(attached, Attached::Listener);
        machine.frame(&executor_id(), ConnectionId(2), resync(&[1]), now, &mut fx);
        assert!(fx.actions.contains(&Action::Close(ConnectionId(1), CLOSE_REPLACED)));
        let mut late = Effects::default();
        let progress = frame(1, Happening::Progress, Duration::from_millis(1));
        for frame in [progress, resync(&[])] {
            let verdict = machine.frame(&executor_id(), ConnectionId(1), frame, now, &mut late);
            assert_eq!(verdict, Verdict::Accepted);
        }
        assert_eq!(machine.executors[&executor_id()].control(), Some(ConnectionId(2)));
        let published = late.actions.iter().filter(|action| matches!(action, Action::Publish(_))).count();
        let closed = Action::Close(ConnectionId(1), CLOSE_REPLACED);
        let told = late.actions.iter().filter(|action| **action == closed).count();
        assert_eq!((published, told, late.actions.len()), (1, 2, 3), "{:?}", late.actions);
    }

    #[test]
    fn a_frame_that_is_said_again_on_another_line_is_the_same_event() {
        let now = Now { instant: Instant::now(), wall: Timestamp::from_millis(0) };
        let (mut machine, mut fx) = (running(now), Effects::default());
        let progress = || frame(1, Happening::Progress, Duration::from_millis(7));
        let mut say = |connection, frame| {
            let verdict = machine.frame(&executor_id(), ConnectionId(connection), frame, now, &mut fx);
            (verdict, machine.mission("m-1").unwrap().recent_events.len())
        };
        assert_eq!(say(1, progress()), (Verdict::Accepted, 2));
        assert_eq!(say(1, progress()), (Verdict::Accepted, 3), "on one line it is another that looks alike");
        assert_eq!(say(2, progress()), (Verdict::Repeated, 3));
        let newer = frame(1, Happening::Progress, Duration::from_millis(8));
        assert_eq!(say(2, newer.clone()), (Verdict::Accepted, 4));
        assert_eq!(say(1, newer), (Verdict::Repeated, 4), "late on the old line");
    }

    /// Whatever happens: ends are final, counts are right, and no timer is overdue.
    fn run(resumable: bool, steps: Vec<Step>) -> Result<(), TestCaseError> {
        let mut machine = Machine::new(Config { max_missions_per_session: Some(3), ..Config::default() });
        let start = Instant::now();
        let (mut passed, mut connection) = (Duration::ZERO, 0);
        let mut forwards: VecDeque<Forward> = VecDeque::new();
        let mut ended: HashMap<(MissionId, Ticket), MissionState> = HashMap::new();
        for step in std::iter::once(Step::Register).chain(std::iter::once(Step::Connect)).chain(steps) {
            passed += Duration::from_millis(1);
            let mut fx = Effects::default();
            if let Step::Wait(millis) = &step {
                passed += Duration::from_millis(u64::from(*millis));
            }
            let now = Now { instant: start + passed, wall: Timestamp::from_millis(0).plus(passed) };
            match step {
                Step::Register => {
                    machine.register(registration(resumable), [0; 32], false, now, &mut fx);
                }
                Step::Dispatch(mission) => {
                    if let Ok(Dispatched::OnItsWay(_)) = machine.dispatch(call(mission), now, &mut fx) {
                        prop_assert!(machine.executors[&executor_id()].line.is_some());
                    }
                }
                Step::Outcome(number) => {
                    if let Some(forward) = forwards.pop_front() {
                        machine.forwarded(&forward, outcome(number), now, &mut fx).ok();
                    }
                }
                Step::Event(mission, happening) => {
                    let happening = Happening::ALL[happening];
                    let id = MissionId::new(format!("m-{mission}")).unwrap();
                    let before = machine.missions.get(&id).map(|held| held.mission.state);
                    let frame = frame(mission, happening, passed);
                    let verdict =
                        machine.frame(&executor_id(), ConnectionId(connection), frame, now, &mut fx);
                    if let (Verdict::Accepted, Some(before)) = (verdict, before) {
                        let after = machine.missions[&id].mission.state;
                        let expected = match transition(before, happening) {
                            Transition::To(next) => next,
                            Transition::Stay | Transition::Refused => before,
                        };
                        prop_assert_eq!(after, expected);
                    }
                }
                Step::Resync(owned) => {
                    machine.frame(&executor_id(), ConnectionId(connection), resync(&owned), now, &mut fx);
                }
                Step::Connect => {
                    connection += 1;
                    machine.attach(
                        &executor_id(),
                        ConnectionId(connection),
                        Opened::ByTokenHolder,
                        now,
                        &mut fx,
                    );
                }
                Step::Disconnect => machine.detach(&executor_id(), ConnectionId(connection), now, &mut fx),
                Step::Order(mission, command) => {
                    let command = [OperatorCommand::Pause, OperatorCommand::Resume, OperatorCommand::Abort]
                        [usize::from(command)];
                    machine.command(&format!("m-{mission}"), command, now, &mut fx).ok();
                }
                Step::Wait(_) => {}
            }
            machine.tick(now, &mut fx);
            prop_assert!(machine.next_wakeup().is_none_or(|at| at > now.instant));
            forwards.extend(fx.actions.into_iter().filter_map(|action| match action {
                Action::Forward(forward) => Some(forward),
                Action::Publish(_)
                | Action::Send(..)
                | Action::Close(..)
                | Action::Promote(_)
                | Action::Demote(_)
                | Action::Command(_)
                | Action::Dial(_)
                | Action::Notify => None,
            }));
            hold(&machine)?;
            // An ended attempt stays as it ended; only a new dispatch, which has another ticket, begins anew.
            for held in machine.missions.values().filter(|held| held.mission.state.is_terminal()) {
                if let Some(ticket) = held.ticket {
                    let state = held.mission.state;
                    let first = *ended.entry((held.mission.id.clone(), ticket)).or_insert(state);
                    prop_assert_eq!(first, state);
                }
            }
        }
        Ok(())
    }

    /// Found by the property: a dispatch that is repeated while it is on its way, and an executor that knows nothing of it.
    #[test]
    fn a_repeated_dispatch_that_its_executor_denies_is_counted_once() {
        let steps = vec![
            Step::Dispatch(0),
            Step::Dispatch(0),
            Step::Event(0, 0),
            Step::Outcome(0),
            Step::Event(0, 3),
            Step::Resync(vec![]),
            Step::Outcome(0),
        ];
        run(true, steps).unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn whatever_happens_ends_are_final_counts_are_right_and_no_timer_is_overdue(
            resumable in any::<bool>(),
            steps in prop::collection::vec(step(), 0..60),
        ) {
            run(resumable, steps)?;
        }
    }
}
