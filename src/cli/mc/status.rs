//! Command: `mc status`.

use super::folder::Folder;
use super::overview::{Content, Looker, MissionLine, Overview};
use super::table::{self, Column, Sheet, Tone};
use super::target::Target;
use crate::cli::exit::Code;
use crate::cli::output;
use crate::domain::id::SessionId;
use crate::domain::lifecycle::MissionState;
use crate::domain::mission::{FailureReason, Priority};
use crate::domain::time::Timestamp;
use crate::runtime::clock;
use crate::session::waiting::{Bridge, Cause, Remedy, Surroundings, one_line, span};
use clap::Args;
use std::time::Duration;

/// How many rows of one session are shown on a terminal without `--all`: about a screenful.
const MOST_ROWS: usize = 40;

/// Failures older than this are only counted: by then somebody has seen them.
const RECENT: Duration = Duration::from_secs(24 * 60 * 60);

/// Show what waits, runs, asks and failed, and why.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A session, or a mission as ID or SESSION/ID; without it everything
    name: Option<String>,
    /// Show every mission: also those that are done, aborted or failed long ago
    #[arg(long, short)]
    all: bool,
    /// Which folder.
    #[command(flatten)]
    folder: Folder,
}

/// What is asked about.
#[derive(Debug, Clone)]
pub enum Subject {
    /// Everything.
    Folder,
    /// One session.
    Session(SessionId),
    /// One mission.
    Mission(Target),
}

impl Subject {
    /// Finds what a name means: a session first, then a mission.
    ///
    /// # Errors
    /// Neither is called so.
    pub fn find(folder: &Folder, name: Option<&str>) -> anyhow::Result<Self> {
        let Some(name) = name else { return Ok(Self::Folder) };
        let store = folder.store();
        if let Ok(session) = SessionId::new(name)
            && matches!(store.identity(&session), Ok(Some(_)))
        {
            return Ok(Self::Session(session));
        }
        Target::find_as("session or mission", folder, &store, name).map(Self::Mission)
    }

    /// Returns the one session to read, if it is one.
    pub fn session(&self) -> Option<&SessionId> {
        match self {
            Self::Folder => None,
            Self::Session(session) => Some(session),
            Self::Mission(target) => Some(&target.session),
        }
    }

    /// Says whether a mission is asked about.
    pub fn includes(&self, line: &MissionLine<'_>) -> bool {
        match self {
            Self::Folder | Self::Session(_) => true,
            Self::Mission(target) => line.id == target.mission,
        }
    }
}

/// Carries out the verb.
///
/// # Errors
/// The name is unknown, or the folder cannot be read.
pub fn run(arguments: &Arguments) -> anyhow::Result<Code> {
    let folder = &arguments.folder;
    let subject = Subject::find(folder, arguments.name.as_deref())?;
    let overview = Looker::new(folder).look(subject.session(), clock::wall())?;
    if folder.json || !output::is_terminal() {
        print_json(folder, &overview, &subject)?;
    } else {
        let width = table::terminal_size().0;
        table::print_lines(&lines(folder, &overview, &subject, arguments.all, width))?;
    }
    Ok(Code::Done)
}

fn print_json(folder: &Folder, overview: &Overview, subject: &Subject) -> anyhow::Result<()> {
    let surroundings = Surroundings::new(&overview.bridge, overview.now);
    let mut first = serde_json::json!({"bridge": bridge_json(&overview.bridge, &surroundings)});
    if let Some(first) = first.as_object_mut().filter(|_| !overview.ignored.is_empty()) {
        first.insert("notes".to_owned(), overview.ignored.clone().into());
    }
    output::json(&first)?;
    for ((session, content), summary) in overview.sessions.iter().zip(overview.session_lines()) {
        if !matches!(subject, Subject::Mission(_)) {
            output::json(&summary)?;
        }
        let mut text = Vec::new();
        for mission in overview.mission_lines(&surroundings, session, content) {
            if subject.includes(&mission) {
                serde_json::to_writer(&mut text, &mission.json(folder))?;
                text.push(b'\n');
            }
        }
        output::raw(&text)?;
    }
    Ok(())
}

