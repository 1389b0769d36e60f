//! Service: who sits at which desk when.
//!
//! One loop owns every session's place in line. A desk works on a blocking thread, one job at a time; what arrives
//! meanwhile waits and goes into the next job together, so a burst costs one write. The first update of an idle session
//! is written at once. A session whose file is expensive to write rests afterwards for [`REST_FACTOR`] times as long as
//! the write took: a file of ten thousand missions is then written a handful of times during a backlog instead of ten
//! thousand times, and a small one is not held up at all.
//!
//! The loop never waits for the other stages. What it has to tell them stands in lists of its own; when too many events
//! have piled up it stops listening to the executors' streams, and they slow down by themselves.

use super::desk::{Activity, Desk, Done, Job, Owed, Room, Unreadable, Update};
use super::merge::Problem;
use super::whereabouts::Whereabouts;
use crate::domain::file::FileIdentity;
use crate::domain::id::{ExecutorId, MissionId, SessionId};
use crate::protocol::envelope::Frame;
use crate::protocol::executor_v1::MissionStatus;
use crate::runtime::shutdown::Shutdown;
use crate::session::messages::{MissionKey, Order};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Desks that work at the same time. They mostly wait for the disk, whose flushes are shared.
const DESKS_AT_WORK: usize = 24;

/// After a write, a session rests this many times as long as the write took.
const REST_FACTOR: u32 = 4;

/// Writes shorter than this need no rest.
const CHEAP_WRITE: Duration = Duration::from_millis(4);

/// What a write is taken to have cost at most: the largest files take less, the rest was waiting for other writers.
const DEAREST_WRITE: Duration = Duration::from_millis(400);

/// While more missions of a session are on their way, it rests twice as long, and at least this long: claims wait while
/// their file is written. Three quarters of the second within which the file must agree with the registry; when the last
/// one is on its way, the file is written without this rest.
const REST_WHEN_BUSY: Duration = Duration::from_millis(750);

/// What became of requests is waited for this long while more of the session's are on their way, so that it goes into the
/// journal together, or with the next claims: among a hundred sessions each has its turn about so often. A bridge killed
/// meanwhile asks the registry, as it does about open requests.
const LINGER: Duration = Duration::from_millis(100);

/// This many updates are worth a job of their own: about as many as are claimed together ahead of a brisk registry.
const LINGER_FOR: usize = 128;

/// Progress alone is written this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// A file that could not be written is tried again after this long.
const WRITE_AGAIN: Duration = Duration::from_secs(1);

/// Idle desks are kept this long, so that a session in use is not read back from its journal again and again.
const KEEP_IDLE: Duration = Duration::from_secs(30);

/// Updates that may wait for their desks before the streams are left alone.
const BACKLOG: usize = 20_000;

/// What the folder is asked to do.
#[derive(Debug)]
pub enum Task {
    /// This session's file may have changed; `identity` is what the watcher saw, when it looked.
    Look {
        /// Which session.
        session: SessionId,
        /// What the watcher saw.
        identity: Option<FileIdentity>,
    },
    /// Every session there is.
    Swept {
        /// Each with its identity.
        sessions: Vec<(SessionId, FileIdentity)>,
    },
    /// An executor said something.
    Event(Box<Frame>),
    /// The registry's record of a mission.
    Known {
        /// Which mission.
        mission: MissionId,
        /// What it says.
        status: Box<MissionStatus>,
    },
    /// The registry does not know a mission that it had accepted.
    Forgotten(MissionId),
}

/// Whom to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Following {
    /// A live mission, with its executor when that is known.
    Follow(MissionId, Option<ExecutorId>),
    /// It has ended.
    Unfollow(MissionId),
}

/// The answer to a [`Task::Look`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// Which session.
    pub session: SessionId,
    /// Why it could not be read, if so.
    pub unreadable: Option<Unreadable>,
}

/// What the folder knows, for the status file.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Sessions seen.
    pub sessions: usize,
    /// Files that cannot be read.
    pub unreadable: Vec<(SessionId, Unreadable)>,
    /// Missions that cannot be used: session, index, field, what is wrong.
    pub problems: Vec<(SessionId, usize, &'static str, String)>,
    /// Live missions that the registry does not know, at most a thousand.
    pub forgotten: Vec<MissionKey>,
    /// Files that cannot be written, with the reason.
    pub unwritable: Vec<(SessionId, String)>,
    /// Bytes of `session.json` written since the start.
    pub written_bytes: u64,
    /// Writes of `session.json` since the start.
    pub writes: u64,
    /// The first sweep is through: every session was looked at once.
    pub first_sweep_done: bool,
    /// Nothing is being read, claimed or written, and nothing waits to be.
    pub idle: bool,
}

