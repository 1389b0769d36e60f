//! Service: the registry, from a listener to an orderly end.

use crate::disk::filesystem;
use crate::net::descriptors;
use crate::net::http::{self as outgoing, Http};
use crate::registry::Config;
use crate::registry::acceptor::{Limits, Listener, Seats, accept};
use crate::registry::client::ExecutorClient;
use crate::registry::dialer::Dialer;
use crate::registry::drops::Drops;
use crate::registry::http::rates::Rates;
use crate::registry::http::router::router;
use crate::registry::http::state::App;
use crate::registry::hub::Hub;
use crate::registry::identity::{Identities, IdentityError};
use crate::registry::issuer::Issuer;
use crate::registry::lines::ConnectionIds;
use crate::registry::machine::Machine;
use crate::registry::metrics::Metrics;
use crate::registry::notifier::Notifier;
use crate::registry::outlet::{Outlet, Releaser, Retention};
use crate::registry::reach::Reach;
use crate::registry::recovery::Snapshot;
use crate::registry::store::{Reader, Store, StoreError};
use crate::registry::watchdog;
use crate::registry::webhook::Delivery;
use crate::registry::worker::{Registry, Worker};
use crate::runtime::clock;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::tasks::Tasks;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};

/// Files beside the connections that are open at a time: the store, forwards, webhooks.
const OTHER_FILES: u64 = 512;

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
    /// Reachable from other hosts, and nothing to tell friends from strangers by.
    #[error("listen to the network without an operator token")]
    OpenWithoutToken,
    /// The listener.
    #[error("serve connections")]
    Listener(#[source] std::io::Error),
}

/// Runs the registry on `listener` until `shutdown` starts, then drains.
///
/// # Errors
/// [`ServeError`] when it cannot start.
pub async fn run(listener: TcpListener, config: Config, shutdown: Shutdown) -> Result<(), ServeError> {
    run_on(vec![Listener::Tcp(listener)], config, shutdown, || {}).await
}

/// Runs the registry on several listeners and calls `ready` when it answers on all of them.
///
/// # Errors
/// [`ServeError`] when it cannot start.
pub async fn run_on(
    listeners: Vec<Listener>,
    config: Config,
    shutdown: Shutdown,
    ready: impl FnOnce(),
) -> Result<(), ServeError> {
    let is_open = listeners.iter().map(Listener::is_open_to_the_network).collect::<Result<Vec<_>, _>>();
    let is_open = is_open.map_err(ServeError::Listener)?.contains(&true);
    if is_open && config.operator_token.is_none() {
        return Err(ServeError::OpenWithoutToken);
    }
    make_room(config.max_connections);
    let tasks = Tasks::new(shutdown.clone());
    let drain_timeout = config.drain_timeout;
    let limits = Limits {
        connections: config.max_connections,
        per_peer: config.max_connections_per_peer,
        head_timeout: config.head_timeout,
        write_timeout: config.write_timeout,
    };
    let places = Arc::new(Semaphore::new(limits.connections));
    let app = assemble(config, is_open, &shutdown, &tasks).await?;
    let seats = Arc::new(Seats::default());
    for listener in listeners {
        let accepting = accept(
            listener,
            router(Arc::clone(&app)),
            limits,
            Arc::clone(&places),
            Arc::clone(&seats),
            tasks.clone(),
            shutdown.clone(),
        );
        tasks.spawn("acceptor", accepting);
    }
    tasks.spawn("watchdog", watchdog::run(app.registry.clone(), shutdown.clone()));
    drop(app);
    ready();
    shutdown.started().await;
    if !tasks.join(drain_timeout).await {
        tracing::warn!(count = tasks.len(), "requests or lines did not end in time");
    }
    Ok(())
}

/// Makes room for so many connections, or says that there is none.
fn make_room(connections: usize) {
    let Some(files) = descriptors::raise_limit() else { return };
    let room = files.saturating_sub(OTHER_FILES);
    if usize::try_from(room).is_ok_and(|room| room < connections) {
        tracing::warn!(
            files,
            "open files are limited: there is room for about {room} connections, not for {connections}; raise the hard limit (ulimit -Hn)"
        );
    }
}

