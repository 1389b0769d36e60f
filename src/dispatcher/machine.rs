//! Pure: what becomes of a mission between the queue and an executor.
//!
//! | state of a flight | event | becomes | asks for |
//! |---|---|---|---|
//! | – | a free slot, the gate open, an offer | beginning | begin |
//! | beginning | begun | sending, or ready when every slot is taken | send |
//! | beginning | skipped | – | – |
//! | ready | a free slot | sending | send |
//! | ready | too old, or the gate closes | in the queue again | unsent |
//! | sending | 2xx | – | assigned |
//! | sending | 4xx that is final | – | failed |
//! | sending | nobody has room | waiting for room | unsent |
//! | sending | 503, 5xx, 408, 425, 429, 409 with `Retry-After` | waiting, or – | failed when the attempts have run out |
//! | sending | certainly not arrived | in the queue again | unsent; the gate closes |
//! | sending | perhaps arrived | uncertain | – |
//! | waiting | its time has come, the gate open | beginning | begin |
//! | waiting for room | a mission ended, or its time has come | beginning | begin |
//! | uncertain | the gate open, its time has come | asking | ask |
//! | asking | the registry knows it | – | assigned |
//! | asking | not known, the grace not over | uncertain | – |
//! | asking | not known | in the queue again | unsent |
//!
//! A slot is held while *sending* and while *asking*: waiting costs none. While the registry answers within
//! [`BRISK`], as many missions again as there are slots may be *beginning* or *ready*, and [`AHEAD`] times as many while it
//! answers within [`VERY_BRISK`] and nobody waits for room, so that hardly a slot waits for the journal. What is ready was
//! looked at in its file a moment ago; after [`READY_FOR`] that is too long ago, and the mission is looked at again before it is sent. A registry
//! that takes its time finds nothing claimed ahead.
//!
//! Waiting for room costs no attempt and may take for ever: that is what a queue is for. Who tries when is in
//! [`super::crowd`].

use super::crowd::Crowd;
use super::queue::Queue;
use super::reachability::Reachability;
use super::verdict::{Verdict, judge};
use super::{Config, OnUnreachable};
use crate::domain::id::{ExecutorId, SessionId};
use crate::domain::mission::{FailureReason, Priority};
use crate::domain::time::{Now, Timestamp};
use crate::session::messages::{Dispatch, MissionKey, Offer, Order};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Answers that come this fast on average let missions be claimed ahead.
pub const BRISK: Duration = Duration::from_millis(25);

/// How many times the slots are claimed ahead of a registry that answers within [`VERY_BRISK`]: it answers all of them in
/// about the time that the claims of the next turns take to reach the disk.
pub const AHEAD: usize = 3;

/// What is claimed [`AHEAD`] waits that many times as long for its slot as an answer takes: less than a third of [`READY_FOR`].
pub const VERY_BRISK: Duration = Duration::from_millis(10);

/// How long a claimed mission may wait for a slot before its file has to be looked at again.
pub const READY_FOR: Duration = Duration::from_millis(100);

/// How many missions of a session go out in one turn: a quarter of the slots, so that several sessions are served at once,
/// and at most as many as make a write of the journal worth its while. Ahead of a brisk registry turns are longer, four times
/// or eight times: the next one comes in a few milliseconds all the same, and each is a flush of a journal.
pub fn turn_length(max_in_flight: usize) -> usize {
    (max_in_flight / 4).clamp(1, 16)
}

/// A registry that asks for no more than this knows of room elsewhere.
const ELSEWHERE: Duration = Duration::from_secs(1);

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// 2xx.
    Accepted {
        /// The executor, when the answer named one.
        executor: Option<ExecutorId>,
        /// The answer's estimate.
        estimated_start: Option<String>,
    },
    /// Any other answer.
    Refused {
        /// The status code.
        status: u16,
        /// `Retry-After`, as a duration.
        retry_after: Option<Duration>,
        /// The mission need only wait for room.
        busy: bool,
        /// The sentence for people.
        message: String,
        /// What else is known of it while it waits, such as how many executors there are.
        remark: Option<String>,
    },
    /// No connection was made.
    Unreachable {
        /// Why, in one line.
        cause: String,
    },
    /// The connection broke or the time ran out: perhaps it arrived.
    Uncertain {
        /// Why, in one line.
        cause: String,
    },
}

/// What the registry says about a mission that may have arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// It knows the mission.
    Known {
        /// Its executor, if it has one.
        executor: Option<ExecutorId>,
    },
    /// It does not.
    NotKnown,
    /// It has no such route, or answered in some other way that tells nothing.
    NoAnswer {
        /// The status code.
        status: u16,
    },
    /// No complete answer.
    Unreachable {
        /// Why, in one line.
        cause: String,
    },
}

/// What the machine asks for.
#[derive(Debug, Clone)]
#[must_use]
pub enum Effect {
    /// Tell the folder.
    Tell(Order),
    /// Send the request.
    Send {
        /// Which mission.
        key: MissionKey,
        /// What to send.
        dispatch: Dispatch,
    },
    /// Ask whether the mission is known.
    Ask {
        /// Which mission.
        key: MissionKey,
        /// In a later run: when its request left. What had ended by then was an earlier run.
        not_before: Option<Timestamp>,
    },
    /// Ask whether the registry is there.
    Probe,
    /// The gate has just closed.
    Away {
        /// Why, in one line.
        cause: String,
    },
    /// The gate has just opened.
    Back {
        /// How long it was closed.
        after: Duration,
    },
}

#[derive(Debug)]
struct Flight {
    stage: Stage,
    run: u32,
    attempts: u32,
    /// Answers "not known" or nothing so far, for an uncertain one.
    asked: u32,
    sent_at: Timestamp,
    sent: Instant,
    priority: Priority,
    created_at: Option<Timestamp>,
    index: usize,
    why: Option<String>,
    /// How often in a row nobody had room for it.
    crowded_out: u32,
    /// Its place among those that wait for room.
    place: u64,
}