/// The ends of the channels that the folder holds.
#[derive(Debug)]
pub struct Channels {
    /// From the watcher and the streams.
    pub tasks: mpsc::Receiver<Task>,
    /// From the streams, apart, so that they can be left waiting.
    pub happenings: mpsc::Receiver<Task>,
    /// From the dispatcher.
    pub orders: mpsc::Receiver<Vec<Order>>,
    /// To the watcher.
    pub looked: mpsc::Sender<Looked>,
    /// To the streams.
    pub following: mpsc::Sender<Vec<Following>>,
    /// To whoever writes the status file.
    pub report: watch::Sender<Report>,
}

#[derive(Debug, Default)]
struct Entry {
    recovered: bool,
    identity: Option<FileIdentity>,
    busy: bool,
    waiting_in_line: bool,
    desk: Option<Box<Desk>>,
    pending: Job,
    owed: Option<Owed>,
    /// A write rests until then.
    write_at: Option<Instant>,
    /// And until then while more is certain to come.
    rest_when_busy_until: Option<Instant>,
    lingers_until: Option<Instant>,
    activity: Activity,
    /// Missions of which something will be heard soon.
    on_their_way: usize,
    last_write: Option<Instant>,
    used_at: Option<Instant>,
    problems: Box<[Problem]>,
    unreadable: Option<Box<Unreadable>>,
    write_error: Option<Box<str>>,
}

impl Entry {
    /// Says whether the next job is worth waiting for.
    fn may_linger(&self, now: Instant) -> bool {
        let Job { look, begins, updates, .. } = &self.pending;
        let few = !updates.is_empty() && updates.len() < self.on_their_way.min(LINGER_FOR);
        let is_early = self.lingers_until.is_none_or(|until| now < until);
        self.activity == Activity::Busy && few && begins.is_empty() && !look && is_early
    }
}

