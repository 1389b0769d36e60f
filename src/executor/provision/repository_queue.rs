//! Service: changes to one repository's worktrees go one after another, and a lock of somebody else's git is waited for.
//!
//! `git worktree add`, `remove` and `prune` read and write the same directory without a lock of their own: two at once
//! can prune what the other is just making. Inside this process a fair queue orders them; between processes a lock file in
//! the repository's common directory does.

use crate::disk::lock::{FileLock, LockError};
use crate::executor::provision::git::GitError;
use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;

/// How long a change may wait for its turn: 50 executors that each check out a large tree.
const PATIENCE: Duration = Duration::from_secs(900);

/// Delays between tries when another git holds a lock: 0.05 s doubling, 3.15 s in all.
const TRIES: [Duration; 6] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1600),
];

/// The turn did not come.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Another process holds the queue.
    #[error("wait for other changes of the worktrees: {0}")]
    Lock(#[from] LockError),
    /// This process has too many changes before this one.
    #[error("wait for other changes of the worktrees of {}: {} s were not enough", repository.display(), PATIENCE.as_secs())]
    TooLong {
        /// The common directory.
        repository: PathBuf,
    },
    /// The waiting thread died.
    #[error("wait for other changes of the worktrees: {0}")]
    Broken(#[from] tokio::task::JoinError),
}

/// The right to change a repository's worktrees, until dropped.
#[derive(Debug)]
#[must_use = "the turn is over when this value is dropped"]
pub struct Turn {
    // The file lock goes first: the next of this process must find it free.
    _between_processes: FileLock,
    _in_process: OwnedMutexGuard<()>,
}

type Queues = HashMap<PathBuf, Weak<tokio::sync::Mutex<()>>>;
static QUEUES: Mutex<Option<Queues>> = Mutex::new(None);

fn queue_of(common_directory: &Path) -> Arc<tokio::sync::Mutex<()>> {
    let mut queues = QUEUES.lock().unwrap_or_else(PoisonError::into_inner);
    let queues = queues.get_or_insert_default();
    if let Some(queue) = queues.get(common_directory).and_then(Weak::upgrade) {
        return queue;
    }
    queues.retain(|_, queue| queue.strong_count() > 0);
    let queue = Arc::new(tokio::sync::Mutex::new(()));
    queues.insert(common_directory.to_owned(), Arc::downgrade(&queue));
    queue
}

/// Waits for the turn.
///
/// # Errors
/// [`QueueError`] when it does not come within fifteen minutes.
///
/// # Cancel safety
/// Safe: the turn is given back.
pub async fn turn(common_directory: &Path) -> Result<Turn, QueueError> {
    let queue = queue_of(common_directory);
    let in_process = tokio::time::timeout(PATIENCE, queue.lock_owned())
        .await
        .map_err(|_elapsed| QueueError::TooLong { repository: common_directory.to_owned() })?;
    let path = common_directory.join("aiwg-worktrees.lock");
    let between_processes = match FileLock::try_acquire(&path) {
        Err(LockError::Held { .. }) => {
            tokio::task::spawn_blocking(move || FileLock::acquire(&path, PATIENCE)).await??
        }
        other => other?,
    };
    Ok(Turn { _between_processes: between_processes, _in_process: in_process })
}

/// Runs a git command again, a few times, while another git holds a lock that it needs.
///
/// # Errors
/// The last failure.
pub async fn patiently<T, F>(mut attempt: impl FnMut() -> F) -> Result<T, GitError>
where
    F: Future<Output = Result<T, GitError>>,
{
    for delay in TRIES {
        match attempt().await {
            Err(error) if error.is_lock_conflict() => {
                tracing::debug!(%error, "another git holds a lock; trying again");
                tokio::time::sleep(delay).await;
            }
            other => return other,
        }
    }
    attempt().await
}
