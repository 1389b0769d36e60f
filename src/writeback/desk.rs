//! Service: one session's files and what we know of its missions, in one pair of hands.
//!
//! A desk does one *job* at a time, on a thread that may block. Within a job the order is fixed, and the process may be
//! killed after any step:
//!
//! 1. what happened goes into the ledger, and its lines into the journal;
//! 2. claims go into the journal, and are on disk before their requests are handed over;
//! 3. the file is made to say what the ledger says.
//!
//! A desk is dropped when nothing in its session is queued or live, and made again from the journal when something is.

use super::merge::{Findings, Problem, Scope, reconcile};
use super::traces::rebase;
use crate::disk::fsync::FsyncPolicy;
use crate::disk::lock::PathLock;
use crate::domain::error::with_causes;
use crate::domain::file::FileIdentity;
use crate::domain::id::{ExecutorId, MissionId, SessionId};
use crate::domain::lifecycle::MissionState;
use crate::protocol::envelope::Frame;
use crate::protocol::executor_v1::MissionStatus;
use crate::runtime::clock;
use crate::session::document::Document;
use crate::session::journal::Line;
use crate::session::journal_file::{self, Journal};
use crate::session::ledger::{Ledger, Phase};
use crate::session::messages::{Dispatch, MissionKey, News, Offer, Order, Wish};
use crate::session::mission_view::MissionView;
use crate::session::store::{ReadError, Reading, SessionStore, UpdateError};
use crate::session::waiting::is_ended_by_hand;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The same complaint about one session is not repeated sooner.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Something that happened, for one session.
#[derive(Debug)]
pub enum Update {
    /// From the dispatcher.
    Order(Order),
    /// From an executor's stream.
    Event(Box<Frame>),
    /// The registry's record of a mission.
    Known(MissionId, Box<MissionStatus>),
}

/// What is to be done at the desk.
#[derive(Debug, Default)]
pub struct Job {
    /// A bridge before us may have been killed while it wrote here.
    pub recover: bool,
    /// The file may have changed.
    pub look: bool,
    /// Missions to be claimed for dispatch.
    pub begins: Vec<MissionId>,
    /// What happened.
    pub updates: Vec<Update>,
    /// Whether the file may be written in this job.
    pub may_write: bool,
}

impl Job {
    /// Says whether there is nothing to do, apart from writing.
    pub fn is_nothing(&self) -> bool {
        !self.look && self.begins.is_empty() && self.updates.is_empty()
    }
}

/// Why `session.json` could not be read, for whoever asks why nothing happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The file's identity, when it is there at all.
    pub identity: Option<FileIdentity>,
    /// Line and column of the fault, when it is one of syntax.
    pub place: Option<(usize, usize)>,
    /// What is wrong, for people.
    pub message: String,
}

/// What a job did.
#[derive(Debug, Default)]
pub struct Done {
    /// The file was to be looked at.
    pub looked: bool,
    /// The file's identity, when it is known and readable.
    pub identity: Option<FileIdentity>,
    /// Why the file could not be read.
    pub unreadable: Option<Unreadable>,
    /// There is no such session any more.
    pub gone: bool,
    /// Missions to follow, with their executors where these are known.
    pub follow: Vec<(MissionId, Option<ExecutorId>)>,
    /// Missions that have ended.
    pub unfollow: Vec<MissionId>,
    /// Missions that cannot be used, when the document was looked at.
    pub problems: Option<Vec<Problem>>,
    /// The file was written, and this many bytes of it.
    pub written_bytes: Option<u64>,
    /// The file lacks something that the ledger knows, and whether only progress is lacking.
    pub owed: Option<Owed>,
    /// The file could not be written, for people.
    pub write_error: Option<String>,
    /// What is going on in the session.
    pub activity: Activity,
    /// Missions that are offered or claimed: of each of them something will be heard.
    pub on_their_way: usize,
}

/// What is going on in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activity {
    /// Nothing is queued, live or owed to the file.
    Idle,
    /// Missions are with executors.
    #[default]
    Live,
    /// Missions are offered or claimed: more will have to be written soon.
    Busy,
}

/// How urgently the file is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owed {
    /// A state has changed.
    State,
    /// Only progress.
    Progress,
}