/// Claimed, and waiting for a slot.
#[derive(Debug)]
struct Ready {
    key: MissionKey,
    dispatch: Dispatch,
    since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Beginning,
    Ready,
    Sending,
    Waiting { until: Instant, wall: Timestamp },
    Uncertain { until: Instant },
    Asking,
}

/// Why a mission that was begun is not with an executor yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delay {
    /// Which mission.
    pub key: MissionKey,
    /// When it is tried again, when that is known.
    pub until: Option<Timestamp>,
    /// Why, for people.
    pub why: String,
    /// Requests sent so far.
    pub attempts: u32,
}

/// The dispatcher's decisions.
#[derive(Debug)]
pub struct Machine {
    config: Config,
    /// Decides the jitter, with the mission's name.
    seed: u64,
    queue: Queue,
    gate: Reachability,
    flights: HashMap<MissionKey, Flight>,
    timers: BTreeSet<(Instant, MissionKey)>,
    crowd: Crowd,
    next_place: u64,
    beginning: usize,
    ready: VecDeque<Ready>,
    slots_used: usize,
    /// How long an answer takes, on a running average; unknown until one has come.
    pace: Option<Duration>,
    closing: bool,
}

impl Machine {
    /// Starts with nothing to do; `seed` decides the jitter.
    pub fn new(config: Config, seed: u64) -> Self {
        Self {
            config,
            seed,
            queue: Queue::default(),
            gate: Reachability::new(seed),
            flights: HashMap::new(),
            timers: BTreeSet::new(),
            crowd: Crowd::default(),
            next_place: 0,
            beginning: 0,
            ready: VecDeque::new(),
            slots_used: 0,
            pace: None,
            closing: false,
        }
    }

    /// Everything that may be dispatched from a session now.
    pub fn on_offers(&mut self, session: &SessionId, mut offers: Vec<Offer>) {
        let mut key = None;
        offers.retain(|offer| {
            let key: &mut MissionKey = key.get_or_insert_with(|| MissionKey {
                session: session.clone(),
                mission: offer.mission.clone(),
            });
            key.mission.clone_from(&offer.mission);
            !self.flights.contains_key(key)
        });
        self.queue.replace(session, offers);
    }

    /// Starts whatever can start now. Call it after every event.
    #[must_use]
    pub fn advance(&mut self, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.gate.take_probe(now) && !self.closing {
            effects.push(Effect::Probe);
        }
        self.start_due(now, &mut effects);
        self.send_ready(now, &mut effects);
        // Claims of one session that start together share a write of its journal. Ahead of a brisk registry there is time
        // for whole turns only, and for longer ones.
        let turn_length = self.turn_length();
        let (mut room, mut rest_of_turn) = (self.claims_allowed(), 0);
        while room > 0 {
            let is_crowded = self.is_crowded();
            if is_crowded && !self.crowd.may_pass(now.instant) {
                break;
            }
            let is_ahead = self.ahead() > 0 && self.beginning + self.ready.len() > 0;
            if is_ahead && !is_crowded && rest_of_turn == 0 {
                rest_of_turn = self.queue.rest_of_turn(turn_length);
                if rest_of_turn > room {
                    break;
                }
            }
            let Some((key, offer)) = self.queue.pop(turn_length) else { break };
            room -= 1;
            rest_of_turn = rest_of_turn.saturating_sub(1);
            self.next_place += 1;
            self.beginning += 1;
            let flight = Flight {
                stage: Stage::Beginning,
                run: 1,
                attempts: 0,
                asked: 0,
                sent_at: now.wall,
                sent: now.instant,
                priority: offer.priority,
                created_at: offer.created_at,
                index: offer.index,
                why: None,
                crowded_out: 0,
                place: self.next_place,
            };
            self.flights.insert(key.clone(), flight);
            effects.push(Effect::Tell(Order::Begin { key }));
        }
        effects
    }

    /// Those whose time has come.
    fn start_due(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while self.claims_allowed() > 0 && self.slots_used < self.config.max_in_flight {
            let due = |(until, _): &&(Instant, MissionKey)| *until <= now.instant;
            let Some((until, key)) = self.timers.first().filter(due).cloned() else { break };
            self.timers.remove(&(until, key.clone()));
            let Some(flight) = self.flights.get_mut(&key) else { continue };
            if matches!(flight.stage, Stage::Uncertain { .. }) {
                self.slots_used += 1;
                flight.stage = Stage::Asking;
                let not_before = (flight.run > 1).then_some(flight.sent_at);
                effects.push(Effect::Ask { key, not_before });
            } else {
                self.beginning += 1;
                flight.stage = Stage::Beginning;
                effects.push(Effect::Tell(Order::Begin { key }));
            }
        }
    }

    /// Says whether as many as there are slots wait for room before the next in the queue.
    fn is_crowded(&self) -> bool {
        self.crowd.stands_before(|| self.queue.next_priority(), self.config.max_in_flight)
    }

    /// So many missions have ended: as many that wait for room may try.
    pub fn on_room(&mut self, count: usize, now: Now) {
        /// Longer than those who try one after the other need.
        const ALREADY: Duration = Duration::from_millis(1);
        let waits = |key: &MissionKey| match self.flights.get(key)?.stage {
            Stage::Waiting { until, .. } => Some(until).filter(|until| *until > now.instant + ALREADY),
            Stage::Beginning | Stage::Ready | Stage::Sending | Stage::Uncertain { .. } | Stage::Asking => {
                None
            }
        };
        let next = self.crowd.iter().filter_map(|key| Some((key.clone(), waits(key)?)));
        let next: Vec<(MissionKey, Instant)> = next.take(count).collect();
        self.crowd.keep(count - next.len());
        // One after the other: the timers keep their order.
        for (at, (key, until)) in (0..).map(Duration::from_nanos).zip(next) {
            let at = now.instant + at;
            self.timers.remove(&(until, key.clone()));
            if let Some(flight) = self.flights.get_mut(&key) {
                flight.stage = Stage::Waiting { until: at, wall: now.wall };
            }
            self.timers.insert((at, key));
        }
    }

