//! Service: named tasks that are joined, and whose panic is never silent.
//!
//! A detached task that panics takes its queue with it and nobody hears. Here a panic is logged with the task's name and
//! starts the shutdown: a half-dead daemon is worse than one that ends in order and is started again. Only the
//! conversation with a single peer ends alone, see [`contained`].

use crate::runtime::shutdown::Shutdown;
use futures_util::FutureExt as _;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio_util::task::TaskTracker;

/// Works for one peer, whose conversation ends when the work panics: one peer's words must not end the others'
/// conversations. Nobody else may hold what the work changes.
pub async fn contained(name: &'static str, work: impl Future<Output = ()>) {
    if AssertUnwindSafe(work).catch_unwind().await.is_err() {
        tracing::error!(
            task = name,
            "panicked over what a peer said; its connection is closed, please report this"
        );
    }
}

/// The tasks of one service. Clones share one set.
#[derive(Debug, Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    shutdown: Shutdown,
}

impl Tasks {
    /// Makes an empty set whose panics start `shutdown`.
    pub fn new(shutdown: Shutdown) -> Self {
        Self { tracker: TaskTracker::new(), shutdown }
    }

    /// Runs `work` under `name` until it ends.
    pub fn spawn<F>(&self, name: &'static str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let shutdown = self.shutdown.clone();
        self.tracker.spawn(async move {
            // Whatever the work held is gone with it, so nobody can see it half changed.
            if AssertUnwindSafe(work).catch_unwind().await.is_err() {
                tracing::error!(task = name, "task panicked; shutting down");
                shutdown.start(crate::runtime::shutdown::Cause::Panic(name));
            }
        });
    }

    /// Returns how many tasks have not ended.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Says whether every task has ended.
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Waits until every task has ended, at most `limit`; says whether they all did.
    ///
    /// # Cancel safety
    /// Safe: nothing is consumed.
    pub async fn join(&self, limit: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::shutdown::Cause;

    #[tokio::test]
    async fn a_panicking_task_starts_the_shutdown() {
        let shutdown = Shutdown::new();
        let tasks = Tasks::new(shutdown.clone());
        tasks.spawn("doomed", async { panic!("on purpose") });
        shutdown.started().await;
        assert_eq!(shutdown.cause(), Some(Cause::Panic("doomed")));
        assert!(tasks.join(Duration::from_secs(5)).await);
    }
}
