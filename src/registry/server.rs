//! Service: the registry, from a listener to an orderly end.

use crate::net::http::{self as outgoing, Http};
use crate::registry::Config;
use crate::registry::client::ExecutorClient;
use crate::registry::dialer::Dialer;
use crate::registry::drops::Drops;
use crate::registry::http::router::router;
use crate::registry::http::state::{App, Peer};
use crate::registry::hub::Hub;
use crate::registry::identity::{Identities, IdentityError};
use crate::registry::issuer::Issuer;
use crate::registry::lines::ConnectionIds;
use crate::registry::machine::Machine;
use crate::registry::outlet::{Outlet, Releaser};
use crate::registry::recovery::Snapshot;
use crate::registry::store::{Reader, Store, StoreError};
use crate::registry::worker::{Registry, Worker};
use crate::runtime::clock;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::tasks::Tasks;
use axum::serve::ListenerExt as _;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Why the registry cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The token file.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Opening the store panicked.
    #[error("open the store: interrupted")]
    Interrupted,
    /// The client for executors.
    #[error("make the HTTP client for executors")]
    Client(#[source] reqwest::Error),
    /// The listener.
    #[error("serve connections")]
    Listener(#[source] std::io::Error),
}

fn without_delay(stream: &mut tokio::net::TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::trace!(%error, "cannot turn Nagle's delay off");
    }
}

/// Runs the registry on `listener` until `shutdown` starts, then drains.
///
/// # Errors
/// [`ServeError`] when it cannot start, or the listener breaks.
pub async fn run(listener: TcpListener, config: Config, shutdown: Shutdown) -> Result<(), ServeError> {
    let tasks = Tasks::new(shutdown.clone());
    let drain_timeout = config.drain_timeout;
    let app = assemble(config, &shutdown, &tasks).await?;
    let service = router(app)
        .layer(axum::middleware::map_request(async |mut request: axum::extract::Request| {
            let peer =
                request.extensions().get::<axum::extract::ConnectInfo<SocketAddr>>().map(|info| Peer(info.0));
            if let Some(peer) = peer {
                request.extensions_mut().insert(peer);
            }
            request
        }))
        .into_make_service_with_connect_info::<SocketAddr>();
    let listener = listener.tap_io(without_delay);
    let ending = shutdown.clone();
    let serving =
        axum::serve(listener, service).with_graceful_shutdown(async move { ending.started().await });
    let overdue = async {
        shutdown.started().await;
        tokio::time::sleep(drain_timeout).await;
    };
    tokio::select! {
        served = serving.into_future() => served.map_err(ServeError::Listener)?,
        () = overdue => tracing::warn!("open requests did not end in time"),
    }
    if !tasks.join(drain_timeout).await {
        tracing::warn!(count = tasks.len(), "tasks did not end in time");
    }
    Ok(())
}

/// Opens what the registry stands on and starts its tasks.
async fn assemble(config: Config, shutdown: &Shutdown, tasks: &Tasks) -> Result<Arc<App>, ServeError> {
    let identities = Arc::new(Identities::open(config.identity_file.clone())?);
    let timeouts =
        outgoing::Config { request_timeout: config.forward_timeout, ..outgoing::Config::default() };
    let http = Http::new(timeouts).map_err(ServeError::Client)?;
    let (hub, drops) = (Arc::new(Hub::default()), Arc::new(Drops::default()));
    let connections = Arc::new(ConnectionIds::default());
    let (registry, inbox) = Registry::channel();
    let releaser = Releaser {
        registry: registry.clone(),
        hub: Arc::clone(&hub),
        client: Arc::new(ExecutorClient::new(http, config.forward_timeout)),
        identities: Arc::clone(&identities),
        dialer: Dialer::new(
            Arc::clone(&identities),
            Arc::clone(&connections),
            Arc::clone(&drops),
            shutdown.clone(),
        ),
        tasks: tasks.clone(),
    };
    let (machine, outlet, reader) = match &config.state_dir {
        None => (Machine::new(config.clone()), Outlet::direct(releaser), None),
        Some(folder) => {
            let (store, snapshot) = open(folder).await?;
            let reader = Arc::new(Reader::new(store.path()));
            let machine = Machine::restore(config.clone(), snapshot, clock::now());
            let outlet = Outlet::durable(releaser, store, Arc::clone(&reader), shutdown)?;
            (machine, outlet, Some(reader))
        }
    };
    let worker = Worker {
        machine,
        inbox,
        outlet,
        hub: Arc::clone(&hub),
        drops: Arc::clone(&drops),
        shutdown: shutdown.clone(),
        lines: HashMap::new(),
        waiting: HashMap::new(),
        dial_attempts: HashMap::new(),
    };
    tasks.spawn("registry", worker.run());
    Ok(Arc::new(App {
        registry,
        issuer: Issuer::start(Arc::clone(&identities), tasks),
        identities,
        reader,
        connections,
        drops,
        config,
        shutdown: shutdown.clone(),
        tasks: tasks.clone(),
    }))
}

async fn open(state_dir: &Path) -> Result<(Store, Snapshot), ServeError> {
    let folder = state_dir.join("registry");
    let opening = tokio::task::spawn_blocking(move || {
        let store = Store::open(&folder)?;
        let snapshot = store.load()?;
        Ok::<_, StoreError>((store, snapshot))
    });
    let (store, snapshot) = opening.await.map_err(|_panicked| ServeError::Interrupted)??;
    tracing::info!(
        executors = snapshot.executors.len(),
        live = snapshot.live.len(),
        ended = snapshot.ended.len(),
        file.path = %store.path().display(),
        "store opened"
    );
    Ok((store, snapshot))
}
