//! Domain: a bearer token that cannot be printed by accident.

use std::fmt;
use subtle::ConstantTimeEq;

/// An opaque secret. `Debug` redacts it; equality takes the same time whatever differs.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Wraps a secret that came from a file, a header or the random source.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// Returns the secret, for the one place that puts it on the wire or into its file.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Token {}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_the_secret() {
        assert_eq!(format!("{:?}", Token::new("hunter2")), "Token(…)");
        assert_eq!(Token::new("a"), Token::new("a"));
        assert_ne!(Token::new("a"), Token::new("b"));
    }
}
