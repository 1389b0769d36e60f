//! Command: `mc list`.

use super::folder::Folder;
use super::overview::{Looker, SessionLine};
use super::table::{Column, Sheet};
use crate::cli::exit::Code;
use crate::cli::output;
use crate::domain::time::Timestamp;
use crate::runtime::clock;
use crate::session::waiting::{one_line, span};
use clap::Args;

/// Show the sessions and how many missions stand where.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Which folder.
    #[command(flatten)]
    folder: Folder,
}

/// Carries out the verb.
///
/// # Errors
/// The folder cannot be read.
pub fn run(arguments: &Arguments) -> anyhow::Result<Code> {
    let now = clock::wall();
    let overview = Looker::new(&arguments.folder).look(None, now)?;
    let lines = overview.session_lines();
    if arguments.folder.json || !output::is_terminal() {
        for line in &lines {
            output::json(line)?;
        }
        return Ok(Code::Done);
    }
    if lines.is_empty() {
        output::line(&format!(
            "no sessions in {}; begin one with: aiwg-rs mc start{}",
            arguments.folder.watch_dir.display(),
            arguments.folder.option()
        ))?;
    } else {
        super::table::print(&sheet(&lines, now))?;
    }
    for ignored in &overview.ignored {
        output::complain(&format!("note: {ignored}\n"));
    }
    Ok(Code::Done)
}

fn sheet(lines: &[SessionLine<'_>], now: Timestamp) -> Sheet {
    let mut sheet = Sheet::new(vec![
        Column::fixed("SESSION"),
        Column::fixed("STATE"),
        Column::number("QUEUED"),
        Column::number("LIVE"),
        Column::number("ASKING").from_width(70),
        Column::number("DONE"),
        Column::number("FAILED"),
        Column::number("ABORTED").from_width(80),
        Column::number("CHANGED").from_width(70),
        Column::rest("NAME").from_width(90),
    ]);
    for line in lines {
        let count = |n: usize| if n == 0 { "-".to_owned() } else { n.to_string() };
        let age = line.updated_at.map_or_else(|| "-".to_owned(), |then| span(now.since(then)));
        let name = line.name.as_deref().filter(|name| *name != line.session).map(one_line);
        let counts = &line.counts;
        sheet.row(vec![
            line.session.to_owned(),
            one_line(&line.state),
            count(counts.queued),
            count(counts.live),
            count(counts.asking),
            count(counts.done),
            count(counts.failed),
            count(counts.aborted),
            age,
            name.unwrap_or_default(),
        ]);
        if let Some(why) = line.unreadable {
            sheet.note(why);
        }
        if counts.unusable > 0 {
            sheet.note(&format!(
                "{} cannot be used as written; aiwg-rs mc status {} says why",
                if counts.unusable == 1 {
                    "1 mission".to_owned()
                } else {
                    format!("{} missions", counts.unusable)
                },
                line.session
            ));
        }
    }
    sheet
}
