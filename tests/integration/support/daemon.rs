//! The real binary as a process of its own, killed on drop.

use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::eventually::eventually;

pub(crate) struct Daemon {
    child: Option<Child>,
    stderr: tempfile::NamedTempFile,
}

impl Daemon {
    /// Starts the binary with nothing of our environment but the path.
    pub(crate) fn start<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Self {
        let stderr = tempfile::NamedTempFile::new().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_aiwg-rs"))
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr.reopen().unwrap())
            .spawn()
            .unwrap();
        Self { child: Some(child), stderr }
    }

    /// Starts a bridge over `folder` for the registry at `url`.
    pub(crate) fn bridge(folder: &Path, url: &str, more: &[&str]) -> Self {
        let folder = folder.to_str().unwrap();
        let fixed = ["mc", "bridge", "--log", "info", "--watch-dir", folder, "--serve-url", url];
        Self::start(fixed.iter().chain(more))
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    fn id(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(self.child.as_ref().unwrap())
    }

    /// Asks it to end, as an operator does, and waits for that.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        rustix::process::kill_process(self.id(), rustix::process::Signal::TERM).unwrap();
        self.wait()
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits for its own end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let child = self.child.as_mut().unwrap();
        let status = eventually("the process to end", Duration::from_secs(60), || child.try_wait().unwrap());
        self.child = None;
        status
    }

    /// What it has said so far.
    pub(crate) fn said(&self) -> String {
        let mut text = String::new();
        self.stderr.reopen().unwrap().read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().ok();
            child.wait().ok();
            if std::thread::panicking() {
                println!("the process said:\n{}", self.said());
            }
        }
    }
}
