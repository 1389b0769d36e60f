//! Service: `mc bridge`: the stages wired together under one shutdown.
//!
//! ```text
//!  watcher ──look──▶ writeback ──offers, begun, wishes──▶ dispatcher ──▶ registry
//!                     ▲   ▲  ▲◀────assigned, failed, steered───┘
//!                     │   │  └── events ◀── executors' streams
//!                     │   └───── drop folders
//!                     └── other programs, through the file
//! ```
//!
//! The shutdown runs in the direction of the flow: the watcher stops, the dispatcher lets open requests end, the
//! writeback brings everything into the files, the streams are closed.

use crate::disk::atomic;
use crate::disk::fsync::FsyncPolicy;
use crate::disk::lock::{LockError, PathLock};
use crate::dispatcher::payload::Payload;
use crate::dispatcher::{self, client::Client};
use crate::domain::error::with_causes;
use crate::domain::secret::Token;
use crate::domain::time::Timestamp;
use crate::events::{self, messages as following};
use crate::intake;
use crate::net::http::{self, Http};
use crate::runtime::clock;
use crate::runtime::shutdown::{Cause, Shutdown};
use crate::runtime::tasks::Tasks;
use crate::session::messages::News;
use crate::session::status_file::{
    BridgeStatus, Delayed, FILE_NAME, HEARTBEAT, MissionProblem, UnreadableSession, UnwritableSession,
};
use crate::session::store::{SessionStore, WriteMode};
use crate::watcher::{self, Notice};
use crate::writeback::desk::Room;
use crate::writeback::worker as folder;
use crate::{dispatcher::worker as dispatch, watcher::worker as watch_worker};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};

/// The lock that keeps a second bridge off the folder.
pub const LOCK_FILE: &str = "bridge.lock";

/// How often a folder that does not exist yet is looked for.
const LOOK_FOR_FOLDER: Duration = Duration::from_millis(500);

/// Why a mission does not move that the registry had accepted and does not know any more.
const FORGOTTEN: &str =
    "the registry does not know it any more; if that lasts, abort it, and retry it if it is to run again";

/// Everything must have been quiet for this long before `--once` ends.
const QUIET: Duration = Duration::from_millis(600);

/// Journals of busy sessions that are kept open: an eighth of the open files that a shell commonly allows.
const JOURNALS_KEPT_OPEN: usize = 128;

/// Settings of the bridge.
#[derive(Debug, Clone)]
pub struct Config {
    /// What is watched, and how.
    pub watcher: watcher::Config,
    /// How missions are sent.
    pub dispatcher: dispatcher::Config,
    /// What is sent.
    pub payload: Payload,
    /// How the streams are followed.
    pub events: events::Config,
    /// Time-outs of the client.
    pub http: http::Config,
    /// The registry's operator token, when it asks for one.
    pub operator: Option<Token>,
    /// When files reach the disk.
    pub fsync: FsyncPolicy,
    /// How files are replaced; found out when none is given.
    pub write_mode: Option<WriteMode>,
    /// How drop folders are kept.
    pub intake: intake::Config,
    /// End when everything that was queued has been answered for.
    pub once: bool,
}

/// Why the bridge could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// Another bridge works on the folder, or the lock cannot be taken.
    #[error("lock the watched folder")]
    Lock(#[source] LockError),
    /// The folder cannot be used.
    #[error("use {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The HTTP client cannot be built.
    #[error("set up the HTTP client")]
    Http(#[source] reqwest::Error),
}

/// How the bridge ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// As asked.
    Orderly,
    /// `--once`: the registry could not be reached and missions still wait.
    Unreachable,
    /// A stage broke down; it was logged.
    Broken,
}

/// Runs the bridge until `shutdown`, or, with `once`, until nothing is left to do.
///
/// # Errors
/// [`BridgeError`] before anything was read or sent.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<Ending, BridgeError> {
    let directory = config.watcher.watch_dir.clone();
    if !wait_for_folder(&directory, &shutdown).await {
        return Ok(Ending::Orderly);
    }
    let lock = Arc::new(PathLock::try_acquire(directory.join(LOCK_FILE)).map_err(BridgeError::Lock)?);
    let http = Http::new(config.http).map_err(BridgeError::Http)?;
    let store = SessionStore::new(&directory, config.fsync);
    let store = match config.write_mode {
        Some(mode) => store.with_mode(mode),
        None => store,
    };
    let mode =
        store.write_mode().map_err(|source| BridgeError::Folder { path: directory.clone(), source })?;
    tracing::info!(
        file.path = %directory.display(), http.url = config.dispatcher.serve_url,
        write_mode = match mode { WriteMode::Exchange => "exchange", WriteMode::Plain => "rename" },
        "bridge started"
    );
    let wired = wire(&config, store, http, Arc::clone(&lock), &shutdown);
    let ending = wired.supervise(&config, &lock, &shutdown).await?;
    tracing::info!("bridge ended");
    Ok(ending)
}