/// Everything that desks share.
#[derive(Debug)]
pub struct Room {
    /// The files.
    pub store: Arc<SessionStore>,
    /// When the journal reaches the disk.
    pub fsync: FsyncPolicy,
    /// Keeps other bridges off the folder.
    pub lock: Arc<PathLock>,
    /// How many journals may stay open while their sessions are busy; the others are opened for each append.
    pub open_journals: Arc<Semaphore>,
    /// To the dispatcher, who never keeps anybody waiting: what belongs together goes together, and wakes it once.
    pub news: tokio::sync::mpsc::Sender<Vec<News>>,
}

/// One session.
#[derive(Debug)]
pub struct Desk {
    pub(super) session: SessionId,
    pub(super) ledger: Option<Ledger>,
    document: Option<Arc<Document>>,
    identity: Option<FileIdentity>,
    /// What the dispatcher was offered and has not begun.
    offered: HashSet<MissionId>,
    /// Kept open while the session is busy, if it got one of the permits.
    journal: Option<(Journal, OwnedSemaphorePermit)>,
    /// A mission came back unsent: an offer that left meanwhile does not have it.
    pub(super) reoffer: bool,
    pub(super) progress_only: bool,
    /// Another program has just written an old copy: the moment before it reads again is the best one to write.
    urgent: bool,
    warned_old_copy: Option<Instant>,
    warned_gone: Vec<MissionId>,
    /// An id that differs from the directory's name.
    warned_name: Option<String>,
    /// From which size on the journal is worth a rotation, in bytes.
    rotate_above: u64,
}

impl Desk {
    /// Opens the desk of a session; nothing is read yet.
    pub fn new(session: SessionId) -> Self {
        Self {
            session,
            ledger: None,
            document: None,
            identity: None,
            offered: HashSet::new(),
            journal: None,
            reoffer: false,
            progress_only: true,
            urgent: false,
            warned_old_copy: None,
            warned_gone: Vec::new(),
            warned_name: None,
            rotate_above: journal_file::ROTATE_ABOVE_BYTES,
        }
    }

    /// Does one job. Blocks on the disk.
    pub fn work(&mut self, room: &Room, job: Job) -> Done {
        let mut done = Done { looked: job.look, ..Done::default() };
        let mut lines = Vec::new();
        if job.recover {
            self.recover(room);
        }
        if job.look || self.document.is_none() {
            self.look(room, &mut lines, &mut done);
        }
        if !job.updates.is_empty() {
            self.load(room, &mut done);
            for update in job.updates {
                self.take_in(room, update, &mut lines, &mut done);
            }
        }
        let begun = if job.begins.is_empty() {
            Vec::new()
        } else {
            self.begin(room, &job.begins, &mut lines, &mut done)
        };
        let mut begun = begun;
        if let Some(error) = self.append(room, &lines, !begun.is_empty()) {
            begun = self.withdraw_claims(begun);
            done.write_error = Some(error);
            done.owed = Some(Owed::State);
            self.reoffer = true;
        }
        if !begun.is_empty() {
            tell_all(room, begun);
        }
        // While the journal cannot be written, offering again would only go in circles.
        if done.write_error.is_none() && std::mem::take(&mut self.reoffer) {
            self.offer_again(room, &mut done);
        }
        let urgent = std::mem::take(&mut self.urgent);
        if (job.may_write || urgent) && self.ledger.as_ref().is_some_and(Ledger::is_dirty) {
            self.write(room, &mut done);
        }
        if !done.unfollow.is_empty() {
            tell(room, News::Room(done.unfollow.len()));
        }
        self.sum_up(&mut done);
        if done.activity != Activity::Busy {
            self.journal = None;
        }
        done
    }

    fn sum_up(&self, done: &mut Done) {
        if done.unreadable.is_none() {
            done.identity = self.identity;
        }
        if self.reoffer {
            done.owed = Some(Owed::State);
        }
        if self.ledger.as_ref().is_some_and(Ledger::is_dirty) && done.owed.is_none() {
            done.owed = Some(if self.progress_only { Owed::Progress } else { Owed::State });
        }
        done.on_their_way = self.offered.len() + self.ledger.as_ref().map_or(0, Ledger::claimed);
        done.activity = if done.on_their_way > 0 {
            Activity::Busy
        } else if self.is_idle() {
            Activity::Idle
        } else {
            Activity::Live
        };
    }

    /// Says whether nothing here is queued, live or waiting to be written.
    pub fn is_idle(&self) -> bool {
        let busy = |ledger: &Ledger| ledger.is_dirty() || !ledger.has_ended();
        self.offered.is_empty() && !self.ledger.as_ref().is_some_and(busy)
    }

