//! Command: registry and bridge as parts of one process, for those who start them beside an executor.

use crate::bridge::{self, Ending};
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
use tokio::net::TcpListener;

/// Starts a registry that ends with `end`; should it end before, `all` ends too. Returns its address.
///
/// # Errors
/// The listener has no address.
pub fn start_registry(
    listener: TcpListener,
    config: registry::Config,
    tasks: &Tasks,
    end: &Shutdown,
    all: &Shutdown,
) -> std::io::Result<String> {
    let url = format!("http://{}", listener.local_addr()?);
    let (end, all) = (end.clone(), all.clone());
    tasks.spawn("registry", async move {
        if let Err(error) = registry::server::run(listener, config, end).await {
            tracing::error!(error = format!("{:#}", anyhow::Error::new(error)), "the registry ended");
        }
        all.start(Cause::Fatal("registry"));
    });
    Ok(url)
}

/// Starts a bridge from `watch_dir` to a registry that ends with `end`; should it end before, `all` ends too.
pub fn start_bridge(watch_dir: &Path, registry: &str, tasks: &Tasks, end: &Shutdown, all: &Shutdown) {
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
    let (end, all) = (end.clone(), all.clone());
    tasks.spawn("bridge", async move {
        match bridge::run(config, end).await {
            Ok(Ending::Orderly) => {}
            Ok(Ending::Unreachable | Ending::Broken) => tracing::error!("the bridge broke down"),
            Err(error) => {
                tracing::error!(error = format!("{:#}", anyhow::Error::new(error)), "the bridge ended");
            }
        }
        all.start(Cause::Fatal("bridge"));
    });
}
