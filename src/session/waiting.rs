//! Pure: why a mission waits.
//!
//! A mission that does not move must never leave its owner guessing. What the file says, what the bridge wrote into its
//! status file and how old that is come together here, in one place, so that every view gives the same answer. The
//! nearest cause wins: nothing behind a bridge that does not run can be known.
//!
//! | the mission is | asked in this order |
//! |---|---|
//! | unusable | what is wrong with it |
//! | queued | session held · bridge gone · file unreadable or unwritable for it · registry away · held up · its turn |
//! | assigned, running | bridge gone · the registry does not know it any more |
//! | `hitl_required` | answered and not delivered · question open |
//! | paused, suspended | since when, and by whose word |
//! | aborted by hand | bridge gone · the executor has not confirmed it |
//! | ended | – |

use crate::domain::lifecycle::MissionState;
use crate::domain::session::SessionState;
use crate::domain::time::Timestamp;
use crate::session::mission_view::MissionView;
use crate::session::status_file::{BridgeStatus, Delayed};
use std::collections::HashMap;
use std::time::Duration;

/// What kept the mission where it is, as a word for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The mission cannot be used as it is written.
    InvalidMission,
    /// Its session is paused, stopped or in a state that nobody knows.
    SessionHeld,
    /// No bridge keeps the folder.
    NoBridge,
    /// The bridge cannot read the session's file.
    SessionUnreadable,
    /// The bridge cannot write the session's file.
    SessionUnwritable,
    /// The registry does not answer.
    RegistryUnreachable,
    /// The registry answered, but not with an executor, or not for certain.
    HeldUp,
    /// Others are served first.
    Turn,
    /// An executor accepted it and has not begun.
    NotStarted,
    /// It runs as far as anyone knows, but nobody follows it.
    NotFollowed,
    /// A human is asked.
    QuestionOpen,
    /// A human answered; the executor has not taken the answer.
    AnswerOnItsWay,
    /// An operator paused it.
    MissionPaused,
    /// Its executor is away or has checkpointed it.
    ExecutorAway,
    /// An operator aborted it; the executor has not confirmed that.
    AbortOnItsWay,
}

/// What would help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Remedy {
    /// Start a bridge.
    StartBridge,
    /// Let the session go on.
    ResumeSession,
    /// Let the mission go on.
    ResumeMission,
    /// Answer the question.
    Answer,
}

/// Why a mission waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The word for programs.
    pub cause: Cause,
    /// The sentence for people.
    pub text: String,
    /// Since when, where that is known.
    pub since: Option<Timestamp>,
    /// Until when at most, where that is known.
    pub until: Option<Timestamp>,
    /// What would help, where something would.
    pub remedy: Option<Remedy>,
}

impl Reason {
    fn new(cause: Cause, text: impl Into<String>) -> Self {
        Self { cause, text: text.into(), since: None, until: None, remedy: None }
    }

    fn since(self, since: Option<Timestamp>) -> Self {
        Self { since, ..self }
    }

    fn until(self, until: Option<Timestamp>) -> Self {
        Self { until, ..self }
    }

    fn remedy(self, remedy: Remedy) -> Self {
        Self { remedy: Some(remedy), ..self }
    }
}

/// What is known of the bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bridge {
    /// No bridge has ever kept this folder.
    Never,
    /// There is a status file, but it cannot be read, for this reason.
    Unreadable(String),
    /// What it wrote last.
    Seen(Box<BridgeStatus>),
    /// What it wrote last; its process is gone and did not say that it ends.
    Killed(Box<BridgeStatus>),
}

/// Everything around the missions of a folder, at one moment.
#[derive(Debug)]
pub struct Surroundings<'a> {
    bridge: &'a Bridge,
    delayed: HashMap<(&'a str, &'a str), &'a Delayed>,
    now: Timestamp,
}

/// The session around a mission.
#[derive(Debug, Clone, Copy)]
pub struct Around<'a> {
    /// The session, named as its directory.
    pub session: &'a str,
    /// Its `state`.
    pub state: SessionState,
    /// The spelling of that in the file.
    pub state_word: &'a str,
    /// What makes the mission unusable, if something does.
    pub problem: Option<&'a str>,
}

