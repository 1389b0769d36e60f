//! Pure: whose line is followed, and which mission is asked about when.
//!
//! | an executor's line | what follows |
//! |---|---|
//! | its first mission, or `--subscribe` | dial |
//! | a mission more | ask about it once, after [`POLL`]: many have ended by then |
//! | up | ask about each of its missions, and once more when the line has settled; then every [`SAFETY`] |
//! | lost | dial again with growing delays; meanwhile its missions are polled |
//! | refused | its missions are polled; dial again after [`REFUSED_RETRY`] |
//! | no mission for [`LET_GO`] | hang up |
//!
//! Polling a mission starts at [`POLL`] and slows to [`SLOWEST_POLL`] while nothing changes. While the registry does not
//! answer, one question at a time is open.

use crate::domain::id::{ExecutorId, MissionId};
use crate::domain::retry::RetryPolicy;
use crate::domain::time::Now;
use crate::events::messages::Command;
use crate::protocol::executor_v1::MissionStatus;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

/// The time between two questions about a mission that changes.
pub const POLL: Duration = Duration::from_secs(2);
/// The time between two questions about one that does not.
pub const SLOWEST_POLL: Duration = Duration::from_secs(15);
/// The time between two questions about a mission whose line is up: it catches what a broken server swallows.
pub const SAFETY: Duration = Duration::from_secs(300);
/// How long an executor without missions is still followed: its next mission often comes soon.
pub const LET_GO: Duration = Duration::from_secs(60);
/// How long a refusal stands.
pub const REFUSED_RETRY: Duration = Duration::from_secs(300);
/// A line that was up this long was a good one: the delays start over.
pub const LASTED: Duration = Duration::from_secs(30);
/// How many questions are open at once.
pub const MOST_QUESTIONS: usize = 16;
/// The longest wait that a registry may ask for with `Retry-After`.
pub const LONGEST_HOLD: Duration = Duration::from_secs(60);

/// What the machine is told.
#[derive(Debug)]
pub enum Event {
    /// Follow an executor whatever happens.
    Subscribed(ExecutorId),
    /// From the bridge.
    Commanded(Command),
    /// The line is up.
    Up(ExecutorId),
    /// The line is down, or did not come up.
    Down(ExecutorId, Why),
    /// The answer to a question.
    Answered(MissionId, Answer),
    /// A wake-up is due.
    Woken,
}

/// Why a line is down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// It broke or could not be made; in one line.
    Lost(String),
    /// The registry does not take observers; in one line.
    Refused(String),
}

/// The registry's answer about one mission.
#[derive(Debug)]
pub enum Answer {
    /// It has the mission.
    Known {
        /// Its record.
        status: Box<MissionStatus>,
        /// Two equal prints mean that nothing changed in between.
        print: u64,
    },
    /// It does not.
    NotFound,
    /// No usable answer.
    Unavailable {
        /// How long it asks us to wait.
        retry_after: Option<Duration>,
    },
}