    /// Those that were claimed ahead, into the free slots; all of them back into the queue when the first is too old.
    fn send_ready(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.ready.front().is_some_and(|ready| ready.since + READY_FOR <= now.instant) {
            self.pace = None;
            return self.unclaim(effects);
        }
        while self.slots_used < self.config.max_in_flight {
            let Some(Ready { key, dispatch, .. }) = self.ready.pop_front() else { break };
            effects.extend(self.send(key, dispatch, now));
        }
    }

    fn unclaim(&mut self, effects: &mut Vec<Effect>) {
        // Backwards: each goes to the head of its queue, and the oldest is to stand first.
        while let Some(ready) = self.ready.pop_back() {
            effects.extend(self.return_to_queue(ready.key));
        }
    }

    fn turn_length(&self) -> usize {
        let (slots, turn) = (self.config.max_in_flight.max(1), turn_length(self.config.max_in_flight));
        match self.ahead() {
            0 => turn,
            1 => (turn * 4).min(slots),
            _ => (turn * 8).min(slots * 2),
        }
    }

    /// How many times the slots may be claimed ahead now.
    fn ahead(&self) -> usize {
        match self.pace {
            // While somebody waits for room, more of them would only join those.
            Some(pace) if pace <= VERY_BRISK && self.crowd.is_empty() => AHEAD,
            Some(pace) if pace <= BRISK => 1,
            Some(_) | None => 0,
        }
    }

    /// How many more missions may be claimed now.
    fn claims_allowed(&self) -> usize {
        if !self.gate.is_open() || self.closing {
            return 0;
        }
        (self.config.max_in_flight * (1 + self.ahead()))
            .saturating_sub(self.slots_used + self.beginning + self.ready.len())
    }

    /// The folder handed the request over: its journal line is on disk.
    #[must_use]
    pub fn on_begun(&mut self, key: MissionKey, dispatch: Dispatch, now: Now) -> Vec<Effect> {
        let Some(flight) = self.flights.get_mut(&key).filter(|f| f.stage == Stage::Beginning) else {
            return vec![Effect::Tell(Order::Unsent { key, run: dispatch.run })];
        };
        flight.run = dispatch.run;
        flight.attempts = dispatch.attempt;
        if !self.gate.is_open() || self.closing {
            return self.return_to_queue(key);
        }
        self.beginning -= 1;
        if self.slots_used < self.config.max_in_flight && self.ready.is_empty() {
            return self.send(key, dispatch, now).into_iter().collect();
        }
        flight.stage = Stage::Ready;
        self.ready.push_back(Ready { key, dispatch, since: now.instant });
        Vec::new()
    }

    fn send(&mut self, key: MissionKey, dispatch: Dispatch, now: Now) -> Option<Effect> {
        let flight = self.flights.get_mut(&key)?;
        flight.stage = Stage::Sending;
        flight.sent_at = now.wall;
        flight.sent = now.instant;
        self.slots_used += 1;
        Some(Effect::Send { key, dispatch })
    }

    /// The file no longer asks for it.
    pub fn on_skipped(&mut self, key: &MissionKey) {
        self.end(key);
    }

    /// A bridge before us may have sent this one.
    pub fn on_uncertain(&mut self, key: MissionKey, run: u32, attempts: u32, since: Timestamp, now: Now) {
        if self.flights.contains_key(&key) {
            return;
        }
        let flight = Flight {
            stage: Stage::Uncertain { until: now.instant },
            run,
            attempts,
            asked: 0,
            sent_at: since,
            sent: now.instant,
            priority: Priority::Normal,
            created_at: None,
            index: 0,
            why: Some("a bridge before this one may have sent it; the registry is asked first".to_owned()),
            crowded_out: 0,
            place: 0,
        };
        self.flights.insert(key.clone(), flight);
        self.timers.insert((now.instant, key));
    }

