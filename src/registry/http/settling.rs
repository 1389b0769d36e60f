//! Pure: keeps the first events of each mission back for an observer that needs a moment to know the mission.
//!
//! A Node bridge begins to listen only after its dispatch was answered, and throws away events of missions that it has not noted
//! yet, however soon they come. So an observer that does not say what it is gets each mission's events from [`SETTLE`]
//! after the first of them on; order inside a mission is kept, and missions do not wait for one another. Observers that ask
//! for `role=observer` or come with `after` get everything at once.

use crate::domain::id::MissionId;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a mission's first events wait. 2 s: a Node bridge that dispatched forty missions at once had noted all of them
/// after less than one.
pub(super) const SETTLE: Duration = Duration::from_secs(2);

/// Events that are kept back at most, and bytes of them; beyond it the oldest go. As much as the ring of published events
/// holds.
const MOST_HELD: usize = 16_384;
const MOST_HELD_BYTES: usize = 16 << 20;

/// What is kept back for one observer.
#[derive(Debug, Default)]
pub(super) struct Settling {
    settled_at: HashMap<MissionId, Instant>,
    /// How many missions may be known before those that are settled are forgotten.
    forget_beyond: usize,
    held: BTreeMap<(Instant, u64), Arc<str>>,
    held_bytes: usize,
    numbers: u64,
}

impl Settling {
    /// Takes an event in, and appends to `out` what the observer gets now: what was kept back long enough, then this event
    /// if its mission is settled.
    pub(super) fn take(
        &mut self,
        mission: Option<&MissionId>,
        text: Arc<str>,
        now: Instant,
        out: &mut Vec<Arc<str>>,
    ) {
        self.due(now, out);
        let Some(mission) = mission else { return out.push(text) };
        if self.settled_at.len() > self.forget_beyond.max(MOST_HELD) {
            // Whoever is forgotten here settles once more when it is heard of again. The bound moves, so that a burst of new
            // missions is not looked through again and again.
            self.settled_at.retain(|_, at| *at > now);
            self.forget_beyond = self.settled_at.len() * 2;
        }
        let at = match self.settled_at.get(mission) {
            Some(at) => *at,
            None => *self.settled_at.entry(mission.clone()).or_insert(now + SETTLE),
        };
        if at <= now {
            return out.push(text);
        }
        self.numbers += 1;
        self.held_bytes += text.len();
        self.held.insert((at, self.numbers), text);
    }

    /// Appends to `out` what has been kept back long enough, and what there is no room for.
    pub(super) fn due(&mut self, now: Instant, out: &mut Vec<Arc<str>>) {
        loop {
            let is_full = self.held.len() > MOST_HELD || self.held_bytes > MOST_HELD_BYTES;
            let Some(first) = self.held.first_entry().filter(|first| is_full || first.key().0 <= now) else {
                return;
            };
            let text = first.remove();
            self.held_bytes -= text.len();
            out.push(text);
        }
    }

    /// Returns all that is kept back, in order.
    pub(super) fn take_all(&mut self) -> Vec<Arc<str>> {
        self.held_bytes = 0;
        std::mem::take(&mut self.held).into_values().collect()
    }

    /// Returns when something is due.
    pub(super) fn next_wakeup(&self) -> Option<Instant> {
        self.held.first_key_value().map(|((at, _), _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mission(name: &str) -> MissionId {
        MissionId::new(name).unwrap()
    }

    #[test]
    fn a_new_mission_waits_and_a_settled_one_does_not() {
        let (mut settling, start, mut out) = (Settling::default(), Instant::now(), Vec::new());
        settling.take(Some(&mission("a")), "a1".into(), start, &mut out);
        settling.take(None, "of the executor".into(), start, &mut out);
        assert_eq!(out, [Arc::from("of the executor")]);
        assert_eq!(settling.next_wakeup(), Some(start + SETTLE));
        settling.take(Some(&mission("b")), "b1".into(), start + SETTLE / 2, &mut out);
        settling.take(Some(&mission("a")), "a2".into(), start + SETTLE, &mut out);
        assert_eq!(out[1..], [Arc::from("a1"), Arc::from("a2")]);
        settling.due(start + SETTLE * 2, &mut out);
        assert_eq!(out[3..], [Arc::from("b1")]);
        assert_eq!(settling.next_wakeup(), None);
    }

    #[test]
    fn what_is_kept_back_has_a_bound() {
        let (mut settling, start, mut out) = (Settling::default(), Instant::now(), Vec::new());
        for number in 0..MOST_HELD * 2 {
            settling.take(Some(&mission(&format!("m{number}"))), "x".into(), start, &mut out);
        }
        assert!(settling.held.len() <= MOST_HELD + 1, "{}", settling.held.len());
        assert!(out.len() >= MOST_HELD - 1);
        let long: Arc<str> = "x".repeat(MOST_HELD_BYTES / 2).into();
        for number in 0..9 {
            settling.take(Some(&mission(&format!("long{number}"))), Arc::clone(&long), start, &mut out);
        }
        assert!(settling.held_bytes <= MOST_HELD_BYTES + long.len());
        settling.take(Some(&mission("late")), "x".into(), start + SETTLE, &mut out);
        assert!(settling.settled_at.len() <= MOST_HELD * 4);
        let known = settling.settled_at.len();
        for number in 0..MOST_HELD * 4 {
            settling.take(
                Some(&mission(&format!("later{number}"))),
                "x".into(),
                start + SETTLE * 2,
                &mut out,
            );
        }
        assert!(settling.settled_at.len() < known + MOST_HELD * 4, "settled ones are forgotten");
        assert!((1..=MOST_HELD + 1).contains(&settling.take_all().len()));
        assert_eq!((settling.next_wakeup(), settling.held_bytes), (None, 0));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_each_mission_keeps_its_order(
            events in proptest::collection::vec((0..4_usize, 0..1500_u64), 0..80)
        ) {
            let (mut settling, mut now, mut out) = (Settling::default(), Instant::now(), Vec::new());
            for (number, (of, later)) in events.iter().enumerate() {
                now += Duration::from_millis(*later);
                let text = Arc::from(format!("{of} {number:03}"));
                settling.take(Some(&mission(&format!("m{of}"))), text, now, &mut out);
            }
            settling.due(now + SETTLE, &mut out);
            prop_assert_eq!(out.len(), events.len());
            for of in 0..4 {
                let own: Vec<_> = out.iter().filter(|text| text.starts_with(&format!("{of} "))).collect();
                prop_assert!(own.is_sorted());
            }
        }
    }
}
