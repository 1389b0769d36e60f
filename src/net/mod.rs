//! Stage: the network, done carefully once.

pub mod http;
pub mod impatient;
pub mod ws;
