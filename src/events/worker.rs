//! Service: takes the commands; the streams themselves follow in the next change.

use super::Config;
use super::messages::{Command, Report};
use crate::net::http::Http;
use crate::runtime::shutdown::Shutdown;
use tokio::sync::mpsc;

/// Runs until the shutdown.
pub async fn run(
    _config: Config,
    _http: Http,
    mut commands: mpsc::Receiver<Command>,
    _reports: mpsc::Sender<Report>,
    shutdown: Shutdown,
) {
    loop {
        tokio::select! {
            command = commands.recv() => if command.is_none() { break },
            () = shutdown.started() => break,
        }
    }
}
