//! Service: `/ws/executors/{id}`: who connects, and what a line does until it ends.
//!
//! Who has the executor's token may be the executor, or a bridge that was given it. Nobody but the executor speaks, so the
//! first valid frame decides; until then, or for good, the connection listens. `role=observer` says outright that it only listens.
//!
//! An observer that says nothing of itself may be a Node bridge: it first gets what missions that ended a moment ago said, and
//! every mission's first events a little later, see [`super::settling`].
//!
//! An observer that wants to miss nothing comes with `after=now`: its envelopes carry their number, `event_id`, and when its
//! connection breaks it comes again with `after=` the last one it has.

use crate::domain::id::{ExecutorId, MissionId};
use crate::domain::secret::Token;
use crate::net::ws::{DEAD_AFTER, PING_EVERY};
use crate::protocol::envelope::{CLOSE_NORMAL, CLOSE_REPLACED, CLOSE_UNAUTHORIZED, OBSERVER_GAP};
use crate::protocol::field::FieldError;
use crate::protocol::problem::Problem;
use crate::registry::dialer::parse;
use crate::registry::http::error;
use crate::registry::http::executors::{bearer, is_token, known_form};
use crate::registry::http::feed::Feed;
use crate::registry::http::guard::is_operator_token;
use crate::registry::http::params::{Params, Segment};
use crate::registry::http::settling::Settling;
use crate::registry::http::state::{App, Peer};
use crate::registry::hub::{Batch, Subscription};
use crate::registry::machine::{Attached, Opened};
use crate::registry::outlet::{self, LineOrders, Outgoing};
use crate::registry::query::{self, EventFilter};
use crate::registry::record::{ConnectionId, StoredEvent};
use crate::registry::refusal::Refusal;
use crate::registry::worker::{LineOpened, Message as ToWorker};
use crate::runtime::clock;
use crate::runtime::tasks::contained;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Extension, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use std::collections::HashSet;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::time::Instant;

/// A message may be longer than a valid frame: it is dropped, and the connection stays. Beyond this it is closed.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Frames that are handed to the worker together.
const FRAMES_AT_ONCE: usize = 128;

/// How long ago a mission may have ended that an observer is still told of. One that begins to listen because its dispatch
/// was answered comes within milliseconds; a minute is a slow start of its program.
const ENDED_WITHIN: Duration = Duration::from_secs(60);

/// How long one write may take before the peer counts as gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// The query of the upgrade.
#[derive(Debug, serde::Deserialize)]
pub struct Access {
    token: Option<String>,
    role: Option<String>,
    after: Option<String>,
}

/// `GET /ws/executors/{id}`.
pub async fn upgrade(
    State(app): State<Arc<App>>,
    Segment(id): Segment,
    Params(access): Params<Access>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => {
            let detail = format!("this is a WebSocket: {rejection}");
            return error::answer(&Problem::new(426, "upgrade_required", detail));
        }
    };
    let id = match known_form(&id) {
        Ok(id) => id,
        Err(refusal) => return refusal.into_response(),
    };
    let token = access.token.map(Token::new).or_else(|| bearer(&headers));
    let identity = app.registry.ask(|reply| ToWorker::Identify { id: id.clone(), reply }).await;
    let hash = match identity {
        Ok(identity) => identity.map(|identity| identity.token_hash),
        Err(refusal) => return refusal.into_response(),
    };
    let holds_token = match (&token, hash) {
        (Some(token), Some(hash)) => is_token(token, &hash),
        (Some(_) | None, _) => false,
    };
    let begin = match access.after.as_deref().map(read_place).transpose() {
        Ok(begin) => begin,
        Err(error) => return Refusal::from(error).into_response(),
    };
    let says_so = access.role.as_deref() == Some("observer");
    let observes = says_so || begin.is_some() || app.config.read_only;
    let is_operator = token.as_ref().is_some_and(|token| is_operator_token(&app, token));
    let role = if holds_token && !observes {
        Role::TokenHolder
    } else if holds_token || is_operator || (token.is_none() && peer.is_local()) {
        Role::Observer
    } else {
        tracing::info!(peer = %peer, executor.id = %id, "WebSocket refused: wrong token");
        Role::Nobody
    };
    upgrade
        .max_message_size(MAX_MESSAGE_BYTES)
        .max_frame_size(MAX_MESSAGE_BYTES)
        .read_buffer_size(8 << 10)
        .write_buffer_size(16 << 10)
        .max_write_buffer_size(MAX_MESSAGE_BYTES)
        .on_upgrade(async move |socket| {
            let work = serve(socket, Arc::clone(&app), id, role, says_so, begin);
            let (done, end) = tokio::sync::oneshot::channel::<()>();
            // On the tracker, so that the shutdown waits for the closing handshake.
            app.tasks.spawn("line", async move {
                work.await;
                drop(done);
            });
            end.await.ok();
        })
}

