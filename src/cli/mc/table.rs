//! Command: tables for a terminal: a line per row, cut to the width, with notes below a row where there is more to say.
//!
//! A row never wraps, so the eye can run down a column. Notes wrap below their row; commands in notes never do, so that
//! they can be copied.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Row, Table, Width};
use std::io::{self, Write as _};

/// Width where the terminal does not tell one.
const DEFAULT_WIDTH: u16 = 100;

/// Narrowest width that is laid out for; below it lines run over the edge.
const NARROWEST: u16 = 40;

/// How far notes are indented.
const INDENT: u16 = 4;

/// One column.
#[derive(Debug, Clone)]
pub struct Column {
    title: &'static str,
    is_number: bool,
    takes_rest: bool,
    from_width: u16,
}

impl Column {
    /// Makes a column as wide as its content.
    pub fn fixed(title: &'static str) -> Self {
        Self { title, is_number: false, takes_rest: false, from_width: 0 }
    }

    /// Makes a column of numbers, aligned to the right.
    pub fn number(title: &'static str) -> Self {
        Self { is_number: true, ..Self::fixed(title) }
    }

    /// Makes the column that takes what is left of the width.
    pub fn rest(title: &'static str) -> Self {
        Self { takes_rest: true, ..Self::fixed(title) }
    }

    /// Leaves the column out on terminals narrower than this.
    #[must_use]
    pub fn from_width(self, width: u16) -> Self {
        Self { from_width: width, ..self }
    }
}

/// The look of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tone {
    /// As everything else.
    #[default]
    Plain,
    /// Somebody has to act.
    Urgent,
    /// It went wrong.
    Bad,
    /// Of no concern any more.
    Faint,
}

impl Tone {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Urgent => "\u{1b}[33m",
            Self::Bad => "\u{1b}[31m",
            Self::Faint => "\u{1b}[2m",
        }
    }
}

#[derive(Debug, Clone)]
enum Note {
    Text(String),
    Command(String),
}

/// A table with notes.
#[derive(Debug)]
pub struct Sheet {
    columns: Vec<Column>,
    rows: Vec<(Vec<String>, Tone, Vec<Note>)>,
}

impl Sheet {
    /// Makes a table without rows.
    pub fn new(columns: Vec<Column>) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row: a cell for every column, also for those that are left out on a narrow terminal.
    pub fn row(&mut self, cells: Vec<String>) -> &mut Self {
        self.rows.push((cells, Tone::Plain, Vec::new()));
        self
    }

    /// Sets the look of the last row.
    pub fn tone(&mut self, tone: Tone) -> &mut Self {
        if let Some((_, last, _)) = self.rows.last_mut() {
            *last = tone;
        }
        self
    }

    /// Adds a note below the last row.
    pub fn note(&mut self, text: &str) -> &mut Self {
        if let Some((_, _, notes)) = self.rows.last_mut() {
            notes.push(Note::Text(text.to_owned()));
        }
        self
    }

    /// Adds a command below the last row, to be copied.
    pub fn command(&mut self, text: &str) -> &mut Self {
        if let Some((_, _, notes)) = self.rows.last_mut() {
            notes.push(Note::Command(text.to_owned()));
        }
        self
    }

    /// Lays the table out. Lines carry no line break.
    pub fn lines(&self, width: u16) -> Vec<String> {
        let width = width.max(NARROWEST);
        let is_shown: Vec<bool> = self.columns.iter().map(|column| column.from_width <= width).collect();
        let shown = |cells: &[String]| -> Vec<String> {
            cells.iter().zip(&is_shown).filter(|(_, shown)| **shown).map(|(cell, _)| cell.clone()).collect()
        };
        let mut table = Table::new();
        table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        let titles: Vec<String> = self.columns.iter().map(|column| column.title.to_owned()).collect();
        table.set_header(single(&shown(&titles)));
        for (cells, _, _) in &self.rows {
            table.add_row(single(&shown(cells)));
        }
        let visible: Vec<&Column> =
            self.columns.iter().zip(&is_shown).filter(|(_, shown)| **shown).map(|(c, _)| c).collect();
        for (index, column) in visible.iter().enumerate() {
            if let Some(laid) = table.column_mut(index) {
                laid.set_padding((0, if index + 1 == visible.len() { 0 } else { 2 }));
                if column.is_number {
                    laid.set_cell_alignment(CellAlignment::Right);
                }
                // What is typed again stands whole; the others give way.
                if index == 0 {
                    let longest = self.rows.iter().filter_map(|(cells, ..)| cells.first());
                    let longest =
                        longest.map(|id| id.chars().count()).max().unwrap_or(0).max(column.title.len());
                    let longest = u16::try_from(longest).unwrap_or(u16::MAX).min(width * 6 / 10);
                    laid.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(longest + 2)));
                } else if !column.takes_rest {
                    laid.set_constraint(ColumnConstraint::UpperBoundary(Width::Percentage(45)));
                }
            }
        }
        let mut laid = table.lines().map(|line| line.trim_end().to_owned());
        let mut lines: Vec<String> = laid.next().into_iter().collect();
        for ((_, tone, notes), line) in self.rows.iter().zip(laid) {
            lines.push(toned(&line, *tone));
            for note in notes {
                lines.extend(note.lines(width));
            }
        }
        lines
    }
}