/// Keeps other bridges off the folder, and lets whoever wants to drop a mission find where; also when it was made again.
fn keep(directory: &Path, lock: &PathLock) -> Result<(), LockError> {
    lock.renew()?;
    let inbox = directory.join("inbox");
    match std::fs::create_dir(&inbox) {
        Err(error) if !matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) => {
            tracing::debug!(file.path = %inbox.display(), error = %error, "the drop folder cannot be made");
        }
        Ok(()) | Err(_) => {}
    }
    Ok(())
}

async fn wait_for_folder(directory: &PathBuf, shutdown: &Shutdown) -> bool {
    let mut said = false;
    while !tokio::fs::metadata(directory).await.is_ok_and(|metadata| metadata.is_dir()) {
        if !said {
            said = true;
            tracing::info!(file.path = %directory.display(), "the folder does not exist yet; waiting for it");
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_FOR_FOLDER) => {}
            () = shutdown.started() => return false,
        }
    }
    true
}

struct Wired {
    tasks: Tasks,
    dispatch_report: watch::Receiver<dispatch::Report>,
    folder_report: watch::Receiver<folder::Report>,
    watch_mode: watch::Receiver<(bool, Option<String>)>,
}

fn wire(config: &Config, store: SessionStore, http: Http, lock: Arc<PathLock>, shutdown: &Shutdown) -> Wired {
    let tasks = Tasks::new(shutdown.clone());
    // Notices and news are small and few per session; the numbers only decide how much a burst may run ahead.
    let (notices, watched) = mpsc::channel::<Notice>(1024);
    let (looked, answers) = mpsc::channel(1024);
    let (folder_tasks, folder_inbox) = mpsc::channel(1024);
    let (happenings, happened) = mpsc::channel(1024);
    let (news, heard) = mpsc::channel::<Vec<News>>(1024);
    let (orders, order_inbox) = mpsc::channel(256);
    let (following, followed) = mpsc::channel(256);
    let (commands, commanded) = mpsc::channel(256);
    let (reports, reported) = mpsc::channel(1024);
    let (dispatch_reports, dispatch_report) = watch::channel(dispatch::Report::default());
    let (folder_reports, folder_report) = watch::channel(folder::Report::default());
    let (mode, watch_mode) = watch::channel((true, None));

    let (from_watcher, to_watcher) = mpsc::channel(1024);
    tasks.spawn("watcher", watch_worker::run(config.watcher.clone(), notices, to_watcher, shutdown.clone()));
    let (drops, dropped) = mpsc::channel(256);
    tasks.spawn("notices", carry_notices(watched, folder_tasks, drops, mode));
    tasks.spawn("answers", carry_answers(answers, from_watcher));

    let store = Arc::new(store);
    tasks.spawn("intake", intake::worker::run(config.intake, Arc::clone(&store), dropped, shutdown.clone()));
    let open_journals = Arc::new(Semaphore::new(JOURNALS_KEPT_OPEN));
    let to_dispatcher = news.clone();
    let room = Room { store, fsync: config.fsync, lock, open_journals, news };
    let channels = folder::Channels {
        tasks: folder_inbox,
        happenings: happened,
        orders: order_inbox,
        looked,
        following,
        report: folder_reports,
    };
    tasks.spawn("folder", folder::run(room, channels, shutdown.clone(), config.dispatcher.drain_timeout));

    let client = Client::new(http.clone(), config.dispatcher.serve_url.clone(), config.operator.clone());
    let channels = dispatch::Channels { news: heard, orders, report: dispatch_reports };
    let seed = u64::from(std::process::id());
    let running = dispatch::run(
        config.dispatcher.clone(),
        config.payload.clone(),
        client,
        channels,
        shutdown.clone(),
        seed,
    );
    tasks.spawn("dispatcher", running);

    tasks.spawn(
        "events",
        events::worker::run(config.events.clone(), http, commanded, reports, shutdown.clone()),
    );
    tasks.spawn("following", carry_following(followed, commands));
    tasks.spawn("happenings", carry_happenings(reported, happenings, to_dispatcher));
    Wired { tasks, dispatch_report, folder_report, watch_mode }
}

