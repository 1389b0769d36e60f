//! Domain: what happened.
