//! Service: events out to observers.
//!
//! Each executor that someone observes has a topic: a short ring of its last events. The publisher appends and wakes; every observer
//! reads at its own pace with its own place in the ring. So publishing costs the same for one observer and for two
//! hundred, and one that does not read slows nobody: it falls off the end of the ring and is told how many events it missed.

use crate::domain::id::ExecutorId;
use crate::registry::record::StoredEvent;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// How many events of one executor an observer may be behind, and how many bytes of them.
const RING: usize = 16_384;
const RING_BYTES: usize = 16 << 20;

/// Most events that are handed out at once.
const BATCH: usize = 256;

#[derive(Debug)]
struct Ring {
    events: VecDeque<Arc<StoredEvent>>,
    bytes: usize,
    /// The place of the first event in the ring.
    first: u64,
}

#[derive(Debug)]
struct Topic {
    ring: Mutex<Ring>,
    /// The place after the last event.
    end: watch::Sender<u64>,
}

/// What observers listen to. `None` is every executor at once.
type Name = Option<ExecutorId>;

#[derive(Debug)]
struct Topics {
    by_name: HashMap<Name, Arc<Topic>>,
    /// The number of the last event that was published.
    last: u64,
}

/// All topics.
#[derive(Debug)]
pub struct Hub {
    topics: Mutex<Topics>,
}

/// One observer's place in a topic.
#[derive(Debug)]
pub struct Subscription {
    topic: Arc<Topic>,
    end: watch::Receiver<u64>,
    next: u64,
    after: u64,
}

/// What an observer reads at once.
#[derive(Debug)]
pub struct Batch {
    /// How many events before these the observer was too slow for.
    pub missed: u64,
    /// The number of the last event before the missed ones.
    pub after: u64,
    /// In order.
    pub events: Vec<Arc<StoredEvent>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// Makes a hub; `last` is the number of the last event of earlier times.
    pub fn new(last: u64) -> Self {
        Self { topics: Mutex::new(Topics { by_name: HashMap::new(), last }) }
    }

    /// Lets the observers of their executors, and those of all, see events.
    pub fn publish(&self, events: &[Arc<StoredEvent>]) {
        let Some(last) = events.last() else { return };
        let mut topics = locked(&self.topics);
        topics.last = last.seq;
        topics.append(&None, events);
        for run in events.chunk_by(|one, next| one.executor_id == next.executor_id) {
            if let Some(first) = run.first() {
                topics.append(&Some(first.executor_id.clone()), run);
            }
        }
    }

    /// Starts to observe: everything published from now on.
    pub fn subscribe(&self, executor: Option<&ExecutorId>) -> Subscription {
        let mut topics = locked(&self.topics);
        let after = topics.last;
        let topic = topics.by_name.entry(executor.cloned()).or_insert_with(|| {
            let ring = Mutex::new(Ring { events: VecDeque::new(), bytes: 0, first: 0 });
            Arc::new(Topic { ring, end: watch::Sender::new(0) })
        });
        let end = topic.end.subscribe();
        let next = *end.borrow();
        Subscription { topic: Arc::clone(topic), end, next, after }
    }

    /// Returns how many observers there are.
    pub fn observers(&self) -> usize {
        locked(&self.topics).by_name.values().map(|topic| topic.end.receiver_count()).sum()
    }
}

impl Topics {
    fn append(&mut self, name: &Name, events: &[Arc<StoredEvent>]) {
        let Some(topic) = self.by_name.get(name) else { return };
        if topic.end.receiver_count() == 0 {
            self.by_name.remove(name);
        } else {
            topic.append(events);
        }
    }
}

impl Topic {
    /// Wakes the observers once, however many events there are.
    fn append(&self, events: &[Arc<StoredEvent>]) {
        let end = {
            let mut ring = locked(&self.ring);
            for event in events {
                ring.bytes += event.raw.len();
                ring.events.push_back(Arc::clone(event));
                while ring.events.len() > RING || (ring.bytes > RING_BYTES && ring.events.len() > 1) {
                    let gone = ring.events.pop_front().map_or(0, |event| event.raw.len());
                    ring.bytes -= gone;
                    ring.first += 1;
                }
            }
            ring.first + u64::try_from(ring.events.len()).unwrap_or(u64::MAX)
        };
        self.end.send_replace(end);
    }
}

impl Subscription {
    /// Returns the number of the last event before those it will get.
    pub fn after(&self) -> u64 {
        self.after
    }

    /// Waits for the next events. `None` never happens while the hub lives.
    ///
    /// # Cancel safety
    /// Safe: the place moves only when a batch is returned.
    pub async fn next_batch(&mut self) -> Option<Batch> {
        let next = self.next;
        self.end.wait_for(|end| *end > next).await.ok()?;
        let ring = locked(&self.topic.ring);
        let missed = ring.first.saturating_sub(self.next);
        let from = self.next.max(ring.first);
        let skip = usize::try_from(from - ring.first).unwrap_or(usize::MAX).min(ring.events.len());
        let events: Vec<_> = ring.events.range(skip..).take(BATCH).cloned().collect();
        drop(ring);
        let after = self.after;
        self.next = from + u64::try_from(events.len()).unwrap_or(0);
        self.after = events.last().map_or(after, |last| last.seq);
        Some(Batch { missed, after, events })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Timestamp;

    fn event(seq: u64) -> Arc<StoredEvent> {
        let executor_id = ExecutorId::new("0b7e0c1e-8a53-4c7e-9d52-6f0e5f3f9a11").unwrap();
        let (kind, raw) = (Arc::from("mission.progress"), Arc::from("{}"));
        Arc::new(StoredEvent { seq, executor_id, mission_id: None, kind, ts: Timestamp::EPOCH, raw })
    }

    #[tokio::test]
    async fn every_observer_sees_every_event_in_order() {
        let hub = Hub::new(0);
        let one = event(1).executor_id.clone();
        let mut observers = [hub.subscribe(Some(&one)), hub.subscribe(Some(&one)), hub.subscribe(None)];
        for seq in 0..1000 {
            hub.publish(&[event(seq)]);
        }
        for observer in &mut observers {
            let mut seen = Vec::new();
            while seen.len() < 1000 {
                let batch = observer.next_batch().await.unwrap();
                assert_eq!(batch.missed, 0);
                seen.extend(batch.events.iter().map(|event| event.seq));
            }
            assert!(seen.iter().copied().eq(0..1000));
        }
    }

    #[tokio::test]
    async fn a_slow_observer_is_told_what_it_missed_and_goes_on() {
        let hub = Hub::new(0);
        let mut slow = hub.subscribe(None);
        for seq in 0..20_000 {
            hub.publish(&[event(seq)]);
        }
        let batch = slow.next_batch().await.unwrap();
        assert_eq!((batch.missed, batch.after), (3_616, 0));
        assert_eq!(batch.events[0].seq, 3_616);
    }

    #[tokio::test]
    async fn a_topic_nobody_listens_to_is_dropped() {
        let hub = Hub::new(0);
        drop(hub.subscribe(None));
        hub.publish(&[event(1)]);
        assert_eq!(locked(&hub.topics).by_name.len(), 0);
        assert_eq!(hub.observers(), 0);
    }
}
