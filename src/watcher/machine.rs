//! Pure: which session to look at, and when.
//!
//! | what comes | what follows |
//! |---|---|
//! | a hint | one notice, at once; more hints of the same subject become one more notice, when the look at the first is over or after [`BURST`] |
//! | lost hints, new watches | a sweep |
//! | a sweep that was due | everything that is there, as one notice |
//! | a sweep in between | a notice for each difference |
//! | an unreadable session | a look after 50 ms, doubling to 2 s; after 10 s a warning once per content, and a look every 30 s |
//!
//! Notices wait here, not in the channel, so that a slow reader meets each subject once, however often it changed.

use crate::domain::file::FileIdentity;
use crate::domain::id::SessionId;
use crate::domain::time::Now;
use crate::watcher::found::{Entry, FileLook, Found, Inbox};
use crate::watcher::{InboxPlace, Looked, Subject, Unreadable};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

/// For how long changes of one subject are gathered after its notice went out. Ten times what a reader needs for one
/// file, and far below what a person notices.
pub const BURST: Duration = Duration::from_millis(10);

/// The first wait before an unreadable session is looked at again.
pub const FIRST_RETRY: Duration = Duration::from_millis(50);
/// The longest wait while it may still be in the middle of being written.
pub const LONGEST_RETRY: Duration = Duration::from_secs(2);
/// When it is called broken.
pub const BROKEN_AFTER: Duration = Duration::from_secs(10);
/// The wait between two looks at a broken session: changes are noticed anyway, this is for causes beside the file.
pub const BROKEN_RETRY: Duration = Duration::from_secs(30);
/// The wait after a sweep that failed.
pub const FAILED_SWEEP_RETRY: Duration = Duration::from_secs(1);

/// What the machine is told.
#[derive(Debug)]
pub enum Event {
    /// Something may have happened there.
    Hinted(Subject),
    /// A reader has looked.
    Looked(Looked),
    /// Everything may have happened.
    Lost,
    /// New directories are watched: what happened in them just before went unseen.
    Watched,
    /// The sweep that was asked for is over.
    Swept(Found),
    /// The sweep that was asked for failed.
    SweepFailed,
    /// Whether notifications tell about everything; polling is on while they do not.
    Mode {
        /// They do.
        native: bool,
        /// Why not.
        why: Option<String>,
    },
    /// A wake-up is due.
    Woken,
}

/// What the machine asks for.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Look at everything, then answer with [`Event::Swept`] or [`Event::SweepFailed`].
    Sweep,
    /// Tell people that a session is broken.
    WarnUnreadable(SessionId, Unreadable),
    /// Tell people that a session they were warned about is well again.
    Recovered(SessionId),
}

