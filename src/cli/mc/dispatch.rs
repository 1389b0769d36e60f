//! Command: `mc dispatch`.

use super::folder::{self, Folder};
use super::start;
use super::target::Target;
use super::wait::{self, Goal};
use crate::cli::duration;
use crate::cli::exit::{Code, Ended};
use crate::cli::output;
use crate::domain::id::{ExecutorId, MissionId, SessionId};
use crate::domain::lifecycle::MissionState;
use crate::domain::session::SessionState;
use crate::domain::time::Timestamp;
use crate::protocol::notice;
use crate::runtime::clock;
use crate::session::document::Document;
use crate::session::edits::Edits;
use crate::session::inbox;
use crate::session::json::quoted;
use crate::session::store::SessionStore;
use anyhow::Context as _;
use clap::Args;
use serde_json::value::RawValue;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

/// Longest objective that is taken, in bytes: a long document, far below what a registry accepts as a body.
const MAX_OBJECTIVE_BYTES: u64 = 512 * 1024;

/// The session that is made when there is no active one.
const DEFAULT_SESSION: &str = "default";

/// Queue a mission and print its id.
#[derive(Debug, Args)]
pub struct Arguments {
    /// What is to be done; - reads it from standard input
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    objective: Option<String>,
    /// Read what is to be done from this file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The session; without it the newest active one but `inbox`, or one named default, which is made when needed
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// How to tell that it is done; without it the bridge's --default-completion is sent
    #[arg(long, value_name = "TEXT")]
    completion: Option<String>,
    /// How urgent it is
    #[arg(long, default_value = "normal", value_parser = ["critical", "high", "normal", "low"])]
    priority: String,
    /// How the executor runs it
    #[arg(long, default_value = "direct", value_parser = ["direct", "pty-orchestrator"])]
    mode: String,
    /// Run it with this agent, such as claude; an executor that has no agent of that name takes its own
    #[arg(long, value_name = "AGENT")]
    target_agent: Option<String>,
    /// Run it on this executor and no other
    #[arg(long, value_name = "UUID")]
    target_executor: Option<ExecutorId>,
    /// Run it on an executor that has this capability; may be given more than once
    #[arg(long = "capability", value_name = "NAME")]
    capabilities: Vec<String>,
    /// Tell the executor that it may take hours
    #[arg(long)]
    long_running: bool,
    /// Send this along; a value that parses as JSON is sent as JSON. May be given more than once
    #[arg(long, value_name = "KEY=VALUE", value_parser = metadata)]
    metadata: Vec<(String, String)>,
    /// Have the registry tell this address when the mission has ended
    ///
    /// It is sent the event that ended the mission, at least once, and tried for a day.
    #[arg(long, value_name = "URL", value_parser = address)]
    notify: Option<String>,
    /// The mission's id; without it m-<8 hex digits>
    #[arg(long, value_name = "ID", value_parser = new_id)]
    id: Option<MissionId>,
    /// Let the agent's loop go round at most this often; the default is enough for one that converges
    #[arg(long, default_value_t = 10, value_name = "N")]
    max_iterations: u32,
    /// Wait until it has ended, and end with its outcome: 0 done, 1 failed or aborted
    #[arg(long)]
    wait: bool,
    /// With --wait, give up after this long, such as 90s, 5m or 2h, and end with 124
    #[arg(long, requires = "wait", value_name = "DURATION", value_parser = duration::parse)]
    timeout: Option<Duration>,
    /// Which folder.
    #[command(flatten)]
    folder: Folder,
}

/// What is printed with `--json`.
#[derive(serde::Serialize)]
struct Queued<'a> {
    session: &'a str,
    mission: &'a str,
    status: &'static str,
}

fn metadata(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    if key.is_empty() {
        return Err("the key is empty; write it as KEY=VALUE".to_owned());
    }
    let raw = match serde_json::from_str::<&RawValue>(value) {
        Ok(raw) => raw.get().to_owned(),
        Err(_no_json) => quoted(value),
    };
    Ok((key.to_owned(), raw))
}

fn new_id(text: &str) -> Result<MissionId, String> {
    if text.contains('/') {
        return Err("an id with a / in it reads as SESSION/ID".to_owned());
    }
    MissionId::new(text).map_err(|error| error.to_string())
}

fn address(text: &str) -> Result<String, String> {
    notice::check(text).map(|()| text.to_owned()).map_err(|problem| format!("it {problem}"))
}

/// Carries out the verb.
///
/// # Errors
/// The session is unknown or full, the id is taken, or the folder cannot be written.
pub async fn run(arguments: Arguments) -> anyhow::Result<Code> {
    let (is_waiting, timeout, folder) = (arguments.wait, arguments.timeout, arguments.folder.clone());
    let target = folder::blocking(move || dispatched(&arguments)).await?;
    if !is_waiting {
        return Ok(Code::Done);
    }
    wait::until(&folder, &target, Goal::State(MissionState::Done), timeout).await
}

