//! Service: one orderly end, and a second signal for those who cannot wait.
//!
//! The first SIGINT or SIGTERM starts the drain. The second ends the process at once with exit code 130: the promises to
//! the disk are kept before they are answered, so there is nothing that a hurried exit could break.

use std::sync::{Arc, OnceLock};
use tokio_util::sync::CancellationToken;

/// Exit code after a second signal, as shells use for an interrupted program.
pub const SECOND_SIGNAL_EXIT_CODE: u8 = 130;

/// Why the shutdown started. The first cause stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// SIGINT or SIGTERM.
    Signal,
    /// The work is done.
    Finished,
    /// A task panicked; its name.
    Panic(&'static str),
    /// A stage cannot go on; its name.
    Fatal(&'static str),
}

/// The shared switch from "run" to "end in order". Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
    cause: Arc<OnceLock<Cause>>,
}

impl Shutdown {
    /// Makes a switch that has not been thrown.
    pub fn new() -> Self {
        Self::default()
    }

    /// Throws the switch; later causes are ignored.
    pub fn start(&self, cause: Cause) {
        if self.cause.set(cause).is_ok() {
            self.token.cancel();
        }
    }

    /// Says whether the shutdown has started.
    pub fn is_started(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Returns why, once it has started.
    pub fn cause(&self) -> Option<Cause> {
        self.cause.get().copied()
    }

    /// Waits for the start.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn started(&self) {
        self.token.cancelled().await;
    }

    /// Returns a token that is cancelled with the start, for APIs that take one.
    pub fn token(&self) -> CancellationToken {
        self.token.child_token()
    }
}

/// Listens for SIGINT and SIGTERM: the first throws `shutdown`, the second ends the process with
/// [`SECOND_SIGNAL_EXIT_CODE`].
///
/// # Errors
/// The operating system refuses a handler.
pub fn listen(shutdown: &Shutdown) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let shutdown = shutdown.clone();
    #[expect(clippy::disallowed_methods, reason = "must outlive every task set: it is what ends them")]
    tokio::spawn(async move {
        let mut first = true;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if first {
                first = false;
                tracing::info!("ending in order; a second signal ends at once");
                shutdown.start(Cause::Signal);
            } else {
                #[expect(
                    clippy::exit,
                    clippy::disallowed_methods,
                    reason = "the second signal asks for exactly this"
                )]
                std::process::exit(i32::from(SECOND_SIGNAL_EXIT_CODE));
            }
        }
    });
    Ok(())
}
