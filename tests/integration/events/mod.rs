//! The streams of executors, followed against a registry that is not ours.

mod following;
mod foreign;
mod trouble;
