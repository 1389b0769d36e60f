//! Command: `aiwg-rs demo`: the whole path in one process, with real files, sockets and shells.
//!
//! Nothing here is staged: the missions lie in a folder, the bridge finds them there, and what is shown is read from that
//! folder. The demonstration fails when anything in it goes otherwise than its script says.

pub mod executor;
pub mod script;
pub mod timeline;

use crate::cli::exit::{Code, Ended};
use crate::cli::output;
use crate::cli::parts::{Whole, start_bridge, start_registry};
use crate::disk::atomic;
use crate::disk::fsync::FsyncPolicy;
use crate::domain::id::SessionId;
use crate::registry;
use crate::runtime::clock;
use crate::runtime::shutdown::{self, Cause, Shutdown};
use crate::runtime::tasks::Tasks;
use crate::session::document::Document;
use crate::session::edits::{Edits, MissionPatch};
use crate::session::store::SessionStore;
use anyhow::Context as _;
use clap::Args;
use script::{ANSWER, DROPPED, SESSION};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use timeline::{Timeline, line};
use tokio::net::TcpListener;
use tokio::time::Instant;

/// The script takes about three seconds; beyond this something is wrong.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often the folder is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(40);

/// How long the human of the script thinks.
const THINKING: Duration = Duration::from_millis(800);

/// How long everything may take to end.
const ENDING: Duration = Duration::from_secs(10);

/// See it work: a folder, a registry, a bridge and an executor in one process, and three missions.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// Keep the folder, and say where it is
    #[arg(long)]
    keep: bool,
}

/// Runs the demonstration.
///
/// # Errors
/// Anything went otherwise than the script says.
pub async fn run(arguments: Arguments) -> anyhow::Result<Code> {
    let shutdown = Shutdown::new();
    shutdown::listen(&shutdown)?;
    let mut directory = tempfile::Builder::new()
        .prefix("aiwg-rs-demo-")
        .tempdir()
        .context("failed to make a temporary folder")?;
    directory.disable_cleanup(arguments.keep);
    let tasks = Tasks::new(shutdown.clone());
    let played = play(directory.path(), &tasks, &shutdown).await;
    shutdown.start(Cause::Finished);
    let ended = tasks.join(ENDING).await;
    let session = played.and_then(|file| conclude(&file));
    if arguments.keep {
        let path = directory.path().display();
        output::line(&format!("The folder stays: {path}\nTry: aiwg-rs mc status --watch-dir {path}"))?;
    }
    session?;
    anyhow::ensure!(ended, "{} tasks did not end within {} s", tasks.len(), ENDING.as_secs());
    Ok(Code::Done)
}

/// Starts everything, puts the missions into the folder, and shows what becomes of them. Returns their file.
async fn play(directory: &Path, tasks: &Tasks, shutdown: &Shutdown) -> anyhow::Result<PathBuf> {
    let store = Arc::new(SessionStore::new(directory, FsyncPolicy::Batch));
    let session = SessionId::new(SESSION)?;
    let file = store.session_file(&session);
    let inbox = store.shared_inbox_dir();
    for folder in [store.session_dir(&session), inbox.clone()] {
        std::fs::create_dir_all(folder).context("failed to make the folders")?;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.context("failed to listen on 127.0.0.1")?;
    let whole = Whole::new(shutdown.clone());
    let registry = start_registry(listener, registry::Config::default(), tasks, shutdown, &whole)?;
    let executor = executor::start(&registry, directory, tasks, shutdown).await?;
    start_bridge(directory, &registry, tasks, shutdown, &whole);
    output::styled(&format!(
        "folder    {}\nregistry  {registry}\nexecutor  {executor}\n\n",
        directory.display()
    ))?;
    write(&file, &script::session(clock::wall()))?;
    let start = Instant::now();
    let mut timeline = Timeline::default();
    let (mut is_dropped, mut answer_at, mut is_answered) = (false, None, false);
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.started() => {
                return Err(whole.broken().unwrap_or_else(|| interrupted(shutdown).into()));
            }
        }
        // Other programs may be in the middle of writing it: what cannot be read now can be read at the next look.
        let Ok(document) = Document::parse(tokio::fs::read(&file).await.unwrap_or_default()) else {
            continue;
        };
        let at = start.elapsed();
        output::styled(&timeline.lines(&document, at))?;
        let status = |id: &str| document.mission(id).and_then(|mission| mission.string("status"));
        if !is_dropped && status(script::QUEUED[0].id).is_some_and(|status| status != "queued") {
            is_dropped = true;
            let name = format!("{}.json", DROPPED.id);
            output::styled(&line(at, DROPPED.id, "", &format!("you drop inbox/{name}")))?;
            write(&inbox.join(name), &script::dropped())?;
        }
        if status(DROPPED.id).is_some_and(|status| status == "hitl_required") {
            let due = *answer_at.get_or_insert(start.elapsed() + THINKING);
            if !is_answered && start.elapsed() >= due {
                is_answered = true;
                let said = format!("you write hitlResponse {ANSWER:?} into session.json");
                output::styled(&line(at, DROPPED.id, "", &said))?;
                answer(Arc::clone(&store), session.clone()).await?;
            }
        }
        if script::parts()
            .all(|part| status(part.id).is_some_and(|s| ["done", "failed", "aborted"].contains(&&*s)))
        {
            return Ok(file);
        }
        if start.elapsed() > PATIENCE {
            let missing =
                script::parts().filter(|part| status(part.id).as_deref() != Some(part.outcome.as_file()));
            let missing: Vec<&str> = missing.map(|part| part.id).collect();
            anyhow::bail!("not all missions ended within {} s: {}", PATIENCE.as_secs(), missing.join(", "));
        }
    }
}

fn interrupted(shutdown: &Shutdown) -> Ended {
    let why = match shutdown.cause() {
        Some(Cause::Signal) | None => "the demonstration was interrupted".to_owned(),
        Some(Cause::Finished) => "the demonstration ended early".to_owned(),
        Some(Cause::Panic(part) | Cause::Fatal(part)) => format!("the {part} broke down"),
    };
    Ended::new(Code::Failed, why).hint("run it again with --log info to see more")
}

fn write(path: &Path, value: &serde_json::Value) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    atomic::write(path, &text, FsyncPolicy::Batch)
        .with_context(|| format!("failed to write {}", path.display()))
}

/// Answers the question as `mc respond` does: in the file.
async fn answer(store: Arc<SessionStore>, session: SessionId) -> anyhow::Result<()> {
    let updated = tokio::task::spawn_blocking(move || {
        store.update(&session, &mut |document| {
            let mut edits = Edits::new();
            edits.patch_mission(DROPPED.id, MissionPatch::new().with_str("hitlResponse", ANSWER));
            document.apply(&edits)
        })
    });
    drop(updated.await?.context("failed to answer the question")?);
    Ok(())
}

/// Shows the file as it is in the end and compares it with the script.
fn conclude(file: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))?;
    output::styled(&format!("\nsessions/{SESSION}/session.json, as the bridge has left it:\n\n"))?;
    output::raw(text.as_bytes())?;
    let document = Document::parse(text.into_bytes())?;
    output::styled(&format!("\n{}", timeline::summary(&document)))?;
    for part in script::parts() {
        let status =
            document.mission(part.id).and_then(|mission| mission.string("status")).unwrap_or_default();
        let wanted = part.outcome.as_file();
        anyhow::ensure!(status == wanted, "{} was to end {wanted}, and is {status}", part.id);
    }
    output::styled("\nThree missions, each run once: two done, one failed, as they were meant to.\n")?;
    Ok(())
}
