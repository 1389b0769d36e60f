//! Service: the executor as a whole: takes up what was left, serves, reports, and ends in order.

use crate::disk::atomic;
use crate::disk::fsync::FsyncPolicy;
use crate::disk::lock::{FileLock, LockError};
use crate::domain::id::ExecutorId;
use crate::executor::client::Client;
use crate::executor::config::{Config, OnShutdown};
use crate::executor::line::Lines;
use crate::executor::provision::inventory::{self, Scope};
use crate::executor::provision::orchestrator::Orchestrator;
use crate::executor::reporter::Reporter;
use crate::executor::roster::Roster;
use crate::executor::runner_pool::RunnerPool;
use crate::executor::server::{self, Surface};
use crate::executor::store::{Store, StoreError};
use crate::executor::worker::Shared;
use crate::net::descriptors;
use crate::net::http::Http;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::tasks::Tasks;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// How long missions may take to be frozen, and last events to go out.
const END_WITHIN: Duration = Duration::from_secs(30);

/// How often abandoned resources are looked for.
const CLEAN_EVERY: Duration = Duration::from_secs(600);

/// The executor cannot work.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Another one uses the same state.
    #[error("use the state directory: {0}")]
    Locked(#[from] LockError),
    /// The state cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file of our id cannot be used.
    #[error("use {}: {source}", path.display())]
    Identity {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The network cannot be used.
    #[error("serve: {0}")]
    Serve(#[source] io::Error),
    /// The HTTP client cannot be made.
    #[error("make the HTTP client: {0}")]
    Http(#[from] reqwest::Error),
}

/// Returns the executor's id, made at the first start and kept in its state directory.
///
/// # Errors
/// The file cannot be read or written, or holds something else.
pub fn identity(state_directory: &Path, wanted: Option<ExecutorId>) -> Result<ExecutorId, DaemonError> {
    let path = state_directory.join("executor-id");
    let failed = |source| DaemonError::Identity { path: path.clone(), source };
    if let Some(wanted) = wanted {
        return Ok(wanted);
    }
    match std::fs::read_to_string(&path) {
        Ok(text) => ExecutorId::new(text.trim()).map_err(|error| failed(io::Error::other(error))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = uuid::Uuid::new_v4().to_string();
            std::fs::create_dir_all(state_directory).map_err(failed)?;
            atomic::write(&path, format!("{id}\n").as_bytes(), FsyncPolicy::Batch).map_err(failed)?;
            ExecutorId::new(id).map_err(|error| failed(io::Error::other(error)))
        }
        Err(error) => Err(failed(error)),
    }
}

/// Runs an executor on a bound listener until the shutdown.
///
/// # Errors
/// [`DaemonError`] when it cannot begin.
pub async fn run(
    listener: TcpListener,
    config: Config,
    executor: ExecutorId,
    shutdown: Shutdown,
) -> Result<(), DaemonError> {
    // Every mission takes a few.
    let _files = descriptors::raise_limit();
    let store = Store::open(&config.state_directory)?;
    let _only_one = FileLock::try_acquire(&config.state_directory.join("executor.lock"))?;
    let address = listener.local_addr().map_err(DaemonError::Serve)?;
    let own_url = config.advertise.clone().unwrap_or_else(|| format!("http://{address}"));
    let tasks = Tasks::new(shutdown.clone());
    let (serve_url, on_shutdown) = (config.serve_url.clone(), config.on_shutdown);
    let (found, has_default) = config.offer.found();
    if !has_default {
        tracing::warn!(
            runtime = config.offer.default_runtime,
            found,
            "missions that name no runtime are refused, for this one is not installed; --runtime names another"
        );
    }
    let roster = Roster::new(Shared {
        orchestrator: Orchestrator::with_built_in().keep_everything(config.keep_everything),
        slots: Arc::new(Semaphore::new(config.max_concurrency)),
        reporter: Reporter::default(),
        runners: RunnerPool::new(&config, store.claims(), tasks.clone()),
        tasks: tasks.clone(),
        store,
        executor,
        config,
    });
    let (token, known_token) = watch::channel(None);
    let lines = Lines::default();
    roster.recover().await?;
    let surface = Surface {
        roster: roster.clone(),
        token: known_token,
        lines: lines.clone(),
        shutdown: shutdown.clone(),
        address,
    };
    let background = Tasks::new(shutdown.clone());
    let served = CancellationToken::new();
    let until_end = served.clone();
    let (serving, broken) = (surface.clone(), shutdown.clone());
    background.spawn("executor server", async move {
        if let Err(error) = server::run(listener, serving, until_end.cancelled_owned()).await {
            tracing::error!(%error, "the executor's server broke");
            broken.start(crate::runtime::shutdown::Cause::Fatal("executor server"));
        }
    });
    let client = match serve_url {
        Some(serve_url) => {
            let http = Http::new(crate::net::http::Config::default())?;
            let client = Client { serve_url, own_url: own_url.clone(), http, token, lines };
            let (talking, missions, end) = (client.clone(), roster.clone(), shutdown.clone());
            background.spawn("executor client", talking.run(missions, end));
            Some(client)
        }
        None => None,
    };
    let (cleaning, end) = (roster.clone(), shutdown.clone());
    background.spawn("executor clean-up", async move { clean(&cleaning, &end).await });
    tracing::info!(http.url = own_url, executor.id = %roster.shared.executor, "the executor is ready");
    shutdown.started().await;
    roster.close();
    roster.shared.runners.close();
    let settled = match on_shutdown {
        OnShutdown::Suspend => {
            roster.leave(false).await;
            roster.wait_until_empty(END_WITHIN).await
        }
        OnShutdown::Drain => roster.wait_until_empty(Duration::from_secs(24 * 60 * 60)).await,
        OnShutdown::Abort => {
            roster.leave(true).await;
            roster.wait_until_empty(END_WITHIN + roster.shared.config.grace).await
        }
    };
    if !settled {
        tracing::warn!(count = roster.live().len(), "missions are left behind; the next start takes them up");
    }
    if let (Some(client), OnShutdown::Drain | OnShutdown::Abort) = (&client, on_shutdown)
        && settled
    {
        // The line flushes first: it ends itself once no mission is left.
        client.lines.none_open().await;
        client.deregister(&roster).await;
    }
    served.cancel();
    background.join(END_WITHIN).await;
    tasks.join(END_WITHIN).await;
    Ok(())
}

/// Removes what executors that are gone left behind, now and every ten minutes.
async fn clean(roster: &Roster, shutdown: &Shutdown) {
    let config = &roster.shared.config;
    let scope = Scope::of(&config.workspace);
    loop {
        match inventory::clean(&scope, config.keep_everything, false).await {
            Ok(cleaned) if cleaned.worktrees.is_empty() && cleaned.ports.is_empty() => {}
            Ok(cleaned) => {
                let count = cleaned.worktrees.len() + cleaned.ports.len();
                tracing::info!(count, "removed abandoned resources");
            }
            Err(error) => tracing::warn!(%error, "failed to look for abandoned resources"),
        }
        let roster = roster.clone();
        match tokio::task::spawn_blocking(move || roster.forget_old()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "failed to forget old missions"),
            Err(error) => tracing::warn!(%error, "failed to forget old missions"),
        }
        tokio::select! {
            () = tokio::time::sleep(CLEAN_EVERY) => {}
            () = shutdown.started() => return,
        }
    }
}
