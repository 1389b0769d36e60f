//! Domain: what an executor says it can do, and what a mission asks for.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// One capability string. Opaque to filters; its form is checked only when an executor registers.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Capability(Arc<str>);

/// A capability that no executor may announce.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a capability; use isolation:<slug>, runtime:<name>, runtime:custom:<slug>, platform:<os>/<arch>, \
     resumable, hitl, multi-tenant or x-<slug>"
)]
pub struct CapabilityError {
    /// The refused text.
    pub text: String,
}

impl Capability {
    /// The flag of an executor that can take its missions up again after a restart.
    pub const RESUMABLE: &'static str = "resumable";

    /// Wraps any text, as filters do.
    pub fn opaque(text: impl AsRef<str>) -> Self {
        Self(Arc::from(text.as_ref()))
    }

    /// Checks the form that a registering executor must keep to.
    ///
    /// # Errors
    /// [`CapabilityError`] names the text.
    pub fn announced(text: &str) -> Result<Self, CapabilityError> {
        if is_well_formed(text) {
            Ok(Self::opaque(text))
        } else {
            Err(CapabilityError { text: text.chars().take(128).collect() })
        }
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_slug(text: &str) -> bool {
    !text.contains(':') && is_extension(text)
}

/// What follows `x-`: a slug that may have parts, such as `fleet:eu`.
fn is_extension(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b':'))
}

fn is_well_formed(text: &str) -> bool {
    if let Some(extension) = text.strip_prefix("x-") {
        return is_extension(extension);
    }
    match text.split_once(':') {
        Some(("isolation", slug)) => is_slug(slug),
        Some(("runtime", name)) => match name.split_once(':') {
            Some(("custom", slug)) => is_slug(slug),
            Some(_) => false,
            None => matches!(name, "claude-code" | "codex" | "cursor" | "aider"),
        },
        Some(("platform", pair)) => {
            pair.split_once('/').is_some_and(|(os, arch)| is_slug(os) && is_slug(arch))
        }
        Some(_) => false,
        None => matches!(text, "resumable" | "hitl" | "multi-tenant"),
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The capabilities of one executor or the demands of one mission, in a stable order.
pub type Capabilities = BTreeSet<Capability>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_formed_capabilities_are_accepted() {
        for good in [
            "isolation:vm",
            "isolation:my-box_2",
            "runtime:claude-code",
            "runtime:custom:shell",
            "platform:linux/x64",
            "platform:darwin/arm64",
            "resumable",
            "hitl",
            "multi-tenant",
            "x-gpu",
            "x-fleet:eu",
        ] {
            assert!(Capability::announced(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn malformed_capabilities_are_refused() {
        for bad in [
            "",
            "isolation:",
            "isolation:VM",
            "runtime:bash",
            "runtime:custom:",
            "platform:linux",
            "x-",
            "gpu",
            "a:b",
        ] {
            assert!(Capability::announced(bad).is_err(), "{bad}");
        }
    }
}
