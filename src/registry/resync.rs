//! Pure: agreeing again with an executor about who has what, after each connect.
//!
//! | the executor says | we think | what happens |
//! |---|---|---|
//! | has it | suspended | goes on: `mission.resumed` to it and to observers |
//! | has it | assigned | running; paused and asking missions stay as they are: the line is not the mission |
//! | has it | ended | `mission.aborted` to it, to stop wasted work |
//! | has it | unknown | adopted, running |
//! | does not | live | ask it; ended there: taken as reported; not there: a resumable executor gets it once more, else `executor_lost` |

use crate::domain::event::MissionEvent;
use crate::domain::id::{ExecutorId, MissionId};
use crate::domain::lifecycle::MissionState;
use crate::domain::time::Now;
use crate::registry::assignment::new_mission;
use crate::registry::idempotency::Fingerprint;
use crate::registry::machine::{Executor, Held, Machine};
use crate::registry::record::{Action, Effects, Forward, ForwardKind, Order, Write};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

impl Machine {
    pub(super) fn resync(
        &mut self,
        executor_id: &ExecutorId,
        owned: &[MissionId],
        now: Now,
        fx: &mut Effects,
    ) {
        let listed: HashSet<&MissionId> = owned.iter().collect();
        for mission_id in self.live_missions(executor_id) {
            if listed.contains(&mission_id) {
                self.still_there(&mission_id, now, fx);
            } else {
                self.missing(executor_id, &mission_id, fx);
            }
        }
        for mission_id in owned {
            match self.missions.get(mission_id) {
                None if self.may_be_stored(mission_id.as_str()) => {
                    self.order_abort(executor_id, mission_id, "it has ended here", now, fx);
                }
                None => self.adopt(executor_id, mission_id, now, fx),
                Some(held) if held.mission.executor_id != *executor_id => {}
                Some(held) if held.mission.state.is_terminal() => {
                    self.order_abort(executor_id, mission_id, "it has ended here", now, fx);
                }
                Some(_) => self.repeat_pending(mission_id, now, fx),
            }
        }
    }

    fn still_there(&mut self, mission_id: &MissionId, now: Now, fx: &mut Effects) {
        let Some(held) = self.missions.get_mut(mission_id) else { return };
        held.mission.is_resent = false;
        match held.mission.state {
            MissionState::Suspended => {
                let event = MissionEvent::Resumed { resumed_from: Some(MissionState::Suspended) };
                let executor_id = held.mission.executor_id.clone();
                if let Some(raw) = self.decide(mission_id, event, now, fx) {
                    self.tell(&executor_id, &raw, fx);
                }
            }
            MissionState::Assigned => {
                let event = MissionEvent::Started { agent_runtime: None, pty_session_id: None };
                self.decide(mission_id, event, now, fx);
            }
            MissionState::Queued
            | MissionState::Running
            | MissionState::HitlRequired
            | MissionState::Paused
            | MissionState::Done
            | MissionState::Failed
            | MissionState::Aborted => {}
        }
    }

    /// A forward under way will tell by itself; everything else is asked about before it is called lost.
    fn missing(&mut self, executor_id: &ExecutorId, mission_id: &MissionId, fx: &mut Effects) {
        let ticket = self.next_ticket();
        let Some(executor) = self.executors.get(executor_id) else { return };
        let rest = executor.record.registration.transport_endpoints.rest.clone();
        let is_resumable = Executor::is_resumable(executor);
        let Some(held) = self.missions.get_mut(mission_id).filter(|held| held.ticket.is_none()) else {
            return;
        };
        let resend = is_resumable && !held.mission.is_resent && !held.mission.order.body.is_empty();
        held.mission.is_resent |= resend;
        held.ticket = Some(ticket);
        fx.writes.push(Write::Mission(Box::new(held.mission.clone())));
        fx.actions.push(Action::Forward(Forward {
            ticket,
            mission_id: mission_id.clone(),
            executor_id: executor_id.clone(),
            rest,
            order: Arc::clone(&held.mission.order),
            kind: if resend { ForwardKind::Resend } else { ForwardKind::AskOnly },
        }));
    }

    fn adopt(&mut self, executor_id: &ExecutorId, mission_id: &MissionId, now: Now, fx: &mut Effects) {
        let order = Order {
            session: String::new(),
            key: mission_id.to_string(),
            fingerprint: Fingerprint::of(b""),
            body: String::new(),
            long_running: false,
        };
        let mut mission = new_mission(mission_id.clone(), Arc::new(order), executor_id.clone(), now);
        mission.number = self.next_number;
        self.next_number += 1;
        mission.state = MissionState::Running;
        mission.is_accepted = true;
        fx.writes.push(Write::NewMission(Box::new(mission.clone())));
        self.missions.insert(
            mission_id.clone(),
            Held { mission, recent: VecDeque::new(), ticket: None, confirm: (None, 0) },
        );
        self.take_on(executor_id, mission_id, "");
    }
}