/// What the machine asks for.
#[derive(Debug)]
#[must_use]
pub enum Effect {
    /// Open the line, then answer with [`Event::Up`] or [`Event::Down`].
    Dial(ExecutorId),
    /// Close it politely; no answer is expected.
    HangUp(ExecutorId),
    /// Ask the registry, or this executor when the registry does not know the mission; then answer with
    /// [`Event::Answered`].
    Ask(MissionId, Option<ExecutorId>),
    /// Pass on the registry's record.
    TellStatus(MissionId, Box<MissionStatus>),
    /// Pass on that the registry does not know the mission.
    TellNotFound(MissionId),
    /// Pass on that a line came up or went down.
    TellLine(ExecutorId, Option<Why>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Down { dial_at: Instant },
    Dialing,
    Up { since: Instant },
    Refused { dial_at: Option<Instant> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Up,
    Lost,
    Refused,
}

#[derive(Debug)]
struct Line {
    is_subscribed: bool,
    missions: HashSet<MissionId>,
    link: Link,
    failures: u32,
    told: Option<Told>,
    tell_up_at: Option<Instant>,
    idle_until: Option<Instant>,
    wake: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Nothing,
    NotFound,
    Print(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    None,
    Queued,
    Open { again: bool },
}

#[derive(Debug)]
struct Mission {
    executor: Option<ExecutorId>,
    known: Known,
    question: Question,
    interval: Duration,
    is_settling: bool,
    wake: Option<Instant>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Line(ExecutorId),
    Mission(MissionId),
}

/// Decides for all executors and live missions of one registry.
#[derive(Debug)]
pub struct Machine {
    no_lines: bool,
    seed: u64,
    lines: HashMap<ExecutorId, Line>,
    missions: HashMap<MissionId, Mission>,
    timers: BTreeSet<(Instant, Timer)>,
    queue: VecDeque<MissionId>,
    open_questions: usize,
    unanswered: u32,
    hold_until: Option<Instant>,
}

impl Machine {
    /// Makes a machine that follows nobody. With `no_lines` it only ever polls. `seed` spreads the reconnects.
    pub fn new(no_lines: bool, seed: u64) -> Self {
        Self {
            no_lines,
            seed,
            lines: HashMap::new(),
            missions: HashMap::new(),
            timers: BTreeSet::new(),
            queue: VecDeque::new(),
            open_questions: 0,
            unanswered: 0,
            hold_until: None,
        }
    }

    /// Takes one event and says what is to be done.
    pub fn on_event(&mut self, event: Event, now: Now) -> Vec<Effect> {
        let now = now.instant;
        let mut effects = Vec::new();
        match event {
            Event::Subscribed(executor) => {
                self.line(&executor, now).is_subscribed = true;
                self.wake_line(&executor, now, &mut effects);
            }
            Event::Commanded(Command::Follow { mission, executor }) => {
                self.follow(&mission, executor.as_ref(), now, &mut effects);
            }
            Event::Commanded(Command::Unfollow { mission }) => self.unfollow(&mission, now),
            Event::Up(executor) => self.on_up(&executor, now, &mut effects),
            Event::Down(executor, why) => self.on_down(&executor, why, now, &mut effects),
            Event::Answered(mission, answer) => self.on_answer(mission, answer, now, &mut effects),
            Event::Woken => self.on_woken(now, &mut effects),
        }
        self.ask_next(now, &mut effects);
        effects
    }

    /// Returns the executor that is taken to run `mission`.
    pub fn executor_of(&self, mission: &MissionId) -> Option<&ExecutorId> {
        self.missions.get(mission)?.executor.as_ref()
    }

    /// Says when [`Event::Woken`] is due.
    pub fn next_wakeup(&self) -> Option<Instant> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let hold = self.hold_until.filter(|_| !self.queue.is_empty());
        [timer, hold].into_iter().flatten().min()
    }

    fn line(&mut self, executor: &ExecutorId, now: Instant) -> &mut Line {
        let link = if self.no_lines { Link::Refused { dial_at: None } } else { Link::Down { dial_at: now } };
        self.lines.entry(executor.clone()).or_insert_with(|| Line {
            is_subscribed: false,
            missions: HashSet::new(),
            link,
            failures: 0,
            told: None,
            tell_up_at: None,
            idle_until: None,
            wake: None,
        })
    }

    fn follow(
        &mut self,
        mission: &MissionId,
        executor: Option<&ExecutorId>,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        self.missions.entry(mission.clone()).or_insert(Mission {
            executor: None,
            known: Known::Nothing,
            question: Question::None,
            interval: POLL,
            is_settling: false,
            wake: None,
        });
        match executor {
            Some(executor) => self.assign(mission, executor, now, effects),
            // Its executor is often named a moment later, by the answer to its dispatch.
            None => self.ask_by(mission, now + POLL),
        }
    }

    fn assign(
        &mut self,
        mission: &MissionId,
        executor: &ExecutorId,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let Some(held) = self.missions.get_mut(mission) else { return };
        if held.executor.as_ref() == Some(executor) {
            return;
        }
        let before = held.executor.replace(executor.clone());
        held.interval = POLL;
        if let Some(before) = before {
            self.leave(&before, mission, now);
        }
        let line = self.line(executor, now);
        line.missions.insert(mission.clone());
        line.idle_until = None;
        // Asked even when the line is up: what happened before we followed came over it to nobody.
        self.set_mission_timer(mission, Some(now + POLL));
        self.wake_line(executor, now, effects);
    }

    fn unfollow(&mut self, mission: &MissionId, now: Instant) {
        self.set_mission_timer(mission, None);
        if let Some(held) = self.missions.remove(mission)
            && let Some(executor) = held.executor
        {
            self.leave(&executor, mission, now);
        }
    }

    fn leave(&mut self, executor: &ExecutorId, mission: &MissionId, now: Instant) {
        let Some(line) = self.lines.get_mut(executor) else { return };
        line.missions.remove(mission);
        if line.missions.is_empty() && !line.is_subscribed {
            line.idle_until = Some(now + LET_GO);
            self.set_line_timer(executor);
        }
    }

    fn on_up(&mut self, executor: &ExecutorId, now: Instant, effects: &mut Vec<Effect>) {
        let Some(line) = self.lines.get_mut(executor) else { return };
        line.link = Link::Up { since: now };
        match line.told {
            Some(Told::Up) => {}
            // Some registries take the line before they refuse it: this is told when it lasts.
            Some(Told::Refused) => line.tell_up_at = Some(now + POLL),
            Some(Told::Lost) | None => {
                line.told = Some(Told::Up);
                effects.push(Effect::TellLine(executor.clone(), None));
            }
        }
        for mission in line.missions.iter().cloned().collect::<Vec<_>>() {
            if let Some(held) = self.missions.get_mut(&mission) {
                held.is_settling = true;
                held.interval = POLL;
            }
            self.ask(&mission);
        }
        self.set_line_timer(executor);
    }

    fn on_down(&mut self, executor: &ExecutorId, why: Why, now: Instant, effects: &mut Vec<Effect>) {
        let seed = self.seed ^ hash(executor.as_str());
        let Some(line) = self.lines.get_mut(executor) else { return };
        if matches!(line.link, Link::Up { since } if now.saturating_duration_since(since) >= LASTED) {
            line.failures = 0;
        }
        let is_refused = matches!(why, Why::Refused(_));
        line.link = if is_refused {
            Link::Refused { dial_at: Some(now + REFUSED_RETRY) }
        } else {
            line.failures = line.failures.saturating_add(1);
            let delay = RetryPolicy::RECONNECT.delay_after(line.failures, None, seed, now);
            Link::Down { dial_at: now + delay }
        };
        line.tell_up_at = None;
        let telling = if is_refused { Told::Refused } else { Told::Lost };
        // A line that was refused and is refused again in another way is no news.
        let is_news = line.told != Some(telling) && line.told != Some(Told::Refused);
        if is_news {
            line.told = Some(telling);
        }
        if is_news {
            effects.push(Effect::TellLine(executor.clone(), Some(why)));
        }
        for mission in line.missions.iter().cloned().collect::<Vec<_>>() {
            if is_news && let Some(held) = self.missions.get_mut(&mission) {
                held.interval = POLL;
            }
            if is_refused {
                self.ask(&mission);
            } else {
                self.ask_by(&mission, now + POLL);
            }
        }
        self.set_line_timer(executor);
    }

    fn on_answer(&mut self, mission: MissionId, answer: Answer, now: Instant, effects: &mut Vec<Effect>) {
        self.open_questions = self.open_questions.saturating_sub(1);
        let is_answered = !matches!(answer, Answer::Unavailable { .. });
        if is_answered {
            self.unanswered = 0;
            self.hold_until = None;
        }
        if let Answer::Unavailable { retry_after } = answer {
            self.unanswered = self.unanswered.saturating_add(1);
            let grown = POLL * 2_u32.saturating_pow(self.unanswered.min(4) - 1);
            let asked = retry_after.unwrap_or_default().min(LONGEST_HOLD);
            self.hold_until = Some(now + grown.min(SLOWEST_POLL).max(asked));
        }
        let Some(held) = self.missions.get_mut(&mission) else { return };
        let again = matches!(held.question, Question::Open { again: true });
        held.question = Question::None;
        let known = match &answer {
            Answer::Known { print, .. } => Known::Print(*print),
            Answer::NotFound => Known::NotFound,
            Answer::Unavailable { .. } => held.known,
        };
        held.interval = if known == held.known { (held.interval * 3 / 2).min(SLOWEST_POLL) } else { POLL };
        let is_news = known != held.known;
        held.known = known;
        let settling = is_answered && std::mem::take(&mut held.is_settling);
        let interval = held.interval;
        let is_up = held.executor.as_ref().and_then(|executor| self.lines.get(executor));
        let is_up = is_up.is_some_and(|line| matches!(line.link, Link::Up { .. }));
        let delay = match (is_up && is_answered, settling) {
            (true, true) => POLL,
            (true, false) => SAFETY,
            (false, _) => interval,
        };
        self.set_mission_timer(&mission, Some(now + delay));
        if again {
            self.ask(&mission);
        }
        match answer {
            Answer::Known { status, .. } => {
                if let Some(executor) = &status.executor_id {
                    self.assign(&mission, executor, now, effects);
                }
                if is_news {
                    effects.push(Effect::TellStatus(mission, status));
                }
            }
            Answer::NotFound if is_news => effects.push(Effect::TellNotFound(mission)),
            Answer::NotFound | Answer::Unavailable { .. } => {}
        }
    }

    fn on_woken(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.hold_until.is_some_and(|at| at <= now) {
            self.hold_until = None;
        }
        while self.timers.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, timer)) = self.timers.pop_first() else { break };
            match timer {
                Timer::Line(executor) => {
                    if let Some(line) = self.lines.get_mut(&executor) {
                        line.wake = None;
                    }
                    self.wake_line(&executor, now, effects);
                }
                Timer::Mission(mission) => {
                    if let Some(held) = self.missions.get_mut(&mission) {
                        held.wake = None;
                    }
                    self.ask(&mission);
                }
            }
        }
    }

    fn wake_line(&mut self, executor: &ExecutorId, now: Instant, effects: &mut Vec<Effect>) {
        let Some(line) = self.lines.get_mut(executor) else { return };
        if line.idle_until.is_some_and(|at| at <= now) {
            if matches!(line.link, Link::Dialing | Link::Up { .. }) {
                effects.push(Effect::HangUp(executor.clone()));
            }
            if let Some(at) = line.wake {
                self.timers.remove(&(at, Timer::Line(executor.clone())));
            }
            self.lines.remove(executor);
            return;
        }
        if matches!(line.link, Link::Down { dial_at } | Link::Refused { dial_at: Some(dial_at) } if dial_at <= now)
        {
            line.link = Link::Dialing;
            effects.push(Effect::Dial(executor.clone()));
        }
        if line.tell_up_at.is_some_and(|at| at <= now) {
            line.tell_up_at = None;
            line.told = Some(Told::Up);
            effects.push(Effect::TellLine(executor.clone(), None));
        }
        self.set_line_timer(executor);
    }

    /// Asks as soon as there is room.
    fn ask(&mut self, mission: &MissionId) {
        let Some(held) = self.missions.get_mut(mission) else { return };
        match held.question {
            Question::None => {
                held.question = Question::Queued;
                self.queue.push_back(mission.clone());
            }
            Question::Queued => {}
            Question::Open { .. } => held.question = Question::Open { again: true },
        }
    }

    /// Asks at `at` unless that is planned for earlier.
    fn ask_by(&mut self, mission: &MissionId, at: Instant) {
        let Some(held) = self.missions.get(mission) else { return };
        if held.wake.is_none_or(|planned| planned > at) {
            self.set_mission_timer(mission, Some(at));
        }
    }

    fn ask_next(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let most = if self.unanswered > 0 { 1 } else { MOST_QUESTIONS };
        while self.open_questions < most && self.hold_until.is_none_or(|at| at <= now) {
            let Some(mission) = self.queue.pop_front() else { break };
            let Some(held) = self.missions.get_mut(&mission) else { continue };
            // One that was let go and followed again meanwhile may stand in the queue twice.
            if held.question != Question::Queued {
                continue;
            }
            held.question = Question::Open { again: false };
            self.open_questions += 1;
            let executor = held.executor.clone();
            effects.push(Effect::Ask(mission, executor));
        }
    }

    fn set_mission_timer(&mut self, mission: &MissionId, at: Option<Instant>) {
        let Some(held) = self.missions.get_mut(mission) else { return };
        if let Some(before) = std::mem::replace(&mut held.wake, at) {
            self.timers.remove(&(before, Timer::Mission(mission.clone())));
        }
        if let Some(at) = at {
            self.timers.insert((at, Timer::Mission(mission.clone())));
        }
    }

    fn set_line_timer(&mut self, executor: &ExecutorId) {
        let Some(line) = self.lines.get_mut(executor) else { return };
        let dial = match line.link {
            Link::Down { dial_at } => Some(dial_at),
            Link::Refused { dial_at } => dial_at,
            Link::Dialing | Link::Up { .. } => None,
        };
        let at = [dial, line.idle_until, line.tell_up_at].into_iter().flatten().min();
        if let Some(before) = std::mem::replace(&mut line.wake, at) {
            self.timers.remove(&(before, Timer::Line(executor.clone())));
        }
        if let Some(at) = at {
            self.timers.insert((at, Timer::Line(executor.clone())));
        }
    }
}