    /// Puts in order what a killed writer left beside the file.
    fn recover(&self, room: &Room) {
        match room.store.recover(&self.session) {
            Ok(recovered) if recovered.removed > 0 || !recovered.torn.is_empty() => tracing::info!(
                session.id = %self.session, removed = recovered.removed, merged = recovered.merged,
                "put in order what a killed writer left behind"
            ),
            Ok(_nothing) => {}
            // A new session's directory is there before its file.
            Err(UpdateError::Read(ReadError::Missing { .. })) => {}
            Err(error) => tracing::warn!(
                session.id = %self.session, error = with_causes(&error),
                "what a killed writer left behind could not be put in order; it stays where it is"
            ),
        }
    }

    /// Reads the file if it is not the one we know, and finds out what it asks for.
    fn look(&mut self, room: &Room, lines: &mut Vec<u8>, done: &mut Done) {
        let identity = room.store.identity(&self.session).ok().flatten();
        if identity.is_some() && identity == self.identity && self.document.is_some() {
            return;
        }
        let reading = match room.store.read(&self.session) {
            Ok(reading) => reading,
            Err(ReadError::Missing { .. }) => {
                let is_removed = !room.store.log_file(&self.session).parent().is_some_and(Path::is_dir);
                done.gone = is_removed || self.ledger.as_ref().is_none_or(|ledger| !ledger.is_live());
                if is_removed {
                    self.leave(done);
                }
                self.document = None;
                self.identity = None;
                if !std::mem::take(&mut self.offered).is_empty() {
                    tell(room, News::Offers { session: self.session.clone(), missions: Vec::new() });
                }
                return;
            }
            Err(error) => {
                done.unreadable = Some(unreadable(&error, identity));
                return;
            }
        };
        self.identity = Some(reading.identity);
        let document = reading.document;
        self.document = Some(Arc::clone(&document));
        self.compare_names(&document);
        if self.ledger.is_none() && document.missions().all(|mission| is_settled(&mission)) {
            // Nothing to do here, and so no reason to read the journal.
            done.problems = Some(Vec::new());
            if !std::mem::take(&mut self.offered).is_empty() {
                tell(room, News::Offers { session: self.session.clone(), missions: Vec::new() });
            }
            return;
        }
        self.load(room, done);
        let Some(ledger) = &mut self.ledger else { return };
        let (edits, findings) = reconcile(&document, ledger, Scope::Everything, clock::wall());
        if !edits.is_empty() {
            done.owed = Some(Owed::State);
            self.progress_only = false;
        }
        self.act_on(room, findings, Scope::Everything, lines, done);
    }

    /// The directory names a session for us, its `id` for everybody on the wire.
    fn compare_names(&mut self, document: &Document) {
        let Some(said) = document.session_str("id").filter(|id| *id != self.session.as_str()) else { return };
        if self.warned_name.as_deref() != Some(&said) {
            let sent = document.wire_session(&self.session);
            tracing::warn!(
                session.id = %self.session, said = &*said, sent = &*sent,
                "session.json says another id than its directory is called; registries are told {sent:?}"
            );
            self.warned_name = Some(said.into_owned());
        }
    }

    /// The directory is gone, and the journal with it: whoever renamed it took both, and they go on under the new name.
    fn leave(&mut self, done: &mut Done) {
        let Some(ledger) = self.ledger.take() else { return };
        let live = ledger.iter().filter(|(_, held)| held.is_live());
        done.unfollow.extend(live.map(|(mission, _)| mission.clone()));
        if !done.unfollow.is_empty() {
            tracing::warn!(
                session.id = %self.session, count = done.unfollow.len(),
                "the session's directory is gone while missions of it are live; under a new name they are followed there"
            );
        }
    }

