//! Command: `mc wait`, and the waiting of `mc dispatch --wait`.

use super::folder::{self, Folder};
use super::overview::{Looker, MissionLine, outcome};
use super::target::Target;
use crate::cli::duration;
use crate::cli::exit::{Code, Ended};
use crate::cli::output;
use crate::domain::file::FileIdentity;
use crate::domain::lifecycle::MissionState;
use crate::runtime::clock;
use crate::session::mission_view::MissionView;
use crate::session::store::{Reading, SessionStore};
use crate::session::waiting::{Cause, Surroundings, is_ended_by_hand};
use clap::Args;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};

/// How often the file's identity is looked at: half of what a human takes for at once.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A session that is being moved or made again is given this long to come back.
const GONE_AFTER: Duration = Duration::from_secs(2);

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Any end.
    Ended,
    /// One state.
    State(MissionState),
}

impl std::str::FromStr for Goal {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        if word == "ended" {
            return Ok(Self::Ended);
        }
        MissionState::parse(word).map(Self::State).map_err(|error| {
            let known: Vec<&str> = MissionState::ALL.iter().map(|state| state.as_file()).collect();
            format!("{error}; use ended or one of {}", known.join(", "))
        })
    }
}

/// What a look at the mission tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It is there.
    Reached,
    /// It has ended elsewhere.
    Missed,
    /// Not yet.
    Waiting,
}

impl Goal {
    /// Compares the goal with a mission. One that was aborted by hand runs on until its executor says otherwise; one that has
    /// ended may have passed through a state between two looks: what it left in the file tells.
    fn verdict(self, state: MissionState, mission: &MissionView<'_>) -> Verdict {
        let passed = |key: &str| if mission.has(key) { Verdict::Reached } else { Verdict::Missed };
        match self {
            _ if state == MissionState::Aborted && is_ended_by_hand(mission) => Verdict::Waiting,
            Self::Ended if state.is_terminal() => Verdict::Reached,
            Self::Ended => Verdict::Waiting,
            Self::State(goal) if goal == state => Verdict::Reached,
            Self::State(_) if !state.is_terminal() => Verdict::Waiting,
            Self::State(MissionState::Assigned) => passed("dispatchedAt"),
            Self::State(MissionState::Running) => passed("startedAt"),
            Self::State(MissionState::HitlRequired) => passed("hitlAt"),
            Self::State(
                MissionState::Queued
                | MissionState::Paused
                | MissionState::Suspended
                | MissionState::Done
                | MissionState::Failed
                | MissionState::Aborted,
            ) => Verdict::Missed,
        }
    }
}

/// Wait until a mission is done, or somewhere else.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 it is there, 1 it ended elsewhere (failed, say, when done was awaited), \
                        124 --timeout is over"
)]
pub struct Arguments {
    /// The mission, as ID or SESSION/ID
    mission: String,
    /// What to wait for: done, ended (any end), or another state
    #[arg(long = "for", default_value = "done", value_name = "STATE")]
    goal: Goal,
    /// Give up after this long, such as 90s, 5m or 2h; without it wait until interrupted
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    timeout: Option<Duration>,
    /// Which folder.
    #[command(flatten)]
    folder: Folder,
}

/// What is printed with `--json`.
#[derive(serde::Serialize)]
struct Arrival<'a> {
    session: &'a str,
    mission: &'a str,
    status: &'static str,
    outcome: Option<String>,
    #[serde(rename = "exitCode")]
    exit_code: Option<i64>,
}

/// Carries out the verb.
///
/// # Errors
/// The mission is unknown or leaves its session, or [`Code::TimedOut`].
pub async fn run(arguments: Arguments) -> anyhow::Result<Code> {
    let Arguments { mission, goal, timeout, folder } = arguments;
    let target = {
        let folder = folder.clone();
        folder::blocking(move || Target::find(&folder, &folder.store(), &mission)).await?
    };
    until(&folder, &target, goal, timeout).await
}

/// Waits until a mission is at `goal` and prints where it is.
///
/// # Errors
/// As [`run`].
pub async fn until(
    folder: &Folder,
    target: &Target,
    goal: Goal,
    timeout: Option<Duration>,
) -> anyhow::Result<Code> {
    let store = Arc::new(folder.store());
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen: Option<FileIdentity> = None;
    let mut shown: Option<MissionState> = None;
    let mut gone_since: Option<Instant> = None;
    let tells = !folder.json && std::io::stderr().is_terminal();
    loop {
        match look(&store, target, seen).await? {
            Look::Same => {}
            Look::Changed(reading) => {
                seen = Some(reading.identity);
                gone_since = None;
                let mission = reading.document.mission(&target.mission).ok_or_else(|| target.gone())?;
                let state = mission.string("status").and_then(|word| MissionState::parse(&word).ok());
                let verdict = state.map_or(Verdict::Waiting, |state| goal.verdict(state, &mission));
                if let Some(state) = state.filter(|_| verdict != Verdict::Waiting) {
                    return conclude(folder, target, state, verdict, &mission);
                }
                if tells && state != shown {
                    let word = state.map_or("of an unknown status", MissionState::as_file);
                    output::complain(&format!("{} is {word}\n", target.mission));
                }
                shown = state;
            }
            Look::Missing if gone_since.is_some_and(|since| since.elapsed() > GONE_AFTER) => {
                return Err(target.gone().into());
            }
            Look::Missing => {
                gone_since.get_or_insert_with(Instant::now);
            }
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(too_late(folder, target, timeout.unwrap_or_default()).await.into());
        }
        match deadline {
            Some(deadline) => {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = tokio::time::sleep_until(deadline) => {}
                }
            }
            None => {
                ticks.tick().await;
            }
        }
    }
}

