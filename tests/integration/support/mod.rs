//! What several behaviours need to be tried.

pub(crate) mod repository;

use std::time::Duration;

pub(crate) mod chaos_proxy;
pub(crate) mod folder;
pub(crate) mod mount;
pub(crate) mod role;

/// Says whether the long versions of the tests were asked for: floods of 10 GB, fifty executors, a hundred missions.
pub(crate) fn is_heavy() -> bool {
    std::env::var_os("AIWG_RS_TEST_HEAVY").is_some()
}

/// How long a fact may take. Far more than any fact needs, so that only a missing one meets it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
pub(crate) mod daemon;
pub(crate) mod dice;
pub(crate) mod eventually;