    /// A request ended.
    #[must_use]
    pub fn on_outcome(&mut self, key: MissionKey, outcome: Outcome, now: Now) -> Vec<Effect> {
        let Some(flight) = self.flights.get_mut(&key).filter(|f| f.stage == Stage::Sending) else {
            return Vec::new();
        };
        let (run, attempts) = (flight.run, flight.attempts);
        let took = now.instant.saturating_duration_since(flight.sent);
        if matches!(outcome, Outcome::Accepted { .. } | Outcome::Refused { .. }) {
            self.pace = Some(self.pace.map_or(took, |pace| (pace * 7 + took) / 8));
        }
        match outcome {
            Outcome::Accepted { executor, estimated_start } => {
                let mut effects = self.answered(now);
                self.end(&key);
                self.crowd.let_pass();
                effects.push(Effect::Tell(Order::Assigned {
                    key,
                    run,
                    executor,
                    estimated_start,
                    at: now.wall,
                }));
                effects
            }
            Outcome::Refused { busy: true, retry_after, message, .. } => {
                let mut effects = self.answered(now);
                self.wait_for_room(&key, retry_after, message, now);
                effects.push(Effect::Tell(Order::Unsent { key, run }));
                effects
            }
            Outcome::Refused { status, retry_after, message, remark, .. } => {
                let mut effects = self.answered(now);
                match judge(&self.config, status, attempts, retry_after, self.seed ^ seed_of(&key), now) {
                    Verdict::Fail(reason) => {
                        self.end(&key);
                        effects.push(Effect::Tell(Order::Failed { key, run, reason, message, at: now.wall }));
                    }
                    Verdict::Again(delay) => {
                        self.leave_crowd(&key);
                        let why = remark.map_or(message.clone(), |remark| format!("{message} ({remark})"));
                        self.wait(&key, delay, why, now);
                    }
                }
                effects
            }
            Outcome::Unreachable { cause } => {
                let mut effects = self.unreached(&cause, now);
                if self.config.on_unreachable == OnUnreachable::Fail {
                    if attempts >= self.config.max_attempts {
                        self.end(&key);
                        let reason = FailureReason::Unreachable;
                        effects.push(Effect::Tell(Order::Failed {
                            key,
                            run,
                            reason,
                            message: cause,
                            at: now.wall,
                        }));
                    } else {
                        let delay = self.delay_after(attempts, &key, now);
                        self.wait(&key, delay, cause, now);
                    }
                } else {
                    effects.extend(self.return_to_queue(key));
                }
                effects
            }
            Outcome::Uncertain { cause } => {
                let effects = self.unreached(&cause, now);
                self.release_slot(&key);
                self.doubt(
                    &key,
                    Duration::ZERO,
                    format!("the request broke off ({cause}); the registry is asked first"),
                    now,
                );
                effects
            }
        }
    }

    /// The registry was asked about an uncertain mission.
    #[must_use]
    pub fn on_asked(&mut self, key: MissionKey, asked: Asked, now: Now) -> Vec<Effect> {
        /// A registry without the route cannot be asked; after this many useless answers the mission is sent again.
        const USELESS_ANSWERS: u32 = 5;
        let Some(flight) = self.flights.get_mut(&key).filter(|f| f.stage == Stage::Asking) else {
            return Vec::new();
        };
        let run = flight.run;
        let age = now.wall.since(flight.sent_at);
        let grace = self.config.uncertain_grace;
        flight.asked = flight.asked.saturating_add(1);
        let asked_so_far = flight.asked;
        let mut effects = match &asked {
            Asked::Unreachable { cause } => self.unreached(cause, now),
            Asked::Known { .. } | Asked::NotKnown | Asked::NoAnswer { .. } => self.answered(now),
        };
        match asked {
            Asked::Known { executor } => {
                self.end(&key);
                effects.push(Effect::Tell(Order::Assigned {
                    key,
                    run,
                    executor,
                    estimated_start: None,
                    at: now.wall,
                }));
            }
            Asked::NotKnown if age >= grace => effects.extend(self.return_to_queue(key)),
            Asked::NotKnown => {
                self.release_slot(&key);
                let why = "it may still be on its way to the registry; asked again".to_owned();
                self.doubt(&key, grace.saturating_sub(age).max(Duration::from_millis(50)), why, now);
            }
            Asked::NoAnswer { .. } if asked_so_far >= USELESS_ANSWERS => {
                effects.extend(self.return_to_queue(key));
            }
            Asked::NoAnswer { status } => {
                self.release_slot(&key);
                let delay = self.delay_after(asked_so_far, &key, now);
                self.doubt(
                    &key,
                    delay,
                    format!("the registry answered HTTP {status} when asked whether it has it"),
                    now,
                );
            }
            Asked::Unreachable { cause }
                if self.config.on_unreachable == OnUnreachable::Fail
                    && asked_so_far >= self.config.max_attempts =>
            {
                self.end(&key);
                let reason = FailureReason::Unreachable;
                let message = format!(
                    "{cause}; a request that was not answered may have arrived, so it may be running"
                );
                effects.push(Effect::Tell(Order::Failed { key, run, reason, message, at: now.wall }));
            }
            Asked::Unreachable { cause } => {
                self.release_slot(&key);
                let delay = match self.config.on_unreachable {
                    // The gate says when.
                    OnUnreachable::Wait => Duration::ZERO,
                    OnUnreachable::Fail => self.delay_after(asked_so_far, &key, now),
                };
                self.doubt(
                    &key,
                    delay,
                    format!("the registry cannot be asked whether it has it: {cause}"),
                    now,
                );
            }
        }
        effects
    }

    /// Somebody else who talks to the registry says whether it is there. While it is away, probes say how often to ask.
    #[must_use]
    pub fn on_told(&mut self, answered: Result<(), String>, now: Now) -> Vec<Effect> {
        match answered {
            Ok(()) => self.answered(now),
            Err(cause) if self.gate.is_open() => self.unreached(&cause, now),
            Err(_known) => Vec::new(),
        }
    }

    /// The probe came back.
    #[must_use]
    pub fn on_probed(&mut self, unreachable: Option<String>, now: Now) -> Vec<Effect> {
        match unreachable {
            Some(cause) => self.unreached(&cause, now),
            None => self.answered(now),
        }
    }

    /// Takes nothing new from here on; open requests may end.
    pub fn close(&mut self) -> Vec<Effect> {
        self.closing = true;
        let mut effects = Vec::new();
        self.unclaim(&mut effects);
        effects
    }

    /// Returns how many slots are in use: requests that are open.
    pub fn in_flight(&self) -> usize {
        self.slots_used
    }

    /// Says whether no request is open and no claim awaited.
    pub fn is_still(&self) -> bool {
        self.slots_used + self.beginning + self.ready.len() == 0
    }

