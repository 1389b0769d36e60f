//! Pure: what the executor and a runner say to each other, one JSON object a line over a local socket, and the files
//! between them.

use crate::domain::time::Timestamp;
use crate::executor::digest::Digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The first argument of a runner: such a process goes past the command line of everything else.
pub const RUNNER_WORD: &str = "executor-runner";
/// Every process of a mission carries its run in this variable, so that those that ran away are found.
pub const RUN_VARIABLE: &str = "AIWG_RUN_ID";

/// Where the files of one run lie, if it needs any: beside the log of its mission, all under one name. Whoever runs it holds
/// a lock on the directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFiles {
    /// The mission's own.
    pub directory: PathBuf,
    /// The name without an extension.
    pub name: String,
}

impl RunFiles {
    /// Returns where it stands how the run ended, unless an executor heard that and wrote it down.
    pub fn exit(&self) -> PathBuf {
        self.directory.join(format!("{}.exit", self.name))
    }
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunOrder {
    /// Where its files lie, and the log of its mission.
    pub files: RunFiles,
    /// Marks the processes.
    pub run_id: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Where.
    pub directory: PathBuf,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// In a terminal of its own; else on pipes.
    pub terminal: bool,
    /// JSON lines report progress.
    pub json_progress: bool,
    /// Most bytes that its log may hold.
    pub log_limit_bytes: u64,
    /// How long leftover processes may take to end after TERM, in milliseconds.
    pub grace_ms: u64,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "how")]
pub enum Exit {
    /// By itself.
    Code {
        /// Its status.
        code: i32,
    },
    /// By a signal.
    Signal {
        /// Its number.
        signal: i32,
    },
    /// It never started.
    NotStarted {
        /// Why.
        error: String,
    },
    /// Nobody knows: its runner is gone without a word.
    Unknown,
}

/// The last word of a runner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// Which run.
    pub run_id: String,
    /// How.
    pub exit: Exit,
    /// When.
    pub at: Timestamp,
    /// What it said.
    pub digest: Digest,
    /// It was told to stop.
    pub stopped: bool,
}

/// From the runner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum FromRunner {
    /// The process runs.
    Started {
        /// Its number.
        pid: u32,
    },
    /// There was output.
    Output {
        /// In a few words.
        digest: Digest,
    },
    /// The whole tree is stopped.
    Paused,
    /// The whole tree goes on.
    Resumed,
    /// The whole tree is gone.
    Ended {
        /// How.
        ended: Ended,
    },
}

/// To the runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum ToRunner {
    /// Run this. It says [`ToRunner::Noted`] too.
    Run(Box<RunOrder>),
    /// The end of the last run stands where a restart finds it: the runner may forget it.
    Noted,
    /// Type this.
    Input {
        /// With its line break.
        text: String,
    },
    /// Stop the whole tree for now.
    Pause,
    /// Let it go on.
    Resume,
    /// End the whole tree: TERM, then after the grace KILL.
    Stop {
        /// In milliseconds.
        grace_ms: u64,
    },
}
