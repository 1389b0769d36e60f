//! Service: carries out what the machine asks for.
//!
//! It never waits for the folder: orders go to a list of their own and leave when there is room, so that the two loops
//! cannot block one another. The list is bounded by the missions that are claimed or sent: four times the number of slots.

use super::Config;
use super::client::{Address, Client, Unreached};
use super::courier::{Courier, Errand};
use super::machine::{Asked, Delay, Effect, Machine, Outcome};
use super::payload::Payload;
use crate::domain::id::ExecutorId;
use crate::domain::retry::RetryPolicy;
use crate::domain::time::{Now, Timestamp};
use crate::protocol::executor_v1::MissionStatus;
use crate::runtime::clock;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::tasks::Tasks;
use crate::session::messages::{Dispatch, MissionKey, News, Order, Steered, Wish};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// What the dispatcher knows, for the status file.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Open requests.
    pub in_flight: usize,
    /// Missions that wait for a slot or for the registry.
    pub queued: usize,
    /// Missions that were begun and are held up, at most [`REPORTED_DELAYS`].
    pub delays: Vec<Delay>,
    /// Since when and why the registry cannot be reached.
    pub away: Option<(Timestamp, String)>,
    /// Nothing is queued, waiting or open, and nothing remains to be told.
    pub idle: bool,
    /// Missions accepted by the registry since the start.
    pub accepted: u64,
    /// Missions refused for good since the start.
    pub refused: u64,
}

/// How many delays a [`Report`] lists.
pub const REPORTED_DELAYS: usize = 1000;

/// How often a busy dispatcher reports. A quarter of the second within which the status file must be true.
const REPORT_EVERY: std::time::Duration = std::time::Duration::from_millis(250);

/// The ends of the channels that the dispatcher holds.
#[derive(Debug)]
pub struct Channels {
    /// From the folder.
    pub news: mpsc::Receiver<Vec<News>>,
    /// To the folder.
    pub orders: mpsc::Sender<Vec<Order>>,
    /// To whoever writes the status file.
    pub report: watch::Sender<Report>,
}

enum Done {
    /// By which courier.
    Dispatched(usize, MissionKey, Outcome),
    Asked(MissionKey, Asked),
    Probed(Result<(), Unreached>),
    Known(MissionKey, Box<MissionStatus>),
    Steered(MissionKey, Wish, Steered),
}

struct Worker {
    machine: Machine,
    client: Arc<Client>,
    courier: Courier,
    /// Tasks that send, as many as were ever needed at once: at most as many as there are slots.
    couriers: Vec<mpsc::Sender<Errand>>,
    /// Those of them that have nothing to do.
    idle_couriers: Vec<usize>,
    /// Where the last request went: its session's id on the wire, and the address.
    last_address: Option<(Arc<str>, Address)>,
    tasks: Tasks,
    shutdown: Shutdown,
    done: mpsc::Sender<Done>,
    outbox: Vec<Order>,
    /// Wishes that are being passed on: a newer one of the same mission ends the older one.
    steering: HashMap<MissionKey, CancellationToken>,
    accepted: u64,
    refused: u64,
    reported_at: tokio::time::Instant,
    reported_idle: bool,
    reported_away: bool,
}

