//! Files as they really lie about, beside one healthy session that must go on whatever the others are like.

use super::Watched;
use super::registry::{Behaviour, Registry};
use crate::support::daemon::Daemon;
use crate::support::eventually::eventually;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(40);
const AT_ONCE: Behaviour = Behaviour { is_idempotent: true, ends_after: Duration::ZERO };

fn done(folder: &Watched, session: &str, count: usize) {
    eventually(&format!("{session} to be done"), PATIENCE, || {
        (folder.count(session, "done")? == count).then_some(())
    });
}

fn status(folder: &Watched) -> Option<Value> {
    serde_json::from_str(&fs::read_to_string(folder.root().join("bridge-status.json")).ok()?).ok()
}

#[test]
fn unreadable_files_are_left_alone_named_with_line_and_column_and_taken_up_when_they_are_whole() {
    let registry = Registry::start(AT_ONCE);
    let folder = Watched::new();
    let whole = r#"{"missions":[{"id":"late","objective":"x","status":"queued"}]}"#;
    let broken: [(&str, Vec<u8>); 6] = [
        ("empty", Vec::new()),
        ("torn", whole.as_bytes()[..40].to_vec()),
        ("bom", [b"\xef\xbb\xbf", whole.as_bytes()].concat()),
        ("latin1", b"{\"name\":\"caf\xe9\",\"missions\":[]}".to_vec()),
        ("array", b"[1,2]".to_vec()),
        ("trailing", [whole.as_bytes(), b" }"].concat()),
    ];
    for (session, bytes) in &broken {
        folder.put_text(session, "");
        fs::write(folder.file(session), bytes).unwrap();
    }
    folder.queue("healthy", 3);
    let mut bridge = Daemon::bridge(folder.root(), &registry.url, &["--no-ws"]);
    done(&folder, "healthy", 3);
    let unreadable = eventually("all of them to be named", PATIENCE, || {
        let unreadable = status(&folder)?["unreadable"].as_array()?.clone();
        (unreadable.len() == broken.len()).then_some(unreadable)
    });
    let torn = unreadable.iter().find(|entry| entry["session"] == "torn").unwrap();
    assert_eq!((torn["line"].as_u64(), torn["column"].as_u64()), (Some(1), Some(41)), "{torn}");
    for (session, bytes) in &broken {
        assert_eq!(&fs::read(folder.file(session)).unwrap(), bytes, "{session} was written to");
    }
    fs::write(folder.file("torn"), whole).unwrap();
    done(&folder, "torn", 1);
    assert!(bridge.terminate().success());
}

#[test]
fn what_is_merely_odd_works_and_survives_byte_for_byte() {
    let registry = Registry::start(AT_ONCE);
    let folder = Watched::new();
    let deep = format!("{}1{}", "[".repeat(1000), "]".repeat(1000));
    let odd = format!(
        "{{\n  \"big\": 12345678901234567890123,\n  \"spelled\": 1.10e+02,\n  \"twice\": 1,\n  \"twice\": 2,\n  \"deep\": {deep},\n  \
         \"missions\": [\n    {{\"id\": \"m\", \"objective\": \"x\", \"status\": \"queued\", \"n\": -0.0, \"n\": 1E400, \
         \"u\": \"\\ud800 \\u00e9 \\/\", \"metadata\": {{\"k\": 98765432109876543210}}}},\n    \
         {{\"id\": \"m\", \"objective\": \"the second of two\", \"status\": \"queued\"}},\n    17, null, {{}}\n  ]\n}}\n"
    );
    folder.put_text("odd", &odd);
    let mut bridge = Daemon::bridge(folder.root(), &registry.url, &["--no-ws"]);
    eventually("it to be done", PATIENCE, || {
        fs::read_to_string(folder.file("odd")).ok()?.contains("\"done\"").then_some(())
    });
    assert!(bridge.terminate().success());
    let text = fs::read_to_string(folder.file("odd")).unwrap();
    for kept in [
        "\"big\": 12345678901234567890123,\n  \"spelled\": 1.10e+02,\n  \"twice\": 1,\n  \"twice\": 2,\n",
        &deep,
        "\"n\": -0.0, \"n\": 1E400, \"u\": \"\\ud800 \\u00e9 \\/\", \"metadata\": {\"k\": 98765432109876543210}",
        "{\"id\": \"m\", \"objective\": \"the second of two\", \"status\": \"queued\"},\n    17, null, {}\n",
    ] {
        assert!(text.contains(kept), "lost: {kept:.80}\n{text:.400}");
    }
    assert_eq!(registry.dispatches(), 1);
    assert_eq!(registry.body_of("m").unwrap()["objective"], "x");
}

#[test]
fn a_session_of_fifty_megabytes_works_beside_a_small_one() {
    let registry = Registry::start(AT_ONCE);
    let folder = Watched::new();
    let ballast = "x".repeat(50 * 1024 * 1024);
    folder.put_text(
        "large",
        &format!(
            r#"{{"ballast":"{ballast}","missions":[{{"id":"big","objective":"x","status":"queued"}}]}}"#
        ),
    );
    folder.queue("small", 5);
    let mut bridge = Daemon::bridge(folder.root(), &registry.url, &["--no-ws"]);
    done(&folder, "small", 5);
    eventually("the large one to be done", PATIENCE, || {
        fs::read_to_string(folder.file("large")).ok()?.contains("\"done\"").then_some(())
    });
    assert!(fs::read_to_string(folder.file("large")).unwrap().contains(&ballast));
    assert!(bridge.terminate().success());
}