fn bridge_json(bridge: &Bridge, surroundings: &Surroundings<'_>) -> serde_json::Value {
    let gone = surroundings.bridge_gone();
    match bridge {
        Bridge::Never | Bridge::Unreadable(_) => {
            serde_json::json!({"running": false, "why": gone.map(|reason| reason.text)})
        }
        Bridge::Seen(status) | Bridge::Killed(status) => serde_json::json!({
            "running": gone.is_none(),
            "why": gone.map(|reason| reason.text),
            "status": status,
        }),
    }
}

/// Lays everything out for a terminal.
pub fn lines(
    folder: &Folder,
    overview: &Overview,
    subject: &Subject,
    is_all: bool,
    width: u16,
) -> Vec<String> {
    let surroundings = Surroundings::new(&overview.bridge, overview.now);
    let mut lines = bridge_lines(folder, &overview.bridge, &surroundings, overview.now, width);
    if let Subject::Mission(target) = subject {
        for (session, content) in &overview.sessions {
            for line in overview.mission_lines(&surroundings, session, content) {
                if line.id == target.mission {
                    lines.push(String::new());
                    lines.extend(details(folder, &line, overview.now, width));
                    return lines;
                }
            }
        }
        return lines;
    }
    if overview.sessions.is_empty() {
        lines.push(format!("no sessions in {}", folder.watch_dir.display()));
        lines.push(format!("begin with: aiwg-rs mc dispatch \"what is to be done\"{}", folder.option()));
    }
    let is_one = matches!(subject, Subject::Session(_));
    let mut quiet = 0_usize;
    for ((session, content), summary) in overview.sessions.iter().zip(overview.session_lines()) {
        let missions = overview.mission_lines(&surroundings, session, content);
        let rows = chosen(missions, is_all, overview.now);
        if rows.is_empty() && summary.unreadable.is_none() && !is_one && !is_all {
            quiet += 1;
            continue;
        }
        lines.push(String::new());
        let title = match summary.name.as_deref().filter(|name| *name != summary.session) {
            Some(name) => format!("{}  {}", summary.session, one_line(name)),
            None => summary.session.to_owned(),
        };
        lines.extend(table::wrapped(&format!("{title}  ({})", tally(&summary)), width));
        if let Content::Unreadable(why) = content {
            lines.extend(table::hanging("    ", why, width));
            continue;
        }
        let most = if is_all { usize::MAX } else { MOST_ROWS };
        if !rows.is_empty() {
            lines.extend(sheet(folder, rows.iter().take(most), overview.now).lines(width));
        }
        if rows.len() > most {
            lines.push(format!("    and {} more; --all shows them", rows.len() - most));
        }
    }
    if quiet > 0 {
        lines.push(String::new());
        let sessions = if quiet == 1 { "1 session has".to_owned() } else { format!("{quiet} sessions have") };
        lines.push(format!("{sessions} nothing open; aiwg-rs mc list shows all"));
    }
    for ignored in &overview.ignored {
        lines.extend(table::hanging("note: ", ignored, width));
    }
    lines
}

fn tally(summary: &super::overview::SessionLine<'_>) -> String {
    let counts = &summary.counts;
    let parts = [
        (counts.queued, "queued"),
        (counts.live, "live"),
        (counts.done, "done"),
        (counts.failed, "failed"),
        (counts.aborted, "aborted"),
    ];
    let parts: Vec<String> =
        parts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
    let state = one_line(&summary.state);
    if parts.is_empty() { format!("{state}, no missions") } else { format!("{state}: {}", parts.join(", ")) }
}

