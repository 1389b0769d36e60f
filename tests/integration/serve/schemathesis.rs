//! The registry against its own OpenAPI document, by a program that is not ours.
//!
//! It is written in Python and takes a minute, so it runs where it is named: `AIWG_RS_SCHEMATHESIS` is the program, `.ci/run` installs
//! it and sets that, `AIWG_RS_SCHEMATHESIS_SECONDS` is how long it may take.

use super::peer::{Peer, Serve};
use aiwg_rs::registry::Config;
use std::time::Duration;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemathesis_finds_nothing() {
    let Ok(program) = std::env::var("AIWG_RS_SCHEMATHESIS") else {
        println!("skipped: AIWG_RS_SCHEMATHESIS names no program");
        return;
    };
    let seconds = std::env::var("AIWG_RS_SCHEMATHESIS_SECONDS").unwrap_or_else(|_| "45".to_owned());
    // What it registers must never be dialled.
    let serve = Serve::with(Config { dial_after: Duration::from_secs(86_400), ..Config::default() }).await;
    let (_peer, _line) = Peer::connected(&serve, 1, &["resumable", "hitl", "x-tried"]).await;
    assert_eq!(serve.dispatch("0").await.status, 202);
    let folder = tempfile::tempdir().unwrap();
    let document = format!("{}/api/v1/openapi.json", serve.base);
    let mut running = tokio::process::Command::new(program)
        .args(["--config-file", &format!("{ROOT}/.ci/schemathesis.toml"), "run", &document])
        .args(["--max-time", &seconds, "--workers", "1", "--request-timeout", "20", "--continue-on-failure"])
        .args(["--phases", "examples,coverage,fuzzing", "--generation-database", "none", "--no-color"])
        .current_dir(folder.path())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let limit = Duration::from_secs(seconds.parse::<u64>().unwrap() * 2 + 120);
    let status = tokio::time::timeout(limit, running.wait()).await.unwrap().unwrap();
    assert!(status.success(), "what it found stands above");
    assert_eq!(serve.get("/api/ready").await.status, 200);
    serve.stop().await;
}
