//! Edge: which file systems are not this host's own.

use std::path::Path;

/// Returns the name of the file system `path` is on when others can change it unseen: such a one tells nobody about changes made
/// elsewhere, and locks and mapped memory are not to be trusted on it. `None` for a local one, and where nobody can tell.
#[cfg(target_os = "linux")]
pub fn remote_kind(path: &Path) -> Option<&'static str> {
    let magic = rustix::fs::statfs(path).ok()?.f_type & 0xffff_ffff;
    Some(match magic {
        0x6969 => "NFS",
        0x517b => "SMB",
        0xff53_4d42 => "CIFS",
        0xfe53_4d42 => "SMB2",
        0x0102_1997 => "9p",
        0x6573_5546 => "FUSE",
        0x5346_414f => "AFS",
        0x00c3_6400 => "Ceph",
        0x0bd0_0bd0 => "Lustre",
        0x4750_4653 => "GPFS",
        0x1983_0326 => "BeeGFS",
        0x786f_4256 => "a VirtualBox shared folder",
        0xbacb_acbc => "a VMware shared folder",
        _ => return None,
    })
}

/// Nobody can tell.
#[cfg(not(target_os = "linux"))]
pub fn remote_kind(_path: &Path) -> Option<&'static str> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_not_there_is_not_remote() {
        assert_eq!(remote_kind(Path::new("/nowhere/at/all")), None);
    }
}
