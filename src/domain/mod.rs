//! Stage: the nouns that every other stage speaks in, and the one transition table of a mission.
//!
//! Nothing here reads a clock, a file or a socket. A string from outside becomes one of these types, or a refusal,
//! once, at the border.

pub mod capability;
pub mod error;
pub mod event;
pub mod file;
pub mod id;
pub mod lifecycle;
pub mod mission;
pub mod nearest;
pub mod retry;
pub mod secret;
pub mod session;
pub mod time;