impl<'a> Surroundings<'a> {
    /// Prepares for many missions.
    pub fn new(bridge: &'a Bridge, now: Timestamp) -> Self {
        let delayed = match bridge {
            Bridge::Seen(status) | Bridge::Killed(status) => &status.delayed[..],
            Bridge::Never | Bridge::Unreadable(_) => &[],
        };
        let delayed = delayed.iter().map(|d| ((d.session.as_str(), d.mission.as_str()), d)).collect();
        Self { bridge, delayed, now }
    }

    /// Returns the bridge's status while somebody keeps it up to date.
    pub fn running(&self) -> Option<&'a BridgeStatus> {
        match self.bridge {
            Bridge::Seen(status) if !status.is_stale(self.now) => Some(status),
            Bridge::Seen(_) | Bridge::Killed(_) | Bridge::Never | Bridge::Unreadable(_) => None,
        }
    }

    /// Says why nobody keeps the folder; nothing when somebody does.
    pub fn bridge_gone(&self) -> Option<Reason> {
        let gone = |text: String| Reason::new(Cause::NoBridge, text).remedy(Remedy::StartBridge);
        match self.bridge {
            Bridge::Never => Some(gone("no bridge is running on this folder".to_owned())),
            Bridge::Unreadable(why) => Some(gone(format!(
                "the bridge's status cannot be read ({why}), so nobody knows whether it runs"
            ))),
            Bridge::Seen(status) if status.ended => {
                let text =
                    format!("no bridge is running; the last one ended {} ago", self.ago(status.updated_at));
                Some(gone(text).since(Some(status.updated_at)))
            }
            Bridge::Killed(status) => {
                let text = format!(
                    "no bridge is running; process {} was killed, it was heard of {} ago",
                    status.pid,
                    self.ago(status.updated_at)
                );
                Some(gone(text).since(Some(status.updated_at)))
            }
            Bridge::Seen(status) if status.is_stale(self.now) => {
                let text = format!(
                    "the bridge (process {}) has not been heard of for {}; it was killed or is stuck",
                    status.pid,
                    self.ago(status.updated_at)
                );
                Some(gone(text).since(Some(status.updated_at)))
            }
            Bridge::Seen(_) => None,
        }
    }

    /// Says why `mission` does not move; nothing when it runs or has ended.
    pub fn reason(&self, mission: &MissionView<'_>, around: Around<'_>) -> Option<Reason> {
        let status = mission.string("status");
        let state = status.as_deref().and_then(|word| MissionState::parse(word).ok());
        let is_ended = state.is_some_and(MissionState::is_terminal);
        if let Some(problem) = around.problem.filter(|_| !is_ended) {
            return Some(Reason::new(Cause::InvalidMission, problem));
        }
        match state? {
            MissionState::Queued => Some(self.queued(mission, around)),
            MissionState::Assigned => {
                Some(self.forgotten(mission, around).unwrap_or_else(|| self.assigned(mission, around)))
            }
            MissionState::Running => self.unfollowed(around).or_else(|| self.forgotten(mission, around)),
            MissionState::HitlRequired => Some(self.asked(mission)),
            MissionState::Paused => Some(self.paused(mission)),
            MissionState::Suspended => Some(self.suspended(mission)),
            MissionState::Aborted if is_ended_by_hand(mission) => Some(self.aborted()),
            MissionState::Done | MissionState::Failed | MissionState::Aborted => None,
        }
    }

    fn queued(&self, mission: &MissionView<'_>, around: Around<'_>) -> Reason {
        if !around.state.is_dispatching() {
            let text = match around.state {
                SessionState::Unknown => {
                    format!("the session's state is {:?}, which nobody knows; it is held", around.state_word)
                }
                SessionState::Active | SessionState::Paused | SessionState::Stopped => {
                    format!("the session is {}", around.state_word)
                }
            };
            return Reason::new(Cause::SessionHeld, text).remedy(Remedy::ResumeSession);
        }
        if let Some(gone) = self.bridge_gone() {
            return gone;
        }
        if let Some(obstacle) = self.obstacle(around) {
            return obstacle;
        }
        let Some(status) = self.running() else {
            return Reason::new(Cause::NoBridge, "no bridge is running").remedy(Remedy::StartBridge);
        };
        let id = mission.string("id").unwrap_or_default();
        if let Some(delayed) = self.delayed.get(&(around.session, &*id)) {
            return self.held_up(delayed);
        }
        Reason::new(Cause::Turn, turn(status)).since(created(mission))
    }

    /// What stands between the bridge and the session, or the registry.
    fn obstacle(&self, around: Around<'_>) -> Option<Reason> {
        let status = self.running()?;
        if let Some(unreadable) = status.unreadable.iter().find(|s| s.session == around.session) {
            let place = match (unreadable.line, unreadable.column) {
                (Some(line), Some(column)) => format!(" at line {line}, column {column}"),
                _ => String::new(),
            };
            let text = format!("the bridge could not read session.json{place}: {}", unreadable.message);
            return Some(Reason::new(Cause::SessionUnreadable, text));
        }
        if let Some(unwritable) = status.unwritable.iter().find(|s| s.session == around.session) {
            let text = format!("the bridge cannot write session.json: {}", unwritable.message);
            return Some(Reason::new(Cause::SessionUnwritable, text));
        }
        let since = status.unreachable_since?;
        let cause = status.unreachable_cause.as_deref().map_or_else(String::new, |c| format!(": {c}"));
        let text = format!("{} has not answered for {}{cause}", status.serve_url, self.ago(since));
        Some(Reason::new(Cause::RegistryUnreachable, text).since(Some(since)))
    }

    /// The registry accepted it and does not know it any more.
    fn forgotten(&self, mission: &MissionView<'_>, around: Around<'_>) -> Option<Reason> {
        let id = mission.string("id")?;
        let delayed = self.running().and_then(|_| self.delayed.get(&(around.session, &*id)))?;
        Some(self.held_up(delayed))
    }

    fn held_up(&self, delayed: &Delayed) -> Reason {
        let mut text = if delayed.why.is_empty() { "it is held up".to_owned() } else { delayed.why.clone() };
        match delayed.until {
            Some(until) if until > self.now => {
                text = format!("{text}; tried again in {}", span(until.since(self.now)));
            }
            Some(_) => text.push_str("; tried again now"),
            None => {}
        }
        match delayed.attempts {
            0 => {}
            1 => text.push_str(", sent once so far"),
            n => text = format!("{text}, sent {n} times so far"),
        }
        Reason::new(Cause::HeldUp, text).until(delayed.until)
    }

    fn assigned(&self, mission: &MissionView<'_>, around: Around<'_>) -> Reason {
        if let Some(reason) = self.unfollowed(around) {
            return reason;
        }
        let since = moment(mission, "dispatchedAt");
        let executor =
            executor(mission).map_or_else(|| "an executor".to_owned(), |id| format!("executor {id}"));
        let mut text = format!("{executor} accepted it{} and has not started it", self.before(since));
        if let Some(start) = moment(mission, "estimatedStart").filter(|start| *start > self.now) {
            text = format!("{text}; expected in {}", span(start.since(self.now)));
        }
        Reason::new(Cause::NotStarted, text).since(since).until(moment(mission, "estimatedStart"))
    }

    fn unfollowed(&self, around: Around<'_>) -> Option<Reason> {
        let gone = self.bridge_gone().or_else(|| self.obstacle(around))?;
        Some(Reason { cause: Cause::NotFollowed, text: format!("this may be old: {}", gone.text), ..gone })
    }

    fn asked(&self, mission: &MissionView<'_>) -> Reason {
        let since = moment(mission, "hitlAt");
        let is_answered = mission.field("hitlResponse").is_some_and(|raw| raw != "null");
        if !is_answered {
            let text = match since {
                Some(since) => format!("a question has been open for {}", self.ago(since)),
                None => "a question is open".to_owned(),
            };
            return Reason::new(Cause::QuestionOpen, text).since(since).remedy(Remedy::Answer);
        }
        let (text, remedy) = match self.bridge_gone() {
            Some(gone) => (format!("the answer is not delivered: {}", gone.text), gone.remedy),
            None => ("the answer is on its way to the executor".to_owned(), None),
        };
        Reason { remedy, ..Reason::new(Cause::AnswerOnItsWay, text).since(since) }
    }

    fn paused(&self, mission: &MissionView<'_>) -> Reason {
        let since = moment(mission, "pausedAt");
        let why =
            mission.string("pauseReason").map_or_else(String::new, |why| format!(": {}", one_line(&why)));
        if executor(mission).is_some() && !is_pause_confirmed(mission) {
            let text = match self.bridge_gone() {
                Some(gone) => format!("the pause is not delivered: {}", gone.text),
                None => "a pause is asked for; the executor has not confirmed it".to_owned(),
            };
            return Reason::new(Cause::MissionPaused, text).remedy(Remedy::ResumeMission);
        }
        let text = format!("paused{}{why}", self.lasting(since));
        Reason::new(Cause::MissionPaused, text).since(since).remedy(Remedy::ResumeMission)
    }

    fn suspended(&self, mission: &MissionView<'_>) -> Reason {
        let since = moment(mission, "suspendedAt");
        let why = mission
            .string("suspendReason")
            .map_or_else(|| "its executor is away or checkpointed it".to_owned(), |why| one_line(&why));
        let text = format!("suspended{}: {why}", self.lasting(since));
        Reason::new(Cause::ExecutorAway, text).since(since)
    }

    fn aborted(&self) -> Reason {
        let (text, remedy) = match self.bridge_gone() {
            Some(gone) => (format!("the abort is not delivered: {}", gone.text), gone.remedy),
            None => ("an abort is asked for; the executor has not confirmed it".to_owned(), None),
        };
        Reason { remedy, ..Reason::new(Cause::AbortOnItsWay, text) }
    }

    fn ago(&self, then: Timestamp) -> String {
        span(self.now.since(then))
    }

    fn before(&self, then: Option<Timestamp>) -> String {
        then.map_or_else(String::new, |then| format!(" {} ago", self.ago(then)))
    }

    fn lasting(&self, then: Option<Timestamp>) -> String {
        then.map_or_else(String::new, |then| format!(" for {}", self.ago(then)))
    }
}

