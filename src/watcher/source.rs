//! Edge: hints from the operating system.
//!
//! `notify` loses files when it is asked to watch a tree: a directory's first file is often there before its watch is. So
//! every directory is watched on its own, by us, before anyone looks into it. What matters is picked out inside the
//! callback: appending to a log costs no allocation of ours and wakes nobody.
//!
//! Hints may be dropped. When the queue is full, when the kernel's queue was, or when an error comes, the source says
//! *lost* once, and a sweep makes up for it.

use crate::domain::id::SessionId;
use crate::watcher::names::{self, Place};
use crate::watcher::{InboxPlace, Subject};
use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, mpsc};

/// How many hints may wait. The kernel's own queue holds 16,384 events of which a third matter.
pub const QUEUE: usize = 4096;

/// Where something may have happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// The watch dir, `sessions/` or the root `inbox/` came or went.
    Root,
    /// A session's directory came, went or was replaced: watch it before looking into it.
    Directory(SessionId),
    /// A session's file was written, replaced or removed.
    Session(SessionId),
    /// A drop folder came, went or was replaced: watch it before looking into it.
    InboxDirectory(InboxPlace),
    /// A file was put into a drop folder.
    Inbox(InboxPlace),
}

/// What came out of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Hints were appended.
    Hints,
    /// Hints were lost: look at everything.
    Lost,
    /// Nothing will come any more.
    Ended,
}

/// A directory cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It is not there (any more).
    #[error("{} is gone", path.display())]
    Gone {
        /// The directory.
        path: PathBuf,
    },
    /// The user's limit of watches is reached.
    #[error("no more directories can be watched; raise it with: sysctl fs.inotify.max_user_watches=524288")]
    Watches,
    /// The limit of notification queues or of open files is reached.
    #[error(
        "no more notification queues can be opened; raise it with: sysctl fs.inotify.max_user_instances=512, \
         or raise the limit of open files (ulimit -n)"
    )]
    Instances,
    /// Anything else.
    #[error("{} cannot be watched", path.display())]
    Other {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: notify::Error,
    },
}

/// Watches directories, one by one, and streams hints.
#[derive(Debug)]
pub struct Source {
    root: PathBuf,
    watches: Watches,
    hints: mpsc::Receiver<Hint>,
    lost: Arc<Notify>,
}

/// Adds watches; clones share the set, so that a long list can be added from another thread.
#[derive(Debug, Clone)]
pub struct Watches {
    root: PathBuf,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    watcher: RecommendedWatcher,
    watched: HashSet<Subject>,
}

impl Source {
    /// Opens a notification queue for `root` that holds `queue` hints; nothing is watched yet.
    ///
    /// # Errors
    /// [`Refusal::Instances`] at the system's limit.
    pub fn open(root: &Path, queue: usize) -> Result<Self, Refusal> {
        let (sender, hints) = mpsc::channel(queue.max(1));
        let lost = Arc::new(Notify::new());
        let filter = Filter { root: root.to_owned(), hints: sender, lost: Arc::clone(&lost) };
        let watcher = RecommendedWatcher::new(filter, notify::Config::default())
            .map_err(|source| refusal(root, source))?;
        let inner = Arc::new(Mutex::new(Inner { watcher, watched: HashSet::new() }));
        let root = root.to_owned();
        Ok(Self { watches: Watches { root: root.clone(), inner }, root, hints, lost })
    }

    /// Watches the watch dir, `sessions/` and the root inbox, and says for each whether it was there to be watched.
    ///
    /// # Errors
    /// [`Refusal`] when one that exists cannot be watched.
    pub fn watch_roots(&self) -> Result<[bool; 3], Refusal> {
        let mut watched = [false; 3];
        let paths = [self.root.clone(), self.root.join(names::SESSIONS), self.root.join(names::INBOX)];
        for (path, watched) in paths.iter().zip(&mut watched) {
            match self.watches.lock().watcher.watch(path, RecursiveMode::NonRecursive) {
                Ok(()) => *watched = true,
                Err(source) => match refusal(path, source) {
                    Refusal::Gone { .. } => {}
                    refused @ (Refusal::Watches | Refusal::Instances | Refusal::Other { .. }) => {
                        return Err(refused);
                    }
                },
            }
        }
        Ok(watched)
    }

    /// Returns the handle that adds watches.
    pub fn watches(&self) -> &Watches {
        &self.watches
    }