/// FNV-1a: executors only have to differ, not to be unpredictable.
fn hash(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::lifecycle::MissionState;
    use crate::domain::time::Timestamp;
    use proptest::prelude::*;

    struct Rig {
        machine: Machine,
        now: Now,
        start: Instant,
    }

    impl Rig {
        fn new() -> Self {
            let now = Now { instant: Instant::now(), wall: Timestamp::EPOCH };
            Self { machine: Machine::new(false, 7), now, start: now.instant }
        }

        fn event(&mut self, event: Event) -> Vec<String> {
            self.machine.on_event(event, self.now).iter().map(shown).collect()
        }

        fn follow(&mut self, name: &str, executor: Option<u8>) -> Vec<String> {
            let executor = executor.map(self::executor);
            self.event(Event::Commanded(Command::Follow { mission: mission(name), executor }))
        }

        fn pass(&mut self, time: Duration) -> Vec<String> {
            self.now.instant += time;
            self.event(Event::Woken)
        }

        /// Lets time pass up to the next wake-up; returns when that was and what came of it.
        fn next(&mut self) -> (Duration, Vec<String>) {
            let at = self.machine.next_wakeup().unwrap();
            let effects = self.pass(at - self.now.instant);
            (at - self.start, effects)
        }

        fn answer(&mut self, name: &str, by: Option<u8>, print: u64) -> Vec<String> {
            let status = Box::new(status(name, by));
            self.event(Event::Answered(mission(name), Answer::Known { status, print }))
        }
    }

    fn shown(effect: &Effect) -> String {
        let tail = |id: &ExecutorId| id.as_str().chars().last().unwrap();
        match effect {
            Effect::Dial(id) => format!("dial {}", tail(id)),
            Effect::HangUp(id) => format!("hang up {}", tail(id)),
            Effect::Ask(mission, _) => format!("ask {mission}"),
            Effect::TellStatus(mission, _) => format!("status {mission}"),
            Effect::TellNotFound(mission) => format!("not found {mission}"),
            Effect::TellLine(id, None) => format!("up {}", tail(id)),
            Effect::TellLine(id, Some(Why::Lost(_))) => format!("lost {}", tail(id)),
            Effect::TellLine(id, Some(Why::Refused(_))) => format!("refused {}", tail(id)),
        }
    }

    fn executor(number: u8) -> ExecutorId {
        ExecutorId::new(format!("00000000-0000-4000-8000-00000000000{number}")).unwrap()
    }

    fn mission(name: &str) -> MissionId {
        MissionId::new(name).unwrap()
    }

    fn status(name: &str, by: Option<u8>) -> MissionStatus {
        MissionStatus {
            mission_id: mission(name),
            executor_id: by.map(executor),
            state: MissionState::Running,
            created_at: None,
            updated_at: None,
            completed_at: None,
            recent_events: Vec::new(),
            pty_session_ref: None,
            exit_code: None,
            error: None,
            waiting: None,
            never_began: None,
        }
    }

    fn lost() -> Why {
        Why::Lost("cut".to_owned())
    }

    fn refused() -> Why {
        Why::Refused("4001".to_owned())
    }

    #[test]
    fn a_line_that_comes_up_leads_to_a_question_about_each_mission_and_one_more_when_it_has_settled() {
        let mut rig = Rig::new();
        assert_eq!(rig.follow("a", Some(1)), ["dial 1"]);
        assert_eq!(rig.follow("b", Some(1)), [""; 0]);
        let mut up = rig.event(Event::Up(executor(1)));
        up.sort();
        assert_eq!(up, ["ask a", "ask b", "up 1"]);
        assert_eq!(rig.answer("a", Some(1), 1), ["status a"]);
        assert_eq!(rig.answer("b", Some(1), 1), ["status b"]);
        assert_eq!(rig.pass(POLL), ["ask a", "ask b"]);
        assert_eq!(rig.answer("a", Some(1), 1), [""; 0], "nothing changed");
        assert_eq!(rig.answer("b", Some(1), 2), ["status b"]);
        assert_eq!(rig.follow("c", Some(1)), [""; 0], "a mission that ends at once costs no question");
        let next = rig.now.instant + SAFETY;
        assert_eq!(rig.pass(POLL), ["ask c"]);
        rig.answer("c", Some(1), 1);
        assert_eq!(rig.machine.next_wakeup(), Some(next));
    }

    #[test]
    fn a_refused_line_is_polled_slower_and_slower_until_something_changes_and_told_once() {
        let mut rig = Rig::new();
        assert_eq!(rig.follow("a", Some(1)), ["dial 1"]);
        assert_eq!(rig.event(Event::Down(executor(1), refused())), ["refused 1", "ask a"]);
        assert_eq!(rig.answer("a", Some(1), 1), ["status a"]);
        let mut waits = Vec::new();
        let mut before = Duration::ZERO;
        for _ in 0..7 {
            let (at, effects) = rig.next();
            assert_eq!(effects, ["ask a"]);
            assert_eq!(rig.answer("a", Some(1), 1), [""; 0]);
            waits.push(at.saturating_sub(before).as_millis());
            before = at;
        }
        assert_eq!(waits, [2000, 3000, 4500, 6750, 10_125, 15_000, 15_000]);
        rig.next();
        assert_eq!(rig.answer("a", Some(1), 2), ["status a"]);
        assert_eq!(rig.machine.next_wakeup(), Some(rig.now.instant + POLL));

        while rig.now.instant < rig.start + REFUSED_RETRY {
            if rig.next().1.contains(&"ask a".to_owned()) {
                rig.answer("a", Some(1), 2);
            }
        }
        assert!(rig.event(Event::Up(executor(1))).iter().all(|effect| effect != "up 1"));
        assert!(rig.event(Event::Down(executor(1), refused())).iter().all(|effect| effect != "refused 1"));
    }

    #[test]
    fn a_lost_line_is_dialled_again_and_its_missions_are_asked_about_meanwhile() {
        let mut rig = Rig::new();
        rig.follow("a", Some(1));
        rig.event(Event::Up(executor(1)));
        rig.answer("a", Some(1), 1);
        assert_eq!(rig.event(Event::Down(executor(1), lost())), ["lost 1"]);
        let mut seen = Vec::new();
        while rig.now.instant < rig.start + POLL {
            seen.extend(rig.next().1);
        }
        seen.sort();
        assert_eq!(seen, ["ask a", "dial 1"]);
    }

    #[test]
    fn an_executor_without_missions_is_let_go_after_a_minute_but_a_subscribed_one_never() {
        let mut rig = Rig::new();
        rig.follow("a", Some(1));
        rig.event(Event::Up(executor(1)));
        assert_eq!(rig.event(Event::Subscribed(executor(2))), ["dial 2"]);
        rig.event(Event::Up(executor(2)));
        rig.follow("b", Some(2));
        for name in ["a", "b"] {
            rig.event(Event::Commanded(Command::Unfollow { mission: mission(name) }));
            rig.answer(name, None, 1);
        }
        assert_eq!(rig.pass(LET_GO), ["hang up 1"]);
        assert_eq!(rig.machine.next_wakeup(), None);
        assert_eq!(rig.follow("c", Some(1)), ["dial 1"]);
    }

    #[test]
    fn a_mission_whose_executor_is_unknown_or_another_is_followed_where_the_registry_says() {
        let mut rig = Rig::new();
        assert_eq!(rig.follow("a", None), [""; 0]);
        assert_eq!(rig.pass(POLL), ["ask a"]);
        assert_eq!(rig.answer("a", Some(1), 1), ["dial 1", "status a"]);
        rig.event(Event::Up(executor(1)));
        assert_eq!(rig.answer("a", Some(2), 2), ["dial 2", "status a"]);
        assert_eq!(rig.machine.executor_of(&mission("a")), Some(&executor(2)));
        assert!(rig.pass(LET_GO).contains(&"hang up 1".to_owned()));
    }

    #[test]
    fn a_registry_that_does_not_answer_is_asked_one_question_at_a_time() {
        let mut rig = Rig::new();
        let names: Vec<String> = (0..100).map(|n| format!("m{n}")).collect();
        for name in &names {
            rig.follow(name, Some(1));
        }
        let asked = rig.event(Event::Down(executor(1), refused()));
        assert_eq!(asked.iter().filter(|effect| effect.starts_with("ask")).count(), MOST_QUESTIONS);
        for ask in asked.iter().filter_map(|effect| effect.strip_prefix("ask ")) {
            let nothing = Answer::Unavailable { retry_after: None };
            assert_eq!(rig.event(Event::Answered(mission(ask), nothing)), [""; 0]);
        }
        let (at, asked) =
            std::iter::repeat_with(|| rig.next()).find(|(_, effects)| !effects.is_empty()).unwrap();
        assert_eq!((at, asked.len()), (SLOWEST_POLL, 1));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Follow(u8, Option<u8>),
        Unfollow(u8),
        Up(u8),
        Down(u8, bool),
        Answer(Reply, u64),
        Pass(u32),
    }

    #[derive(Debug, Clone)]
    enum Reply {
        Nothing,
        NotFound,
        Known(Option<u8>),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let reply = prop_oneof![
            Just(Reply::Nothing),
            Just(Reply::NotFound),
            proptest::option::of(0..3u8).prop_map(Reply::Known),
        ];
        let step = prop_oneof![
            4 => (0..6u8, proptest::option::of(0..3u8)).prop_map(|(m, e)| Step::Follow(m, e)),
            2 => (0..6u8).prop_map(Step::Unfollow),
            3 => (0..3u8).prop_map(Step::Up),
            2 => (0..3u8, any::<bool>()).prop_map(|(e, r)| Step::Down(e, r)),
            6 => (reply, 0..3u64).prop_map(|(reply, print)| Step::Answer(reply, print)),
            4 => (0..40_000u32).prop_map(Step::Pass),
        ];
        proptest::collection::vec(step, 1..120)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Whatever comes: questions stay within their limit and each is answered to, no timer lies in the past, a line
        /// is dialled only while it is down, and whoever is followed is asked about again some day.
        #[test]
        fn nobody_who_is_followed_is_forgotten(steps in steps()) {
            let mut rig = Rig::new();
            let mut open: VecDeque<MissionId> = VecDeque::new();
            let mut dialled: HashSet<ExecutorId> = HashSet::new();
            let mut up: HashSet<ExecutorId> = HashSet::new();
            let mut followed: HashSet<MissionId> = HashSet::new();
            let name = |m: u8| mission(&format!("m{m}"));
            for step in steps {
                let event = match step {
                    Step::Follow(m, e) => {
                        followed.insert(name(m));
                        Event::Commanded(Command::Follow { mission: name(m), executor: e.map(executor) })
                    }
                    Step::Unfollow(m) => {
                        followed.remove(&name(m));
                        Event::Commanded(Command::Unfollow { mission: name(m) })
                    }
                    Step::Up(e) => {
                        if !dialled.remove(&executor(e)) { continue }
                        up.insert(executor(e));
                        Event::Up(executor(e))
                    }
                    Step::Down(e, is_refused) => {
                        if !dialled.remove(&executor(e)) && !up.remove(&executor(e)) { continue }
                        Event::Down(executor(e), if is_refused { refused() } else { lost() })
                    }
                    Step::Answer(answer, print) => {
                        let Some(mission) = open.pop_front() else { continue };
                        let answer = match answer {
                            Reply::Nothing => Answer::Unavailable { retry_after: None },
                            Reply::NotFound => Answer::NotFound,
                            Reply::Known(by) => Answer::Known { status: Box::new(status(mission.as_str(), by)), print },
                        };
                        Event::Answered(mission, answer)
                    }
                    Step::Pass(ms) => {
                        rig.now.instant += Duration::from_millis(ms.into());
                        Event::Woken
                    }
                };
                let is_woken = matches!(event, Event::Woken);
                for effect in rig.machine.on_event(event, rig.now) {
                    match effect {
                        Effect::Dial(id) => {
                            prop_assert!(!up.contains(&id) && dialled.insert(id));
                        }
                        Effect::HangUp(id) => {
                            prop_assert!(dialled.remove(&id) || up.remove(&id));
                        }
                        Effect::Ask(mission, _) => open.push_back(mission),
                        Effect::TellStatus(..) | Effect::TellNotFound(_) | Effect::TellLine(..) => {}
                    }
                }
                prop_assert_eq!(open.len(), rig.machine.open_questions);
                prop_assert!(open.len() <= MOST_QUESTIONS);
                if is_woken {
                    prop_assert!(rig.machine.next_wakeup().is_none_or(|at| at > rig.now.instant));
                }
                for mission in &followed {
                    let held = &rig.machine.missions[mission];
                    prop_assert!(held.wake.is_some() || held.question != Question::None, "{mission} is forgotten");
                }
                prop_assert_eq!(rig.machine.missions.len(), followed.len());
            }
        }
    }
}
