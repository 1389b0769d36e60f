//! Service: a runner: a small process of its own between the executor and an agent.
//!
//! The executor may be killed at any instant, and neither the terminal of an agent nor its exit status may go with it. So a
//! process that does nothing else holds the terminal, writes the log, reaps all descendants, and keeps the exit status until
//! the executor says that it is written down; where no executor is left to say so, it puts it on the disk itself. The
//! executor talks to it over the socket that is its standard input, and after a restart over one beside its claim.
//!
//! A run ends only when no descendant of the runner is left, whatever happens to the agent. So there is nothing of it in
//! the way of the next one: a runner does one run after the other, as its start costs more than most of what it does.

use crate::disk::atomic;
use crate::disk::fsync::FsyncPolicy;
use crate::disk::lock::{FileLock, LockError};
use crate::executor::claim::{self, ClaimFile};
use crate::executor::digest::Reader;
use crate::executor::log_file::LogWriter;
use crate::executor::process_tree;
use crate::executor::runner_protocol::{Ended, Exit, FromRunner, RunFiles, RunOrder, ToRunner};
use crate::executor::spawn;
use crate::runtime::clock;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
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

/// How often an end is written again that no executor hears, and after what time: a minute in all.
const WRITES: u32 = 600;

/// The time between two of them.
const WRITE_AGAIN: Duration = Duration::from_millis(100);

/// How long the runner of the run before may take to write its end down: longer than it tries.
const LOCK_WITHIN: Duration = Duration::from_secs(70);

/// How the system says that the other end of a socket is closed, even while there is something to read.
#[cfg(target_os = "linux")]
const GONE: PollFlags = PollFlags::RDHUP;

/// The same where there is no name for half a hang-up.
#[cfg(not(target_os = "linux"))]
const GONE: PollFlags = PollFlags::HUP;

/// How long an executor may take to read what it is told.
const LISTEN: Duration = Duration::from_secs(5);

/// How long until a restarted executor is waited for again when the system refuses.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// The runner cannot work.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// Another one runs this run.
    #[error("run this mission: {0}")]
    Twice(#[from] LockError),
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
    let mut listener = claim.listen().map_err(doing("listen for a restarted executor"))?;
    let mut buffer = vec![0; 64 * 1024];
    let mut next = executor.next_order(&mut signals).await;
    while let Some(order) = next {
        let files = order.files.clone();
        let Some(lock) = alone(&files, claims, &executor).await? else { break };
        claim.claim(&files.name).map_err(doing("say who runs it"))?;
        let log = LogWriter::new(&files.directory, order.log_limit_bytes);
        let runner =
            Runner { executor: &mut executor, signals: &mut signals, listener: &mut listener, log, order };
        let ended = runner.run(&mut buffer).await;
        let next_order = executor.hand_over(&files, ended, &mut signals, &mut listener).await?;
        // Before it waits for the next one: this mission may come back, for another runner.
        drop(lock);
        next = match next_order {
            Next::Order(order) => Some(*order),
            Next::Wait => executor.next_order(&mut signals).await,
            Next::End => None,
        };
    }
    claim.remove();
    Ok(())
}

/// Locks the directory of a mission; nothing when its run is not for this process: it has ended, somebody else has begun
/// it, or whoever ordered it is gone, and another executor may have ordered it elsewhere.
async fn alone(
    files: &RunFiles,
    claims: &Path,
    executor: &Executor,
) -> Result<Option<FileLock>, RunnerError> {
    let give_up = Instant::now() + LOCK_WITHIN;
    let mut has_waited = false;
    let lock = loop {
        let held = match FileLock::try_acquire_directory(&files.directory) {
            Ok(lock) => break lock,
            Err(held @ LockError::Held { .. }) => held,
            Err(error @ LockError::Io { .. }) => return Err(error.into()),
        };
        // The runner of the run before this one writes its end down, or somebody else has begun this one.
        if !executor.is_there() || is_claimed(files, claims)? {
            return Ok(None);
        }
        if Instant::now() >= give_up {
            return Err(held.into());
        }
        has_waited = true;
        tokio::time::sleep(LOOK_EVERY).await;
    };
    let is_ours =
        executor.is_there() && !files.exit().exists() && !(has_waited && is_claimed(files, claims)?);
    Ok(is_ours.then_some(lock))
}

fn is_claimed(files: &RunFiles, claims: &Path) -> Result<bool, RunnerError> {
    Ok(claim::runner_of(claims, &files.name).map_err(doing("read who runs what"))?.is_some())
}

fn standard_input() -> io::Result<UnixStream> {
    let stream = std::os::unix::net::UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// Waits for a restarted executor.
async fn accept(listener: &mut UnixListener) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(_gone_again) => tokio::time::sleep(LISTEN_AGAIN).await,
        }
    }
}

