//! Edge: the lock files of port blocks.
//!
//! A block is taken by whoever makes its file; making it is exclusive and the file is whole from its first instant. A file
//! of another program has no owner that we could ask about, so it counts as alive for ever.

use crate::disk::atomic::{self, Staged};
use crate::disk::fsync::FsyncPolicy;
use crate::disk::lock::{FileLock, LockError};
use crate::domain::time::Timestamp;
use crate::executor::process_identity::ProcessIdentity;
use crate::executor::process_table;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long one process may wait for another that changes an existing lock file; each change takes microseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a lock file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortLock {
    /// Who has the block.
    pub session_id: String,
    /// Since when.
    pub allocated_at: Timestamp,
    /// First port.
    pub start_port: u16,
    /// Last port.
    pub end_port: u16,
    /// The block is free again when this process and all of `sharers` are gone.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<ProcessIdentity>,
    /// More owners.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sharers: Vec<ProcessIdentity>,
}

impl PortLock {
    /// Says whether everyone who could hold the block is known, and gone.
    pub fn is_dead(&self) -> bool {
        self.owner.as_ref().is_some_and(|owner| {
            !process_table::is_alive(owner) && !self.sharers.iter().any(process_table::is_alive)
        })
    }

    fn is_same_lease(&self, other: &Self) -> bool {
        self.session_id == other.session_id
            && self.allocated_at == other.allocated_at
            && self.start_port == other.start_port
            && self.end_port == other.end_port
    }

    fn line(&self) -> io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}

/// Lock files could not be used.
#[derive(Debug, thiserror::Error)]
pub enum PortLockError {
    /// A file or directory refused.
    #[error("use the lock file {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another process changes locks for too long.
    #[error("change port locks: {0}")]
    Busy(#[from] LockError),
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> PortLockError + use<'_> {
    move |source| PortLockError::Io { path: path.to_owned(), source }
}

/// Takes a block that has no file; says whether that worked.
///
/// # Errors
/// Anything but an existing file.
pub fn create(path: &Path, lock: &PortLock) -> Result<bool, PortLockError> {
    let created = atomic::random_tag().and_then(|tag| {
        Staged::beside(path, &tag, &lock.line()?, None, FsyncPolicy::Never)?.create(path, FsyncPolicy::Never)
    });
    match created {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(at(path)(error)),
    }
}

/// Reads a lock; `None` when there is none, or when it is not one of this form.
pub fn read(path: &Path) -> Option<PortLock> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Reads the lock of a lease; `None` when the block is not its any more, or its owners are gone.
pub fn held(path: &Path, lease: &PortLock) -> Option<PortLock> {
    read(path).filter(|lock| lock.is_same_lease(lease) && !lock.is_dead())
}

/// Takes over the block of a dead owner, in one step; says whether that worked.
///
/// # Errors
/// [`PortLockError`] when the files cannot be used.
pub fn reclaim(path: &Path, lock: &PortLock) -> Result<Option<PortLock>, PortLockError> {
    let _alone = alone(path)?;
    match read(path) {
        Some(dead) if dead.is_dead() => {
            let line = lock.line().map_err(at(path))?;
            atomic::write(path, &line, FsyncPolicy::Never).map_err(at(path))?;
            Ok(Some(dead))
        }
        Some(_) | None => Ok(None),
    }
}

/// Adds an owner to a lease that is still there.
///
/// # Errors
/// [`PortLockError`] when the files cannot be used.
pub fn share(path: &Path, lease: &PortLock, owner: &ProcessIdentity) -> Result<(), PortLockError> {
    let _alone = alone(path)?;
    if let Some(mut lock) = read(path).filter(|lock| lock.is_same_lease(lease)) {
        lock.sharers.retain(process_table::is_alive);
        lock.sharers.push(owner.clone());
        let line = lock.line().map_err(at(path))?;
        atomic::write(path, &line, FsyncPolicy::Never).map_err(at(path))?;
    }
    Ok(())
}

/// Frees a block, if it is still this lease's; says whether there was something to free.
///
/// # Errors
/// [`PortLockError`] when the files cannot be used.
pub fn remove(path: &Path, lease: &PortLock) -> Result<bool, PortLockError> {
    if !path.exists() {
        return Ok(false);
    }
    let _alone = alone(path)?;
    if read(path).is_some_and(|lock| lock.is_same_lease(lease)) {
        fs::remove_file(path).map_err(at(path))?;
        return Ok(true);
    }
    Ok(false)
}

/// Frees a block whose owners are gone; says whether it was such a one.
///
/// # Errors
/// [`PortLockError`] when the files cannot be used.
pub fn remove_dead(path: &Path) -> Result<bool, PortLockError> {
    let _alone = alone(path)?;
    if read(path).is_some_and(|lock| lock.is_dead()) {
        fs::remove_file(path).map_err(at(path))?;
        return Ok(true);
    }
    Ok(false)
}

fn alone(path: &Path) -> Result<FileLock, PortLockError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    Ok(FileLock::acquire(&directory.join(".change"), PATIENCE)?)
}

