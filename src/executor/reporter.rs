//! Service: what the registry still has to hear, in order, whoever carries it.
//!
//! The line to the registry comes and goes; missions do not wait for it. Progress that nobody heard is replaced by newer
//! progress; the last word of a mission is kept until it was sent, and repeated on a new line for a while, because a
//! line can break after taking a frame and before delivering it.
//!
//! A server that keeps its missions in memory drops what it hears of one before it has read our answer to its dispatch. So
//! a mission's frames can be held back for a moment; those of others pass.

use crate::domain::id::MissionId;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Most frames that wait; beyond it the oldest that is no last word goes.
const MOST_WAITING: usize = 20_000;

/// How long a last word is repeated on new lines.
const REPEAT_FOR: Duration = Duration::from_secs(300);

/// How much a frame matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// Newer progress replaces it.
    Progress,
    /// A change of state.
    Change,
    /// The end of a mission.
    Last,
}

/// One frame that waits.
#[derive(Debug, Clone)]
pub struct Outgoing {
    number: u64,
    /// Whose it is.
    pub mission: MissionId,
    /// What travels.
    pub text: Arc<str>,
    /// How much it matters.
    pub weight: Weight,
}

#[derive(Debug, Default)]
struct State {
    numbers: u64,
    waiting: VecDeque<Outgoing>,
    said: VecDeque<(Instant, Outgoing)>,
    held_until: HashMap<MissionId, Instant>,
}

impl State {
    /// Returns the first frame that may go, or when to look again.
    fn next(&mut self, now: Instant) -> Result<Outgoing, Option<Instant>> {
        self.held_until.retain(|_, until| *until > now);
        let held = &self.held_until;
        match self.waiting.iter().find(|outgoing| !held.contains_key(&outgoing.mission)) {
            Some(first) => Ok(first.clone()),
            None => Err(held.values().min().copied()),
        }
    }
}

/// The queue. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Reporter {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

impl Reporter {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds a frame.
    pub fn push(&self, mission: MissionId, text: Arc<str>, weight: Weight) {
        self.with(|state| {
            state.numbers += 1;
            let outgoing = Outgoing { number: state.numbers, mission, text, weight };
            let last_of_mission =
                state.waiting.iter_mut().rev().take(256).find(|other| other.mission == outgoing.mission);
            match last_of_mission {
                Some(older) if older.weight == Weight::Progress && weight == Weight::Progress => {
                    *older = outgoing;
                }
                Some(_) | None => state.waiting.push_back(outgoing),
            }
            if state.waiting.len() > MOST_WAITING
                && let Some(least) = state.waiting.iter().position(|other| other.weight != Weight::Last)
            {
                state.waiting.remove(least);
            }
        });
        self.changed.notify_one();
    }

    /// Lets everything go that is held back.
    pub fn let_go(&self) {
        self.with(|state| state.held_until.clear());
        self.changed.notify_one();
    }

    /// Keeps the frames of a mission back for so long from now.
    pub fn hold(&self, mission: &MissionId, time: Duration) {
        self.with(|state| state.held_until.insert(mission.clone(), Instant::now() + time));
        self.changed.notify_one();
    }

    /// Waits for the first frame that is not held back. It stays until [`Reporter::sent`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn first(&self) -> Outgoing {
        loop {
            let changed = self.changed.notified();
            match self.with(|state| state.next(Instant::now())) {
                Ok(first) => return first,
                Err(Some(until)) => drop(tokio::time::timeout_at(until, changed).await),
                Err(None) => changed.await,
            }
        }
    }

    /// Says that a frame was sent.
    pub fn sent(&self, outgoing: &Outgoing) {
        self.with(|state| {
            state.waiting.retain(|other| other.number != outgoing.number);
            if outgoing.weight == Weight::Last {
                state.said.push_back((Instant::now(), outgoing.clone()));
            }
        });
    }

    /// Puts recent last words back for a new line, and returns the missions that it will hear the end of.
    pub fn repeat(&self) -> Vec<MissionId> {
        let missions = self.with(|state| {
            state.said.retain(|(said, _)| said.elapsed() < REPEAT_FOR);
            for (_, outgoing) in state.said.drain(..).rev() {
                state.waiting.push_front(outgoing);
            }
            state.waiting.iter().map(|outgoing| outgoing.mission.clone()).collect::<Vec<_>>()
        });
        self.changed.notify_one();
        missions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> MissionId {
        MissionId::new(text).unwrap()
    }

    #[tokio::test]
    async fn progress_is_replaced_changes_are_kept_in_order_and_last_words_are_repeated() {
        let reporter = Reporter::default();
        reporter.push(id("a"), "a1".into(), Weight::Progress);
        reporter.push(id("b"), "b1".into(), Weight::Change);
        reporter.push(id("a"), "a2".into(), Weight::Progress);
        reporter.push(id("a"), "a3".into(), Weight::Last);
        let mut said = Vec::new();
        for _ in 0..3 {
            let first = reporter.first().await;
            reporter.sent(&first);
            said.push(first.text.to_string());
        }
        assert_eq!(said, ["a2", "b1", "a3"]);
        assert_eq!(reporter.repeat(), [id("a")]);
        assert_eq!(&*reporter.first().await.text, "a3");
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_of_twenty_minutes_costs_no_room_and_ends_with_what_matters_in_order() {
        let reporter = Reporter::default();
        reporter.push(id("before"), "end of before".into(), Weight::Last);
        let heard = reporter.first().await;
        reporter.sent(&heard);
        for second in 0..1200 {
            tokio::time::advance(Duration::from_secs(1)).await;
            for mission in ["a", "b", "c"] {
                reporter.push(id(mission), format!("{mission} at {second}").into(), Weight::Progress);
            }
        }
        reporter.push(id("a"), "end of a".into(), Weight::Last);
        assert_eq!(reporter.repeat().len(), 4, "what was heard long ago is not said again");
        let mut said = Vec::new();
        for _ in 0..4 {
            let first = reporter.first().await;
            reporter.sent(&first);
            said.push(first.text.to_string());
        }
        assert_eq!(said, ["a at 1199", "b at 1199", "c at 1199", "end of a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_back_lets_others_pass_and_keeps_its_order() {
        let reporter = Reporter::default();
        reporter.hold(&id("a"), Duration::from_millis(500));
        for (mission, text) in [("a", "a1"), ("b", "b1"), ("a", "a2")] {
            reporter.push(id(mission), text.into(), Weight::Change);
        }
        let begun = Instant::now();
        let mut said = Vec::new();
        for _ in 0..3 {
            let first = reporter.first().await;
            reporter.sent(&first);
            said.push((first.text.to_string(), begun.elapsed() >= Duration::from_millis(500)));
        }
        let said: Vec<_> = said.iter().map(|(text, late)| (text.as_str(), *late)).collect();
        assert_eq!(said, [("b1", false), ("a1", true), ("a2", true)]);
        reporter.hold(&id("a"), Duration::from_secs(60));
        reporter.push(id("a"), "a3".into(), Weight::Last);
        reporter.let_go();
        assert_eq!(&*reporter.first().await.text, "a3");
        assert!(begun.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn a_long_silence_loses_no_last_word() {
        let reporter = Reporter::default();
        reporter.push(id("end"), "end".into(), Weight::Last);
        for number in 0..MOST_WAITING + 10 {
            reporter.push(id(&format!("m{number}")), "x".into(), Weight::Change);
        }
        reporter.with(|state| {
            assert_eq!(state.waiting.len(), MOST_WAITING);
            assert_eq!(&*state.waiting[0].text, "end");
        });
    }
}
