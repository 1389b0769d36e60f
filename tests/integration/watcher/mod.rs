//! The watcher on real folders, seen by a reader that believes nothing but notices.

mod changes;
mod inboxes;
mod reader;
mod roots;
