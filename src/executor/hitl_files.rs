//! Edge: questions that an agent asks outright: it writes `<name>.question` into `$AIWG_HITL_DIR` and waits for
//! `<name>.answer` beside it.

use crate::disk::atomic;
use crate::disk::fsync::FsyncPolicy;
use crate::domain::id::HitlId;
use std::fs;
use std::io;
use std::path::Path;

/// The variable that names the directory.
pub const VARIABLE: &str = "AIWG_HITL_DIR";

/// Longest question that is passed on, in bytes.
const LONGEST: usize = 64 * 1024;

/// Returns the first question without an answer, by name.
pub fn open_question(directory: &Path) -> Option<(HitlId, String)> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".question").map(str::to_owned))
        .filter(|name| !directory.join(format!("{name}.answer")).exists())
        .collect();
    names.sort();
    for name in names {
        let Ok(bytes) = fs::read(directory.join(format!("{name}.question"))) else { continue };
        let text = String::from_utf8_lossy(bytes.get(..bytes.len().min(LONGEST)).unwrap_or_default());
        if let (Ok(id), false) = (HitlId::new(&name), text.trim().is_empty()) {
            return Some((id, text.trim().to_owned()));
        }
    }
    None
}

/// Writes an answer, whole.
///
/// # Errors
/// What the file system says.
pub fn answer(directory: &Path, id: &HitlId, response: &str) -> io::Result<()> {
    atomic::write(&directory.join(format!("{id}.answer")), response.as_bytes(), FsyncPolicy::Never)
}
