//! Pure: a dispatch, from the question to its answer.
//!
//! ```text
//!  fresh ──▶ Queued, written ──▶ forward ──▶ accepted ──▶ Assigned, answered 202, key remembered
//!                                   │
//!                                   └─▶ refused or unreachable ──▶ Failed, 502, or 503 when it has no room, key free again
//! ```
//!
//! An executor may speak of a mission before it answers the forward; then it has it, whatever the answer says.

use crate::domain::event::MissionEvent;
use crate::domain::id::{ExecutorId, MissionId};
use crate::domain::lifecycle::MissionState;
use crate::domain::time::Now;
use crate::protocol::executor_v1::{DispatchRequest, DispatchResponse, PayloadForm};
use crate::registry::idempotency::{Fingerprint, Judgement, KeyAnswer, KeyEntry, judge};
use crate::registry::machine::{Held, Machine, Timer};
use crate::registry::record::{
    Action, Effects, Forward, ForwardKind, ForwardOutcome, Mission, Order, Ticket, Write,
};
use crate::registry::refusal::Refusal;
use crate::registry::routing::Explanation;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Ended missions that stay in memory although the store has them: their status is often asked for right after the end.
const MAX_ENDED_IN_MEMORY: usize = 10_000;

/// How long to wait before asking again about a mission whose executor could not be asked. 2 s.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// How long an executor counts as full at least when none of its missions ends: whoever was refused comes again after a
/// second and finds another one. 5 s.
const SHORTEST_FULL: Duration = Duration::from_secs(5);

/// How long an executor counts as full at most when none of its missions ends. 1 min.
const LONGEST_FULL: Duration = Duration::from_secs(60);

/// One dispatch as the caller sent it.
#[derive(Debug)]
pub struct DispatchCall {
    /// The session in the path.
    pub session: String,
    /// The `Idempotency-Key`, or else the mission's id.
    pub key: String,
    /// Of the body.
    pub fingerprint: Fingerprint,
    /// The body.
    pub request: DispatchRequest,
}

/// What becomes of a dispatch.
#[derive(Debug)]
#[must_use]
pub enum Dispatched {
    /// It was answered before.
    Replayed(DispatchResponse),
    /// It is on its way; the answer comes with the outcome of this forward.
    OnItsWay(Ticket),
    /// The store may know the key or the mission: recall them and ask again.
    AskStore(Box<DispatchCall>),
}

impl Machine {
    /// Decides about a dispatch.
    ///
    /// # Errors
    /// [`Refusal`]: in flight, key reused, lives under another key, the session is full, or nobody fits.
    pub fn dispatch(
        &mut self,
        call: DispatchCall,
        now: Now,
        fx: &mut Effects,
    ) -> Result<Dispatched, Refusal> {
        let is_stored = |id_or_key: &str| self.may_be_stored(id_or_key);
        if !self.stored.is_empty() && (is_stored(&call.key) || is_stored(call.request.mission_id.as_str())) {
            return Ok(Dispatched::AskStore(Box::new(call)));
        }
        let DispatchCall { session, key, fingerprint, request } = call;
        let known = self.keys.get(&key);
        match judge(known, fingerprint) {
            Judgement::Fresh => {}
            Judgement::InFlight => return Err(Refusal::InFlight { mission_id: request.mission_id }),
            Judgement::Reused => {
                let mission_id = known.map_or(request.mission_id, |entry| entry.mission_id.clone());
                return Err(Refusal::KeyReused { mission_id });
            }
            Judgement::Replay(answer) => {
                return Ok(Dispatched::Replayed(response(request.mission_id, answer, true)));
            }
        }
        if let Some(held) = self.missions.get(&request.mission_id)
            && !held.mission.state.is_terminal()
        {
            return Err(Refusal::Conflict {
                mission_id: request.mission_id,
                state: held.mission.state,
                executor_id: held.mission.executor_id.clone(),
            });
        }
        if let Some(limit) = self.config.max_missions_per_session
            && let Some(live) = self.live_in_session.get(&session).copied().filter(|live| *live >= limit)
        {
            return Err(Refusal::SessionFull { session, live, limit });
        }
        let filter = &request.executor_filter;
        let choice = self.routing.choose(filter, request.long_running);
        let Some((choice, executor)) =
            choice.and_then(|choice| self.executors.get(&choice.id).map(|executor| (choice, executor)))
        else {
            let explanation = Box::new(self.routing.explain(filter, request.long_running, None));
            return Err(Refusal::NoExecutor { resumable: request.long_running, explanation });
        };
        let rest = executor.record.registration.transport_endpoints.rest.clone();
        let order = Arc::new(Order {
            session,
            key: key.clone(),
            fingerprint,
            body: request.encode(PayloadForm::V1),
            long_running: request.long_running,
        });
        let mission_id = request.mission_id;
        let ticket = self.next_ticket();
        let mut mission = new_mission(mission_id.clone(), order, choice.id.clone(), now);
        mission.events_after = self.next_seq - 1;
        if let Some(earlier) = self.missions.get(&mission_id) {
            mission.created_at = earlier.mission.created_at;
            mission.number = earlier.mission.number;
            self.keep_key(&earlier.mission.order.key, fx);
        } else {
            mission.number = self.next_number;
            self.next_number += 1;
        }
        let entry = KeyEntry { mission_id: mission_id.clone(), fingerprint, answer: None };
        fx.writes.push(Write::NewMission(Box::new(mission.clone())));
        if key != mission_id.as_str() {
            fx.writes.push(Write::Key(key.clone(), entry.clone()));
        }
        self.keys.insert(key, entry);
        fx.actions.push(Action::Forward(Forward {
            ticket,
            mission_id: mission_id.clone(),
            executor_id: choice.id.clone(),
            rest,
            order: Arc::clone(&mission.order),
            kind: ForwardKind::First,
        }));
        self.take_on(&choice.id, &mission_id, &mission.order.session);
        self.missions.insert(
            mission_id,
            Held { mission, recent: VecDeque::new(), ticket: Some(ticket), confirm: (None, 0) },
        );
        Ok(Dispatched::OnItsWay(ticket))
    }

