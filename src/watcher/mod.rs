//! Stage: the watcher says which sessions and inboxes may have changed, soon, and never misses one for good.
//!
//! ```text
//!  notify ──hints──▶ machine ──notices──▶ whoever reads the folder
//!  sweep ───────────────▲ ▲──────looked──────┘
//! ```
//!
//! A notice carries no data: whoever gets one reads the file. Events of the operating system make notices fast; sweeps,
//! which compare what `stat` says, make them certain.

use crate::domain::file::FileIdentity;
use crate::domain::id::SessionId;
use std::path::PathBuf;
use std::time::Duration;

pub mod found;
pub mod machine;
pub mod names;
pub mod source;
pub mod sweep;
pub mod worker;

/// What to watch, and how.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder that holds `sessions/` and `inbox/`. It need not exist yet.
    pub watch_dir: PathBuf,
    /// Native notifications, polling, or whatever works.
    pub mode: WatchMode,
    /// Time between two looks while polling. 1 s: what a person accepts as "at once".
    pub poll_interval: Duration,
    /// Time between two safety sweeps. 30 s: a sweep over 10,000 sessions costs 0.1 % of a core then.
    pub sweep_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            watch_dir: PathBuf::from(".aiwg/ralph-external/mc"),
            mode: WatchMode::Auto,
            poll_interval: Duration::from_secs(1),
            sweep_interval: Duration::from_secs(30),
        }
    }
}

/// How changes are noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WatchMode {
    /// Native where the file system tells about changes, else polling.
    #[default]
    Auto,
    /// Native, even on a file system that is known not to tell everything.
    Native,
    /// Polling.
    Poll,
}

/// One drop folder.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum InboxPlace {
    /// `inbox/` beside `sessions/`.
    Root,
    /// `sessions/<id>/inbox/`.
    Session(SessionId),
}

/// Something that can change and be looked at on its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// The `session.json` of this session.
    Session(SessionId),
    /// The files in this drop folder.
    Inbox(InboxPlace),
}

/// What the watcher tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Look at this session.
    Changed {
        /// Which one.
        session: SessionId,
        /// Its file as it lies there now. None: read it whatever you know (an earlier reading failed), or it is gone.
        identity: Option<FileIdentity>,
    },
    /// Every session that has a `session.json`, in no order. What is absent here is gone.
    Swept {
        /// Sessions and their files.
        sessions: Vec<(SessionId, FileIdentity)>,
    },
    /// Look into this drop folder.
    Inbox {
        /// Which one.
        place: InboxPlace,
    },
    /// How changes are noticed from now on. It has been logged already.
    Mode {
        /// Whether the operating system tells about every change.
        native: bool,
        /// Why not.
        why: Option<String>,
    },
}

/// What came of a look at a session: the reader's answer to a notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// Which session was read.
    pub session: SessionId,
    /// Set when its file could not be read as a session.
    pub unreadable: Option<Unreadable>,
}

/// A `session.json` that does not parse, usually because it is in the middle of being written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The file as it was read.
    pub identity: FileIdentity,
    /// Line of the first error, from 1; 0 when unknown.
    pub line: usize,
    /// Column of the first error, from 1; 0 when unknown.
    pub column: usize,
    /// What is wrong there.
    pub message: String,
}