    /// Waits for hints and appends at most `limit` of them to `into`.
    ///
    /// # Cancel safety
    /// Safe: a hint is either appended or still queued.
    pub async fn next(&mut self, into: &mut Vec<Hint>, limit: usize) -> Signal {
        tokio::select! {
            count = self.hints.recv_many(into, limit) => if count == 0 { Signal::Ended } else { Signal::Hints },
            () = self.lost.notified() => Signal::Lost,
        }
    }
}

impl Watches {
    /// Watches the directory of `subject`, again if it is watched already: it may be another directory by now.
    ///
    /// # Errors
    /// [`Refusal`] when it cannot be watched.
    pub fn add(&self, subject: &Subject) -> Result<(), Refusal> {
        let path = directory_of(&self.root, subject);
        let mut inner = self.lock();
        match inner.watcher.watch(&path, RecursiveMode::NonRecursive) {
            Ok(()) => {
                if !inner.watched.contains(subject) {
                    inner.watched.insert(subject.clone());
                }
                Ok(())
            }
            Err(source) => {
                inner.watched.remove(subject);
                Err(refusal(&path, source))
            }
        }
    }

    /// Says whether the directory of `subject` is watched, as far as is known.
    pub fn contains(&self, subject: &Subject) -> bool {
        self.lock().watched.contains(subject)
    }

    /// Forgets what is watched, so that everything is watched again.
    pub fn forget(&self) {
        self.lock().watched.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the directory whose watch tells about `subject`.
pub fn directory_of(root: &Path, subject: &Subject) -> PathBuf {
    match subject {
        Subject::Session(session) => root.join(names::SESSIONS).join(session.as_str()),
        Subject::Inbox(InboxPlace::Root) => root.join(names::INBOX),
        Subject::Inbox(InboxPlace::Session(session)) => {
            root.join(names::SESSIONS).join(session.as_str()).join(names::INBOX)
        }
    }
}

fn refusal(path: &Path, source: notify::Error) -> Refusal {
    let gone = || Refusal::Gone { path: path.to_owned() };
    match &source.kind {
        notify::ErrorKind::MaxFilesWatch => Refusal::Watches,
        notify::ErrorKind::PathNotFound => gone(),
        notify::ErrorKind::Io(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => gone(),
            Some(libc::ENOSPC) => Refusal::Watches,
            Some(libc::EMFILE | libc::ENFILE) => Refusal::Instances,
            _ => Refusal::Other { path: path.to_owned(), source },
        },
        notify::ErrorKind::Generic(_)
        | notify::ErrorKind::WatchNotFound
        | notify::ErrorKind::InvalidConfig(_) => Refusal::Other { path: path.to_owned(), source },
    }
}

#[derive(Debug)]
struct Filter {
    root: PathBuf,
    hints: mpsc::Sender<Hint>,
    lost: Arc<Notify>,
}

impl notify::EventHandler for Filter {
    fn handle_event(&mut self, event: notify::Result<notify::Event>) {
        let Ok(event) = event else {
            self.lost.notify_one();
            return;
        };
        if event.need_rescan() {
            self.lost.notify_one();
            return;
        }
        let kind = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Create(_)
            | EventKind::Any
            | EventKind::Other => Kind::Written,
            EventKind::Access(_) | EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => return,
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) | EventKind::Remove(_) => Kind::Removed,
            EventKind::Modify(ModifyKind::Metadata(_)) => Kind::Touched,
            EventKind::Modify(_) => Kind::Written,
        };
        for path in &event.paths {
            let Some(hint) = hint(names::classify(&self.root, path), kind) else { continue };
            match self.hints.try_send(hint) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => self.lost.notify_one(),
                Err(mpsc::error::TrySendError::Closed(_)) => return,
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Written,
    Removed,
    Touched,
}

fn hint(place: Place<'_>, kind: Kind) -> Option<Hint> {
    let inbox = |session: Option<&str>| match session {
        None => Some(InboxPlace::Root),
        Some(session) => SessionId::new(session).ok().map(InboxPlace::Session),
    };
    match place {
        Place::Root | Place::InboxDirectory(None) => (kind != Kind::Touched).then_some(Hint::Root),
        Place::SessionDirectory(name) => SessionId::new(name).ok().map(Hint::Directory),
        Place::SessionFile(name) => SessionId::new(name).ok().map(Hint::Session),
        Place::InboxDirectory(session) => inbox(session).map(Hint::InboxDirectory),
        Place::InboxFile(_) if kind == Kind::Removed => None,
        Place::InboxFile(session) => inbox(session).map(Hint::Inbox),
        Place::Irrelevant => None,
    }
}
