//! Command: logs: for people on a terminal, JSON lines elsewhere, always to standard error.
//!
//! Lines are written by a thread of their own: a pipe that nobody reads must not hold up the work. Beyond
//! [`WAITING_LINES`] they are dropped.

use crate::cli::LogFormat;
use crate::cli::exit::{Code, Ended};
use std::fs::File;
use std::io::{IsTerminal as _, Write};
use std::os::fd::AsFd as _;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// Installs the subscriber of a process that says little: warnings and errors as JSON, and no directives to read.
///
/// # Errors
/// A subscriber is installed already.
pub fn install_plain() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .log_internal_errors(false)
        .with_writer(std::io::stderr)
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .try_init()
        .map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow::anyhow!("failed to install the log subscriber: {error}")
}

/// Says whether a directive is a level that is spelt wrong: a filter would take it for the name of a module, and log nothing.
fn is_slip(directive: &str) -> bool {
    let word = directive.trim();
    let is_level = word.parse::<tracing::level_filters::LevelFilter>().is_ok();
    !is_level && !word.is_empty() && word.chars().all(char::is_alphabetic)
}

/// How many lines may wait for whoever reads them.
const WAITING_LINES: usize = 8192;

/// How long the end waits for whoever reads them.
const LAST_LINES_WITHIN: Duration = Duration::from_secs(1);

enum Message {
    Line(Vec<u8>),
    /// All that came before it has been written.
    Flushed(SyncSender<()>),
}

/// Hands lines over, or drops them where nobody takes them.
#[derive(Debug, Clone)]
struct Lines(SyncSender<Message>);

impl Lines {
    /// Starts the thread that writes to `out`. It ends with the process: nobody waits for a pipe that nobody reads.
    fn to(mut out: impl Write + Send + 'static) -> std::io::Result<Self> {
        let (lines, waiting) = sync_channel(WAITING_LINES);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            for message in waiting {
                match message {
                    // Whoever closed it wants no logs, and there is nobody to tell.
                    Message::Line(line) => out.write_all(&line).unwrap_or_default(),
                    Message::Flushed(done) => done.send(()).unwrap_or_default(),
                }
            }
        })?;
        Ok(Self(lines))
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        drop(self.0.try_send(Message::Line(line.to_vec())));
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Waits for the last lines when it is dropped, a second at most.
#[derive(Debug)]
#[must_use = "the last lines are waited for when it is dropped"]
pub struct Flush(Lines);

impl Drop for Flush {
    fn drop(&mut self) {
        let (done, is_done) = sync_channel(1);
        if self.0.0.try_send(Message::Flushed(done)).is_ok() {
            is_done.recv_timeout(LAST_LINES_WITHIN).ok();
        }
    }
}

/// Installs the subscriber for the whole process.
///
/// # Errors
/// The directives cannot be read, or a subscriber is installed already.
pub fn install(directives: &str, format: LogFormat) -> anyhow::Result<Flush> {
    let unreadable = |why: Box<dyn std::error::Error + Send + Sync>| {
        Ended::new(Code::Usage, format!("--log {directives:?} cannot be read")).because(why).hint(
            "use error, warn, info, debug or trace, or directives such as info,aiwg_rs::dispatcher=debug",
        )
    };
    if let Some(word) = directives.split(',').find(|directive| is_slip(directive)) {
        return Err(unreadable(format!("{word:?} is no level").into()).into());
    }
    let filter = EnvFilter::try_new(directives).map_err(|error| unreadable(error.into()))?;
    let terminal = std::io::stderr().is_terminal();
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    // A descriptor of its own: the lock of the shared one would be held while a pipe is full.
    let lines = Lines::to(File::from(std::io::stderr().as_fd().try_clone_to_owned().map_err(failed)?))?;
    let writer = lines.clone();
    // Complaining about a log that cannot be written, as on a full disk, would end the thread that complains.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || writer.clone())
        .log_internal_errors(false);
    let installed = if json {
        builder.json().flatten_event(true).with_current_span(false).try_init()
    } else {
        builder
            .with_ansi(terminal && std::env::var_os("NO_COLOR").is_none())
            .with_target(false)
            .compact()
            .try_init()
    };
    installed.map_err(failed)?;
    Ok(Flush(lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_who_takes_nothing_holds_up_neither_the_work_nor_the_end_and_one_who_does_gets_every_line() {
        struct Stuck;
        impl Write for Stuck {
            fn write(&mut self, _line: &[u8]) -> std::io::Result<usize> {
                loop {
                    std::thread::park();
                }
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut stuck = Lines::to(Stuck).unwrap();
        for _ in 0..WAITING_LINES * 2 {
            stuck.write_all(b"line\n").unwrap();
        }
        drop(Flush(stuck));

        let file = tempfile::NamedTempFile::new().unwrap();
        let mut lines = Lines::to(file.reopen().unwrap()).unwrap();
        for number in 0..1000 {
            writeln!(lines.by_ref(), "{number}").unwrap();
        }
        drop(Flush(lines));
        assert!(std::fs::read_to_string(file.path()).unwrap().ends_with("\n999\n"));
    }

    #[test]
    fn a_level_that_is_spelt_wrong_is_no_module() {
        for slip in ["dbug", "banana", " wran "] {
            assert!(is_slip(slip), "{slip}");
        }
        for directive in ["debug", "OFF", "3", "aiwg_rs", "aiwg_rs::bridge=trace", "[span]=info", ""] {
            assert!(!is_slip(directive), "{directive}");
        }
    }
}
