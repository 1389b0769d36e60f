//! Pure: what executors report, applied by the one transition table.
//!
//! Events of a mission apply in the order of arrival. An event older, by its executor's own clock, than the one that led to the present
//! state is recorded and moves nothing, except the end of a mission: that is final whatever the clocks say. Times that we
//! stamped ourselves are never compared with the executor's.

use crate::domain::event::{Body, Envelope, ExecutorEvent, MissionEvent};
use crate::domain::id::{ExecutorId, HitlId, MissionId};
use crate::domain::lifecycle::{Happening, MissionState, Transition, transition};
use crate::domain::time::Now;
use crate::protocol::envelope::Frame;
use crate::protocol::executor_v1::{MAX_RECENT_EVENTS, MissionStatus, Waiting};
use crate::protocol::notice;
use crate::protocol::route::OperatorCommand;
use crate::registry::idempotency::KeyAnswer;
use crate::registry::machine::{Heard, Held, Machine, Timer};
use crate::registry::record::{Action, ConnectionId, Effects, Mission, Notice, Question, Write};
use serde_json::value::RawValue;
use std::sync::Arc;

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Taken.
    Accepted,
    /// Its envelope names another executor.
    ForeignExecutor,
    /// Its mission belongs to another executor.
    ForeignMission,
    /// Its mission is unknown here.
    UnknownMission,
    /// Its executor is not registered.
    UnknownExecutor,
    /// Only the registry says such things.
    NotYours,
    /// It came before over another connection, to the byte: said again because nobody confirms frames.
    Repeated,
}

impl Verdict {
    /// Returns the word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::ForeignExecutor => "foreign_executor",
            Self::ForeignMission => "foreign_mission",
            Self::UnknownMission => "unknown_mission",
            Self::UnknownExecutor => "unknown_executor",
            Self::NotYours => "not_an_executors_event",
            Self::Repeated => "repeated",
        }
    }
}

impl Machine {
    /// Takes one frame from a connection of `executor_id`.
    pub fn frame(
        &mut self,
        executor_id: &ExecutorId,
        connection: ConnectionId,
        frame: Frame,
        now: Now,
        fx: &mut Effects,
    ) -> Verdict {
        if frame.envelope.executor_id != *executor_id {
            return Verdict::ForeignExecutor;
        }
        if !self.executors.contains_key(executor_id) {
            return Verdict::UnknownExecutor;
        }
        let is_line = self.hear(executor_id, connection, now, fx);
        match &frame.envelope.body {
            Body::Executor(ExecutorEvent::Resync { owned_mission_ids }) => {
                // What a replaced line says it owns is out of date.
                if is_line {
                    let owned = owned_mission_ids.clone();
                    self.resync(executor_id, &owned, now, fx);
                }
                Verdict::Accepted
            }
            Body::Executor(ExecutorEvent::Registered { .. } | ExecutorEvent::Deregistered { .. }) => {
                Verdict::NotYours
            }
            Body::Unknown { name } if name == "executor.draining" => {
                self.set_draining(executor_id, true, fx);
                self.publish(frame, fx);
                Verdict::Accepted
            }
            Body::Unknown { name } if name == "executor.ready" => {
                self.set_draining(executor_id, false, fx);
                self.publish(frame, fx);
                Verdict::Accepted
            }
            Body::Unknown { .. } | Body::Mission(_) => {
                let Some(mission_id) = frame.envelope.mission_id.clone() else {
                    self.publish(frame, fx);
                    return Verdict::Accepted;
                };
                match self.missions.get(&mission_id) {
                    None => Verdict::UnknownMission,
                    Some(held) if held.mission.executor_id != *executor_id => Verdict::ForeignMission,
                    Some(held) if held.is_repeated(&frame.raw, connection) => Verdict::Repeated,
                    Some(_) => {
                        self.record(&mission_id, frame, Source::Executor(connection), now, fx);
                        Verdict::Accepted
                    }
                }
            }
        }
    }

