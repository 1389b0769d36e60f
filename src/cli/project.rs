//! Command: which project is meant by whoever stands in one of its directories.

use std::path::{Path, PathBuf};

/// Where Mission Control keeps its files inside a project.
pub const DEFAULT_WATCH_DIR: &str = ".aiwg/ralph-external/mc";

/// Returns the repository around `here`: the nearest directory with a `.git` in it, upwards. A home directory under version
/// control is no project.
pub fn repository(here: &Path) -> Option<PathBuf> {
    let top = here.ancestors().find(|directory| directory.join(".git").exists())?;
    (std::env::home_dir().as_deref() != Some(top)).then(|| top.to_path_buf())
}

/// Returns the watched folder that `named` means. The default one is that of the project: where it lies somewhere between
/// here and the top of the repository it is that one, else it will be at the top. Outside repositories it is here.
pub fn watch_dir(named: PathBuf) -> PathBuf {
    let is_default = named == Path::new(DEFAULT_WATCH_DIR);
    match std::env::current_dir() {
        Ok(here) if is_default && !named.is_dir() => around(&here).unwrap_or(named),
        Ok(_) | Err(_) => named,
    }
}

/// Returns the default folder that is somewhere else than in `here`.
fn around(here: &Path) -> Option<PathBuf> {
    let top = repository(here)?;
    let up_to_the_top = here.ancestors().take_while(|directory| directory.starts_with(&top));
    let mut folders = up_to_the_top.map(|directory| directory.join(DEFAULT_WATCH_DIR));
    let folder = folders.find(|folder| folder.is_dir()).unwrap_or_else(|| top.join(DEFAULT_WATCH_DIR));
    (folder != here.join(DEFAULT_WATCH_DIR)).then_some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_repository_is_found_from_below_and_none_outside_of_it() {
        let outside = tempfile::tempdir().unwrap();
        let top = outside.path().join("repository");
        let (below, middle) = (top.join("a/b"), top.join("a"));
        std::fs::create_dir_all(&below).unwrap();
        std::fs::create_dir_all(outside.path().join(DEFAULT_WATCH_DIR)).unwrap();
        assert_eq!(around(&below), None);
        std::fs::create_dir(top.join(".git")).unwrap();
        assert_eq!(repository(&below), Some(top.clone()));
        assert_eq!(around(&below), Some(top.join(DEFAULT_WATCH_DIR)), "it is made at the top");
        assert_eq!(around(&top), None);
        std::fs::create_dir_all(middle.join(DEFAULT_WATCH_DIR)).unwrap();
        assert_eq!(around(&below), Some(middle.join(DEFAULT_WATCH_DIR)));
        assert_eq!(around(&middle), None);
    }
}
