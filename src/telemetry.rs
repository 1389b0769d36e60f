//! Command: logs: for people on a terminal, JSON lines elsewhere, always to standard error.

use crate::cli::LogFormat;
use crate::cli::exit::{Code, Ended};
use std::io::IsTerminal as _;
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

/// Installs the subscriber for the whole process.
///
/// # Errors
/// The directives cannot be read, or a subscriber is installed already.
pub fn install(directives: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(directives).map_err(|error| {
        Ended::new(Code::Usage, format!("--log {directives:?} cannot be read")).because(error).hint(
            "use error, warn, info, debug or trace, or directives such as info,aiwg_rs::dispatcher=debug",
        )
    })?;
    let terminal = std::io::stderr().is_terminal();
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    // Complaining about a log that cannot be written, as on a full disk, would end the thread that complains.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
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
    installed.map_err(failed)
}
