//! Edge: who has which worktree, written down before it is made.
//!
//! One file per worktree in `.leases` beside them. It is there before `git worktree add` and goes after the removal, so a
//! process killed anywhere in between leaves a lease with a dead owner, never a worktree that nobody answers for.

use crate::disk::atomic;
use crate::disk::fsync::FsyncPolicy;
use crate::domain::time::Timestamp;
use crate::executor::process_identity::ProcessIdentity;
use crate::executor::process_table;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The directory of leases in a worktree root.
pub const DIRECTORY: &str = ".leases";

/// One worktree and its owners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorktreeLease {
    /// Who has it.
    pub session_id: String,
    /// Since when.
    pub allocated_at: Timestamp,
    /// The repository's working tree.
    pub repo_root: PathBuf,
    /// What it was made from.
    pub base_ref: String,
    /// The lease is dead when this process and all sharers are gone.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<ProcessIdentity>,
    /// More owners.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sharers: Vec<ProcessIdentity>,
    /// Given back, but the worktree stays; why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// Files of our own in it, relative to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own_files: Vec<PathBuf>,
}

/// A lease file could not be used.
#[derive(Debug, thiserror::Error)]
#[error("use the worktree lease {}: {source}", path.display())]
pub struct LeaseFileError {
    /// Which.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> LeaseFileError + use<'_> {
    move |source| LeaseFileError { path: path.to_owned(), source }
}

impl WorktreeLease {
    /// Says whether everyone who could work in it is known, and gone.
    pub fn is_dead(&self) -> bool {
        self.owner.as_ref().is_some_and(|owner| {
            !process_table::is_alive(owner) && !self.sharers.iter().any(process_table::is_alive)
        })
    }

    /// Writes it down for the worktree `name` below `root`.
    ///
    /// # Errors
    /// [`LeaseFileError`].
    pub fn write(&self, root: &Path, name: &str) -> Result<(), LeaseFileError> {
        let path = file_of(root, name);
        let directory = root.join(DIRECTORY);
        fs::create_dir_all(&directory).map_err(at(&directory))?;
        let mut bytes = serde_json::to_vec(self).map_err(|e| at(&path)(e.into()))?;
        bytes.push(b'\n');
        atomic::write(&path, &bytes, FsyncPolicy::Never).map_err(at(&path))
    }
}

/// Returns where the lease of a worktree lies.
pub fn file_of(root: &Path, name: &str) -> PathBuf {
    root.join(DIRECTORY).join(format!("{name}.json"))
}

/// Reads a lease; `None` when there is none.
///
/// # Errors
/// [`LeaseFileError`] also for a file that is no lease: it is left alone.
pub fn read(root: &Path, name: &str) -> Result<Option<WorktreeLease>, LeaseFileError> {
    let path = file_of(root, name);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| at(&path)(e.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(&path)(error)),
    }
}

/// Forgets a lease; one that is not there is fine.
///
/// # Errors
/// [`LeaseFileError`].
pub fn remove(root: &Path, name: &str) -> Result<(), LeaseFileError> {
    let path = file_of(root, name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Returns the names of all leases below `root`.
///
/// # Errors
/// The directory cannot be read; one that does not exist is empty.
pub fn names(root: &Path) -> Result<Vec<String>, LeaseFileError> {
    let directory = root.join(DIRECTORY);
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(at(&directory)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(at(&directory))?.file_name();
        let name = name.to_string_lossy();
        if let Some(name) = name.strip_suffix(".json").filter(|name| !name.starts_with('.')) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}
