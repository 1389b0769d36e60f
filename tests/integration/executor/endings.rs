//! How missions end, truthfully.

use super::{host, host_with, text, with_resources};
use crate::support::{DEADLINE, is_heavy};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_mission_works_in_its_worktree_and_its_work_is_on_a_branch() {
    let host = host(&[]).await;
    let objective =
        "echo \"port $AGENT_PORT_PRIMARY\"; echo made > made.txt; test -f \"$AGENT_DISCOVERY_FILE\"";
    let last = host.run("m-1", objective, with_resources()).await;
    assert_eq!(text(&last, "/event"), "mission.completed", "{last}\n{}", host.said());
    assert_eq!(last.pointer("/data/artifacts/0/path"), Some(&json!("made.txt")));
    assert_eq!(last.pointer("/data/exit_code"), Some(&json!(0)));
    let summary = text(&last, "/data/summary");
    let branch = summary.split_whitespace().last().unwrap();
    assert!(
        summary.starts_with("port 3") || summary.starts_with("port 4") || summary.starts_with("port 5"),
        "{summary}"
    );
    assert_eq!(host.repository.show(branch, "made.txt"), "made");
    let names: Vec<String> = host.events("m-1").await.iter().map(|e| text(e, "/event").to_owned()).collect();
    assert!(names.contains(&"mission.started".to_owned()), "{names:?}");
    host.assert_clean("m-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_end_has_its_reason() {
    let host = host_with(
        &[],
        "[runtimes.\"custom:breaks\"]\ncommand = [\"/bin/sh\", \"-c\", \"exit 0\"]\n[runtimes.\"custom:gone\"]\ncommand = [\"/bin/sh\"]\n",
    )
    .await;
    let reason = async |mission: &str, objective: &str, more: Value| {
        let last = host.run(mission, objective, more).await;
        assert_eq!(host.processes_of(mission), 0, "{mission}");
        (text(&last, "/data/reason").to_owned(), last)
    };
    let (why, last) = reason("exit", "echo about to fail; exit 7", json!({})).await;
    assert_eq!((why.as_str(), last.pointer("/data/exit_code")), ("exit_nonzero", Some(&json!(7))));
    assert!(text(&last, "/data/error").contains("about to fail"), "{last}");
    assert_eq!(reason("signal", "kill -9 $$", json!({})).await.0, "signal");
    let slow = json!({"metadata": {"timeout_seconds": 0.3}});
    assert_eq!(reason("slow", "sleep 60", slow).await.0, "timeout");
    let budget = json!({"metadata": {"budget": {"wall_clock_seconds": 0.3}}});
    assert_eq!(reason("budget", "sleep 60", budget).await.0, "budget");
    let unmet = json!({"completion": "cmd: test -f nowhere"});
    assert_eq!(reason("unmet", "true", unmet).await.0, "completion_not_met");
    let stall = json!({"metadata": {"stall_seconds": 0.5}});
    let spinner = "i=0; while [ $i -lt 600 ]; do printf '\\rworking %s' $i; i=$((i+1)); sleep 0.05; done";
    assert_eq!(reason("stall", spinner, stall).await.0, "stalled");
    let resources =
        json!({"metadata": {"resources": [{"kind": "git-worktree", "options": {"baseRef": "nope"}}]}});
    let (why, last) = reason("resources", "true", resources).await;
    assert_eq!(why, "provisioning_failed");
    assert!(text(&last, "/data/error").contains("Resource provisioning failed: git-worktree"), "{last}");
    host.assert_clean("resources");
    let misspelled =
        json!({"metadata": {"resources": [{"kind": "port-range", "options": {"blocksize": 4}}]}});
    let (why, last) = reason("misspelled", "true", misspelled).await;
    assert_eq!(why, "provisioning_failed");
    assert!(text(&last, "/data/error").contains("no option \"blocksize\""), "{last}");
    assert!(text(&last, "/data/error").contains("did you mean blockSize?"), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_decides_and_rounds_go_on_until_it_holds() {
    let host = host(&[]).await;
    let more = json!({
        "completion": "cmd: test $(wc -l < rounds) -ge 3",
        "metadata": {"maxIterations": 5, "resources": [{"kind": "git-worktree"}]},
    });
    let last = host.run("m-1", "echo round >> rounds", more).await;
    assert_eq!(text(&last, "/event"), "mission.completed", "{last}");
    let branch = text(&last, "/data/summary").split_whitespace().last().unwrap().to_owned();
    assert_eq!(host.repository.show(&branch, "rounds"), "round\nround\nround");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setup_command_prepares_and_its_failure_is_the_missions() {
    let host = host_with(
        &[],
        "setup = [\"sh\", \"-c\", \"echo preparing; test ! -f broken && echo ready > ready\"]",
    )
    .await;
    let worktree = json!({"metadata": {"resources": [{"kind": "git-worktree"}]}});
    let last = host.run("m-1", "cat ready", worktree.clone()).await;
    assert_eq!(text(&last, "/event"), "mission.completed", "{last}");
    let log = std::fs::read_to_string(host.mission_directory("m-1").join("output.log")).unwrap();
    assert!(log.contains("preparing") && log.contains("ready"), "{log}");
    host.repository.write("broken", "x");
    host.repository.commit("broken");
    let last = host.run("m-2", "true", worktree).await;
    assert_eq!(text(&last, "/data/reason"), "setup_failed", "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_survives_the_end_of_its_mission() {
    let host = host_with(&[], "grace = \"300ms\"").await;
    // A daemon that leaves the group and the session, ignores TERM, and closes its output.
    let objective = "setsid sh -c 'trap \"\" TERM; exec >/dev/null 2>&1; while :; do sleep 1; done' & \
                     (trap '' TERM HUP; sleep 300) & echo started";
    let last = host.run("m-1", objective, with_resources()).await;
    assert_eq!(text(&last, "/event"), "mission.completed", "{last}");
    host.assert_clean("m-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemons_secrets_and_odd_objectives_stay_where_they_are() {
    let settings = "[runtimes.\"custom:echo\"]\ncommand = [\"/usr/bin/printf\", \"<%s>\", \"{prompt}\"]\nterminal = false\n";
    let host = host_with(&[], settings).await;
    let last =
        host.run("m-1", "env | grep -c hunter2; env | grep ^HOME= >/dev/null && echo home", json!({})).await;
    assert_eq!(text(&last, "/event"), "mission.completed", "{last}");
    let log = std::fs::read_to_string(host.mission_directory("m-1").join("output.log")).unwrap();
    assert_eq!(log.lines().map(str::trim).collect::<Vec<_>>(), ["0", "home"]);
    let evil = "'; touch pwned; $(touch pwned) `touch pwned` \"";
    let last = host.run("m-2", evil, json!({"metadata": {"runtime": "custom:echo"}})).await;
    assert_eq!(text(&last, "/event"), "mission.completed", "{last}");
    let log = std::fs::read_to_string(host.mission_directory("m-2").join("output.log")).unwrap();
    assert_eq!(log, format!("<{evil}>"));
    assert!(!host.repository.root().join("pwned").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_any_bytes_is_survived_within_the_limits() {
    let host = host_with(&[], "log_limit_bytes = 262144").await;
    let bytes: u64 = if is_heavy() { 10_000_000_000 } else { 100_000_000 };
    let objective = format!("head -c {bytes} /dev/urandom; echo; echo the end");
    let (status, answer) = host.dispatch("m-1", &objective, json!({})).await;
    assert_eq!(status, 202, "{answer}");
    let (mut peak_kb, mut seen) = (0, 0);
    let deadline = std::time::Instant::now() + DEADLINE * if is_heavy() { 90 } else { 6 };
    while !matches!(host.state_of("m-1").await.as_str(), "done" | "failed" | "aborted") {
        assert!(std::time::Instant::now() < deadline, "the flood does not end\n{}", host.said());
        for pid in host.own_processes("m-1") {
            peak_kb = peak_kb.max(resident_kb(pid));
            seen += 1;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let last = host.end_of("m-1").await;
    assert_eq!(text(&last, "/event"), "mission.completed", "{last}");
    assert_eq!(text(&last, "/data/summary"), "the end");
    println!("{bytes} bytes of output: executor and runner had at most {peak_kb} kB each");
    assert!(seen > 0 && peak_kb < 256 * 1024, "{peak_kb} kB resident in {seen} looks");
    let log: u64 = std::fs::read_dir(host.mission_directory("m-1"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("output"))
        .map(|entry| entry.metadata().unwrap().len())
        .sum();
    assert!(log <= 262_144 + 65_536, "{log}");
}

fn resident_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_ascii_whitespace().nth(1).map_or(0, |number| number.parse().unwrap())
}