    /// Explains how a mission would be, or was, routed now.
    pub fn explain(&self, request: &DispatchRequest) -> Explanation {
        let choice = self.routing.choose(&request.executor_filter, request.long_running);
        self.routing.explain(&request.executor_filter, request.long_running, choice.as_ref())
    }

    /// Takes the outcome of a forward and returns the answer to whoever waits for it.
    ///
    /// # Errors
    /// [`Refusal`] when the mission did not reach the executor.
    pub fn forwarded(
        &mut self,
        forward: &Forward,
        outcome: ForwardOutcome,
        now: Now,
        fx: &mut Effects,
    ) -> Result<DispatchResponse, Refusal> {
        let mission_id = &forward.mission_id;
        let Some(held) = self.missions.get_mut(mission_id).filter(|held| held.ticket == Some(forward.ticket))
        else {
            return Err(Refusal::MissionNotFound { id: mission_id.to_string() });
        };
        held.ticket = None;
        let (has_spoken, had_ended) = (held.mission.is_accepted, held.mission.state.is_terminal());
        let answer = self.settle(forward, outcome, has_spoken, now, fx);
        if had_ended {
            // Faster than its answer: only now may it leave the memory.
            self.has_ended(mission_id);
        }
        answer
    }

    fn settle(
        &mut self,
        forward: &Forward,
        outcome: ForwardOutcome,
        has_spoken: bool,
        now: Now,
        fx: &mut Effects,
    ) -> Result<DispatchResponse, Refusal> {
        let mission_id = &forward.mission_id;
        match outcome {
            ForwardOutcome::Accepted { estimated_start } => {
                Ok(self.accepted(forward, estimated_start, now, fx))
            }
            ForwardOutcome::EndedThere { state, exit_code, error } => {
                let answer = self.accepted(forward, None, now, fx);
                let event = ended_there(state, exit_code, error);
                self.decide(mission_id, event, now, fx);
                Ok(answer)
            }
            ForwardOutcome::Refused { .. }
            | ForwardOutcome::Unreachable { .. }
            | ForwardOutcome::Uncertain { .. }
                if has_spoken && forward.kind == ForwardKind::First =>
            {
                Ok(self.accepted(forward, None, now, fx))
            }
            ForwardOutcome::Refused { status, message, retry_after_seconds } => {
                self.not_reached(forward, &message, now, fx);
                let executor_id = forward.executor_id.clone();
                if matches!(status, 429 | 503) && forward.kind == ForwardKind::First {
                    return Err(self.no_room(forward, message, retry_after_seconds, now));
                }
                Err(Refusal::ForwardFailed { executor_id, status, message, retry_after_seconds })
            }
            ForwardOutcome::Unreachable { message } => {
                self.not_reached(forward, &message, now, fx);
                Err(Refusal::ExecutorUnreachable { executor_id: forward.executor_id.clone(), message })
            }
            ForwardOutcome::Uncertain { message } => {
                if self.is_within_grace(&forward.executor_id) {
                    self.ask_later(mission_id, now);
                } else {
                    self.not_reached(forward, &message, now, fx);
                }
                Err(Refusal::ExecutorUnreachable { executor_id: forward.executor_id.clone(), message })
            }
        }
    }