    /// What a whole document asks for, once it is in the ledger.
    fn act_on(
        &mut self,
        room: &Room,
        findings: Findings,
        scope: Scope,
        lines: &mut Vec<u8>,
        done: &mut Done,
    ) {
        let at = clock::wall();
        let session = self.session.clone();
        for (mission_id, run, attempts) in findings.requeued {
            tracing::info!(session.id = %session, mission.id = %mission_id, run, "queued again by hand");
            if let Ok(attempts) = serde_json::value::RawValue::from_string(attempts) {
                Line::Requeued { ts: at, mission_id, run, attempts }.write(lines);
            }
        }
        if !findings.restored.is_empty() {
            self.urgent = true;
            if self.warned_old_copy.is_none_or(|said| said.elapsed() >= WARN_EVERY) {
                self.warned_old_copy = Some(Instant::now());
                tracing::warn!(
                    session.id = %session, count = findings.restored.len(),
                    "another program wrote an old copy of session.json; our fields are put back"
                );
            }
            Line::Restored { ts: at, mission_ids: findings.restored }.write(lines);
        }
        for mission_id in findings.withdrawn {
            Line::Withdrawn { ts: at, mission_id: mission_id.clone() }.write(lines);
            done.unfollow.push(mission_id);
        }
        for mission in findings.adopted {
            let executor =
                self.ledger.as_ref().and_then(|l| l.get(mission.as_str())).and_then(|h| h.executor.clone());
            done.follow.push((mission, executor.and_then(|id| ExecutorId::new(id).ok())));
        }
        for mission in findings.gone {
            if !self.warned_gone.contains(&mission) {
                tracing::warn!(
                    session.id = %session, mission.id = %mission,
                    "a live mission is no longer in session.json; it is followed to its end in log.jsonl"
                );
                self.warned_gone.push(mission);
            }
        }
        for (mission, wish) in findings.wishes {
            self.pass_on(room, mission, wish, lines);
        }
        if scope == Scope::Everything {
            done.problems = Some(findings.problems);
            self.offer(room, findings.offers);
        }
    }

    fn offer(&mut self, room: &Room, offers: Vec<Offer>) {
        if !offers.is_empty() || !self.offered.is_empty() {
            self.offered = offers.iter().map(|offer| offer.mission.clone()).collect();
            tell(room, News::Offers { session: self.session.clone(), missions: offers });
        }
    }

    /// Offers what waits, by the document as it is known.
    fn offer_again(&mut self, room: &Room, done: &mut Done) {
        let (Some(document), Some(ledger)) = (self.document.clone(), self.ledger.as_mut()) else { return };
        let mut lines = Vec::new();
        let (_edits, findings) = reconcile(&document, ledger, Scope::Everything, clock::wall());
        self.act_on(room, findings, Scope::Everything, &mut lines, done);
        self.append(room, &lines, false);
    }

    /// A wish for a mission that an executor has. One that we only claimed is asked about when the answer is here.
    pub(super) fn pass_on(&self, room: &Room, mission: MissionId, wish: Wish, lines: &mut Vec<u8>) {
        let accepted = self
            .ledger
            .as_ref()
            .and_then(|l| l.get(mission.as_str()))
            .is_some_and(|h| h.phase == Phase::Accepted);
        if accepted {
            tracing::info!(session.id = %self.session, mission.id = %mission, wish = wish.as_str(), "steered from the file");
            Line::steering(clock::wall(), mission.clone(), &wish).write(lines);
            tell(room, News::Steer { key: self.key(mission), wish });
        }
    }

    fn key(&self, mission: MissionId) -> MissionKey {
        MissionKey { session: self.session.clone(), mission }
    }

    /// Reads the journal back, once.
    fn load(&mut self, room: &Room, done: &mut Done) {
        if self.ledger.is_some() {
            return;
        }
        let mut ledger = match journal_file::read(&room.store.log_file(&self.session)) {
            Ok(ledger) => ledger,
            Err(error) => {
                // Without its journal nobody can tell what has been sent: nothing is, until it can be read.
                let message = format!("log.jsonl cannot be read: {error}");
                done.unreadable = Some(Unreadable { identity: self.identity, place: None, message });
                self.identity = None;
                return;
            }
        };
        if let Some(document) = &self.document {
            rebase(document, &mut ledger);
        }
        for (mission, held) in ledger.iter() {
            match held.phase {
                Phase::Claimed => tell(
                    room,
                    News::Uncertain {
                        key: self.key(mission.clone()),
                        run: held.run,
                        attempts: held.attempts,
                        since: held.sent_at,
                    },
                ),
                Phase::Accepted => {
                    let executor = held.executor.as_deref().and_then(|id| ExecutorId::new(id).ok());
                    done.follow.push((mission.clone(), executor));
                }
                Phase::Waiting | Phase::Ended => {}
            }
        }
        self.progress_only = false;
        self.ledger = Some(ledger);
    }

