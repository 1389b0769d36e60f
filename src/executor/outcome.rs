//! Pure: how a mission ends: what the end of each of its processes means.

use crate::domain::event::{Artifact, MissionEvent};
use crate::executor::run::{Plan, Run, RunKind};
use crate::executor::runner_protocol::Exit;
use serde::{Deserialize, Serialize};

/// Why a run was told to stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "why")]
pub enum Stop {
    /// Somebody ordered it.
    Abort {
        /// `operator` or `system`.
        by: String,
        /// Their reason.
        reason: Option<String>,
    },
    /// It failed with this reason.
    Fail {
        /// One word.
        reason: String,
        /// The sentence.
        error: String,
    },
}

impl Stop {
    /// Returns how a mission ends that was stopped for this.
    pub fn outcome(self, tokens: Option<u64>) -> Outcome {
        match self {
            Self::Abort { by, reason } => Outcome::Aborted { by, reason },
            Self::Fail { reason, error } => {
                Outcome::Failed { reason, error: Some(error), exit_code: None, tokens }
            }
        }
    }
}

/// How the mission ended, before its resources are back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    /// Well.
    Completed {
        /// Of the agent.
        exit_code: Option<i64>,
        /// Tokens in all.
        tokens: Option<u64>,
        /// Its last words.
        summary: Option<String>,
    },
    /// Badly.
    Failed {
        /// One word.
        reason: String,
        /// The sentence.
        error: Option<String>,
        /// Of the agent.
        exit_code: Option<i64>,
        /// Tokens in all.
        tokens: Option<u64>,
    },
    /// By order.
    Aborted {
        /// Who.
        by: String,
        /// Why.
        reason: Option<String>,
    },
}

impl Outcome {
    /// Returns the event that tells it, with what became of the resources.
    pub fn told(
        self,
        branch: Option<String>,
        artifacts: Vec<String>,
        remark: Option<String>,
    ) -> MissionEvent {
        let kept = branch.map(|branch| format!("its work is on branch {branch}"));
        let more: Vec<String> = kept.into_iter().chain(remark).collect();
        let with = |text: Option<String>| {
            let all: Vec<String> = text.into_iter().chain(more.clone()).collect();
            (!all.is_empty()).then(|| all.join("; "))
        };
        match self {
            Self::Completed { exit_code, tokens, summary } => MissionEvent::Completed {
                exit_code,
                tokens_total: tokens,
                summary: with(summary),
                artifacts: artifacts.into_iter().map(|path| Artifact { path, description: None }).collect(),
            },
            Self::Failed { reason, error, exit_code, tokens } => MissionEvent::Failed {
                reason: Some(reason),
                error: with(error),
                exit_code,
                tokens_total: tokens,
            },
            Self::Aborted { by, reason } => {
                MissionEvent::Aborted { aborted_by: Some(by), reason: with(reason) }
            }
        }
    }
}

/// What follows from the end of a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Another run.
    Next(Run),
    /// The end of the mission.
    End(Outcome),
}

/// Says what follows from a run that ended by itself, saying `last`.
pub fn of(run: &Run, exit: Exit, plan: &Plan, last: String, tokens: Option<u64>) -> Verdict {
    let failed = |reason: &str, error: String, exit_code: Option<i32>| {
        let exit_code = exit_code.map(i64::from);
        Verdict::End(Outcome::Failed { reason: reason.to_owned(), error: Some(error), exit_code, tokens })
    };
    let ended = |who: &str, code: i32| {
        let said = if last.is_empty() { String::new() } else { format!(": {last}") };
        format!("{who} ended with status {code}{said}")
    };
    let next = |kind| Verdict::Next(Run { kind, ..run.clone() });
    match (run.kind, exit) {
        (_, Exit::NotStarted { error }) => failed("spawn_failed", error, None),
        (_, Exit::Unknown) => {
            failed("runner_lost", "its runner is gone, how it ended is not known".into(), None)
        }
        (RunKind::Setup, Exit::Code { code: 0 }) => next(RunKind::Agent),
        (RunKind::Setup, Exit::Code { code }) => {
            failed("setup_failed", ended("the set-up command", code), Some(code))
        }
        (RunKind::Agent, Exit::Code { code: 0 }) if plan.has_check => next(RunKind::Check),
        (RunKind::Agent | RunKind::Check, Exit::Code { code: 0 }) => Verdict::End(Outcome::Completed {
            exit_code: Some(0),
            tokens,
            summary: (!last.is_empty()).then_some(last),
        }),
        (RunKind::Agent, Exit::Code { code }) => failed("exit_nonzero", ended("it", code), Some(code)),
        (RunKind::Check, Exit::Code { code }) if run.iteration < plan.limits.iterations => {
            let unmet = Some(ended("the check", code));
            Verdict::Next(Run { kind: RunKind::Agent, iteration: run.iteration + 1, unmet })
        }
        (RunKind::Check, Exit::Code { code }) => {
            failed("completion_not_met", ended("the check", code), Some(code))
        }
        (_, Exit::Signal { signal }) => failed("signal", format!("it was ended by signal {signal}"), None),
    }
}
