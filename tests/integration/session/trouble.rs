//! Disks that are full or read-only, links that lead out, folders that move away.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use aiwg_rs::disk::fsync::FsyncPolicy;
use aiwg_rs::domain::id::SessionId;
use aiwg_rs::session::document::Document;
use aiwg_rs::session::edits::{Edits, MissionPatch};
use aiwg_rs::session::store::{IgnoredReason, ReadError, SessionStore, UpdateError, WriteMode};

use crate::support::folder::{Folder, session_text};
use crate::support::mount::Mount;

fn grown(document: &Document) -> Option<Vec<u8>> {
    let mut edits = Edits::new();
    edits.patch_mission("m0", MissionPatch::new().with_str("ours", &"x".repeat(200_000)));
    document.apply(&edits)
}

fn small_folder(root: &Path) -> (SessionStore, SessionId) {
    let session = SessionId::new("s1").unwrap();
    let store = SessionStore::new(root, FsyncPolicy::Batch);
    fs::create_dir_all(store.session_dir(&session)).unwrap();
    fs::write(store.session_file(&session), session_text(1)).unwrap();
    (store, session)
}

#[test]
fn a_full_disk_changes_nothing_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::tmpfs(directory.path(), "256k") else {
        return;
    };
    let (store, session) = small_folder(mount.0);
    println!("a tmpfs is written by {:?}", store.write_mode().unwrap());
    store
        .update(&session, &mut |document| document.apply(Edits::new().set_session("n", "1")))
        .map(drop)
        .unwrap();
    let before = fs::read(store.session_file(&session)).unwrap();
    fs::write(directory.path().join("ballast"), vec![0; 100_000]).unwrap();
    let error = store.update(&session, &mut grown).unwrap_err();
    assert!(matches!(&error, UpdateError::Write { .. }), "{error}");
    assert!(error.hint().unwrap().contains("free some space"));
    assert_eq!(fs::read(store.session_file(&session)).unwrap(), before);
    assert_eq!(fs::read_dir(store.session_dir(&session)).unwrap().count(), 2);
    fs::remove_file(directory.path().join("ballast")).unwrap();
    store.update(&session, &mut grown).map(drop).unwrap();
}

#[test]
fn a_disk_that_fills_up_in_the_second_round_gives_the_file_back() {
    let directory = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::tmpfs(directory.path(), "256k") else {
        return;
    };
    let (store, session) = small_folder(mount.0);
    let store = store.with_mode(WriteMode::Exchange);
    let mut calls = 0;
    let result = store.update(&session, &mut |document| {
        calls += 1;
        if calls > 1 {
            return grown(document);
        }
        let theirs = session_text(1).replace("1.10", "1.10, \"theirs\": 2");
        fs::write(store.session_file(&session), theirs).unwrap();
        fs::write(directory.path().join("ballast"), vec![0; 100_000]).unwrap();
        document.apply(Edits::new().set_session("n", "1"))
    });
    assert!(matches!(result, Err(UpdateError::Write { .. })));
    fs::remove_file(directory.path().join("ballast")).unwrap();
    assert!(fs::read_to_string(store.session_file(&session)).unwrap().contains("theirs"));
    store.recover(&session).unwrap();
    assert!(fs::read_to_string(store.session_file(&session)).unwrap().contains("theirs"));
    assert_eq!(fs::read_dir(store.session_dir(&session)).unwrap().count(), 2);
}

#[test]
fn a_read_only_folder_is_read_and_refuses_updates() {
    let directory = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::tmpfs(directory.path(), "256k") else {
        return;
    };
    let (store, session) = small_folder(mount.0);
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(directory.path()).status().unwrap();
    assert!(remounted.success());
    assert_eq!(store.read(&session).unwrap().document.missions().len(), 1);
    let error = store.update(&session, &mut grown).unwrap_err();
    assert!(error.hint().unwrap().contains("writable"), "{error}");
}