/// Where a reader that wants numbered events begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    Now,
    After(u64),
}

fn read_place(text: &str) -> Result<Begin, FieldError> {
    match text {
        "now" => Ok(Begin::Now),
        number => number
            .parse()
            .map(Begin::After)
            .map_err(|_invalid| FieldError::new("after", "is neither the number of an event nor now")),
    }
}

/// The pings of all lines fall on the same quarters of a second: thousands of idle lines wake the process four times a second and
/// not each on its own.
fn next_ping() -> Instant {
    const GRID_MILLIS: u128 = 250;
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let due = (START.elapsed() + PING_EVERY).as_millis() / GRID_MILLIS * GRID_MILLIS;
    *START + Duration::from_millis(u64::try_from(due).unwrap_or(u64::MAX))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    TokenHolder,
    Observer,
    Nobody,
}

async fn serve(
    mut socket: WebSocket,
    app: Arc<App>,
    id: ExecutorId,
    role: Role,
    says_so: bool,
    begin: Option<Begin>,
) {
    if role == Role::Nobody {
        close(&mut socket, CLOSE_UNAUTHORIZED, "token invalid").await;
        return;
    }
    let connection = app.connections.next();
    let (handle, orders) = outlet::line();
    let mut line = Line {
        socket,
        app: Arc::clone(&app),
        id: id.clone(),
        connection,
        orders,
        speaks: role == Role::TokenHolder,
        observed: None,
        says_so,
        begin,
        listen_at: None,
        heard: Instant::now(),
        next_ping: next_ping(),
    };
    if role == Role::TokenHolder {
        let opened = LineOpened { id: id.clone(), connection, opened: Opened::ByTokenHolder, handle };
        match app.registry.ask(|reply| ToWorker::Attach { line: opened, reply }).await {
            Ok(Attached::Line) => {}
            // It may be the executor, about to speak; a copy of an old event could look like an order to it.
            Ok(Attached::Listener) => line.listen_at = Some(Instant::now() + app.config.dial_after),
            Err(_ending) => return,
        }
    } else if !line.observe().await {
        return;
    }
    contained("line", line.run()).await;
    app.registry.tell(ToWorker::Detach { id, connection }).await;
}

struct Line {
    socket: WebSocket,
    app: Arc<App>,
    id: ExecutorId,
    connection: ConnectionId,
    orders: LineOrders,
    /// It has the executor's token: its frames count.
    speaks: bool,
    observed: Option<Observed>,
    /// It asked to be an observer, so it knows what it will hear.
    says_so: bool,
    begin: Option<Begin>,
    listen_at: Option<Instant>,
    heard: Instant,
    next_ping: Instant,
}

/// What the select found.
enum Happened {
    Received(Option<Result<Message, axum::Error>>),
    Ordered(Option<Outgoing>),
    Seen(Option<Vec<Arc<str>>>),
    Timer,
    Ending,
}

