//! Drop folders: what is taken in, what is refused and why, and that a kill in between adds nothing twice.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aiwg_rs::domain::id::SessionId;
use aiwg_rs::domain::time::Timestamp;
use aiwg_rs::session::inbox::{DropFolder, Dropped, Intake, IntakeError};
use aiwg_rs::session::store::{SessionStore, WriteMode};

use crate::support::folder::Folder;

const NOW: Timestamp = Timestamp::from_millis(1_767_182_400_007);

struct Inbox {
    folder: Folder,
    store: SessionStore,
    drops: DropFolder,
}

impl Inbox {
    fn of_session() -> Self {
        Self::at(|folder| folder.root().join("sessions/s1/inbox"), true)
    }

    fn shared() -> Self {
        Self::at(|folder| folder.root().join("inbox"), false)
    }

    fn at(path: impl Fn(&Folder) -> PathBuf, of_session: bool) -> Self {
        let folder = Folder::with_missions(1);
        let store = folder.store(WriteMode::Exchange);
        let session = of_session.then(|| folder.session.clone());
        assert!(store.drop_folder(session.as_ref()).unwrap().is_none());
        fs::create_dir(path(&folder)).unwrap();
        let drops = store.drop_folder(session.as_ref()).unwrap().unwrap();
        Self { folder, store, drops }
    }

    fn put(&self, name: &str, text: &str) -> Dropped {
        fs::write(self.drops.path().join(name), text).unwrap();
        let listed = self.drops.list().unwrap();
        listed.into_iter().find(|dropped| dropped.name == name).unwrap()
    }

    fn take(&self, dropped: &Dropped) -> Result<Intake, IntakeError> {
        self.store.take_in(&self.drops, dropped, 10, NOW)
    }

    fn files(&self, directory: &str) -> Vec<String> {
        names(&self.drops.path().join(directory))
    }
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_dropped_mission_is_appended_queued_and_its_file_accepted() {
    let inbox = Inbox::of_session();
    let dropped = inbox.put("fix.json", "{\"objective\": \"fix it\", \"odd\": 1.10}");
    let intake = inbox.take(&dropped).unwrap();
    assert_eq!(intake.added.len(), 1);
    assert_eq!(inbox.files("accepted"), ["fix.json"]);
    assert_eq!(inbox.drops.list().unwrap(), []);
    let reading = inbox.store.read(&inbox.folder.session).unwrap();
    let mission = reading.document.mission("fix").unwrap();
    assert_eq!(mission.string("status").unwrap(), "queued");
    assert_eq!(mission.string("createdAt").unwrap(), NOW.to_string());
    assert_eq!(mission.field("odd"), Some("1.10"));
    assert_eq!(reading.document.session_str("updatedAt").unwrap(), NOW.to_string());
}

#[test]
fn killed_between_append_and_move_the_file_only_moves() {
    let inbox = Inbox::of_session();
    let dropped = inbox.put("fix.json", "{\"objective\": \"fix it\"}");
    // As it would be if nothing had moved the file: it is older than its mission.
    let later = Timestamp::from_millis(jiff::Timestamp::now().as_millisecond()).plus(Duration::from_secs(60));
    let intake = inbox.store.take_in(&inbox.drops, &dropped, 10, later).unwrap();
    aiwg_rs::disk::atomic::rename(&intake.moved_to, &inbox.drops.path().join("fix.json")).unwrap();
    let text = inbox.folder.text().replace("\"queued\"", "\"running\"");
    fs::write(inbox.folder.file(), &text).unwrap();
    let again = inbox.take(&inbox.drops.list().unwrap()[0]).unwrap();
    assert!(again.added.is_empty() && !again.is_duplicate);
    assert_eq!(inbox.folder.text(), text);
    assert_eq!((inbox.files("accepted"), inbox.files("duplicate")), (vec!["fix.json".to_owned()], vec![]));
}

#[test]
fn what_the_session_has_already_goes_to_duplicates() {
    let inbox = Inbox::of_session();
    let first = inbox.take(&inbox.put("fix.json", "{\"objective\": \"fix it\"}")).unwrap();
    let text = inbox.folder.text();
    for content in ["{\"objective\": \"fix it\"}", "{\"objective\": \"another\"}"] {
        let again = inbox.take(&inbox.put("fix.json", content)).unwrap();
        assert!(again.is_duplicate && again.added.is_empty());
        assert_eq!(again.known, first.added);
    }
    assert_eq!(inbox.files("duplicate"), ["fix-2.json", "fix.json"]);
    assert_eq!(inbox.folder.text(), text);
}

#[test]
fn a_bad_file_is_rejected_with_the_reason_beside_it() {
    let inbox = Inbox::of_session();
    let dropped = inbox.put("bad.json", "[\n  {\"objective\": 3}\n]");
    let error = inbox.take(&dropped).unwrap_err();
    assert!(error.is_final());
    inbox.drops.reject(&dropped, &error).unwrap();
    assert_eq!(inbox.files("rejected"), ["bad.json", "bad.json.error.txt"]);
    let reason = fs::read_to_string(inbox.drops.path().join("rejected/bad.json.error.txt")).unwrap();
    assert!(reason.contains("line 2, column 17, field \"[0].objective\": is not a string"), "{reason}");
}

#[test]
fn an_unfinished_file_is_no_final_error_and_unfinished_names_are_not_listed() {
    let inbox = Inbox::of_session();
    let error = inbox.take(&inbox.put("half.json", "{\"objective\": \"fi")).unwrap_err();
    assert!(!error.is_final());
    for name in [".hidden.json", "copy.json.tmp", "copy.json.part", "copy.json~", "note.txt"] {
        fs::write(inbox.drops.path().join(name), "{}").unwrap();
    }
    fs::create_dir(inbox.drops.path().join("directory.json")).unwrap();
    assert_eq!(inbox.drops.list().unwrap().len(), 1);
}

#[test]
fn a_file_that_changes_after_it_was_listed_is_left_for_the_next_look() {
    let inbox = Inbox::of_session();
    let dropped = inbox.put("fix.json", "{\"objective\": \"fix it\"}");
    fs::write(inbox.drops.path().join("fix.json"), "{\"objective\": \"something else\"}").unwrap();
    assert!(matches!(inbox.take(&dropped), Err(IntakeError::Changed { .. })));
    fs::remove_file(inbox.drops.path().join("fix.json")).unwrap();
    assert!(matches!(inbox.take(&dropped), Err(IntakeError::Changed { .. })));
    assert!(!inbox.folder.text().contains("objective"));
}

#[test]
fn the_shared_folder_sorts_missions_into_the_sessions_they_name() {
    let inbox = Inbox::shared();
    let text = "[{\"objective\":\"a\"},{\"objective\":\"b\",\"session\":\"s1\"},{\"objective\":\"c\",\"session\":\"new\"}]";
    let intake = inbox.take(&inbox.put("many.json", text)).unwrap();
    let added: Vec<(&str, &str)> =
        intake.added.iter().map(|(session, mission)| (session.as_str(), mission.as_str())).collect();
    assert_eq!(added, [("inbox", "many-1"), ("s1", "many-2"), ("new", "many-3")]);
    for (session, mission) in &intake.added {
        let document = inbox.store.read(session).unwrap().document;
        assert!(document.mission(mission.as_str()).unwrap().field("session").is_none());
    }
    assert_eq!(names(&inbox.store.sessions_dir()), ["inbox", "new", "s1"]);
}

#[test]
fn links_and_strangers_sessions_are_refused() {
    let inbox = Inbox::of_session();
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(outside.path(), "{\"objective\": \"secret\"}").unwrap();
    std::os::unix::fs::symlink(outside.path(), inbox.drops.path().join("link.json")).unwrap();
    let link = inbox.drops.list().unwrap().remove(0);
    let error = inbox.take(&link).unwrap_err();
    assert!(error.is_final());
    inbox.drops.reject(&link, &error).unwrap();
    let other = inbox.put("other.json", "{\"objective\": \"a\", \"session\": \"s2\"}");
    let IntakeError::Content { source, .. } = inbox.take(&other).unwrap_err() else {
        panic!("it was taken in")
    };
    assert!(source.to_string().contains("field \"session\": names session s2"), "{source}");
    assert!(!inbox.folder.text().contains("secret"));

    let elsewhere = tempfile::tempdir().unwrap();
    let session = SessionId::new("linked").unwrap();
    fs::create_dir(inbox.store.session_dir(&session)).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), inbox.store.inbox_dir(&session)).unwrap();
    assert!(inbox.store.drop_folder(Some(&session)).is_err());
}