/// Runs until `shutdown`, then until every open request has ended or `drain_timeout` has passed.
pub async fn run(
    config: Config,
    payload: Payload,
    client: Client,
    channels: Channels,
    shutdown: Shutdown,
    seed: u64,
) {
    let Channels { mut news, orders, report } = channels;
    let drain_timeout = config.drain_timeout;
    let (done, mut finished) = mpsc::channel(config.max_in_flight.max(1) * 2);
    let client = Arc::new(client);
    let mut worker = Worker {
        machine: Machine::new(config, seed),
        courier: Courier::new(Arc::clone(&client), payload),
        client,
        couriers: Vec::new(),
        idle_couriers: Vec::new(),
        last_address: None,
        tasks: Tasks::new(shutdown.clone()),
        shutdown: shutdown.clone(),
        done,
        outbox: Vec::new(),
        steering: HashMap::new(),
        accepted: 0,
        refused: 0,
        reported_at: tokio::time::Instant::now(),
        reported_idle: false,
        reported_away: false,
    };
    let mut deadline: Option<tokio::time::Instant> = None;
    let mut batch = Vec::with_capacity(64);
    loop {
        let effects = worker.machine.advance(clock::now());
        worker.carry_out(effects);
        let owed = worker.publish(&report);
        if deadline.is_some() && worker.machine.is_still() && worker.outbox.is_empty() {
            break;
        }
        if deadline.is_some_and(|deadline| deadline <= tokio::time::Instant::now()) {
            tracing::warn!(
                in_flight = worker.machine.in_flight(),
                "open requests did not end in time; the next start asks the registry about them"
            );
            break;
        }
        let wake = worker.machine.next_wakeup().map(tokio::time::Instant::from_std);
        let wake = wake.into_iter().chain(owed).chain(deadline).min();
        tokio::select! {
            biased;
            room = orders.reserve(), if !worker.outbox.is_empty() => {
                let Ok(room) = room else { break };
                room.send(std::mem::take(&mut worker.outbox));
            }
            count = finished.recv_many(&mut batch, 64) => {
                if count == 0 {
                    break;
                }
                let now = clock::now();
                for done in batch.drain(..) {
                    worker.finish(done, now);
                }
            }
            arrived = news.recv() => {
                let Some(arrived) = arrived else { break };
                let now = clock::now();
                for news in arrived {
                    worker.hear(news, now);
                }
                while let Ok(more) = news.try_recv() {
                    for news in more {
                        worker.hear(news, now);
                    }
                }
            }
            () = clock::sleep_until(wake) => {}
            () = shutdown.started(), if deadline.is_none() => {
                let effects = worker.machine.close();
                worker.carry_out(effects);
                deadline = Some(tokio::time::Instant::now() + drain_timeout);
            }
        }
    }
}

impl Worker {
    fn hear(&mut self, news: News, now: Now) {
        match news {
            News::Offers { session, missions } => self.machine.on_offers(&session, missions),
            News::Begun { key, dispatch } => {
                let effects = self.machine.on_begun(key, dispatch, now);
                self.carry_out(effects);
            }
            News::Skipped { key, why } => {
                tracing::debug!(session.id = %key.session, mission.id = %key.mission, why, "not dispatched");
                self.machine.on_skipped(&key);
            }
            News::Uncertain { key, run, attempts, since } => {
                self.machine.on_uncertain(key, run, attempts, since, now);
            }
            News::Room(count) => self.machine.on_room(count, now),
            News::Reachable(answered) => {
                let effects = self.machine.on_told(answered, now);
                self.carry_out(effects);
            }
            News::Steer { key, wish } => self.steer(key, wish),
        }
    }

