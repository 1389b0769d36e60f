//! Pure: one mission on this host, from its acceptance to its end.
//!
//! | phase | what happens | leads to |
//! |---|---|---|
//! | waiting | a slot is awaited | provisioning; aborted |
//! | provisioning | resources are leased | a run; failed `provisioning_failed` |
//! | run (set-up, agent, check) | a process runs | the next run; releasing |
//! | releasing | resources are given back | finished |
//! | finished | nothing | – |
//!
//! A run may be paused, may ask a human, and may be told to stop; the reason of the first stop stays. The outcome is
//! decided when the last run ends and told once the resources are back, so that it can say what was kept.

use crate::domain::event::MissionEvent;
use crate::domain::id::HitlId;
use crate::domain::lifecycle::MissionState;
use crate::domain::time::{Now, Timestamp};
use crate::executor::digest::{Digest, Progress};
use crate::executor::effect::{Effect, Event, Refusal};
use crate::executor::outcome::{self, Outcome, Stop, Verdict};
use crate::executor::run::{Plan, Run, RunKind};
use crate::executor::runner_protocol::{Ended, Exit};
use std::time::{Duration, Instant};

/// Progress is told at most this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// A terminal must have been quiet this long before its open line counts as a question.
const QUIET: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq)]
enum Phase {
    Waiting,
    Provisioning,
    Running(Run),
    Releasing(Outcome),
    Finished,
}

#[derive(Debug, Clone, PartialEq)]
struct Asking {
    id: HitlId,
    in_terminal: bool,
    line: String,
    since: Instant,
    expires: Option<Instant>,
    /// As it was told.
    question: MissionEvent,
}

/// One mission.
#[derive(Debug)]
pub struct Machine {
    plan: Plan,
    phase: Phase,
    stop: Option<Stop>,
    asking: Option<Asking>,
    answered_line: Option<String>,
    paused_at: Option<Instant>,
    announced: bool,
    begun: Option<Instant>,
    not_counted: Duration,
    meaningful_at: Instant,
    output_at: Instant,
    digest: Digest,
    told: String,
    told_progress: Progress,
    told_at: Option<Instant>,
}

impl Machine {
    /// Begins with waiting for a slot.
    pub fn new(plan: Plan, now: Now) -> Self {
        Self {
            plan,
            phase: Phase::Waiting,
            stop: None,
            asking: None,
            answered_line: None,
            paused_at: None,
            announced: false,
            begun: None,
            not_counted: Duration::ZERO,
            meaningful_at: now.instant,
            output_at: now.instant,
            digest: Digest::default(),
            told: String::new(),
            told_progress: Progress::default(),
            told_at: None,
        }
    }

    /// Takes a mission up again in the middle of a run, `elapsed` after it began; whether that was `announced` is known.
    pub fn resumed(plan: Plan, run: Run, elapsed: Duration, announced: bool, now: Now) -> Self {
        Self {
            phase: Phase::Running(run),
            announced,
            begun: now.instant.checked_sub(elapsed).or(Some(now.instant)),
            ..Self::new(plan, now)
        }
    }

    /// Takes a mission up again whose end is known but whose resources are not back.
    pub fn releasing(plan: Plan, outcome: Outcome, now: Now) -> Self {
        Self { phase: Phase::Releasing(outcome), announced: true, ..Self::new(plan, now) }
    }

    /// Returns the state as the registry knows it.
    pub fn state(&self) -> MissionState {
        match &self.phase {
            Phase::Finished => MissionState::Done,
            _ if self.paused_at.is_some() => MissionState::Paused,
            _ if self.asking.is_some() => MissionState::HitlRequired,
            Phase::Running(_) | Phase::Releasing(_) if self.announced => MissionState::Running,
            Phase::Waiting | Phase::Provisioning | Phase::Running(_) | Phase::Releasing(_) => {
                MissionState::Assigned
            }
        }
    }

