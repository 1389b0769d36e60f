//! Domain: the small words of a mission.

use std::fmt;

/// How urgent a mission is; the order of the variants is the order of dispatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Priority {
    /// Before everything else.
    Critical,
    /// Before normal work.
    High,
    /// The default, also for an absent or unknown word.
    #[default]
    Normal,
    /// When nothing else waits.
    Low,
}

impl Priority {
    /// Every priority, most urgent first.
    pub const ALL: [Self; 4] = [Self::Critical, Self::High, Self::Normal, Self::Low];

    /// Reads the file's spelling; anything unknown is `Normal`.
    pub fn from_file(text: Option<&str>) -> Self {
        match text {
            Some("critical") => Self::Critical,
            Some("high") => Self::High,
            Some("low") => Self::Low,
            Some(_) | None => Self::Normal,
        }
    }

    /// Returns the file's spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a mission failed: one word for programs. The sentence for people travels beside it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FailureReason {
    /// 400: the server calls the payload malformed.
    InvalidRequest,
    /// 401 or 403.
    Unauthorized,
    /// 404 on dispatch.
    ExecutorNotFound,
    /// 409 without `Retry-After`: another request holds the key.
    IdempotencyConflict,
    /// 422: the key was used for another payload.
    IdempotencyKeyReused,
    /// Any other 4xx.
    ClientError,
    /// 503 until the attempts ran out.
    NoExecutorAvailable,
    /// Another 5xx until the attempts ran out.
    DispatchError,
    /// No connection until the attempts ran out, under `--on-unreachable fail`.
    Unreachable,
    /// The executor did not come back.
    ExecutorLost,
    /// The executor's connection was gone longer than the grace.
    ExecutorDisconnected,
    /// Nobody answered in time.
    HitlTimeout,
    /// The event named none.
    Unknown,
    /// A word of the executor's own.
    Other(String),
}

impl FailureReason {
    /// Returns the spelling used in files and on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::Unauthorized => "unauthorized",
            Self::ExecutorNotFound => "executor_not_found",
            Self::IdempotencyConflict => "idempotency_conflict",
            Self::IdempotencyKeyReused => "idempotency_key_reused",
            Self::ClientError => "client_error",
            Self::NoExecutorAvailable => "no_executor_available",
            Self::DispatchError => "dispatch_error",
            Self::Unreachable => "unreachable",
            Self::ExecutorLost => "executor_lost",
            Self::ExecutorDisconnected => "executor_disconnected",
            Self::HitlTimeout => "hitl_timeout",
            Self::Unknown => "unknown",
            Self::Other(word) => word,
        }
    }
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
