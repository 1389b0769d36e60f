//! Command: the one binary.

fn main() {}