    /// Says whether its run has been told to end.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_some()
    }

    /// Says whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.phase == Phase::Finished
    }

    /// Returns the current run.
    pub fn run(&self) -> Option<&Run> {
        match &self.phase {
            Phase::Running(run) => Some(run),
            Phase::Waiting | Phase::Provisioning | Phase::Releasing(_) | Phase::Finished => None,
        }
    }

    /// Says whether an order fits the state.
    ///
    /// # Errors
    /// [`Refusal`] says why not.
    pub fn check(&self, order: &Event) -> Result<(), Refusal> {
        let state = self.state();
        match (order, &self.phase) {
            (_, Phase::Finished) => Err(Refusal::Terminal),
            (Event::OrderPause, Phase::Running(_)) if self.stop.is_none() => Ok(()),
            (Event::OrderResume, _) if self.paused_at.is_some() => Ok(()),
            (Event::OrderPause | Event::OrderResume, _) | (Event::OrderAbort { .. }, Phase::Releasing(_)) => {
                Err(Refusal::Illegal(state))
            }
            (Event::Answer { id, .. }, _) if self.asking.as_ref().is_none_or(|asking| asking.id != *id) => {
                Err(Refusal::NotPending)
            }
            _ => Ok(()),
        }
    }

    /// Returns when [`Event::Tick`] is due.
    pub fn next_wakeup(&self) -> Option<Instant> {
        let Phase::Running(run) = &self.phase else { return None };
        if self.paused_at.is_some() || self.stop.is_some() {
            return None;
        }
        let mut due = Vec::new();
        let begun = self.begun.map(|begun| begun + self.not_counted);
        for limit in [self.plan.limits.timeout, self.plan.limits.time_budget] {
            due.extend(begun.zip(limit).map(|(begun, limit)| begun + limit));
        }
        if let Some(asking) = &self.asking {
            due.extend(asking.expires);
        } else {
            due.extend(self.plan.limits.stall.map(|stall| self.meaningful_at + stall));
            if run.kind == RunKind::Agent && self.may_ask() {
                due.push(self.output_at + QUIET);
            }
        }
        if self.has_news() {
            due.push(self.told_at.map_or(self.output_at, |told| told + PROGRESS_EVERY));
        }
        due.into_iter().min()
    }

    fn may_ask(&self) -> bool {
        self.plan.terminal
            && self.answered_line.as_deref() != Some(&self.digest.open_line)
            && self.plan.questions.is_question(&self.digest.open_line)
    }

    fn news(&self) -> &str {
        self.digest.progress.summary.as_deref().unwrap_or(if self.digest.last_line.is_empty() {
            &self.digest.open_line
        } else {
            &self.digest.last_line
        })
    }

    fn has_news(&self) -> bool {
        let more = self.digest.progress != self.told_progress;
        self.announced && (more || !self.news().is_empty() && self.news() != self.told)
    }

    /// Takes what happened and answers what is to be done.
    pub fn on_event(&mut self, event: Event, now: Now) -> Vec<Effect> {
        match event {
            Event::SlotFree => match self.phase {
                Phase::Waiting => {
                    self.phase = Phase::Provisioning;
                    vec![Effect::Provision]
                }
                Phase::Provisioning | Phase::Running(_) | Phase::Releasing(_) | Phase::Finished => Vec::new(),
            },
            Event::Provisioned(outcome) => self.provisioned(outcome, now),
            Event::Started { .. } => self.started(now),
            Event::Output(digest) => self.output(digest, now),
            Event::Paused | Event::Resumed => Vec::new(),
            Event::Ended(ended) => self.ended(ended, now),
            Event::Question { id, prompt } => self.ask(id, prompt, false, now),
            Event::OrderPause => self.pause(now),
            Event::OrderResume => self.resume(now),
            Event::CalledRunning => self.correction(),
            Event::OrderAbort { by, reason } => self.abort(by, reason),
            Event::Answer { id, response } => self.answer(&id, response, now),
            Event::Released { branch, artifacts, remark } => self.released(branch, artifacts, remark),
            Event::Tick => self.tick(now),
        }
    }

    fn provisioned(&mut self, outcome: Result<(), String>, now: Now) -> Vec<Effect> {
        if self.phase != Phase::Provisioning {
            return Vec::new();
        }
        match (outcome, self.stop.take()) {
            (_, Some(stop)) => self.release(stop.outcome(None)),
            (Err(error), None) => self.release(Outcome::Failed {
                reason: "provisioning_failed".to_owned(),
                error: Some(error),
                exit_code: None,
                tokens: None,
            }),
            (Ok(()), None) => {
                self.begun = Some(now.instant);
                self.start(self.plan.first_run(), now)
            }
        }
    }

    fn start(&mut self, run: Run, now: Now) -> Vec<Effect> {
        self.phase = Phase::Running(run.clone());
        self.digest = Digest { progress: self.digest.progress.clone(), ..Digest::default() };
        (self.meaningful_at, self.output_at) = (now.instant, now.instant);
        self.answered_line = None;
        vec![Effect::Start(run)]
    }

    fn release(&mut self, outcome: Outcome) -> Vec<Effect> {
        self.phase = Phase::Releasing(outcome.clone());
        self.asking = None;
        self.paused_at = None;
        vec![Effect::Release(outcome)]
    }

    fn started(&mut self, now: Now) -> Vec<Effect> {
        if !matches!(self.phase, Phase::Running(_)) {
            return Vec::new();
        }
        self.output_at = now.instant;
        if std::mem::replace(&mut self.announced, true) {
            return Vec::new();
        }
        vec![Effect::Emit(MissionEvent::Started {
            agent_runtime: Some(self.plan.runtime.clone()),
            pty_session_id: None,
        })]
    }

    fn output(&mut self, digest: Digest, now: Now) -> Vec<Effect> {
        if digest.meaningful > self.digest.meaningful {
            self.meaningful_at = now.instant;
        }
        if digest.bytes > self.digest.bytes {
            self.output_at = now.instant;
        }
        self.digest = digest;
        let mut effects = Vec::new();
        // The terminal went on by itself: nobody has to answer any more.
        let went_on = self
            .asking
            .as_ref()
            .is_some_and(|asking| asking.in_terminal && asking.line != self.digest.open_line);
        if went_on && !self.may_ask() {
            self.stop_asking(now);
            effects.push(Effect::Emit(MissionEvent::Resumed { resumed_from: None }));
        }
        effects.extend(self.tick(now));
        effects
    }

    fn tick(&mut self, now: Now) -> Vec<Effect> {
        let Phase::Running(run) = &self.phase else { return Vec::new() };
        let (kind, iteration) = (run.kind, run.iteration);
        if self.paused_at.is_some() || self.stop.is_some() {
            return Vec::new();
        }
        if let Some((reason, error)) = self.over_limit(now.instant) {
            let stop = Stop::Fail { reason: reason.to_owned(), error };
            self.stop = Some(stop);
            return vec![Effect::Stop];
        }
        let mut effects = Vec::new();
        let told_long_ago = self.told_at.is_none_or(|told| told + PROGRESS_EVERY <= now.instant);
        if self.has_news() && told_long_ago {
            self.told = self.news().to_owned();
            self.told_progress = self.digest.progress.clone();
            self.told_at = Some(now.instant);
            effects.push(Effect::Emit(self.progress(iteration)));
        }
        let quiet = self.output_at + QUIET <= now.instant;
        if self.asking.is_none() && kind == RunKind::Agent && quiet && self.may_ask() {
            let line = self.digest.open_line.clone();
            // The time makes it unlike the questions before a restart.
            if let Ok(id) = HitlId::new(format!("terminal-{iteration}-{}", now.wall.as_millis())) {
                effects.extend(self.ask(id, line, true, now));
            }
        }
        effects
    }

    fn over_limit(&self, now: Instant) -> Option<(&'static str, String)> {
        let limits = &self.plan.limits;
        let used = self.begun.map(|begun| now.saturating_duration_since(begun + self.not_counted));
        let over = |limit: Option<Duration>| limit.filter(|limit| used.is_some_and(|used| used >= *limit));
        if let Some(expired) =
            self.asking.as_ref().filter(|asking| asking.expires.is_some_and(|at| at <= now))
        {
            return Some(("hitl_timeout", format!("nobody answered {} in time", expired.id)));
        }
        if let Some(limit) = over(limits.timeout) {
            return Some(("timeout", format!("it took longer than {} s", limit.as_secs_f64())));
        }
        if let Some(limit) = over(limits.time_budget) {
            return Some(("budget", format!("its budget of {} s is used up", limit.as_secs_f64())));
        }
        if let (Some(limit), Some(used)) = (limits.tokens, self.digest.progress.tokens_used)
            && used > limit
        {
            return Some(("budget", format!("its budget of {limit} tokens is used up: {used}")));
        }
        match limits.stall {
            Some(stall) if self.asking.is_none() && self.meaningful_at + stall <= now => {
                Some(("stalled", format!("nothing meaningful was said for {} s", stall.as_secs_f64())))
            }
            Some(_) | None => None,
        }
    }

    fn progress(&self, iteration: u32) -> MissionEvent {
        let progress = &self.digest.progress;
        MissionEvent::Progress {
            phase: progress.phase.clone(),
            iteration: progress.iteration.or((self.plan.limits.iterations > 1).then_some(iteration.into())),
            tokens_used: progress.tokens_used,
            summary: (!self.told.is_empty()).then(|| self.told.clone()),
            pct_complete: progress.pct_complete,
        }
    }

    fn ask(&mut self, id: HitlId, prompt: String, in_terminal: bool, now: Now) -> Vec<Effect> {
        if !matches!(self.phase, Phase::Running(_)) || self.stop.is_some() || self.asking.is_some() {
            return Vec::new();
        }
        let within = self.plan.limits.answer_within;
        let expires_at: Option<Timestamp> = within.map(|within| now.wall.plus(within));
        let context =
            (in_terminal && !self.digest.last_line.is_empty()).then(|| self.digest.last_line.clone());
        let question = MissionEvent::HitlRequired { hitl_id: id.clone(), prompt, context, expires_at };
        self.asking = Some(Asking {
            id,
            in_terminal,
            line: self.digest.open_line.clone(),
            since: now.instant,
            expires: within.map(|within| now.instant + within),
            question: question.clone(),
        });
        vec![Effect::Emit(question)]
    }

    /// Tells a registry that takes the mission for running what it really does.
    fn correction(&self) -> Vec<Effect> {
        let really = match (&self.asking, self.paused_at) {
            (_, Some(_)) => MissionEvent::Paused { reason: None },
            (Some(asking), None) => asking.question.clone(),
            (None, None) => return Vec::new(),
        };
        vec![Effect::Emit(really)]
    }

    fn stop_asking(&mut self, now: Now) {
        if let Some(asking) = self.asking.take() {
            self.answered_line = asking.in_terminal.then_some(asking.line);
            self.meaningful_at += now.instant.saturating_duration_since(asking.since);
        }
    }

    fn answer(&mut self, id: &HitlId, response: String, now: Now) -> Vec<Effect> {
        let Some(asking) = self.asking.as_ref().filter(|asking| asking.id == *id) else {
            return Vec::new();
        };
        let effect = if asking.in_terminal {
            Effect::Type(format!("{response}\r"))
        } else {
            Effect::WriteAnswer { id: id.clone(), response }
        };
        self.stop_asking(now);
        vec![effect, Effect::Emit(MissionEvent::Resumed { resumed_from: None })]
    }

    fn pause(&mut self, now: Now) -> Vec<Effect> {
        if self.paused_at.is_some() || self.stop.is_some() || !matches!(self.phase, Phase::Running(_)) {
            return Vec::new();
        }
        self.paused_at = Some(now.instant);
        vec![Effect::Pause, Effect::Emit(MissionEvent::Paused { reason: None })]
    }

    fn resume(&mut self, now: Now) -> Vec<Effect> {
        let Some(since) = self.paused_at.take() else {
            return Vec::new();
        };
        let held = now.instant.saturating_duration_since(since);
        self.not_counted += held;
        self.meaningful_at += held;
        if let Some(asking) = &mut self.asking {
            asking.expires = asking.expires.map(|at| at + held);
        }
        let from = Some(MissionState::Paused);
        let mut effects = vec![Effect::Resume, Effect::Emit(MissionEvent::Resumed { resumed_from: from })];
        effects.extend(self.correction());
        effects
    }

    fn abort(&mut self, by: String, reason: Option<String>) -> Vec<Effect> {
        match &self.phase {
            Phase::Waiting => {
                self.phase = Phase::Finished;
                vec![Effect::Finish(MissionEvent::Aborted { aborted_by: Some(by), reason })]
            }
            Phase::Provisioning => {
                self.stop.get_or_insert(Stop::Abort { by, reason });
                Vec::new()
            }
            Phase::Running(_) => {
                self.paused_at = None;
                let first = self.stop.is_none();
                self.stop.get_or_insert(Stop::Abort { by, reason });
                if first { vec![Effect::Stop] } else { Vec::new() }
            }
            Phase::Releasing(_) | Phase::Finished => Vec::new(),
        }
    }

    fn ended(&mut self, ended: Ended, now: Now) -> Vec<Effect> {
        let Phase::Running(run) = self.phase.clone() else { return Vec::new() };
        // A process can be over before anyone could look at it.
        let mut effects =
            if matches!(ended.exit, Exit::NotStarted { .. }) { Vec::new() } else { self.started(now) };
        effects.extend(self.after(&run, ended, now));
        effects
    }

    fn after(&mut self, run: &Run, ended: Ended, now: Now) -> Vec<Effect> {
        self.digest = ended.digest;
        let tokens = self.digest.progress.tokens_used;
        if let Some(stop) = self.stop.take() {
            return self.release(stop.outcome(tokens));
        }
        if ended.stopped {
            let reason = Some("the mission's runner was told to stop".to_owned());
            return self.release(Outcome::Aborted { by: "system".to_owned(), reason });
        }
        match outcome::of(run, ended.exit, &self.plan, self.last_words(), tokens) {
            Verdict::Next(run) => self.start(run, now),
            Verdict::End(outcome) => self.release(outcome),
        }
    }

    fn last_words(&self) -> String {
        if self.digest.open_line.is_empty() {
            self.digest.last_line.clone()
        } else {
            self.digest.open_line.clone()
        }
    }

    fn released(
        &mut self,
        branch: Option<String>,
        artifacts: Vec<String>,
        remark: Option<String>,
    ) -> Vec<Effect> {
        let Phase::Releasing(outcome) = std::mem::replace(&mut self.phase, Phase::Finished) else {
            return Vec::new();
        };
        vec![Effect::Finish(outcome.told(branch, artifacts, remark))]
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::wildcard_enum_match_arm, reason = "each test looks for one kind of effect")]

    use super::*;
    use crate::executor::questions::Patterns;
    use crate::executor::run::Limits;
    use proptest::prelude::*;

    fn plan() -> Plan {
        Plan {
            has_setup: false,
            has_check: false,
            terminal: true,
            questions: Patterns::default(),
            runtime: "shell".into(),
            limits: Limits {
                timeout: Some(Duration::from_secs(100)),
                stall: Some(Duration::from_secs(20)),
                iterations: 2,
                tokens: Some(1000),
                time_budget: None,
                answer_within: Some(Duration::from_secs(60)),
            },
        }
    }

    /// A machine with a clock that the test moves.
    struct Bench {
        machine: Machine,
        now: Now,
    }

    impl Bench {
        fn new(plan: Plan) -> Self {
            let now = Now { instant: Instant::now(), wall: Timestamp::EPOCH };
            Self { machine: Machine::new(plan, now), now }
        }

        fn running(plan: Plan) -> Self {
            let mut bench = Self::new(plan);
            assert_eq!(bench.feed(Event::SlotFree), [Effect::Provision]);
            assert!(matches!(bench.feed(Event::Provisioned(Ok(())))[..], [Effect::Start(_)]));
            bench.feed(Event::Started { pid: 1 });
            bench
        }

        fn feed(&mut self, event: Event) -> Vec<Effect> {
            self.machine.on_event(event, self.now)
        }

        fn after(&mut self, seconds: u64, event: Event) -> Vec<Effect> {
            let by = Duration::from_secs(seconds);
            self.now = Now { instant: self.now.instant + by, wall: self.now.wall.plus(by) };
            self.feed(event)
        }

        fn says(&mut self, seconds: u64, meaningful: u64, open_line: &str) -> Vec<Effect> {
            let bytes = self.machine.digest.bytes + 1;
            let digest = Digest { bytes, meaningful, open_line: open_line.into(), ..Digest::default() };
            self.after(seconds, Event::Output(digest))
        }
    }

    fn ended(exit: Exit) -> Event {
        let digest = Digest::default();
        Event::Ended(Ended { run_id: "r".into(), exit, at: Timestamp::EPOCH, digest, stopped: false })
    }

    fn outcome(effects: &[Effect]) -> String {
        match effects.iter().find_map(|e| if let Effect::Release(o) = e { Some(o) } else { None }) {
            Some(Outcome::Completed { .. }) => "completed".into(),
            Some(Outcome::Failed { reason, .. }) => reason.clone(),
            Some(Outcome::Aborted { by, .. }) => format!("aborted by {by}"),
            None => format!("{effects:?}"),
        }
    }

    #[test]
    fn the_first_reason_to_stop_stays() {
        let mut bench = Bench::running(plan());
        let abort = || Event::OrderAbort { by: "operator".into(), reason: None };
        assert_eq!(bench.feed(abort()), [Effect::Stop]);
        assert_eq!(bench.after(1000, Event::Tick), []);
        assert_eq!(bench.feed(abort()), []);
        assert_eq!(outcome(&bench.feed(ended(Exit::Code { code: 0 }))), "aborted by operator");
        let released = Event::Released { branch: Some("aiwg/x".into()), artifacts: Vec::new(), remark: None };
        let finish = bench.feed(released);
        assert!(matches!(&finish[..], [Effect::Finish(MissionEvent::Aborted { .. })]), "{finish:?}");
        assert!(bench.machine.is_finished());
    }

    #[test]
    fn progress_is_told_at_most_once_a_second_and_the_last_word_is_not_forgotten() {
        let mut bench = Bench::running(plan());
        let told = |effects: &[Effect]| {
            effects.iter().filter(|e| matches!(e, Effect::Emit(MissionEvent::Progress { .. }))).count()
        };
        let at_once: usize = (1..=10).map(|step| told(&bench.says(0, step, &format!("step {step}")))).sum();
        assert_eq!(at_once, 1);
        assert_eq!(told(&bench.after(1, Event::Tick)), 1, "what was said since");
        assert_eq!(told(&bench.after(1, Event::Tick)), 0, "nothing was said since");
        assert_eq!(told(&bench.says(1, 11, "step 11")), 1);
    }

    #[test]
    fn silence_counts_only_while_nobody_is_asked_and_nothing_is_held() {
        let mut bench = Bench::running(plan());
        bench.says(0, 1, "Overwrite it? [y/N]");
        let asked = bench.after(1, Event::Tick);
        let id = asked
            .iter()
            .find_map(|e| match e {
                Effect::Emit(MissionEvent::HitlRequired { hitl_id, .. }) => Some(hitl_id.clone()),
                _ => None,
            })
            .unwrap();
        assert_eq!(bench.machine.state(), MissionState::HitlRequired);
        assert_eq!(bench.after(50, Event::Tick), [], "longer than the stall clock");
        let answered = bench.feed(Event::Answer { id: id.clone(), response: "y".into() });
        assert_eq!(answered[0], Effect::Type("y\r".into()));
        assert_eq!(
            bench.machine.check(&Event::Answer { id, response: "n".into() }),
            Err(Refusal::NotPending)
        );
        bench.feed(Event::OrderPause);
        assert_eq!(bench.feed(Event::CalledRunning), [Effect::Emit(MissionEvent::Paused { reason: None })]);
        assert_eq!(bench.after(1000, Event::Tick), [], "held");
        assert_eq!(bench.machine.next_wakeup(), None);
        bench.feed(Event::OrderResume);
        assert!(!bench.after(10, Event::Tick).contains(&Effect::Stop));
        assert!(bench.after(11, Event::Tick).contains(&Effect::Stop));
        assert_eq!(outcome(&bench.feed(ended(Exit::Signal { signal: 15 }))), "stalled");
    }

    #[test]
    fn a_terminal_that_goes_on_by_itself_takes_its_question_back() {
        let mut bench = Bench::running(plan());
        bench.says(0, 1, "Proceed?");
        bench.after(1, Event::Tick);
        assert_eq!(bench.machine.state(), MissionState::HitlRequired);
        let asks = |effects: &[Effect]| {
            matches!(effects.last(), Some(Effect::Emit(MissionEvent::HitlRequired { .. })))
        };
        assert!(asks(&bench.feed(Event::CalledRunning)), "the question is still open");
        bench.feed(Event::OrderPause);
        assert!(asks(&bench.feed(Event::OrderResume)), "and is asked again");
        let on = bench.says(1, 2, "");
        assert!(on.contains(&Effect::Emit(MissionEvent::Resumed { resumed_from: None })), "{on:?}");
        assert_eq!(bench.machine.state(), MissionState::Running);
    }

    #[test]
    fn a_clock_that_jumps_ends_nothing_and_saves_nothing() {
        let mut bench = Bench::running(plan());
        let day = Duration::from_secs(24 * 60 * 60);
        for wall in [bench.now.wall.plus(day), Timestamp::EPOCH, bench.now.wall.plus(day * 3650)] {
            bench.now.wall = wall;
            assert_eq!(bench.after(1, Event::Tick), [], "the time of day is not what passed");
        }
        bench.now.wall = Timestamp::EPOCH;
        assert!(bench.after(17, Event::Tick).contains(&Effect::Stop), "and what passed counts all the same");
        assert_eq!(outcome(&bench.feed(ended(Exit::Signal { signal: 15 }))), "stalled");
    }

    #[test]
    fn used_up_budgets_have_their_own_reason() {
        let mut bench = Bench::running(plan());
        let progress = Progress { tokens_used: Some(1001), ..Progress::default() };
        let effects = bench.feed(Event::Output(Digest { bytes: 1, progress, ..Digest::default() }));
        assert_eq!(effects, [Effect::Stop]);
        assert_eq!(outcome(&bench.feed(ended(Exit::Signal { signal: 15 }))), "budget");
    }

    fn any_event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::SlotFree),
            Just(Event::Provisioned(Ok(()))),
            Just(Event::Provisioned(Err("no".into()))),
            Just(Event::Started { pid: 1 }),
            (0u64..5, "(|Proceed\\?|work)").prop_map(|(meaningful, open_line)| Event::Output(Digest {
                bytes: meaningful,
                meaningful,
                open_line,
                ..Digest::default()
            })),
            (0i32..3).prop_map(|code| ended(Exit::Code { code })),
            Just(ended(Exit::Unknown)),
            Just(Event::OrderPause),
            Just(Event::OrderResume),
            Just(Event::CalledRunning),
            Just(Event::OrderAbort { by: "system".into(), reason: None }),
            Just(Event::Question { id: HitlId::new("q").unwrap(), prompt: "?".into() }),
            Just(Event::Answer { id: HitlId::new("q").unwrap(), response: "!".into() }),
            Just(Event::Released { branch: None, artifacts: Vec::new(), remark: None }),
            Just(Event::Tick),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn whatever_happens_there_is_one_process_at_a_time_and_one_end(
            events in proptest::collection::vec((any_event(), 0u64..30), 0..60), has_check: bool, has_setup: bool,
        ) {
            let mut bench = Bench::new(Plan { has_setup, has_check, ..plan() });
            let (mut alive, mut releases, mut ends) = (false, 0, 0);
            for (event, seconds) in events {
                // A runner tells about an end once per run, and the resources come back once they were asked for.
                let possible = match &event {
                    Event::Ended(_) => alive,
                    Event::Released { .. } => releases > 0,
                    _ => true,
                };
                if !possible {
                    continue;
                }
                if matches!(event, Event::Ended(_)) {
                    alive = false;
                }
                let was_finished = bench.machine.is_finished();
                let effects = bench.after(seconds, event);
                prop_assert!(!was_finished || effects.is_empty(), "the end absorbs: {effects:?}");
                for effect in &effects {
                    match effect {
                        Effect::Start(_) => {
                            prop_assert!(!alive, "two processes at once");
                            alive = true;
                        }
                        Effect::Release(_) => {
                            prop_assert!(!alive, "resources go while a process runs");
                            releases += 1;
                        }
                        Effect::Finish(_) => ends += 1,
                        _ => {}
                    }
                }
                bench.feed(Event::Tick);
                let due = bench.machine.next_wakeup();
                prop_assert!(due.is_none_or(|due| due > bench.now.instant), "a timer lies in the past");
            }
            prop_assert!(releases <= 1 && ends <= 1);
            prop_assert_eq!(bench.machine.is_finished(), ends == 1);
        }
    }
}