fn bridge_lines(
    folder: &Folder,
    bridge: &Bridge,
    surroundings: &Surroundings<'_>,
    now: Timestamp,
    width: u16,
) -> Vec<String> {
    let mut lines = Vec::new();
    let Some(status) = surroundings.running() else {
        let why = surroundings.bridge_gone().map_or_else(|| "no bridge is running".to_owned(), |r| r.text);
        lines.extend(table::hanging("bridge   ", &why, width));
        let old = !matches!(bridge, Bridge::Never);
        if old {
            lines.extend(table::hanging("         ", "what follows is what was known last", width));
        }
        lines.push(format!("         start one: aiwg-rs mc bridge{}", folder.option()));
        return lines;
    };
    let up = span(now.since(status.started_at));
    let work = match (status.in_flight, status.queued) {
        (0, 0) if status.delayed.is_empty() => "idle".to_owned(),
        (0, 0) => format!("{} held up", missions(status.delayed.len())),
        (open, waiting) => format!("{open} requests open, {} waiting", missions(waiting)),
    };
    lines.extend(table::hanging(
        "bridge   ",
        &format!("running for {up} (process {}), {work}", status.pid),
        width,
    ));
    let registry = match status.unreachable_since {
        Some(since) => {
            let cause = status.unreachable_cause.as_deref().unwrap_or("no answer");
            format!(
                "{} has not answered for {}: {}",
                status.serve_url,
                span(now.since(since)),
                one_line(cause)
            )
        }
        None => status.serve_url.clone(),
    };
    lines.extend(table::hanging("registry ", &registry, width));
    if let Some(why) = status.watch_why.as_deref().filter(|_| !status.watch_native) {
        lines.extend(table::hanging("watching ", &format!("by polling: {}", one_line(why)), width));
    }
    lines
}

fn missions(count: usize) -> String {
    if count == 1 { "1 mission".to_owned() } else { format!("{count} missions") }
}

/// Picks the missions that somebody wants to see now, the ones that need somebody first.
fn chosen(mut missions: Vec<MissionLine<'_>>, is_all: bool, now: Timestamp) -> Vec<MissionLine<'_>> {
    let is_recent = |line: &MissionLine<'_>| line.since.is_some_and(|then| now.since(then) < RECENT);
    missions.retain(|line| {
        is_all
            || line.is_unfinished()
            || (line.state == Some(MissionState::Failed) && (is_recent(line) || line.since.is_none()))
    });
    missions.sort_by_key(|line| (rank(line.state), priority(line)));
    missions
}

fn priority(line: &MissionLine<'_>) -> Priority {
    match line.state {
        Some(MissionState::Queued) => Priority::from_file(line.view.string("priority").as_deref()),
        Some(_) | None => Priority::Normal,
    }
}

fn rank(state: Option<MissionState>) -> u8 {
    match state {
        Some(MissionState::HitlRequired) => 0,
        None => 1,
        Some(MissionState::Running) => 2,
        Some(MissionState::Assigned) => 3,
        Some(MissionState::Paused) => 4,
        Some(MissionState::Suspended) => 5,
        Some(MissionState::Queued) => 6,
        Some(MissionState::Failed) => 7,
        Some(MissionState::Aborted) => 8,
        Some(MissionState::Done) => 9,
    }
}

fn sheet<'l, 'a: 'l>(
    folder: &Folder,
    rows: impl Iterator<Item = &'l MissionLine<'a>>,
    now: Timestamp,
) -> Sheet {
    let mut sheet = Sheet::new(vec![
        Column::fixed("MISSION"),
        Column::fixed("STATUS"),
        Column::number("FOR"),
        Column::fixed("PRIORITY").from_width(90),
        Column::number("ROUND").from_width(110),
        Column::fixed("EXECUTOR").from_width(130),
        Column::rest("OBJECTIVE"),
    ]);
    let rows: Vec<_> = rows.collect();
    let held_up = |line: &MissionLine<'_>| {
        let is_queued = line.state == Some(MissionState::Queued);
        line.waits.as_ref().filter(|_| is_queued).map(|reason| reason.text.clone())
    };
    let mut alike = 1_usize;
    for (index, line) in rows.iter().enumerate() {
        let text = |key: &str| line.view.string(key).map_or_else(String::new, |text| one_line(&text));
        let status = line.view.string("status").map_or_else(|| "?".to_owned(), |word| one_line(&word));
        let age = line.since.map_or_else(|| "-".to_owned(), |then| span(now.since(then)));
        let round =
            line.view.unsigned("loop").filter(|n| *n > 0).map_or_else(|| "-".to_owned(), |n| n.to_string());
        let priority = Priority::from_file(line.view.string("priority").as_deref());
        let executor: String = text("executorId").chars().take(8).collect();
        let id = one_line(&line.id);
        sheet.row(vec![id, status, age, priority.to_string(), round, executor, text("objective")]);
        sheet.tone(tone(line));
        // What holds a whole queue up is said once, below the last of them.
        let reason = held_up(line);
        if reason.is_some() && rows.get(index + 1).is_some_and(|next| held_up(next) == reason) {
            alike += 1;
            continue;
        }
        notes(&mut sheet, folder, line, alike);
        alike = 1;
    }
    sheet
}