async fn carry_notices(
    mut notices: mpsc::Receiver<Notice>,
    tasks: mpsc::Sender<folder::Task>,
    drops: mpsc::Sender<intake::worker::Place>,
    mode: watch::Sender<(bool, Option<String>)>,
) {
    while let Some(notice) = notices.recv().await {
        let task = match notice {
            Notice::Changed { session, identity } => folder::Task::Look { session, identity },
            Notice::Swept { sessions } => folder::Task::Swept { sessions },
            Notice::Inbox { place } => {
                let place = match place {
                    watcher::InboxPlace::Root => None,
                    watcher::InboxPlace::Session(session) => Some(session),
                };
                if drops.send(place).await.is_err() {
                    return;
                }
                continue;
            }
            Notice::Mode { native, why } => {
                mode.send_replace((native, why));
                continue;
            }
        };
        if tasks.send(task).await.is_err() {
            return;
        }
    }
}

async fn carry_answers(mut answers: mpsc::Receiver<folder::Looked>, watcher: mpsc::Sender<watcher::Looked>) {
    while let Some(folder::Looked { session, unreadable }) = answers.recv().await {
        let unreadable = unreadable.and_then(|fault| {
            let (line, column) = fault.place.unwrap_or_default();
            Some(watcher::Unreadable { identity: fault.identity?, line, column, message: fault.message })
        });
        if watcher.send(watcher::Looked { session, unreadable }).await.is_err() {
            return;
        }
    }
}

async fn carry_following(
    mut following: mpsc::Receiver<Vec<folder::Following>>,
    commands: mpsc::Sender<following::Command>,
) {
    while let Some(all) = following.recv().await {
        for wanted in all {
            let command = match wanted {
                folder::Following::Follow(mission, executor) => {
                    following::Command::Follow { mission, executor }
                }
                folder::Following::Unfollow(mission) => following::Command::Unfollow { mission },
            };
            if commands.send(command).await.is_err() {
                return;
            }
        }
    }
}

async fn carry_happenings(
    mut reports: mpsc::Receiver<following::Report>,
    tasks: mpsc::Sender<folder::Task>,
    news: mpsc::Sender<Vec<News>>,
) {
    while let Some(report) = reports.recv().await {
        let task = match report {
            following::Report::Event { frame } => folder::Task::Event(Box::new(frame)),
            following::Report::Snapshot { mission, status } => folder::Task::Known { mission, status },
            following::Report::NotFound { mission } => folder::Task::Forgotten(mission),
            following::Report::Registry { unreachable } => {
                let told = unreachable.map_or(Ok(()), Err);
                if news.send(vec![News::Reachable(told)]).await.is_err() {
                    return;
                }
                continue;
            }
            following::Report::Executor { .. } => continue,
        };
        if tasks.send(task).await.is_err() {
            return;
        }
    }
}

