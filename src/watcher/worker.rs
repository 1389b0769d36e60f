//! Service: source of hints, sweeps and timers in, notices out.
//!
//! The order at the start is what keeps both promises, *soon* and *nothing missed*: the few directories on top are watched,
//! then everything is swept and told, then each session is watched while others work already, and a last sweep tells what
//! changed before its watch was there.

use crate::disk::filesystem;
use crate::domain::file::FileIdentity;
use crate::domain::id::SessionId;
use crate::runtime::clock;
use crate::runtime::shutdown::Shutdown;
use crate::watcher::found::{Entry, FileLook, Found, Inbox, Odd};
use crate::watcher::machine::{Effect, Event, Leaving, Machine};
use crate::watcher::names::SESSIONS;
use crate::watcher::source::{self, Hint, Refusal, Signal, Source, Watches};
use crate::watcher::sweep::{self, Roots, SweepError, Sweeper};
use crate::watcher::{Config, InboxPlace, Looked, Notice, Subject, WatchMode};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How often it is checked that the watched directories are still the ones that were watched. Three `stat` calls.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// When a notification queue that could not be opened is tried again: limits are raised by people.
const REOPEN_AFTER: Duration = Duration::from_secs(30);

/// How many hints are taken from the source at a time.
const BATCH: usize = 256;

/// Watches until `shutdown` starts or nobody takes notices any more.
///
/// Every notice waits for room in `notices`; what waits meanwhile is gathered, not dropped. The reader answers each
/// reading of a session on `looked`; an answer that never comes delays nothing by more than a few milliseconds.
///
/// # Cancel safety
/// Nothing is lost on disk when the future is dropped; a sweep under way ends by itself.
pub async fn run(
    config: Config,
    notices: mpsc::Sender<Notice>,
    mut looked: mpsc::Receiver<Looked>,
    shutdown: Shutdown,
) {
    let mut worker = Worker::new(config, shutdown.clone());
    let mut answers = true;
    let mut hints = Vec::with_capacity(BATCH);
    loop {
        worker.start_probe();
        let has_notice = worker.machine.has_notice();
        let wake = worker.next_wakeup();
        tokio::select! {
            () = shutdown.started() => break,
            permit = notices.reserve(), if has_notice => {
                let Ok(permit) = permit else { break };
                if let Some(notice) = worker.take() {
                    permit.send(notice);
                }
            }
            signal = next(&mut worker.source, &mut hints) => worker.on_signal(signal, &mut hints),
            answer = looked.recv(), if answers => match answer {
                Some(answer) => worker.feed(Event::Looked(answer)),
                None => answers = false,
            },
            result = joined(&mut worker.probing) => worker.on_probe_end(result),
            result = joined(&mut worker.sweeping) => worker.on_sweep_end(result),
            result = joined(&mut worker.adding) => worker.on_adding_end(result),
            () = tokio::time::sleep_until(wake) => worker.feed(Event::Woken),
        }
    }
    worker.end().await;
}

async fn next(source: &mut Option<Source>, into: &mut Vec<Hint>) -> Signal {
    match source {
        Some(source) => source.next(into, BATCH).await,
        None => std::future::pending().await,
    }
}

/// Waits for a blocking task, if there is one, and clears it away.
async fn joined<T>(task: &mut Option<JoinHandle<T>>) -> Option<T> {
    let Some(running) = task else { return std::future::pending().await };
    let result = running.await;
    *task = None;
    result.ok()
}

type SweepEnd = (Sweeper, Result<Found, SweepError>);

/// What people were told last about how changes are noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    Nothing,
    Native,
    Polling(String),
}

/// What adding a list of watches came to.
struct Added {
    generation: u64,
    count: usize,
    limit: Option<Refusal>,
}

struct Worker {
    config: Config,
    root: PathBuf,
    machine: Machine,
    source: Option<Source>,
    roots: Option<Roots>,
    stale: bool,
    reopen_at: Option<Instant>,
    next_probe: Instant,
    probing: Option<JoinHandle<(Roots, bool)>>,
    sweeper: Option<Sweeper>,
    sweeping: Option<JoinHandle<SweepEnd>>,
    adding: Option<JoinHandle<Added>>,
    /// Counts what makes the addition under way out of date: a new source, or a sweep that found more.
    generation: u64,
    said: Said,
    waiting_said: bool,
    failed_said: bool,
    shutdown: Shutdown,
}

