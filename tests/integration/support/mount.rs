//! Disks that are small.

use std::path::Path;
use std::process::Command;

/// A small file system of its own; gone on drop.
pub(crate) struct Mount<'a>(pub(crate) &'a Path);

impl<'a> Mount<'a> {
    /// Mounts one of this size; says why when that is not possible.
    pub(crate) fn tmpfs(path: &'a Path, size: &str) -> Option<Self> {
        let size = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(path)),
            Ok(output) => {
                println!("skipped: mount is not permitted: {}", String::from_utf8_lossy(&output.stderr));
                None
            }
            Err(error) => {
                println!("skipped: mount cannot be run: {error}");
                None
            }
        }
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0).status().unwrap();
        assert!(unmounted.success());
    }
}

/// Takes all the room there is, with a file of this name.
pub(crate) fn fill(ballast: &Path) {
    use std::io::Write as _;
    let mut file = std::fs::File::create(ballast).unwrap();
    for size in [65_536, 4096, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}