fn tone(line: &MissionLine<'_>) -> Tone {
    match line.state {
        None | Some(MissionState::Failed) => Tone::Bad,
        Some(MissionState::HitlRequired) => Tone::Urgent,
        Some(MissionState::Done | MissionState::Aborted) => Tone::Faint,
        Some(
            MissionState::Queued
            | MissionState::Assigned
            | MissionState::Running
            | MissionState::Paused
            | MissionState::Suspended,
        ) => Tone::Plain,
    }
}

/// Says what is to be known of a mission, or of as many alike.
fn notes(sheet: &mut Sheet, folder: &Folder, line: &MissionLine<'_>, alike: usize) {
    if line.state == Some(MissionState::HitlRequired)
        && let Some(prompt) = line.view.string("hitlPrompt")
    {
        sheet.note(&format!("asks: {}", one_line(&prompt)));
    }
    if line.state == Some(MissionState::Running)
        && let Some(action) = line.view.string("lastAction")
    {
        sheet.note(&one_line(&action));
    }
    if let Some(reason) = &line.waits {
        if reason.cause != Cause::QuestionOpen {
            let whom = if alike == 1 { String::new() } else { format!("these {alike}: ") };
            sheet.note(&format!("{whom}{}", one_line(&reason.text)));
        }
        if let Some(command) = line.remedy(folder).filter(|_| reason.remedy != Some(Remedy::StartBridge)) {
            sheet.command(&command);
        }
    }
    if let Some(outcome) = line.outcome() {
        sheet.note(&outcome);
    }
}

/// Everything about one mission, a line per fact.
fn details(folder: &Folder, line: &MissionLine<'_>, now: Timestamp, width: u16) -> Vec<String> {
    const LABEL: usize = 11;
    let mut lines = Vec::new();
    let mut fact = |label: &str, text: &str| {
        for (index, line) in text.lines().enumerate() {
            let label = if index == 0 { label } else { "" };
            lines.extend(table::hanging(&format!("{label:<LABEL$}"), line, width));
        }
    };
    fact("mission", &format!("{}/{}", line.session, line.id));
    let status = line.view.string("status").unwrap_or_default();
    match line.since {
        Some(since) => fact("status", &format!("{status} for {} (since {since})", span(now.since(since)))),
        None => fact("status", &status),
    }
    if let Some(reason) = &line.waits {
        fact("why", &reason.text);
    }
    if let Some(prompt) =
        line.view.string("hitlPrompt").filter(|_| line.state == Some(MissionState::HitlRequired))
    {
        fact("asks", &prompt);
    }
    if let Some(outcome) = line.outcome() {
        fact("outcome", &outcome);
    }
    let fields = [
        ("objective", "objective"),
        ("completion", "completion"),
        ("priority", "priority"),
        ("mode", "mode"),
        ("agent", "targetAgent"),
        ("executor", "executorId"),
        ("last", "lastAction"),
        ("created", "createdAt"),
        ("dispatched", "dispatchedAt"),
        ("started", "startedAt"),
    ];
    for (label, key) in fields {
        if let Some(text) = line.view.string(key) {
            fact(label, &text);
        }
    }
    for (label, key) in [("round", "loop"), ("requests", "dispatchAttempts"), ("exit code", "exitCode")] {
        if let Some(raw) = line.view.field(key).filter(|raw| *raw != "null" && (key != "loop" || *raw != "0"))
        {
            fact(label, raw);
        }
    }
    if let Some(command) = line.remedy(folder) {
        lines.push(String::new());
        lines.push(command);
    } else if line.state == Some(MissionState::Failed) {
        lines.push(String::new());
        if line.view.string("failureReason").as_deref() == Some(FailureReason::NoExecutorAvailable.as_str()) {
            let advice = "Start an executor that fits, and run it again; a bridge with --on-no-executor hold keeps such \
                          missions waiting.";
            lines.extend(table::hanging("", advice, width));
        }
        lines.push(format!("aiwg-rs mc retry {}{}", super::folder::shell(&line.id), folder.option()));
    }
    lines
}