fn turn(status: &BridgeStatus) -> String {
    match (status.in_flight, status.queued) {
        (_, 0) => "the bridge takes it within a moment".to_owned(),
        (open, queued) => {
            format!("it waits for its turn; requests open: {open}, missions waiting: {queued}")
        }
    }
}

fn created(mission: &MissionView<'_>) -> Option<Timestamp> {
    moment(mission, "createdAt")
}

fn moment(mission: &MissionView<'_>, key: &str) -> Option<Timestamp> {
    Timestamp::parse(&mission.string(key)?).ok()
}

fn executor<'a>(mission: &MissionView<'a>) -> Option<std::borrow::Cow<'a, str>> {
    mission.string("executorId").filter(|id| id != "unknown" && !id.is_empty())
}

/// Says whether an executor has confirmed the pause: an earlier one ended when the mission was resumed.
fn is_pause_confirmed(mission: &MissionView<'_>) -> bool {
    let resumed = moment(mission, "resumedAt");
    moment(mission, "pausedAt").is_some_and(|paused| resumed.is_none_or(|resumed| paused >= resumed))
}

/// Says whether a bridge has given the mission to an executor in this run.
pub fn is_handed_over(mission: &MissionView<'_>) -> bool {
    ["executorId", "dispatchedAt"].into_iter().any(|key| mission.has(key))
}