/// What a runner does after a run.
enum Next {
    Order(Box<RunOrder>),
    /// Its end is written down; an order may come.
    Wait,
    /// None will come.
    End,
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

    /// Says whether all was read that the executor ever sent. It may have stopped listening before.
    fn is_gone(&self) -> bool {
        self.reader.is_none()
    }

    /// Says whether the executor is there now, whatever it has sent that was not read yet.
    fn is_there(&self) -> bool {
        let Some(reader) = &self.reader else { return false };
        let stream: &UnixStream = reader.get_ref().as_ref();
        let mut look = [PollFd::new(stream, GONE)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Also a look that does not wait may be interrupted by a signal.
        rustix::io::retry_on_intr(|| poll(&mut look, Some(&now))).is_ok_and(|found| found == 0)
    }

    /// Tells something; says whether anybody took it. Whoever does not is told no more, and sees the end of the line.
    async fn tell(&mut self, message: &FromRunner) -> bool {
        let Some(writer) = &mut self.writer else { return false };
        let Ok(mut text) = serde_json::to_vec(message) else { return false };
        text.push(b'\n');
        let told = tokio::time::timeout(LISTEN, writer.write_all(&text)).await;
        let taken = matches!(told, Ok(Ok(())));
        if !taken {
            self.writer = None;
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
                Ok(_) | Err(_) => {
                    (self.reader, self.writer) = (None, None);
                    self.line.clear();
                }
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

    /// Gives the end of a run to whoever keeps it, an executor or else the disk.
    async fn hand_over(
        &mut self,
        files: &RunFiles,
        ended: Ended,
        signals: &mut Signals,
        listener: &mut UnixListener,
    ) -> Result<Next, RunnerError> {
        let text = serde_json::to_vec(&ended)?;
        let message = FromRunner::Ended { ended };
        let mut left = WRITES;
        let mut is_heard = self.tell(&message).await;
        loop {
            while is_heard {
                tokio::select! {
                    message = self.next() => match message {
                        Some(ToRunner::Noted) => return Ok(Next::Wait),
                        Some(ToRunner::Run(order)) => return Ok(Next::Order(order)),
                        Some(ToRunner::Input { .. } | ToRunner::Pause | ToRunner::Resume | ToRunner::Stop { .. }) => {}
                        None => is_heard = false,
                    },
                    _ = signals.terminate.recv() => is_heard = false,
                }
            }
            match atomic::write(&files.exit(), &text, FsyncPolicy::Batch) {
                Ok(()) => return Ok(Next::End),
                Err(error) if left == 0 => return Err(doing("write the exit status")(error)),
                Err(error) => tracing::debug!(%error, "the exit status cannot be written yet"),
            }
            // A disk that is full now may have room soon, and an executor may hear it meanwhile: the one that was told it, or
            // a restarted one. Nobody is told twice, who might take the second word for the end of another run.
            left -= 1;
            tokio::select! {
                () = tokio::time::sleep(WRITE_AGAIN) => is_heard = self.writer.is_some(),
                stream = accept(listener) => {
                    *self = Self::of(stream);
                    is_heard = self.tell(&message).await;
                }
            }
        }
    }
}

struct Runner<'a> {
    executor: &'a mut Executor,
    signals: &'a mut Signals,
    listener: &'a mut UnixListener,
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
                Self::sweep(&mut ending, status.is_none().then_some(pid));
                // Not what the look found: a child may have come to us from a process that died during it.
                if status.is_some() && !process_tree::has_children() {
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
                    } else if !process_tree::has_children() {
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
                stream = accept(self.listener), if self.executor.is_gone() => {
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

    /// Reaps the dead but for `main`, whose status is still wanted, and kills all once their time is over.
    fn sweep(ending: &mut Ending, main: Option<u32>) {
        if let Ending::Asked(until) = ending
            && *until <= Instant::now()
        {
            *ending = Ending::Forced;
        }
        for member in process_tree::descendants(std::process::id()) {
            if matches!(ending, Ending::Forced) {
                // Also the dead: the first thread of a process may have ended before the others.
                drop(process_tree::signal(member.pid, Signal::KILL));
            }
            if member.dead && Some(member.pid) != main {
                process_tree::reap(member.pid);
            }
        }
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
        Ended { run_id, exit, at: clock::wall(), digest: reader.digest(), stopped }
    }
}

async fn read_some(output: &mut Option<spawn::Output>, buffer: &mut [u8]) -> io::Result<usize> {
    match output {
        Some(output) => output.read(buffer).await,
        None => std::future::pending().await,
    }
}
