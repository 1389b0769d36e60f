//! Stage: files, done carefully once: replace and exchange, append, lock, lease.