/// A notice that is about to leave.
#[derive(Debug, PartialEq, Eq)]
pub enum Leaving {
    /// A session to look at; `anew` when it must be read whatever its identity.
    Session {
        /// Which one.
        session: SessionId,
        /// An earlier reading failed.
        anew: bool,
    },
    /// A drop folder to look into.
    Inbox(InboxPlace),
    /// Everything that is there.
    Swept(Vec<(SessionId, FileIdentity)>),
    /// How changes are noticed from now on.
    Mode {
        /// Notifications tell about everything.
        native: bool,
        /// Why not.
        why: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Burst {
    Queued,
    Gathering { until: Instant, again: bool },
}

#[derive(Debug)]
struct Broken {
    since: Instant,
    identity: FileIdentity,
    delay: Duration,
    next: Instant,
    anew: bool,
    warned: Option<FileIdentity>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sweep {
    Differences,
    Everything,
}

/// Decides for all sessions and drop folders of one watch dir.
#[derive(Debug)]
pub struct Machine {
    poll_interval: Duration,
    sweep_interval: Duration,
    polling: bool,
    queue: VecDeque<Subject>,
    bursts: HashMap<Subject, Burst>,
    windows: VecDeque<(Instant, Subject)>,
    broken: HashMap<SessionId, Broken>,
    retries: BTreeSet<(Instant, SessionId)>,
    known: HashMap<SessionId, FileIdentity>,
    touched: HashSet<SessionId>,
    sweeping: Option<Sweep>,
    wanted: Option<Sweep>,
    next_full: Instant,
    next_poll: Instant,
    swept: Option<Vec<(SessionId, FileIdentity)>>,
    mode: Option<(bool, Option<String>)>,
}

impl Machine {
    /// Makes a machine whose first sweep is due at once.
    pub fn new(poll_interval: Duration, sweep_interval: Duration, now: Now) -> Self {
        Self {
            poll_interval,
            sweep_interval,
            polling: false,
            queue: VecDeque::new(),
            bursts: HashMap::new(),
            windows: VecDeque::new(),
            broken: HashMap::new(),
            retries: BTreeSet::new(),
            known: HashMap::new(),
            touched: HashSet::new(),
            sweeping: None,
            wanted: None,
            next_full: now.instant,
            next_poll: now.instant,
            swept: None,
            mode: None,
        }
    }

    /// Takes one event and says what is to be done.
    pub fn on_event(&mut self, event: Event, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Hinted(subject) => self.hint(subject),
            Event::Looked(looked) => self.on_looked(looked, now.instant, &mut effects),
            Event::Lost => self.want(Sweep::Everything, &mut effects),
            Event::Watched => self.want(Sweep::Differences, &mut effects),
            Event::Swept(found) => self.on_swept(found, now.instant, &mut effects),
            Event::SweepFailed => {
                self.sweeping = None;
                self.wanted = None;
                self.next_full = now.instant + FAILED_SWEEP_RETRY;
                self.next_poll = self.next_full;
            }
            Event::Mode { native, why } => {
                if self.polling == native {
                    self.next_poll = now.instant + self.poll_interval;
                }
                self.polling = !native;
                self.mode = Some((native, why));
            }
            Event::Woken => self.on_woken(now.instant, &mut effects),
        }
        effects
    }

    /// Says whether a notice waits to leave.
    pub fn has_notice(&self) -> bool {
        self.mode.is_some() || self.swept.is_some() || !self.queue.is_empty()
    }

    /// Takes the next notice; call it only when it can leave.
    ///
    /// A sweep leaves before the changes that came after it: it must not look newer than they are.
    pub fn take(&mut self, now: Now) -> Option<Leaving> {
        if let Some((native, why)) = self.mode.take() {
            return Some(Leaving::Mode { native, why });
        }
        if let Some(sessions) = self.swept.take() {
            return Some(Leaving::Swept(sessions));
        }
        let subject = self.queue.pop_front()?;
        let until = now.instant + BURST;
        self.bursts.insert(subject.clone(), Burst::Gathering { until, again: false });
        self.windows.push_back((until, subject.clone()));
        Some(match subject {
            Subject::Inbox(place) => Leaving::Inbox(place),
            Subject::Session(session) => {
                let anew = self.broken.get_mut(&session).is_some_and(|b| std::mem::take(&mut b.anew));
                Leaving::Session { session, anew }
            }
        })
    }

    /// Notes what a session's file looks like as its notice leaves, so that a poll does not report it again.
    pub fn saw(&mut self, session: &SessionId, file: Option<FileIdentity>) {
        match file {
            Some(identity) => {
                if let Some(known) = self.known.get_mut(session) {
                    *known = identity;
                } else {
                    self.known.insert(session.clone(), identity);
                }
            }
            None => {
                self.known.remove(session);
            }
        }
    }

    /// Returns a session's file as it was last seen.
    pub fn known(&self, session: &SessionId) -> Option<FileIdentity> {
        self.known.get(session).copied()
    }

    /// Takes the sessions that were hinted at while a sweep was under way: what it says about them may be old already,
    /// so look at each before handing the sweep in.
    pub fn touched(&mut self) -> HashSet<SessionId> {
        std::mem::take(&mut self.touched)
    }

    /// Says when [`Event::Woken`] is due.
    pub fn next_wakeup(&self) -> Option<Instant> {
        let sweep = if self.sweeping.is_some() {
            None
        } else if self.polling {
            Some(self.next_full.min(self.next_poll))
        } else {
            Some(self.next_full)
        };
        let window = self.windows.front().map(|(until, _)| *until);
        let retry = self.retries.first().map(|(at, _)| *at);
        [sweep, window, retry].into_iter().flatten().min()
    }

    fn hint(&mut self, subject: Subject) {
        if self.sweeping.is_some()
            && let Subject::Session(session) = &subject
            && !self.touched.contains(session)
        {
            self.touched.insert(session.clone());
        }
        match self.bursts.get_mut(&subject) {
            Some(Burst::Queued) => {}
            Some(Burst::Gathering { again, .. }) => *again = true,
            None => self.queue_up(subject),
        }
    }

    fn queue_up(&mut self, subject: Subject) {
        self.bursts.insert(subject.clone(), Burst::Queued);
        self.queue.push_back(subject);
    }

    fn end_burst(&mut self, subject: Subject) {
        match self.bursts.get(&subject) {
            Some(Burst::Gathering { again: true, .. }) => self.queue_up(subject),
            Some(Burst::Gathering { again: false, .. }) => {
                self.bursts.remove(&subject);
            }
            Some(Burst::Queued) | None => {}
        }
    }

    fn on_looked(&mut self, looked: Looked, now: Instant, effects: &mut Vec<Effect>) {
        let Looked { session, unreadable } = looked;
        match unreadable {
            None => {
                if let Some(broken) = self.broken.remove(&session) {
                    self.retries.remove(&(broken.next, session.clone()));
                    if broken.warned.is_some() {
                        effects.push(Effect::Recovered(session.clone()));
                    }
                }
            }
            Some(unreadable) => self.on_unreadable(&session, unreadable, now, effects),
        }
        self.end_burst(Subject::Session(session));
    }

    fn on_unreadable(
        &mut self,
        session: &SessionId,
        unreadable: Unreadable,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let identity = unreadable.identity;
        let Some(broken) = self.broken.get_mut(session) else {
            let next = now + FIRST_RETRY;
            let broken = Broken { since: now, identity, delay: FIRST_RETRY, next, anew: false, warned: None };
            self.broken.insert(session.clone(), broken);
            self.retries.insert((next, session.clone()));
            return;
        };
        if broken.identity != identity {
            broken.identity = identity;
            broken.delay = FIRST_RETRY;
            if broken.warned.is_some_and(|warned| warned != identity) {
                broken.since = now;
                broken.warned = None;
            }
            self.retries.remove(&(broken.next, session.clone()));
            broken.next = now + broken.delay;
            self.retries.insert((broken.next, session.clone()));
        }
        if now.saturating_duration_since(broken.since) >= BROKEN_AFTER && broken.warned.is_none() {
            broken.warned = Some(identity);
            broken.delay = BROKEN_RETRY;
            self.retries.remove(&(broken.next, session.clone()));
            broken.next = now + broken.delay;
            self.retries.insert((broken.next, session.clone()));
            effects.push(Effect::WarnUnreadable(session.clone(), unreadable));
        }
    }

    fn on_woken(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        while self.windows.front().is_some_and(|(until, _)| *until <= now) {
            let Some((until, subject)) = self.windows.pop_front() else { break };
            // A burst that a look has ended early, and that began anew, has a window of its own.
            if matches!(self.bursts.get(&subject), Some(Burst::Gathering { until: open, .. }) if *open == until)
            {
                self.end_burst(subject);
            }
        }
        while self.retries.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, session)) = self.retries.pop_first() else { break };
            let Some(broken) = self.broken.get_mut(&session) else { continue };
            let longest = if broken.warned.is_some() { BROKEN_RETRY } else { LONGEST_RETRY };
            broken.delay = (broken.delay * 2).min(longest);
            broken.next = now + broken.delay;
            broken.anew = true;
            self.retries.insert((broken.next, session.clone()));
            self.hint(Subject::Session(session));
        }
        if self.sweeping.is_none() {
            if self.next_full <= now {
                self.want(Sweep::Everything, effects);
            } else if self.polling && self.next_poll <= now {
                self.want(Sweep::Differences, effects);
            }
        }
    }

    fn want(&mut self, sweep: Sweep, effects: &mut Vec<Effect>) {
        if self.sweeping.is_some() {
            self.wanted = self.wanted.max(Some(sweep));
        } else {
            self.touched.clear();
            self.sweeping = Some(sweep);
            effects.push(Effect::Sweep);
        }
    }

    fn on_swept(&mut self, found: Found, now: Instant, effects: &mut Vec<Effect>) {
        let sweep = self.sweeping.take().unwrap_or(Sweep::Differences);
        let mut seen = HashMap::with_capacity(found.sessions.len());
        for Entry { session, file, inbox } in found.sessions {
            if inbox == Inbox::Waiting {
                self.hint(Subject::Inbox(InboxPlace::Session(session.clone())));
            }
            let before = self.known.get(&session).copied();
            let identity = match file {
                FileLook::Present(identity) => Some(identity),
                FileLook::Absent => None,
                FileLook::Unknown => before,
            };
            if sweep == Sweep::Differences && identity != before {
                self.hint(Subject::Session(session.clone()));
            }
            if let Some(identity) = identity {
                seen.insert(session, identity);
            }
        }
        if found.inbox == Inbox::Waiting {
            self.hint(Subject::Inbox(InboxPlace::Root));
        }
        let before = std::mem::replace(&mut self.known, seen);
        match sweep {
            Sweep::Differences => {
                for session in
                    before.into_keys().filter(|session| !self.known.contains_key(session)).collect::<Vec<_>>()
                {
                    self.hint(Subject::Session(session));
                }
            }
            Sweep::Everything => {
                self.swept =
                    Some(self.known.iter().map(|(session, file)| (session.clone(), *file)).collect());
                self.next_full = now + self.sweep_interval;
            }
        }
        self.next_poll = now + self.poll_interval;
        let known = &self.known;
        let retries = &mut self.retries;
        self.broken.retain(|session, broken| {
            known.contains_key(session) || !retries.remove(&(broken.next, session.clone()))
        });
        if let Some(wanted) = self.wanted.take() {
            self.want(wanted, effects);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Timestamp;
    use proptest::prelude::*;

    const POLL: Duration = Duration::from_secs(1);
    const SWEEP: Duration = Duration::from_secs(30);

    struct Rig {
        machine: Machine,
        now: Now,
    }

    impl Rig {
        fn new() -> Self {
            let now = Now { instant: Instant::now(), wall: Timestamp::EPOCH };
            let mut rig = Self { machine: Machine::new(POLL, SWEEP, now), now };
            rig.event(Event::Mode { native: true, why: None });
            assert_eq!(rig.event(Event::Woken), [Effect::Sweep]);
            rig.event(Event::Swept(Found::default()));
            rig.drain();
            rig
        }

        fn event(&mut self, event: Event) -> Vec<Effect> {
            self.machine.on_event(event, self.now)
        }

        fn hint(&mut self, name: &str) {
            assert_eq!(self.event(Event::Hinted(Subject::Session(session(name)))), []);
        }

        fn pass(&mut self, time: Duration) -> Vec<Effect> {
            self.now.instant += time;
            self.event(Event::Woken)
        }

        fn drain(&mut self) -> Vec<Leaving> {
            std::iter::from_fn(|| self.machine.take(self.now)).collect()
        }
    }

    fn session(name: &str) -> SessionId {
        SessionId::new(name).unwrap()
    }

    fn file(version: u64) -> FileIdentity {
        FileIdentity { device: 1, inode: version, size_bytes: 1, modified_ns: 1, changed_ns: 1 }
    }

    fn entry(name: &str, version: u64) -> Entry {
        Entry { session: session(name), file: FileLook::Present(file(version)), inbox: Inbox::Absent }
    }

    fn found(sessions: Vec<Entry>) -> Event {
        Event::Swept(Found { sessions, ..Found::default() })
    }

    fn changed(name: &str) -> Leaving {
        Leaving::Session { session: session(name), anew: false }
    }

    fn unreadable(name: &str, version: u64) -> Event {
        let problem = Unreadable { identity: file(version), line: 3, column: 7, message: "cut".into() };
        Event::Looked(Looked { session: session(name), unreadable: Some(problem) })
    }

    fn readable(name: &str) -> Event {
        Event::Looked(Looked { session: session(name), unreadable: None })
    }

    #[test]
    fn the_first_change_leaves_at_once_and_a_burst_becomes_one_more() {
        let mut rig = Rig::new();
        let start = rig.now.instant;
        rig.hint("a");
        assert_eq!(rig.drain(), [changed("a")]);
        for _ in 0..100 {
            rig.hint("a");
        }
        assert_eq!(rig.drain(), []);
        rig.pass(BURST);
        assert_eq!(rig.drain(), [changed("a")]);
        rig.pass(BURST);
        assert_eq!(rig.drain(), []);
        assert_eq!(rig.machine.next_wakeup(), Some(start + SWEEP));
    }

    #[test]
    fn a_look_ends_the_burst_early() {
        let mut rig = Rig::new();
        rig.hint("a");
        rig.drain();
        rig.hint("a");
        assert_eq!(rig.event(readable("a")), []);
        assert_eq!(rig.drain(), [changed("a")]);
        assert_eq!(rig.event(readable("a")), []);
        rig.hint("a");
        assert_eq!(rig.drain(), [changed("a")]);
    }

    #[test]
    fn a_torn_session_is_looked_at_again_with_growing_delays_and_warned_about_once_per_content() {
        let mut rig = Rig::new();
        rig.event(Event::Lost);
        rig.event(found(vec![entry("a", 1)]));
        rig.drain();
        let start = rig.now.instant;
        assert_eq!(rig.event(unreadable("a", 1)), []);
        let mut looks = Vec::new();
        let mut warnings = Vec::new();
        while rig.now.instant < start + Duration::from_secs(14) {
            rig.pass(Duration::from_millis(10));
            for leaving in rig.drain() {
                assert_eq!(leaving, Leaving::Session { session: session("a"), anew: true });
                looks.push((rig.now.instant - start).as_millis());
                warnings.extend(rig.event(unreadable("a", 1)));
            }
        }
        assert_eq!(looks, [50, 150, 350, 750, 1550, 3150, 5150, 7150, 9150, 11150]);
        assert!(matches!(&warnings[..], [Effect::WarnUnreadable(_, u)] if u.line == 3), "{warnings:?}");

        rig.hint("a");
        assert_eq!(rig.drain(), [changed("a")], "a change is looked at without waiting");
        assert_eq!(rig.event(unreadable("a", 2)), [], "new content gets its own ten seconds");
        rig.pass(BROKEN_AFTER);
        rig.drain();
        assert!(matches!(&rig.event(unreadable("a", 2))[..], [Effect::WarnUnreadable(..)]));
        assert_eq!(rig.event(readable("a")), [Effect::Recovered(session("a"))]);
        assert_eq!(rig.event(readable("a")), []);
    }

    #[test]
    fn a_sweep_that_was_due_tells_everything_and_one_in_between_tells_differences() {
        let mut rig = Rig::new();
        assert_eq!(rig.event(Event::Mode { native: false, why: None }), []);
        rig.drain();
        assert_eq!(rig.pass(POLL), [Effect::Sweep]);
        rig.event(found(vec![entry("a", 1), entry("b", 1)]));
        assert_eq!(rig.drain(), [changed("a"), changed("b")]);
        assert_eq!(rig.pass(POLL), [Effect::Sweep]);
        rig.event(found(vec![entry("a", 1), entry("b", 2)]));
        assert_eq!(rig.drain(), [changed("b")]);
        assert_eq!(rig.pass(POLL), [Effect::Sweep]);
        rig.event(found(vec![entry("b", 2)]));
        assert_eq!(rig.drain(), [changed("a")]);
        assert_eq!(rig.pass(SWEEP), [Effect::Sweep]);
        rig.event(found(vec![entry("b", 2)]));
        assert_eq!(rig.drain(), [Leaving::Swept(vec![(session("b"), file(2))])]);
    }

    #[test]
    fn a_sweep_leaves_before_changes_that_came_after_it() {
        let mut rig = Rig::new();
        assert_eq!(rig.event(Event::Lost), [Effect::Sweep]);
        rig.hint("new");
        assert_eq!(rig.machine.touched(), HashSet::from([session("new")]));
        rig.event(found(vec![entry("a", 1), entry("new", 1)]));
        assert!(
            matches!(rig.drain().as_slice(), [Leaving::Swept(all), last] if all.len() == 2 && *last == changed("new"))
        );
    }

    #[test]
    fn a_sweep_asked_for_during_a_sweep_follows_it() {
        let mut rig = Rig::new();
        assert_eq!(rig.event(Event::Lost), [Effect::Sweep]);
        assert_eq!(rig.event(Event::Watched), []);
        assert_eq!(rig.event(Event::Lost), []);
        assert_eq!(rig.event(found(vec![])), [Effect::Sweep]);
        assert_eq!(rig.event(found(vec![])), []);
        assert_eq!(rig.event(Event::Lost), [Effect::Sweep]);
        assert_eq!(rig.event(Event::SweepFailed), []);
        assert_eq!(rig.pass(FAILED_SWEEP_RETRY), [Effect::Sweep]);
    }

    #[test]
    fn a_file_that_cannot_be_judged_is_not_called_gone() {
        let mut rig = Rig::new();
        rig.event(Event::Lost);
        rig.event(found(vec![entry("a", 1)]));
        rig.drain();
        rig.event(Event::Lost);
        let unknown = Entry { file: FileLook::Unknown, ..entry("a", 1) };
        rig.event(found(vec![unknown]));
        assert_eq!(rig.drain(), [Leaving::Swept(vec![(session("a"), file(1))])]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Hint(u8),
        Look(u8, Option<u64>),
        Take,
        Pass(u16),
        Lost,
        SweepEnds(Vec<(u8, u64)>),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..4u8).prop_map(Step::Hint),
            3 => (0..4u8, proptest::option::of(0..3u64)).prop_map(|(s, v)| Step::Look(s, v)),
            4 => Just(Step::Take),
            3 => (0..3_000u16).prop_map(Step::Pass),
            1 => Just(Step::Lost),
            1 => proptest::collection::btree_map(0..4u8, 0..3u64, 0..4)
                .prop_map(|all| Step::SweepEnds(all.into_iter().collect())),
        ];
        proptest::collection::vec(step, 1..120)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// Whatever happens in whatever order: after the last hint of a session a notice of it leaves, no later than
        /// one burst after there is room for it; no timer lies in the past; nothing piles up.
        #[test]
        fn every_hint_is_followed_by_a_notice(steps in steps()) {
            let mut rig = Rig::new();
            let mut owed: HashSet<SessionId> = HashSet::new();
            let name = |s: u8| format!("s{s}");
            for step in steps {
                match step {
                    Step::Hint(s) => {
                        rig.hint(&name(s));
                        owed.insert(session(&name(s)));
                    }
                    Step::Look(s, None) => drop(rig.event(readable(&name(s)))),
                    Step::Look(s, Some(version)) => drop(rig.event(unreadable(&name(s), version))),
                    Step::Take => {
                        if let Some(Leaving::Session { session, .. }) = rig.machine.take(rig.now) {
                            owed.remove(&session);
                        }
                    }
                    Step::Pass(ms) => {
                        drop(rig.pass(Duration::from_millis(ms.into())));
                        prop_assert!(rig.machine.next_wakeup().is_none_or(|at| at > rig.now.instant));
                    }
                    Step::Lost => drop(rig.event(Event::Lost)),
                    Step::SweepEnds(all) => {
                        if rig.machine.sweeping.is_some() {
                            let all = all.into_iter().map(|(s, version)| entry(&name(s), version)).collect();
                            drop(rig.event(found(all)));
                        }
                    }
                }
                prop_assert!(rig.machine.queue.len() <= 4 && rig.machine.retries.len() == rig.machine.broken.len());
            }
            for _ in 0..2 {
                for leaving in rig.drain() {
                    if let Leaving::Session { session, .. } = leaving {
                        owed.remove(&session);
                    }
                }
                drop(rig.pass(BURST));
            }
            prop_assert!(owed.is_empty(), "never told: {owed:?}");
        }
    }
}
