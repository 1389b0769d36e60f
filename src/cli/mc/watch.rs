//! Command: `mc watch`.
//!
//! The folder is looked at by stat, a few times a second, and read only where something changed; with many sessions
//! the looks grow rarer, so that watching never costs more than a small share of a core.

use super::folder::{self, Folder};
use super::overview::{Looker, Overview};
use super::status::{self, Subject};
use super::table;
use crate::cli::exit::Code;
use crate::cli::output;
use crate::domain::lifecycle::MissionState;
use crate::runtime::clock;
use crate::runtime::shutdown::{self, Shutdown};
use crate::session::waiting::{Cause, Surroundings};
use clap::Args;
use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

/// Shortest distance between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A look may take this share of the time: one part in so many.
const SHARE: u32 = 20;

/// Follow what `status` shows.
#[derive(Debug, Args)]
#[command(
    after_help = "On a terminal the view is drawn anew when something changes; elsewhere, and with --json, \
                        every change is a line of JSON."
)]
pub struct Arguments {
    /// A session, or a mission as ID or SESSION/ID; without it everything
    name: Option<String>,
    /// Show every mission: also those that are done, aborted or failed long ago
    #[arg(long, short)]
    all: bool,
    /// End when nothing is left to happen: all missions have ended or are held
    #[arg(long)]
    until_idle: bool,
    /// Which folder.
    #[command(flatten)]
    folder: Folder,
}

/// Carries out the verb. SIGINT ends it in order.
///
/// # Errors
/// The name is unknown, or the folder cannot be read.
pub async fn run(arguments: Arguments) -> anyhow::Result<Code> {
    let shutdown = Shutdown::new();
    shutdown::listen(&shutdown)?;
    let Arguments { name, all, until_idle, folder } = arguments;
    let subject = {
        let folder = folder.clone();
        folder::blocking(move || Subject::find(&folder, name.as_deref())).await?
    };
    let is_drawn = !folder.json && output::is_terminal();
    let mut view = if is_drawn {
        View::Screen(Screen::open(subject, all)?)
    } else {
        View::Lines(Changes { subject, known: HashMap::new() })
    };
    let mut looker = Looker::new(&folder);
    loop {
        let (back, view_back, idle, took) = folder::blocking(move || {
            let started = Instant::now();
            let overview = looker.look(view.subject().session(), clock::wall())?;
            view.show(looker.folder(), &overview)?;
            let idle = is_idle(&overview, view.subject());
            Ok((looker, view, idle, started.elapsed()))
        })
        .await?;
        (looker, view) = (back, view_back);
        if until_idle && idle {
            break;
        }
        tokio::select! {
            () = shutdown.started() => break,
            () = tokio::time::sleep(LOOK_EVERY.max(took * SHARE)) => {}
        }
    }
    if let View::Screen(screen) = view {
        let last = screen.last.clone();
        drop(screen);
        table::print_lines(&last)?;
    }
    Ok(Code::Done)
}

enum View {
    Screen(Screen),
    Lines(Changes),
}

impl View {
    fn subject(&self) -> &Subject {
        match self {
            Self::Screen(screen) => &screen.subject,
            Self::Lines(changes) => &changes.subject,
        }
    }

    fn show(&mut self, folder: &Folder, overview: &Overview) -> anyhow::Result<()> {
        match self {
            Self::Screen(screen) => screen.draw(folder, overview),
            Self::Lines(changes) => changes.print(folder, overview),
        }
    }
}

/// Says whether nothing can happen any more without somebody doing something.
fn is_idle(overview: &Overview, subject: &Subject) -> bool {
    let surroundings = Surroundings::new(&overview.bridge, overview.now);
    overview.sessions.iter().all(|(session, content)| {
        overview.mission_lines(&surroundings, session, content).iter().all(|line| {
            let is_held = line
                .waits
                .as_ref()
                .is_some_and(|reason| matches!(reason.cause, Cause::SessionHeld | Cause::InvalidMission));
            !subject.includes(line) || !line.is_unfinished() || is_held
        })
    })
}

/// The terminal's other screen, given back on drop.
struct Screen {
    subject: Subject,
    all: bool,
    last: Vec<String>,
    size: (u16, Option<u16>),
}

impl Screen {
    fn open(subject: Subject, all: bool) -> io::Result<Self> {
        output::raw(b"\x1b[?1049h\x1b[?25l\x1b[2J")?;
        Ok(Self { subject, all, last: Vec::new(), size: (0, None) })
    }

    fn draw(&mut self, folder: &Folder, overview: &Overview) -> anyhow::Result<()> {
        let size = table::terminal_size();
        let mut lines = status::lines(folder, overview, &self.subject, self.all, size.0);
        if anstream::AutoStream::choice(&io::stdout()) == anstream::ColorChoice::Never {
            for line in &mut lines {
                *line = anstream::adapter::strip_str(line).to_string();
            }
        }
        if lines == self.last && size == self.size {
            return Ok(());
        }
        let room = size.1.map_or(usize::MAX, usize::from).max(2);
        let mut frame = String::from("\u{1b}[H");
        let shown = if lines.len() > room { room - 1 } else { lines.len() };
        for (index, line) in lines.iter().take(shown).enumerate() {
            let end = if index + 1 < shown || shown < lines.len() { "\r\n" } else { "" };
            frame = frame + line + "\u{1b}[K" + end;
        }
        if shown < lines.len() {
            frame =
                format!("{frame}    and {} more lines; enlarge the terminal\u{1b}[K", lines.len() - shown);
        }
        frame.push_str("\u{1b}[J");
        output::raw(frame.as_bytes())?;
        self.last = lines;
        self.size = size;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // The terminal is gone when this fails; nothing is left to restore.
        output::raw(b"\x1b[?25h\x1b[?1049l").ok();
    }
}

/// Prints a line for every mission that moved.
struct Changes {
    subject: Subject,
    known: HashMap<(String, String), Known>,
}

/// What makes a line worth printing when it differs.
#[derive(PartialEq, Eq)]
struct Known {
    state: Option<MissionState>,
    waits: Option<Cause>,
    action: Option<String>,
}

impl Changes {
    fn print(&mut self, folder: &Folder, overview: &Overview) -> anyhow::Result<()> {
        let surroundings = Surroundings::new(&overview.bridge, overview.now);
        let mut next = HashMap::with_capacity(self.known.len());
        let mut text = Vec::new();
        for (session, content) in &overview.sessions {
            for line in overview.mission_lines(&surroundings, session, content) {
                if !self.subject.includes(&line) {
                    continue;
                }
                let key = (line.session.to_owned(), line.id.clone().into_owned());
                let action = line.view.string("lastAction").map(std::borrow::Cow::into_owned);
                let waits = line.waits.as_ref().map(|reason| reason.cause);
                let now = Known { state: line.state, waits, action };
                let was = self.known.get(&key);
                // What had ended before we came is no change.
                if was.is_none_or(|was| *was != now) && (was.is_some() || line.is_unfinished()) {
                    let mut value = line.json(folder);
                    if let Some(object) = value.as_object_mut() {
                        object.insert("at".to_owned(), serde_json::json!(overview.now));
                        let from = was.and_then(|was| was.state).map(MissionState::as_file);
                        object.insert("from".to_owned(), serde_json::json!(from));
                    }
                    serde_json::to_writer(&mut text, &value)?;
                    text.push(b'\n');
                }
                next.insert(key, now);
            }
        }
        self.known = next;
        output::raw(&text)?;
        Ok(())
    }
}