fn dispatched(arguments: &Arguments) -> anyhow::Result<Target> {
    let objective = arguments.objective()?;
    let store = arguments.folder.store();
    let now = clock::wall();
    let session = match &arguments.session {
        Some(name) => arguments.folder.session(&store, name)?,
        None => session_on_demand(&arguments.folder, &store, now)?,
    };
    let (mission, state) = queue(arguments, &store, &session, &objective, now)?;
    if arguments.folder.json {
        let status = MissionState::Queued.as_file();
        output::json(&Queued { session: session.as_str(), mission: mission.as_str(), status })?;
    } else {
        output::line(mission.as_str())?;
        if !state.is_dispatching() {
            output::complain(&format!(
                "note: session {session} is not active, so the mission waits; let it go on with: \
                 aiwg-rs mc resume --session {session}{}\n",
                arguments.folder.option()
            ));
        }
    }
    Ok(Target { session, mission: mission.to_string() })
}

fn queue(
    arguments: &Arguments,
    store: &SessionStore,
    session: &SessionId,
    objective: &str,
    now: Timestamp,
) -> anyhow::Result<(MissionId, SessionState)> {
    let mission = match &arguments.id {
        Some(id) => id.clone(),
        None => MissionId::new(format!("m-{}", start::random_hex::<4>()?))?,
    };
    let text = arguments.mission(&mission, objective, now);
    let mut is_first = true;
    let decide = |document: &Document| {
        // Later versions may be built on ours: there a mission with our id is our own unless it says something else.
        let is_ours = |theirs: crate::session::mission_view::MissionView<'_>| {
            !is_first
                && theirs.string("objective").as_deref() == Some(objective)
                && theirs.string("createdAt").as_deref() == Some(&now.to_string())
        };
        let mut edits = Edits::new();
        let state = document.state();
        match document.mission(mission.as_str()) {
            Some(theirs) if is_ours(theirs) => {}
            Some(_) => {
                let ended =
                    Ended::new(Code::State, format!("mission {mission} is in session {session} already"));
                return Err(ended.hint("give it another --id; to run it once more use aiwg-rs mc retry"));
            }
            None => {
                room(document, session, 1)?;
                edits.append_mission(text.clone()).map_err(|error| {
                    Ended::new(Code::Failed, "failed to write the mission down").because(error)
                })?;
            }
        }
        is_first = false;
        Ok((edits, state))
    };
    let is_lost = |document: &Document| document.mission(mission.as_str()).is_none();
    let state = arguments.folder.update(store, session, now, decide, is_lost)?;
    Ok((mission, state))
}

/// Refuses `more` unfinished missions beyond the session's `maxMissions`. Absent, 0 or no number is no limit.
///
/// # Errors
/// [`Code::State`] with both numbers.
pub fn room(document: &Document, session: &SessionId, more: u64) -> Result<(), Ended> {
    let limit = document.session_raw("maxMissions").and_then(|raw| raw.parse::<u64>().ok()).unwrap_or(0);
    if limit == 0 {
        return Ok(());
    }
    let is_unfinished = |status: Option<&str>| {
        !status.and_then(|word| MissionState::parse(word).ok()).is_some_and(MissionState::is_terminal)
    };
    let unfinished =
        document.missions().filter(|mission| is_unfinished(mission.string("status").as_deref())).count();
    let unfinished = u64::try_from(unfinished).unwrap_or(u64::MAX);
    if unfinished.saturating_add(more) <= limit {
        return Ok(());
    }
    let message =
        format!("session {session} is full: {unfinished} missions are unfinished, {limit} are allowed");
    Err(Ended::new(Code::State, message).hint(
        "wait until some have ended, use another session, or raise \"maxMissions\" in its session.json",
    ))
}

/// Returns the newest session that dispatches, or makes the default one. The one of dropped files is theirs.
fn session_on_demand(folder: &Folder, store: &SessionStore, now: Timestamp) -> anyhow::Result<SessionId> {
    let mut newest: Option<(Timestamp, SessionId)> = None;
    for session in folder.sessions(store)? {
        if session.as_str() == inbox::DEFAULT_SESSION {
            continue;
        }
        let Ok(reading) = folder::read_settled(store, &session) else { continue };
        if !reading.document.state().is_dispatching() {
            continue;
        }
        let created = reading.document.session_str("createdAt");
        let created = created.and_then(|text| Timestamp::parse(&text).ok()).unwrap_or(Timestamp::EPOCH);
        if newest.as_ref().is_none_or(|(latest, _)| created >= *latest) {
            newest = Some((created, session));
        }
    }
    if let Some((_, session)) = newest {
        return Ok(session);
    }
    let session = SessionId::new(DEFAULT_SESSION)?;
    let is_new = start::create(store, &session, DEFAULT_SESSION, start::DEFAULT_MAX_MISSIONS, now)?;
    if !is_new
        && folder::read_settled(store, &session)
            .is_ok_and(|reading| !reading.document.state().is_dispatching())
    {
        let ended = Ended::new(Code::State, "no session is active");
        return Err(ended
            .hint(format!(
                "aiwg-rs mc resume --session {session}{} lets that one go on; aiwg-rs mc start begins another",
                folder.option()
            ))
            .into());
    }
    Ok(session)
}

