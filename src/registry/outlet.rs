//! Service: what leaves the registry, in the order of the decisions and never before what belongs to it is on disk.
//!
//! A round is what the worker decided at one go: writes, and what to release after them. It
//! goes to the writer's thread, which commits whatever rounds have gathered in one transaction, synced once, and then
//! releases them in order. While that sync runs the next rounds gather, so the more there is to do, the less it costs each.
//! A round without writes, when nothing is being committed, needs no thread at all.

use crate::domain::id::ExecutorId;
use crate::registry::client::ExecutorClient;
use crate::registry::dialer::Dialer;
use crate::registry::hub::Hub;
use crate::registry::identity::Identities;
use crate::registry::metrics::Metrics;
use crate::registry::record::{Forward, RestCommand, StoredEvent, Write};
use crate::registry::store::{Folder, Reader, Store, StoreError};
use crate::registry::worker::{Message, Registry};
use crate::runtime::clock;
use crate::runtime::shutdown::{Cause, Shutdown};
use crate::runtime::tasks::Tasks;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Rounds that may wait for the writer. Full: the worker waits, its inbox fills, and senders wait.
const QUEUE: usize = 64;

/// Frames that may wait for one executor's line: a resync answers thousands of missions at once. Full: the line is too slow and
/// is closed; the next resync repairs the rest.
pub(super) const LINE_QUEUE: usize = 16_384;

/// How often the write-ahead log is folded back while there is something new in it.
const FOLD_EVERY: Duration = Duration::from_secs(1);

/// How often ended missions are looked through for those that have been kept long enough, and how many go in one commit.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
const SWEEP_ROWS: u32 = 500;

/// How long the writer waits for something to do before it goes on sweeping. 100 ms: 5,000 missions a second go.
const SWEEP_PAUSE: Duration = Duration::from_millis(100);

/// What a line is told to do.
#[derive(Debug, Clone)]
pub(super) enum Outgoing {
    Text(Arc<str>),
    Close(u16),
    Promote,
    Demote,
}

/// The way to one line.
#[derive(Debug, Clone)]
pub(super) struct LineHandle {
    queue: mpsc::Sender<Outgoing>,
    too_slow: CancellationToken,
}

/// The line's end of it.
#[derive(Debug)]
pub(super) struct LineOrders {
    pub(super) queue: mpsc::Receiver<Outgoing>,
    pub(super) too_slow: CancellationToken,
}

/// Makes both ends.
pub(super) fn line() -> (LineHandle, LineOrders) {
    let (sender, receiver) = mpsc::channel(LINE_QUEUE);
    let too_slow = CancellationToken::new();
    let orders = LineOrders { queue: receiver, too_slow: too_slow.clone() };
    (LineHandle { queue: sender, too_slow }, orders)
}

/// A reply that waits for the writes before it.
pub(super) type LateReply = Box<dyn FnOnce() + Send>;

/// One thing to release.
pub(super) enum Release {
    Reply(LateReply),
    Publish(Arc<StoredEvent>),
    Line(LineHandle, Outgoing),
    Forward(Box<Forward>),
    Command(Box<RestCommand>),
    Dial(ExecutorId),
    Notify,
    Nothing,
}

/// What was decided at one go.
#[derive(Default)]
pub(super) struct Round {
    pub(super) number: u64,
    pub(super) decided_at: Option<Instant>,
    pub(super) writes: Vec<Write>,
    pub(super) releases: Vec<Release>,
}

/// Carries releases out.
pub(super) struct Releaser {
    pub(super) registry: Registry,
    pub(super) hub: Arc<Hub>,
    pub(super) client: Arc<ExecutorClient>,
    pub(super) identities: Arc<Identities>,
    pub(super) dialer: Dialer,
    pub(super) metrics: Arc<Metrics>,
    /// Wakes whoever sends notices.
    pub(super) notices: Arc<Notify>,
    pub(super) tasks: Tasks,
}

impl Releaser {
    fn release_all(&self, round: Round) {
        let publishes = round.releases.iter().any(|release| matches!(release, Release::Publish(_)));
        if let Some(decided_at) = round.decided_at.filter(|_| publishes) {
            self.metrics.event_lag.observe(decided_at.elapsed());
        }
        // Events in a row wake each observer once.
        let mut events = Vec::new();
        for release in round.releases {
            if let Release::Publish(event) = release {
                events.push(event);
                continue;
            }
            self.hub.publish(&events);
            events.clear();
            self.release(release);
        }
        self.hub.publish(&events);
    }

