//! Service: what arrives at a desk (orders, events, records of the registry) goes into the ledger, and its line into the
//! journal.

use super::desk::{Desk, Done, Room, Update};
use crate::domain::event::{Body, Envelope, MissionEvent};
use crate::domain::id::{ExecutorId, MissionId};
use crate::domain::lifecycle::MissionState;
use crate::protocol::envelope::{Frame, encode_envelope};
use crate::protocol::executor_v1::MissionStatus;
use crate::runtime::clock;
use crate::session::journal::{self, Line};
use crate::session::ledger::{Applied, Held, HeldMut, Ledger, Phase};
use crate::session::messages::{MissionKey, Order, Steered, Wish};
use std::sync::Arc;

impl Desk {
    pub(super) fn take_in(&mut self, room: &Room, update: Update, lines: &mut Vec<u8>, done: &mut Done) {
        match update {
            Update::Order(order) => self.take_order(room, order, lines, done),
            Update::Event(frame) => self.take_event(&frame, lines, done),
            Update::Known(mission, status) => self.take_status(&mission, &status, lines, done),
        }
    }

    fn take_order(&mut self, room: &Room, order: Order, lines: &mut Vec<u8>, done: &mut Done) {
        let Some(ledger) = &mut self.ledger else { return };
        match order {
            Order::Begin { .. } => {}
            Order::Assigned { key, run, executor, estimated_start, at } => {
                let Some(mut held) = of_run(ledger, &key, run) else { return self.reoffer = true };
                held.assigned(executor.as_ref().map(ExecutorId::as_str), estimated_start.as_deref(), at);
                self.progress_only = false;
                if held.phase == Phase::Accepted {
                    done.follow.push((key.mission.clone(), executor.clone()));
                }
                let wish = held.wish.clone().filter(|_| held.phase == Phase::Accepted);
                drop(held);
                let mission_id = key.mission.clone();
                Line::Assigned { ts: at, mission_id, executor_id: executor, estimated_start }.write(lines);
                if let Some(wish) = wish {
                    self.pass_on(room, key.mission, wish, lines);
                }
            }
            Order::Failed { key, run, reason, message, at } => {
                let Some(mut held) = of_run(ledger, &key, run) else { return self.reoffer = true };
                held.failed(&reason, &message, at);
                done.unfollow.push(key.mission.clone());
                self.progress_only = false;
                let reason = reason.as_str().to_owned();
                Line::Failed { ts: at, mission_id: key.mission, reason, message }.write(lines);
            }
            Order::Unsent { key, run } => {
                let Some(mut held) = of_run(ledger, &key, run) else { return self.reoffer = true };
                held.unsent();
                Line::Unsent { ts: clock::wall(), mission_id: key.mission }.write(lines);
                self.reoffer = true;
            }
            Order::Known { key, status } => self.take_status(&key.mission, &status, lines, done),
            Order::Steered { key, wish, result } => {
                self.take_steered(&key.mission, &wish, &result, lines, done);
            }
        }
    }

    fn take_steered(
        &mut self,
        mission: &MissionId,
        wish: &Wish,
        result: &Steered,
        lines: &mut Vec<u8>,
        done: &mut Done,
    ) {
        let Some(mut held) = self.ledger.as_mut().and_then(|ledger| ledger.get_mut(mission)) else { return };
        if held.wish.as_ref() != Some(wish) || held.phase == Phase::Ended {
            return;
        }
        self.progress_only = false;
        match result {
            // The executor's own event confirms it.
            Steered::Accepted => {}
            Steered::NotFound if *wish == Wish::Abort => {
                let at = clock::wall();
                held.withdrawn(at);
                Line::Withdrawn { ts: at, mission_id: mission.clone() }.write(lines);
                done.unfollow.push(mission.clone());
            }
            Steered::Terminal | Steered::NotFound | Steered::Refused(_) => {
                let error = match result {
                    Steered::Refused(message) => message.as_str(),
                    Steered::Terminal => "it has ended already",
                    Steered::Accepted | Steered::NotFound => "the registry does not know the mission",
                };
                tracing::warn!(
                    session.id = %self.session, mission.id = %mission, wish = wish.as_str(), error,
                    "the registry refused what the file asks for; the file shows the truth again"
                );
                held.refuse_wish();
            }
        }
    }

    fn take_event(&mut self, frame: &Frame, lines: &mut Vec<u8>, done: &mut Done) {
        let Envelope { executor_id, mission_id: Some(mission), ts, body: Body::Mission(event) } =
            &frame.envelope
        else {
            return;
        };
        let Some(mut held) = self.ledger.as_mut().and_then(|ledger| ledger.get_mut(mission)) else { return };
        let executor = Some(executor_id.as_str());
        let applied = held.happened(event, executor, *ts, journal::digest(&frame.raw));
        if applied == Applied::Duplicate {
            return;
        }
        if applied == Applied::Moved {
            self.progress_only = false;
            tracing::info!(
                session.id = %self.session, mission.id = %mission, event.kind = event.name(), mission.state = %held.state,
                "mission moved"
            );
            if held.phase == Phase::Ended {
                done.unfollow.push(mission.clone());
            }
        }
        if let Some(line) = Line::event(clock::wall(), mission.clone(), applied, &frame.raw) {
            line.write(lines);
        }
    }

