//! What the bridge makes of every kind of answer, and of none.

use super::Watched;
use super::registry::{Answer, Behaviour, EXECUTOR, Registry};
use crate::support::daemon::Daemon;
use crate::support::eventually::eventually;
use serde_json::Value;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
const AT_ONCE: Behaviour = Behaviour { is_idempotent: true, ends_after: Duration::ZERO };
const FAST: [&str; 3] = ["--no-ws", "--retry-base-ms", "20"];

fn ends_as(folder: &Watched, mission: &str, status: &str) -> Value {
    eventually(&format!("{mission} to be {status}"), PATIENCE, || {
        folder.mission("s", mission).filter(|value| value["status"] == status)
    })
}

#[test]
fn a_queued_mission_comes_back_done_with_what_the_executor_said() {
    let registry = Registry::start(AT_ONCE);
    let folder = Watched::new();
    let _bridge = Daemon::bridge(folder.root(), &registry.url, &FAST);
    folder.queue("s", 1);
    let mission = ends_as(&folder, "s-0", "done");
    assert_eq!(mission["executorId"], EXECUTOR);
    assert_eq!(mission["dispatchAttempts"], 1);
    assert_eq!(mission["summary"], "ok");
    assert_eq!(mission["startedAt"], "2026-01-01T00:00:01.000Z");
    assert_eq!(registry.body_of("s-0").unwrap()["completion"], "the agent process exits with status 0");
    assert!(folder.read("s").unwrap()["updatedAt"].is_string());
}

#[test]
fn refusals_for_now_are_tried_again_and_refusals_for_good_are_not() {
    let registry = Registry::start(AT_ONCE);
    registry.answer_next_with([
        Answer::Status(503, Some("0")),
        Answer::Status(500, None),
        Answer::Garbage,
        Answer::Status(429, None),
    ]);
    let folder = Watched::new();
    folder.queue("s", 1);
    let _bridge = Daemon::bridge(folder.root(), &registry.url, &FAST);
    assert_eq!(ends_as(&folder, "s-0", "done")["dispatchAttempts"], 5);

    for (n, (status, reason)) in [
        (400, "invalid_request"),
        (401, "unauthorized"),
        (404, "executor_not_found"),
        (409, "idempotency_conflict"),
        (422, "idempotency_key_reused"),
    ]
    .into_iter()
    .enumerate()
    {
        registry.answer_next_with([Answer::Status(status, None)]);
        let id = format!("refused-{n}");
        folder.put("s", &serde_json::json!({"missions": [{"id": id, "objective": "x", "status": "queued"}]}));
        let mission = ends_as(&folder, &id, "failed");
        assert_eq!(mission["failureReason"], reason);
        assert_eq!(mission["failureMessage"], "as the test wants it");
        assert_eq!(mission["dispatchAttempts"], 1);
        assert!(mission["failedAt"].is_string());
    }
}

#[test]
fn attempts_run_out_with_the_reason_of_the_last_refusal() {
    let registry = Registry::start(AT_ONCE);
    registry.answer_next_with(vec![Answer::Status(503, None); 3]);
    let folder = Watched::new();
    folder.queue("s", 1);
    let _bridge =
        Daemon::bridge(folder.root(), &registry.url, &[&FAST[..], &["--max-attempts", "3"]].concat());
    let mission = ends_as(&folder, "s-0", "failed");
    assert_eq!(mission["failureReason"], "no_executor_available");
    assert_eq!(mission["dispatchAttempts"], 3);
    assert_eq!(registry.runs().len(), 0);
}

#[test]
fn an_answer_that_breaks_off_is_asked_about_and_the_mission_runs_once() {
    let registry = Registry::start(Behaviour { is_idempotent: false, ..AT_ONCE });
    registry.answer_next_with([Answer::RunsButBreaksOff, Answer::HalfABody, Answer::RunsButBreaksOff]);
    let folder = Watched::new();
    folder.queue("s", 3);
    let _bridge = Daemon::bridge(folder.root(), &registry.url, &FAST);
    for n in 0..3 {
        ends_as(&folder, &format!("s-{n}"), "done");
    }
    assert!(registry.runs().values().all(|count| *count == 1), "{:?}", registry.runs());
}

#[test]
fn an_answer_that_never_comes_is_given_up_and_asked_about() {
    let registry = Registry::start(Behaviour { is_idempotent: false, ..AT_ONCE });
    registry.answer_next_with([Answer::Never]);
    let folder = Watched::new();
    folder.queue("s", 1);
    let _bridge =
        Daemon::bridge(folder.root(), &registry.url, &[&FAST[..], &["--request-timeout", "300ms"]].concat());
    ends_as(&folder, "s-0", "done");
    assert_eq!(registry.runs()["s-0"], 1);
}