    /// Makes an event that the registry itself decided, and applies it.
    pub(super) fn decide(
        &mut self,
        mission_id: &MissionId,
        event: MissionEvent,
        now: Now,
        fx: &mut Effects,
    ) -> Option<Arc<str>> {
        let executor_id = self.missions.get(mission_id)?.mission.executor_id.clone();
        let envelope = Envelope::mission(executor_id, mission_id.clone(), now.wall, event);
        let frame = Frame::encode(envelope);
        let raw = Arc::clone(&frame.raw);
        self.record(mission_id, frame, Source::Registry, now, fx);
        Some(raw)
    }

    /// Fails a mission by our own decision.
    pub(super) fn fail(
        &mut self,
        mission_id: &MissionId,
        reason: &str,
        error: &str,
        now: Now,
        fx: &mut Effects,
    ) {
        let event = MissionEvent::Failed {
            reason: Some(reason.to_owned()),
            error: Some(error.to_owned()),
            exit_code: None,
            tokens_total: None,
        };
        self.decide(mission_id, event, now, fx);
    }

    fn record(&mut self, mission_id: &MissionId, frame: Frame, source: Source, now: Now, fx: &mut Effects) {
        let Some(held) = self.missions.get_mut(mission_id) else { return };
        if held.recent.len() >= MAX_RECENT_EVENTS {
            held.recent.pop_front();
        }
        held.recent.push_back(Heard { raw: Arc::clone(&frame.raw), over: source.connection() });
        let mission = &mut held.mission;
        let was = mission.state;
        let before = (mission.is_accepted, mission.question.is_some());
        mission.updated_at = now.wall;
        if source.is_executor() {
            mission.is_accepted = true;
        }
        if let Body::Mission(event) = &frame.envelope.body
            && let Some(happening) = event.happening()
        {
            let moved = mission.apply(event, happening, &frame.envelope, source, now);
            if let MissionEvent::HitlRequired { hitl_id, expires_at: Some(at), .. } = event
                && moved
            {
                let due = now.instant + at.since(now.wall);
                self.arm(due, Timer::Question(mission_id.clone(), hitl_id.clone()));
            }
        }
        let Some(held) = self.missions.get(mission_id) else { return };
        let mission = &held.mission;
        let changed = mission.state != was || before != (mission.is_accepted, mission.question.is_some());
        let ended = mission.state.is_terminal() && !was.is_terminal();
        if changed {
            fx.writes.push(Write::Mission(Box::new(mission.clone())));
        } else {
            fx.writes.push(Write::Touched(mission.number, mission.updated_at));
        }
        let end = ended.then(|| {
            let name = frame.envelope.name().to_owned();
            (Arc::clone(&mission.order), name, Arc::clone(&frame.raw))
        });
        if mission.is_accepted && !before.0 {
            // Whatever becomes of the forward, the executor has it.
            let (executor_id, estimated_start) = (mission.executor_id.clone(), None);
            self.answer_key(mission_id, &KeyAnswer { executor_id, estimated_start }, fx);
        }
        let seq = self.publish(frame, fx);
        if let Some((order, name, raw)) = end {
            if let Some(url) = notice::in_body(&order.body) {
                let (kind, since) = (Arc::from(name), now.wall);
                let notice = Notice { seq, url, kind, raw, since, attempts: 0, due: since };
                fx.writes.push(Write::Notice(Box::new(notice)));
                fx.actions.push(Action::Notify);
            }
            // A caller may still wait for the forward of a mission that was faster than its answer.
            let ticket = self.missions.get(mission_id).and_then(|held| held.ticket);
            self.has_ended(mission_id);
            if let Some(held) = self.missions.get_mut(mission_id)
                && ticket.is_some()
            {
                held.ticket = ticket;
            }
        }
    }

