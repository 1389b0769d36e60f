//! Other writers at the worst instants. The closure that `update` calls is such an instant: the file has been read, the
//! new version is not in place yet.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;

use aiwg_rs::disk::fsync::FsyncPolicy;
use aiwg_rs::disk::wait;
use aiwg_rs::domain::id::SessionId;
use aiwg_rs::session::document::Document;
use aiwg_rs::session::edits::{Edits, MissionPatch};
use aiwg_rs::session::recovery::Recovered;
use aiwg_rs::session::store::{ReadError, UpdateError, WriteMode};
use std::time::Duration;

use crate::support::folder::Folder;

const BOTH: [WriteMode; 2] = [WriteMode::Exchange, WriteMode::Plain];

fn ours(document: &Document) -> Option<Vec<u8>> {
    let mut edits = Edits::new();
    edits.patch_mission("m0", MissionPatch::new().with("ours", "1"));
    document.apply(&edits)
}

fn has(text: &str, fields: &[&str]) {
    let document = Document::parse(text).unwrap();
    for field in fields {
        assert!(
            document.missions().any(|mission| mission.field(field).is_some()),
            "{field} is lost in {text}"
        );
    }
    assert_eq!(document.mission("m0").unwrap().field("odd"), Some("1.10"));
}

#[test]
fn an_update_alone_changes_only_its_own_bytes() {
    for mode in BOTH {
        let folder = Folder::with_missions(2);
        let before = folder.text();
        let updated = folder.store(mode).update(&folder.session, &mut ours).unwrap();
        let expected = before.replacen("1.10", "1.10,\n      \"ours\": 1", 1);
        assert_eq!(folder.text(), expected);
        assert_eq!(updated.document.text(), expected);
        assert_eq!((updated.wrote, updated.foreign_bases), (true, 0));
        assert_eq!(updated.bytes_written, u64::try_from(expected.len()).unwrap());
        assert_eq!(folder.store(mode).identity(&folder.session).unwrap(), Some(updated.identity));
        let again = folder.store(mode).update(&folder.session, &mut ours).unwrap();
        assert!(!again.wrote);
        assert_eq!(again.identity, updated.identity);
        assert_eq!(folder.neighbours(), [""; 0]);
    }
}

#[test]
fn what_was_written_after_we_had_read_is_built_upon() {
    for mode in BOTH {
        let folder = Folder::with_missions(2);
        let mut calls = 0;
        let updated = folder.store(mode).update(&folder.session, &mut |document| {
            calls += 1;
            if calls == 1 {
                fs::write(folder.file(), folder.text().replacen("1.10", "1.10, \"theirs\": 2", 1)).unwrap();
            }
            ours(document)
        });
        let updated = updated.unwrap();
        has(&folder.text(), &["ours", "theirs"]);
        assert_eq!((calls, updated.foreign_bases), (2, 1));
        assert_eq!(updated.document.text(), folder.text());
        assert_eq!(folder.neighbours(), [""; 0]);
    }
}

#[test]
fn a_known_version_is_used_while_it_is_in_the_file_and_not_longer() {
    for mode in BOTH {
        let folder = Folder::with_missions(2);
        let store = folder.store(mode);
        let known = store.read(&folder.session).unwrap();
        let same = |document: &Document| std::ptr::eq(document, known.document.as_ref());
        let mut was_known = Vec::new();
        let updated = store.update_from(&folder.session, Some(&known), &mut |document| {
            was_known.push(same(document));
            ours(document)
        });
        assert!(updated.unwrap().wrote);
        fs::write(folder.file(), folder.text().replacen("1.10", "1.10, \"theirs\": 2", 1)).unwrap();
        let updated = store.update_from(&folder.session, Some(&known), &mut |document| {
            was_known.push(same(document));
            ours(document)
        });
        assert!(!updated.unwrap().wrote);
        assert_eq!(was_known, [true, false]);
        has(&folder.text(), &["ours", "theirs"]);
    }
}

#[test]
fn a_file_renamed_over_ours_after_we_had_read_is_built_upon() {
    for mode in BOTH {
        let folder = Folder::with_missions(2);
        let mut calls = 0;
        let updated = folder.store(mode).update(&folder.session, &mut |document| {
            calls += 1;
            if calls == 1 {
                let text = folder.text().replacen("1.10", "1.10, \"theirs\": 2", 1);
                aiwg_rs::disk::atomic::write(&folder.file(), text.as_bytes(), FsyncPolicy::Never).unwrap();
            }
            ours(document)
        });
        assert_eq!(updated.unwrap().foreign_bases, 1);
        has(&folder.text(), &["ours", "theirs"]);
    }
}

