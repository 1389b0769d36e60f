//! Stage: what happened, in order: the streams of the executors that hold our missions.

pub mod client;
pub mod machine;
pub mod messages;
pub mod worker;

use crate::domain::id::ExecutorId;
use crate::domain::secret::Token;
use std::collections::HashMap;

/// How the streams are followed.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Base address of the registry.
    pub serve_url: String,
    /// Executors that are followed from the start.
    pub subscribe: Vec<ExecutorId>,
    /// Tokens for registries whose observers need one.
    pub tokens: HashMap<ExecutorId, Token>,
    /// Ask instead of listening.
    pub no_ws: bool,
    /// The registry's operator token.
    pub operator: Option<Token>,
}