    /// The executor has no room: until it says so, or one of its missions ends, the others are asked first.
    fn no_room(
        &mut self,
        forward: &Forward,
        words: String,
        retry_after_seconds: Option<u64>,
        now: Now,
    ) -> Refusal {
        let id = &forward.executor_id;
        let until = Duration::from_secs(retry_after_seconds.unwrap_or(0)).clamp(SHORTEST_FULL, LONGEST_FULL);
        self.routing.update(id, |candidate| candidate.full = Some(words));
        self.arm(now.instant + until, Timer::Room(id.clone()));
        let order = &forward.order;
        let filter = DispatchRequest::parse(order.body.as_bytes()).map(|request| request.executor_filter);
        let explanation = self.routing.explain(&filter.unwrap_or_default(), order.long_running, None);
        Refusal::NoExecutor { resumable: order.long_running, explanation: Box::new(explanation) }
    }

    /// Its line is open, or has been gone for less than the grace.
    fn is_within_grace(&self, id: &ExecutorId) -> bool {
        let executor = self.executors.get(id);
        executor.is_some_and(|executor| executor.control().is_some() || executor.grace_ends.is_some())
    }

    /// Nobody may dispatch it again before it is known whether the executor has it.
    fn ask_later(&mut self, mission_id: &MissionId, now: Now) {
        let ticket = self.next_ticket();
        if let Some(held) = self.missions.get_mut(mission_id) {
            held.ticket = Some(ticket);
            self.arm(now.instant + ASK_AGAIN_AFTER, Timer::Ask(mission_id.clone(), ticket));
        }
    }

    pub(super) fn ask_due(&mut self, mission_id: &MissionId, ticket: Ticket, fx: &mut Effects) {
        let Some(held) = self.missions.get(mission_id).filter(|held| held.ticket == Some(ticket)) else {
            return;
        };
        let mission = &held.mission;
        let executor = self.executors.get(&mission.executor_id);
        let rest = executor.map(|executor| executor.record.registration.transport_endpoints.rest.clone());
        fx.actions.push(Action::Forward(Forward {
            ticket,
            mission_id: mission_id.clone(),
            executor_id: mission.executor_id.clone(),
            // An executor that is gone cannot be reached, which is an outcome as well.
            rest: rest.unwrap_or_default(),
            order: Arc::clone(&mission.order),
            kind: ForwardKind::AskOnly,
        }));
    }

    /// Puts a key that is about to leave its mission's row where it stays findable.
    fn keep_key(&self, key: &str, fx: &mut Effects) {
        if let Some(entry) = self.keys.get(key).filter(|entry| entry.mission_id.as_str() == key) {
            fx.writes.push(Write::Key(key.to_owned(), entry.clone()));
        }
    }

    fn accepted(
        &mut self,
        forward: &Forward,
        estimated_start: Option<String>,
        now: Now,
        fx: &mut Effects,
    ) -> DispatchResponse {
        let answer = KeyAnswer { executor_id: forward.executor_id.clone(), estimated_start };
        if let Some(held) = self.missions.get_mut(&forward.mission_id) {
            let mission = &mut held.mission;
            let is_back = forward.kind == ForwardKind::Resend && !mission.state.is_terminal();
            if mission.state == MissionState::Queued || is_back {
                mission.state = MissionState::Assigned;
                mission.state_since = now.wall;
                mission.state_ts = None;
                mission.question = None;
            }
            mission.is_accepted = true;
            mission.updated_at = now.wall;
            mission.estimated_start.clone_from(&answer.estimated_start);
            fx.writes.push(Write::Mission(Box::new(mission.clone())));
        }
        self.answer_key(&forward.mission_id, &answer, fx);
        self.repeat_pending(&forward.mission_id, now, fx);
        response(forward.mission_id.clone(), answer, false)
    }

    /// Whoever dispatches the mission again under its key gets this answer, unless there was one before.
    pub(super) fn answer_key(&mut self, mission_id: &MissionId, answer: &KeyAnswer, fx: &mut Effects) {
        let Some(held) = self.missions.get(mission_id) else { return };
        let key = &held.mission.order.key;
        let is_its_own = |entry: &&mut KeyEntry| entry.mission_id == *mission_id && entry.answer.is_none();
        if let Some(entry) = self.keys.get_mut(key).filter(is_its_own) {
            entry.answer = Some(answer.clone());
            if key != mission_id.as_str() {
                fx.writes.push(Write::Key(key.clone(), entry.clone()));
            }
        }
    }