    fn finish(&mut self, done: Done, now: Now) {
        let effects = match done {
            Done::Dispatched(courier, key, outcome) => {
                self.idle_couriers.push(courier);
                self.machine.on_outcome(key, outcome, now)
            }
            Done::Asked(key, asked) => self.machine.on_asked(key, asked, now),
            Done::Probed(result) => {
                self.machine.on_probed(result.err().map(|unreached| unreached.cause), now)
            }
            Done::Known(key, status) => {
                self.outbox.push(Order::Known { key, status });
                Vec::new()
            }
            Done::Steered(key, wish, result) => {
                self.steering.remove(&key);
                self.outbox.push(Order::Steered { key, wish, result });
                Vec::new()
            }
        };
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Tell(order) => {
                    match &order {
                        Order::Assigned { key, executor, .. } => {
                            self.accepted += 1;
                            tracing::info!(
                                session.id = %key.session, mission.id = %key.mission,
                                executor.id = executor.as_ref().map_or("unknown", ExecutorId::as_str), "mission assigned"
                            );
                        }
                        Order::Failed { key, reason, message, .. } => {
                            self.refused += 1;
                            tracing::warn!(
                                session.id = %key.session, mission.id = %key.mission, reason = %reason,
                                error = message, "mission failed before any executor had it"
                            );
                        }
                        Order::Begin { .. }
                        | Order::Unsent { .. }
                        | Order::Known { .. }
                        | Order::Steered { .. } => {}
                    }
                    self.outbox.push(order);
                }
                Effect::Send { key, dispatch } => self.send(key, dispatch),
                Effect::Ask { key, not_before } => {
                    let (client, done) = (Arc::clone(&self.client), self.done.clone());
                    self.tasks.spawn("ask", async move {
                        let asked = client.ask(key.mission.as_str(), not_before).await;
                        report_to(&done, Done::Asked(key, asked)).await;
                    });
                }
                Effect::Probe => {
                    let (client, done) = (Arc::clone(&self.client), self.done.clone());
                    self.tasks.spawn("probe", async move {
                        let result = client.probe().await;
                        report_to(&done, Done::Probed(result)).await;
                    });
                }
                Effect::Away { cause } => tracing::warn!(
                    error = cause,
                    "the registry is unreachable; missions stay queued and go on when it is back"
                ),
                Effect::Back { after } => {
                    tracing::info!(
                        duration_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
                        "the registry is back"
                    );
                }
            }
        }
    }

    fn send(&mut self, key: MissionKey, dispatch: Dispatch) {
        let number = self.idle_couriers.pop().unwrap_or_else(|| self.hire_courier());
        let address = self.address_of(&dispatch.wire_session);
        let errand = Errand { key, dispatch, address };
        let takes_it = |courier: &mpsc::Sender<Errand>| courier.try_send(errand).is_ok();
        if !self.couriers.get(number).is_some_and(takes_it) {
            // An idle courier has room for an errand, and none ends before the dispatcher does.
            tracing::error!("a request could not be sent; the next start asks the registry about it");
        }
    }

    /// Most requests go where the one before went.
    fn address_of(&mut self, wire_session: &Arc<str>) -> Address {
        match &self.last_address {
            Some((session, address)) if session == wire_session => address.clone(),
            Some(_) | None => {
                let address = self.client.dispatch_address(wire_session);
                self.last_address = Some((Arc::clone(wire_session), address.clone()));
                address
            }
        }
    }

    /// A courier lives as long as the dispatcher: a task for every request would be some kilobytes of memory, made and
    /// given back thousands of times a second.
    fn hire_courier(&mut self) -> usize {
        let number = self.couriers.len();
        let (errands, mut inbox) = mpsc::channel::<Errand>(1);
        let (courier, done) = (self.courier.clone(), self.done.clone());
        self.tasks.spawn("courier", async move {
            while let Some(errand) = inbox.recv().await {
                let (key, outcome) = courier.deliver(errand).await;
                report_to(&done, Done::Dispatched(number, key, outcome)).await;
            }
        });
        self.couriers.push(errands);
        number
    }

    /// A wish is passed on until the registry has an opinion of it, or somebody wishes otherwise.
    fn steer(&mut self, key: MissionKey, wish: Wish) {
        let newer = CancellationToken::new();
        if let Some(older) = self.steering.insert(key.clone(), newer.clone()) {
            older.cancel();
        }
        let (client, done, shutdown) = (Arc::clone(&self.client), self.done.clone(), self.shutdown.clone());
        self.tasks.spawn("steer", async move {
            for delay in RetryPolicy::DISPATCH.delays(0, clock::now().instant) {
                if newer.is_cancelled() {
                    return;
                }
                match client.steer(key.mission.as_str(), &wish).await {
                    Ok(result) => {
                        let ended = result == Steered::Terminal;
                        let status = if ended { client.status(key.mission.as_str()).await } else { None };
                        if let Some(status) = status {
                            report_to(&done, Done::Known(key.clone(), Box::new(status))).await;
                        }
                        return report_to(&done, Done::Steered(key, wish, result)).await;
                    }
                    Err(Unreached { cause }) => {
                        tracing::debug!(mission.id = %key.mission, wish = wish.as_str(), error = cause, "not passed on yet");
                    }
                }
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    () = newer.cancelled() => return,
                    () = shutdown.started() => return,
                }
            }
        });
    }

    /// Reports at most every [`REPORT_EVERY`], and at once when the last work has ended. Returns when the report that was
    /// left out is due: what happened last before a silence is reported too.
    fn publish(&mut self, report: &watch::Sender<Report>) -> Option<tokio::time::Instant> {
        let now = tokio::time::Instant::now();
        let idle = self.machine.is_idle() && self.outbox.is_empty() && self.steering.is_empty();
        let due = now.duration_since(self.reported_at) >= REPORT_EVERY;
        if due || idle != self.reported_idle || self.machine.away().is_some() != self.reported_away {
            self.reported_at = now;
            self.reported_idle = idle;
            self.reported_away = self.machine.away().is_some();
            report.send_modify(|report| self.update(report));
            return None;
        }
        Some(self.reported_at + REPORT_EVERY)
    }

    fn update(&self, report: &mut Report) {
        report.in_flight = self.machine.in_flight();
        report.queued = self.machine.queued();
        report.away = self.machine.away().map(|(since, cause)| (since, cause.to_owned()));
        report.delays = self.machine.delays().take(REPORTED_DELAYS).collect();
        report.idle = self.machine.is_idle() && self.outbox.is_empty() && self.steering.is_empty();
        report.accepted = self.accepted;
        report.refused = self.refused;
    }
}

