//! What several behaviours need to be tried.

pub(crate) mod repository;

use std::time::Duration;

pub(crate) mod chaos_proxy;
pub(crate) mod folder;
pub(crate) mod role;

/// How long a fact may take. Far more than any fact needs, so that only a missing one meets it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
pub(crate) mod daemon;
pub(crate) mod dice;
pub(crate) mod eventually;
