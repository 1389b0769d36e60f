//! Edge: puts in order what a killed writer left beside a session.
//!
//! A writer that is killed leaves at most its temporary files. The name of each says what its exchange was to displace
//! and what it was to put there, so three cases can be told apart: the new version that never got into place, the old
//! version that was known, and the version of another program that turned up and was not built upon yet. Only the
//! last one may hold what is nowhere else.

use std::fs;
use std::path::{Path, PathBuf};

use super::document::Document;
use super::exchange::{self, Displaced};
use super::rebase;
use super::store::{self, ReadError, SESSION_FILE, SessionStore, UpdateError};
use crate::disk::atomic::{TEMPORARY_SUFFIX, UNFINISHED_SUFFIX};
use crate::domain::id::SessionId;

/// What was found and done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Leftovers that held something the session lacked, now in it.
    pub merged: usize,
    /// Leftovers removed, those included.
    pub removed: usize,
    /// Versions that never parsed, and where they are now.
    pub torn: Vec<PathBuf>,
}

/// A temporary file of a killed writer.
struct Leftover {
    path: PathBuf,
    stage: Stage,
}

/// How far its writer had come.
#[derive(Clone, Copy)]
enum Stage {
    /// The bytes may be incomplete; the name never took part in an exchange.
    Unfinished,
    /// The bytes are complete, exchanged or not: fingerprints of what is there in the one case and in the other.
    Complete { displaced: u64, ours: u64 },
}

impl SessionStore {
    /// Merges what a killed writer left beside a session, and removes it. Call it at start; without leftovers it costs
    /// one look into the directory.
    ///
    /// # Errors
    /// [`UpdateError`]; leftovers that were not merged are still there.
    pub fn recover(&self, session: &SessionId) -> Result<Recovered, UpdateError> {
        let path = self.locate(session)?;
        let mut recovered = Recovered::default();
        if leftovers(&path)?.is_empty() {
            return Ok(recovered);
        }
        let _lock = store::lock(&path)?;
        let failed = |source| UpdateError::Write { path: path.clone(), source };
        for leftover in leftovers(&path)? {
            if let Stage::Complete { displaced, ours } = leftover.stage {
                match exchange::settled(&leftover.path, &[]).map_err(UpdateError::from)?.0 {
                    Displaced::Foreign(found) => {
                        if self.merge(&path, &found, displaced, ours)? {
                            recovered.merged += 1;
                        }
                    }
                    Displaced::Expected | Displaced::Torn(_) => {
                        recovered.torn.push(exchange::put_aside(&path, &leftover.path).map_err(failed)?);
                        continue;
                    }
                }
            }
            fs::remove_file(&leftover.path).map_err(failed)?;
            recovered.removed += 1;
        }
        Ok(recovered)
    }

    fn merge(&self, path: &Path, found: &Document, displaced: u64, ours: u64) -> Result<bool, UpdateError> {
        let print = exchange::fingerprint(found.bytes());
        if print == displaced {
            return Ok(false);
        }
        let is_ours = print == ours;
        let updated = self.write_over(path, store::load_settled(path)?, &mut |now| {
            if is_ours {
                return now.apply(&rebase::missing_missions(found, now));
            }
            if exchange::fingerprint(now.bytes()) == ours {
                // Nobody wrote since the exchange: theirs is the newer version, and our update was never reported done.
                let kept = rebase::missing_missions(now, found);
                return Some(found.apply(&kept).unwrap_or_else(|| found.bytes().to_vec()));
            }
            now.apply(&rebase::union(found, now))
        })?;
        Ok(updated.wrote)
    }
}

impl Stage {
    /// Reads the name of a temporary file; nothing when it is not one of ours.
    fn of(name: &str) -> Option<Self> {
        let middle = name.strip_prefix('.')?.strip_prefix(SESSION_FILE)?.strip_prefix('.')?;
        if middle.ends_with(UNFINISHED_SUFFIX) {
            return Some(Self::Unfinished);
        }
        let mut parts = middle.strip_suffix(TEMPORARY_SUFFIX)?.split('-');
        let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
        let (displaced, ours, _unique) = (number()?, number()?, number()?);
        Some(Self::Complete { displaced, ours })
    }
}

fn leftovers(path: &Path) -> Result<Vec<Leftover>, UpdateError> {
    let directory = path.parent().unwrap_or(path);
    let failed = |error| ReadError::io(directory, error);
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Some(stage) = entry.file_name().to_str().and_then(Stage::of) {
            found.push(Leftover { path: entry.path(), stage });
        }
    }
    found.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(found)
}
