//! Edge: where the shared token file lies: the environment says so, or the project's storage settings, or the user's default.

use crate::registry::identity::IdentityError;
use serde_json::Value;
use std::io;
use std::path::{Path, PathBuf};

const FILE_NAME: &str = "executor-identities.json";

/// Finds the file's path; the file itself need not exist.
///
/// # Errors
/// [`IdentityError`] when `.aiwg/storage.config` is there and cannot be understood.
pub fn locate(
    environment: Option<&Path>,
    project: &Path,
    home: Option<&Path>,
) -> Result<PathBuf, IdentityError> {
    if let Some(path) = environment.filter(|path| !path.as_os_str().is_empty()) {
        return Ok(path.to_owned());
    }
    if let Some(root) = configured_root(&project.join(".aiwg/storage.config"))? {
        let resolved = match (root.strip_prefix("~"), home) {
            (Ok(rest), Some(home)) => home.join(rest),
            (Ok(_) | Err(_), _) => project.join(root),
        };
        return Ok(resolved.join(FILE_NAME));
    }
    let base = home.map_or_else(|| project.join(".aiwg"), |home| home.join(".config/aiwg"));
    Ok(base.join(FILE_NAME))
}

fn configured_root(path: &Path) -> Result<Option<PathBuf>, IdentityError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(IdentityError::Read { path: path.to_owned(), source }),
    };
    let broken = |problem: String| IdentityError::Broken { path: path.to_owned(), problem };
    let settings: Value = serde_json::from_str(&text).map_err(|error| broken(error.to_string()))?;
    match settings.get("version") {
        Some(Value::String(version)) if version == "1" => {}
        other => {
            let version = other.map_or_else(|| "none".to_owned(), Value::to_string);
            return Err(broken(format!("version is {version}, not \"1\"")));
        }
    }
    match settings.pointer("/roots/executor_identity") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(root)) if !root.is_empty() => Ok(Some(PathBuf::from(root))),
        Some(_) => Err(broken("roots.executor_identity is no path".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_wins_over_the_project_and_the_project_over_the_user() {
        let folder = tempfile::tempdir().unwrap();
        let (project, home) = (folder.path(), Path::new("/home/u"));
        let found = || locate(None, project, Some(home)).unwrap();
        assert_eq!(found(), Path::new("/home/u/.config/aiwg/executor-identities.json"));
        std::fs::create_dir(project.join(".aiwg")).unwrap();
        let settings = project.join(".aiwg/storage.config");
        for (root, expected) in [
            ("keys", project.join("keys")),
            ("~/keys", PathBuf::from("/home/u/keys")),
            ("/abs", PathBuf::from("/abs")),
        ] {
            std::fs::write(
                &settings,
                format!(r#"{{"version":"1","roots":{{"executor_identity":"{root}"}}}}"#),
            )
            .unwrap();
            assert_eq!(found(), expected.join(FILE_NAME));
        }
        let named = Path::new("/somewhere/ids.json");
        assert_eq!(locate(Some(named), project, Some(home)).unwrap(), named);
    }

    #[test]
    fn settings_that_cannot_be_understood_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(".aiwg")).unwrap();
        for broken in ["{", r#"{"version":"2"}"#, r#"{"version":"1","roots":{"executor_identity":7}}"#] {
            std::fs::write(folder.path().join(".aiwg/storage.config"), broken).unwrap();
            let error = locate(None, folder.path(), None).unwrap_err();
            assert!(error.to_string().contains("storage.config"), "{error}");
        }
    }
}
