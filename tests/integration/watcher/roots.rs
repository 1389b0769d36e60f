//! A watch dir that is not there, not there yet, or not the same any more.

use super::reader::{Reader, believed, put};
use aiwg_rs::watcher::WatchMode;
use std::collections::BTreeMap;
use std::fs;

#[tokio::test]
async fn a_watch_dir_that_does_not_exist_yet_is_waited_for() {
    for mode in [WatchMode::Auto, WatchMode::Poll] {
        let mut reader = Reader::start(mode, |_root| {});
        reader.until("an empty sweep", |r| r.sweeps == 1).await;
        put(&reader.session("a"), "{0}");
        reader.until_believed(&believed([("a", "{0}")])).await;
        put(&reader.session("a"), "{1}");
        reader.until_believed(&believed([("a", "{1}")])).await;
        reader.end().await;
    }
}

#[tokio::test]
async fn a_watch_dir_that_is_removed_and_made_again_is_picked_up_again() {
    for mode in [WatchMode::Auto, WatchMode::Poll] {
        let mut reader = Reader::start(mode, |root| put(&root.join("sessions/a"), "{0}"));
        reader.until_believed(&believed([("a", "{0}")])).await;

        fs::remove_dir_all(reader.root.join("sessions")).unwrap();
        reader.until_believed(&BTreeMap::new()).await;
        put(&reader.session("b"), "{1}");
        reader.until_believed(&believed([("b", "{1}")])).await;

        fs::remove_dir_all(&reader.root).unwrap();
        put(&reader.session("c"), "{2}");
        reader.until_believed(&believed([("c", "{2}")])).await;
        put(&reader.session("c"), "{3}");
        reader.until_believed(&believed([("c", "{3}")])).await;
        reader.end().await;
    }
}
