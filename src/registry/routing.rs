//! Pure: who gets a mission, and why not the others.
//!
//! 1. Pinned by `executor_id`: that one or none.
//! 2. Otherwise those that are connected, do not drain, have room, have every asked capability, and are `resumable` for a long mission.
//! 3. Sandboxes (`isolation:vm`, `isolation:container`) first.
//! 4. Then the fewest active missions, then the order of registration.
//!
//! The candidates stand in order in one set per capability, so a choice walks the shortest fitting set from its front: with 5,000
//! executors it looks at a few, not at all. The reasons for the others are worked out only when someone asks.

use crate::domain::capability::Capability;
use crate::domain::id::ExecutorId;
use crate::protocol::executor_v1::ExecutorFilter;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Most executors that an explanation names; the counts are always complete.
const MAX_EXPLAINED: usize = 50;

/// What routing knows of one executor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub id: ExecutorId,
    /// Place in the order of registration.
    pub order: u64,
    /// What it can do.
    pub capabilities: BTreeSet<Capability>,
    /// Its line is open.
    pub connected: bool,
    /// It takes no new missions.
    pub draining: bool,
    /// With these words it has just refused one for now.
    pub full: Option<String>,
    /// How many missions it holds.
    pub active: u64,
}

impl Candidate {
    fn has(&self, capability: &str) -> bool {
        self.capabilities.contains(&Capability::opaque(capability))
    }

    fn is_sandbox(&self) -> bool {
        self.has("isolation:vm") || self.has("isolation:container")
    }

    fn rank(&self) -> Rank {
        (!self.is_sandbox(), self.active, self.order)
    }

    fn is_open(&self) -> bool {
        self.connected && !self.draining
    }
}

/// Not a sandbox, active missions, order of registration: the smallest is chosen.
type Rank = (bool, u64, u64);

/// Why an executor was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Reason {
    /// The filter names it.
    #[serde(rename = "pinned by executor_id")]
    Pinned,
    /// It is a sandbox.
    #[serde(rename = "sandbox-first (isolation:vm/container)")]
    SandboxFirst,
    /// No sandbox fits.
    #[serde(rename = "local fallback")]
    LocalFallback,
}

impl Reason {
    /// Returns the words of the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pinned => "pinned by executor_id",
            Self::SandboxFirst => "sandbox-first (isolation:vm/container)",
            Self::LocalFallback => "local fallback",
        }
    }
}

/// Who was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Which.
    pub id: ExecutorId,
    /// Why.
    pub reason: Reason,
}

/// Why one executor was passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PassedOver {
    /// Which.
    pub executor_id: ExecutorId,
    /// Why, for people.
    pub why: String,
}

/// How a choice came about, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// How many executors are registered.
    pub registered: usize,
    /// How many of them are connected.
    pub connected: usize,
    /// How many of the connected ones fit the filter and have room.
    pub capable: usize,
    /// How many fit but have no room now.
    pub full: usize,
    /// Who was chosen.
    pub chosen: Option<ExecutorId>,
    /// Why.
    pub reason: Option<Reason>,
    /// The others, at most 50 of them.
    pub passed_over: Vec<PassedOver>,
}

impl Explanation {
    /// Says whether the mission need only wait: somebody fits and will have room.
    pub fn is_busy(&self) -> bool {
        self.capable + self.full > 0
    }
}

/// The executors, in the order in which they would be chosen.
#[derive(Debug, Default)]
pub struct Routing {
    candidates: HashMap<ExecutorId, Candidate>,
    open: BTreeMap<Rank, ExecutorId>,
    by_capability: HashMap<Capability, BTreeMap<Rank, ExecutorId>>,
    connected: usize,
    limit: Option<u64>,
}

impl Routing {
    /// Makes an empty set; `limit` is the most missions one executor may hold.
    pub fn new(limit: Option<u32>) -> Self {
        Self { limit: limit.map(u64::from), ..Self::default() }
    }

    /// Adds an executor or replaces what is known of it.
    pub fn put(&mut self, candidate: Candidate) {
        self.remove(&candidate.id);
        self.connected += usize::from(candidate.connected);
        if candidate.is_open() {
            self.open.insert(candidate.rank(), candidate.id.clone());
            for capability in &candidate.capabilities {
                let set = self.by_capability.entry(capability.clone()).or_default();
                set.insert(candidate.rank(), candidate.id.clone());
            }
        }
        self.candidates.insert(candidate.id.clone(), candidate);
    }

    /// Changes what is known of one executor.
    pub fn update(&mut self, id: &ExecutorId, change: impl FnOnce(&mut Candidate)) {
        if let Some(mut candidate) = self.candidates.get(id).cloned() {
            change(&mut candidate);
            self.put(candidate);
        }
    }

