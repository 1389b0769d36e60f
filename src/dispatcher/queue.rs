//! Pure: whose turn it is.
//!
//! Urgent before normal, whichever session it stands in. Among equals the sessions take turns, so that one with ten
//! thousand missions delays one with a single mission by one turn at most. A turn is several missions long, how many says
//! [`super::machine::turn_length`]: claims of one session go to the disk together, and a turn of one would flush once per
//! mission. Inside a session: oldest first, then the place in the array.

use crate::domain::id::SessionId;
use crate::domain::mission::Priority;
use crate::domain::time::Timestamp;
use crate::session::messages::{MissionKey, Offer};
use std::collections::{HashMap, HashSet, VecDeque};

const CLASSES: usize = Priority::ALL.len();

fn class(priority: Priority) -> usize {
    Priority::ALL.iter().position(|p| *p == priority).unwrap_or(CLASSES - 1)
}

/// The sessions that wait for a turn in one class; each stands in it at most once.
#[derive(Debug, Default)]
struct Ring {
    order: VecDeque<SessionId>,
    members: HashSet<SessionId>,
}

impl Ring {
    fn join(&mut self, session: &SessionId) {
        if self.members.insert(session.clone()) {
            self.order.push_back(session.clone());
        }
    }

    fn next(&mut self) -> Option<SessionId> {
        let session = self.order.pop_front()?;
        self.members.remove(&session);
        Some(session)
    }
}

/// The missions that wait, in turns.
#[derive(Debug, Default)]
pub struct Queue {
    sessions: HashMap<SessionId, [VecDeque<Offer>; CLASSES]>,
    turns: [Ring; CLASSES],
    len: usize,
    /// Whose turn it is, in which class, and how many missions of it are left.
    turn: Option<(usize, SessionId, usize)>,
}

impl Queue {
    /// Replaces everything that waits in `session`. The session keeps its turn where it had one.
    pub fn replace(&mut self, session: &SessionId, mut offers: Vec<Offer>) {
        if let Some(old) = self.sessions.remove(session) {
            self.len -= old.iter().map(VecDeque::len).sum::<usize>();
        }
        if offers.is_empty() {
            return;
        }
        offers.sort_by(|a, b| {
            let age = |o: &Offer| o.created_at.map_or(i64::MAX, Timestamp::as_millis);
            age(a).cmp(&age(b)).then(a.index.cmp(&b.index))
        });
        self.len += offers.len();
        let mut classes: [VecDeque<Offer>; CLASSES] = Default::default();
        for offer in offers {
            if let Some(list) = classes.get_mut(class(offer.priority)) {
                list.push_back(offer);
            }
        }
        for (turns, list) in self.turns.iter_mut().zip(&classes) {
            if !list.is_empty() {
                turns.join(session);
            }
        }
        self.sessions.insert(session.clone(), classes);
    }

    /// Puts one mission back, at the head of its class and session.
    pub fn put_back(&mut self, session: &SessionId, offer: Offer) {
        let index = class(offer.priority);
        let classes = self.sessions.entry(session.clone()).or_default();
        if let (Some(list), Some(turns)) = (classes.get_mut(index), self.turns.get_mut(index)) {
            if list.iter().any(|o| o.mission == offer.mission) {
                return;
            }
            list.push_front(offer);
            self.len += 1;
            turns.join(session);
        }
    }

    /// Takes the next mission; a turn that begins with it is at most `turn_length` missions long, at least one.
    pub fn pop(&mut self, turn_length: usize) -> Option<(MissionKey, Offer)> {
        for class in 0..CLASSES {
            while let Some((session, left)) = self.whose_turn(class, turn_length) {
                let Some(offer) = self.sessions.get_mut(&session).and_then(|c| c.get_mut(class)?.pop_front())
                else {
                    continue;
                };
                self.len -= 1;
                let waits =
                    |c: &[VecDeque<Offer>; CLASSES]| c.get(class).is_some_and(|list| !list.is_empty());
                if self.sessions.get(&session).is_some_and(|classes| classes.iter().all(VecDeque::is_empty)) {
                    self.sessions.remove(&session);
                } else if self.sessions.get(&session).is_some_and(waits) {
                    if left > 1 {
                        self.turn = Some((class, session.clone(), left - 1));
                    } else if let Some(ring) = self.turns.get_mut(class) {
                        ring.join(&session);
                    }
                }
                return Some((MissionKey { session, mission: offer.mission.clone() }, offer));
            }
        }
        None
    }

    /// Returns how many missions the next [`Queue::pop`]s would take before somebody else's turn begins.
    pub fn rest_of_turn(&self, turn_length: usize) -> usize {
        let waiting = |session: &SessionId, class: usize| {
            self.sessions.get(session).and_then(|classes| classes.get(class)).map_or(0, VecDeque::len)
        };
        let of_class = |(class, ring): (usize, &Ring)| {
            let under_way = self.turn.as_ref().filter(|(same, _, _)| *same == class);
            let under_way = under_way.map(|(_, session, left)| waiting(session, class).min(*left));
            let begins = ring.order.iter().map(|session| waiting(session, class).min(turn_length));
            under_way.into_iter().chain(begins).find(|length| *length > 0)
        };
        self.turns.iter().enumerate().find_map(of_class).unwrap_or(0)
    }

    /// Returns how urgent the next mission is.
    pub fn next_priority(&self) -> Option<Priority> {
        let waits = |class: &usize| {
            let some =
                |lists: &[VecDeque<Offer>; CLASSES]| lists.get(*class).is_some_and(|list| !list.is_empty());
            self.sessions.values().any(some)
        };
        (0..CLASSES).find(waits).and_then(|class| Priority::ALL.get(class).copied())
    }

