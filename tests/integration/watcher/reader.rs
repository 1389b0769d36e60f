//! A reader: it looks where notices send it, and nowhere else.

use crate::support::DEADLINE;
use aiwg_rs::domain::file::FileIdentity;
use aiwg_rs::domain::id::SessionId;
use aiwg_rs::runtime::shutdown::{Cause, Shutdown};
use aiwg_rs::runtime::tasks::Tasks;
use aiwg_rs::watcher::{Config, InboxPlace, Looked, Notice, Unreadable, WatchMode, worker};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::mpsc;

/// Long enough never to help within a test.
const NEVER: Duration = Duration::from_secs(3600);

pub(crate) struct Reader {
    pub(crate) folder: TempDir,
    pub(crate) root: PathBuf,
    notices: mpsc::Receiver<Notice>,
    looked: mpsc::Sender<Looked>,
    shutdown: Shutdown,
    tasks: Tasks,
    /// What the reader believes each session's file says.
    pub(crate) sessions: BTreeMap<String, String>,
    /// Drop folders that notices named since this was last emptied.
    pub(crate) inboxes: BTreeSet<InboxPlace>,
    /// How many notices of changes and of sweeps came.
    pub(crate) changes: usize,
    pub(crate) sweeps: usize,
    pub(crate) native: Option<bool>,
}

impl Reader {
    /// Starts a watcher on `mc/` in a fresh folder, after `prepare` has filled it.
    pub(crate) fn start(mode: WatchMode, prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("mc");
        prepare(&root);
        let config = Config {
            watch_dir: root.clone(),
            mode,
            poll_interval: Duration::from_millis(20),
            sweep_interval: NEVER,
        };
        let (notice_sender, notices) = mpsc::channel(4);
        let (looked, looked_receiver) = mpsc::channel(4);
        let shutdown = Shutdown::new();
        let tasks = Tasks::new(shutdown.clone());
        tasks.spawn("watcher", worker::run(config, notice_sender, looked_receiver, shutdown.clone()));
        Self {
            folder,
            root,
            notices,
            looked,
            shutdown,
            tasks,
            sessions: BTreeMap::new(),
            inboxes: BTreeSet::new(),
            changes: 0,
            sweeps: 0,
            native: None,
        }
    }

    pub(crate) fn session(&self, name: &str) -> PathBuf {
        self.root.join("sessions").join(name)
    }

    /// Follows notices until `fact` holds.
    pub(crate) async fn until(&mut self, what: &str, mut fact: impl FnMut(&Self) -> bool) {
        let following = async {
            while !fact(self) {
                self.step().await;
            }
        };
        assert!(
            tokio::time::timeout(DEADLINE, following).await.is_ok(),
            "never: {what}; believed: {:.500?}",
            self.sessions
        );
    }

    /// Follows notices until the reader believes that exactly these sessions say these things.
    pub(crate) async fn until_believed(&mut self, expected: &BTreeMap<String, String>) {
        let missing = |reader: &Self| {
            expected.iter().filter(|(name, text)| reader.sessions.get(*name) != Some(text)).count()
                + reader.sessions.keys().filter(|name| !expected.contains_key(*name)).count()
        };
        let following = async {
            while missing(self) > 0 {
                self.step().await;
            }
        };
        let in_time = tokio::time::timeout(DEADLINE, following).await.is_ok();
        assert!(
            in_time,
            "{} of {} sessions are believed wrongly after {} sweeps and {} changes; native: {:?}; believed: {:.300?}",
            missing(self),
            expected.len(),
            self.sweeps,
            self.changes,
            self.native,
            self.sessions
        );
    }

    /// Follows one notice.
    pub(crate) async fn step(&mut self) {
        match self.notices.recv().await.unwrap() {
            Notice::Changed { session, .. } => {
                self.changes += 1;
                self.look(&session).await;
            }
            Notice::Swept { sessions } => {
                self.sweeps += 1;
                let present: BTreeSet<_> =
                    sessions.iter().map(|(session, _)| session.as_str().to_owned()).collect();
                self.sessions.retain(|name, _| present.contains(name));
                for (session, _) in sessions {
                    self.look(&session).await;
                }
            }
            Notice::Inbox { place } => drop(self.inboxes.insert(place)),
            Notice::Mode { native, .. } => self.native = Some(native),
        }
    }

    async fn look(&mut self, session: &SessionId) {
        let path = self.session(session.as_str()).join("session.json");
        let unreadable = match std::fs::read_to_string(&path) {
            Ok(text) if text.starts_with('{') && text.ends_with('}') => {
                self.sessions.insert(session.as_str().to_owned(), text);
                None
            }
            Ok(_torn) => {
                Some(Unreadable { identity: identity(&path), line: 1, column: 1, message: "torn".into() })
            }
            Err(_gone) => {
                self.sessions.remove(session.as_str());
                None
            }
        };
        self.looked.send(Looked { session: session.clone(), unreadable }).await.unwrap();
    }

    /// Ends the watcher and waits for it.
    pub(crate) async fn end(mut self) {
        self.shutdown.start(Cause::Finished);
        self.notices.close();
        assert!(self.tasks.join(DEADLINE).await);
        assert_eq!(self.shutdown.cause(), Some(Cause::Finished));
    }
}

/// Puts a session in place the careful way: written beside it, then renamed.
pub(crate) fn put(directory: &Path, text: &str) {
    std::fs::create_dir_all(directory).unwrap();
    let beside = directory.join(".session.json.test.tmp");
    std::fs::write(&beside, text).unwrap();
    rustix::fs::rename(&beside, directory.join("session.json")).unwrap();
}

pub(crate) fn believed<N: Into<String>, T: Into<String>>(
    all: impl IntoIterator<Item = (N, T)>,
) -> BTreeMap<String, String> {
    all.into_iter().map(|(name, text)| (name.into(), text.into())).collect()
}

fn identity(path: &Path) -> FileIdentity {
    let zero = FileIdentity { device: 0, inode: 0, size_bytes: 0, modified_ns: 0, changed_ns: 0 };
    std::fs::metadata(path).map_or(zero, |meta| FileIdentity {
        device: meta.dev(),
        inode: meta.ino(),
        size_bytes: meta.len(),
        modified_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
        changed_ns: i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec()),
    })
}
