//! Pure: the processes of a mission: what each is for, and what they may use in all.

use crate::executor::questions::Patterns;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunKind {
    /// The project's own preparation.
    Setup,
    /// The agent.
    Agent,
    /// The completion criterion.
    Check,
}

/// One process of a mission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// What it is for.
    pub kind: RunKind,
    /// Which round of the agent, from 1.
    pub iteration: u32,
    /// What the last check found unmet.
    pub unmet: Option<String>,
}

impl Run {
    /// Returns its name among the runs of its mission.
    pub fn name(&self) -> String {
        let kind = match self.kind {
            RunKind::Setup => "setup",
            RunKind::Agent => "agent",
            RunKind::Check => "check",
        };
        format!("{kind}-{}", self.iteration)
    }
}

/// What a mission may use.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// In all, without pauses.
    pub timeout: Option<Duration>,
    /// Without meaningful output, without pauses and questions.
    pub stall: Option<Duration>,
    /// Rounds of the agent.
    pub iterations: u32,
    /// Tokens, where the agent reports them.
    pub tokens: Option<u64>,
    /// A budget of time: as `timeout`, but ends with reason `budget`.
    pub time_budget: Option<Duration>,
    /// How long a question waits for its answer.
    pub answer_within: Option<Duration>,
}

/// What kinds of runs there are, and how they are read.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// There is a set-up command.
    pub has_setup: bool,
    /// There is a completion criterion that can be run.
    pub has_check: bool,
    /// The agent has a terminal, whose last line may be a question.
    pub terminal: bool,
    /// What its questions look like.
    pub questions: Patterns,
    /// Which agent.
    pub runtime: String,
    /// What it may use.
    pub limits: Limits,
}

impl Plan {
    /// Returns the run that begins.
    pub fn first_run(&self) -> Run {
        let kind = if self.has_setup { RunKind::Setup } else { RunKind::Agent };
        Run { kind, iteration: 1, unmet: None }
    }
}
