//! The processes between the executor and its agents: used again, killed, and gone in the end.

use super::{Host, host, text};
use crate::support::dice::Dice;
use aiwg_rs::executor::process_tree;
use rustix::process::Signal;
use serde_json::json;
use std::time::Duration;

fn ran(host: &Host, mission: &str) -> String {
    std::fs::read_to_string(host.repository.root().join(format!("ran-{mission}"))).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_does_one_mission_after_the_other_and_nothing_stays_of_it() {
    let mut host = host(&["--max-concurrency", "1"]).await;
    let mut runners = Vec::new();
    for number in 0..4 {
        // Whatever one leaves behind, in the background and in its directory for questions, the next one does not see.
        let objective = "ls -A $AIWG_HITL_DIR; (sleep 300 &) ; touch $AIWG_HITL_DIR/left; pwd; tty";
        let last = host.run(&format!("m-{number}"), objective, json!({})).await;
        assert_eq!(text(&last, "/event"), "mission.completed", "{last}");
        let log = std::fs::read_to_string(host.mission_directory(&format!("m-{number}")).join("output.log"))
            .unwrap();
        assert!(!log.contains("left") && log.contains("/dev/pts/"), "{log}");
        host.assert_clean(&format!("m-{number}"));
        runners.extend(host.claims().into_iter().map(|claim| claim.runner.pid));
    }
    assert_eq!(runners.len(), 4);
    runners.dedup();
    assert_eq!(runners.len(), 1, "one process for all");
    host.terminate();
    host.until("the runner has ended and taken its files along", async || {
        std::fs::read_dir(host.state_directory().join("runners")).unwrap().next().is_none().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mission_comes_back_while_the_runner_that_had_it_waits_for_another() {
    let host = host(&["--max-concurrency", "8"]).await;
    let names: Vec<String> = (0..8).map(|number| format!("m-{number}")).collect();
    for round in 1..=2 {
        for name in &names {
            let objective = format!(
                "echo x >> ran-{name}; while test $(cat ran-* | wc -l) -lt {}; do sleep 0.02; done",
                8 * round
            );
            let key = format!("{name}#{round}");
            let (status, _, answer) = host.dispatch_to_itself(name, &objective, Some(&key)).await;
            assert_eq!(status, 202, "{answer}");
        }
        for name in &names {
            host.until("it ran", async || (ran(&host, name).len() == 2 * round).then_some(())).await;
            host.done_with(name).await;
            assert_eq!(text(&host.record(name), "/state"), "done", "{}", host.said());
        }
    }
    assert_eq!(host.claims().len(), 8, "eight runners did sixteen missions");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_killed_no_mission_runs_twice_or_is_called_well_when_it_was_not() {
    let mut host = host(&["--max-concurrency", "4", "--max-waiting", "100"]).await;
    let mut dice = Dice::new(u64::from(std::process::id()));
    let names: Vec<String> = (0..24).map(|number| format!("m-{number}")).collect();
    for name in &names {
        let objective = format!("echo x >> ran-{name}; sleep 0.{}; echo y >> ran-{name}", dice.below(5));
        assert_eq!(host.dispatch(name, &objective, json!({})).await.0, 202);
    }
    let (mut killed, mut given_up) = (0, 0);
    for round in 0..12 {
        tokio::time::sleep(Duration::from_millis(dice.below(150))).await;
        let claims = host.claims();
        // Of those that wait for work too.
        if let Some(claim) = claims.get(usize::try_from(dice.below(4)).unwrap()) {
            process_tree::signal(claim.runner.pid, Signal::KILL).unwrap();
            killed += 1;
        }
        if round % 4 == 3 {
            host.kill();
            host.start().await;
        }
    }
    for name in &names {
        let last = host.end_of(name).await;
        let ran = ran(&host, name);
        if text(&last, "/event") == "mission.completed" {
            assert_eq!(ran, "x\ny\n", "{name}");
        } else {
            assert_eq!(text(&last, "/data/reason"), "runner_lost", "{last}");
            given_up += 1;
            assert!(["", "x\n", "x\ny\n"].contains(&ran.as_str()), "{name}: {ran:?}");
        }
        host.done_with(name).await;
        host.assert_clean(name);
    }
    // An executor that is killed costs no mission, a runner the one that it has.
    assert!(killed > 0 && given_up <= killed, "{given_up} given up, {killed} killed");
}