/// Says whether somebody else wrote the end of a mission that an executor has: there is no time of the end, which we write
/// with it. Until the executor has answered, it may still run.
pub fn is_ended_by_hand(mission: &MissionView<'_>) -> bool {
    mission.has("executorId") && !["completedAt", "failedAt", "abortedAt"].iter().any(|key| mission.has(key))
}

/// Returns the first line of a text without control characters: what may be shown on a terminal.
pub fn one_line(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Spells a length of time with its largest unit: `850 ms`, `12 s`, `4 min`, `3 h`, `2 d`.
pub fn span(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0 => format!("{} ms", length.as_millis()),
        1..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Returns since when a mission is in its state, as far as its fields tell.
pub fn state_since(mission: &MissionView<'_>) -> Option<Timestamp> {
    let word = mission.string("status")?;
    let latest = |keys: &[&str]| keys.iter().filter_map(|key| moment(mission, key)).max();
    match MissionState::parse(&word).ok()? {
        MissionState::Queued => latest(&["createdAt"]),
        MissionState::Assigned => latest(&["dispatchedAt"]),
        MissionState::Running => latest(&["startedAt", "resumedAt", "hitlRespondedAt"]),
        MissionState::HitlRequired => latest(&["hitlAt"]),
        MissionState::Paused => latest(&["pausedAt"]).filter(|_| is_pause_confirmed(mission)),
        MissionState::Suspended => latest(&["suspendedAt"]),
        MissionState::Done => latest(&["completedAt"]),
        MissionState::Failed => moment(mission, "failedAt").or_else(|| latest(&["completedAt"])),
        MissionState::Aborted => moment(mission, "abortedAt").or_else(|| latest(&["completedAt"])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::document::Document;
    use crate::session::status_file::{UnreadableSession, UnwritableSession};

    const NOW: Timestamp = Timestamp::from_millis(1_767_182_400_000);

    fn before(seconds: u64) -> Timestamp {
        Timestamp::from_millis(NOW.as_millis() - i64::try_from(seconds * 1000).unwrap())
    }

    fn status() -> BridgeStatus {
        BridgeStatus {
            format: 1,
            pid: 42,
            started_at: before(3600),
            updated_at: before(1),
            ended: false,
            serve_url: "http://r:1".to_owned(),
            unreachable_since: None,
            unreachable_cause: None,
            watch_native: true,
            watch_why: None,
            sessions: 1,
            in_flight: 0,
            queued: 0,
            accepted: 0,
            written_bytes: 0,
            delayed: Vec::new(),
            unreadable: Vec::new(),
            problems: Vec::new(),
            unwritable: Vec::new(),
        }
    }

    fn why_in(bridge: &Bridge, state: SessionState, problem: Option<&str>, mission: &str) -> Option<Reason> {
        let document = Document::parse(format!("{{\"missions\":[{mission}]}}")).unwrap();
        let around = Around { session: "s", state, state_word: state.as_file(), problem };
        Surroundings::new(bridge, NOW).reason(&document.mission_at(0).unwrap(), around)
    }

    fn why(status: BridgeStatus, mission: &str) -> Reason {
        why_in(&Bridge::Seen(Box::new(status)), SessionState::Active, None, mission).unwrap()
    }

    const QUEUED: &str = r#"{"id":"m","objective":"x","status":"queued"}"#;

    #[test]
    fn a_held_session_is_named_before_a_missing_bridge() {
        let reason = why_in(&Bridge::Never, SessionState::Paused, None, QUEUED).unwrap();
        assert_eq!((reason.cause, reason.remedy), (Cause::SessionHeld, Some(Remedy::ResumeSession)));
        assert_eq!(reason.text, "the session is paused");
        let reason = why_in(&Bridge::Never, SessionState::Active, None, QUEUED).unwrap();
        assert_eq!((reason.cause, reason.remedy), (Cause::NoBridge, Some(Remedy::StartBridge)));
    }

    #[test]
    fn a_bridge_that_ended_and_one_that_fell_silent_are_told_apart() {
        let reason = why(BridgeStatus { ended: true, updated_at: before(300), ..status() }, QUEUED);
        assert_eq!(reason.text, "no bridge is running; the last one ended 5 min ago");
        let reason = why(BridgeStatus { updated_at: before(60), ..status() }, QUEUED);
        assert_eq!(
            reason.text,
            "the bridge (process 42) has not been heard of for 60 s; it was killed or is stuck"
        );
        assert_eq!(reason.since, Some(before(60)));
    }

    #[test]
    fn an_absent_registry_says_since_when_and_why() {
        let away = BridgeStatus {
            unreachable_since: Some(before(240)),
            unreachable_cause: Some("connection refused".to_owned()),
            ..status()
        };
        let reason = why(away, QUEUED);
        assert_eq!(reason.cause, Cause::RegistryUnreachable);
        assert_eq!(reason.text, "http://r:1 has not answered for 4 min: connection refused");
    }

    #[test]
    fn a_mission_that_backs_off_says_until_when() {
        let delayed = Delayed {
            session: "s".to_owned(),
            mission: "m".to_owned(),
            until: Some(NOW.plus(Duration::from_secs(12))),
            why: "no executor matches: 3 are registered, 0 can gpu".to_owned(),
            attempts: 3,
        };
        let elsewhere = Delayed { session: "t".to_owned(), why: "other".to_owned(), ..delayed.clone() };
        let reason = why(BridgeStatus { delayed: vec![elsewhere, delayed], ..status() }, QUEUED);
        assert_eq!(reason.cause, Cause::HeldUp);
        assert_eq!(
            reason.text,
            "no executor matches: 3 are registered, 0 can gpu; tried again in 12 s, sent 3 times so far"
        );
    }

    #[test]
    fn files_that_the_bridge_cannot_use_are_named_with_the_place() {
        let unreadable = UnreadableSession {
            session: "s".to_owned(),
            line: Some(3),
            column: Some(7),
            message: "a comma is missing".to_owned(),
        };
        let reason = why(BridgeStatus { unreadable: vec![unreadable], ..status() }, QUEUED);
        assert_eq!(
            reason.text,
            "the bridge could not read session.json at line 3, column 7: a comma is missing"
        );
        let unwritable = UnwritableSession { session: "s".to_owned(), message: "read-only".to_owned() };
        let reason = why(BridgeStatus { unwritable: vec![unwritable], ..status() }, QUEUED);
        assert_eq!(reason.cause, Cause::SessionUnwritable);
    }

    #[test]
    fn a_healthy_bridge_leaves_only_the_turn() {
        assert_eq!(why(status(), QUEUED).text, "the bridge takes it within a moment");
        let busy = BridgeStatus { in_flight: 64, queued: 900, ..status() };
        assert_eq!(why(busy, QUEUED).text, "it waits for its turn; requests open: 64, missions waiting: 900");
    }

    #[test]
    fn live_missions_say_what_they_wait_for() {
        let at = |seconds| before(seconds).to_string();
        let asked = format!(r#"{{"id":"m","status":"hitl_required","hitlAt":"{}"}}"#, at(240));
        let reason = why(status(), &asked);
        assert_eq!((reason.cause, reason.remedy), (Cause::QuestionOpen, Some(Remedy::Answer)));
        assert_eq!(reason.text, "a question has been open for 4 min");
        let answered = r#"{"id":"m","status":"hitl-required","hitlResponse":"yes"}"#;
        assert_eq!(why(status(), answered).cause, Cause::AnswerOnItsWay);
        let assigned =
            format!(r#"{{"id":"m","status":"assigned","executorId":"e","dispatchedAt":"{}"}}"#, at(5));
        assert_eq!(why(status(), &assigned).text, "executor e accepted it 5 s ago and has not started it");
        let paused = r#"{"id":"m","status":"paused","executorId":"e"}"#;
        assert!(why(status(), paused).text.contains("has not confirmed"));
        let suspended = r#"{"id":"m","status":"suspended","suspendReason":"host\nrebooted"}"#;
        assert_eq!(why(status(), suspended).text, "suspended: host");
        let running = r#"{"id":"m","status":"running"}"#;
        let healthy = Bridge::Seen(Box::new(status()));
        assert_eq!(why_in(&healthy, SessionState::Active, None, running), None);
        let reason = why_in(&Bridge::Never, SessionState::Active, None, running).unwrap();
        assert_eq!(reason.cause, Cause::NotFollowed);
        let away = BridgeStatus {
            unreachable_since: Some(status().updated_at),
            unreachable_cause: Some("refused".to_owned()),
            ..status()
        };
        let reason = why(away, running);
        assert_eq!(reason.cause, Cause::NotFollowed);
        assert!(
            reason.text.starts_with("this may be old: http") && reason.text.ends_with(": refused"),
            "{reason:?}"
        );
    }

    #[test]
    fn an_abort_by_hand_waits_for_the_executor_and_one_that_was_confirmed_for_nobody() {
        let by_hand = r#"{"id":"m","status":"aborted","executorId":"e"}"#;
        let reason = why(status(), by_hand);
        assert_eq!((reason.cause, reason.remedy), (Cause::AbortOnItsWay, None));
        let reason = why_in(&Bridge::Never, SessionState::Active, None, by_hand).unwrap();
        assert_eq!(
            (reason.text.as_str(), reason.remedy),
            ("the abort is not delivered: no bridge is running on this folder", Some(Remedy::StartBridge))
        );
        let healthy = Bridge::Seen(Box::new(status()));
        let confirmed = r#"{"id":"m","status":"aborted","executorId":"e","abortedAt":"x"}"#;
        assert_eq!(why_in(&healthy, SessionState::Active, None, confirmed), None);
        let never_sent = r#"{"id":"m","status":"aborted"}"#;
        assert_eq!(why_in(&healthy, SessionState::Active, None, never_sent), None);
    }

    #[test]
    fn a_pause_after_an_earlier_one_is_not_confirmed_by_that() {
        let healthy = Bridge::Seen(Box::new(status()));
        let mission = |times: &str| format!(r#"{{"id":"m","status":"paused","executorId":"e",{times}}}"#);
        let why = |times: &str| why_in(&healthy, SessionState::Active, None, &mission(times)).unwrap().text;
        let (early, late) = ("2026-11-20T10:00:00.000Z", "2026-11-20T10:00:05.000Z");
        let asked = "a pause is asked for; the executor has not confirmed it";
        assert_eq!(why(&format!(r#""pausedAt":"{early}","resumedAt":"{late}""#)), asked);
        assert_eq!(why(r#""pausedAt":null"#), asked);
        assert!(why(&format!(r#""pausedAt":"{late}","resumedAt":"{early}""#)).starts_with("paused for"));
    }

    #[test]
    fn a_killed_bridge_is_known_before_its_status_is_old() {
        let killed = Bridge::Killed(Box::new(status()));
        let reason = why_in(&killed, SessionState::Active, None, QUEUED).unwrap();
        assert_eq!(reason.cause, Cause::NoBridge);
        assert_eq!(reason.text, "no bridge is running; process 42 was killed, it was heard of 1 s ago");
    }

    #[test]
    fn an_unusable_mission_says_what_is_wrong_unless_it_has_ended() {
        let healthy = Bridge::Seen(Box::new(status()));
        let reason = why_in(&healthy, SessionState::Active, Some("objective is missing"), QUEUED).unwrap();
        assert_eq!((reason.cause, reason.text.as_str()), (Cause::InvalidMission, "objective is missing"));
        let done = r#"{"id":"m","status":"done"}"#;
        assert_eq!(why_in(&healthy, SessionState::Active, Some("twice"), done), None);
    }

    #[test]
    fn lengths_are_spelt_with_their_largest_unit() {
        let spelt = |seconds| span(Duration::from_secs(seconds));
        assert_eq!(span(Duration::from_millis(850)), "850 ms");
        assert_eq!([spelt(119), spelt(120), spelt(7_200), spelt(200_000)], ["119 s", "2 min", "2 h", "2 d"]);
    }
}