    /// Returns how many offered missions wait for a slot.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Says whether nothing is queued, waiting or open.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.flights.is_empty()
    }

    /// Returns since when and why the registry is away.
    pub fn away(&self) -> Option<(Timestamp, &str)> {
        self.gate.away()
    }

    /// Returns every mission that was begun and is held up, and why.
    pub fn delays(&self) -> impl Iterator<Item = Delay> + '_ {
        self.flights.iter().filter_map(|(key, flight)| {
            let until = match flight.stage {
                Stage::Waiting { wall, .. } => Some(wall),
                Stage::Beginning | Stage::Ready | Stage::Sending => return None,
                Stage::Uncertain { .. } | Stage::Asking => None,
            };
            let why = flight.why.clone().unwrap_or_default();
            Some(Delay { key: key.clone(), until, why, attempts: flight.attempts })
        })
    }

    /// Returns when [`Machine::advance`] wants to be called again.
    pub fn next_wakeup(&self) -> Option<Instant> {
        if self.closing {
            return None;
        }
        if !self.gate.is_open() {
            return self.gate.next_wakeup();
        }
        let stale = self.ready.front().map(|ready| ready.since + READY_FOR);
        let has_room = self.slots_used < self.config.max_in_flight && self.claims_allowed() > 0;
        let due = self.timers.first().filter(|_| has_room).map(|(until, _)| *until);
        // While claims are awaited, their end is what wakes us.
        let may_claim = has_room && self.beginning + self.ready.len() == 0;
        let passing = self.crowd.pass_at().filter(|_| may_claim && self.is_crowded());
        stale.into_iter().chain(due).chain(passing).min()
    }

    fn answered(&mut self, now: Now) -> Vec<Effect> {
        self.gate.on_answer(now).map(|after| Effect::Back { after }).into_iter().collect()
    }

    fn unreached(&mut self, cause: &str, now: Now) -> Vec<Effect> {
        self.pace = None;
        if self.config.on_unreachable == OnUnreachable::Fail {
            // Everyone counts for themselves; nobody waits for anybody.
            return Vec::new();
        }
        let mut effects = Vec::new();
        if self.gate.on_unreachable(cause, now) {
            effects.push(Effect::Away { cause: cause.to_owned() });
        }
        if !self.gate.is_open() {
            self.unclaim(&mut effects);
        }
        effects
    }

    /// The delay after so many attempts, drawn for this mission and this bridge where it is drawn at all.
    fn delay_after(&self, attempts: u32, key: &MissionKey, now: Now) -> Duration {
        self.config.retry.delay_after(attempts, None, self.seed ^ seed_of(key), now.instant)
    }

    fn release_slot(&mut self, key: &MissionKey) {
        match self.flights.get(key).map(|flight| flight.stage) {
            Some(Stage::Beginning) => self.beginning -= 1,
            Some(Stage::Sending | Stage::Asking) => self.slots_used -= 1,
            Some(Stage::Ready | Stage::Waiting { .. } | Stage::Uncertain { .. }) | None => {}
        }
    }

    fn end(&mut self, key: &MissionKey) {
        self.release_slot(key);
        self.leave_crowd(key);
        self.flights.remove(key);
    }

    fn leave_crowd(&mut self, key: &MissionKey) {
        if let Some(flight) = self.flights.get_mut(key).filter(|flight| flight.crowded_out > 0) {
            flight.crowded_out = 0;
            self.crowd.leave(flight.priority, flight.place, key);
        }
    }

    fn wait_for_room(&mut self, key: &MissionKey, retry_after: Option<Duration>, why: String, now: Now) {
        let Some(flight) = self.flights.get_mut(key) else { return };
        flight.attempts = flight.attempts.saturating_sub(1);
        let has_room = self.crowd.join(flight.priority, flight.place, key.clone());
        let delay = match retry_after {
            _any if has_room => Duration::ZERO,
            Some(soon) if soon <= ELSEWHERE => soon,
            other => {
                let seed = self.seed ^ seed_of(key);
                self.config.retry.delay_after(flight.crowded_out + 1, other, seed, now.instant)
            }
        };
        flight.crowded_out = flight.crowded_out.saturating_add(1);
        self.wait(key, delay, why, now);
    }

    fn wait(&mut self, key: &MissionKey, delay: Duration, why: String, now: Now) {
        self.release_slot(key);
        if let Some(flight) = self.flights.get_mut(key) {
            let until = now.instant + delay;
            flight.stage = Stage::Waiting { until, wall: now.wall.plus(delay) };
            flight.why = Some(why);
            self.timers.insert((until, key.clone()));
        }
    }

    fn doubt(&mut self, key: &MissionKey, delay: Duration, why: String, now: Now) {
        if let Some(flight) = self.flights.get_mut(key) {
            let until = now.instant + delay;
            flight.stage = Stage::Uncertain { until };
            flight.why = Some(why);
            self.timers.insert((until, key.clone()));
        }
    }

    fn return_to_queue(&mut self, key: MissionKey) -> Vec<Effect> {
        self.release_slot(&key);
        self.leave_crowd(&key);
        let mut run = 1;
        if let Some(flight) = self.flights.remove(&key) {
            run = flight.run;
            let offer = Offer {
                mission: key.mission.clone(),
                priority: flight.priority,
                created_at: flight.created_at,
                index: flight.index,
            };
            self.queue.put_back(&key.session, offer);
        }
        vec![Effect::Tell(Order::Unsent { key, run })]
    }
}

