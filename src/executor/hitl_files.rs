//! Edge: questions that an agent asks outright: it writes `<name>.question` into `$AIWG_HITL_DIR` and waits for
//! `<name>.answer` beside it.

use crate::disk::atomic;
use crate::disk::fsync::FsyncPolicy;
use crate::domain::id::HitlId;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The variable that names the directory.
pub const VARIABLE: &str = "AIWG_HITL_DIR";

/// How many empty directories are kept: as many as may end at about the same time.
const MOST_SPARES: usize = 16;

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

/// Makes and removes the directories. Nearly every mission needs one that stays empty, and to make and to remove one costs a
/// file system much more than to give it another name, so empty ones go from one mission to the next. Clones share them.
#[derive(Debug, Clone)]
pub struct QuestionDirectories {
    spare: PathBuf,
    spares: Arc<Mutex<Vec<PathBuf>>>,
}

impl QuestionDirectories {
    /// Keeps spare ones in `spare`, and uses what is there.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(spare: &Path) -> io::Result<Self> {
        let spares = fs::read_dir(spare)?.flatten().map(|entry| entry.path()).collect();
        Ok(Self { spare: spare.to_owned(), spares: Arc::new(Mutex::new(spares)) })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes one, unless it is there.
    ///
    /// # Errors
    /// What the file system says.
    pub fn make(&self, path: &Path) -> io::Result<()> {
        if path.exists() {
            return Ok(());
        }
        let spare = self.lock().pop();
        match spare {
            Some(spare) if atomic::rename(&spare, path).is_ok() => Ok(()),
            Some(_) | None => fs::DirBuilder::new().recursive(true).mode(0o700).create(path),
        }
    }

    /// Takes one away.
    ///
    /// # Errors
    /// What the file system says; none when there is none.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        let found = match fs::symlink_metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if !found.is_dir() {
            return fs::remove_file(path);
        }
        // As it was made: an agent may do with it what it likes.
        let is_as_made = found.mode() & 0o7777 == 0o700 && found.uid() == rustix::process::geteuid().as_raw();
        if is_as_made && fs::read_dir(path)?.count() == 0 {
            let mut spares = self.lock();
            // Named after its mission, whose directory it is in.
            let spare = path.parent().and_then(Path::file_name).map(|mission| self.spare.join(mission));
            if let Some(spare) = spare.filter(|_| spares.len() < MOST_SPARES)
                && atomic::rename(path, &spare).is_ok()
            {
                spares.push(spare);
                return Ok(());
            }
        }
        fs::remove_dir_all(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn a_directory_is_empty_and_as_new_whoever_had_it_before() {
        let root = tempfile::tempdir().unwrap();
        let spare = root.path().join("spare");
        fs::create_dir(&spare).unwrap();
        let mut directories = QuestionDirectories::open(&spare).unwrap();
        let paths: Vec<PathBuf> =
            (0..40).map(|number| root.path().join(format!("m-{number}/hitl"))).collect();
        for round in 0..3 {
            if round == 2 {
                directories = QuestionDirectories::open(&spare).unwrap();
            }
            for (number, path) in paths.iter().enumerate() {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                directories.make(path).unwrap();
                let made = fs::symlink_metadata(path).unwrap();
                assert!(made.is_dir() && made.mode() & 0o777 == 0o700);
                assert_eq!(fs::read_dir(path).unwrap().count(), 0);
                match number % 4 {
                    0 => fs::write(path.join("q.question"), "why?").unwrap(),
                    1 => fs::set_permissions(path, fs::Permissions::from_mode(0o500)).unwrap(),
                    2 => {
                        fs::remove_dir(path).unwrap();
                        symlink("/", path).unwrap();
                    }
                    _ => directories.make(path).unwrap(),
                }
            }
            for path in &paths {
                directories.remove(path).unwrap();
                directories.remove(path).unwrap();
                assert!(fs::symlink_metadata(path).is_err());
            }
            assert_eq!(fs::read_dir(&spare).unwrap().count(), 10, "every fourth was left as it was made");
        }
    }
}