struct Folder {
    room: Arc<Room>,
    entries: HashMap<SessionId, Entry>,
    line: VecDeque<SessionId>,
    working: JoinSet<(SessionId, Box<Desk>, Done, Duration)>,
    timers: BTreeSet<(Instant, SessionId)>,
    whereabouts: Whereabouts,
    forgotten: HashSet<MissionId>,
    following: Vec<Following>,
    looked: VecDeque<Looked>,
    backlog: usize,
    first_sweep: FirstSweep,
    is_ending: bool,
    written_bytes: u64,
    writes: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum FirstSweep {
    Awaited,
    Under { left: usize },
    Done,
}

/// Runs until the shutdown, then until everything that is known is in the files, at most `drain` long.
///
/// The shutdown is `orders` being closed: the dispatcher ends first and has said everything by then.
pub async fn run(room: Room, channels: Channels, shutdown: Shutdown, drain: Duration) {
    let Channels { mut tasks, mut happenings, mut orders, looked, following, report } = channels;
    let mut folder = Folder {
        room: Arc::new(room),
        entries: HashMap::new(),
        line: VecDeque::new(),
        working: JoinSet::new(),
        timers: BTreeSet::new(),
        whereabouts: Whereabouts::default(),
        forgotten: HashSet::new(),
        following: Vec::new(),
        looked: VecDeque::new(),
        backlog: 0,
        first_sweep: FirstSweep::Awaited,
        is_ending: false,
        written_bytes: 0,
        writes: 0,
    };
    let mut draining: Option<Instant> = None;
    let mut next_report = Instant::now();
    let mut was_idle = false;
    let mut orders_open = true;
    loop {
        folder.start_work();
        let idle = folder.is_idle();
        if draining.is_some() && folder.working.is_empty() && folder.line.is_empty() && !orders_open {
            break;
        }
        if idle != was_idle || Instant::now() >= next_report {
            was_idle = idle;
            next_report = Instant::now() + Duration::from_millis(500);
            report.send_modify(|report| folder.report(report, idle));
        }
        let wake = folder.timers.first().map_or(next_report, |(at, _)| next_report.min(*at));
        let wake = draining.map_or(wake, |end| end.min(wake));
        tokio::select! {
            biased;
            Some(finished) = folder.working.join_next(), if !folder.working.is_empty() => match finished {
                Ok((session, desk, done, took)) => folder.finished(&session, desk, done, took),
                Err(failure) => {
                    tracing::error!(error = %failure, "a desk panicked; shutting down");
                    shutdown.start(crate::runtime::shutdown::Cause::Panic("desk"));
                }
            },
            arrived = orders.recv(), if orders_open => if let Some(arrived) = arrived {
                for order in arrived {
                    folder.take_order(order);
                }
                while let Ok(more) = orders.try_recv() {
                    for order in more {
                        folder.take_order(order);
                    }
                }
            } else {
                orders_open = false;
                draining = Some(Instant::now() + drain);
                folder.hurry();
            },
            Some(task) = tasks.recv(), if draining.is_none() => folder.take(task),
            Some(task) = happenings.recv(), if draining.is_none() && folder.backlog < BACKLOG => {
                folder.take(task);
                while folder.backlog < BACKLOG && let Ok(task) = happenings.try_recv() {
                    folder.take(task);
                }
            }
            Ok(room) = following.reserve(), if !folder.following.is_empty() => {
                room.send(std::mem::take(&mut folder.following));
            }
            Ok(room) = looked.reserve(), if !folder.looked.is_empty() => {
                if let Some(first) = folder.looked.pop_front() {
                    room.send(first);
                }
                while !folder.looked.is_empty() && let Ok(room) = looked.try_reserve() {
                    if let Some(next) = folder.looked.pop_front() {
                        room.send(next);
                    }
                }
            }
            () = tokio::time::sleep_until(wake) => {
                let now = Instant::now();
                if draining.is_some_and(|end| end <= now) {
                    tracing::warn!("not everything could be written back in time; the journal has it and the next start writes it");
                    break;
                }
                folder.wake(now);
                if next_report <= now {
                    folder.let_go(now);
                }
            }
        }
    }
    while folder.working.join_next().await.is_some() {}
    report.send_modify(|report| folder.report(report, true));
}

impl Folder {
    fn take(&mut self, task: Task) {
        match task {
            Task::Look { session, identity } => self.hint(&session, identity),
            Task::Swept { sessions } => self.swept(sessions),
            Task::Event(frame) => {
                let Some(mission) = frame.envelope.mission_id.clone() else { return };
                self.forgotten.remove(&mission);
                let sessions = self.whereabouts.of(&mission).to_vec();
                if sessions.is_empty() {
                    tracing::debug!(mission.id = %mission, event.kind = frame.envelope.name(), "event of a mission that is not ours");
                }
                for session in sessions {
                    self.update(&session, Update::Event(frame.clone()));
                }
            }
            Task::Known { mission, status } => {
                self.forgotten.remove(&mission);
                for session in self.whereabouts.of(&mission).to_vec() {
                    self.update(&session, Update::Known(mission.clone(), status.clone()));
                }
            }
            Task::Forgotten(mission) => {
                if !self.whereabouts.of(&mission).is_empty() && self.forgotten.insert(mission.clone()) {
                    tracing::warn!(
                        mission.id = %mission,
                        "the registry does not know this mission any more; if that lasts, abort it, and retry it if it is to run again"
                    );
                }
            }
        }
    }

    fn take_order(&mut self, order: Order) {
        let (Order::Begin { key }
        | Order::Assigned { key, .. }
        | Order::Failed { key, .. }
        | Order::Unsent { key, .. }
        | Order::Known { key, .. }
        | Order::Steered { key, .. }) = &order;
        let MissionKey { session, mission } = key.clone();
        if let Order::Begin { .. } = order {
            // Known before the request leaves: an event may overtake the answer.
            self.holds(&mission, &session);
            self.entries.entry(session.clone()).or_default().pending.begins.push(mission);
            self.queue(&session);
        } else {
            self.update(&session, Update::Order(order));
        }
    }

    fn holds(&mut self, mission: &MissionId, session: &SessionId) {
        if self.whereabouts.add(mission.clone(), session)
            && let [other, _second] = self.whereabouts.of(mission)
        {
            tracing::warn!(
                session.id = %session, mission.id = %mission, other = %other,
                "two sessions have a live mission of this name; the registry tells them apart by name alone, so give each its own"
            );
        }
    }

    fn hint(&mut self, session: &SessionId, identity: Option<FileIdentity>) {
        let entry = self.entries.entry(session.clone()).or_default();
        if identity.is_some() && identity == entry.identity && !entry.busy {
            return;
        }
        entry.pending.look = true;
        self.queue(session);
    }