    /// The last look before a mission is sent, and the claim.
    fn begin(
        &mut self,
        room: &Room,
        missions: &[MissionId],
        lines: &mut Vec<u8>,
        done: &mut Done,
    ) -> Vec<News> {
        self.look(room, lines, done);
        self.load(room, done);
        for mission in missions {
            self.offered.remove(mission);
        }
        let skipped = |key: MissionKey, why| News::Skipped { key, why };
        let foreign = room.lock.renew().err();
        let why = match &foreign {
            None => "session.json is gone or cannot be read",
            Some(_) => "the folder's lock is not ours",
        };
        let document = self.document.clone().filter(|_| foreign.is_none() && done.unreadable.is_none());
        let (Some(document), Some(ledger)) = (document, self.ledger.as_mut()) else {
            // Once it can be read, a look offers them again.
            if let Some(error) = foreign {
                done.write_error = Some(with_causes(&error));
                done.owed = Some(Owed::State);
                self.reoffer = true;
            }
            if let Some(ledger) = &mut self.ledger {
                for mission in missions {
                    release(ledger, mission);
                }
            }
            let keys = missions
                .iter()
                .map(|mission| MissionKey { session: self.session.clone(), mission: mission.clone() });
            return keys.map(|key| skipped(key, why)).collect();
        };
        let state = document.state();
        let wire_session: Arc<str> = Arc::from(document.wire_session(&self.session));
        let mut news = Vec::with_capacity(missions.len());
        for mission in missions {
            let key = MissionKey { session: self.session.clone(), mission: mission.clone() };
            let Some(view) = document.mission(mission.as_str()) else {
                release(ledger, mission);
                news.push(skipped(key, "no longer in session.json"));
                continue;
            };
            let said = view.string("status").and_then(|text| MissionState::parse(&text).ok());
            if said != Some(MissionState::Queued) {
                abandon(ledger, mission, said, lines);
                news.push(skipped(key, "no longer queued"));
                continue;
            }
            if !state.is_dispatching() {
                release(ledger, mission);
                news.push(skipped(key, "the session is held"));
                continue;
            }
            if ledger
                .get(mission.as_str())
                .is_some_and(|held| matches!(held.phase, Phase::Accepted | Phase::Ended))
            {
                news.push(skipped(key, "already with an executor"));
                continue;
            }
            let at = clock::wall();
            let mut held = ledger.hold(mission.clone());
            held.claim(at);
            let idempotency_key = held.idempotency_key(mission);
            let (run, attempt) = (held.run, held.attempts);
            drop(held);
            let line = Line::Dispatching {
                ts: at,
                mission_id: mission.clone(),
                key: idempotency_key.clone(),
                run,
                attempt,
            };
            line.write(lines);
            let (wire_session, mission) = (Arc::clone(&wire_session), view.to_text());
            let dispatch = Dispatch { wire_session, mission, idempotency_key, run, attempt };
            news.push(News::Begun { key, dispatch });
        }
        news
    }

    /// Returns why the lines could not be written, if so. Those that are to be `durable` are on disk then, unless nothing
    /// is ever to be waited for.
    fn append(&mut self, room: &Room, lines: &[u8], durable: bool) -> Option<String> {
        if lines.is_empty() {
            return None;
        }
        if self.journal.is_none() {
            let permit = Arc::clone(&room.open_journals).try_acquire_owned().ok();
            self.journal = permit.map(|permit| (self.open_journal(room), permit));
        }
        let appended = match &mut self.journal {
            Some((journal, _permit)) => journal.append(lines, durable),
            None => self.open_journal(room).append(lines, durable),
        };
        let error = appended.err()?;
        tracing::error!(session.id = %self.session, error = %error, "log.jsonl cannot be written");
        Some(format!("log.jsonl cannot be written: {error}"))
    }

    fn open_journal(&self, room: &Room) -> Journal {
        Journal::new(room.store.log_file(&self.session), room.fsync)
    }

    /// A claim that is not in the journal is none: what could not be written down is not sent.
    fn withdraw_claims(&mut self, begun: Vec<News>) -> Vec<News> {
        let withdraw = |news| match news {
            News::Begun { key, .. } => {
                if let Some(mut held) = self.ledger.as_mut().and_then(|ledger| ledger.get_mut(&key.mission)) {
                    held.unsent();
                }
                News::Skipped { key, why: "the journal cannot be written" }
            }
            other @ (News::Offers { .. }
            | News::Skipped { .. }
            | News::Uncertain { .. }
            | News::Room(_)
            | News::Reachable(_)
            | News::Steer { .. }) => other,
        };
        begun.into_iter().map(withdraw).collect()
    }