#[test]
fn writers_that_come_in_every_round_all_survive() {
    for mode in BOTH {
        let folder = Folder::with_missions(2);
        let mut calls = 0;
        let updated = folder.store(mode).update(&folder.session, &mut |document| {
            calls += 1;
            if calls < 6 {
                let field = format!("1.10, \"theirs{calls}\": 2");
                fs::write(folder.file(), folder.text().replacen("1.10", &field, 1)).unwrap();
            }
            ours(document)
        });
        assert_eq!(updated.unwrap().foreign_bases, 5);
        has(&folder.text(), &["ours", "theirs1", "theirs2", "theirs3", "theirs4", "theirs5"]);
        assert_eq!(folder.neighbours(), [""; 0]);
    }
}

#[test]
fn a_writer_who_still_has_the_old_file_open_is_waited_for() {
    for mode in BOTH {
        let folder = Folder::with_missions(2);
        let text = folder.text().replacen("1.10", "1.10, \"theirs\": 2", 1);
        let (head, rest) = text.split_at(40);
        let mut writers = Vec::new();
        let updated = folder.store(mode).update(&folder.session, &mut |document| {
            if writers.is_empty() {
                let mut file = OpenOptions::new().write(true).open(folder.file()).unwrap();
                let (head, rest) = (head.to_owned(), rest.to_owned());
                file.set_len(0).unwrap();
                file.write_all(head.as_bytes()).unwrap();
                writers.push(std::thread::spawn(move || {
                    wait::rest(Duration::from_millis(150));
                    file.write_all(rest.as_bytes()).unwrap();
                }));
            }
            ours(document)
        });
        let updated = updated.unwrap();
        writers.pop().unwrap().join().unwrap();
        has(&folder.text(), &["ours", "theirs"]);
        assert!(updated.foreign_bases > 0);
        assert_eq!(folder.neighbours(), [""; 0]);
    }
}

#[test]
fn a_writer_who_dies_before_we_write_leaves_a_torn_file_and_nothing_is_written_over_it() {
    let folder = Folder::with_missions(2);
    let result = folder.store(WriteMode::Exchange).update(&folder.session, &mut |document| {
        fs::write(folder.file(), "{\"missions\": [").unwrap();
        ours(document)
    });
    assert!(matches!(result, Err(UpdateError::Torn { .. })));
    assert_eq!(folder.text(), "{\"missions\": [");
    assert_eq!(folder.neighbours(), [""; 0]);
}

#[test]
fn a_writer_who_keeps_the_file_open_keeps_the_file_and_loses_nothing_however_late_it_writes() {
    let folder = Folder::with_missions(2);
    let (path, before) = (folder.file(), folder.text());
    let inode = || fs::metadata(&path).unwrap().ino();
    let first = inode();
    let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
    let store = folder.store(WriteMode::Exchange);
    let error = store.update(&folder.session, &mut ours).unwrap_err();
    assert!(matches!(error, UpdateError::HeldOpen { .. }) && error.hint().is_some(), "{error}");
    assert_eq!((inode(), folder.text()), (first, before.clone()));
    assert_eq!(folder.neighbours(), [""; 0]);
    writer.write_all(before.replacen("1.10", "1.10, \"theirs\": 2", 1).as_bytes()).unwrap();
    drop(writer);
    store.update(&folder.session, &mut ours).map(drop).unwrap();
    has(&folder.text(), &["ours", "theirs"]);
    assert_eq!(folder.neighbours(), [""; 0]);
}

#[test]
fn a_torn_file_is_read_again_until_it_is_whole() {
    let folder = Folder::with_missions(2);
    let text = folder.text();
    fs::write(folder.file(), &text[..40]).unwrap();
    let path = folder.file();
    let writer = std::thread::spawn(move || {
        wait::rest(Duration::from_millis(120));
        fs::write(path, text).unwrap();
    });
    folder.store(WriteMode::Exchange).update(&folder.session, &mut ours).map(drop).unwrap();
    writer.join().unwrap();
    has(&folder.text(), &["ours"]);
}

