//! Command: registry and bridge as parts of one process, for those who start them beside an executor.

use crate::bridge::{self, Ending};
use crate::cli::mc;
use crate::cli::serve;
use crate::disk::fsync::FsyncPolicy;
use crate::dispatcher;
use crate::dispatcher::payload::Payload;
use crate::events;
use crate::intake;
use crate::net::http;
use crate::registry;
use crate::runtime::shutdown::{Cause, Shutdown};
use crate::runtime::tasks::Tasks;
use crate::watcher;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;

/// What parts belong to: it ends when one of them breaks down, and says which did first.
#[derive(Debug, Clone, Default)]
pub struct Whole {
    /// The switch that ends it.
    pub end: Shutdown,
    broken: Arc<Mutex<Option<anyhow::Error>>>,
}

impl Whole {
    /// Ends with `end`.
    pub fn new(end: Shutdown) -> Self {
        Self { end, broken: Arc::default() }
    }

    /// Notes that a part is over, and why if it was not asked to; everything ends then.
    pub fn over(&self, part: &'static str, outcome: anyhow::Result<()>) {
        if let Err(error) = outcome {
            tracing::error!(error = format!("{error:#}"), "the {part} ended, and everything with it");
            self.broken.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
        self.end.start(Cause::Fatal(part));
    }

    /// Returns what broke down first; once.
    pub fn broken(&self) -> Option<anyhow::Error> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Starts a registry that ends with `end`; should it end before, the whole ends too. Returns its address.
///
/// # Errors
/// The listener has no address.
pub fn start_registry(
    listener: TcpListener,
    config: registry::Config,
    tasks: &Tasks,
    end: &Shutdown,
    whole: &Whole,
) -> std::io::Result<String> {
    let url = format!("http://{}", listener.local_addr()?);
    let (end, whole) = (end.clone(), whole.clone());
    tasks.spawn("registry", async move {
        let ended = registry::server::run(listener, config, end).await;
        whole.over("registry", ended.map_err(serve::stopped));
    });
    Ok(url)
}

/// Starts a bridge from `watch_dir` to a registry that ends with `end`; should it end before, the whole ends too.
pub fn start_bridge(watch_dir: &Path, registry: &str, tasks: &Tasks, end: &Shutdown, whole: &Whole) {
    let config = bridge::Config {
        watcher: watcher::Config { watch_dir: watch_dir.to_owned(), ..watcher::Config::default() },
        dispatcher: dispatcher::Config { serve_url: registry.to_owned(), ..dispatcher::Config::default() },
        payload: Payload::default(),
        events: events::Config { serve_url: registry.to_owned(), ..events::Config::default() },
        http: http::Config::default(),
        operator: None,
        fsync: FsyncPolicy::Batch,
        write_mode: None,
        intake: intake::Config::default(),
        once: false,
    };
    let (end, whole) = (end.clone(), whole.clone());
    tasks.spawn("bridge", async move {
        let ended = match bridge::run(config, end).await {
            Ok(Ending::Orderly) => Ok(()),
            Ok(Ending::Unreachable | Ending::Broken) => Err(anyhow::anyhow!("the bridge broke down")),
            Err(error) => Err(mc::bridge::explain(error)),
        };
        whole.over("bridge", ended);
    });
}