    /// The registry's own record: its events first, then whatever they leave unexplained.
    fn take_status(
        &mut self,
        mission: &MissionId,
        status: &MissionStatus,
        lines: &mut Vec<u8>,
        done: &mut Done,
    ) {
        for raw in &status.recent_events {
            if let Ok(frame) = Frame::parse(raw.get()) {
                self.take_event(&frame, lines, done);
            }
        }
        let Some(mut held) = self.ledger.as_mut().and_then(|ledger| ledger.get_mut(mission)) else { return };
        let known = status.executor_id.clone();
        if held.phase == Phase::Claimed {
            held.assigned(known.as_ref().map(ExecutorId::as_str), None, clock::wall());
            let (mission_id, executor_id) = (mission.clone(), known.clone());
            Line::Assigned { ts: clock::wall(), mission_id, executor_id, estimated_start: None }.write(lines);
            self.progress_only = false;
        } else if let (Some(executor), None) = (&known, &held.executor) {
            held.executor = Some(executor.as_str().to_owned());
            held.set("executorId", crate::session::json::quoted(executor.as_str()));
        }
        let executor = known.or_else(|| held.executor.as_deref().and_then(|id| ExecutorId::new(id).ok()));
        let (event, since) = (unexplained(&held, status), held.state_since);
        drop(held);
        if let (Some(event), Some(executor)) = (event, executor) {
            let ts = status.completed_at.or(status.updated_at).unwrap_or_else(clock::wall).max(since);
            let envelope = Envelope::mission(executor, mission.clone(), ts, event);
            let raw = Arc::from(encode_envelope(&envelope));
            self.take_event(&Frame { raw, envelope }, lines, done);
            // The registry's clock may be ahead of the executor's, whose next event must not look late for that.
            let held = self.ledger.as_mut().and_then(|ledger| ledger.get_mut(mission));
            if let Some(mut held) = held.filter(|held| !held.state.is_terminal()) {
                held.state_since = since;
            }
        }
    }
}

/// The mission, while it is in the run that the request was for. Queued again since then, it is another matter: the late
/// answer says nothing of it, and it is offered again.
fn of_run<'l>(ledger: &'l mut Ledger, key: &MissionKey, run: u32) -> Option<HeldMut<'l>> {
    let held = ledger.get_mut(&key.mission)?;
    if held.run != run {
        tracing::debug!(session.id = %key.session, mission.id = %key.mission, run, "the answer to an earlier run comes late");
        return None;
    }
    Some(held)
}