    fn swept(&mut self, sessions: Vec<(SessionId, FileIdentity)>) {
        let first = self.first_sweep == FirstSweep::Awaited;
        if first {
            self.first_sweep = FirstSweep::Under { left: sessions.len() };
            if sessions.is_empty() {
                self.first_sweep = FirstSweep::Done;
            }
        }
        let mut unseen: Vec<SessionId> = Vec::new();
        if self.entries.len() > sessions.len() || !first {
            let seen: HashSet<&SessionId> = sessions.iter().map(|(session, _)| session).collect();
            unseen.extend(self.entries.keys().filter(|session| !seen.contains(session)).cloned());
        }
        for session in unseen {
            self.hint(&session, None);
        }
        for (session, identity) in sessions {
            self.hint(&session, Some(identity));
        }
    }

    fn update(&mut self, session: &SessionId, update: Update) {
        self.backlog += 1;
        self.entries.entry(session.clone()).or_default().pending.updates.push(update);
        self.queue(session);
    }

    fn queue(&mut self, session: &SessionId) {
        let Some(entry) = self.entries.get_mut(session) else { return };
        if !entry.busy && !entry.waiting_in_line {
            let now = Instant::now();
            if !self.is_ending && entry.may_linger(now) {
                if entry.lingers_until.is_none() {
                    entry.lingers_until = Some(now + LINGER);
                    self.timers.insert((now + LINGER, session.clone()));
                }
                return;
            }
            entry.lingers_until = None;
            entry.waiting_in_line = true;
            // A claim is somebody's latency; a look may be one of ten thousand at the start.
            if entry.pending.begins.is_empty() && entry.pending.updates.is_empty() {
                self.line.push_back(session.clone());
            } else {
                self.line.push_front(session.clone());
            }
        }
    }

    fn start_work(&mut self) {
        while self.working.len() < DESKS_AT_WORK {
            let Some(session) = self.line.pop_front() else { break };
            let Some(entry) = self.entries.get_mut(&session) else { continue };
            entry.waiting_in_line = false;
            entry.busy = true;
            let mut job = std::mem::take(&mut entry.pending);
            job.recover = !std::mem::replace(&mut entry.recovered, true);
            self.backlog -= job.updates.len();
            let now = Instant::now();
            let is_busy = entry.activity == Activity::Busy;
            if is_busy && entry.owed.is_none() && entry.rest_when_busy_until.is_none_or(|at| at <= now) {
                entry.rest_when_busy_until = Some(now + REST_WHEN_BUSY);
            }
            let resting = entry.write_at.is_some_and(|at| at > now)
                || is_busy && entry.rest_when_busy_until.is_some_and(|at| at > now);
            let is_event = |update: &Update| matches!(update, Update::Event(_));
            let only_progress = entry.owed != Some(Owed::State) && job.updates.iter().all(is_event);
            let progress_is_early = entry.last_write.is_some_and(|at| at.elapsed() < PROGRESS_EVERY);
            job.may_write =
                self.is_ending || !(resting || only_progress && progress_is_early && is_quiet(&job));
            let mut desk = entry.desk.take().unwrap_or_else(|| Box::new(Desk::new(session.clone())));
            let room = Arc::clone(&self.room);
            self.working.spawn_blocking(move || {
                let started = std::time::Instant::now();
                let done = desk.work(&room, job);
                (session, desk, done, started.elapsed())
            });
        }
    }

