//! Command: `mc respond`.

use super::folder::Folder;
use super::target::{self, Change};
use crate::cli::exit::{Code, Ended};
use crate::domain::lifecycle::MissionState;
use crate::session::edits::MissionPatch;
use crate::session::waiting::one_line;
use anyhow::Context as _;
use clap::Args;
use std::io::Read as _;

/// Longest answer that is taken, in bytes: far more than a human types, far less than a registry accepts.
const MAX_ANSWER_BYTES: u64 = 256 * 1024;

/// Answer the question that a mission asks.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The mission, as ID or SESSION/ID
    mission: String,
    /// The answer; - reads it from standard input
    text: String,
    /// Replace an answer that is there already
    #[arg(long)]
    replace: bool,
    /// Which folder.
    #[command(flatten)]
    folder: Folder,
}

/// Carries out the verb.
///
/// # Errors
/// The mission asks nothing, or was answered.
pub fn run(arguments: &Arguments) -> anyhow::Result<Code> {
    let answer = if arguments.text == "-" {
        let mut text = String::new();
        let mut input = std::io::stdin().lock().take(MAX_ANSWER_BYTES + 1);
        input.read_to_string(&mut text).context("failed to read standard input")?;
        text.trim_end_matches(['\n', '\r']).to_owned()
    } else {
        arguments.text.clone()
    };
    if u64::try_from(answer.len()).unwrap_or(u64::MAX) > MAX_ANSWER_BYTES {
        let message = format!("the answer is longer than {MAX_ANSWER_BYTES} bytes");
        return Err(Ended::new(Code::Usage, message).hint("put it in a file and name the file").into());
    }
    target::change(&arguments.folder, &arguments.mission, |seen| {
        if seen.state != MissionState::HitlRequired {
            return Err(seen.unfit("only a mission that asks a question can be answered"));
        }
        let earlier = seen.mission.string("hitlResponse").filter(|earlier| *earlier != answer);
        if let Some(earlier) = earlier.filter(|_| !arguments.replace) {
            let message = format!("the question was answered already: {:?}", one_line(&earlier));
            return Err(Ended::new(Code::State, message).hint("answer it anew with --replace"));
        }
        Ok(Change {
            patch: MissionPatch::new().with_str("hitlResponse", &answer),
            status: seen.state,
            said: "is answered; the bridge hands the answer over".to_owned(),
        })
    })
}
