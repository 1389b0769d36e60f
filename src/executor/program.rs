//! Edge: finds a program as a shell would.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Returns the file of `program`: itself if it names a directory, else the first of that name on `path` that may be run.
pub fn find(program: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    let may_run =
        |file: &Path| file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok();
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|file| may_run(file));
    }
    std::env::split_paths(path?).map(|directory| directory.join(program)).find(|file| may_run(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_on_the_path_that_is_given() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("tool");
        std::fs::write(&program, "").unwrap();
        let path = std::env::join_paths([Path::new("/nowhere"), directory.path()]).unwrap();
        let named = program.to_str().unwrap();
        assert_eq!((find("tool", Some(&path)), find(named, None)), (None, None));
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(find("tool", Some(&path)), Some(program.clone()));
        assert_eq!(find(named, None), Some(program.clone()));
        assert_eq!((find("tool", None), find("another", Some(&path))), (None, None));
    }
}