#[test]
fn links_that_lead_out_or_to_another_session_are_refused_and_those_inside_are_followed() {
    let folder = Folder::with_missions(1);
    let store = folder.store(WriteMode::Exchange);
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("session.json"), session_text(1)).unwrap();
    let session = |name: &str| SessionId::new(name).unwrap();
    symlink(outside.path(), store.session_dir(&session("dir"))).unwrap();
    fs::create_dir(store.session_dir(&session("file"))).unwrap();
    symlink(outside.path().join("session.json"), store.session_file(&session("file"))).unwrap();
    let elsewhere = folder.root().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("session.json"), session_text(1)).unwrap();
    symlink(&elsewhere, store.session_dir(&session("inside"))).unwrap();
    symlink(store.session_dir(&folder.session), store.session_dir(&session("again"))).unwrap();
    symlink(&elsewhere, store.session_dir(&session("twice"))).unwrap();
    fs::create_dir(store.session_dir(&session("thrice"))).unwrap();
    symlink(elsewhere.join("session.json"), store.session_file(&session("thrice"))).unwrap();
    symlink("nowhere", store.session_dir(&session("dangling"))).unwrap();
    fs::create_dir(store.sessions_dir().join("not an id")).unwrap();
    fs::create_dir(store.session_dir(&session("empty"))).unwrap();
    fs::write(store.sessions_dir().join("a file"), "").unwrap();

    for name in ["dir", "file", "again", "twice", "thrice"] {
        assert!(matches!(store.read(&session(name)), Err(ReadError::Refused { .. })), "{name}");
        assert!(matches!(
            store.update(&session(name), &mut grown),
            Err(UpdateError::Read(ReadError::Refused { .. }))
        ));
    }
    store
        .update(&session("inside"), &mut |document| document.apply(Edits::new().set_session("n", "1")))
        .map(drop)
        .unwrap();
    assert!(fs::read_to_string(elsewhere.join("session.json")).unwrap().contains("\"n\": 1"));

    let listing = store.list().unwrap();
    let mut names: Vec<&str> = listing.sessions.iter().map(|(session, _)| session.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["inside", "s1"]);
    assert_eq!(listing.ignored.len(), 6);
    assert!(listing.ignored.iter().any(|ignored| matches!(ignored.reason, IgnoredReason::Name(_))));
    assert!(fs::read_to_string(outside.path().join("session.json")).unwrap() == session_text(1));
}

#[test]
fn a_session_that_moves_away_meanwhile_is_not_made_again() {
    for mode in [WriteMode::Exchange, WriteMode::Plain] {
        let folder = Folder::with_missions(1);
        let store = folder.store(mode);
        let away = folder.root().join("away");
        let error = store.update(&folder.session, &mut |document| {
            Command::new("mv").arg(store.session_dir(&folder.session)).arg(&away).status().unwrap();
            document.apply(Edits::new().set_session("n", "1"))
        });
        assert!(error.is_err());
        assert!(!store.session_dir(&folder.session).exists());
        assert_eq!(fs::read_to_string(away.join("session.json")).unwrap(), session_text(1));
        assert!(matches!(store.read(&folder.session), Err(ReadError::Missing { .. })));
    }
}

#[test]
fn a_file_that_is_removed_meanwhile_is_not_made_again() {
    let folder = Folder::with_missions(1);
    let error = folder.store(WriteMode::Exchange).update(&folder.session, &mut |document| {
        fs::remove_file(folder.file()).unwrap();
        document.apply(Edits::new().set_session("n", "1"))
    });
    assert!(error.is_err());
    assert!(!folder.file().exists());
    assert_eq!(folder.neighbours(), [""; 0]);
}

#[test]
fn what_is_no_session_is_refused_without_reading_it_whole() {
    let folder = Folder::with_missions(1);
    let store = folder.store(WriteMode::Exchange);
    fs::File::options().write(true).open(folder.file()).unwrap().set_len(65 * 1024 * 1024).unwrap();
    assert!(matches!(store.read(&folder.session), Err(ReadError::TooLarge { .. })));
    fs::remove_file(folder.file()).unwrap();
    Command::new("mkfifo").arg(folder.file()).status().unwrap();
    assert!(matches!(store.read(&folder.session), Err(ReadError::Refused { .. })));
}