impl Arguments {
    fn objective(&self) -> anyhow::Result<String> {
        let text = match (&self.objective, &self.file) {
            (_, Some(path)) => {
                let file = std::fs::File::open(path)
                    .with_context(|| format!("failed to open {}", path.display()))?;
                limited(file).with_context(|| format!("failed to read {}", path.display()))?
            }
            (Some(text), None) if text == "-" => {
                limited(std::io::stdin().lock()).context("failed to read standard input")?
            }
            (Some(text), None) => text.clone(),
            (None, None) => String::new(),
        };
        if text.trim().is_empty() {
            let ended = Ended::new(Code::Usage, "the objective is empty");
            return Err(ended.hint("say what is to be done").into());
        }
        if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_OBJECTIVE_BYTES {
            let ended =
                Ended::new(Code::Usage, format!("the objective is longer than {MAX_OBJECTIVE_BYTES} bytes"));
            return Err(ended.hint("put the material in a file and name the file in the objective").into());
        }
        Ok(text)
    }

    /// Spells the mission as Mission Control does, with the keys that only a bridge reads behind the others.
    fn mission(&self, id: &MissionId, objective: &str, now: Timestamp) -> String {
        let text = |value: &str| quoted(value);
        let mut members = vec![
            ("id", text(id.as_str())),
            ("objective", text(objective)),
            ("completion", self.completion.as_deref().map_or_else(|| "null".to_owned(), quoted)),
            ("status", text(MissionState::Queued.as_file())),
            ("loop", "0".to_owned()),
            ("maxIterations", self.max_iterations.to_string()),
            ("priority", text(&self.priority)),
            ("mode", text(&self.mode)),
            ("createdAt", text(&now.to_string())),
        ];
        if let Some(agent) = &self.target_agent {
            members.push(("targetAgent", text(agent)));
        }
        if let Some(executor) = &self.target_executor {
            members.push(("targetExecutorId", text(executor.as_str())));
        }
        if !self.capabilities.is_empty() {
            let names: Vec<String> = self.capabilities.iter().map(|name| quoted(name)).collect();
            members.push(("requiredCapabilities", format!("[{}]", names.join(", "))));
        }
        if self.long_running {
            members.push(("longRunning", "true".to_owned()));
        }
        let notify = self.notify.iter().map(|url| (notice::KEY.to_owned(), quoted(url)));
        let metadata: Vec<(String, String)> = self.metadata.iter().cloned().chain(notify).collect();
        if !metadata.is_empty() {
            let pairs: Vec<String> =
                metadata.iter().map(|(key, raw)| format!("{}: {raw}", quoted(key))).collect();
            members.push(("metadata", format!("{{{}}}", pairs.join(", "))));
        }
        let members: Vec<String> = members.iter().map(|(key, raw)| format!("\"{key}\": {raw}")).collect();
        format!("{{{}}}", members.join(", "))
    }
}

fn limited(reader: impl std::io::Read) -> anyhow::Result<String> {
    let mut text = String::new();
    reader.take(MAX_OBJECTIVE_BYTES + 1).read_to_string(&mut text)?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_json_where_it_parses_and_text_where_it_does_not() {
        assert_eq!(metadata("n=1.10").unwrap(), ("n".to_owned(), "1.10".to_owned()));
        assert_eq!(metadata("o={\"a\":[1]}").unwrap().1, "{\"a\":[1]}");
        assert_eq!(metadata("t=main branch").unwrap().1, "\"main branch\"");
        assert_eq!(metadata("e=a=b").unwrap().1, "\"a=b\"");
        assert!(metadata("nothing").is_err() && metadata("=1").is_err());
    }

    #[test]
    fn unfinished_missions_count_against_the_limit() {
        let session = SessionId::new("s").unwrap();
        let full = |text: &str| room(&Document::parse(text).unwrap(), &session, 1).is_err();
        let missions = r#""missions":[{"status":"queued"},{"status":"running"},{"status":"done"}]"#;
        assert!(full(&format!("{{\"maxMissions\":2,{missions}}}")));
        assert!(!full(&format!("{{\"maxMissions\":3,{missions}}}")));
        assert!(!full(&format!("{{\"maxMissions\":0,{missions}}}")));
        assert!(!full(&format!("{{{missions}}}")));
    }
}