#[test]
fn a_registry_that_goes_away_costs_no_mission_an_attempt() {
    let mut registry = Registry::start(AT_ONCE);
    registry.go_away();
    let folder = Watched::new();
    folder.queue("s", 200);
    let mut bridge = Daemon::bridge(folder.root(), &registry.url, &FAST);
    let status = folder.root().join("bridge-status.json");
    eventually("the status file to say that nobody is there", PATIENCE, || {
        let status: Value = serde_json::from_str(&std::fs::read_to_string(&status).ok()?).ok()?;
        status["unreachableSince"].as_str().map(str::to_owned)
    });
    assert_eq!(folder.count("s", "queued"), Some(200));
    registry.come_back();
    eventually("everything to be done", Duration::from_secs(60), || {
        (folder.count("s", "done")? == 200).then_some(())
    });
    let missions = folder.read("s").unwrap()["missions"].clone();
    assert!(missions.as_array().unwrap().iter().all(|mission| mission["dispatchAttempts"] == 1));
    assert!(registry.runs().values().all(|count| *count == 1));
    assert!(bridge.terminate().success());
    let status: Value = serde_json::from_str(&std::fs::read_to_string(&status).unwrap()).unwrap();
    assert_eq!(status["ended"], true);
}

#[test]
fn at_most_so_many_requests_are_open() {
    let registry = Registry::start(AT_ONCE);
    registry.answer_next_with(vec![Answer::Never; 4]);
    let folder = Watched::new();
    folder.queue("s", 20);
    let mut bridge = Daemon::bridge(
        folder.root(),
        &registry.url,
        &[&FAST[..], &["--max-inflight", "4", "--drain-timeout", "200ms"]].concat(),
    );
    eventually("four requests", PATIENCE, || (registry.dispatches() == 4).then_some(()));
    assert!(bridge.terminate().success());
    assert_eq!(registry.dispatches(), 4);
}

#[test]
fn a_mission_that_the_registry_forgot_is_named_with_what_to_do() {
    let registry = Registry::start(Behaviour { ends_after: Duration::from_secs(600), ..AT_ONCE });
    let folder = Watched::new();
    let bridge = Daemon::bridge(folder.root(), &registry.url, &FAST);
    folder.queue("s", 1);
    ends_as(&folder, "s-0", "running");
    registry.forget();
    eventually("the status file to name it", PATIENCE, || {
        let status = std::fs::read_to_string(folder.root().join("bridge-status.json")).ok()?;
        let status: Value = serde_json::from_str(&status).ok()?;
        let why = status["delayed"][0]["why"].as_str()?;
        (status["delayed"][0]["mission"] == "s-0" && why.contains("does not know")).then_some(())
    });
    assert!(bridge.said().contains("abort it, and retry it"));
    folder.edit("s", "s-0", |mission| mission["status"] = "aborted".into());
    ends_as(&folder, "s-0", "aborted");
}

#[test]
fn a_mission_that_the_registry_forgot_is_asked_of_its_executor() {
    let registry = Registry::start(Behaviour { ends_after: Duration::from_secs(600), ..AT_ONCE });
    let executor = Registry::start(AT_ONCE);
    let folder = Watched::new();
    let _bridge = Daemon::bridge(folder.root(), &registry.url, &FAST);
    folder.queue("s", 1);
    ends_as(&folder, "s-0", "running");
    // The registry keeps nothing and was started again; the executor has registered with the new one.
    registry.executor_is_at(&executor.url);
    executor.knows("s-0");
    registry.forget();
    assert_eq!(ends_as(&folder, "s-0", "done")["summary"], "ok");
}

#[test]
fn a_registry_that_knows_no_agents_is_sent_the_mission_without() {
    let registry = Registry::start(AT_ONCE);
    registry.answer_next_with([Answer::Says(400, "executor_filter/agent_id must NOT be there")]);
    let folder = Watched::new();
    let bridge = Daemon::bridge(folder.root(), &registry.url, &FAST);
    folder.put(
        "s",
        &serde_json::json!({"missions": [{"id": "m", "objective": "x", "status": "queued", "targetAgent": "a"}]}),
    );
    assert_eq!(ends_as(&folder, "m", "done")["dispatchAttempts"], 1);
    assert_eq!(registry.body_of("m").unwrap()["executor_filter"].get("agent_id"), None);
    assert!(bridge.said().contains("refuses to be told which agent"));
}