    /// Takes the session whose turn it is in `class`. A turn that was begun in another class is given up: somebody more
    /// urgent came.
    fn whose_turn(&mut self, class: usize, turn_length: usize) -> Option<(SessionId, usize)> {
        if let Some((_, session, left)) = self.turn.take_if(|(same, _, _)| *same == class) {
            return Some((session, left));
        }
        let session = self.turns.get_mut(class)?.next()?;
        if let Some((other, interrupted, _)) = self.turn.take() {
            self.turns.get_mut(other)?.join(&interrupted);
        }
        Some((session, turn_length))
    }

    /// Returns how many missions wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Says whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::MissionId;
    use proptest::prelude::*;

    fn offer(mission: &str, priority: Priority, created: Option<i64>, index: usize) -> Offer {
        let mission = MissionId::new(mission).unwrap();
        Offer { mission, priority, created_at: created.map(Timestamp::from_millis), index }
    }

    fn session(name: &str) -> SessionId {
        SessionId::new(name).unwrap()
    }

    fn drain(queue: &mut Queue, turn_length: usize) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(turn_length))
            .map(|(key, _)| format!("{}/{}", key.session, key.mission))
            .collect()
    }

    #[test]
    fn urgent_missions_of_any_session_go_first_and_equals_take_turns() {
        let mut queue = Queue::default();
        let normal = Priority::Normal;
        queue.replace(&session("a"), (0..3).map(|i| offer(&format!("a{i}"), normal, None, i)).collect());
        queue.replace(
            &session("b"),
            vec![offer("b0", normal, None, 0), offer("b1", Priority::Critical, None, 1)],
        );
        queue.replace(
            &session("c"),
            vec![offer("c0", Priority::Low, None, 0), offer("c1", Priority::High, None, 1)],
        );
        assert_eq!(drain(&mut queue, 1), ["b/b1", "c/c1", "a/a0", "b/b0", "a/a1", "a/a2", "c/c0"]);
    }

    #[test]
    fn inside_a_session_the_oldest_goes_first_and_undated_ones_keep_their_place_at_the_end() {
        let mut queue = Queue::default();
        let normal = Priority::Normal;
        let offers = vec![
            offer("x", normal, None, 0),
            offer("new", normal, Some(9), 1),
            offer("old", normal, Some(3), 2),
        ];
        queue.replace(&session("s"), offers);
        assert_eq!(drain(&mut queue, 1), ["s/old", "s/new", "s/x"]);
    }

    #[test]
    fn a_replaced_session_withdraws_what_is_no_longer_offered() {
        let mut queue = Queue::default();
        queue.replace(&session("s"), vec![offer("a", Priority::Normal, None, 0)]);
        queue.replace(&session("s"), vec![offer("b", Priority::Normal, None, 0)]);
        assert_eq!(drain(&mut queue, 1), ["s/b"]);
        queue.replace(&session("s"), vec![offer("a", Priority::Normal, None, 0)]);
        queue.replace(&session("s"), Vec::new());
        assert!(queue.is_empty());
        assert!(queue.pop(1).is_none());
    }

    #[test]
    fn a_turn_is_a_few_missions_long_and_ends_when_somebody_more_urgent_comes() {
        let mut queue = Queue::default();
        let normal = Priority::Normal;
        for name in ["a", "b"] {
            let offers = (0..3).map(|i| offer(&format!("{name}{i}"), normal, None, i)).collect();
            queue.replace(&session(name), offers);
        }
        let next = |queue: &mut Queue| queue.pop(2).unwrap().0.mission.to_string();
        assert_eq!(next(&mut queue), "a0");
        queue.replace(&session("c"), vec![offer("c0", Priority::Critical, None, 0)]);
        assert_eq!(next(&mut queue), "c0");
        assert_eq!(drain(&mut queue, 2), ["b/b0", "b/b1", "a/a1", "a/a2", "b/b2"]);
    }

    proptest! {
        #[test]
        fn every_offer_comes_out_once_and_never_before_a_more_urgent_one(
            offers in proptest::collection::vec((0..5_usize, 0..4_usize, proptest::option::of(0..9_i64)), 0..60),
            turn in 1..5_usize
        ) {
            let mut queue = Queue::default();
            for s in 0..5 {
                let list: Vec<Offer> = offers.iter().enumerate().filter(|(_, o)| o.0 == s)
                    .map(|(i, o)| offer(&format!("m{i}"), Priority::ALL[o.1], o.2, i)).collect();
                queue.replace(&session(&format!("s{s}")), list);
            }
            prop_assert_eq!(queue.len(), offers.len());
            let mut out: Vec<(MissionKey, Offer)> = Vec::new();
            while queue.rest_of_turn(turn) > 0 {
                let rest = queue.rest_of_turn(turn);
                prop_assert!(rest <= turn);
                let taken: Vec<_> = (0..rest).filter_map(|_| queue.pop(turn)).collect();
                prop_assert_eq!(taken.len(), rest);
                prop_assert!(taken.iter().all(|(key, _)| key.session == taken[0].0.session), "{:?}", taken);
                out.extend(taken);
            }
            prop_assert_eq!(out.len(), offers.len());
            prop_assert!(queue.is_empty());
            prop_assert!(out.windows(2).all(|w| w[0].1.priority <= w[1].1.priority));
            let mut ids: Vec<_> = out.iter().map(|(k, _)| k.mission.clone()).collect();
            ids.sort();
            ids.dedup();
            prop_assert_eq!(ids.len(), offers.len());
        }
    }
}