    fn not_reached(&mut self, forward: &Forward, message: &str, now: Now, fx: &mut Effects) {
        let mission_id = &forward.mission_id;
        if forward.kind != ForwardKind::First && self.missions.get(mission_id).is_some_and(was_accepted) {
            // It had been accepted once, so observers know of it: they hear of its end.
            let text = format!("its executor no longer has it: {message}");
            self.fail(mission_id, "executor_lost", &text, now, fx);
            return;
        }
        let Some(held) = self.missions.get_mut(mission_id) else { return };
        let mission = &mut held.mission;
        mission.state = MissionState::Failed;
        mission.state_since = now.wall;
        mission.updated_at = now.wall;
        mission.completed_at = Some(now.wall);
        mission.error = Some(message.to_owned());
        let key = mission.order.key.clone();
        fx.writes.push(Write::Mission(Box::new(mission.clone())));
        self.keys.remove(&key);
        if key != mission_id.as_str() {
            fx.writes.push(Write::ForgetKey(key));
        }
        self.has_ended(mission_id);
    }

    /// Takes an ended mission off its executor.
    pub(super) fn has_ended(&mut self, mission_id: &MissionId) {
        let ticket = self.next_ticket();
        let Some(held) = self.missions.get_mut(mission_id) else { return };
        held.ticket = Some(ticket);
        held.mission.question = None;
        held.mission.pending = None;
        let (executor_id, order) = (held.mission.executor_id.clone(), Arc::clone(&held.mission.order));
        self.let_go(&executor_id, mission_id, &order.session);
        self.ended.push_back((mission_id.clone(), ticket, self.round));
    }

    /// Begins a round of decisions; what ends in it may leave the memory once the round is committed.
    pub fn begin_round(&mut self, round: u64) {
        self.round = round;
    }

    /// Lets ended missions beyond the bound leave the memory, the longest ended first, once their round has been committed.
    pub fn trim(&mut self, committed_round: u64) {
        while self.ended.len() > MAX_ENDED_IN_MEMORY {
            let Some((oldest, ticket, round)) = self.ended.front() else { return };
            if *round > committed_round {
                return;
            }
            // Dispatched again meanwhile? Then it has another ticket, and stays.
            let is_current = self.missions.get(oldest).is_some_and(|held| held.ticket == Some(*ticket));
            let oldest = oldest.clone();
            self.ended.pop_front();
            if is_current && let Some(held) = self.missions.remove(&oldest) {
                self.leave_memory(&held.mission);
            }
        }
    }

    fn leave_memory(&mut self, mission: &Mission) {
        self.keys.remove(&mission.order.key);
        self.keys.remove(mission.id.as_str());
        let hashes = [self.hash(mission.id.as_str()), self.hash(&mission.order.key)];
        self.stored.extend(hashes);
    }
}

fn was_accepted(held: &Held) -> bool {
    held.mission.is_accepted
}

fn ended_there(state: MissionState, exit_code: Option<i64>, error: Option<String>) -> MissionEvent {
    match state {
        MissionState::Done => {
            MissionEvent::Completed { exit_code, tokens_total: None, summary: None, artifacts: Vec::new() }
        }
        MissionState::Aborted => MissionEvent::Aborted { aborted_by: None, reason: error },
        MissionState::Queued
        | MissionState::Assigned
        | MissionState::Running
        | MissionState::HitlRequired
        | MissionState::Paused
        | MissionState::Suspended
        | MissionState::Failed => MissionEvent::Failed { reason: None, error, exit_code, tokens_total: None },
    }
}

pub(super) fn new_mission(id: MissionId, order: Arc<Order>, executor_id: ExecutorId, now: Now) -> Mission {
    Mission {
        number: 0,
        id,
        order,
        executor_id,
        state: MissionState::Queued,
        state_since: now.wall,
        state_ts: None,
        created_at: now.wall,
        updated_at: now.wall,
        completed_at: None,
        is_accepted: false,
        is_resent: false,
        estimated_start: None,
        pty_session_ref: None,
        exit_code: None,
        error: None,
        question: None,
        expired_question: None,
        pending: None,
        events_after: 0,
    }
}

fn response(mission_id: MissionId, answer: KeyAnswer, idempotent_replayed: bool) -> DispatchResponse {
    DispatchResponse {
        mission_id,
        executor_id: answer.executor_id,
        status: "assigned".to_owned(),
        estimated_start: answer.estimated_start,
        dispatch_path: "v1".to_owned(),
        idempotent_replayed,
    }
}