#[test]
fn a_mission_that_came_another_way_makes_its_drop_a_duplicate() {
    let inbox = Inbox::of_session();
    let text = inbox.folder.text().replacen(
        '[',
        "[{\"id\":\"fix\",\"objective\":\"fix it\",\"createdAt\":\"2026-01-01T00:00:00Z\"},",
        1,
    );
    fs::write(inbox.folder.file(), text).unwrap();
    let intake = inbox.take(&inbox.put("fix.json", "{\"objective\": \"fix it\"}")).unwrap();
    assert!(intake.is_duplicate && intake.added.is_empty());
}

#[test]
fn nothing_is_moved_out_of_the_drop_folder_or_removed_elsewhere() {
    let inbox = Inbox::of_session();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("theirs"), "").unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), inbox.drops.path().join("accepted")).unwrap();
    let dropped = inbox.put("fix.json", "{\"objective\": \"fix it\"}");
    let error = inbox.take(&dropped).unwrap_err();
    assert!(
        matches!(&error, IntakeError::Io { source, .. } if source.to_string().contains("is a link")),
        "{error:?}"
    );
    let far = Timestamp::from_millis(i64::MAX);
    assert!(inbox.drops.sweep_accepted(Duration::ZERO, far).is_err());
    assert_eq!(names(elsewhere.path()), ["theirs"]);
}

/// Whoever waits for one session keeps all others waiting.
#[test]
fn a_session_that_is_torn_at_this_moment_is_an_error_at_once() {
    let inbox = Inbox::of_session();
    fs::write(inbox.folder.file(), "{\"missions\": [").unwrap();
    let dropped = inbox.put("fix.json", "{\"objective\": \"fix it\"}");
    let error = inbox.take(&dropped).unwrap_err();
    assert!(!error.is_final() && matches!(error, IntakeError::Session { .. }), "{error:?}");
}

#[test]
fn accepted_files_go_when_their_time_is_over() {
    let inbox = Inbox::of_session();
    let _intake = inbox.take(&inbox.put("fix.json", "{\"objective\": \"fix it\"}")).unwrap();
    let week = Duration::from_secs(7 * 24 * 3600);
    let now = Timestamp::from_millis(jiff::Timestamp::now().as_millisecond());
    assert_eq!(inbox.drops.sweep_accepted(week, now).unwrap(), 0);
    assert_eq!(inbox.drops.sweep_accepted(week, now.plus(week + Duration::from_secs(60))).unwrap(), 1);
    assert_eq!(inbox.files("accepted"), [""; 0]);
}