#[test]
fn a_file_that_stays_torn_is_never_written_to() {
    let folder = Folder::with_missions(1);
    fs::write(folder.file(), "{\n  \"missions\": [\n").unwrap();
    let error =
        folder.store(WriteMode::Exchange).update(&folder.session, &mut |_| panic!("torn")).unwrap_err();
    let UpdateError::Torn { source, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!((source.line, source.column), (3, 1));
    assert_eq!(folder.text(), "{\n  \"missions\": [\n");
    assert!(matches!(folder.store(WriteMode::Exchange).read(&folder.session), Err(ReadError::Torn { .. })));
}

#[test]
fn a_failure_in_the_second_round_gives_the_file_back_to_the_other_writer() {
    let folder = Folder::with_missions(2);
    let mut calls = 0;
    let error = folder.store(WriteMode::Exchange).update(&folder.session, &mut |document| {
        calls += 1;
        if calls == 2 {
            return Some(b"no session".to_vec());
        }
        fs::write(folder.file(), folder.text().replacen("1.10", "1.10, \"theirs\": 2", 1)).unwrap();
        ours(document)
    });
    assert!(matches!(error, Err(UpdateError::Invalid { .. })));
    has(&folder.text(), &["theirs"]);
    assert!(!folder.text().contains("ours"));
    folder.store(WriteMode::Exchange).recover(&folder.session).unwrap();
    has(&folder.text(), &["theirs"]);
    assert_eq!(folder.neighbours(), [""; 0]);
}

#[test]
fn an_endless_rewriter_is_given_the_file_back() {
    let folder = Folder::with_missions(1);
    let mut calls = 0;
    let error = folder.store(WriteMode::Exchange).update(&folder.session, &mut |document| {
        calls += 1;
        let field = format!("1.10, \"theirs{calls}\": 2");
        fs::write(folder.file(), folder.text().replacen("1.10", &field, 1)).unwrap();
        ours(document)
    });
    assert!(matches!(error, Err(UpdateError::Contended { .. })));
    let fields: Vec<String> = (1..=calls).map(|n| format!("theirs{n}")).collect();
    folder.store(WriteMode::Exchange).recover(&folder.session).unwrap();
    has(&folder.text(), &fields.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(folder.neighbours(), [""; 0]);
}

#[test]
fn recovery_merges_what_only_a_leftover_holds_and_leaves_strangers_alone() {
    let folder = Folder::with_missions(1);
    let beside = |name: &str| folder.file().with_file_name(name);
    fs::write(beside(".session.json.abcdefgh.new.tmp"), "{\"half").unwrap();
    let lost = "{\"missions\": [{\"id\": \"m0\", \"status\": \"old\", \"theirs\": 1}, {\"id\": \"lost\"}]}";
    fs::write(beside(".session.json.0000000000000001-0000000000000002-3.tmp"), lost).unwrap();
    fs::write(beside(".session.json.0000000000000001-0000000000000002-4.tmp"), "{\"torn").unwrap();
    fs::write(beside(".session.json.swp"), "editor").unwrap();
    let recovered = folder.store(WriteMode::Exchange).recover(&folder.session).unwrap();
    assert_eq!((recovered.merged, recovered.removed, recovered.torn.len()), (1, 2, 1));
    let text = folder.text();
    has(&text, &["theirs"]);
    assert!(text.contains("\"queued\"") && !text.contains("\"old\"") && text.contains("\"lost\""));
    assert_eq!(folder.neighbours().len(), 2);
    assert_eq!(folder.store(WriteMode::Exchange).recover(&folder.session).unwrap(), Recovered::default());
}

#[test]
fn a_new_session_never_overwrites_one() {
    let folder = Folder::with_missions(1);
    let store = folder.store(WriteMode::Exchange);
    let now = aiwg_rs::domain::time::Timestamp::from_millis(0);
    assert!(!store.create_session(&folder.session, "again", 5, now).unwrap());
    let session = SessionId::new("s2").unwrap();
    assert!(store.create_session(&session, "new \"one\"", 5, now).unwrap());
    let reading = store.read(&session).unwrap();
    assert_eq!(reading.document.session_str("name").unwrap(), "new \"one\"");
    assert_eq!(reading.document.missions().len(), 0);
    assert_eq!(store.list().unwrap().sessions.len(), 2);
    assert_eq!(fs::read_dir(store.session_dir(&session)).unwrap().count(), 1);
}