impl Worker {
    fn new(config: Config, shutdown: Shutdown) -> Self {
        let now = clock::now();
        let root = std::path::absolute(&config.watch_dir).unwrap_or_else(|_empty| config.watch_dir.clone());
        Self {
            machine: Machine::new(config.poll_interval, config.sweep_interval, now),
            source: None,
            roots: None,
            stale: false,
            reopen_at: None,
            next_probe: now.instant,
            sweeper: Some(Sweeper::new(root.clone())),
            probing: None,
            sweeping: None,
            adding: None,
            generation: 0,
            said: Said::Nothing,
            waiting_said: false,
            failed_said: false,
            root,
            config,
            shutdown,
        }
    }

    fn next_wakeup(&self) -> tokio::time::Instant {
        let probe = self.probing.is_none().then_some(self.next_probe);
        let wake = [self.machine.next_wakeup(), probe].into_iter().flatten().min();
        tokio::time::Instant::from_std(wake.unwrap_or(self.next_probe + PROBE_EVERY))
    }

    fn feed(&mut self, event: Event) {
        for effect in self.machine.on_event(event, clock::now()) {
            match effect {
                Effect::Sweep => self.start_sweep(),
                Effect::WarnUnreadable(session, what) => {
                    let path = self.root.join(SESSIONS).join(session.as_str()).join("session.json");
                    tracing::warn!(
                        session.id = %session, file.path = %path.display(), file.line = what.line,
                        file.column = what.column, error = %what.message,
                        "a session cannot be read; it is left alone until the file changes"
                    );
                }
                Effect::Recovered(session) => {
                    tracing::info!(session.id = %session, "the session can be read again");
                }
            }
        }
    }

    fn start_sweep(&mut self) {
        let mut sweeper = self.sweeper.take().unwrap_or_else(|| Sweeper::new(self.root.clone()));
        let wall = clock::wall();
        self.sweeping = Some(tokio::task::spawn_blocking(move || {
            let found = sweeper.pass(wall);
            (sweeper, found)
        }));
    }

    fn on_sweep_end(&mut self, result: Option<SweepEnd>) {
        let found = match result {
            Some((sweeper, found)) => {
                self.sweeper = Some(sweeper);
                found
            }
            None => return self.feed(Event::SweepFailed),
        };
        let mut found = match found {
            Ok(found) => found,
            Err(error) => {
                if !std::mem::replace(&mut self.failed_said, true) {
                    tracing::warn!(
                        file.path = %error.path.display(), error = %error.source,
                        "the sessions cannot be listed; trying again every second"
                    );
                }
                return self.feed(Event::SweepFailed);
            }
        };
        self.failed_said = false;
        found.odd.drain(..).for_each(|odd| warn_odd(&odd));
        self.correct(&mut found);
        self.watch_all(&found);
        self.feed(Event::Swept(found));
    }

    /// Brings up to date what changed while the sweep was under way.
    fn correct(&mut self, found: &mut Found) {
        let touched = self.machine.touched();
        if touched.is_empty() || self.source.is_none() {
            return;
        }
        found.sessions.retain(|entry| !touched.contains(&entry.session));
        for session in touched {
            let (file, odd) = sweep::look_at(&self.root, &session);
            if odd.is_none() {
                found.sessions.push(Entry { session, file, inbox: Inbox::Absent });
            }
        }
    }

    /// Watches, in the background, each directory of a sweep that is not watched yet.
    fn watch_all(&mut self, found: &Found) {
        let Some(source) = &self.source else { return };
        if self.adding.is_some() {
            self.generation += 1;
            return;
        }
        let watches = source.watches().clone();
        let mut missing = Vec::new();
        for entry in &found.sessions {
            let session = Subject::Session(entry.session.clone());
            if !watches.contains(&session) {
                missing.push(session);
            }
            if entry.inbox != Inbox::Absent {
                let inbox = Subject::Inbox(InboxPlace::Session(entry.session.clone()));
                if !watches.contains(&inbox) {
                    missing.push(inbox);
                }
            }
        }
        if missing.is_empty() {
            return;
        }
        let shutdown = self.shutdown.clone();
        let generation = self.generation;
        self.adding =
            Some(tokio::task::spawn_blocking(move || add_all(&watches, &missing, generation, &shutdown)));
    }

