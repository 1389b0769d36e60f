//! Service: runners between two runs.
//!
//! To start a runner costs more than all it does for a short mission: a process, its libraries, its runtime. One whose run
//! has ended without leaving anything behind takes the next one; what waits too long for one ends.

use crate::executor::config::Config;
use crate::executor::runner_link::RunnerLink;
use crate::executor::runner_protocol::ToRunner;
use crate::runtime::tasks::Tasks;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a runner waits for its next run: a pause between two missions, not a night.
const IDLE_FOR: Duration = Duration::from_secs(10);

/// Complaints of runners that are kept from one start of the executor to the next, in bytes.
const OLD_COMPLAINTS: u64 = 1024 * 1024;

/// Runners that wait for work. Clones share them.
#[derive(Debug, Clone)]
pub struct RunnerPool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    program: PathBuf,
    claims: PathBuf,
    complaints: PathBuf,
    most: usize,
    tasks: Tasks,
    closed: CancellationToken,
    idle: Mutex<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    /// The one that came last is at the end, and is the next to go.
    links: Vec<(Instant, RunnerLink)>,
    /// A task looks for those that wait too long.
    is_watched: bool,
}

impl RunnerPool {
    /// Makes an empty one, for as many runners as missions may run at once, that say in `claims` what they have begun.
    pub fn new(config: &Config, claims: &Path, tasks: Tasks) -> Self {
        let complaints = config.state_directory.join("runner.err");
        if fs::metadata(&complaints).is_ok_and(|file| file.len() > OLD_COMPLAINTS) {
            drop(fs::remove_file(&complaints));
        }
        let shared = Shared {
            program: config.runner_program.clone(),
            claims: claims.to_owned(),
            complaints,
            most: config.max_concurrency,
            tasks,
            closed: CancellationToken::new(),
            idle: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Idle> {
        self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a runner: one that waits, or a new one.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn take(&self) -> io::Result<RunnerLink> {
        let waiting = self.idle().links.pop();
        match waiting {
            Some((_, link)) => Ok(link),
            None => self.start(),
        }
    }

    /// Starts a runner.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self) -> io::Result<RunnerLink> {
        RunnerLink::start(&self.shared.program, &self.shared.claims, &self.shared.complaints)
    }

    /// Tells a runner that the end of its run is written down, and keeps it for the next one.
    pub async fn give_back(&self, mut link: RunnerLink) {
        if link.send(&ToRunner::Noted).await.is_err() || self.shared.closed.is_cancelled() {
            return;
        }
        let mut idle = self.idle();
        if idle.links.len() >= self.shared.most {
            return;
        }
        idle.links.push((Instant::now(), link));
        if !std::mem::replace(&mut idle.is_watched, true) {
            let pool = self.clone();
            self.shared.tasks.spawn("idle runners", async move { pool.watch().await });
        }
    }

    /// Lets those go that wait too long, until none waits.
    async fn watch(&self) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(IDLE_FOR) => {}
                () = self.shared.closed.cancelled() => {}
            }
            let mut idle = self.idle();
            let is_closed = self.shared.closed.is_cancelled();
            idle.links.retain(|(since, _)| !is_closed && since.elapsed() < IDLE_FOR);
            if idle.links.is_empty() {
                idle.is_watched = false;
                return;
            }
        }
    }

    /// Lets all go that wait, now and from now on.
    pub fn close(&self) {
        self.shared.closed.cancel();
        self.idle().links.clear();
    }
}
