//! A disk that is full.

use super::{host_on, text};
use crate::support::mount::fill;
use serde_json::{Value, json};
use std::process::{Command, Stdio};

/// Says whether anyone may make a disk of their own here.
fn can_mount() -> bool {
    let tried = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    tried.is_ok_and(|status| status.success())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_what_it_cannot_promise_and_loses_no_end() {
    if !can_mount() {
        println!("skipped: no disk can be made here without privileges");
        return;
    }
    let host = host_on(&[], "", Some("2m")).await;
    let objective =
        "while ! test -f go; do sleep 0.05; done; head -c 3000000 /dev/zero; echo; echo the end; exit 5";
    // So long that what has to be written down at its end does not fit beside what is there.
    let more = json!({"metadata": {"note": "x".repeat(10_000)}});
    host.dispatch("m-1", objective, more).await;
    host.reaches("m-1", "running").await;
    let ballast = host.state_directory().join("ballast");
    fill(&ballast);
    let (status, refused) = host.dispatch("m-2", "touch ran", json!({})).await;
    assert!(status >= 500, "{status} {refused}");
    host.repository.write("go", "");
    let last = host.end_of("m-1").await;
    assert_eq!(text(&last, "/data/reason"), "exit_nonzero", "{last}");
    assert_eq!(last.pointer("/data/exit_code"), Some(&json!(5)));
    assert!(host.said().contains("failed to write down a mission"), "{}", host.said());
    // There is room again, and another executor: it learns from the runner how the mission ended, and runs nothing twice.
    std::fs::remove_file(&ballast).unwrap();
    host.next_in_loop().await;
    host.done_with("m-1").await;
    let record = host.record("m-1");
    let told = record.pointer("/recent_events").and_then(Value::as_array).and_then(|events| events.last());
    assert_eq!(told.and_then(|event| event.pointer("/data/exit_code")), Some(&json!(5)), "{record}");
    let last = host.run("m-3", "echo well", json!({})).await;
    assert_eq!(text(&last, "/event"), "mission.completed", "{last}");
    assert!(!host.repository.root().join("ran").exists());
}