enum Look {
    /// Nothing new, or it is just being written.
    Same,
    /// Another content.
    Changed(Reading),
    /// No file.
    Missing,
}

async fn look(
    store: &Arc<SessionStore>,
    target: &Target,
    seen: Option<FileIdentity>,
) -> anyhow::Result<Look> {
    use crate::session::store::ReadError;
    let (store, session) = (Arc::clone(store), target.session.clone());
    folder::blocking(move || {
        let identity = store.identity(&session).map_err(folder::refused_read)?;
        if identity.is_none() {
            return Ok(Look::Missing);
        }
        if identity == seen {
            return Ok(Look::Same);
        }
        match store.read(&session) {
            Ok(reading) => Ok(Look::Changed(reading)),
            Err(ReadError::Torn { .. }) => Ok(Look::Same),
            Err(ReadError::Missing { .. }) => Ok(Look::Missing),
            Err(error) => Err(folder::refused_read(error).into()),
        }
    })
    .await
}

fn conclude(
    folder: &Folder,
    target: &Target,
    state: MissionState,
    verdict: Verdict,
    mission: &MissionView<'_>,
) -> anyhow::Result<Code> {
    let outcome = outcome(mission);
    if folder.json {
        output::json(&Arrival {
            session: target.session.as_str(),
            mission: &target.mission,
            status: state.as_file(),
            outcome,
            exit_code: mission.field("exitCode").and_then(|raw| raw.parse().ok()),
        })?;
    } else {
        let outcome = outcome.map_or_else(String::new, |text| format!(": {text}"));
        output::line(&format!("{} {state}{outcome}", target.mission))?;
    }
    Ok(if verdict == Verdict::Reached { Code::Done } else { Code::Failed })
}

async fn too_late(folder: &Folder, target: &Target, timeout: Duration) -> Ended {
    let (folder, target) = (folder.clone(), target.clone());
    let found = folder::blocking(move || {
        let overview = Looker::new(&folder).look(Some(&target.session), clock::wall())?;
        let surroundings = Surroundings::new(&overview.bridge, overview.now);
        let mut message = format!("mission {} did not get there in {timeout:?}", target.mission);
        let mut hint = None;
        for (session, content) in &overview.sessions {
            let lines = overview.mission_lines(&surroundings, session, content);
            let Some(line) = lines.iter().find(|line| line.id == target.mission) else { continue };
            let state = line.state.map_or("of an unknown status", MissionState::as_file);
            message = match line.waits.as_ref().map(|reason| reason.cause) {
                Some(Cause::AbortOnItsWay) => {
                    format!("the abort of mission {} is not confirmed after {timeout:?}", target.mission)
                }
                _ => format!("mission {} is still {state} after {timeout:?}", target.mission),
            };
            hint = why(line, &folder);
        }
        Ok((message, hint))
    })
    .await;
    let (message, hint) = found.unwrap_or_else(|error| (format!("time is over: {error}"), None));
    let ended = Ended::new(Code::TimedOut, message);
    match hint {
        Some(hint) => ended.hint(hint),
        None => ended,
    }
}

fn why(line: &MissionLine<'_>, folder: &Folder) -> Option<String> {
    let text = &line.waits.as_ref()?.text;
    Some(match line.remedy(folder) {
        Some(command) => format!("{text}; {command}"),
        None => text.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::document::Document;

    fn verdict(goal: &str, mission: &str) -> Verdict {
        let document = Document::parse(format!("{{\"missions\":[{mission}]}}")).unwrap();
        let view = document.mission_at(0).unwrap();
        let state = MissionState::parse(&view.string("status").unwrap()).unwrap();
        goal.parse::<Goal>().unwrap().verdict(state, &view)
    }

    #[test]
    fn an_end_elsewhere_is_a_miss_and_any_end_is_an_end() {
        assert_eq!(verdict("done", r#"{"status":"done"}"#), Verdict::Reached);
        assert_eq!(verdict("done", r#"{"status":"failed"}"#), Verdict::Missed);
        assert_eq!(verdict("done", r#"{"status":"running"}"#), Verdict::Waiting);
        assert_eq!(verdict("ended", r#"{"status":"aborted"}"#), Verdict::Reached);
        assert_eq!(verdict("aborted", r#"{"status":"aborted","executorId":"e"}"#), Verdict::Waiting);
        assert_eq!(
            verdict("aborted", r#"{"status":"aborted","executorId":"e","abortedAt":"x"}"#),
            Verdict::Reached
        );
        assert_eq!(verdict("ended", r#"{"status":"paused"}"#), Verdict::Waiting);
    }

    #[test]
    fn a_state_that_was_passed_between_two_looks_is_found_in_what_it_left() {
        assert_eq!(verdict("running", r#"{"status":"done","startedAt":"x"}"#), Verdict::Reached);
        assert_eq!(verdict("running", r#"{"status":"failed","startedAt":null}"#), Verdict::Missed);
        assert_eq!(verdict("hitl-required", r#"{"status":"done","hitlAt":"x"}"#), Verdict::Reached);
        assert!("finished".parse::<Goal>().is_err());
    }
}