    /// A question's time may be up.
    pub(super) fn question_due(
        &mut self,
        mission_id: &MissionId,
        question: &HitlId,
        now: Now,
        fx: &mut Effects,
    ) {
        let Some(held) = self.missions.get_mut(mission_id) else { return };
        let mission = &mut held.mission;
        let Some(expires_at) = mission
            .question
            .as_ref()
            .filter(|open| open.hitl_id == *question)
            .and_then(|open| open.expires_at)
        else {
            return;
        };
        if now.wall < expires_at {
            // The wall clock was set back, or the timer was early by a fraction of a millisecond.
            let due = now.instant + expires_at.since(now.wall);
            self.arm(due, Timer::Question(mission_id.clone(), question.clone()));
            return;
        }
        mission.expired_question = Some(question.clone());
        let executor_id = mission.executor_id.clone();
        self.fail(mission_id, "hitl_timeout", "nobody answered the question in time", now, fx);
        self.order_abort(&executor_id, mission_id, "hitl_timeout", now, fx);
    }

    /// Tells an executor to stop working on a mission that is over here.
    pub(super) fn order_abort(
        &self,
        executor_id: &ExecutorId,
        mission_id: &MissionId,
        reason: &str,
        now: Now,
        fx: &mut Effects,
    ) {
        let event =
            MissionEvent::Aborted { aborted_by: Some("system".to_owned()), reason: Some(reason.to_owned()) };
        let envelope = Envelope::mission(executor_id.clone(), mission_id.clone(), now.wall, event);
        self.tell(executor_id, &Frame::encode(envelope).raw, fx);
    }

    /// Returns what an observer of this executor needs to catch up: the last events of its live missions.
    pub fn replay(&self, executor_id: &ExecutorId) -> Vec<(MissionId, Arc<str>)> {
        let live = self.live.get(executor_id).into_iter().flatten();
        let of = |held: &'_ Held| {
            let id = held.mission.id.clone();
            held.recent().map(move |text| (id.clone(), text)).collect::<Vec<_>>()
        };
        live.filter_map(|id| self.missions.get(id)).flat_map(of).collect()
    }

    /// Returns the status of a mission.
    pub fn mission(&self, id: &str) -> Option<MissionStatus> {
        let held = self.missions.get(id)?;
        let recent = held.recent().filter_map(|raw| RawValue::from_string(raw.to_string()).ok());
        Some(held.mission.status(recent.collect(), self.is_connected(&held.mission.executor_id)))
    }

    fn is_connected(&self, id: &ExecutorId) -> bool {
        self.executors.get(id).is_some_and(|executor| executor.control().is_some())
    }
}

/// Who says that something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Executor(ConnectionId),
    Registry,
}

impl Source {
    fn is_executor(self) -> bool {
        self.connection().is_some()
    }

    fn connection(self) -> Option<ConnectionId> {
        match self {
            Self::Executor(connection) => Some(connection),
            Self::Registry => None,
        }
    }
}

impl Held {
    fn recent(&self) -> impl Iterator<Item = Arc<str>> {
        self.recent.iter().map(|heard| Arc::clone(&heard.raw))
    }

    /// A line can break after taking a frame and before anybody knows, so careful executors say their last words again on the
    /// next one. On one and the same line a frame that looks like another is another.
    fn is_repeated(&self, raw: &str, connection: ConnectionId) -> bool {
        self.recent.iter().any(|heard| heard.over != Some(connection) && *heard.raw == *raw)
    }
}

