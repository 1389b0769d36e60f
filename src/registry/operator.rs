//! Pure: what people order: answer, pause, resume, abort.
//!
//! An order is a command to the executor, and the executor's own event confirms it: until then the mission stays what it is. An order for an
//! executor whose line is down is kept and sent when it is back. Some executors, the Node one among them, take commands over
//! REST only: what is not confirmed within [`CONFIRM_WITHIN`] is ordered there as well. An answer needs the line, because
//! the question may be over by then.

use crate::domain::event::{Envelope, MissionEvent};
use crate::domain::id::MissionId;
use crate::domain::lifecycle::MissionState;
use crate::domain::time::Now;
use crate::protocol::envelope::Frame;
use crate::protocol::executor_v1::{CommandResponse, HitlResponse};
use crate::protocol::route::OperatorCommand;
use crate::registry::machine::{Executor, Machine, Timer};
use crate::registry::record::{Action, Effects, RestCommand, Write};
use crate::registry::refusal::Refusal;
use std::time::{Duration, Instant};

/// How long an executor may take to confirm an order that came over its line. 2 s: one that listens there confirms a pause at
/// once; to one that takes longer, an abort for instance, the same order again changes nothing.
const CONFIRM_WITHIN: Duration = Duration::from_secs(2);

/// The longest time between two orders over REST: as often as an operator would ask again.
const CONFIRM_AGAIN_WITHIN: Duration = Duration::from_secs(60);

impl OperatorCommand {
    /// Says whether a mission in this state has done as ordered.
    pub(super) fn is_confirmed_by(self, state: MissionState) -> bool {
        match self {
            Self::Pause => state == MissionState::Paused || state.is_terminal(),
            Self::Resume => state == MissionState::Running || state.is_terminal(),
            Self::Abort => state.is_terminal(),
        }
    }

    fn participle(self) -> &'static str {
        match self {
            Self::Pause => "paused",
            Self::Resume => "resumed",
            Self::Abort => "aborted",
        }
    }

    fn is_possible_in(self, state: MissionState) -> bool {
        match self {
            Self::Pause => !matches!(state, MissionState::Paused | MissionState::Suspended),
            Self::Resume => matches!(state, MissionState::Paused | MissionState::Suspended),
            Self::Abort => true,
        }
    }

    /// As the executor is told. A resume is said to end a pause even where the executor was away meanwhile: that a mission goes
    /// on because its executor is back says the registry by itself, and it ends no pause.
    fn event(self) -> MissionEvent {
        match self {
            Self::Pause => MissionEvent::Paused { reason: Some("operator".to_owned()) },
            Self::Resume => MissionEvent::Resumed { resumed_from: Some(MissionState::Paused) },
            Self::Abort => MissionEvent::Aborted {
                aborted_by: Some("operator".to_owned()),
                reason: Some("operator".to_owned()),
            },
        }
    }
}

impl Machine {
    /// Passes an operator's order on.
    ///
    /// # Errors
    /// [`Refusal`]: unknown, ended, or no such order in this state.
    pub fn command(
        &mut self,
        mission_id: &str,
        command: OperatorCommand,
        now: Now,
        fx: &mut Effects,
    ) -> Result<CommandResponse, Refusal> {
        let Some(held) = self.missions.get_mut(mission_id) else {
            return Err(Refusal::MissionNotFound { id: mission_id.to_owned() });
        };
        let mission = &mut held.mission;
        let (id, state) = (mission.id.clone(), mission.state);
        if state.is_terminal() {
            return Err(Refusal::MissionTerminal { mission_id: id, state });
        }
        let undoes_pending = match (mission.pending, command) {
            (Some(OperatorCommand::Pause), OperatorCommand::Resume)
            | (Some(OperatorCommand::Resume), OperatorCommand::Pause) => true,
            (Some(_) | None, _) => false,
        };
        if !undoes_pending && !command.is_possible_in(state) {
            return Err(Refusal::IllegalTransition { mission_id: id, state, wanted: command.participle() });
        }
        if mission.pending != Some(OperatorCommand::Abort) {
            mission.pending = Some(command);
            mission.updated_at = now.wall;
            fx.writes.push(Write::Mission(Box::new(mission.clone())));
        }
        self.repeat_pending(&id, now, fx);
        Ok(CommandResponse { mission_id: id, status: state })
    }