    /// Makes the file say what the ledger says, and carries the journal over when it has grown too long.
    fn write(&mut self, room: &Room, done: &mut Done) {
        let Some(mut ledger) = self.ledger.take() else { return };
        let known = self.document.clone();
        let mut found: Vec<(Scope, Findings)> = Vec::new();
        let reading =
            known.clone().zip(self.identity).map(|(document, identity)| Reading { document, identity });
        let updated = room.store.update_from(&self.session, reading.as_ref(), &mut |base: &Document| {
            let unchanged = known.as_ref().is_some_and(|document| document.bytes() == base.bytes());
            let scope = if unchanged { Scope::Changed } else { Scope::Everything };
            let (edits, findings) = reconcile(base, &mut ledger, scope, clock::wall());
            found.push((scope, findings));
            base.apply(&edits)
        });
        let mut lines = Vec::new();
        match updated {
            Ok(updated) => {
                ledger.settled();
                self.ledger = Some(ledger);
                self.progress_only = true;
                self.identity = Some(updated.identity);
                self.document = Some(Arc::clone(&updated.document));
                done.written_bytes = updated.wrote.then_some(updated.bytes_written);
                done.owed = None;
                for (scope, findings) in found {
                    self.act_on(room, findings, scope, &mut lines, done);
                }
            }
            Err(UpdateError::Read(ReadError::Missing { .. })) => {
                ledger.settled();
                self.ledger = Some(ledger);
                self.document = None;
                self.identity = None;
                done.owed = None;
            }
            Err(error) => {
                self.ledger = Some(ledger);
                // The ledger knows already what was found, and would not find it again.
                for (scope, findings) in found {
                    self.act_on(room, findings, scope, &mut lines, done);
                }
                done.owed = Some(Owed::State);
                let hint = error.hint().map_or_else(String::new, |hint| format!("; {hint}"));
                done.write_error = Some(format!("{}{hint}", with_causes(&error)));
            }
        }
        self.append(room, &lines, false);
        self.urgent = false;
        self.rotate(room);
    }

    fn rotate(&mut self, room: &Room) {
        let Some(ledger) = &self.ledger else { return };
        let path = room.store.log_file(&self.session);
        match journal_file::rotate(&path, ledger, clock::wall(), room.fsync, self.rotate_above) {
            Ok(Some(worthwhile)) => self.rotate_above = worthwhile,
            Ok(None) => {}
            Err(error) => {
                tracing::error!(session.id = %self.session, error = %error, "log.jsonl cannot be rotated");
            }
        }
    }
}

/// The dispatcher never keeps anybody waiting; when it is gone, the bridge is ending.
fn tell(room: &Room, news: News) {
    tell_all(room, vec![news]);
}

fn tell_all(room: &Room, news: Vec<News>) {
    if room.news.blocking_send(news).is_err() {
        tracing::debug!("the dispatcher has ended");
    }
}

/// Says whether a mission has ended and nothing of ours is missing from it. One that ended without the time that we
/// write with the end, but with an executor, was ended by hand while no bridge was running. Of one that was aborted and has
/// no executor, only the journal tells whether a request was on its way when the bridge was killed.
fn is_settled(mission: &MissionView<'_>) -> bool {
    let state = mission.string("status").and_then(|text| MissionState::parse(&text).ok());
    match state {
        Some(MissionState::Aborted) if !mission.has("executorId") => false,
        Some(state) => state.is_terminal() && !is_ended_by_hand(mission),
        None => false,
    }
}

/// A mission that is not sent after all waits to be offered again.
fn release(ledger: &mut Ledger, mission: &MissionId) {
    if let Some(mut held) = ledger.get_quietly(mission.as_str()) {
        held.release();
    }
}

/// A claimed mission that the file no longer wants: the claim goes.
fn abandon(ledger: &mut Ledger, mission: &MissionId, said: Option<MissionState>, lines: &mut Vec<u8>) {
    let Some(mut held) =
        ledger.get_mut(mission).filter(|held| matches!(held.phase, Phase::Waiting | Phase::Claimed))
    else {
        return;
    };
    if said.is_some_and(MissionState::is_terminal) {
        let at = clock::wall();
        held.withdrawn(at);
        held.shown = Some(held.state);
        Line::Withdrawn { ts: at, mission_id: mission.clone() }.write(lines);
    } else {
        held.release();
    }
}

fn unreadable(error: &ReadError, identity: Option<FileIdentity>) -> Unreadable {
    let place = match error {
        ReadError::Torn { source, .. } => Some((source.line, source.column)),
        ReadError::Missing { .. }
        | ReadError::TooLarge { .. }
        | ReadError::Refused { .. }
        | ReadError::Io { .. } => None,
    };
    Unreadable { identity, place, message: with_causes(error) }
}
