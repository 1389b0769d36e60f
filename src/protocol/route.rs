//! Pure: the paths of the executor contract, with their ids percent-encoded.

use std::borrow::Cow;
use std::fmt::Write as _;

/// `POST`: an executor registers.
pub const REGISTER: &str = "/api/v1/executors/register";
/// `GET`: every executor.
pub const EXECUTORS: &str = "/api/v1/executors";
/// `GET`: is the server alive.
pub const HEALTH: &str = "/api/health";
/// `POST`: where older executors take missions.
pub const OLD_DISPATCH: &str = "/dispatch";

/// Orders that an operator gives about a mission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OperatorCommand {
    /// Hold it.
    Pause,
    /// Go on.
    Resume,
    /// End it.
    Abort,
}

impl OperatorCommand {
    /// Returns the last segment of its path.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Abort => "abort",
        }
    }

    /// Reads what [`OperatorCommand::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pause, Self::Resume, Self::Abort].into_iter().find(|command| command.as_str() == text)
    }
}

/// Encodes one path segment: everything but the unreserved characters of RFC 3986 becomes `%XX`.
pub fn segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _infallible = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Makes a text that may hold any character fit for a header or a line: when it is not all visible ASCII, it is
/// percent-encoded like a [`segment`].
pub fn visible(text: &str) -> Cow<'_, str> {
    let is_visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_visible { Cow::Borrowed(text) } else { Cow::Owned(segment(text)) }
}

/// `GET`, `DELETE`: one executor.
pub fn executor(id: &str) -> String {
    format!("{EXECUTORS}/{}", segment(id))
}

/// `POST`: dispatch a mission of this session.
pub fn dispatch(session: &str) -> String {
    format!("/api/v1/sessions/{}/dispatch", segment(session))
}

/// `GET`: the status of one mission.
pub fn mission(id: &str) -> String {
    format!("/api/v1/missions/{}", segment(id))
}

/// `POST`: the answer to a mission's question.
pub fn hitl_response(mission_id: &str) -> String {
    format!("{}/hitl_response", mission(mission_id))
}

/// `POST`: an order about a mission.
pub fn command(mission_id: &str, command: OperatorCommand) -> String {
    format!("{}/{}", mission(mission_id), command.as_str())
}

/// The WebSocket of one executor, for itself and for observers.
pub fn socket(executor_id: &str) -> String {
    format!("/ws/executors/{}", segment(executor_id))
}

/// Joins a base URL and a path, whether or not the base ends in a slash.
pub fn join(base: &str, path: &str) -> String {
    format!("{}{path}", base.trim_end_matches('/'))
}

/// Turns `http://…` into `ws://…` and `https://…` into `wss://…`; a base that is a WebSocket URL already stays.
pub fn socket_base(base: &str) -> String {
    match base.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => format!("ws://{rest}"),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => format!("wss://{rest}"),
        Some(_) | None => base.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_percent_encoded_byte_by_byte() {
        assert_eq!(dispatch("a/b ä?"), "/api/v1/sessions/a%2Fb%20%C3%A4%3F/dispatch");
        assert_eq!(command("m-1", OperatorCommand::Abort), "/api/v1/missions/m-1/abort");
        assert_eq!(hitl_response("m.1~"), "/api/v1/missions/m.1~/hitl_response");
    }

    #[test]
    fn bases_are_joined_and_turned_into_socket_urls() {
        assert_eq!(join("http://h:1/", HEALTH), "http://h:1/api/health");
        assert_eq!(join(&socket_base("https://h/x"), &socket("e")), "wss://h/x/ws/executors/e");
        assert_eq!(socket_base("ws://h"), "ws://h");
    }
}
