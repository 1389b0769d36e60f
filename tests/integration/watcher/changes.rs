//! Sessions that come, change and go.

use super::reader::{Reader, believed, put};
use aiwg_rs::watcher::WatchMode;
use std::fs::{self, File, FileTimes};
use std::io::Write as _;
use std::time::{Duration, SystemTime};

const BOTH: [WatchMode; 2] = [WatchMode::Native, WatchMode::Poll];

async fn started(mode: WatchMode, sessions: &[(&str, &str)]) -> Reader {
    let mut reader = Reader::start(mode, |root| {
        fs::create_dir_all(root.join("sessions")).unwrap();
        for (name, text) in sessions {
            put(&root.join("sessions").join(name), text);
        }
    });
    reader.until_believed(&believed(sessions.iter().copied())).await;
    reader.until("the first sweep", |r| r.sweeps > 0 && r.native == Some(mode == WatchMode::Native)).await;
    reader
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_sessions_made_at_once_are_all_seen() {
    for mode in BOTH {
        let mut reader = started(mode, &[]).await;
        let sessions = reader.root.join("sessions");
        let making = tokio::task::spawn_blocking(move || {
            for index in 0..2000 {
                put(&sessions.join(format!("s{index}")), &format!("{{{index}}}"));
            }
        });
        let expected = believed((0..2000).map(|index| (format!("s{index}"), format!("{{{index}}}"))));
        reader.until_believed(&expected).await;
        making.await.unwrap();
        reader.end().await;
    }
}

#[tokio::test]
async fn a_queue_of_hints_that_runs_over_leads_to_a_sweep() {
    let mut reader = started(WatchMode::Native, &[]).await;
    // The runtime has this one thread: while it makes files nobody takes hints.
    for index in 0..6000 {
        put(&reader.session(&format!("s{index}")), "{}");
    }
    let expected = believed((0..6000).map(|index| (format!("s{index}"), "{}")));
    reader.until_believed(&expected).await;
    assert!(reader.sweeps >= 2, "{} sweeps", reader.sweeps);
    reader.end().await;
}

#[tokio::test]
async fn every_way_of_writing_is_seen() {
    for mode in BOTH {
        let mut reader = started(mode, &[("a", "{0}")]).await;
        let directory = reader.session("a");
        let file = directory.join("session.json");

        put(&directory, "{renamed over}");
        reader.until_believed(&believed([("a", "{renamed over}")])).await;

        fs::write(&file, "{written in place}").unwrap();
        reader.until_believed(&believed([("a", "{written in place}")])).await;

        for round in 0..20 {
            let text = format!("{{same size {round:03}}}");
            File::options()
                .write(true)
                .truncate(true)
                .open(&file)
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
            reader.until_believed(&believed([("a", text)])).await;
        }

        let old = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
        let beside = directory.join(".session.json.old.tmp");
        fs::write(&beside, "{same size 999}").unwrap();
        File::options().write(true).open(&beside).unwrap().set_times(old).unwrap();
        rustix::fs::rename(&beside, &file).unwrap();
        reader.until_believed(&believed([("a", "{same size 999}")])).await;
        reader.end().await;
    }
}

#[tokio::test]
async fn a_session_that_is_removed_and_made_again_is_followed() {
    for mode in BOTH {
        let mut reader = started(mode, &[("a", "{0}"), ("b", "{0}")]).await;
        let directory = reader.session("a");
        for round in 1..30 {
            fs::remove_dir_all(&directory).unwrap();
            if round % 3 == 0 {
                reader.until_believed(&believed([("b", "{0}")])).await;
            }
            put(&directory, &format!("{{{round}}}"));
            if round % 2 == 0 {
                reader.until_believed(&believed([("a", format!("{{{round}}}")), ("b", "{0}".into())])).await;
            }
        }
        fs::write(directory.join("session.json"), "{in the last one}").unwrap();
        reader.until_believed(&believed([("a", "{in the last one}"), ("b", "{0}")])).await;
        rustix::fs::rename(&directory, reader.session("c")).unwrap();
        reader.until_believed(&believed([("b", "{0}"), ("c", "{in the last one}")])).await;
        put(&reader.session("c"), "{under its new name}");
        reader.until_believed(&believed([("b", "{0}"), ("c", "{under its new name}")])).await;
        reader.end().await;
    }
}

#[tokio::test]
async fn a_torn_session_is_read_again_until_it_is_whole() {
    for mode in BOTH {
        let mut reader = started(mode, &[("a", "{0}")]).await;
        let path = reader.session("a").join("session.json");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"{half").unwrap();
        let changes = reader.changes;
        reader.until("three looks at the torn file", |r| r.changes >= changes + 3).await;
        file.write_all(b" and half}").unwrap();
        drop(file);
        reader.until_believed(&believed([("a", "{half and half}")])).await;
        reader.end().await;
    }
}

#[tokio::test]
async fn journals_locks_and_temporary_files_wake_nobody() {
    let mut reader = started(WatchMode::Native, &[("a", "{0}")]).await;
    let directory = reader.session("a");
    put(&directory, "{settled}");
    reader.until_believed(&believed([("a", "{settled}")])).await;
    let before = reader.changes;
    for _ in 0..500 {
        let mut log = File::options().create(true).append(true).open(directory.join("log.jsonl")).unwrap();
        log.write_all(b"{\"event\":\"x\"}\n").unwrap();
        drop(fs::read(directory.join("session.json")).unwrap());
        fs::write(directory.join(".session.json.1.tmp"), "{}").unwrap();
        fs::write(directory.join("session.json.lock"), "").unwrap();
    }
    fs::remove_file(directory.join(".session.json.1.tmp")).unwrap();
    put(&reader.session("last"), "{1}");
    reader.until_believed(&believed([("a", "{settled}"), ("last", "{1}")])).await;
    // The events of one directory come in order: had one of them counted, its notice would be here.
    assert!(reader.changes - before <= 2 + 1, "{} notices", reader.changes - before);
    reader.end().await;
}

#[tokio::test]
async fn a_link_that_leads_outside_is_never_told_about() {
    for mode in BOTH {
        let mut reader = started(mode, &[("a", "{0}")]).await;
        let outside = reader.folder.path().join("outside");
        put(&outside, "{secret}");
        std::os::unix::fs::symlink(&outside, reader.session("evil")).unwrap();
        let half = reader.session("half-evil");
        fs::create_dir(&half).unwrap();
        std::os::unix::fs::symlink(outside.join("session.json"), half.join("session.json")).unwrap();
        put(&reader.session("z"), "{1}");
        let mut all = believed([("a", "{0}"), ("z", "{1}")]);
        reader.until_believed(&all).await;
        put(&outside, "{secret again}");
        put(&reader.session("z"), "{2}");
        all.insert("z".into(), "{2}".into());
        reader.until_believed(&all).await;
        reader.end().await;
    }
}
