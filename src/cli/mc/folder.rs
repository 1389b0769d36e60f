//! Command: the watched folder as the verbs see it: where it lies, what is in it by name, and how it is changed.

use crate::cli::exit::{Code, Ended};
use crate::cli::project::{self, DEFAULT_WATCH_DIR};
use crate::disk::fsync::FsyncPolicy;
use crate::disk::wait;
use crate::domain::file::FileIdentity;
use crate::domain::id::SessionId;
use crate::domain::nearest::nearest;
use crate::domain::time::Timestamp;
use crate::session::document::Document;
use crate::session::edits::Edits;
use crate::session::json::quoted;
use crate::session::store::{ReadError, Reading, SessionStore, UpdateError, Updated};
use anyhow::Context as _;
use clap::Args;
use clap::builder::{FalseyValueParser, PathBufValueParser, TypedValueParser as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a verb waits for a torn file: several times what writing one takes.
const SETTLED_AFTER: Duration = Duration::from_millis(250);

/// How often an update is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long an update of a small file is kept an eye on: many times what a program takes that reads the file, changes
/// it and writes it back.
const LINGER: Duration = Duration::from_millis(40);

/// The same where the file changed within the last [`RECENT`]: somebody is at work on it.
const LINGER_AMONG_OTHERS: Duration = Duration::from_millis(200);

/// What counts as just now.
const RECENT: Duration = Duration::from_secs(1);

/// How much of a file a slow program reads, parses, prints and writes in a millisecond.
const BYTES_REWRITTEN_PER_MS: u64 = 20_000;

/// An update that is overwritten more often than this is left to the one who overwrites it.
const MOST_REPEATS: usize = 50;

/// Which folder, and how the answer looks.
#[derive(Debug, Clone, Args)]
pub struct Folder {
    /// The watched folder, in which sessions/ lies
    ///
    /// The default one is looked for from here up to the top of the repository.
    #[arg(
        long,
        visible_alias = "watch",
        env = "AIWG_RS_WATCH_DIR",
        default_value = DEFAULT_WATCH_DIR,
        value_parser = PathBufValueParser::new().map(project::watch_dir),
        value_name = "DIR"
    )]
    pub watch_dir: PathBuf,
    /// Answer with JSON, one object a line
    #[arg(long, env = "AIWG_RS_JSON", value_parser = FalseyValueParser::new())]
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
    /// A program that had read the file before we wrote may write its old copy back right after us, and nobody else
    /// would ever put our change into it again. So the file is kept an eye on for a moment. Where somebody wrote to it,
    /// it is looked at once more under the lock, when no other process of ours is half-way through an update, and
    /// where `is_lost` says that the change is not in it, it is made again.
    ///
    /// # Errors
    /// The refusal, or [`Code::State`] when the file cannot be written.
    pub fn update<T>(
        &self,
        store: &SessionStore,
        session: &SessionId,
        at: Timestamp,
        mut decide: impl FnMut(&Document) -> Result<(Edits, T), Ended>,
        is_lost: impl Fn(&Document) -> bool,
    ) -> anyhow::Result<T> {
        let before = store.identity(session).map_err(refused_read)?;
        let is_among_others =
            before.is_some_and(|file| at.since(modified(&file)) < RECENT || modified(&file) > at);
        let mut verdict = None;
        for repeat in 0..=MOST_REPEATS {
            let updated = store.update(session, &mut |document| {
                if repeat > 0 && matches!(verdict, Some(Ok(_))) && !is_lost(document) {
                    return None;
                }
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
            if !updated.wrote || matches!(verdict, Some(Err(_))) {
                break;
            }
            let is_busy = is_among_others || updated.foreign_bases > 0 || repeat > 0;
            let linger = if is_busy { LINGER_AMONG_OTHERS } else { LINGER };
            if !is_touched(store, session, &updated, linger, &is_lost) {
                break;
            }
        }
        match verdict {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(refusal)) => Err(refusal.into()),
            None => Err(anyhow::anyhow!("session {session} was not looked at")),
        }
    }
}

fn modified(file: &FileIdentity) -> Timestamp {
    Timestamp::from_millis(i64::try_from(file.modified_ns / 1_000_000).unwrap_or(0))
}

/// Lingers after an update and says whether anybody wrote meanwhile; at once when the update is lost.
fn is_touched(
    store: &SessionStore,
    session: &SessionId,
    updated: &Updated,
    linger: Duration,
    is_lost: &impl Fn(&Document) -> bool,
) -> bool {
    let size_bytes = u64::try_from(updated.document.bytes().len()).unwrap_or(u64::MAX);
    let linger = linger + Duration::from_millis(size_bytes / BYTES_REWRITTEN_PER_MS);
    let mut seen = updated.identity;
    let lost = wait::until(LOOK_AGAIN, LOOK_AGAIN, linger, || match store.identity(session) {
        Ok(Some(identity)) if identity == seen => None,
        Ok(Some(identity)) => {
            seen = identity;
            // What does not parse is being written; it is looked at under the lock, later.
            let reading = store.read(session).ok()?;
            is_lost(&reading.document).then_some(())
        }
        Ok(None) | Err(_) => None,
    });
    lost.is_some() || seen != updated.identity
}

/// Reads a session. While the file is torn it is read again, for a quarter of a second.
///
/// # Errors
/// As [`SessionStore::read`].
pub fn read_settled(store: &SessionStore, session: &SessionId) -> Result<Reading, ReadError> {
    store.read_settled(session, Instant::now() + SETTLED_AFTER)
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
