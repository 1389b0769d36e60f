//! Command: the watched folder as the verbs see it: where it lies, what is in it by name, and how it is changed.

use crate::cli::exit::{Code, Ended};
use crate::cli::nearest::nearest;
use crate::disk::fsync::FsyncPolicy;
use crate::domain::id::SessionId;
use crate::session::document::{Document, Edits};
use crate::session::json::quoted;
use crate::session::store::{ReadError, Reading, SessionStore, UpdateError, Updated};
use anyhow::Context as _;
use clap::Args;
use std::path::PathBuf;

/// Where Mission Control keeps its files inside a project.
pub const DEFAULT_WATCH_DIR: &str = ".aiwg/ralph-external/mc";

/// Which folder, and how the answer looks.
#[derive(Debug, Clone, Args)]
pub struct Folder {
    /// The watched folder, in which sessions/ lies
    #[arg(
        long,
        visible_alias = "watch",
        env = "AIWG_RS_WATCH_DIR",
        default_value = DEFAULT_WATCH_DIR,
        value_name = "DIR"
    )]
    pub watch_dir: PathBuf,
    /// Answer with JSON, one object a line
    #[arg(long)]
    pub json: bool,
}

/// Runs a verb that waits for the disk.
///
/// # Errors
/// Those of the verb.
pub async fn blocking<T: Send + 'static>(
    verb: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(verb).await.context("finish what was begun")?
}

impl Folder {
    /// Opens the folder. Nothing is touched: it may come later.
    pub fn store(&self) -> SessionStore {
        SessionStore::new(&self.watch_dir, FsyncPolicy::Batch)
    }

    /// Returns the part of a command line that names this folder, for hints that can be pasted.
    pub fn option(&self) -> String {
        if self.watch_dir == std::path::Path::new(DEFAULT_WATCH_DIR) {
            return String::new();
        }
        format!(" --watch-dir {}", shell(&self.watch_dir.display().to_string()))
    }

    /// Returns the ids of all sessions, in order.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn sessions(&self, store: &SessionStore) -> anyhow::Result<Vec<SessionId>> {
        let listing = store.list().map_err(refused_read)?;
        let mut sessions: Vec<SessionId> = listing.sessions.into_iter().map(|(session, _)| session).collect();
        sessions.sort_unstable();
        Ok(sessions)
    }

    /// Finds a session by its id.
    ///
    /// # Errors
    /// [`Code::Usage`] when there is none, with the name that was probably meant.
    pub fn session(&self, store: &SessionStore, name: &str) -> anyhow::Result<SessionId> {
        let id = SessionId::new(name)
            .map_err(|error| Ended::new(Code::Usage, format!("no session {name:?}")).because(error))?;
        if store.identity(&id).map_err(refused_read)?.is_some() {
            return Ok(id);
        }
        let sessions = self.sessions(store)?;
        Err(self.unknown("session", name, sessions.iter().map(SessionId::as_str)).into())
    }

    /// Says that there is no such name, and which one was probably meant.
    pub fn unknown<'a>(&self, kind: &str, name: &str, names: impl IntoIterator<Item = &'a str>) -> Ended {
        let ended = Ended::new(Code::Usage, format!("no {kind} {name:?} in {}", self.watch_dir.display()));
        match nearest(name, names) {
            Some(meant) => ended.hint(format!("did you mean {meant}?")),
            None if !self.watch_dir.is_dir() => {
                ended.hint("the folder does not exist; name it with --watch-dir or AIWG_RS_WATCH_DIR")
            }
            None => ended.hint(format!("aiwg-rs mc list{} shows what there is", self.option())),
        }
    }

    /// Reads a session; a file in the middle of being written is read again.
    ///
    /// # Errors
    /// [`Code::State`] with the reason.
    pub fn read(&self, store: &SessionStore, session: &SessionId) -> anyhow::Result<Reading> {
        read_settled(store, session).map_err(|error| refused_read(error).into())
    }

    /// Changes a session, stamped `at`. `decide` sees what is in the file and answers with edits and what to report,
    /// or with a refusal; it is asked again about every version that another program puts there meanwhile, and its
    /// last word counts.
    ///
    /// # Errors
    /// The refusal, or [`Code::State`] when the file cannot be written.
    pub fn update<T>(
        &self,
        store: &SessionStore,
        session: &SessionId,
        at: crate::domain::time::Timestamp,
        mut decide: impl FnMut(&Document) -> Result<(Edits, T), Ended>,
    ) -> anyhow::Result<(T, Updated)> {
        let mut verdict = None;
        let updated = store.update(session, &mut |document| {
            let (bytes, answer) = match decide(document) {
                Ok((mut edits, answer)) => {
                    edits.stamp_session("updatedAt", quoted(&at.to_string()));
                    (document.apply(&edits), Ok(answer))
                }
                Err(refusal) => (None, Err(refusal)),
            };
            verdict = Some(answer);
            bytes
        });
        let updated = updated.map_err(|error| refused_update(session, error))?;
        match verdict {
            Some(Ok(answer)) => Ok((answer, updated)),
            Some(Err(refusal)) => Err(refusal.into()),
            None => Err(anyhow::anyhow!("session {session} was not looked at")),
        }
    }
}

/// Reads a session. While the file is torn it is read again, for a quarter of a second.
///
/// # Errors
/// As [`SessionStore::read`].
pub fn read_settled(store: &SessionStore, session: &SessionId) -> Result<Reading, ReadError> {
    const REREADS: u32 = 5;
    let mut left = REREADS;
    loop {
        match store.read(session) {
            Err(ReadError::Torn { .. }) if left > 0 => {
                crate::disk::wait::rest(std::time::Duration::from_millis(50));
                left -= 1;
            }
            other => return other,
        }
    }
}

/// An error of reading, with its exit code.
pub fn refused_read(error: ReadError) -> Ended {
    let hint = match &error {
        ReadError::Torn { .. } => Some("correct the file by hand; nothing was changed"),
        ReadError::Missing { .. } => Some("it was removed a moment ago; aiwg-rs mc list shows what there is"),
        ReadError::TooLarge { .. } => Some("move ended missions to another session"),
        ReadError::Refused { .. } | ReadError::Io { .. } => None,
    };
    let ended = Ended::new(Code::State, "failed to read the folder").because(error);
    match hint {
        Some(hint) => ended.hint(hint),
        None => ended,
    }
}

fn refused_update(session: &SessionId, error: UpdateError) -> Ended {
    let hint = error.hint();
    let ended = Ended::new(Code::State, format!("failed to change session {session}")).because(error);
    match hint {
        Some(hint) => ended.hint(hint),
        None => ended,
    }
}

/// Spells one word of a command line that can be pasted into a shell.
pub fn shell(word: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+:@".contains(&b);
    if !word.is_empty() && word.bytes().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}