async fn report_to(done: &mpsc::Sender<Done>, what: Done) {
    if done.send(what).await.is_err() {
        tracing::debug!("an answer came after the end; the journal knows that its request was open");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::{MissionId, SessionId};
    use crate::domain::mission::Priority;
    use crate::net::http::{self, Http};
    use crate::session::document::Document;
    use crate::session::messages::Offer;
    use axum::http::StatusCode;
    use axum::routing::post;

    #[tokio::test]
    async fn many_missions_are_sent_by_as_many_couriers_as_there_are_slots() {
        const MISSIONS: usize = 100;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let serve_url = format!("http://{}", listener.local_addr().unwrap());
        let accept = post(async || (StatusCode::ACCEPTED, "{}"));
        let registry = axum::Router::new().route("/api/v1/sessions/s/dispatch", accept);
        let shutdown = Shutdown::new();
        let tasks = Tasks::new(shutdown.clone());
        let serving = axum::serve(listener, registry).with_graceful_shutdown({
            let shutdown = shutdown.clone();
            async move { shutdown.started().await }
        });
        tasks.spawn("registry", async move { serving.await.unwrap() });
        let (news, heard) = mpsc::channel(16);
        let (orders, mut told) = mpsc::channel(16);
        let channels = Channels { news: heard, orders, report: watch::Sender::default() };
        let client = Client::new(Http::new(http::Config::default()).unwrap(), serve_url, None);
        let config = Config { max_in_flight: 2, ..Config::default() };
        tasks.spawn("dispatcher", run(config, Payload::default(), client, channels, shutdown.clone(), 1));

        let session = SessionId::new("s").unwrap();
        let mission = |n| MissionId::new(format!("m-{n}")).unwrap();
        let offer = |n| Offer { mission: mission(n), priority: Priority::Normal, created_at: None, index: n };
        let missions = (0..MISSIONS).map(offer).collect();
        news.send(vec![News::Offers { session, missions }]).await.unwrap();
        let text = Document::parse(r#"{"missions":[{"objective":"x"}]}"#).unwrap();
        let mut assigned = 0;
        while assigned < MISSIONS {
            for order in told.recv().await.unwrap() {
                if let Order::Begin { key } = order {
                    let dispatch = Dispatch {
                        wire_session: Arc::from("s"),
                        mission: text.mission_at(0).unwrap().to_text(),
                        idempotency_key: key.mission.to_string(),
                        run: 1,
                        attempt: 1,
                    };
                    news.send(vec![News::Begun { key, dispatch }]).await.unwrap();
                } else {
                    assert!(matches!(order, Order::Assigned { .. }), "{order:?}");
                    assigned += 1;
                }
            }
        }
        // Two couriers, two connections with a task at either end, the dispatcher, the registry.
        let alive = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        assert!(alive <= 12, "{alive} tasks for two slots");
        shutdown.start(crate::runtime::shutdown::Cause::Finished);
        drop(told);
        assert!(tasks.join(std::time::Duration::from_secs(10)).await);
    }
}
