//! Command: the command line: a file per subcommand, and the exit codes.

pub mod demo;
pub mod duration;
pub mod executor;
pub mod exit;
pub mod mc;
pub mod output;
pub mod parts;
pub mod project;
pub mod provision;
pub mod registry_url;
pub mod runner;
pub mod serve;
pub mod up;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory as _, Parser, Subcommand};

/// Run missions that lie in a folder: each once, and bring the results back.
#[derive(Debug, Parser)]
#[command(name = "aiwg-rs", version, propagate_version = true, max_term_width = 110)]
pub struct Arguments {
    /// Where and how much to log.
    #[command(flatten)]
    pub logging: Logging,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Arguments {
    /// Reads the command line of this process, or ends it with what is wrong. Of a verb of `mc` without `mc` before it, it says so.
    pub fn read() -> Self {
        Self::try_parse().unwrap_or_else(|error| suggesting_mc(error).exit())
    }

    /// Returns what to log: as asked, else what suits the command. A demonstration and the verbs of Mission Control
    /// answer on the same terminal.
    pub fn log_directives(&self) -> &str {
        let is_verb = matches!(&self.command, Command::Mc(verb) if !matches!(verb, mc::Mc::Bridge(_)));
        let is_quiet = is_verb || matches!(self.command, Command::Demo(_));
        let default = if is_quiet { "warn" } else { "info" };
        self.logging.log.as_deref().unwrap_or(default)
    }
}

fn suggesting_mc(mut error: clap::Error) -> clap::Error {
    let command = Arguments::command();
    let is_verb =
        |word: &str| command.find_subcommand("mc").is_some_and(|mc| mc.find_subcommand(word).is_some());
    if error.kind() == ErrorKind::InvalidSubcommand
        && let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand).cloned()
        && is_verb(&word)
        && error.get(ContextKind::SuggestedSubcommand).is_none()
    {
        error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(vec![format!("mc {word}")]));
    }
    error
}

/// Logging, for every subcommand.
#[derive(Debug, Clone, Args)]
pub struct Logging {
    /// Log at this level or by these directives, such as `debug` or `info,aiwg_rs::dispatcher=trace`; default: `info`,
    /// and `warn` for `demo` and the verbs of `mc` that answer and end
    #[arg(long, global = true, env = "AIWG_RS_LOG", value_name = "LEVEL", help_heading = "Logging")]
    pub log: Option<String>,
    /// Write log lines for people, or as JSON; `auto` means people on a terminal, JSON elsewhere
    #[arg(long, global = true, env = "AIWG_RS_LOG_FORMAT", default_value = "auto", help_heading = "Logging")]
    pub log_format: LogFormat,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Human on a terminal, JSON elsewhere.
    Auto,
    /// One line for people.
    Human,
    /// One JSON object a line.
    Json,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// See it work: a folder, a registry, a bridge and an executor in one process, and three missions
    Demo(demo::Arguments),
    /// Mission Control: queue missions in a folder and have them run
    #[command(subcommand)]
    Mc(mc::Mc),
    /// Run registry, bridge and executor in one process, for this repository
    Up(up::Arguments),
    /// Run missions on this host
    Executor(Box<executor::ExecutorArguments>),
    /// The same under the name of the Node program
    #[command(hide = true, subcommand)]
    LocalExecutor(executor::LocalExecutor),
    /// Lease worktrees and ports for a script or another tool
    Provision(provision::ProvisionArguments),
    /// Run the registry: executors register, missions are routed, events fan out
    Serve(Box<serve::Arguments>),
    /// Print a completion script for a shell
    Completions {
        /// The shell to complete in
        shell: clap_complete::Shell,
    },
}

/// Carries out the command.
///
/// # Errors
/// Whatever stopped it, ready for [`exit::report`].
pub async fn run(arguments: Arguments) -> anyhow::Result<exit::Code> {
    match arguments.command {
        Command::Demo(arguments) => demo::run(arguments).await,
        Command::Mc(verb) => mc::run(verb).await,
        Command::Up(arguments) => Box::pin(up::run(arguments)).await,
        Command::Executor(arguments) | Command::LocalExecutor(executor::LocalExecutor::Serve(arguments)) => {
            executor::run(*arguments).await
        }
        Command::Provision(arguments) => provision::run(arguments).await,
        Command::Serve(arguments) => serve::run(*arguments).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "aiwg-rs", &mut script);
            output::raw(&script)?;
            Ok(exit::Code::Done)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_accepts_the_command_line() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_verb_without_its_command_is_told_which_one() {
        let error = |words: &[&str]| suggesting_mc(Arguments::try_parse_from(words).unwrap_err()).to_string();
        assert!(error(&["aiwg-rs", "dispatch", "x"]).contains("'mc dispatch'"));
        assert!(!error(&["aiwg-rs", "nothing"]).contains("mc"));
    }
}
