//! Service: the executor's end of the line to a runner.

use crate::executor::claim;
use crate::executor::process_identity::ProcessIdentity;
use crate::executor::runner_protocol::{Ended, FromRunner, RUNNER_WORD, RunFiles, ToRunner};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// How long a runner may take to read an order.
const PATIENCE: Duration = Duration::from_secs(10);

/// The line to one runner.
#[derive(Debug)]
pub struct RunnerLink {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    line: Vec<u8>,
}

impl RunnerLink {
    fn of(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { reader: BufReader::new(reader), writer, line: Vec::new() }
    }

    /// Starts a runner in a group of its own, that says in `claims` what it has begun, and in a file what troubles it. It does nothing before it is told
    /// what to [run](ToRunner::Run), and ends when this line is closed; while it runs something it outlives this process.
    ///
    /// # Errors
    /// The runner cannot be started.
    pub fn start(program: &Path, claims: &Path, complaints: &Path) -> io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        let complaints = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(complaints)?;
        let child = tokio::process::Command::new(program)
            .arg(RUNNER_WORD)
            .arg(claims)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(complaints)
            .process_group(0)
            .kill_on_drop(false)
            .spawn()?;
        // The runtime reaps a dropped child when it ends.
        drop(child);
        ours.set_nonblocking(true)?;
        Ok(Self::of(UnixStream::from_std(ours)?))
    }

    /// Finds the runner of an earlier process again.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn reconnect(claims: &Path, runner: &ProcessIdentity) -> io::Result<Self> {
        Ok(Self::of(claim::connect(claims, runner).await?))
    }

    /// Returns the next message; nothing when the runner is gone.
    ///
    /// # Cancel safety
    /// Safe: half a line is kept.
    pub async fn next(&mut self) -> Option<FromRunner> {
        loop {
            match self.reader.read_until(b'\n', &mut self.line).await {
                Ok(_) if self.line.ends_with(b"\n") => {
                    let message = serde_json::from_slice(&self.line);
                    self.line.clear();
                    match message {
                        Ok(message) => return Some(message),
                        Err(error) => tracing::warn!(%error, "a message of a runner cannot be read"),
                    }
                }
                Ok(_) | Err(_) => return None,
            }
        }
    }

    /// Tells it something.
    ///
    /// # Errors
    /// The runner is gone or does not listen.
    pub async fn send(&mut self, message: &ToRunner) -> io::Result<()> {
        let mut text = serde_json::to_vec(message)?;
        text.push(b'\n');
        match tokio::time::timeout(PATIENCE, self.writer.write_all(&text)).await {
            Ok(written) => written,
            Err(_elapsed) => Err(io::Error::new(io::ErrorKind::TimedOut, "the runner does not read")),
        }
    }
}

/// Returns how a run ended, if its runner had to write that down.
pub fn exit_of(files: &RunFiles) -> Option<Ended> {
    serde_json::from_slice(&fs::read(files.exit()).ok()?).ok()
}