    fn finished(&mut self, session: &SessionId, desk: Box<Desk>, done: Done, took: Duration) {
        let now = Instant::now();
        for (mission, executor) in done.follow {
            self.holds(&mission, session);
            self.following.push(Following::Follow(mission, executor));
        }
        for mission in done.unfollow {
            if self.whereabouts.remove(&mission, session) {
                self.forgotten.remove(&mission);
                self.following.push(Following::Unfollow(mission));
            }
        }
        if let FirstSweep::Under { left } = &mut self.first_sweep {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.first_sweep = FirstSweep::Done;
            }
        }
        let Some(entry) = self.entries.get_mut(session) else { return };
        entry.busy = false;
        entry.used_at = Some(now);
        let unreadable = done.unreadable.map(Box::new);
        if done.looked {
            self.looked
                .push_back(Looked { session: session.clone(), unreadable: unreadable.as_deref().cloned() });
        }
        entry.unreadable = unreadable;
        if let Some(identity) = done.identity {
            entry.identity = Some(identity);
        }
        if let Some(problems) = done.problems {
            for problem in problems.iter().filter(|problem| !entry.problems.contains(problem)) {
                tracing::warn!(
                    session.id = %session, index = problem.index, field = problem.field,
                    "{} {}", problem.place(), problem.what
                );
            }
            entry.problems = problems.into_boxed_slice();
        }
        if let Some(bytes) = done.written_bytes {
            self.written_bytes += bytes;
            self.writes += 1;
            entry.last_write = Some(now);
            let took = took.min(DEAREST_WRITE);
            entry.write_at = (took > CHEAP_WRITE).then(|| now + took * REST_FACTOR);
            entry.rest_when_busy_until = Some(now + (took * 2 * REST_FACTOR).max(REST_WHEN_BUSY));
        }
        if let Some(error) = &done.write_error {
            if entry.write_error.is_none() {
                tracing::error!(session.id = %session, error, "session.json cannot be written; tried again every second");
            }
            entry.write_at = Some(now + WRITE_AGAIN);
        } else if done.written_bytes.is_some() && entry.write_error.is_some() {
            tracing::info!(session.id = %session, "session.json can be written again");
        }
        // A write that failed half-way may have left something beside the file.
        entry.recovered &= done.write_error.is_none();
        if done.write_error.is_some() || done.written_bytes.is_some() || done.owed.is_none() {
            entry.write_error = done.write_error.map(String::into_boxed_str);
        }
        entry.owed = done.owed;
        entry.activity = done.activity;
        entry.on_their_way = done.on_their_way;
        if let Some(owed) = done.owed {
            let progress = entry.last_write.map(|at| at + PROGRESS_EVERY).filter(|_| owed == Owed::Progress);
            let busy = entry.rest_when_busy_until.filter(|_| done.activity == Activity::Busy);
            let at = entry.write_at.into_iter().chain(progress).chain(busy).max().unwrap_or(now);
            self.timers.insert((at, session.clone()));
        }
        if done.gone && entry.pending.is_nothing() {
            self.entries.remove(session);
            return;
        }
        // A session whose missions have all ended needs no desk; one that was in use may be again in a moment.
        if done.activity == Activity::Idle && entry.last_write.is_none() {
            entry.desk = None;
        } else {
            entry.desk = Some(desk);
        }
        if !entry.pending.is_nothing() {
            self.queue(session);
        }
    }

    fn wake(&mut self, now: Instant) {
        while let Some((at, session)) = self.timers.first().cloned().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, session.clone()));
            let has_work = |entry: &Entry| entry.owed.is_some() || !entry.pending.is_nothing();
            if self.entries.get(&session).is_some_and(has_work) {
                self.queue(&session);
            }
        }
    }

    /// Everything that is owed is written now, resting or not.
    fn hurry(&mut self) {
        self.is_ending = true;
        let owing: Vec<SessionId> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.owed.is_some() || !entry.pending.is_nothing())
            .map(|(session, _)| session.clone())
            .collect();
        for session in owing {
            self.queue(&session);
        }
    }

    /// Desks that have been idle for a while are closed.
    fn let_go(&mut self, now: Instant) {
        for entry in self.entries.values_mut() {
            let idle = entry.desk.as_ref().is_some_and(|desk| desk.is_idle());
            if idle && !entry.busy && entry.used_at.is_none_or(|at| now.duration_since(at) > KEEP_IDLE) {
                entry.desk = None;
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.working.is_empty() && self.line.is_empty() && self.timers.is_empty() && self.backlog == 0
    }

    fn report(&self, report: &mut Report, idle: bool) {
        const LISTED: usize = 1000;
        report.sessions = self.entries.len();
        report.unreadable.clear();
        report.problems.clear();
        report.unwritable.clear();
        for (session, entry) in &self.entries {
            for problem in entry.problems.iter().take(LISTED.saturating_sub(report.problems.len())) {
                report.problems.push((session.clone(), problem.index, problem.field, problem.what.clone()));
            }
            if let Some(unreadable) = entry.unreadable.as_deref().filter(|_| report.unreadable.len() < LISTED)
            {
                report.unreadable.push((session.clone(), unreadable.clone()));
            }
            if let Some(error) = entry.write_error.as_deref().filter(|_| report.unwritable.len() < LISTED) {
                report.unwritable.push((session.clone(), error.to_owned()));
            }
        }
        let key = |mission: &MissionId| {
            let session = self.whereabouts.of(mission).first()?.clone();
            Some(MissionKey { session, mission: mission.clone() })
        };
        report.forgotten = self.forgotten.iter().filter_map(key).take(LISTED).collect();
        report.written_bytes = self.written_bytes;
        report.writes = self.writes;
        report.first_sweep_done = self.first_sweep == FirstSweep::Done;
        report.idle = idle;
    }
}

/// Nothing but events that may turn out to be progress: the write may wait for its second.
fn is_quiet(job: &Job) -> bool {
    !job.look && job.begins.is_empty()
}
