//! Command: answers go to standard output, everything else to standard error.
//!
//! A reader that went away (`aiwg-rs mc list | head -1`) is no error.

use std::io::{self, IsTerminal as _, Write as _};

/// Writes bytes to standard output.
///
/// # Errors
/// The write fails for another reason than a closed pipe.
pub fn raw(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes text to standard output, with colours only where they are wanted.
///
/// # Errors
/// As [`raw`].
pub fn styled(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes one line to standard output.
///
/// # Errors
/// As [`raw`].
pub fn line(text: &str) -> io::Result<()> {
    raw(format!("{text}\n").as_bytes())
}

/// Writes one JSON value on one line to standard output.
///
/// # Errors
/// As [`raw`].
pub fn json(value: &impl serde::Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    raw(&text)
}

/// Writes text to standard error, with colours only where they are wanted.
pub fn complain(text: &str) {
    let mut err = anstream::stderr().lock();
    // Nowhere is left to report a failure to report.
    drop(err.write_all(text.as_bytes()).and_then(|()| err.flush()));
}

/// Says whether standard output is a terminal.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}