#[test]
fn sessions_that_move_vanish_or_lead_outside_harm_nobody() {
    let registry = Registry::start(Behaviour { ends_after: Duration::from_millis(400), ..AT_ONCE });
    let folder = Watched::new();
    let outside = tempfile::tempdir().unwrap();
    fs::write(
        outside.path().join("session.json"),
        r#"{"missions":[{"id":"out","objective":"x","status":"queued"}]}"#,
    )
    .unwrap();
    std::os::unix::fs::symlink(outside.path(), folder.root().join("sessions/escape")).unwrap();
    for session in ["moves", "vanishes", "stays"] {
        folder.queue(session, 2);
    }
    let mut bridge = Daemon::bridge(folder.root(), &registry.url, &["--no-ws"]);
    eventually("all of them to be taken", PATIENCE, || (registry.dispatches() == 6).then_some(()));
    #[expect(clippy::disallowed_methods, reason = "another program's rename")]
    fs::rename(folder.root().join("sessions/moves"), folder.root().join("sessions/moved")).unwrap();
    // As `rm -r` would be run again when something was put in meanwhile.
    eventually("it to be gone", PATIENCE, || {
        fs::remove_dir_all(folder.root().join("sessions/vanishes")).ok()
    });
    done(&folder, "stays", 2);
    // Its journal moved with it, so that it is known there: nothing is sent again.
    done(&folder, "moved", 2);
    assert_eq!(registry.dispatches(), 6);
    assert!(registry.body_of("out").is_none());
    assert!(bridge.terminate().success());
}

#[test]
fn a_session_counts_under_its_directorys_name_only_and_its_own_is_told_where_it_can_be() {
    let registry = Registry::start(AT_ONCE);
    let folder = Watched::new();
    let session = |id: &str, mission: &str| serde_json::json!({"id": id, "missions": [{"id": mission, "objective": "x", "status": "queued"}]});
    folder.put("real", &session("another name", "m-1"));
    folder.put("odd", &session("..", "m-2"));
    let sessions = folder.root().join("sessions");
    std::os::unix::fs::symlink("real", sessions.join("alias")).unwrap();
    fs::create_dir(sessions.join("borrows")).unwrap();
    std::os::unix::fs::symlink("../real/session.json", sessions.join("borrows/session.json")).unwrap();
    let mut bridge = Daemon::bridge(folder.root(), &registry.url, &["--no-ws"]);
    done(&folder, "real", 1);
    done(&folder, "odd", 1);
    folder.queue("later", 1);
    done(&folder, "later", 1);
    assert_eq!(registry.dispatches(), 3, "nothing went out under the other names");
    assert_eq!(registry.body_of("m-1").unwrap()["metadata"]["mc_session_id"], "another name");
    assert_eq!(registry.body_of("m-2").unwrap()["metadata"]["mc_session_id"], "odd");
    assert!(bridge.terminate().success());
    let said = bridge.said();
    assert_eq!(said.matches("another id than its directory is called").count(), 2, "{said}");
    assert!(said.contains("is a link to another session"), "{said}");
}

#[test]
fn a_file_that_cannot_be_written_is_written_as_soon_as_it_can_be() {
    let registry = Registry::start(AT_ONCE);
    let folder = Watched::new();
    folder.queue("s", 1);
    folder.queue("t", 1);
    let directory = folder.file("s").parent().unwrap().to_owned();
    fs::write(directory.join("log.jsonl"), "").unwrap();
    fs::write(directory.join("session.json.lock"), "").unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(directory.join("probe"), "").is_ok() {
        println!("skipped: this user may write into a read-only directory");
        return;
    }
    let mut bridge = Daemon::bridge(folder.root(), &registry.url, &["--no-ws"]);
    done(&folder, "t", 1);
    eventually("the trouble to be named", PATIENCE, || {
        status(&folder)?["unwritable"].as_array()?.iter().find(|entry| entry["session"] == "s").cloned()
    });
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    done(&folder, "s", 1);
    assert!(bridge.terminate().success());
}

#[test]
fn a_log_that_is_a_pipe_holds_up_its_session_only_and_says_so() {
    let registry = Registry::start(AT_ONCE);
    let folder = Watched::new();
    let log = folder.file("s").with_file_name("log.jsonl");
    fs::create_dir_all(log.parent().unwrap()).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &log, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    folder.queue("s", 1);
    folder.queue("t", 1);
    let mut bridge = Daemon::bridge(folder.root(), &registry.url, &["--no-ws"]);
    eventually("the other session", PATIENCE, || (folder.count("t", "done")? == 1).then_some(()));
    eventually("a word about it", PATIENCE, || bridge.said().contains("no regular file").then_some(()));
    fs::remove_file(&log).unwrap();
    eventually("it to go on", PATIENCE * 2, || (folder.count("s", "done")? == 1).then_some(()));
    assert!(bridge.terminate().success());
}

#[test]
fn a_log_that_nobody_reads_holds_up_nothing() {
    let registry = Registry::start(AT_ONCE);
    let folder = Watched::new();
    let mut bridge = std::process::Command::new(env!("CARGO_BIN_EXE_aiwg-rs"))
        .args(["mc", "bridge", "--no-ws", "--log", "trace", "--serve-url", &registry.url, "--watch-dir"])
        .arg(folder.root())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    folder.queue("s", 500);
    eventually("all of them", PATIENCE, || (folder.count("s", "done")? == 500).then_some(()));
    rustix::process::kill_process(rustix::process::Pid::from_child(&bridge), rustix::process::Signal::TERM)
        .unwrap();
    let ended = eventually("its end", PATIENCE, || bridge.try_wait().unwrap());
    assert!(ended.success(), "{ended}");
}
