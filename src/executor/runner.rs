//! Service: a runner: a small process of its own between the executor and an agent.
//!
//! The executor may be killed at any instant, and neither the terminal of an agent nor its exit status may go with it. So a
//! process that does nothing else holds the terminal, writes the log, reaps all descendants, and keeps the exit status until
//! the executor says that it is written down; where no executor is left to say so, it puts it on the disk itself. The
//! executor talks to it over the socket that is its standard input, and after a restart over a socket beside the log.
//!
//! A run ends only when no descendant of the runner is left, whatever happens to the agent. So there is nothing of it in
//! the way of the next one: a runner does one run after the other, as its start costs more than most of what it does.

use crate::disk::atomic;
use crate::disk::fsync::FsyncPolicy;
use crate::disk::lock::FileLock;
use crate::executor::claim::ClaimFile;
use crate::executor::digest::Reader;
use crate::executor::log_file::LogWriter;
use crate::executor::process_tree;
use crate::executor::runner_protocol::{Ended, Exit, FromRunner, RunFiles, RunOrder, ToRunner};
use crate::executor::spawn;
use crate::runtime::clock;
use rustix::process::Signal;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

/// How often at most the executor hears about output.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// How often the tree is looked at while it is being ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long output may still come after the last process is gone.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long an executor may take to read what it is told.
const LISTEN: Duration = Duration::from_secs(5);