impl Line {
    async fn run(&mut self) {
        loop {
            let timer = self.next_ping.min(self.heard + DEAD_AFTER);
            let timer = self.listen_at.map_or(timer, |at| at.min(timer));
            let (observed, id) = (&mut self.observed, &self.id);
            let seen = async {
                match observed {
                    Some(observed) => observed.next_texts(id).await,
                    None => std::future::pending().await,
                }
            };
            let has_orders = self.speaks;
            // Cancel safe, every one: a frame, an order or a batch is either returned or still where it was.
            let happened = tokio::select! {
                received = self.socket.next() => Happened::Received(received),
                order = self.orders.queue.recv(), if has_orders => Happened::Ordered(order),
                texts = seen => Happened::Seen(texts),
                () = tokio::time::sleep_until(timer) => Happened::Timer,
                () = self.orders.too_slow.cancelled(), if has_orders => Happened::Ordered(None),
                () = self.app.shutdown.started() => Happened::Ending,
            };
            let goes_on = match happened {
                Happened::Received(Some(Ok(message))) => self.received(message).await,
                Happened::Ordered(order) => self.ordered(order).await,
                Happened::Seen(Some(texts)) => self.write(&texts).await,
                Happened::Seen(None) | Happened::Received(Some(Err(_)) | None) => false,
                Happened::Timer => self.timer().await,
                Happened::Ending => {
                    if let Some(Observed::Copy(_, Some(settling))) = &mut self.observed {
                        let held = settling.take_all();
                        self.write(&held).await;
                    }
                    close(&mut self.socket, CLOSE_NORMAL, "the registry is shutting down").await;
                    false
                }
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Takes this message and whatever else has arrived.
    async fn received(&mut self, first: Message) -> bool {
        self.heard = Instant::now();
        let mut frames = Vec::new();
        let mut next = Some(Some(Ok(first)));
        let mut goes_on = true;
        while let Some(message) = next {
            match message {
                Some(Ok(Message::Text(text))) if self.speaks => {
                    frames.append(&mut parse(text.as_str(), &self.id, &self.app.drops));
                }
                // An observer's words count for nothing; pings are answered by the library.
                Some(Ok(Message::Text(_) | Message::Binary(_) | Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => {
                    goes_on = false;
                    break;
                }
            }
            if frames.len() >= FRAMES_AT_ONCE {
                break;
            }
            next = self.socket.next().now_or_never();
        }
        if !frames.is_empty() {
            self.listen_at = None;
            let (id, connection) = (self.id.clone(), self.connection);
            self.app.registry.tell(ToWorker::Frames { id, connection, frames }).await;
        }
        goes_on
    }

    async fn ordered(&mut self, order: Option<Outgoing>) -> bool {
        match order {
            Some(Outgoing::Text(text)) => self.write(&[text]).await,
            Some(Outgoing::Promote) => {
                self.observed = None;
                self.listen_at = None;
                true
            }
            // It may still be the executor, on a slow wire.
            Some(Outgoing::Demote) => {
                self.listen_at = Some(Instant::now() + self.app.config.dial_after);
                true
            }
            Some(Outgoing::Close(code)) => {
                let reason =
                    if code == CLOSE_REPLACED { "replaced by a newer connection" } else { "deregistered" };
                close(&mut self.socket, code, reason).await;
                false
            }
            None if self.app.shutdown.is_started() => {
                close(&mut self.socket, CLOSE_NORMAL, "the registry is shutting down").await;
                false
            }
            // The worker has given this line up: it was too slow.
            None => {
                close(&mut self.socket, 1008, "too slow").await;
                false
            }
        }
    }

    /// Starts to copy what the executor's other connection says, the present state first.
    async fn observe(&mut self) -> bool {
        self.listen_at = None;
        let id = self.id.clone();
        if let Some(begin) = self.begin {
            let after = match begin {
                Begin::Now => None,
                Begin::After(after) => Some(after),
            };
            let filter = EventFilter { executor: Some(id.to_string()), ..EventFilter::default() };
            let feed = Feed::start(Arc::clone(&self.app), Some(&id), filter, after).await;
            self.observed = feed.ok().map(|feed| Observed::Numbered(Box::new(feed)));
            return self.observed.is_some();
        }
        let asked = self.app.registry.ask(|reply| ToWorker::Observe { id: id.clone(), reply }).await;
        let Ok((replay, subscription)) = asked else { return false };
        let mut texts = Vec::with_capacity(replay.len());
        let settling = if self.says_so {
            texts.extend(replay.into_iter().map(|(_, text)| text));
            None
        } else {
            let mut ended = ended_before(&self.app, id, subscription.after()).await;
            // One that ended after the replay was taken is in both.
            let replayed: HashSet<&MissionId> = replay.iter().map(|(mission, _)| mission).collect();
            ended.retain(|(mission, _)| !replayed.contains(mission));
            let (mut settling, now) = (Settling::default(), std::time::Instant::now());
            for (mission, text) in ended.into_iter().chain(replay) {
                settling.take(Some(&mission), text, now, &mut texts);
            }
            Some(settling)
        };
        self.observed = Some(Observed::Copy(subscription, settling));
        self.write(&texts).await
    }

    async fn timer(&mut self) -> bool {
        let now = Instant::now();
        if now >= self.heard + DEAD_AFTER {
            return false;
        }
        if self.listen_at.is_some_and(|at| now >= at) && !self.observe().await {
            return false;
        }
        if now >= self.next_ping {
            self.next_ping = next_ping();
            let ping = self.socket.send(Message::Ping(bytes::Bytes::new()));
            return matches!(tokio::time::timeout(WRITE_TIMEOUT, ping).await, Ok(Ok(())));
        }
        true
    }

    /// Writes texts with one flush.
    async fn write(&mut self, texts: &[Arc<str>]) -> bool {
        let writing = async {
            for text in texts {
                self.socket.feed(Message::Text(text.to_string().into())).await?;
            }
            self.socket.flush().await
        };
        matches!(tokio::time::timeout(WRITE_TIMEOUT, writing).await, Ok(Ok(())))
    }
}

/// What missions of an executor said that ended shortly before, up to this event.
async fn ended_before(app: &App, id: ExecutorId, until: u64) -> Vec<(MissionId, Arc<str>)> {
    let since = clock::wall().minus(ENDED_WITHIN);
    let found = app.query(move |reader| query::ended_lately(reader, &id, since, until)).await;
    found.unwrap_or_else(|refusal| {
        tracing::warn!(error = ?refusal, "an observer is not told what ended before it came");
        Vec::new()
    })
}

/// What an observer reads.
enum Observed {
    /// Events as they came, or settled ones. One that is too slow is told how many it missed.
    Copy(Subscription, Option<Settling>),
    /// Each with its number and none missing, for those who came with `after`.
    Numbered(Box<Feed>),
}

impl Observed {
    /// # Cancel safety
    /// Safe: nothing is taken unless it is returned, or kept back in here.
    async fn next_texts(&mut self, id: &ExecutorId) -> Option<Vec<Arc<str>>> {
        match self {
            Self::Copy(subscription, None) => {
                let batch = subscription.next_batch().await?;
                let copies = batch.events.iter().map(|event| Arc::clone(&event.raw));
                Some(gap(id, &batch).into_iter().chain(copies).collect())
            }
            Self::Copy(subscription, Some(settling)) => loop {
                let mut texts = Vec::new();
                let until = settling.next_wakeup().map(Instant::from_std);
                tokio::select! {
                    batch = subscription.next_batch() => {
                        let batch = batch?;
                        texts.extend(gap(id, &batch));
                        let now = std::time::Instant::now();
                        for event in &batch.events {
                            settling.take(event.mission_id.as_ref(), Arc::clone(&event.raw), now, &mut texts);
                        }
                    }
                    () = clock::sleep_until(until) => settling.due(std::time::Instant::now(), &mut texts),
                }
                if !texts.is_empty() {
                    break Some(texts);
                }
            },
            Self::Numbered(feed) => {
                let events = feed.next_batch().await?;
                Some(events.iter().map(|event| numbered(event)).collect())
            }
        }
    }
}

/// Tells an observer that was too slow, and after which event to ask again: with `after` here or as the stream's last id.
fn gap(id: &ExecutorId, batch: &Batch) -> Option<Arc<str>> {
    if batch.missed == 0 {
        return None;
    }
    let ts = clock::wall().to_string();
    let text = serde_json::json!({
        "event": OBSERVER_GAP, "executor_id": id.as_str(), "ts": ts,
        "data": {"missed": batch.missed, "after": batch.after}
    });
    Some(Arc::from(text.to_string()))
}

/// Adds an event's number as the last member of its envelope, so that it wins over one of the executor's own.
fn numbered(event: &StoredEvent) -> Arc<str> {
    let members = event.raw.trim_end().strip_suffix('}').unwrap_or(&event.raw);
    Arc::from(format!("{members},\"event_id\":{}}}", event.seq))
}

async fn close(socket: &mut WebSocket, code: u16, reason: &'static str) {
    let closing = async {
        let frame = CloseFrame { code, reason: reason.into() };
        if socket.send(Message::Close(Some(frame))).await.is_ok() {
            while let Some(Ok(_late)) = socket.next().await {}
        }
    };
    drop(tokio::time::timeout(Duration::from_secs(1), closing).await);
}
