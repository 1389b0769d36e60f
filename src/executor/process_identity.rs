//! Pure: which process is meant, beyond its number.
//!
//! A process number is used again, and after a reboot every number is. The boot id and the start time (in clock ticks
//! since that boot, so no clock jump touches it) make it unique: whoever is named by all three is alive or gone for good.

use serde::{Deserialize, Serialize};

/// One process of this host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessIdentity {
    /// Its number.
    pub pid: u32,
    /// The boot that it belongs to; empty where the system has no boot ids.
    pub boot_id: String,
    /// When it started, in clock ticks since the boot; zero where the system does not say.
    pub process_start_time: u64,
}
