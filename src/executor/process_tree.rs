//! Edge: all processes of one mission, also those that left its group, and signals to them.
//!
//! A mission's runner is the reaper of all its descendants, so a process that forks away becomes the runner's child instead
//! of leaving the tree. Should the runner itself be killed, its processes are found by a mark in their environment.

use crate::executor::process_identity::ProcessIdentity;
use crate::executor::process_table;
use rustix::process::{Pid, Signal};
use std::collections::BTreeSet;
use std::fs;
use std::io;

/// One living process of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub pid: u32,
    /// It is stopped.
    pub stopped: bool,
    /// It has ended and waits to be reaped.
    pub dead: bool,
}

/// Makes this process the reaper of all its descendants.
///
/// # Errors
/// The system has no such thing.
#[cfg(target_os = "linux")]
pub fn become_reaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Does nothing where the system has no such thing; the mark in the environment is left.
///
/// # Errors
/// None.
#[cfg(not(target_os = "linux"))]
pub fn become_reaper() -> io::Result<()> {
    Ok(())
}

/// Says whether this process has any child, dead ones that nobody waited for included: one question to the system instead
/// of several files. A reaper without children has no descendants.
pub fn has_children() -> bool {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(waitid(WaitId::All, look), Err(rustix::io::Errno::CHILD))
}

/// Returns every descendant of `root`, not itself.
pub fn descendants(root: u32) -> Vec<Member> {
    let mut found = Vec::new();
    let mut open = vec![root];
    let mut known = BTreeSet::from([root]);
    while let Some(parent) = open.pop() {
        for child in children(parent) {
            if known.insert(child) {
                open.push(child);
                found.extend(member(child));
            }
        }
    }
    found
}

fn children(parent: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten() {
        if let Ok(text) = fs::read_to_string(task.path().join("children")) {
            found.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    found
}

fn member(pid: u32) -> Option<Member> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let state = stat.rsplit_once(')')?.1.split_ascii_whitespace().next()?.to_owned();
    Some(Member {
        pid,
        stopped: matches!(state.as_str(), "T" | "t"),
        dead: matches!(state.as_str(), "Z" | "X"),
    })
}

/// Returns every living process of this user that carries `variable=value` in its environment.
pub fn marked(variable: &str, value: &str) -> Vec<ProcessIdentity> {
    let mark = format!("{variable}={value}");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
        if environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) {
            found.extend(process_table::of(pid));
        }
    }
    found
}

/// Sends a signal; a process that is gone is fine.
///
/// # Errors
/// The system refuses, as for another user's process.
pub fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Ok(());
    };
    match rustix::process::kill_process(pid, signal) {
        Err(error) if error != rustix::io::Errno::SRCH => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Collects the status of a dead child that nobody waits for.
pub fn reap(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // Somebody else's child, or collected already: nothing to do.
        let _status = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::time::Duration;

    #[test]
    fn descendants_and_marked_processes_are_found_and_stopped() {
        let mut child = Command::new("sh")
            .args(["-c", "sleep 60 & wait"])
            .env("AIWG_TEST_MARK", "tree-1")
            .spawn()
            .unwrap();
        let both = || {
            let found = descendants(child.id());
            // A process that is just becoming another program has no environment for a moment.
            let are_marked = marked("AIWG_TEST_MARK", "tree-1").len() == 2;
            Some(found).filter(|found| found.len() == 1 && are_marked)
        };
        let (first, longest, patience) =
            (Duration::from_millis(1), Duration::from_millis(20), Duration::from_secs(10));
        let found = crate::disk::wait::until(first, longest, patience, both).unwrap();
        assert!(descendants(std::process::id()).iter().any(|m| m.pid == found[0].pid));
        assert_eq!(marked("AIWG_TEST_MARK", "tree-").len(), 0);
        signal(found[0].pid, Signal::KILL).unwrap();
        assert!(has_children());
        child.wait().unwrap();
        signal(found[0].pid, Signal::KILL).unwrap();
    }
}
