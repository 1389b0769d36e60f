//! Command: one line for everything that changes in a session file, in the order in which it is seen.

use crate::session::document::Document;
use crate::session::mission_view::MissionView;
use clap::builder::styling::{AnsiColor, Style};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

/// What was shown of each mission last.
#[derive(Debug, Default)]
pub struct Timeline {
    shown: HashMap<String, (String, String)>,
}

impl Timeline {
    /// Returns a line for each mission that is not what it was when last seen.
    pub fn lines(&mut self, document: &Document, at: Duration) -> String {
        let mut lines = String::new();
        for mission in document.missions() {
            let Some(id) = mission.string("id") else { continue };
            let status = mission.string("status").unwrap_or_default().into_owned();
            let now = (status, note(&mission));
            if self.shown.get(id.as_ref()) != Some(&now) {
                lines.push_str(&line(at, &id, &now.0, &now.1));
                self.shown.insert(id.into_owned(), now);
            }
        }
        lines
    }
}

/// Formats one line of the timeline.
pub fn line(at: Duration, mission: &str, status: &str, note: &str) -> String {
    format!("{:>5.1} s  {}", at.as_secs_f64(), row(mission, status, note))
}

/// Returns a line for each mission of the session.
pub fn summary(document: &Document) -> String {
    let of = |mission: MissionView<'_>| {
        let text = |key| mission.string(key).unwrap_or_default();
        format!("  {}", row(&text("id"), &text("status"), &note(&mission)))
    };
    document.missions().map(of).collect()
}

fn row(mission: &str, status: &str, note: &str) -> String {
    let style = style(status);
    let row = format!("{mission:<12}  {style}{status:<13}{style:#}  {note}");
    format!("{}\n", row.trim_end())
}

fn note(mission: &MissionView<'_>) -> String {
    let text = |key| mission.string(key).unwrap_or_default();
    let mut note = String::new();
    match text("status").as_ref() {
        "queued" => note.push_str("in session.json"),
        "assigned" => note.push_str("an executor has it"),
        "running" => match mission.string("lastAction") {
            Some(action) => note.push_str(&action),
            None => note.push_str("its shell runs"),
        },
        "hitl_required" => note.push_str(&text("hitlPrompt")),
        "done" => note.push_str(&text("summary")),
        "failed" => write!(note, "{}: {}", text("failureReason"), text("failureMessage")).unwrap_or_default(),
        _ => {}
    }
    note
}

fn style(status: &str) -> Style {
    let colour = match status {
        "assigned" => AnsiColor::Cyan,
        "running" => AnsiColor::Blue,
        "hitl_required" => AnsiColor::Yellow,
        "done" => AnsiColor::Green,
        "failed" | "aborted" => AnsiColor::Red,
        _ => return Style::new(),
    };
    colour.on_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_told_again() {
        let before = r#"{"missions": [{"id": "a", "status": "queued"}, {"id": "b", "status": "queued"}]}"#;
        let after = before.replacen(r#""queued"}"#, r#""running", "lastAction": "half"}"#, 1);
        let mut timeline = Timeline::default();
        let mut told = |text: &str, millis| {
            let document = Document::parse(text).unwrap();
            let lines = timeline.lines(&document, Duration::from_millis(millis));
            anstream::adapter::strip_str(&lines).to_string()
        };
        assert_eq!(told(before, 0).lines().count(), 2);
        assert_eq!(told(&after, 1234), "  1.2 s  a             running        half\n");
        assert_eq!(told(&after, 2000), "");
    }
}
