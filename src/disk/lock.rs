//! Edge: advisory locks between cooperating processes.
//!
//! The kernel drops a lock when its holder ends, however it ends, so a lock can never be stale and its file is never
//! deleted: deleting it would let two processes lock two different files of one name. The file says who holds it, for
//! the message that the other one prints.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{identity, wait};

/// Longest time between two looks at a held lock.
const LONGEST_PAUSE: Duration = Duration::from_millis(25);

/// Who holds a lock, as it wrote down itself.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Holder {
    /// Its process number, on its host.
    pub pid: u32,
    /// Its host.
    pub host: String,
    /// What it runs.
    pub command: String,
    /// The PID namespace in which the number is its own.
    #[serde(default)]
    pub namespace: Option<String>,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} on {} ({})", self.pid, self.host, self.command)
    }
}

impl Holder {
    /// Says whether it ended without a word: it ran on this host, where numbers mean what they mean to us, and no process has its
    /// number now. A number that another process was given since looks alive.
    pub fn is_gone(&self) -> bool {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw) else {
            return false;
        };
        let is_from_here = self.host == host() && self.namespace.is_some() && self.namespace == namespace();
        is_from_here && rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH)
    }
}

/// Returns who signed a lock file last, whether the lock is held or not; nothing when the file says nothing.
pub fn last_holder(path: &Path) -> Option<Holder> {
    signature(&mut File::open(path).ok()?)
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("{} is locked by {}", path.display(), name(holder.as_deref()))]
    Held {
        /// The lock file.
        path: PathBuf,
        /// Who holds it, if the file says so.
        holder: Option<Box<Holder>>,
    },
    /// The lock file cannot be used.
    #[error("use the lock file {}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

fn name(holder: Option<&Holder>) -> String {
    holder.map_or_else(|| "another process".to_owned(), Holder::to_string)
}

/// A lock that is held until this value is dropped.
#[derive(Debug)]
#[must_use = "the lock is given back at once when this value is dropped"]
pub struct FileLock {
    file: File,
}

impl FileLock {
    /// Takes the lock, or says at once who has it.
    ///
    /// # Errors
    /// [`LockError::Held`] when another one has it.
    pub fn try_acquire(path: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Io { path: path.to_owned(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {
                sign(&mut file).map_err(failed)?;
                Ok(Self { file })
            }
            Err(TryLockError::WouldBlock) => {
                // Whoever locks without a word leaves the name of the holder before: it may be ours.
                let holder = signature(&mut file).filter(|holder| holder.pid != std::process::id());
                Err(LockError::Held { path: path.to_owned(), holder: holder.map(Box::new) })
            }
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// Locks a directory, or says at once that somebody has it. No file is made for that, but on file systems that lock
    /// files only, as some in a network do.
    ///
    /// # Errors
    /// [`LockError::Held`] when another one has it.
    pub fn try_acquire_directory(directory: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Io { path: directory.to_owned(), source };
        let file = File::open(directory).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { file }),
            Err(TryLockError::WouldBlock) => {
                Err(LockError::Held { path: directory.to_owned(), holder: None })
            }
            Err(TryLockError::Error(_unsupported)) => Self::try_acquire(&directory.join(".lock")),
        }
    }

    /// Takes the lock, waiting for its holder at most so long. Blocks the thread.
    ///
    /// # Errors
    /// [`LockError::Held`] when the time is over.
    pub fn acquire(path: &Path, patience: Duration) -> Result<Self, LockError> {
        let mut held = None;
        let taken =
            wait::until(Duration::from_millis(1), LONGEST_PAUSE, patience, || {
                match Self::try_acquire(path) {
                    Err(error @ LockError::Held { .. }) => {
                        held = Some(error);
                        None
                    }
                    other => Some(other),
                }
            });
        match (taken, held) {
            (Some(result), _) => result,
            (None, Some(error)) => Err(error),
            (None, None) => Err(LockError::Held { path: path.to_owned(), holder: None }),
        }
    }
}

/// A lock on whatever file has a path. A directory may be removed and made again, and then the lock on the old file keeps nobody
/// off the new one.
#[derive(Debug)]
pub struct PathLock {
    path: PathBuf,
    held: Mutex<FileLock>,
}

impl PathLock {
    /// Takes the lock, or says at once who has it.
    ///
    /// # Errors
    /// [`LockError::Held`] when another one has it.
    pub fn try_acquire(path: impl Into<PathBuf>) -> Result<Self, LockError> {
        let path = path.into();
        let held = Mutex::new(FileLock::try_acquire(&path)?);
        Ok(Self { path, held })
    }

