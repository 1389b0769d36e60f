//! Domain: what tells two readings of one path apart without reading the bytes.

/// Device, inode, size, modification and change time of a file, as `stat` gives them.
///
/// The change time is part of it because an older file renamed over a newer one, or a same-size rewrite inside one
/// tick of the modification time, would go unseen without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileIdentity {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Modification time, nanoseconds since 1970.
    pub modified_ns: i128,
    /// Change time of the inode, nanoseconds since 1970.
    pub changed_ns: i128,
}

impl FileIdentity {
    /// Says whether this is the same content, looking past the change time, which a rename moves.
    ///
    /// Use it for a file that we renamed ourselves; everywhere else compare with `==`.
    pub fn is_same_content(&self, other: &Self) -> bool {
        self.device == other.device
            && self.inode == other.inode
            && self.size_bytes == other.size_bytes
            && self.modified_ns == other.modified_ns
    }
}
