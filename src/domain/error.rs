//! Domain: an error in one line.

/// Returns what failed and every cause of it, joined by colons: for log fields and for files that people read. A cause that
/// the message before it has said already is not said again.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        let message = deeper.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = deeper.source();
    }
    text
}