/// Opens the token file and the store, and says in one line what is there.
///
/// # Errors
/// [`ServeError`] says what could not be used.
pub async fn check(config: Config) -> Result<String, ServeError> {
    Identities::open(config.identity_file.clone())?;
    let (store, snapshot) = open(config.state_dir).await?;
    Ok(format!(
        "settings and store are in order: {} executors, {} live missions, {} ended ones in {}",
        snapshot.executors.len(),
        snapshot.live.len(),
        snapshot.ended.len(),
        store.path().display()
    ))
}

/// Opens what the registry stands on and starts its tasks.
async fn assemble(
    config: Config,
    is_open: bool,
    shutdown: &Shutdown,
    tasks: &Tasks,
) -> Result<Arc<App>, ServeError> {
    let identities = Arc::new(Identities::open(config.identity_file.clone())?);
    let timeouts =
        outgoing::Config { request_timeout: config.forward_timeout, ..outgoing::Config::default() };
    let http = Http::new(timeouts).map_err(ServeError::Client)?;
    let (store, snapshot) = open(config.state_dir.clone()).await?;
    let (hub, drops) = (Arc::new(Hub::new(snapshot.last_seq)), Arc::new(Drops::default()));
    let (connections, metrics) = (Arc::new(ConnectionIds::default()), Arc::new(Metrics::default()));
    let (registry, inbox) = Registry::channel();
    let reach = Reach::new(is_open, &config.notify_hosts);
    let written = Arc::new(Notify::new());
    let releaser = Releaser {
        registry: registry.clone(),
        hub: Arc::clone(&hub),
        client: Arc::new(ExecutorClient::new(http.clone(), config.forward_timeout)),
        identities: Arc::clone(&identities),
        dialer: Dialer::new(
            Arc::clone(&identities),
            Arc::clone(&connections),
            Arc::clone(&drops),
            shutdown.clone(),
        ),
        metrics: Arc::clone(&metrics),
        notices: Arc::clone(&written),
        tasks: tasks.clone(),
    };
    let reader = Arc::new(Reader::new(store.path()));
    let machine = Machine::restore(config.clone(), snapshot, clock::now());
    let retention = Retention { age: config.retention, max_bytes: config.max_store_bytes };
    let outlet = Outlet::start(releaser, store, Arc::clone(&reader), retention, shutdown)?;
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
    for webhook in &config.webhooks {
        let delivery = Delivery {
            webhook: webhook.clone(),
            http: http.clone(),
            reader: Arc::clone(&reader),
            hub: Arc::clone(&hub),
            registry: registry.clone(),
            shutdown: shutdown.clone(),
            failing_since: None,
        };
        tasks.spawn("webhook", delivery.run());
    }
    let notifier = Notifier {
        http: Http::resolving(timeouts, reach.clone()).map_err(ServeError::Client)?,
        reach: reach.clone(),
        secret: config.notify_secret.clone(),
        reader: Arc::clone(&reader),
        registry: registry.clone(),
        written,
        shutdown: shutdown.clone(),
    };
    tasks.spawn("notices", notifier.run());
    Ok(Arc::new(App {
        registry,
        issuer: Issuer::start(Arc::clone(&identities), tasks),
        identities,
        reader,
        hub,
        connections,
        drops,
        metrics,
        rates: Rates::new(config.requests_per_second),
        reach,
        is_open,
        config,
        shutdown: shutdown.clone(),
        tasks: tasks.clone(),
    }))
}

async fn open(state_dir: Option<PathBuf>) -> Result<(Store, Snapshot), ServeError> {
    let opening = tokio::task::spawn_blocking(move || {
        let store = match state_dir {
            Some(folder) => Store::open(&folder.join("registry"))?,
            None => Store::temporary()?,
        };
        if let Some(kind) = filesystem::remote_kind(store.path()) {
            tracing::warn!(
                file.path = %store.path().display(),
                "the store lies on {kind}, where the database cannot keep its promises; choose a local folder with --state-dir"
            );
        }
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
