//! Command: `mc start`.

use super::folder::Folder;
use crate::cli::exit::{Code, Ended};
use crate::cli::output;
use crate::domain::id::SessionId;
use crate::domain::time::Timestamp;
use crate::runtime::clock;
use crate::session::store::SessionStore;
use clap::Args;
use std::fmt::Write as _;

/// How many missions of a session may be unfinished at a time unless `--max-missions` says otherwise: as many as one
/// session is built to carry.
pub const DEFAULT_MAX_MISSIONS: u64 = 10_000;

/// How often another id is drawn when one is taken: 65,536 ids a day, so a second draw is rare and a tenth is a fault.
const DRAWS: usize = 10;

/// Begin a session, a queue for missions, and print its id.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A name for people; without it the id
    name: Option<String>,
    /// The session's id, which names its directory; without it one like mc-20260131-1f3a
    #[arg(long)]
    id: Option<SessionId>,
    /// Refuse more unfinished missions than this; 0 is no limit
    #[arg(long, default_value_t = DEFAULT_MAX_MISSIONS, value_name = "N")]
    max_missions: u64,
    /// Which folder.
    #[command(flatten)]
    folder: Folder,
}

/// What is printed with `--json`.
#[derive(serde::Serialize)]
struct Started<'a> {
    session: &'a str,
    path: std::path::PathBuf,
}

/// Carries out the verb.
///
/// # Errors
/// The id is taken, or the folder cannot be written.
pub fn run(arguments: &Arguments) -> anyhow::Result<Code> {
    let store = arguments.folder.store();
    let now = clock::wall();
    let named = |id: &SessionId| arguments.name.clone().unwrap_or_else(|| id.to_string());
    let session = match &arguments.id {
        Some(id) => {
            if !create(&store, id, &named(id), arguments.max_missions, now)? {
                let ended = Ended::new(Code::State, format!("session {id} exists already"));
                return Err(ended.hint("choose another --id, or dispatch to it as it is").into());
            }
            id.clone()
        }
        None => fresh(&store, &named, arguments.max_missions, now)?,
    };
    if arguments.folder.json {
        output::json(&Started { session: session.as_str(), path: store.session_file(&session) })?;
    } else {
        output::line(session.as_str())?;
    }
    Ok(Code::Done)
}

fn fresh(
    store: &SessionStore,
    named: &dyn Fn(&SessionId) -> String,
    max_missions: u64,
    now: Timestamp,
) -> anyhow::Result<SessionId> {
    let day: String = now.to_string().chars().take(10).filter(char::is_ascii_digit).collect();
    for _draw in 0..DRAWS {
        let id = SessionId::new(format!("mc-{day}-{}", random_hex::<2>()?))?;
        if create(store, &id, &named(&id), max_missions, now)? {
            return Ok(id);
        }
    }
    Err(Ended::new(Code::State, "no session id is free").hint("name one with --id").into())
}

/// Makes a session; says whether there was none.
///
/// # Errors
/// The folder cannot be written.
pub fn create(
    store: &SessionStore,
    id: &SessionId,
    name: &str,
    max_missions: u64,
    now: Timestamp,
) -> anyhow::Result<bool> {
    store.create_session(id, name, max_missions, now).map_err(|error| {
        let hint = error.hint();
        let ended = Ended::new(Code::State, format!("failed to make session {id}")).because(error);
        match hint {
            Some(hint) => ended.hint(hint).into(),
            None => ended.into(),
        }
    })
}

/// Draws random bytes and spells them in hexadecimal digits.
///
/// # Errors
/// The operating system has no randomness to give.
pub fn random_hex<const BYTES: usize>() -> anyhow::Result<String> {
    let mut bytes = [0_u8; BYTES];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("failed to draw a random id: {error}"))?;
    Ok(bytes.iter().fold(String::new(), |mut digits, byte| {
        write!(digits, "{byte:02x}").ok();
        digits
    }))
}
