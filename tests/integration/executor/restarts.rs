//! The executor is killed, or ends in order, and comes back.

use super::{host, host_with, text, with_resources};
use crate::support::dice::Dice;
use crate::support::is_heavy;
use crate::support::repository::git;
use aiwg_rs::executor::process_tree;
use rustix::process::Signal;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_executor_finds_its_running_mission_again() {
    let mut host = host(&[]).await;
    let objective = "echo ran >> $AGENT_REPO_ROOT/count; while ! test -f $AGENT_REPO_ROOT/go; do sleep 0.05; done; \
                     echo result > result.txt; echo over";
    host.dispatch("m-1", objective, with_resources()).await;
    host.reaches("m-1", "running").await;
    let count = host.repository.root().join("count");
    host.until("the agent has begun", async || count.exists().then_some(())).await;
    host.kill();
    host.start().await;
    host.repository.write("go", "");
    let last = host.end_of("m-1").await;
    assert_eq!(text(&last, "/event"), "mission.completed", "{last}\n{}", host.said());
    assert_eq!(std::fs::read_to_string(count).unwrap(), "ran\n", "it ran once");
    let branch = text(&last, "/data/summary").split_whitespace().last().unwrap().to_owned();
    assert_eq!(host.repository.show(&branch, "result.txt"), "result");
    host.assert_clean("m-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mission_that_ended_meanwhile_is_reported_as_it_ended() {
    let mut host = host(&[]).await;
    let objective = "while ! test -f $AGENT_REPO_ROOT/go; do sleep 0.05; done; echo last words; exit 3";
    host.dispatch("m-1", objective, with_resources()).await;
    host.reaches("m-1", "running").await;
    let agent = host.processes_of("m-1");
    assert!(agent > 0);
    host.kill();
    host.repository.write("go", "");
    host.until("it ends without an executor", async || (host.processes_of("m-1") == 0).then_some(())).await;
    host.start().await;
    let last = host.end_of("m-1").await;
    assert_eq!(text(&last, "/data/reason"), "exit_nonzero", "{last}");
    assert!(text(&last, "/data/error").contains("last words"), "{last}");
    assert_eq!(last.pointer("/data/exit_code"), Some(&json!(3)));
    host.assert_clean("m-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_runner_leaves_nothing_and_no_false_success() {
    let host = host(&[]).await;
    host.dispatch("m-1", "sleep 300 & sleep 300", with_resources()).await;
    host.reaches("m-1", "running").await;
    let runner = host.claims().remove(0).runner;
    process_tree::signal(runner.pid, Signal::KILL).unwrap();
    let last = host.end_of("m-1").await;
    assert_eq!(text(&last, "/data/reason"), "runner_lost", "{last}");
    host.assert_clean("m-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_has_paused_is_paused_after_a_restart() {
    let mut host = host(&[]).await;
    let objective =
        "while ! test -f $AGENT_REPO_ROOT/go; do echo x >> $AGENT_REPO_ROOT/ticks; sleep 0.05; done";
    host.dispatch("m-1", objective, with_resources()).await;
    host.reaches("m-1", "running").await;
    assert_eq!(host.post("/api/v1/missions/m-1/pause", &json!({})).await.0, 202);
    host.reaches("m-1", "paused").await;
    assert!(host.terminate().success(), "{}", host.said());
    host.reaches("m-1", "suspended").await;
    let file = host.repository.root().join("ticks");
    let ticks = || std::fs::read_to_string(&file).unwrap().len();
    let before = ticks();
    host.start().await;
    host.reaches("m-1", "paused").await;
    // Long enough for twenty more.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(ticks(), before, "{}", host.said());
    host.reaches("m-1", "paused").await;
    assert_eq!(host.post("/api/v1/missions/m-1/resume", &json!({})).await.0, 202);
    host.reaches("m-1", "running").await;
    host.repository.write("go", "");
    host.end_of("m-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_that_was_ordered_while_the_executor_was_away_ends_the_pause_when_it_is_back() {
    let mut host = host(&[]).await;
    host.dispatch("m-1", "while ! test -f $AGENT_REPO_ROOT/go; do sleep 0.05; done", with_resources()).await;
    host.reaches("m-1", "running").await;
    assert_eq!(host.post("/api/v1/missions/m-1/pause", &json!({})).await.0, 202);
    host.reaches("m-1", "paused").await;
    assert!(host.terminate().success(), "{}", host.said());
    host.reaches("m-1", "suspended").await;
    assert_eq!(host.post("/api/v1/missions/m-1/resume", &json!({})).await.0, 202);
    host.repository.write("go", "");
    host.start().await;
    let last = host.end_of("m-1").await;
    assert_eq!(text(&last, "/event"), "mission.completed", "{last}\n{}", host.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_end_freezes_missions_and_the_next_start_goes_on() {
    let mut host = host(&[]).await;
    let objective =
        "i=0; while [ $i -lt 20 ]; do echo $i >> $AGENT_REPO_ROOT/count; i=$((i+1)); sleep 0.05; done";
    host.dispatch("m-1", objective, with_resources()).await;
    host.reaches("m-1", "running").await;
    assert!(host.terminate().success(), "{}", host.said());
    host.reaches("m-1", "suspended").await;
    let events = host.events("m-1").await;
    assert!(!text(events.last().unwrap(), "/data/checkpoint_id").is_empty());
    host.start().await;
    let last = host.end_of("m-1").await;
    assert_eq!(text(&last, "/event"), "mission.completed", "{last}");
    let count = std::fs::read_to_string(host.repository.root().join("count")).unwrap();
    assert_eq!(count.lines().count(), 20, "{count}");
    host.assert_clean("m-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_waits_for_what_runs_and_says_goodbye() {
    let mut host = host(&["--drain"]).await;
    host.dispatch("m-1", "sleep 0.5; echo drained", json!({})).await;
    host.reaches("m-1", "running").await;
    assert!(host.terminate().success());
    assert_eq!(text(&host.record("m-1"), "/state"), "done");
    assert_eq!(host.processes_of("m-1"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_missions_are_kept_for_a_time_and_claims_of_killed_runners_until_their_missions_know() {
    let mut host = host_with(&["--max-concurrency", "2"], "retention = \"1s\"").await;
    host.run("m-1", "echo one", json!({})).await;
    host.dispatch("m-2", "sleep 300", json!({})).await;
    host.reaches("m-2", "running").await;
    assert!(host.mission_directory("m-1").join("output.log").exists());
    host.until("the registry's receipt for m-1 is written down", async || {
        host.record("m-1").get("reported_at")?.as_str().map(drop)
    })
    .await;
    host.kill();
    for claim in host.claims() {
        process_tree::signal(claim.runner.pid, Signal::KILL).unwrap();
    }
    let killed = host.claims();
    assert!(!killed.is_empty(), "a killed runner leaves its claim");
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    host.start().await;
    let last = host.end_of("m-2").await;
    assert_eq!(text(&last, "/data/reason"), "runner_lost", "{last}");
    host.until("m-1 is forgotten", async || (!host.mission_directory("m-1").exists()).then_some(())).await;
    host.done_with("m-2").await;
    host.assert_clean("m-2");
    host.terminate();
    host.start().await;
    host.until("what the killed runners had claimed is forgotten", async || {
        host.claims().is_empty().then_some(())
    })
    .await;
    assert_eq!(std::fs::read_dir(host.state_directory().join("runners")).unwrap().count(), 0, "sockets too");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_nine_at_any_instant_ends_every_mission_exactly_once() {
    let mut host = host_with(&["--max-concurrency", "8", "--max-waiting", "100"], "grace = \"1s\"").await;
    let count = if is_heavy() { 100 } else { 24 };
    let mut dice = Dice::new(u64::from(std::process::id()));
    for number in 0..count {
        let objective =
            format!("echo x >> $AGENT_REPO_ROOT/ran-{number}; sleep 0.{}; exit {}", number % 7, number % 3);
        let (status, answer) = host.dispatch(&format!("m-{number}"), &objective, with_resources()).await;
        assert_eq!(status, 202, "{answer}");
        if number % 8 == 5 {
            // At whatever instant this is.
            host.kill();
            host.start().await;
        }
    }
    for _ in 0..if is_heavy() { 25 } else { 4 } {
        tokio::time::sleep(std::time::Duration::from_millis(dice.below(400))).await;
        host.kill();
        host.start().await;
    }
    for number in 0..count {
        let last = host.end_of(&format!("m-{number}")).await;
        let ended =
            (text(&last, "/event"), last.pointer("/data/exit_code").and_then(serde_json::Value::as_i64));
        let expected = match number % 3 {
            0 => ("mission.completed", Some(0)),
            code => ("mission.failed", Some(code)),
        };
        assert_eq!(ended, expected, "m-{number}: {last}\n{}", host.said());
        let ran = std::fs::read_to_string(host.repository.root().join(format!("ran-{number}"))).unwrap();
        assert_eq!(ran, "x\n", "m-{number} ran once");
    }
    host.until("everything is given back", async || {
        let list = git(host.repository.root(), ["worktree", "list", "--porcelain"]);
        (list.matches("worktree ").count() == 1).then_some(())
    })
    .await;
    for number in 0..count {
        host.assert_clean(&format!("m-{number}"));
    }
}