/// The event that would explain the registry's record where its recent events do not.
fn unexplained(held: &Held, status: &MissionStatus) -> Option<MissionEvent> {
    use MissionState as S;
    if held.state == status.state || held.state.is_terminal() {
        return None;
    }
    match status.state {
        S::Done => Some(MissionEvent::Completed {
            exit_code: status.exit_code,
            tokens_total: None,
            summary: None,
            artifacts: Vec::new(),
        }),
        S::Failed => Some(MissionEvent::Failed {
            reason: None,
            error: status.error.clone(),
            exit_code: status.exit_code,
            tokens_total: None,
        }),
        S::Aborted => Some(MissionEvent::Aborted { aborted_by: None, reason: status.error.clone() }),
        S::Running if matches!(held.state, S::Queued | S::Assigned | S::Suspended) => {
            Some(MissionEvent::Started {
                agent_runtime: None,
                pty_session_id: status.pty_session_ref.clone(),
            })
        }
        S::Running => Some(MissionEvent::Resumed { resumed_from: Some(held.state) }),
        S::Paused => Some(MissionEvent::Paused { reason: None }),
        S::Suspended => Some(MissionEvent::Suspended { checkpoint_id: None, reason: None }),
        // A question without its id cannot be answered; its own event brings both.
        S::HitlRequired | S::Queued | S::Assigned => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::fsync::FsyncPolicy;
    use crate::disk::lock::PathLock;
    use crate::domain::id::SessionId;
    use crate::domain::time::Timestamp;
    use crate::session::messages::News;
    use crate::session::store::SessionStore;
    use crate::writeback::desk::Job;
    use std::fs;
    use std::io::Write as _;
    use std::path::Path;
    use tokio::sync::mpsc::Receiver;

    fn job() -> Job {
        Job { look: true, may_write: true, ..Job::default() }
    }

    /// A folder with one queued mission, `m` of session `s`, the room around it, and what the dispatcher hears.
    fn room(folder: &Path) -> (Room, Receiver<Vec<News>>) {
        let file = folder.join("sessions/s/session.json");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let text = r#"{"id":"s","state":"active","missions":[{"id":"m","objective":"x","status":"queued"}]}"#;
        fs::write(&file, text).unwrap();
        let (news, heard) = tokio::sync::mpsc::channel(64);
        let store = Arc::new(SessionStore::new(folder, FsyncPolicy::Never));
        let open_journals = Arc::new(tokio::sync::Semaphore::new(1));
        let lock = Arc::new(PathLock::try_acquire(folder.join("bridge.lock")).unwrap());
        (Room { store, fsync: FsyncPolicy::Never, lock, open_journals, news }, heard)
    }

    fn is_offered(news: &[News]) -> bool {
        matches!(news, [News::Offers { missions, .. }] if missions.len() == 1)
    }

    #[test]
    fn what_was_not_claimed_because_another_bridge_had_the_folder_is_offered_again_when_it_has_gone() {
        let folder = tempfile::tempdir().unwrap();
        let (room, mut heard) = room(folder.path());
        let (session, mission) = (SessionId::new("s").unwrap(), MissionId::new("m").unwrap());
        let mut desk = Desk::new(session);
        desk.work(&room, job());
        assert!(is_offered(&heard.try_recv().unwrap()));
        let lock_file = folder.path().join("bridge.lock");
        fs::remove_file(&lock_file).unwrap();
        let other = PathLock::try_acquire(&lock_file).unwrap();
        let begin = Job { begins: vec![mission.clone()], may_write: true, ..Job::default() };
        let done = desk.work(&room, begin);
        assert!(matches!(&heard.try_recv().unwrap()[..], [News::Skipped { .. }]));
        assert!(done.write_error.is_some_and(|error| error.contains("is locked by another process")));
        assert!(done.owed.is_some(), "it comes again");
        drop(other);
        desk.work(&room, Job { may_write: true, ..Job::default() });
        assert!(is_offered(&heard.try_recv().unwrap()));
        desk.work(&room, Job { begins: vec![mission], ..job() });
        assert!(matches!(&heard.try_recv().unwrap()[..], [News::Begun { .. }]));
    }

    #[test]
    fn what_a_write_that_failed_has_found_in_the_file_is_acted_on() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sessions/s/session.json");
        let (room, mut heard) = room(folder.path());
        let (session, mission) = (SessionId::new("s").unwrap(), MissionId::new("m").unwrap());
        let executor = ExecutorId::new("0b7e0c1e-8a53-4c7e-9d52-6f0e5f3f9a11").unwrap();
        let mut desk = Desk::new(session.clone());
        desk.work(&room, job());
        desk.work(&room, Job { begins: vec![mission.clone()], ..job() });
        let order = |estimated_start: Option<String>| Order::Assigned {
            key: MissionKey { session: session.clone(), mission: mission.clone() },
            run: 1,
            executor: Some(executor.clone()),
            estimated_start,
            at: Timestamp::from_millis(1_000_000),
        };
        desk.work(&room, Job { updates: vec![Update::Order(order(None))], ..job() });
        while heard.try_recv().is_ok() {}
        let text = fs::read_to_string(&file).unwrap();
        let mut writer = fs::OpenOptions::new().write(true).truncate(true).open(&file).unwrap();
        writer.write_all(text.replace("\"assigned\"", "\"aborted\"").as_bytes()).unwrap();
        // Not told to look, it finds that out while it writes.
        let soon = Some("2026-01-01T00:00:00.000Z".to_owned());
        let updates = vec![Update::Order(order(soon))];
        let done = desk.work(&room, Job { updates, may_write: true, ..Job::default() });
        assert!(done.write_error.is_some_and(|error| error.contains("keeps it open")));
        assert!(matches!(&heard.try_recv().unwrap()[..], [News::Steer { wish: Wish::Abort, .. }]));
    }

    #[test]
    fn a_late_answer_of_an_earlier_run_leaves_the_next_one_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sessions/s/session.json");
        let (room, mut heard) = room(folder.path());
        let session = SessionId::new("s").unwrap();
        let mission = MissionId::new("m").unwrap();
        let mut desk = Desk::new(session.clone());
        desk.work(&room, job());
        desk.work(&room, Job { begins: vec![mission.clone()], ..job() });
        let executor = ExecutorId::new("0b7e0c1e-8a53-4c7e-9d52-6f0e5f3f9a11").unwrap();
        let completed = MissionEvent::Completed {
            exit_code: Some(0),
            tokens_total: None,
            summary: None,
            artifacts: Vec::new(),
        };
        let at = Timestamp::from_millis(1_000_000);
        let envelope = Envelope::mission(executor, mission.clone(), at, completed);
        let frame = Box::new(Frame { raw: Arc::from(encode_envelope(&envelope)), envelope });
        desk.work(&room, Job { updates: vec![Update::Event(frame)], ..job() });
        let done = fs::read_to_string(&file).unwrap();
        assert!(done.contains("\"done\""), "{done}");
        fs::write(&file, done.replace("\"done\"", "\"queued\"")).unwrap();
        desk.work(&room, job());
        while heard.try_recv().is_ok() {}

        let key = MissionKey { session, mission };
        let late = Order::Assigned { key, run: 1, executor: None, estimated_start: None, at };
        desk.work(&room, Job { updates: vec![Update::Order(late)], ..job() });
        let held = desk.ledger.as_ref().unwrap().get("m").unwrap();
        assert_eq!((held.run, held.phase), (2, Phase::Waiting));
        assert!(is_offered(&heard.try_recv().unwrap()));
    }
}
