//! What is on the disk, and when: the system calls of a bridge, as strace saw them. Where there is no strace, or it may
//! not trace, this is skipped and says so.

use super::Watched;
use super::registry::{Behaviour, Registry};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn a_claim_is_on_the_disk_before_its_request_leaves() {
    const MISSIONS: usize = 60;
    let registry = Registry::start(Behaviour { is_idempotent: false, ends_after: Duration::ZERO });
    let folder = Watched::new();
    for session in ["a", "b", "c"] {
        folder.queue(session, MISSIONS / 3);
    }
    let traces = tempfile::tempdir().unwrap();
    let trace = traces.path().join("trace");
    let output = Command::new("strace")
        .args(["-f", "-y", "-s", "20000", "-e", "trace=write,writev,fdatasync", "-o"])
        .arg(&trace)
        .arg(env!("CARGO_BIN_EXE_aiwg-rs"))
        .args(["mc", "bridge", "--once", "--no-ws", "--serve-url", &registry.url, "--watch-dir"])
        .arg(folder.root())
        .stdout(Stdio::null())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return println!("skipped: strace cannot be run: {error}"),
    };
    let complaint = String::from_utf8_lossy(&output.stderr);
    if complaint.contains("ptrace") || complaint.contains("PTRACE") {
        return println!("skipped: strace may not trace here: {complaint}");
    }
    assert!(output.status.success(), "{complaint}");
    let sent = requests_after_their_claims(&fs::read_to_string(trace).unwrap());
    assert_eq!(sent.len(), MISSIONS);
    assert!(registry.runs().values().all(|runs| *runs == 1));
}

/// Walks through a trace; fails at a request whose claim was not written and flushed before. Returns who was sent.
fn requests_after_their_claims(trace: &str) -> HashSet<String> {
    let mut written: HashMap<String, HashSet<String>> = HashMap::new();
    let mut flushed: HashSet<String> = HashSet::new();
    // A flush counts when it has returned, for what had been written when it began.
    let mut flushing: HashMap<&str, (String, HashSet<String>)> = HashMap::new();
    let mut sent = HashSet::new();
    for line in trace.lines() {
        let (thread, call) = line.split_once(' ').unwrap();
        let call = call.trim_start();
        let file =
            call.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(file, _)| file.to_owned());
        if call.starts_with("write(") && call.contains("bridge.dispatching") {
            let claims = written.entry(file.unwrap()).or_default();
            claims.extend(values(call, "missionId"));
        } else if call.starts_with("fdatasync(") {
            let file = file.unwrap();
            let claims = written.get(&file).cloned().unwrap_or_default();
            if call.contains("unfinished") {
                flushing.insert(thread, (file, claims));
            } else {
                flushed.extend(claims);
            }
        } else if call.starts_with("<... fdatasync resumed>") {
            flushed.extend(flushing.remove(thread).unwrap().1);
        } else if call.starts_with("writev(") && call.contains("/dispatch HTTP/1.1") {
            let mission = values(call, "mission_id").remove(0);
            assert!(flushed.contains(&mission), "{mission} was sent before its claim was on the disk");
            sent.insert(mission);
        }
    }
    sent
}

/// The strings under `key` in JSON as strace prints it, with every quote behind a backslash.
fn values(call: &str, key: &str) -> Vec<String> {
    let before = format!("\\\"{key}\\\":\\\"");
    call.split(&before).skip(1).filter_map(|rest| Some(rest.split_once('\\')?.0.to_owned())).collect()
}