/// How long until the socket for a restarted executor is tried again, as on a full disk.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// The runner cannot work.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// Another one runs this run.
    #[error("run this mission: {0}")]
    Twice(#[from] crate::disk::lock::LockError),
    /// A file, a socket or a process refused.
    #[error("{action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What is known cannot be written as JSON.
    #[error("write down who runs it, or how it ended: {0}")]
    Json(#[from] serde_json::Error),
}

fn doing(action: &'static str) -> impl FnOnce(io::Error) -> RunnerError {
    move |source| RunnerError::Io { action, source }
}

/// Runs what is ordered over standard input, one run after the other, until that is closed. `claims` is where runners say
/// what they have begun.
///
/// # Errors
/// [`RunnerError`]; nothing of the run that it names has been started then.
pub async fn run(claims: &Path) -> Result<(), RunnerError> {
    process_tree::become_reaper().map_err(doing("become the reaper of the missions' processes"))?;
    let mut signals = Signals::listen().map_err(doing("listen for signals"))?;
    let mut executor = Executor::of(standard_input().map_err(doing("use standard input"))?);
    let mut claim = ClaimFile::new(claims);
    let mut buffer = vec![0; 64 * 1024];
    let mut next = executor.next_order(&mut signals).await;
    while let Some(order) = next {
        let files = order.files.clone();
        let _only_one = FileLock::try_acquire_directory(&files.directory)?;
        if files.exit().exists() {
            break;
        }
        claim.claim(&files.name).map_err(doing("say who runs it"))?;
        let log = LogWriter::new(&files.directory, order.log_limit_bytes);
        let ended = Runner { executor: &mut executor, signals: &mut signals, listener: None, log, order }
            .run(&mut buffer)
            .await;
        next = executor.hand_over(&files, ended, &mut signals).await?;
    }
    claim.remove();
    Ok(())
}

fn standard_input() -> io::Result<UnixStream> {
    let stream = std::os::unix::net::UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// Binds through the directory's descriptor: paths of sockets may have only 107 bytes.
fn listen(files: &RunFiles) -> io::Result<UnixListener> {
    if let Err(error) = std::fs::remove_file(files.directory.join(files.socket_name()))
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    UnixListener::bind(short_path(&std::fs::File::open(&files.directory)?, files))
}

/// Returns a path of a run's socket that is short wherever its directory is.
pub fn short_path(directory: &std::fs::File, files: &RunFiles) -> PathBuf {
    use std::os::fd::AsRawFd as _;
    PathBuf::from(format!("/proc/self/fd/{}/{}", directory.as_raw_fd(), files.socket_name()))
}

/// Waits for a restarted executor.
async fn accept(listener: &mut Option<UnixListener>, files: &RunFiles) -> UnixStream {
    loop {
        let Some(bound) = listener else {
            match listen(files) {
                Ok(bound) => *listener = Some(bound),
                Err(error) => {
                    tracing::warn!(%error, "a restarted executor would not find this runner yet");
                    tokio::time::sleep(LISTEN_AGAIN).await;
                }
            }
            continue;
        };
        match bound.accept().await {
            Ok((stream, _)) => return stream,
            Err(_gone_again) => tokio::time::sleep(LISTEN_AGAIN).await,
        }
    }
}

/// What the system may tell a runner.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    child: tokio::signal::unix::Signal,
    /// Hang-up and interrupt end the executor, which decides about its missions; a runner they must not end.
    _ignored: [tokio::signal::unix::Signal; 2],
}

impl Signals {
    fn listen() -> io::Result<Self> {
        let ignored = [signal(SignalKind::hangup())?, signal(SignalKind::interrupt())?];
        let (terminate, child) = (signal(SignalKind::terminate())?, signal(SignalKind::child())?);
        Ok(Self { terminate, child, _ignored: ignored })
    }
}

/// The other end, as long as it listens.
struct Executor {
    reader: Option<BufReader<OwnedReadHalf>>,
    writer: Option<OwnedWriteHalf>,
    line: Vec<u8>,
}

impl Executor {
    fn of(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { reader: Some(BufReader::new(reader)), writer: Some(writer), line: Vec::new() }
    }

    fn is_gone(&self) -> bool {
        self.writer.is_none()
    }

    /// Closes both ends, so that an executor that still lives sees it and comes again.
    fn leave(&mut self) {
        (self.reader, self.writer) = (None, None);
        self.line.clear();
    }

    /// Tells something; says whether anybody took it.
    async fn tell(&mut self, message: &FromRunner) -> bool {
        let Some(writer) = &mut self.writer else { return false };
        let Ok(mut text) = serde_json::to_vec(message) else { return false };
        text.push(b'\n');
        let told = tokio::time::timeout(LISTEN, writer.write_all(&text)).await;
        let taken = matches!(told, Ok(Ok(())));
        if !taken {
            self.leave();
        }
        taken
    }

    /// Waits for the next message; nothing when nobody is left to send one. Cancel safe: a half line stays in `line`.
    async fn next(&mut self) -> Option<ToRunner> {
        loop {
            match self.reader.as_mut()?.read_until(b'\n', &mut self.line).await {
                Ok(read) if read > 0 && self.line.ends_with(b"\n") => {
                    let message = serde_json::from_slice(&self.line);
                    self.line.clear();
                    match message {
                        Ok(message) => return Some(message),
                        Err(error) => tracing::warn!(%error, "a message that cannot be read"),
                    }
                }
                Ok(_) | Err(_) => self.leave(),
            }
        }
    }

    /// Waits for something to run; nothing when there will be nothing.
    async fn next_order(&mut self, signals: &mut Signals) -> Option<RunOrder> {
        loop {
            tokio::select! {
                message = self.next() => match message? {
                    ToRunner::Run(order) => return Some(*order),
                    // Words for the last run that came too late.
                    ToRunner::Noted | ToRunner::Input { .. } | ToRunner::Pause | ToRunner::Resume | ToRunner::Stop { .. } => {}
                },
                _ = signals.terminate.recv() => return None,
            }
        }
    }

    /// Gives the end of a run to whoever keeps it, the executor or else the disk, and returns the next order.
    async fn hand_over(
        &mut self,
        files: &RunFiles,
        ended: Ended,
        signals: &mut Signals,
    ) -> Result<Option<RunOrder>, RunnerError> {
        let text = serde_json::to_vec(&ended)?;
        let mut is_heard = self.tell(&FromRunner::Ended { ended }).await;
        while is_heard {
            tokio::select! {
                message = self.next() => match message {
                    Some(ToRunner::Noted) => return Ok(self.next_order(signals).await),
                    Some(ToRunner::Run(order)) => return Ok(Some(*order)),
                    Some(ToRunner::Input { .. } | ToRunner::Pause | ToRunner::Resume | ToRunner::Stop { .. }) => {}
                    None => is_heard = false,
                },
                _ = signals.terminate.recv() => is_heard = false,
            }
        }
        let path = files.exit();
        let mut written = atomic::write(&path, &text, FsyncPolicy::Batch);
        // A disk that is full now may have room soon.
        for _ in 0..600 {
            match &written {
                Ok(()) => break,
                Err(error) => tracing::debug!(%error, "the exit status cannot be written yet"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            written = atomic::write(&path, &text, FsyncPolicy::Batch);
        }
        drop(std::fs::remove_file(files.directory.join(files.socket_name())));
        written.map_err(doing("write the exit status"))?;
        Ok(None)
    }
}

struct Runner<'a> {
    executor: &'a mut Executor,
    signals: &'a mut Signals,
    listener: Option<UnixListener>,
    log: LogWriter,
    order: RunOrder,
}

/// How the end of the tree goes.
enum Ending {
    No,
    /// Killed at this time.
    Asked(Instant),
    /// Being killed.
    Forced,
}

impl Runner<'_> {
    #[expect(clippy::too_many_lines, reason = "one loop over everything that can happen to a run")]
    async fn run(mut self, buffer: &mut [u8]) -> Ended {
        let mut started = match spawn::start(&self.order) {
            Ok(started) => started,
            Err(error) => {
                return self.ended(Exit::NotStarted { error: error.to_string() }, Reader::new(false), false);
            }
        };
        let mut reader = Reader::new(self.order.json_progress);
        let pid = started.pid;
        self.executor.tell(&FromRunner::Started { pid }).await;
        let (mut ending, mut status, mut stopped, mut paused) = (Ending::No, None, false, false);
        let (mut untold, mut tell_at) = (false, Instant::now());
        let mut look_at: Option<Instant> = None;
        let mut output_until: Option<Instant> = None;
        loop {
            if let Some(at) = look_at
                && at <= Instant::now()
            {
                look_at = Some(Instant::now() + LOOK_EVERY);
                let left = Self::sweep(&mut ending, pid);
                if status.is_some() && left == 0 {
                    look_at = None;
                    output_until = Some(Instant::now() + LAST_WORDS);
                }
            }
            if let Some(until) = output_until
                && (started.output.is_none() || until <= Instant::now())
            {
                break;
            }
            let tell = tell_at + TELL_EVERY;
            tokio::select! {
                read = read_some(&mut started.output, buffer) => match read {
                    Ok(count) if count > 0 => {
                        let bytes = buffer.get(..count).unwrap_or_default();
                        self.log.write(bytes);
                        reader.read(bytes);
                        untold = true;
                    }
                    // A terminal whose last user is gone answers EIO.
                    Ok(_) | Err(_) => started.output = None,
                },
                () = tokio::time::sleep_until(tell), if untold => {
                    untold = false;
                    tell_at = Instant::now();
                    let digest = reader.digest();
                    self.executor.tell(&FromRunner::Output { digest }).await;
                }
                _ = self.signals.child.recv(), if status.is_none() => {
                    status = spawn::exit_of(pid);
                    // What it left running has no one to work for.
                    if status.is_none() {
                        // Stopped, or somebody else's end.
                    } else if !process_tree::has_children() || Self::sweep(&mut ending, pid) == 0 {
                        output_until = Some(Instant::now() + LAST_WORDS);
                        look_at = None;
                    } else {
                        if matches!(ending, Ending::No) {
                            ending = Ending::Asked(Instant::now() + Duration::from_millis(self.order.grace_ms));
                            self.ask_to_end();
                        }
                        look_at = Some(Instant::now());
                    }
                }
                order = self.executor.next(), if !self.executor.is_gone() => match order {
                    None | Some(ToRunner::Noted) => {}
                    Some(ToRunner::Run(other)) => {
                        tracing::warn!(run.name = other.files.name, "a runner does one run at a time; this is not done");
                    }
                    Some(ToRunner::Input { text }) => {
                        if let Some(input) = &mut started.input {
                            let typed = tokio::time::timeout(LISTEN, input.write_all(text.as_bytes())).await;
                            if !matches!(typed, Ok(Ok(()))) {
                                tracing::warn!("the terminal does not take input");
                            }
                        }
                    }
                    Some(ToRunner::Pause) => {
                        paused = true;
                        Self::stop_all();
                        self.executor.tell(&FromRunner::Paused).await;
                    }
                    Some(ToRunner::Resume) => {
                        paused = false;
                        self.signal_all(Signal::CONT);
                        self.executor.tell(&FromRunner::Resumed).await;
                    }
                    Some(ToRunner::Stop { grace_ms }) => {
                        stopped = true;
                        if !matches!(ending, Ending::Forced) {
                            ending = Ending::Asked(Instant::now() + Duration::from_millis(grace_ms));
                        }
                        self.ask_to_end();
                        look_at = Some(Instant::now());
                    }
                },
                stream = accept(&mut self.listener, &self.order.files), if self.executor.is_gone() => {
                    *self.executor = Executor::of(stream);
                    self.executor.tell(&FromRunner::Started { pid }).await;
                    if paused {
                        self.executor.tell(&FromRunner::Paused).await;
                    }
                    untold = true;
                }
                _ = self.signals.terminate.recv() => {
                    stopped = true;
                    if matches!(ending, Ending::No) {
                        ending = Ending::Asked(Instant::now() + Duration::from_millis(self.order.grace_ms));
                    }
                    self.ask_to_end();
                    look_at = Some(Instant::now());
                }
                () = clock::sleep_until(look_at.or(output_until)), if look_at.or(output_until).is_some() => {}
            }
        }
        self.ended(status.unwrap_or(Exit::Unknown), reader, stopped)
    }

    /// Asks every process to end; stopped ones could not hear it.
    fn ask_to_end(&self) {
        self.signal_all(Signal::TERM);
        self.signal_all(Signal::CONT);
    }

    fn signal_all(&self, signal: Signal) {
        for member in process_tree::descendants(std::process::id()) {
            if !member.dead
                && let Err(error) = process_tree::signal(member.pid, signal)
            {
                tracing::warn!(process.pid = member.pid, %error, run.id = self.order.run_id, "failed to signal a process");
            }
        }
    }

    /// Stops everything: again until a look finds nothing that runs, for a process may fork between look and signal.
    fn stop_all() {
        for _ in 0..100 {
            let running: Vec<_> = process_tree::descendants(std::process::id())
                .into_iter()
                .filter(|member| !member.dead && !member.stopped)
                .collect();
            if running.is_empty() {
                return;
            }
            for member in running {
                drop(process_tree::signal(member.pid, Signal::STOP));
            }
            std::thread::yield_now();
        }
    }

    /// Reaps the dead, kills the living once their time is over, and returns how many are left.
    fn sweep(ending: &mut Ending, main: u32) -> usize {
        let mut left = 0;
        if let Ending::Asked(until) = ending
            && *until <= Instant::now()
        {
            *ending = Ending::Forced;
        }
        for member in process_tree::descendants(std::process::id()) {
            if member.dead {
                if member.pid != main {
                    process_tree::reap(member.pid);
                }
                continue;
            }
            left += 1;
            if matches!(ending, Ending::Forced) {
                drop(process_tree::signal(member.pid, Signal::KILL));
            }
        }
        left
    }

    fn ended(self, exit: Exit, mut reader: Reader, stopped: bool) -> Ended {
        let run_id = self.order.run_id;
        if self.log.lost_bytes > 0 {
            tracing::warn!(
                run.id = run_id,
                size_bytes = self.log.lost_bytes,
                "part of the log could not be written"
            );
        }
        if self.listener.is_some() {
            drop(std::fs::remove_file(self.order.files.directory.join(self.order.files.socket_name())));
        }
        Ended { run_id, exit, at: clock::wall(), digest: reader.digest(), stopped }
    }
}

async fn read_some(output: &mut Option<spawn::Output>, buffer: &mut [u8]) -> io::Result<usize> {
    match output {
        Some(output) => output.read(buffer).await,
        None => std::future::pending().await,
    }
}
