//! Drop folders.

use super::reader::{Reader, believed, put};
use aiwg_rs::domain::id::SessionId;
use aiwg_rs::watcher::{InboxPlace, WatchMode};
use std::fs;

#[tokio::test]
async fn a_drop_folder_that_comes_later_is_followed() {
    for mode in [WatchMode::Native, WatchMode::Poll] {
        let mut reader = Reader::start(mode, |root| put(&root.join("sessions/a"), "{}"));
        reader.until_believed(&believed([("a", "{}")])).await;
        reader.until("the mode", |r| r.native == Some(mode == WatchMode::Native)).await;
        let own = InboxPlace::Session(SessionId::new("a").unwrap());
        for (place, directory) in
            [(InboxPlace::Root, reader.root.join("inbox")), (own, reader.session("a").join("inbox"))]
        {
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("one.json"), "{}").unwrap();
            reader.until("the first file", |r| r.inboxes.contains(&place)).await;
            fs::create_dir(directory.join("accepted")).unwrap();
            rustix::fs::rename(directory.join("one.json"), directory.join("accepted/one.json")).unwrap();
            for round in 0..10 {
                reader.inboxes.clear();
                let file = directory.join(format!("{round}.json"));
                fs::write(directory.join("beside.tmp"), "{}").unwrap();
                rustix::fs::rename(directory.join("beside.tmp"), &file).unwrap();
                reader.until("a later file", |r| r.inboxes.contains(&place)).await;
                fs::remove_file(&file).unwrap();
            }
        }
        reader.end().await;
    }
}

#[tokio::test]
async fn files_that_lie_there_at_the_start_are_told_about() {
    for mode in [WatchMode::Native, WatchMode::Poll] {
        let mut reader = Reader::start(mode, |root| {
            put(&root.join("sessions/a"), "{}");
            fs::create_dir_all(root.join("inbox")).unwrap();
            fs::create_dir(root.join("sessions/a/inbox")).unwrap();
            fs::write(root.join("inbox/x.json"), "{}").unwrap();
            fs::write(root.join("sessions/a/inbox/y.json"), "{}").unwrap();
        });
        reader.until("both drop folders", |r| r.inboxes.len() == 2).await;
        reader.end().await;
    }
}