    /// Returns how many are connected.
    pub fn connected(&self) -> usize {
        self.connected
    }

    /// Takes an executor out.
    pub fn remove(&mut self, id: &ExecutorId) {
        let Some(candidate) = self.candidates.remove(id) else { return };
        self.connected -= usize::from(candidate.connected);
        let rank = candidate.rank();
        self.open.remove(&rank);
        for capability in &candidate.capabilities {
            if let Some(set) = self.by_capability.get_mut(capability) {
                set.remove(&rank);
                if set.is_empty() {
                    self.by_capability.remove(capability);
                }
            }
        }
    }

    /// Chooses an executor.
    pub fn choose(&self, filter: &ExecutorFilter, long_running: bool) -> Option<Choice> {
        if let Some(id) = &filter.executor_id {
            let candidate = self.candidates.get(id)?;
            let fits = candidate.is_open()
                && self.has_room(candidate)
                && (!long_running || candidate.has(Capability::RESUMABLE));
            return fits.then(|| Choice { id: id.clone(), reason: Reason::Pinned });
        }
        let mut asked: Vec<Capability> = filter.capabilities.clone();
        if long_running {
            asked.push(Capability::opaque(Capability::RESUMABLE));
        }
        let empty = BTreeMap::new();
        let sets = asked.iter().map(|capability| self.by_capability.get(capability).unwrap_or(&empty));
        let shortest = sets.min_by_key(|set| set.len()).unwrap_or(&self.open);
        let fitting = shortest.values().filter_map(|id| self.candidates.get(id));
        let chosen = fitting
            .filter(|candidate| asked.iter().all(|capability| candidate.capabilities.contains(capability)))
            .find(|candidate| self.has_room(candidate))?;
        let reason = if chosen.is_sandbox() { Reason::SandboxFirst } else { Reason::LocalFallback };
        Some(Choice { id: chosen.id.clone(), reason })
    }

    fn has_room(&self, candidate: &Candidate) -> bool {
        candidate.full.is_none() && self.limit.is_none_or(|limit| candidate.active < limit)
    }

    /// Works out why each executor was or was not chosen.
    pub fn explain(
        &self,
        filter: &ExecutorFilter,
        long_running: bool,
        choice: Option<&Choice>,
    ) -> Explanation {
        let (mut capable, mut full) = (0, 0);
        let mut passed_over = Vec::new();
        let mut all: Vec<&Candidate> = self.candidates.values().collect();
        all.sort_unstable_by_key(|candidate| candidate.order);
        for candidate in all {
            let obstacle = obstacle(candidate, filter, long_running).or_else(|| {
                let is_full = !self.has_room(candidate);
                full += usize::from(is_full);
                is_full.then(|| match &candidate.full {
                    Some(words) => format!("has no room: {words}"),
                    None => format!("full: holds {} missions", candidate.active),
                })
            });
            capable += usize::from(obstacle.is_none());
            if choice.is_some_and(|choice| choice.id == candidate.id) || passed_over.len() >= MAX_EXPLAINED {
                continue;
            }
            let why = obstacle.unwrap_or_else(|| {
                if candidate.is_sandbox() {
                    format!(
                        "holds {} missions, more than the chosen one, or registered later",
                        candidate.active
                    )
                } else {
                    format!(
                        "not a sandbox, or busier, or registered later; holds {} missions",
                        candidate.active
                    )
                }
            });
            passed_over.push(PassedOver { executor_id: candidate.id.clone(), why });
        }
        Explanation {
            registered: self.candidates.len(),
            connected: self.connected,
            capable,
            full,
            chosen: choice.map(|choice| choice.id.clone()),
            reason: choice.map(|choice| choice.reason),
            passed_over,
        }
    }
}