/// Returns the paths of all files in a lock directory that name a port range.
///
/// # Errors
/// The directory cannot be read; one that does not exist is empty.
pub fn list(directory: &Path) -> Result<Vec<(PathBuf, u16, u16)>, PortLockError> {
    let mut locks = Vec::new();
    each(directory, |name, start, end| locks.push((directory.join(name), start, end)))?;
    locks.sort();
    Ok(locks)
}

/// Returns the port ranges that have a file in a lock directory, in no order.
///
/// # Errors
/// The directory cannot be read; one that does not exist is empty.
pub fn ranges(directory: &Path) -> Result<Vec<(u16, u16)>, PortLockError> {
    let mut ranges = Vec::new();
    each(directory, |_name, start, end| ranges.push((start, end)))?;
    Ok(ranges)
}

fn each(directory: &Path, mut take: impl FnMut(&str, u16, u16)) -> Result<(), PortLockError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(at(directory)(error)),
    };
    for entry in entries {
        let name = entry.map_err(at(directory))?.file_name();
        if let Some(name) = name.to_str()
            && let Some((start, end)) = super::port_block::ports_of_lock_name(name)
        {
            take(name, start, end);
        }
    }
    Ok(())
}

/// Makes a directory that git does not see.
///
/// # Errors
/// What the file system says.
pub fn make_quiet_directory(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let ignore = directory.join(".gitignore");
    match fs::OpenOptions::new().write(true).create_new(true).open(ignore) {
        Ok(mut file) => io::Write::write_all(&mut file, b"*\n"),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(owner: Option<ProcessIdentity>) -> PortLock {
        PortLock {
            session_id: "s".into(),
            allocated_at: Timestamp::EPOCH,
            start_port: 1,
            end_port: 2,
            owner,
            sharers: Vec::new(),
        }
    }

    fn gone() -> ProcessIdentity {
        ProcessIdentity { pid: 1, boot_id: "before".into(), process_start_time: 1 }
    }

    #[test]
    fn only_a_lock_whose_owners_are_known_and_gone_is_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("1-2.lock");
        let ours = lock(Some(process_table::own()));
        assert!(create(&path, &lock(None)).unwrap());
        assert!(!create(&path, &ours).unwrap());
        assert!(reclaim(&path, &ours).unwrap().is_none(), "no owner is no proof");
        fs::write(&path, "{\"sessionId\":\"s\"").unwrap();
        assert!(reclaim(&path, &ours).unwrap().is_none(), "a torn file is no proof");
        fs::remove_file(&path).unwrap();
        let mut shared = lock(Some(gone()));
        shared.sharers.push(process_table::own());
        assert!(create(&path, &shared).unwrap());
        assert!(reclaim(&path, &ours).unwrap().is_none(), "a sharer lives");
        fs::remove_file(&path).unwrap();
        assert!(create(&path, &lock(Some(gone()))).unwrap());
        assert!(reclaim(&path, &ours).unwrap().is_some());
        assert_eq!(read(&path), Some(ours.clone()));
        assert!(!remove_dead(&path).unwrap());
        assert!(remove(&path, &ours).unwrap());
        assert!(!remove(&path, &ours).unwrap());
    }

    #[test]
    fn the_file_is_one_line_with_the_fields_of_the_contract() {
        let line = String::from_utf8(lock(Some(gone())).line().unwrap()).unwrap();
        assert_eq!(
            line,
            "{\"sessionId\":\"s\",\"allocatedAt\":\"1970-01-01T00:00:00.000Z\",\"startPort\":1,\"endPort\":2,\
             \"pid\":1,\"bootId\":\"before\",\"processStartTime\":1}\n"
        );
        assert_eq!(serde_json::from_str::<PortLock>(&line).unwrap(), lock(Some(gone())));
        let foreign = "{\"sessionId\":\"s\",\"allocatedAt\":\"2026-01-01T00:00:00.000Z\",\"startPort\":1,\"endPort\":2}";
        assert_eq!(serde_json::from_str::<PortLock>(foreign).unwrap().owner, None);
    }
}