    fn release(&self, release: Release) {
        match release {
            Release::Reply(reply) => reply(),
            Release::Publish(event) => self.hub.publish(&[event]),
            Release::Line(line, outgoing) => {
                if let Err(mpsc::error::TrySendError::Full(_)) = line.queue.try_send(outgoing) {
                    line.too_slow.cancel();
                }
            }
            Release::Forward(forward) => {
                let (client, registry) = (Arc::clone(&self.client), self.registry.clone());
                let (token, metrics) =
                    (self.identities.token(&forward.executor_id), Arc::clone(&self.metrics));
                self.tasks.spawn("forward", async move {
                    let started = Instant::now();
                    let outcome = client.forward(&forward, token.as_ref()).await;
                    metrics.forward.observe(started.elapsed());
                    registry.tell(Message::Forwarded { forward, outcome }).await;
                });
            }
            Release::Command(command) => {
                let client = Arc::clone(&self.client);
                let token = self.identities.token(&command.executor_id);
                self.tasks.spawn("command", async move { client.command(&command, token.as_ref()).await });
            }
            Release::Dial(id) => self.dialer.dial(id, &self.registry, &self.tasks),
            Release::Notify => self.notices.notify_one(),
            Release::Nothing => {}
        }
    }
}

/// Where rounds go.
pub(super) struct Outlet {
    releaser: Arc<Releaser>,
    queue: mpsc::Sender<Round>,
    reader: Arc<Reader>,
    committed: Arc<AtomicU64>,
    sent: u64,
    ended: oneshot::Receiver<()>,
}

impl Outlet {
    /// Starts the writer of a store.
    ///
    /// # Errors
    /// [`StoreError`] when the connection for folding cannot be opened.
    pub(super) fn start(
        releaser: Releaser,
        store: Store,
        reader: Arc<Reader>,
        retention: Retention,
        shutdown: &Shutdown,
    ) -> Result<Self, StoreError> {
        let releaser = Arc::new(releaser);
        let (queue, rounds) = mpsc::channel(QUEUE);
        let committed = Arc::new(AtomicU64::new(0));
        let (done, ended) = oneshot::channel();
        let dirty = Arc::new(Notify::new());
        let folder = Folder::open(store.path())?;
        let tasks = releaser.tasks.clone();
        tasks.spawn("log folder", fold(folder, Arc::clone(&dirty), shutdown.clone()));
        let writer = Writer {
            store,
            rounds,
            releaser: Arc::clone(&releaser),
            committed: Arc::clone(&committed),
            dirty,
            retention,
            swept_at: None,
            shutdown: shutdown.clone(),
        };
        let shutdown = shutdown.clone();
        tasks.spawn("store writer", async move {
            if tokio::task::spawn_blocking(move || writer.run()).await.is_err() {
                tracing::error!("the store's writer panicked");
                shutdown.start(Cause::Panic("store writer"));
            }
            drop(done);
        });
        Ok(Self { releaser, queue, reader, committed, sent: 0, ended })
    }

    /// Takes a round.
    pub(super) async fn take(&mut self, round: Round) {
        let is_idle = self.committed.load(Ordering::Acquire) == self.sent;
        if round.writes.is_empty() && is_idle {
            self.releaser.release_all(round);
        } else if !(round.writes.is_empty() && round.releases.is_empty()) {
            self.sent = round.number;
            // A writer that has gone has started the shutdown; replies that are dropped say so.
            self.queue.send(round).await.ok();
        }
    }

