//! Edge: asks the system which processes there are.

use crate::executor::process_identity::ProcessIdentity;

/// Identifies the process that runs this code.
pub fn own() -> ProcessIdentity {
    let pid = std::process::id();
    of(pid).unwrap_or_else(|| ProcessIdentity { pid, boot_id: boot_id(), process_start_time: 0 })
}

/// Identifies a running process; `None` when there is none of this number, or only its corpse.
pub fn of(pid: u32) -> Option<ProcessIdentity> {
    let process_start_time = start_time(pid).ok()??;
    Some(ProcessIdentity { pid, boot_id: boot_id(), process_start_time })
}

/// Says whether exactly this process still runs. Where the system does not say, as with too many open files, it does: whoever
/// is taken for dead loses what it holds.
pub fn is_alive(process: &ProcessIdentity) -> bool {
    process.boot_id == boot_id()
        && start_time(process.pid).map_or(true, |found| found == Some(process.process_start_time))
}

/// Returns how long the system has been up, in milliseconds; nothing where it does not say.
pub fn uptime_ms() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    let (seconds, fraction) = text.split_ascii_whitespace().next()?.split_once('.')?;
    let hundredths: u64 = fraction.get(..2)?.parse().ok()?;
    Some(seconds.parse::<u64>().ok()?.saturating_mul(1000).saturating_add(hundredths.saturating_mul(10)))
}

/// Identifies the time since the system was started; empty where it does not say.
#[cfg(target_os = "linux")]
pub fn boot_id() -> String {
    static BOOT_ID: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    BOOT_ID
        .get_or_init(|| {
            std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
                .map(|text| text.trim().to_owned())
                .unwrap_or_default()
        })
        .clone()
}

/// Says nothing: this system has no boot ids.
#[cfg(not(target_os = "linux"))]
pub fn boot_id() -> String {
    String::new()
}

/// Returns when a process started; nothing for one that is gone.
#[cfg(target_os = "linux")]
fn start_time(pid: u32) -> std::io::Result<Option<u64>> {
    let stat = match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut fields = after_command(&stat).unwrap_or_default().split_ascii_whitespace();
    // The state is field 3 of the line, the start time field 22.
    let is_dead = fields.next().is_none_or(|state| matches!(state, "Z" | "X" | "x"));
    Ok(if is_dead { None } else { fields.nth(18).and_then(|field| field.parse().ok()) })
}

/// Cuts off number and command of a `stat` line; the command may hold anything, parentheses included.
#[cfg(target_os = "linux")]
fn after_command(stat: &str) -> Option<&str> {
    stat.rsplit_once(')').map(|(_, rest)| rest)
}

#[cfg(not(target_os = "linux"))]
fn start_time(pid: u32) -> std::io::Result<Option<u64>> {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    let Some(pid) = pid else { return Ok(None) };
    match rustix::process::test_kill_process(pid) {
        Ok(()) | Err(rustix::io::Errno::PERM) => Ok(Some(0)),
        Err(_gone) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_alive_until_it_ends_and_its_number_alone_is_not_enough() {
        let own = own();
        assert!(is_alive(&own));
        let other = ProcessIdentity { process_start_time: own.process_start_time + 1, ..own.clone() };
        assert!(!is_alive(&other));
        let rebooted = ProcessIdentity { boot_id: "another".to_owned(), ..own };
        assert!(!is_alive(&rebooted));

        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let identity = of(child.id()).unwrap();
        assert!(is_alive(&identity));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_alive(&identity));
    }
}
