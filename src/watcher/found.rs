//! Domain: what a look at the folder saw, as values.

use crate::domain::file::FileIdentity;
use crate::domain::id::SessionId;
use std::path::PathBuf;

/// What one sweep saw.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Every directory under `sessions/` with a session's name.
    pub sessions: Vec<Entry>,
    /// The drop folder beside `sessions/`.
    pub inbox: Inbox,
    /// Paths that are left alone, each reported once.
    pub odd: Vec<Odd>,
}

/// One session directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub session: SessionId,
    /// Its `session.json`.
    pub file: FileLook,
    /// Its drop folder.
    pub inbox: Inbox,
}

/// What `stat` says about a `session.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileLook {
    /// It is there.
    Present(FileIdentity),
    /// It is not, or it is nothing that may be read.
    Absent,
    /// `stat` failed for another reason than absence: no judgement.
    Unknown,
}

/// What a drop folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Inbox {
    /// There is no such folder.
    #[default]
    Absent,
    /// Nothing to take in.
    Empty,
    /// At least one file to take in.
    Waiting,
}

/// A path that is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Odd {
    /// A directory whose name is no session id.
    Name(PathBuf),
    /// A symbolic link that leads out of the watch dir.
    Outside(PathBuf),
    /// A `session.json` that is no regular file.
    NotAFile(PathBuf),
    /// A `session.json` of which not even `stat` may tell anything.
    Closed(PathBuf),
}
