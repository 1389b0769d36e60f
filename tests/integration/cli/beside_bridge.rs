//! Command: the verbs beside a running bridge: it says why a mission waits, and does what a verb wrote.

use super::Desk;
use crate::support::DEADLINE;
use crate::support::daemon::Daemon;
use crate::support::eventually::eventually;
use serde_json::Value;
use std::net::TcpListener;

/// Asks for a mission's reason until it is `cause`, and returns it.
fn reason(desk: &Desk, mission: &str, cause: &str) -> Value {
    eventually(cause, DEADLINE, || {
        let lines = desk.mc(&["status", mission, "--json"]).json();
        let waits = lines.last()?.get("waits")?.clone();
        (waits["cause"] == cause).then_some(waits)
    })
}

/// Starts a registry and returns its address.
fn registry(desk: &Desk) -> (Daemon, String) {
    let state = desk.root().join("registry");
    let state = state.to_str().unwrap();
    let daemon =
        Daemon::start(["--log-format", "json", "serve", "--bind", "127.0.0.1:0", "--state-dir", state]);
    let url = eventually("the registry listens", DEADLINE, || {
        let said = daemon.said();
        let rest = said.split("listening on ").nth(1)?;
        rest.split('"').next().map(str::to_owned)
    });
    (daemon, url)
}

#[test]
fn an_absent_registry_is_named_with_its_address_and_the_cause() {
    let desk = Desk::new();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{nobody}");
    let mut bridge = Daemon::bridge(desk.root(), &url, &[]);
    let id = desk.mc(&["dispatch", "x"]).answer();
    let waits = reason(&desk, &id, "registry_unreachable");
    assert!(waits["text"].as_str().unwrap().starts_with(&format!("{url} has not answered for ")), "{waits}");
    assert!(waits["since"].is_string());
    bridge.kill();
    let waits = reason(&desk, &id, "no_bridge");
    assert!(
        waits["text"].as_str().unwrap().contains("was killed"),
        "at once, and not when it is stale: {waits}"
    );
    let code = desk.mc(&["wait", &id, "--timeout", "100ms"]).code;
    assert_eq!(code, 124);
}

#[test]
fn a_mission_that_nobody_can_run_says_so_until_it_is_aborted() {
    let desk = Desk::new();
    let (_registry, url) = registry(&desk);
    let mut bridge = Daemon::bridge(desk.root(), &url, &["--on-no-executor", "hold"]);
    let id = desk.mc(&["dispatch", "x", "--capability", "gpu"]).answer();
    let waits = reason(&desk, &id, "held_up");
    assert!(waits["text"].as_str().unwrap().contains("executor"), "{waits}");
    desk.mc(&["abort", &id]).answer();
    let ran = desk.mc(&["wait", &id, "--for", "aborted", "--timeout", "20s"]);
    assert_eq!((ran.code, ran.out), (0, format!("{id} aborted: by operator\n")));
    eventually("the bridge lets go of it", DEADLINE, || {
        let lines = desk.mc(&["status", &id]).json();
        (lines[0]["bridge"]["status"]["delayed"].as_array()?.is_empty()).then_some(())
    });
    assert!(bridge.terminate().success());
    let lines = desk.mc(&["status"]).json();
    assert_eq!(lines[0]["bridge"]["running"], false);
}
