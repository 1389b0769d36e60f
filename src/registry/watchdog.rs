//! Service: tells the service manager that the registry is ready, lives, and ends.

use crate::registry::worker::Registry;
use crate::runtime::shutdown::Shutdown;

/// Says that the registry is ready, and from then on that it lives, as long as decisions reach the disk. Ends with the shutdown.
#[cfg(target_os = "linux")]
pub(super) async fn run(registry: Registry, shutdown: Shutdown) {
    use sd_notify::NotifyState;
    let tell = |state: NotifyState<'_>| {
        if let Err(error) = sd_notify::notify(&[state]) {
            tracing::debug!(error = %error, "cannot speak to the service manager");
        }
    };
    tell(NotifyState::Ready);
    match sd_notify::watchdog_enabled() {
        // Twice as often as is asked for, so that one late answer does not look like the end.
        Some(limit) => loop {
            tokio::select! {
                () = tokio::time::sleep(limit / 2) => {}
                () = shutdown.started() => break,
            }
            if registry.probe().await.is_ok() {
                tell(NotifyState::Watchdog);
            }
        },
        None => shutdown.started().await,
    }
    tell(NotifyState::Stopping);
}

/// There is no service manager to speak to.
#[cfg(not(target_os = "linux"))]
pub(super) async fn run(_registry: Registry, shutdown: Shutdown) {
    shutdown.started().await;
}