/// What else than a lack of room stands in the way.
fn obstacle(candidate: &Candidate, filter: &ExecutorFilter, long_running: bool) -> Option<String> {
    if filter.executor_id.as_ref().is_some_and(|id| *id != candidate.id) {
        return Some("executor_filter.executor_id names another one".to_owned());
    }
    if !candidate.connected {
        return Some("not connected".to_owned());
    }
    let pinned = filter.executor_id.is_some();
    let wanted = filter.capabilities.iter().filter(|_| !pinned).map(Capability::as_str);
    let wanted = wanted.chain(long_running.then_some(Capability::RESUMABLE));
    let missing: Vec<&str> = wanted.filter(|capability| !candidate.has(capability)).collect();
    if !missing.is_empty() {
        return Some(format!("lacks {}", missing.join(", ")));
    }
    candidate.draining.then(|| "draining: takes no new missions".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(number: u64) -> ExecutorId {
        ExecutorId::new(format!("00000000-0000-4000-8000-{number:012x}")).unwrap()
    }

    fn candidate(order: u64, capabilities: &[&str], active: u64) -> Candidate {
        let capabilities = capabilities.iter().map(Capability::opaque).collect();
        Candidate { id: id(order), order, capabilities, connected: true, draining: false, full: None, active }
    }

    fn filter(capabilities: &[&str]) -> ExecutorFilter {
        let capabilities = capabilities.iter().map(Capability::opaque).collect();
        ExecutorFilter { capabilities, ..ExecutorFilter::default() }
    }

    #[test]
    fn sandboxes_come_first_then_the_least_busy_then_the_oldest() {
        let mut routing = Routing::new(None);
        for candidate in [
            candidate(1, &["isolation:host"], 0),
            candidate(2, &["isolation:vm"], 5),
            candidate(3, &["isolation:container"], 4),
            candidate(4, &["isolation:container"], 4),
        ] {
            routing.put(candidate);
        }
        let choice = routing.choose(&filter(&[]), false).unwrap();
        assert_eq!(choice, Choice { id: id(3), reason: Reason::SandboxFirst });
        routing.update(&id(3), |candidate| candidate.draining = true);
        routing.update(&id(4), |candidate| candidate.connected = false);
        assert_eq!(routing.choose(&filter(&[]), false).unwrap().id, id(2));
        let choice = routing.choose(&filter(&["isolation:host"]), false).unwrap();
        assert_eq!(choice, Choice { id: id(1), reason: Reason::LocalFallback });
        assert_eq!(routing.choose(&filter(&["isolation:host", "x-gpu"]), false), None);
        assert_eq!(routing.choose(&filter(&[]), true), None, "a long mission needs a resumable executor");
    }

    #[test]
    fn a_pinned_executor_is_taken_or_none() {
        let mut routing = Routing::new(Some(2));
        routing.put(candidate(1, &["resumable"], 1));
        routing.put(candidate(2, &[], 0));
        let pinned = |number| ExecutorFilter { executor_id: Some(id(number)), ..filter(&["x-absent"]) };
        assert_eq!(routing.choose(&pinned(1), true).unwrap().reason, Reason::Pinned);
        assert_eq!(routing.choose(&pinned(2), true), None);
        assert_eq!(routing.choose(&pinned(3), false), None);
        routing.update(&id(1), |candidate| candidate.active = 2);
        assert_eq!(routing.choose(&pinned(1), false), None, "it is full");
    }

    #[test]
    fn a_refusal_says_what_is_missing_where() {
        let mut routing = Routing::new(Some(1));
        routing.put(candidate(1, &["isolation:host"], 0));
        routing.put(candidate(2, &["x-gpu"], 1));
        routing.put(Candidate { connected: false, ..candidate(3, &["x-gpu"], 0) });
        let wanted = filter(&["x-gpu"]);
        assert_eq!(routing.choose(&wanted, false), None);
        let explanation = routing.explain(&wanted, false, None);
        assert_eq!((explanation.registered, explanation.connected, explanation.capable), (3, 2, 0));
        let whys: Vec<&str> = explanation.passed_over.iter().map(|passed| passed.why.as_str()).collect();
        assert_eq!(whys, ["lacks x-gpu", "full: holds 1 missions", "not connected"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn the_choice_is_the_one_a_plain_scan_makes(
            seeds in prop::collection::vec((0_u8..8, any::<bool>(), any::<bool>(), any::<bool>(), 0_u64..4), 0..12),
            asked in 0_u8..8,
            long in any::<bool>(),
        ) {
            let names = ["isolation:vm", "x-gpu", "resumable"];
            let pick = |bits: u8| -> Vec<&str> {
                names.iter().enumerate().filter(|(n, _)| bits >> n & 1 == 1).map(|(_, name)| *name).collect()
            };
            let mut routing = Routing::new(Some(3));
            let mut plain = Vec::new();
            for (order, (bits, connected, draining, full, active)) in seeds.into_iter().enumerate() {
                let full = full.then(|| "no".to_owned());
                let order = u64::try_from(order).unwrap();
                let made = Candidate { connected, draining, full, ..candidate(order, &pick(bits), 0) };
                routing.put(made.clone());
                routing.update(&made.id, |candidate| candidate.active = active);
                plain.push(Candidate { active, ..made });
            }
            let wanted = filter(&pick(asked));
            let best = plain.iter().filter(|c| c.connected && !c.draining && c.full.is_none() && c.active < 3)
                .filter(|c| wanted.capabilities.iter().all(|w| c.capabilities.contains(w)))
                .filter(|c| !long || c.has("resumable"))
                .min_by_key(|c| (!c.is_sandbox(), c.active, c.order));
            let chosen = routing.choose(&wanted, long);
            prop_assert_eq!(chosen.as_ref().map(|c| &c.id), best.map(|c| &c.id));
        }
    }
}
