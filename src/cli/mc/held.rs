//! Command: sets whether a session's queued missions may go.

use super::folder::Folder;
use crate::cli::exit::Code;
use crate::cli::output;
use crate::domain::lifecycle::MissionState;
use crate::domain::session::SessionState;
use crate::runtime::clock;
use crate::session::document::Document;
use crate::session::edits::Edits;
use crate::session::json::quoted;
use crate::session::waiting::is_handed_over;

/// What is printed with `--json`.
#[derive(serde::Serialize)]
struct Changed<'a> {
    session: &'a str,
    was: String,
    state: &'static str,
    queued: usize,
    running: usize,
}

/// Sets a session's state and says what that means for its missions. Setting what is set already is no error.
///
/// # Errors
/// There is no such session, or its file cannot be written.
pub(super) fn set(folder: &Folder, name: &str, state: SessionState) -> anyhow::Result<Code> {
    let store = folder.store();
    let session = folder.session(&store, name)?;
    let mut was = None;
    let decide = |document: &Document| {
        was.get_or_insert(document.state_word().into_owned());
        let mut edits = Edits::new();
        edits.set_session("state", quoted(state.as_file()));
        let mut counts = (0_usize, 0_usize);
        for mission in document.missions() {
            let state = mission.string("status").and_then(|word| MissionState::parse(&word).ok());
            match state {
                Some(MissionState::Queued) => counts.0 += 1,
                Some(MissionState::Paused) if !is_handed_over(&mission) => counts.0 += 1,
                Some(state) if state.is_held_by_executor() => counts.1 += 1,
                Some(_) | None => {}
            }
        }
        Ok((edits, counts))
    };
    let is_lost = |document: &Document| document.session_str("state").as_deref() != Some(state.as_file());
    let (queued, running) = folder.update(&store, &session, clock::wall(), decide, is_lost)?;
    if folder.json {
        let was = was.unwrap_or_default();
        output::json(&Changed { session: session.as_str(), was, state: state.as_file(), queued, running })?;
        return Ok(Code::Done);
    }
    let goes_on = if running > 0 { format!("; {} on", go(running)) } else { String::new() };
    let text = match state {
        SessionState::Active if queued > 0 => format!("is active; {queued} queued may go"),
        SessionState::Active => "is active".to_owned(),
        SessionState::Paused | SessionState::Stopped | SessionState::Unknown if queued > 0 => {
            format!("is {}; {queued} queued are held{goes_on}", state.as_file())
        }
        SessionState::Paused | SessionState::Stopped | SessionState::Unknown => {
            format!("is {}{goes_on}", state.as_file())
        }
    };
    output::line(&format!("session {session} {text}"))?;
    Ok(Code::Done)
}

fn go(running: usize) -> String {
    if running == 1 { "1 that runs goes".to_owned() } else { format!("{running} that run go") }
}