impl Wired {
    /// Watches over the stages until they have ended.
    ///
    /// # Errors
    /// [`BridgeError::Lock`] when the folder was made again and another bridge was faster. A lock that cannot be looked at now is
    /// looked at again; nothing is claimed meanwhile.
    async fn supervise(
        mut self,
        config: &Config,
        lock: &Arc<PathLock>,
        shutdown: &Shutdown,
    ) -> Result<Ending, BridgeError> {
        let directory = config.watcher.watch_dir.clone();
        let started_at = clock::wall();
        let mut quiet_since: Option<tokio::time::Instant> = None;
        let mut ending = Ending::Orderly;
        let mut last: Option<BridgeStatus> = None;
        let mut displaced = None;
        let mut is_warned = false;
        while !shutdown.is_started() {
            let (held, folder) = (Arc::clone(lock), directory.clone());
            match tokio::task::spawn_blocking(move || keep(&folder, &held)).await {
                Ok(Err(error @ LockError::Held { .. })) => {
                    displaced = Some(error);
                    shutdown.start(Cause::Fatal("the lock of the folder"));
                    break;
                }
                Ok(Err(error @ LockError::Io { .. })) if !is_warned => {
                    let error = with_causes(&error);
                    tracing::warn!(error, "nothing is sent while the folder's lock cannot be looked at");
                    is_warned = true;
                }
                Ok(Ok(())) => is_warned = false,
                Ok(Err(LockError::Io { .. })) | Err(_) => {}
            }
            let status = self.status(config, started_at, false);
            write_status(&directory, &status, &mut last).await;
            if config.once {
                let (finished, unreachable) = self.is_finished();
                if !finished {
                    quiet_since = None;
                } else if quiet_since.get_or_insert_with(tokio::time::Instant::now).elapsed() >= QUIET {
                    if unreachable {
                        ending = Ending::Unreachable;
                    }
                    shutdown.start(Cause::Finished);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(if config.once { Duration::from_millis(100) } else { Duration::from_secs(1) }) => {}
                () = shutdown.started() => {}
            }
        }
        // Two drains in a row, the requests' and the files', and a second for the farewells.
        if !self.tasks.join(config.dispatcher.drain_timeout * 2 + Duration::from_secs(1)).await {
            tracing::warn!(count = self.tasks.len(), "not every task ended in time");
        }
        if let Some(error) = displaced {
            // The status file is the other one's.
            return Err(BridgeError::Lock(error));
        }
        let status = self.status(config, started_at, true);
        write_status(&directory, &status, &mut last).await;
        Ok(match shutdown.cause() {
            Some(Cause::Panic(_) | Cause::Fatal(_)) => Ending::Broken,
            Some(Cause::Signal | Cause::Finished) | None => ending,
        })
    }

    fn is_finished(&mut self) -> (bool, bool) {
        let folder = self.folder_report.borrow_and_update();
        let dispatch = self.dispatch_report.borrow_and_update();
        let settled = folder.first_sweep_done && folder.idle;
        let unreachable = dispatch.away.is_some() && dispatch.in_flight == 0;
        (settled && (dispatch.idle || unreachable), unreachable && !dispatch.idle)
    }

    fn status(&self, config: &Config, started_at: Timestamp, ended: bool) -> BridgeStatus {
        let folder = self.folder_report.borrow();
        let dispatch = self.dispatch_report.borrow();
        let (watch_native, watch_why) = self.watch_mode.borrow().clone();
        let (unreachable_since, unreachable_cause) = dispatch.away.clone().unzip();
        BridgeStatus {
            format: 1,
            pid: std::process::id(),
            started_at,
            updated_at: clock::wall(),
            ended,
            serve_url: config.dispatcher.serve_url.clone(),
            unreachable_since,
            unreachable_cause,
            watch_native,
            watch_why,
            sessions: folder.sessions,
            in_flight: dispatch.in_flight,
            queued: dispatch.queued,
            accepted: dispatch.accepted,
            written_bytes: folder.written_bytes,
            delayed: dispatch
                .delays
                .iter()
                .map(|delay| Delayed {
                    session: delay.key.session.to_string(),
                    mission: delay.key.mission.to_string(),
                    until: delay.until,
                    why: delay.why.clone(),
                    attempts: delay.attempts,
                })
                .chain(folder.forgotten.iter().map(|key| Delayed {
                    session: key.session.to_string(),
                    mission: key.mission.to_string(),
                    until: None,
                    why: FORGOTTEN.to_owned(),
                    attempts: 0,
                }))
                .collect(),
            unreadable: folder
                .unreadable
                .iter()
                .map(|(session, fault)| UnreadableSession {
                    session: session.to_string(),
                    line: fault.place.map(|(line, _)| line),
                    column: fault.place.map(|(_, column)| column),
                    message: fault.message.clone(),
                })
                .collect(),
            problems: folder
                .problems
                .iter()
                .map(|(session, index, field, message)| MissionProblem {
                    session: session.to_string(),
                    index: *index,
                    field: (*field).to_owned(),
                    message: message.clone(),
                })
                .collect(),
            unwritable: folder
                .unwritable
                .iter()
                .map(|(session, message)| UnwritableSession {
                    session: session.to_string(),
                    message: message.clone(),
                })
                .collect(),
        }
    }
}

/// Writes the status when it says something new, and as a heartbeat.
async fn write_status(directory: &Path, status: &BridgeStatus, last: &mut Option<BridgeStatus>) {
    let news = last.as_ref().is_none_or(|old| {
        let same_but_time = BridgeStatus { updated_at: old.updated_at, ..status.clone() } == *old;
        !same_but_time || status.updated_at.since(old.updated_at) >= HEARTBEAT
    });
    if !news {
        return;
    }
    let path = directory.join(FILE_NAME);
    let Ok(mut text) = serde_json::to_vec_pretty(status) else { return };
    text.push(b'\n');
    // It tells of the present: after a crash it is stale whatever the disk kept.
    let written = tokio::task::spawn_blocking(move || atomic::write(&path, &text, FsyncPolicy::Never)).await;
    match written {
        Ok(Ok(())) => *last = Some(status.clone()),
        Ok(Err(error)) => tracing::debug!(error = %error, "bridge-status.json cannot be written"),
        Err(error) => tracing::debug!(error = %error, "bridge-status.json was not written"),
    }
}