fn seed_of(key: &MissionKey) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::MissionId;
    use crate::domain::retry::RetryPolicy;
    use crate::session::document::Document;
    use proptest::prelude::*;
    use std::collections::HashSet;
    use std::sync::Arc;

    fn key(n: usize) -> MissionKey {
        MissionKey {
            session: SessionId::new("s").unwrap(),
            mission: MissionId::new(format!("m{n}")).unwrap(),
        }
    }

    fn offers(count: usize) -> Vec<Offer> {
        let offer =
            |n| Offer { mission: key(n).mission, priority: Priority::Normal, created_at: None, index: n };
        (0..count).map(offer).collect()
    }

    fn dispatch(attempt: u32) -> Dispatch {
        Dispatch {
            wire_session: Arc::from("s"),
            mission: Document::parse(r#"{"missions":[{}]}"#).unwrap().mission_at(0).unwrap().to_text(),
            idempotency_key: "k".to_owned(),
            run: 1,
            attempt,
        }
    }

    fn begun(effects: &[Effect]) -> Vec<MissionKey> {
        let begin = |effect: &Effect| {
            if let Effect::Tell(Order::Begin { key }) = effect { Some(key.clone()) } else { None }
        };
        effects.iter().filter_map(begin).collect()
    }

    struct Clock {
        start: Instant,
        millis: u64,
    }

    impl Clock {
        fn new() -> Self {
            Self { start: Instant::now(), millis: 0 }
        }

        fn now(&self) -> Now {
            let passed = Duration::from_millis(self.millis);
            Now { instant: self.start + passed, wall: Timestamp::from_millis(1_000_000).plus(passed) }
        }
    }

    fn machine(count: usize) -> (Machine, Clock) {
        let mut machine = Machine::new(Config { max_in_flight: 3, ..Config::default() }, 1);
        machine.on_offers(&key(0).session, offers(count));
        (machine, Clock::new())
    }

    fn refused(status: u16, retry_after: Option<u64>) -> Outcome {
        Outcome::Refused {
            status,
            retry_after: retry_after.map(Duration::from_secs),
            busy: false,
            message: "no".to_owned(),
            remark: Some("0 connected".to_owned()),
        }
    }

    fn crowded_out() -> Outcome {
        Outcome::Refused {
            status: 503,
            retry_after: None,
            busy: true,
            message: "full".to_owned(),
            remark: None,
        }
    }

    #[test]
    fn an_absent_registry_costs_nobody_an_attempt_and_one_probe_brings_everyone_back() {
        let (mut machine, mut clock) = machine(5);
        let started = begun(&machine.advance(clock.now()));
        assert_eq!(started.len(), 3);
        for key in &started {
            assert!(matches!(
                machine.on_begun(key.clone(), dispatch(1), clock.now())[..],
                [Effect::Send { .. }]
            ));
        }
        let mut away = 0;
        for key in started {
            let effects =
                machine.on_outcome(key, Outcome::Unreachable { cause: "refused".to_owned() }, clock.now());
            away += effects.iter().filter(|e| matches!(e, Effect::Away { .. })).count();
            assert!(effects.iter().any(|e| matches!(e, Effect::Tell(Order::Unsent { .. }))));
        }
        assert_eq!(away, 1);
        assert!(machine.advance(clock.now()).is_empty());
        assert_eq!((machine.queued(), machine.in_flight()), (5, 0));
        clock.millis = 250;
        assert!(matches!(machine.advance(clock.now())[..], [Effect::Probe]));
        assert!(machine.advance(clock.now()).is_empty());
        assert!(matches!(machine.on_probed(None, clock.now())[..], [Effect::Back { .. }]));
        assert_eq!(begun(&machine.advance(clock.now())).len(), 3);
    }

    #[test]
    fn an_uncertain_request_is_asked_about_and_sent_again_only_after_the_grace() {
        let (mut machine, mut clock) = machine(1);
        let key = begun(&machine.advance(clock.now())).remove(0);
        let _send = machine.on_begun(key.clone(), dispatch(1), clock.now());
        let _away =
            machine.on_outcome(key.clone(), Outcome::Uncertain { cause: "reset".to_owned() }, clock.now());
        clock.millis = 250;
        assert!(matches!(machine.advance(clock.now())[..], [Effect::Probe]));
        let _back = machine.on_probed(None, clock.now());
        assert!(matches!(machine.advance(clock.now())[..], [Effect::Ask { .. }]));
        assert!(machine.on_asked(key.clone(), Asked::NotKnown, clock.now()).is_empty());
        assert!(machine.advance(clock.now()).is_empty(), "it may still be on its way");
        clock.millis = 2100;
        assert!(matches!(machine.advance(clock.now())[..], [Effect::Ask { .. }]));
        assert!(matches!(
            machine.on_asked(key.clone(), Asked::NotKnown, clock.now())[..],
            [Effect::Tell(Order::Unsent { .. })]
        ));
        assert_eq!(begun(&machine.advance(clock.now())), [key]);
    }

    #[test]
    fn one_that_the_registry_knows_is_not_sent_again() {
        let (mut machine, clock) = machine(0);
        machine.on_uncertain(key(7), 1, 1, clock.now().wall, clock.now());
        assert!(matches!(machine.advance(clock.now())[..], [Effect::Ask { .. }]));
        let effects = machine.on_asked(key(7), Asked::Known { executor: None }, clock.now());
        assert!(matches!(effects[..], [Effect::Tell(Order::Assigned { .. })]));
        assert!(machine.is_idle());
    }

    #[test]
    fn waiting_costs_no_slot_and_ends_when_its_time_has_come() {
        let (mut machine, mut clock) = machine(4);
        let started = begun(&machine.advance(clock.now()));
        for key in &started {
            let _send = machine.on_begun(key.clone(), dispatch(1), clock.now());
        }
        clock.millis = 100;
        for key in started {
            assert!(machine.on_outcome(key, refused(503, Some(9)), clock.now()).is_empty());
        }
        assert_eq!(begun(&machine.advance(clock.now())), [key(3)]);
        assert_eq!(machine.delays().count(), 3);
        clock.millis = 9099;
        assert!(machine.advance(clock.now()).is_empty());
        assert_eq!(machine.next_wakeup(), Some(clock.start + Duration::from_millis(9100)));
        clock.millis = 9100;
        assert_eq!(begun(&machine.advance(clock.now())).len(), 2);
    }

    #[test]
    fn a_full_registry_costs_no_attempts_and_is_asked_about_a_few_who_get_room_in_order() {
        let (mut machine, mut clock) = machine(9);
        for _often in 0..20 {
            clock.millis += 30_000;
            for key in begun(&machine.advance(clock.now())) {
                let sent = machine.on_begun(key.clone(), dispatch(1), clock.now());
                assert!(matches!(sent[..], [Effect::Send { .. }]));
                let effects = machine.on_outcome(key, crowded_out(), clock.now());
                assert!(matches!(effects[..], [Effect::Tell(Order::Unsent { .. })]));
            }
        }
        // Besides the three, one passed them now and then.
        let waiting = machine.delays().count();
        assert!((4..9).contains(&waiting), "{waiting}");
        assert_eq!((machine.queued(), machine.in_flight()), (9 - waiting, 0));
        let passed = begun(&machine.advance(clock.now()));
        assert!(passed.len() <= 1, "{passed:?}");
        // One that passes and is accepted found room elsewhere: the next may look as well.
        clock.millis += 29_000;
        let mut accepted = 0;
        for key in passed.into_iter().chain(begun(&machine.advance(clock.now()))) {
            let _sent = machine.on_begun(key.clone(), dispatch(1), clock.now());
            let elsewhere = Outcome::Accepted { executor: None, estimated_start: None };
            let _assigned = machine.on_outcome(key, elsewhere, clock.now());
            accepted += begun(&machine.advance(clock.now())).len();
        }
        assert!(accepted >= 1);
        // Somebody more urgent does not stand behind them.
        let urgent = Offer {
            mission: MissionId::new("urgent").unwrap(),
            priority: Priority::Critical,
            created_at: None,
            index: 99,
        };
        machine.on_offers(&SessionId::new("other").unwrap(), vec![urgent]);
        let begun = begun(&machine.advance(clock.now()));
        assert!(begun.iter().any(|key| key.mission.as_str() == "urgent"), "{begun:?}");
    }

    #[test]
    fn room_goes_to_those_who_wait_in_order_and_is_kept_for_one_who_is_just_being_refused() {
        let (mut machine, mut clock) = machine(3);
        let keys = begun(&machine.advance(clock.now()));
        for key in &keys {
            let _sent = machine.on_begun(key.clone(), dispatch(1), clock.now());
            let _unsent = machine.on_outcome(key.clone(), crowded_out(), clock.now());
        }
        machine.on_room(1, clock.now());
        machine.on_room(1, clock.now());
        assert_eq!(begun(&machine.advance(clock.now())), [key(0), key(1)], "one for each room");
        machine.on_room(5, clock.now());
        assert_eq!(begun(&machine.advance(clock.now())), [key(2)]);
        // Nobody was left to wake: the room of the others is kept.
        let _sent = machine.on_begun(key(0), dispatch(1), clock.now());
        let _unsent = machine.on_outcome(key(0), crowded_out(), clock.now());
        clock.millis += 1;
        assert!(begun(&machine.advance(clock.now())).contains(&key(0)));
    }

    #[test]
    fn an_uncertain_mission_fails_by_and_by_where_unreachable_is_to_fail() {
        let config = Config { max_attempts: 3, on_unreachable: OnUnreachable::Fail, ..Config::default() };
        let mut machine = Machine::new(config, 1);
        machine.on_offers(&key(0).session, offers(1));
        let mut clock = Clock::new();
        let _begin = machine.advance(clock.now());
        let _send = machine.on_begun(key(0), dispatch(1), clock.now());
        let cut = Outcome::Uncertain { cause: "cut".to_owned() };
        assert!(machine.on_outcome(key(0), cut, clock.now()).is_empty());
        let gone = || Asked::Unreachable { cause: "refused".to_owned() };
        for wait in [0, 500, 1000] {
            assert!(machine.next_wakeup() >= Some(clock.now().instant), "no timer lies in the past");
            clock.millis += wait;
            let asked = machine.advance(clock.now());
            assert!(matches!(asked[..], [Effect::Ask { .. }]), "after {wait} ms: {asked:?}");
            let told = machine.on_asked(key(0), gone(), clock.now());
            if wait == 1000 {
                let failed = matches!(
                    &told[..],
                    [Effect::Tell(Order::Failed { reason: FailureReason::Unreachable, .. })]
                );
                assert!(failed, "{told:?}");
            } else {
                assert!(told.is_empty());
                assert!(machine.advance(clock.now()).is_empty(), "it is not asked again at once");
            }
        }
        assert!(machine.is_idle());
    }

    #[test]
    fn what_is_remarked_about_a_refusal_explains_the_wait_and_is_not_the_failure() {
        let (mut machine, clock) = machine(2);
        for (key, attempt) in begun(&machine.advance(clock.now())).into_iter().zip([1, 5]) {
            let _send = machine.on_begun(key.clone(), dispatch(attempt), clock.now());
            let told = machine.on_outcome(key, refused(503, None), clock.now());
            if attempt == 5 {
                assert!(
                    matches!(&told[..], [Effect::Tell(Order::Failed { message, .. })] if message == "no")
                );
            }
        }
        assert_eq!(machine.delays().next().unwrap().why, "no (0 connected)");
    }

    #[test]
    fn jitter_spreads_missions_and_bridges() {
        let waits = |seed: u64| {
            let retry = RetryPolicy { jitter: true, ..RetryPolicy::DISPATCH };
            let mut machine = Machine::new(Config { retry, ..Config::default() }, seed);
            machine.on_offers(&key(0).session, offers(6));
            let clock = Clock::new();
            for key in begun(&machine.advance(clock.now())) {
                let _send = machine.on_begun(key.clone(), dispatch(1), clock.now());
                assert!(machine.on_outcome(key, refused(500, None), clock.now()).is_empty());
            }
            machine.delays().map(|delay| delay.until.unwrap()).collect::<HashSet<_>>()
        };
        assert!(waits(1).len() >= 4, "{:?}", waits(1));
        assert_ne!(waits(1), waits(2));
    }

    #[test]
    fn claims_run_ahead_of_a_brisk_registry_and_are_given_back_when_it_stops_answering() {
        let (mut machine, mut clock) = machine(20);
        let mut open = begun(&machine.advance(clock.now()));
        assert_eq!(open.len(), 3, "nothing is known of its pace yet");
        for key in &open {
            assert_eq!(machine.on_begun(key.clone(), dispatch(1), clock.now()).len(), 1);
        }
        clock.millis = 2;
        let accepted = Outcome::Accepted { executor: None, estimated_start: None };
        let _assigned = machine.on_outcome(open.remove(0), accepted, clock.now());
        let more = begun(&machine.advance(clock.now()));
        assert_eq!(
            (more.len(), machine.in_flight()),
            (6, 2),
            "a whole turn; for another one there is no room"
        );
        let sent: usize =
            more.iter().map(|key| machine.on_begun(key.clone(), dispatch(1), clock.now()).len()).sum();
        assert_eq!((sent, machine.in_flight()), (1, 3), "one slot was free, the others are ready");
        clock.millis = 101;
        assert!(machine.advance(clock.now()).is_empty());
        clock.millis = 102;
        assert_eq!(machine.next_wakeup(), Some(clock.now().instant));
        let given_back = machine.advance(clock.now());
        assert_eq!(given_back.len(), 5);
        assert!(given_back.iter().all(|effect| matches!(effect, Effect::Tell(Order::Unsent { .. }))));
        assert_eq!((machine.queued(), machine.in_flight()), (16, 3));
        assert!(begun(&machine.advance(clock.now())).is_empty(), "until it answers again");
    }

    proptest! {
        /// Under any sequence of answers: never more slots than allowed, never one mission open twice, never an accepted
        /// one sent again, and in the end every mission is accepted or failed.
        #[test]
        fn every_mission_is_answered_for_exactly_once(
            answers in proptest::collection::vec(0..10_u8, 0..120), count in 1..40_usize
        ) {
            let (mut machine, mut clock) = machine(count);
            let mut answers = answers.into_iter();
            let mut open: Vec<MissionKey> = Vec::new();
            let mut asking: Vec<MissionKey> = Vec::new();
            let mut attempts: HashMap<MissionKey, u32> = HashMap::new();
            let mut known: HashSet<MissionKey> = HashSet::new();
            let mut ended: HashSet<MissionKey> = HashSet::new();
            let mut pending: Vec<Effect> = Vec::new();
            for _round in 0..2000 {
                pending.extend(machine.advance(clock.now()));
                prop_assert!(machine.in_flight() <= 3);
                prop_assert!(machine.beginning + machine.ready.len() + machine.slots_used <= 3 * (1 + AHEAD));
                for effect in std::mem::take(&mut pending) {
                    match effect {
                        Effect::Tell(Order::Begin { key }) => {
                            prop_assert!(!ended.contains(&key) && !open.contains(&key));
                            let attempt = attempts.entry(key.clone()).or_default();
                            *attempt += 1;
                            pending.extend(machine.on_begun(key, dispatch(*attempt), clock.now()));
                        }
                        Effect::Tell(Order::Unsent { key, .. }) => *attempts.entry(key).or_insert(1) -= 1,
                        Effect::Tell(Order::Assigned { key, .. }) => prop_assert!(ended.insert(key)),
                        Effect::Tell(Order::Failed { key, .. }) => prop_assert!(ended.insert(key)),
                        Effect::Send { key, .. } => {
                            prop_assert!(!known.contains(&key), "sent although the registry has it");
                            prop_assert!(!open.contains(&key));
                            open.push(key);
                        }
                        Effect::Ask { key, .. } => asking.push(key),
                        Effect::Probe => {
                            let cause = (answers.next().unwrap_or(0) == 3).then(|| "refused".to_owned());
                            pending.extend(machine.on_probed(cause, clock.now()));
                        }
                        Effect::Away { .. } | Effect::Back { .. } | Effect::Tell(Order::Known { .. } | Order::Steered { .. }) => {}
                    }
                }
                if let Some(key) = open.pop() {
                    let outcome = match answers.next().unwrap_or(0) {
                        1 => refused(503, None),
                        2 => refused(500, Some(1)),
                        3 => Outcome::Unreachable { cause: "refused".to_owned() },
                        4 => Outcome::Uncertain { cause: "reset".to_owned() },
                        5 => {
                            known.insert(key.clone());
                            Outcome::Uncertain { cause: "reset".to_owned() }
                        }
                        6 => refused(400, None),
                        7 => crowded_out(),
                        8 => {
                            machine.on_room(2, clock.now());
                            crowded_out()
                        }
                        _ => Outcome::Accepted { executor: None, estimated_start: None },
                    };
                    pending.extend(machine.on_outcome(key, outcome, clock.now()));
                }
                if let Some(key) = asking.pop() {
                    let asked = if known.contains(&key) { Asked::Known { executor: None } } else { Asked::NotKnown };
                    pending.extend(machine.on_asked(key, asked, clock.now()));
                }
                if let Some(wake) = machine.next_wakeup() {
                    prop_assert!(wake >= clock.start);
                }
                clock.millis += 100;
                if ended.len() == count && pending.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(ended.len(), count);
            prop_assert!(machine.is_idle());
            prop_assert!(machine.is_still());
        }
    }
}