    fn on_adding_end(&mut self, result: Option<Added>) {
        let Some(Added { generation, count, limit }) = result else { return };
        if generation != self.generation {
            return self.feed(Event::Watched);
        }
        match limit {
            Some(refusal) => self.refuse(&refusal),
            None => self.mode(true, None),
        }
        if count > 0 {
            self.feed(Event::Watched);
        }
    }

    fn on_signal(&mut self, signal: Signal, hints: &mut Vec<Hint>) {
        match signal {
            Signal::Hints => {}
            Signal::Lost => {
                tracing::debug!("notifications were lost; sweeping");
                if let Some(source) = &self.source {
                    source.watches().forget();
                }
                self.feed(Event::Lost);
            }
            Signal::Ended => {
                self.source = None;
                self.stale = true;
                self.next_probe = clock::now().instant + PROBE_EVERY;
                self.mode(false, Some("the notification thread ended; it is started again".to_owned()));
            }
        }
        for hint in hints.drain(..) {
            match hint {
                Hint::Root => {
                    self.stale = true;
                    self.next_probe = clock::now().instant;
                }
                Hint::Session(session) => self.feed(Event::Hinted(Subject::Session(session))),
                Hint::Inbox(place) => self.feed(Event::Hinted(Subject::Inbox(place))),
                Hint::Directory(session) => self.on_directory(session),
                Hint::InboxDirectory(place) => self.on_inbox_directory(place),
            }
        }
    }

    /// A session's directory came, went or was replaced: watch first, look afterwards.
    fn on_directory(&mut self, session: SessionId) {
        let (_, odd) = sweep::look_at(&self.root, &session);
        if !matches!(odd, Some(Odd::Outside(_))) {
            self.watch(&Subject::Session(session.clone()));
            let place = InboxPlace::Session(session.clone());
            if sweep::has_inbox(&self.root, &place) {
                self.on_inbox_directory(place);
            }
        }
        self.feed(Event::Hinted(Subject::Session(session)));
    }

    fn on_inbox_directory(&mut self, place: InboxPlace) {
        let subject = Subject::Inbox(place);
        self.watch(&subject);
        self.feed(Event::Hinted(subject));
    }

    fn watch(&mut self, subject: &Subject) {
        let Some(source) = &self.source else { return };
        match source.watches().add(subject) {
            Ok(()) | Err(Refusal::Gone { .. } | Refusal::Other { .. }) => {}
            Err(refusal @ (Refusal::Watches | Refusal::Instances)) => self.refuse(&refusal),
        }
    }

    /// Some directory cannot be watched: keep the watches there are, and poll for the rest.
    fn refuse(&mut self, refusal: &Refusal) {
        self.mode(false, Some(in_one_line(refusal)));
    }

    fn mode(&mut self, native: bool, why: Option<String>) {
        let saying = why.clone().map_or(Said::Native, Said::Polling);
        if self.said == saying {
            return;
        }
        match (&self.said, &saying) {
            (_, Said::Polling(why)) => tracing::warn!(
                hint = %format_args!("changes are noticed within {} ms", self.config.poll_interval.as_millis()),
                "polling the folder: {why}"
            ),
            (Said::Polling(_), Said::Native) => {
                tracing::info!("the operating system tells about every change again");
            }
            (Said::Nothing | Said::Native, Said::Native) | (_, Said::Nothing) => {}
        }
        self.said = saying;
        self.feed(Event::Mode { native, why });
    }

    /// Checks that the directories on top are still the ones that are watched.
    fn start_probe(&mut self) {
        let now = clock::now().instant;
        if now < self.next_probe || self.probing.is_some() {
            return;
        }
        self.next_probe = now + PROBE_EVERY;
        let root = self.root.clone();
        let stale = std::mem::take(&mut self.stale) || self.reopen_at.is_some_and(|at| at <= now);
        self.probing = Some(tokio::task::spawn_blocking(move || (sweep::roots(&root), stale)));
    }

    /// Starts over when they are not.
    fn on_probe_end(&mut self, result: Option<(Roots, bool)>) {
        let Some((roots, stale)) = result else { return };
        // A directory that is made again often gets the inode of the one before, so comparing is not enough.
        if !stale && self.roots == Some(roots) {
            return;
        }
        let first = self.roots.replace(roots).is_none();
        self.attach(roots);
        if !first || roots.root.is_some() {
            self.feed(Event::Lost);
        }
        if roots.inbox.is_some() {
            self.feed(Event::Hinted(Subject::Inbox(InboxPlace::Root)));
        }
        let is_missing = roots.root.is_none();
        if is_missing && !self.waiting_said {
            tracing::info!(file.path = %self.root.display(), "waiting for the watch dir to appear");
        }
        self.waiting_said = is_missing;
    }