impl Note {
    fn lines(&self, width: u16) -> Vec<String> {
        let indent = " ".repeat(usize::from(INDENT));
        match self {
            Self::Command(text) => vec![format!("{indent}{}", plain(text))],
            Self::Text(text) => hanging(&indent, text, width),
        }
    }
}

/// Breaks a text into lines of at most `width`.
pub fn wrapped(text: &str, width: u16) -> Vec<String> {
    let text = plain(text);
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    table.add_row(vec![text]);
    if let Some(column) = table.column_mut(0) {
        column.set_padding((0, 0));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect()
}

/// Breaks a text into lines of at most `width`, the first behind `label`, the others as far to the right.
pub fn hanging(label: &str, text: &str, width: u16) -> Vec<String> {
    let indent = label.chars().count();
    let room = width.max(NARROWEST).saturating_sub(u16::try_from(indent).unwrap_or(0));
    let line = |(index, line): (usize, String)| {
        if index == 0 { format!("{label}{line}") } else { format!("{:indent$}{line}", "") }
    };
    wrapped(text, room).into_iter().enumerate().map(line).collect()
}

/// Replaces what could steer a terminal: what is shown was written by others.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn single(cells: &[String]) -> Row {
    let mut row: Row = cells.iter().map(|cell| plain(cell)).collect::<Vec<_>>().into();
    row.max_height(1);
    row
}

fn toned(line: &str, tone: Tone) -> String {
    match tone {
        Tone::Plain => line.to_owned(),
        Tone::Urgent | Tone::Bad | Tone::Faint => format!("{}{line}\u{1b}[0m", tone.code()),
    }
}

/// Returns the width and height of the terminal behind standard output, as far as it tells them.
pub fn terminal_size() -> (u16, Option<u16>) {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok().filter(|size| size.ws_col > 0);
    (size.map_or(DEFAULT_WIDTH, |size| size.ws_col), size.map(|size| size.ws_row).filter(|rows| *rows > 0))
}

/// Prints a table to the terminal, in colours where they are wanted.
///
/// # Errors
/// The terminal cannot be written to.
pub fn print(sheet: &Sheet) -> io::Result<()> {
    print_lines(&sheet.lines(terminal_size().0))
}

/// Prints lines to the terminal, in colours where they are wanted. A reader that went away is no error.
///
/// # Errors
/// The terminal cannot be written to.
pub fn print_lines(lines: &[String]) -> io::Result<()> {
    let mut text = lines.join("\n");
    text.push('\n');
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet() -> Sheet {
        let mut sheet =
            Sheet::new(vec![Column::fixed("ID"), Column::number("N").from_width(60), Column::rest("WHAT")]);
        sheet.row(vec!["m-1".to_owned(), "7".to_owned(), "short".to_owned()]);
        let long = "words that go on and on ".repeat(10);
        sheet.row(vec!["m-22".to_owned(), "12".to_owned(), long.clone()]).note(&long).command("run this");
        sheet
    }

    #[test]
    fn rows_take_one_line_and_fit_every_width() {
        for width in [40, 60, 100, 160] {
            let lines = sheet().lines(width);
            assert!(
                lines.iter().all(|line| line.chars().count() <= usize::from(width)),
                "{width}: {lines:#?}"
            );
            assert!(lines[1].starts_with("m-1") && lines[2].starts_with("m-22") && lines[2].ends_with('…'));
            assert!(lines[3].starts_with("    words"));
            assert_eq!(lines.last().unwrap(), "    run this");
        }
    }

    #[test]
    fn nothing_that_is_shown_can_steer_the_terminal() {
        let evil = "\u{1b}[2J\u{7}evil\r";
        let mut sheet = Sheet::new(vec![Column::fixed("ID"), Column::rest("WHAT")]);
        sheet.row(vec![evil.to_owned(), evil.to_owned()]).note(evil).command(evil);
        assert!(sheet.lines(80).iter().all(|line| !line.contains(char::is_control)));
    }

    #[test]
    fn narrow_terminals_leave_columns_out() {
        assert!(!sheet().lines(59)[0].contains('N'));
        assert!(sheet().lines(60)[0].contains('N'));
    }
}
