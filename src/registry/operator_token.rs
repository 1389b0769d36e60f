//! Edge: files of secrets: the operator token, with which everything may be done, and what webhooks are signed with.

use crate::domain::secret::Token;
use crate::registry::identity::{IdentityError, new_token};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum OperatorTokenError {
    /// The file cannot be read or made.
    #[error("use the secret in {}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others may read it.
    #[error("trust the secret in {}: others may read the file (mode {mode:o}); chmod 600 it", path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It holds nothing that could be a secret.
    #[error("use the secret in {}: it is shorter than 16 characters", path.display())]
    TooShort {
        /// Which file.
        path: PathBuf,
    },
    /// No randomness.
    #[error(transparent)]
    Random(#[from] IdentityError),
}

/// Reads the secret, or makes the file with mode 0600 and a new one.
///
/// # Errors
/// [`OperatorTokenError`].
pub fn read_or_create(path: &Path) -> Result<Token, OperatorTokenError> {
    let failed = |source| OperatorTokenError::Io { path: path.to_owned(), source };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    }
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            let token = new_token()?;
            file.write_all(format!("{}\n", token.reveal()).as_bytes()).map_err(failed)?;
            file.sync_all().map_err(failed)?;
            Ok(token)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => read(path),
        Err(source) => Err(failed(source)),
    }
}

/// Reads the secret.
///
/// # Errors
/// [`OperatorTokenError`].
pub fn read(path: &Path) -> Result<Token, OperatorTokenError> {
    let failed = |source| OperatorTokenError::Io { path: path.to_owned(), source };
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(OperatorTokenError::Exposed { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(failed)?;
    match text.trim() {
        token if token.len() >= 16 => Ok(Token::new(token)),
        _ => Err(OperatorTokenError::TooShort { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_file_is_made_once_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/operator-token");
        let made = read_or_create(&path).unwrap();
        assert_eq!(read_or_create(&path).unwrap(), made);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(read_or_create(&path), Err(OperatorTokenError::Exposed { mode: 0o644, .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "short\n").unwrap();
        assert!(matches!(read(&path), Err(OperatorTokenError::TooShort { .. })));
    }
}