    fn attach(&mut self, roots: Roots) {
        self.source = None;
        self.reopen_at = None;
        self.generation += 1;
        if roots.root.is_none() {
            return;
        }
        let untold = match self.config.mode {
            WatchMode::Poll => Some("--watch-mode poll asks for it".to_owned()),
            WatchMode::Native => None,
            WatchMode::Auto => filesystem::remote_kind(&self.root).map(|name| {
                format!("the folder is on {name}, which does not tell about changes made by other machines")
            }),
        };
        if let Some(why) = untold {
            return self.mode(false, Some(why));
        }
        let opened = Source::open(&self.root, source::QUEUE).and_then(|source| {
            let [root, sessions, inbox] = source.watch_roots()?;
            Ok((source, root, sessions, inbox))
        });
        match opened {
            Ok((source, root, sessions, inbox)) => {
                // What vanished before it was watched counts as absent, so that its return is a difference.
                self.roots = Some(Roots {
                    root: roots.root.filter(|_| root),
                    sessions: roots.sessions.filter(|_| sessions),
                    inbox: roots.inbox.filter(|_| inbox),
                });
                self.source = Some(source);
                self.mode(true, None);
            }
            Err(refusal) => {
                self.reopen_at = Some(clock::now().instant + REOPEN_AFTER);
                self.mode(false, Some(in_one_line(&refusal)));
            }
        }
    }

    fn take(&mut self) -> Option<Notice> {
        match self.machine.take(clock::now())? {
            Leaving::Mode { native, why } => Some(Notice::Mode { native, why }),
            Leaving::Swept(sessions) => Some(Notice::Swept { sessions }),
            Leaving::Inbox(place) => Some(Notice::Inbox { place }),
            Leaving::Session { session, anew } => {
                let (identity, tell) = self.identity(&session);
                tell.then_some(Notice::Changed { session, identity: if anew { None } else { identity } })
            }
        }
    }

    /// Looks what a session's file is now, and whether it may be told about; if not, the next sweep explains why.
    ///
    /// Without notifications the last sweep is the best there is: a remote file system is not asked here.
    fn identity(&mut self, session: &SessionId) -> (Option<FileIdentity>, bool) {
        if self.source.is_none() {
            return (self.machine.known(session), true);
        }
        let (file, odd) = sweep::look_at(&self.root, session);
        let identity = match file {
            FileLook::Present(identity) => Some(identity),
            FileLook::Absent | FileLook::Unknown => None,
        };
        self.machine.saw(session, identity);
        (identity, odd.is_none())
    }

    async fn end(mut self) {
        self.source = None;
        if let Some(probing) = self.probing.take() {
            drop(probing.await);
        }
        if let Some(sweeping) = self.sweeping.take() {
            drop(sweeping.await);
        }
        if let Some(adding) = self.adding.take() {
            drop(adding.await);
        }
    }
}

/// Adds watches until a limit is met. A directory that is gone or closed to us is passed over.
fn add_all(watches: &Watches, missing: &[Subject], generation: u64, shutdown: &Shutdown) -> Added {
    let mut added = Added { generation, count: 0, limit: None };
    for subject in missing {
        if shutdown.is_started() {
            break;
        }
        match watches.add(subject) {
            Ok(()) => added.count += 1,
            Err(Refusal::Gone { .. } | Refusal::Other { .. }) => {}
            Err(refusal @ (Refusal::Watches | Refusal::Instances)) => {
                added.limit = Some(refusal);
                break;
            }
        }
    }
    added
}

fn warn_odd(odd: &Odd) {
    let (path, why): (&Path, _) = match odd {
        Odd::Name(path) => (
            path,
            "its name is no session id; use 1 to 128 of A-Z a-z 0-9 . _ - in the name of a session's directory",
        ),
        Odd::Outside(path) => (path, "it is a link that leads out of the watch dir"),
        Odd::NotAFile(path) => (path, "it is no regular file"),
        Odd::Closed(path) => (path, "it cannot be looked at; check the permissions"),
    };
    tracing::warn!(file.path = %path.display(), "left alone: {why}");
}

fn in_one_line(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        line.push_str(": ");
        line.push_str(&deeper.to_string());
        cause = deeper.source();
    }
    line
}
