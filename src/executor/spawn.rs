//! Edge: starts an agent's process, in a session of its own.
//!
//! `posix_spawn` starts it without a copy of this process in between, which costs as much as a short program. It cannot
//! take a terminal's number: a leader of a session that has no terminal gets the first one that it opens, so the terminal is
//! opened in the child by name.

use crate::executor::program;
use crate::executor::runner_protocol::{Exit, RUN_VARIABLE, RunOrder};
use nix::fcntl::OFlag;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::SigSet;
use nix::sys::stat::Mode;
use rustix::process::{Pid, WaitOptions, waitpid};
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::path::Path;
use tokio::io::AsyncRead;

/// The size of the terminal: wide, so that agents do not break their lines.
const TERMINAL_SIZE: (u16, u16) = (50, 200);

#[cfg(target_os = "linux")]
const NEW_SESSION: libc::c_short = libc::POSIX_SPAWN_SETSID;

/// As in Apple's `spawn.h`.
#[cfg(not(target_os = "linux"))]
const NEW_SESSION: libc::c_short = 0x0400;

/// What a process says.
pub(super) type Output = Box<dyn AsyncRead + Unpin + Send>;

/// A process that was started, and what it says.
pub(super) struct Started {
    /// The process; nobody but [`exit_of`] collects it.
    pub(super) pid: u32,
    /// What it says, until its end.
    pub(super) output: Option<Output>,
    /// Where it hears, if it has a terminal.
    pub(super) input: Option<pty_process::OwnedWritePty>,
}

/// Starts what is ordered. This process must have one thread: its own working directory changes for a moment.
///
/// # Errors
/// What the system says; nothing runs then.
pub(super) fn start(order: &RunOrder) -> io::Result<Started> {
    if order.terminal {
        let (pty, pts) = pty_process::open().map_err(io::Error::other)?;
        pty.resize(pty_process::Size::new(TERMINAL_SIZE.0, TERMINAL_SIZE.1)).map_err(io::Error::other)?;
        let name = rustix::pty::ptsname(&pty, Vec::new())?;
        let mut streams = PosixSpawnFileActions::init()?;
        streams.add_open(0, name.as_c_str(), OFlag::O_RDWR, Mode::empty())?;
        streams.add_dup2(0, 1)?;
        streams.add_dup2(0, 2)?;
        let pid = spawn(order, &streams, Some(("TERM", "xterm-256color")))?;
        // Open until the child has it: a terminal without users is hung up.
        drop(pts);
        let (output, input) = pty.into_split();
        return Ok(Started { pid, output: Some(Box::new(output)), input: Some(input) });
    }
    let (ours, theirs) = io::pipe()?;
    let theirs_number: RawFd = theirs.as_raw_fd();
    let mut streams = PosixSpawnFileActions::init()?;
    streams.add_open(0, Path::new("/dev/null"), OFlag::O_RDONLY, Mode::empty())?;
    streams.add_dup2(theirs_number, 1)?;
    streams.add_dup2(theirs_number, 2)?;
    let output = tokio::net::unix::pipe::Receiver::from_owned_fd(ours.into())?;
    let pid = spawn(order, &streams, None)?;
    drop(theirs);
    Ok(Started { pid, output: Some(Box::new(output)), input: None })
}

fn spawn(order: &RunOrder, streams: &PosixSpawnFileActions, own: Option<(&str, &str)>) -> io::Result<u32> {
    let name = order.command.first().ok_or_else(|| io::Error::other("the command is empty"))?;
    let arguments = order.command.iter().map(|word| text(word)).collect::<io::Result<Vec<_>>>()?;
    let mut env = std::collections::BTreeMap::from_iter(own);
    env.extend(order.env.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    env.insert(RUN_VARIABLE, &order.run_id);
    let env = env
        .into_iter()
        .map(|(name, value)| text(&format!("{name}={value}")))
        .collect::<io::Result<Vec<_>>>()?;
    let mut attributes = PosixSpawnAttr::init()?;
    let flags = PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK;
    attributes.set_flags(flags | PosixSpawnFlags::from_bits_retain(NEW_SESSION.into()))?;
    attributes.set_sigmask(&SigSet::empty())?;
    // Our own runtime ignores SIGPIPE, a shell that started us may others, and what is ignored stays so in a child.
    attributes.set_sigdefault(&SigSet::all())?;
    let launch =
        |path: &Path, arguments: &[CString]| posix_spawn(path, streams, &attributes, arguments, &env);
    let pid = within(&order.directory, || {
        let path = program::find(name, order.env.get("PATH").map(OsStr::new)).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("there is no program {name} that may be run"))
        })?;
        match launch(&path, &arguments) {
            // A script that does not say what it is for is one for the shell.
            Err(nix::errno::Errno::ENOEXEC) => {
                let mut words = vec![text("sh")?, text(&path.to_string_lossy())?];
                words.extend(arguments.iter().skip(1).cloned());
                Ok(launch(Path::new("/bin/sh"), &words)?)
            }
            launched => Ok(launched?),
        }
    })?;
    u32::try_from(pid.as_raw()).map_err(io::Error::other)
}

fn text(words: &str) -> io::Result<CString> {
    CString::new(words)
        .map_err(|_nul| io::Error::other("a zero byte is in the command or in its environment"))
}

/// Works in a directory: a child begins where its parent is.
fn within<T>(directory: &Path, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    std::env::set_current_dir(directory)
        .map_err(|error| io::Error::new(error.kind(), format!("work in {}: {error}", directory.display())))?;
    let done = work();
    // The directory may be removed or unmounted while this process lives; what was started has it already.
    if let Err(error) = std::env::set_current_dir("/") {
        tracing::warn!(%error, "a runner stays in the directory of its mission");
    }
    done
}

/// Collects a process of [`start`] once it has ended; nothing before.
pub(super) fn exit_of(pid: u32) -> Option<Exit> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    match waitpid(Some(pid), WaitOptions::NOHANG) {
        Ok(None) | Err(rustix::io::Errno::INTR) => None,
        Ok(Some((_, status))) => Some(
            status
                .exit_status()
                .map(|code| Exit::Code { code })
                .or(status.terminating_signal().map(|signal| Exit::Signal { signal }))
                .unwrap_or(Exit::Unknown),
        ),
        Err(_not_ours) => Some(Exit::Unknown),
    }
}