impl Mission {
    /// Applies an event; says whether the table allowed it.
    fn apply(
        &mut self,
        event: &MissionEvent,
        happening: Happening,
        envelope: &Envelope,
        source: Source,
        now: Now,
    ) -> bool {
        let next = match transition(self.state, happening) {
            Transition::Refused => return false,
            Transition::Stay => self.state,
            Transition::To(next) => next,
        };
        let is_late = source.is_executor() && self.state_ts.is_some_and(|ts| envelope.ts < ts);
        if is_late && !next.is_terminal() {
            return false;
        }
        if next != self.state || happening == Happening::HitlRequired {
            self.state_since = now.wall;
            self.question = None;
            if source.is_executor() {
                self.state_ts = Some(envelope.ts);
            }
        }
        self.state = next;
        // That it runs as far as the registry knows does not mean that the executor has ended the pause.
        let may_confirm =
            source.is_executor() || self.pending != Some(OperatorCommand::Resume) || next.is_terminal();
        if may_confirm && self.pending.is_some_and(|command| command.is_confirmed_by(next)) {
            self.pending = None;
        }
        match event {
            MissionEvent::Started { pty_session_id: Some(reference), .. } => {
                self.pty_session_ref = Some(reference.clone());
            }
            MissionEvent::HitlRequired { hitl_id, prompt, context, expires_at } => {
                self.question = Some(Question {
                    hitl_id: hitl_id.clone(),
                    prompt: prompt.clone(),
                    context: context.clone(),
                    asked_at: now.wall,
                    expires_at: *expires_at,
                });
            }
            MissionEvent::Completed { exit_code, .. } => {
                self.exit_code = *exit_code;
                self.completed_at = Some(now.wall);
            }
            MissionEvent::Failed { reason, error, exit_code, .. } => {
                self.exit_code = *exit_code;
                self.completed_at = Some(now.wall);
                let reason = reason.as_deref().unwrap_or("unknown");
                self.error = Some(match error {
                    Some(error) => format!("{reason}: {error}"),
                    None => reason.to_owned(),
                });
            }
            MissionEvent::Aborted { .. } => self.completed_at = Some(now.wall),
            MissionEvent::Assigned { estimated_start } => {
                if estimated_start.is_some() {
                    self.estimated_start.clone_from(estimated_start);
                }
            }
            MissionEvent::Started { pty_session_id: None, .. }
            | MissionEvent::Progress { .. }
            | MissionEvent::HitlResponded { .. }
            | MissionEvent::Paused { .. }
            | MissionEvent::Resumed { .. }
            | MissionEvent::Suspended { .. }
            | MissionEvent::Reconnected { .. }
            | MissionEvent::Other { .. } => {}
        }
        true
    }

    /// Returns what others see of it.
    pub fn status(&self, recent_events: Vec<Box<RawValue>>, is_connected: bool) -> MissionStatus {
        MissionStatus {
            mission_id: self.id.clone(),
            executor_id: Some(self.executor_id.clone()),
            state: self.state,
            created_at: Some(self.created_at),
            updated_at: Some(self.updated_at),
            completed_at: self.completed_at,
            recent_events,
            pty_session_ref: self.pty_session_ref.clone(),
            exit_code: self.exit_code,
            error: self.error.clone(),
            waiting: self.waiting(is_connected),
            never_began: self.never_began().then_some(true),
        }
    }

    /// No executor ever took it.
    pub fn never_began(&self) -> bool {
        !self.is_accepted && self.state == MissionState::Failed
    }

    fn waiting(&self, is_connected: bool) -> Option<Waiting> {
        let (what, detail) = match self.state {
            MissionState::Queued => ("executor_answer", "it is being forwarded to its executor".to_owned()),
            MissionState::Assigned => {
                ("executor_start", "its executor has it and has not started it".to_owned())
            }
            MissionState::HitlRequired => {
                let prompt = self.question.as_ref().map_or("", |question| question.prompt.as_str());
                ("human", format!("a human is asked: {prompt}"))
            }
            MissionState::Paused => ("operator", "it was paused; resume it".to_owned()),
            MissionState::Suspended if is_connected => {
                ("checkpoint", "its executor has checkpointed it".to_owned())
            }
            MissionState::Suspended => ("executor_connection", "its executor is not connected".to_owned()),
            MissionState::Running | MissionState::Done | MissionState::Failed | MissionState::Aborted => {
                return None;
            }
        };
        Some(Waiting { what: what.to_owned(), since: self.state_since, detail })
    }
}
