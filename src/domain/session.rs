//! Domain: a session, the queue that missions of one piece of work stand in.

/// Whether a session's queued missions may be dispatched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SessionState {
    /// Dispatch. Also what an absent `state` means.
    #[default]
    Active,
    /// Hold queued missions; running ones go on.
    Paused,
    /// Hold queued missions for good.
    Stopped,
    /// Some other word: held, because we do not know what it asks for.
    Unknown,
}

impl SessionState {
    /// Reads the file's spelling.
    pub fn from_file(text: Option<&str>) -> Self {
        match text {
            None | Some("active") => Self::Active,
            Some("paused") => Self::Paused,
            Some("stopped") => Self::Stopped,
            Some(_) => Self::Unknown,
        }
    }

    /// Says whether queued missions of such a session are dispatched.
    pub fn is_dispatching(self) -> bool {
        matches!(self, Self::Active)
    }

    /// Returns the file's spelling.
    pub fn as_file(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Unknown => "unknown",
        }
    }
}
