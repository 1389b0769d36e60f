//! Stage: the network, done carefully once.
