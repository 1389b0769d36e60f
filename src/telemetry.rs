//! Command: logs: for people on a terminal, JSON lines elsewhere, always to standard error.

use crate::cli::LogFormat;
use crate::cli::exit::{Code, Ended};
use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

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
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let installed = if json {
        builder.json().flatten_event(true).with_current_span(false).try_init()
    } else {
        builder
            .with_ansi(terminal && std::env::var_os("NO_COLOR").is_none())
            .with_target(false)
            .compact()
            .try_init()
    };
    installed.map_err(|error| anyhow::anyhow!("failed to install the log subscriber: {error}"))
}
