//! Edge: environments as they are written down, one file per session below the workspace root.
//!
//! A file tells of one environment. Nobody writes over one that another put there meanwhile, and nobody removes one that
//! is not theirs: without it, its leases could not be found again.

use crate::disk::atomic;
use crate::disk::fsync::FsyncPolicy;
use crate::disk::lock::FileLock;
use crate::executor::provision::path_rules::scoped_name;
use crate::executor::provision::port_lock::make_quiet_directory;
use crate::executor::provision::provider::Lease;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where environments are written down, below the workspace root.
pub const DIRECTORY: &str = ".ai_ops/environments";

/// How long one process may wait for another that changes a record; each change takes microseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Leases that belong together, as they are written down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Names the environment.
    pub session_id: String,
    /// The directory that the work is about.
    pub workspace_root: PathBuf,
    /// In the order in which they were made.
    pub leases: Vec<Lease>,
    /// Files of our own, relative to the working directory.
    pub own_files: Vec<PathBuf>,
}

impl Record {
    /// Returns where it is written down.
    pub fn path(&self) -> PathBuf {
        path_of(&self.workspace_root, &self.session_id)
    }

    /// Writes it down, if what is there still is `before`; says whether it was.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, before: Option<&Self>) -> io::Result<bool> {
        let path = self.path();
        path.parent().map_or(Ok(()), make_quiet_directory)?;
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        let _alone = alone(&path)?;
        if readable(&path).as_ref() != before {
            return Ok(false);
        }
        atomic::write(&path, &text, FsyncPolicy::Never)?;
        Ok(true)
    }
}

/// Forgets a record that lies at `path`; another one in its place stays.
///
/// # Errors
/// What the file system says.
pub fn remove(path: &Path, record: &Record) -> io::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let _alone = alone(path)?;
    if readable(path).as_ref() == Some(record) { fs::remove_file(path) } else { Ok(()) }
}

fn path_of(workspace_root: &Path, session_id: &str) -> PathBuf {
    workspace_root.join(DIRECTORY).join(format!("{}.json", scoped_name(session_id)))
}

/// Reads the record of a session; `None` when there is none.
///
/// # Errors
/// It cannot be read, or is none.
pub fn read(workspace_root: &Path, session_id: &str) -> io::Result<Option<Record>> {
    match fs::read(path_of(workspace_root, session_id)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads a record. One that a power cut has torn tells of nothing, and may be written over.
pub fn readable(path: &Path) -> Option<Record> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn alone(path: &Path) -> io::Result<FileLock> {
    let directory = path.parent().unwrap_or(Path::new("."));
    FileLock::acquire(&directory.join(".change"), PATIENCE).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(root: &Path, file: &str) -> Record {
        Record {
            session_id: "s".into(),
            workspace_root: root.to_owned(),
            leases: Vec::new(),
            own_files: vec![file.into()],
        }
    }

    #[test]
    fn a_record_is_neither_written_over_nor_removed_by_those_who_did_not_know_it() {
        let root = tempfile::tempdir().unwrap();
        let (first, second) = (record(root.path(), "first"), record(root.path(), "second"));
        remove(&first.path(), &first).unwrap();
        assert!(first.write(None).unwrap());
        assert!(!second.write(None).unwrap());
        remove(&second.path(), &second).unwrap();
        assert_eq!(read(root.path(), "s").unwrap(), Some(first.clone()));
        assert!(second.write(Some(&first)).unwrap());
        remove(&first.path(), &first).unwrap();
        assert_eq!(read(root.path(), "s").unwrap(), Some(second.clone()));
        remove(&second.path(), &second).unwrap();
        assert_eq!(read(root.path(), "s").unwrap(), None);
    }

    #[test]
    fn a_torn_record_is_an_error_to_whoever_needs_it_and_no_obstacle_to_a_new_one() {
        let root = tempfile::tempdir().unwrap();
        let new = record(root.path(), "new");
        assert!(new.write(None).unwrap());
        fs::write(new.path(), "{").unwrap();
        assert!(read(root.path(), "s").is_err());
        assert!(new.write(None).unwrap());
        assert_eq!(read(root.path(), "s").unwrap(), Some(new));
    }
}
