//! Command: exit codes, and how an error is shown.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | failed |
//! | 2 | the command line is wrong |
//! | 3 | the settings are wrong |
//! | 4 | state was refused: on disk, or of a mission; or it is locked by another process |
//! | 5 | a peer is unreachable |
//! | 124 | what was waited for did not come in time, as with `timeout(1)` |
//! | 130 | a second signal |

use std::fmt::Write as _;
use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Done.
    Done,
    /// Failed.
    Failed,
    /// The command line is wrong.
    Usage,
    /// The settings are wrong.
    Settings,
    /// State on disk was refused, or another process holds it.
    State,
    /// A peer is unreachable.
    Unreachable,
    /// What was waited for did not come in time.
    TimedOut,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(match code {
            Code::Done => 0,
            Code::Failed => 1,
            Code::Usage => 2,
            Code::Settings => 3,
            Code::State => 4,
            Code::Unreachable => 5,
            Code::TimedOut => 124,
        })
    }
}

/// An error with an exit code other than [`Code::Failed`] and, usually, a hint. Put it at the head of a chain.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Ended {
    /// What failed, a fragment in lower case.
    pub message: String,
    /// The process ends with this.
    pub code: Code,
    /// What to do about it.
    pub hint: Option<String>,
    /// Why.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Ended {
    /// Makes an error that ends the process with `code`.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { message: message.into(), code, hint: None, source: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds why.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

/// Prints `error`, its causes and its hint to standard error and returns the exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    let mut text = format!("error: {error}\n");
    for cause in error.chain().skip(1) {
        writeln!(text, "caused by: {cause}").ok();
    }
    let ended = error.chain().find_map(|cause| cause.downcast_ref::<Ended>());
    if let Some(hint) = ended.and_then(|e| e.hint.as_deref()) {
        writeln!(text, "hint: {hint}").ok();
    }
    crate::cli::output::complain(&text);
    ended.map_or(Code::Failed, |e| e.code).into()
}