    /// Sends the order that the executor has not confirmed yet.
    pub(super) fn repeat_pending(&mut self, mission_id: &MissionId, now: Now, fx: &mut Effects) {
        let Some(held) = self.missions.get(mission_id) else { return };
        let mission = &held.mission;
        if let Some(command) = mission.pending.filter(|_| mission.is_accepted) {
            let event = command.event();
            let envelope =
                Envelope::mission(mission.executor_id.clone(), mission_id.clone(), now.wall, event);
            self.tell(&mission.executor_id, &Frame::encode(envelope).raw, fx);
            let due = now.instant + CONFIRM_WITHIN;
            if let Some(held) = self.missions.get_mut(mission_id) {
                held.confirm = (Some(due), 0);
            }
            self.arm(due, Timer::Unconfirmed(mission_id.clone()));
        }
    }

    /// Orders over REST what the executor should have confirmed by now, and again ever more rarely until it has.
    pub(super) fn unconfirmed(&mut self, mission_id: &MissionId, at: Instant, now: Now, fx: &mut Effects) {
        let Some(held) = self.missions.get_mut(mission_id) else { return };
        let mission = &held.mission;
        let (due, times) = held.confirm;
        let (Some(command), false) = (mission.pending, mission.state.is_terminal() || due != Some(at)) else {
            return;
        };
        let next = now.instant + (CONFIRM_WITHIN * 2_u32.saturating_pow(times + 1)).min(CONFIRM_AGAIN_WITHIN);
        held.confirm = (Some(next), times.saturating_add(1).min(16));
        if let Some(executor) = self.executors.get(&mission.executor_id) {
            fx.actions.push(Action::Command(RestCommand {
                mission_id: mission_id.clone(),
                executor_id: mission.executor_id.clone(),
                rest: executor.record.registration.transport_endpoints.rest.clone(),
                command,
            }));
        }
        self.arm(next, Timer::Unconfirmed(mission_id.clone()));
    }

    /// Passes a human's answer on.
    ///
    /// # Errors
    /// [`Refusal`]: unknown mission, no such open question, expired, or the executor's line is down.
    pub fn answer(
        &mut self,
        mission_id: &str,
        answer: HitlResponse,
        now: Now,
        fx: &mut Effects,
    ) -> Result<CommandResponse, Refusal> {
        let Some(held) = self.missions.get(mission_id) else {
            return Err(Refusal::MissionNotFound { id: mission_id.to_owned() });
        };
        let mission = &held.mission;
        let (id, hitl_id) = (mission.id.clone(), answer.hitl_id.to_string());
        let open = mission.question.as_ref().filter(|open| open.hitl_id == answer.hitl_id);
        let has_expired = mission.expired_question.as_ref() == Some(&answer.hitl_id)
            || open.and_then(|open| open.expires_at).is_some_and(|at| at <= now.wall);
        if has_expired {
            return Err(Refusal::HitlExpired { mission_id: id, hitl_id });
        }
        if open.is_none() || mission.state != MissionState::HitlRequired {
            return Err(Refusal::HitlNotPending { mission_id: id, hitl_id });
        }
        let executor_id = mission.executor_id.clone();
        if self.executors.get(&executor_id).and_then(Executor::control).is_none() {
            return Err(Refusal::ExecutorNotConnected { executor_id });
        }
        let event = MissionEvent::HitlResponded {
            hitl_id: answer.hitl_id,
            response: answer.response,
            responded_at: Some(now.wall),
        };
        if let Some(raw) = self.decide(&id, event, now, fx) {
            self.tell(&executor_id, &raw, fx);
        }
        Ok(CommandResponse { mission_id: id, status: MissionState::Running })
    }
}
