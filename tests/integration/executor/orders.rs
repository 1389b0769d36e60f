//! Pause, resume, abort: of the whole tree.

use super::{Host, host, host_with, text, with_resources};
use aiwg_rs::executor::process_tree;
use serde_json::json;

/// A tree with a member that left the group, each counting in a file of its own.
const TREE: &str = "setsid sh -c 'while :; do echo x >> away; sleep 0.02; done' & \
                    while :; do echo x >> home; sleep 0.02; done";

fn sizes(host: &Host) -> (u64, u64) {
    let size = |name: &str| host.repository.root().join(name).metadata().map_or(0, |metadata| metadata.len());
    (size("home"), size("away"))
}

async fn grows(host: &Host) {
    let before = sizes(host);
    host.until("both go on", async || {
        let now = sizes(host);
        (now.0 > before.0 && now.1 > before.1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_and_resume_reach_the_whole_tree_and_are_confirmed() {
    let host = host(&[]).await;
    host.dispatch("m-1", TREE, json!({})).await;
    grows(&host).await;
    assert_eq!(host.post("/api/v1/missions/m-1/pause", &json!({})).await.0, 202);
    host.reaches("m-1", "paused").await;
    let run = host.record("m-1");
    let stopped = || {
        let marked = process_tree::marked("AIWG_RUN_ID", text(&run, "/run_id"));
        marked.iter().all(|process| {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid)).unwrap_or_default();
            stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['T', 'Z']))
        })
    };
    host.until("everything is stopped", async || stopped().then_some(())).await;
    let before = sizes(&host);
    assert_eq!(host.post("/api/v1/missions/m-1/resume", &json!({})).await.0, 202);
    host.reaches("m-1", "running").await;
    grows(&host).await;
    assert!(sizes(&host) > before);
    assert_eq!(host.post("/api/v1/missions/m-1/abort", &json!({})).await.0, 202);
    let last = host.end_of("m-1").await;
    assert_eq!(text(&last, "/event"), "mission.aborted", "{last}");
    assert_eq!(text(&last, "/data/aborted_by"), "operator");
    assert_eq!(host.processes_of("m-1"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_mission_that_ignores_term_can_be_aborted() {
    let host = host_with(&[], "grace = \"200ms\"").await;
    let objective = "trap '' TERM HUP INT; while :; do echo x >> home; cp home away; sleep 0.02; done";
    host.dispatch("m-1", objective, with_resources()).await;
    host.reaches("m-1", "running").await;
    host.post("/api/v1/missions/m-1/pause", &json!({})).await;
    host.reaches("m-1", "paused").await;
    host.post("/api/v1/missions/m-1/abort", &json!({})).await;
    let last = host.end_of("m-1").await;
    assert_eq!(text(&last, "/event"), "mission.aborted", "{last}");
    host.assert_clean("m-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_mission_can_be_aborted_before_it_began() {
    let host = host(&["--max-concurrency", "1"]).await;
    host.dispatch("first", "sleep 60", json!({})).await;
    host.reaches("first", "running").await;
    host.dispatch("second", "touch ran", json!({})).await;
    host.post("/api/v1/missions/second/abort", &json!({})).await;
    assert_eq!(text(&host.end_of("second").await, "/event"), "mission.aborted");
    host.post("/api/v1/missions/first/abort", &json!({})).await;
    host.end_of("first").await;
    assert!(!host.repository.root().join("ran").exists());
}