    /// Makes sure that the lock is on the file that has the path now, and takes it anew where it is not. A directory that is
    /// gone needs no lock.
    ///
    /// # Errors
    /// [`LockError::Held`] when another one was faster, [`LockError::Io`] when nobody can say.
    pub fn renew(&self) -> Result<(), LockError> {
        let failed = |source| LockError::Io { path: self.path.clone(), source };
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = identity::of_file(&held.file).map_err(failed)?;
        let there = identity::of_path(&self.path).map_err(failed)?;
        if there.is_some_and(|there| (there.device, there.inode) == (ours.device, ours.inode)) {
            return Ok(());
        }
        match FileLock::try_acquire(&self.path) {
            Ok(anew) => *held = anew,
            Err(LockError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Writes down who holds the lock, unless that stands there: a lock that is taken often is not written often.
fn sign(file: &mut File) -> io::Result<()> {
    let own = Holder { pid: std::process::id(), host: host(), command: command(), namespace: namespace() };
    if signature(file).as_ref() == Some(&own) {
        return Ok(());
    }
    let mut line = serde_json::to_vec(&own)?;
    line.push(b'\n');
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(&line)
}

fn signature(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(4096).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn namespace() -> Option<String> {
    Some(std::fs::read_link("/proc/self/ns/pid").ok()?.to_string_lossy().into_owned())
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Returns the program's name and its first argument: further ones may hold what is nobody's business.
fn command() -> String {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    let program = Path::new(&program).file_name().unwrap_or_default().to_string_lossy().into_owned();
    match arguments.next() {
        Some(first) if !first.to_string_lossy().starts_with('-') => {
            format!("{program} {}", first.to_string_lossy())
        }
        Some(_) | None => program,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_held_lock_names_its_holder_and_is_free_after_a_drop() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("l");
        let lock = FileLock::try_acquire(&path).unwrap();
        let error = FileLock::acquire(&path, Duration::from_millis(5)).unwrap_err();
        assert!(
            error.to_string().ends_with("is locked by another process"),
            "nobody is told to end itself: {error}"
        );
        std::fs::write(&path, r#"{"pid":1,"host":"h","command":"c"}"#).unwrap();
        let error = FileLock::acquire(&path, Duration::from_millis(5)).unwrap_err();
        assert!(error.to_string().ends_with("is locked by process 1 on h (c)"), "{error}");
        drop(lock);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        drop(FileLock::acquire(&path, Duration::ZERO).unwrap());
    }

    #[test]
    fn a_path_that_was_made_again_is_locked_again_unless_somebody_was_faster() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("f");
        let path = folder.join("l");
        let make_again = || {
            std::fs::remove_dir_all(&folder).unwrap();
            std::fs::create_dir(&folder).unwrap();
        };
        std::fs::create_dir(&folder).unwrap();
        let lock = PathLock::try_acquire(&path).unwrap();
        lock.renew().unwrap();
        make_again();
        lock.renew().unwrap();
        assert!(PathLock::try_acquire(&path).is_err(), "it holds the new one");
        std::fs::remove_dir_all(&folder).unwrap();
        lock.renew().unwrap();
        std::fs::create_dir(&folder).unwrap();
        let other = PathLock::try_acquire(&path).unwrap();
        assert!(matches!(lock.renew(), Err(LockError::Held { .. })));
        drop(other);
        lock.renew().unwrap();
    }

    #[test]
    fn a_directory_is_locked_without_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let lock = FileLock::try_acquire_directory(directory.path()).unwrap();
        let error = FileLock::try_acquire_directory(directory.path()).unwrap_err();
        assert!(matches!(error, LockError::Held { .. }), "{error}");
        drop(lock);
        drop(FileLock::try_acquire_directory(directory.path()).unwrap());
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_lock_file_with_rubbish_in_it_still_locks() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("l");
        std::fs::write(&path, "rubbish").unwrap();
        drop(FileLock::try_acquire(&path).unwrap());
        std::os::unix::fs::symlink(&path, directory.path().join("link")).unwrap();
        assert!(matches!(FileLock::try_acquire(&directory.path().join("link")), Err(LockError::Io { .. })));
    }
}