    /// Returns the last round that is on disk.
    pub(super) fn committed_round(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// Returns what asks the store about missions that have left the memory.
    pub(super) fn recaller(&self) -> Recaller {
        Recaller { releaser: Arc::clone(&self.releaser), reader: Arc::clone(&self.reader) }
    }

    /// Waits until everything taken has been committed and released.
    pub(super) async fn close(self) {
        drop(self.queue);
        self.ended.await.ok();
    }
}

/// Asks the store.
pub(super) struct Recaller {
    releaser: Arc<Releaser>,
    reader: Arc<Reader>,
}

impl Recaller {
    /// Looks ids and keys up and sends `then` to the worker together with what was found.
    pub(super) fn recall(self, asked: Vec<String>, then: Message) {
        let reader = self.reader;
        let registry = self.releaser.registry.clone();
        self.releaser.tasks.spawn("recall", async move {
            let looking = tokio::task::spawn_blocking(move || {
                let found = asked.into_iter().map(|asked| {
                    let recalled = reader.recall(&asked)?;
                    Ok::<_, StoreError>((asked, recalled))
                });
                found.collect::<Result<Vec<_>, _>>()
            });
            match looking.await {
                Ok(Ok(asked)) => registry.tell(Message::Recalled { asked, then: Box::new(then) }).await,
                Ok(Err(error)) => tracing::error!(error = %chain(&error), "cannot look an ended mission up"),
                Err(_panicked) => tracing::error!("looking an ended mission up panicked"),
            }
        });
    }
}

/// Owns the writing connection, on a thread of its own.
struct Writer {
    store: Store,
    rounds: mpsc::Receiver<Round>,
    releaser: Arc<Releaser>,
    committed: Arc<AtomicU64>,
    dirty: Arc<Notify>,
    retention: Retention,
    swept_at: Option<Instant>,
    shutdown: Shutdown,
}

impl Writer {
    fn run(mut self) {
        let mut gathered = Vec::with_capacity(QUEUE);
        let runtime = tokio::runtime::Handle::current();
        loop {
            // A registry with nothing to do sweeps too. A receive that is cut short has taken nothing.
            let pause = self.until_sweep();
            let receiving = self.rounds.recv_many(&mut gathered, QUEUE);
            match runtime.block_on(async { tokio::time::timeout(pause, receiving).await }) {
                Ok(0) => return,
                Ok(_) => {}
                Err(_elapsed) => {
                    self.sweep();
                    continue;
                }
            }
            if gathered.iter().any(|round| !round.writes.is_empty()) {
                let writes = gathered.iter().flat_map(|round| &round.writes);
                let started = Instant::now();
                if let Err(error) = self.store.commit(writes) {
                    tracing::error!(error = %chain(&error), "cannot write to the store; ending, because memory and disk differ");
                    self.shutdown.start(Cause::Fatal("store"));
                    return;
                }
                self.releaser.metrics.commit.observe(started.elapsed());
                self.dirty.notify_one();
            }
            for round in gathered.drain(..) {
                // Before the replies: whoever acts on one must find the round committed.
                self.committed.store(round.number, Ordering::Release);
                self.releaser.release_all(round);
            }
            self.sweep();
        }
    }

    fn until_sweep(&self) -> Duration {
        self.swept_at.map_or(SWEEP_PAUSE, |at| SWEEP_EVERY.saturating_sub(at.elapsed()).max(SWEEP_PAUSE))
    }

    /// Forgets what has been kept long enough, a little at a time so that no commit waits for long.
    fn sweep(&mut self) {
        if self.swept_at.is_some_and(|at| at.elapsed() < SWEEP_EVERY) {
            return;
        }
        let swept =
            self.retention.cutoff(&self.store).and_then(|cutoff| self.store.sweep(cutoff, SWEEP_ROWS));
        let is_done = match swept {
            Ok(gone) => {
                if !gone.is_empty() {
                    tracing::info!(count = gone.len(), "ended missions forgotten: kept long enough");
                }
                u32::try_from(gone.len()).is_ok_and(|count| count < SWEEP_ROWS)
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "cannot sweep the store");
                true
            }
        };
        // Not done: the next commit goes on, or the next pause.
        self.swept_at = is_done.then(Instant::now);
    }
}

/// How long ended missions are kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retention {
    pub(super) age: Duration,
    pub(super) max_bytes: u64,
}

impl Retention {
    /// Returns the time before which an ended mission goes.
    fn cutoff(self, store: &Store) -> Result<i64, StoreError> {
        let now = clock::wall();
        let by_age = now.as_millis().saturating_sub(i64::try_from(self.age.as_millis()).unwrap_or(i64::MAX));
        if store.size_bytes()? <= self.max_bytes {
            return Ok(by_age);
        }
        // Everything that has ended may go, oldest first and a few at a time, until the size fits.
        Ok(now.as_millis())
    }
}

/// The whole chain of causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

async fn fold(folder: Folder, dirty: Arc<Notify>, shutdown: Shutdown) {
    let mut folder = folder;
    loop {
        tokio::select! {
            () = dirty.notified() => {}
            () = shutdown.started() => return,
        }
        let folding = tokio::task::spawn_blocking(move || {
            let result = folder.fold();
            (folder, result)
        });
        match folding.await {
            Ok((back, result)) => {
                folder = back;
                if let Err(error) = result {
                    tracing::warn!(error = %error, "cannot fold the store's log back; it grows until that works");
                }
            }
            Err(_panicked) => return,
        }
        tokio::select! {
            () = tokio::time::sleep(FOLD_EVERY) => {}
            () = shutdown.started() => return,
        }
    }
}
