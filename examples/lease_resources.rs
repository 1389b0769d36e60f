//! Command: leases a worktree and ports for a piece of work, works in them, and gives them back.
//!
//! `cargo run --example lease_resources -- DIR`, where DIR is in a git repository. What is written into the worktree is
//! found on the branch that is printed at the end.
#![expect(clippy::print_stdout, reason = "an example shows its answer")]

use aiwg_rs::executor::process_table;
use aiwg_rs::executor::provision::orchestrator::{DEFAULT_DISCOVERY_FILE, Orchestrator, Order};
use aiwg_rs::executor::provision::plan::compose_prompt;
use aiwg_rs::executor::provision::provider::{Disposal, Request};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let workspace = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let orchestrator = Orchestrator::with_built_in();
    let environment = orchestrator
        .provision(&Order {
            session_id: format!("example {}", std::process::id()),
            workspace_root: std::fs::canonicalize(workspace)?,
            resources: vec![Request::of("git-worktree"), Request::of("port-range")],
            // Should this program be killed, others may clean up after it.
            owner: Some(process_table::own()),
        })
        .await?;
    let env = environment.inject(DEFAULT_DISCOVERY_FILE)?;
    let snapshot = environment.snapshot();
    println!("{}", compose_prompt(&snapshot.soft_constraints.prompt_sections, "Say hello."));
    println!("AGENT_PORT_PRIMARY={}", env.get("AGENT_PORT_PRIMARY").map_or("", String::as_str));

    std::fs::write(snapshot.working_directory.join("hello.txt"), "hello\n")?;

    let released = orchestrator.release(&environment, Disposal::Save).await?;
    println!("branch {}", released.branch().unwrap_or("none"));
    Ok(())
}
