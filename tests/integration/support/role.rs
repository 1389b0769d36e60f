//! Other processes: this binary again, with a role to play instead of tests to run.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

const ROLE: &str = "AIWG_RS_TEST_ROLE";
const FOLDER: &str = "AIWG_RS_TEST_FOLDER";

/// Starts this binary as another process that plays `role` in `folder`; killed on drop.
pub(crate) struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Process {
    pub(crate) fn start(role: &str, folder: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "support::role::plays_the_role_it_was_started_for", "--nocapture"])
            .env(ROLE, role)
            .env(FOLDER, folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// Reads the number of the next line that the role reported with [`report`]; nothing when it has ended.
    pub(crate) fn next_report(&mut self) -> Option<usize> {
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            if let Some((_, number)) = line.trim_end().split_once("report:") {
                return Some(number.parse().unwrap());
            }
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as `kill -9` does, and returns what it still had reported.
    pub(crate) fn kill(mut self) -> Vec<usize> {
        self.child.kill().unwrap();
        let mut reports = Vec::new();
        while let Some(number) = self.next_report() {
            reports.push(number);
        }
        self.child.wait().unwrap();
        reports
    }

    /// Waits for its own end, and returns its last report.
    pub(crate) fn finish(mut self) -> Option<usize> {
        let mut last = None;
        while let Some(number) = self.next_report() {
            last = Some(number);
        }
        assert!(self.child.wait().unwrap().success());
        last
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already ended is what most tests leave: nothing to do then.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Tells the test that started this process a number.
pub(crate) fn report(number: usize) {
    println!("report:{number}");
}

#[test]
fn plays_the_role_it_was_started_for() {
    let (Ok(role), Ok(folder)) = (std::env::var(ROLE), std::env::var(FOLDER)) else {
        return;
    };
    match role.as_str() {
        "foreign writer" => crate::session::stress::write_like_a_foreigner(Path::new(&folder)),
        "file rewriter" => crate::bridge::foreign_writer::rewrite_everything(Path::new(&folder)),
        "registry" => crate::serve::fuzz::serve_for_ever(Path::new(&folder)),
        "updater" => crate::session::stress::update_for_ever(Path::new(&folder)),
        other => panic!("no role {other}"),
    }
}
