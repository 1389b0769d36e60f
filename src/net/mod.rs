//! Stage: the network, done carefully once.

pub mod descriptors;
pub mod http;
pub mod impatient;
pub mod ws;
