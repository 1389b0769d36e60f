//! Command: logs: for people on a terminal, JSON lines elsewhere, always to standard error.
//!
//! Lines are written by a thread of their own: a pipe that nobody reads must not hold up the work. Beyond
//! [`WAITING_LINES`] they are dropped.

use crate::cli::LogFormat;
use crate::cli::exit::{Code, Ended};
use std::io::IsTerminal as _;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
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

/// Writes what is still waiting when it is dropped; a second at most.
#[derive(Debug)]
#[must_use = "the last lines are written when it is dropped"]
pub struct Flush {
    _worker: WorkerGuard,
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
    let (writer, worker) =
        NonBlockingBuilder::default().buffered_lines_limit(WAITING_LINES).finish(std::io::stderr());
    // Complaining about a log that cannot be written, as on a full disk, would end the thread that complains.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).log_internal_errors(false);
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
    Ok(Flush { _worker: worker })
}

#[cfg(test)]
mod tests {
    use super::is_slip;

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
