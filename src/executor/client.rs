//! Service: registers with the registry and keeps a control line to it, as long as it takes.

use crate::domain::retry::RetryPolicy;
use crate::domain::secret::Token;
use crate::executor::line::{Gone, Line, Lines};
use crate::executor::roster::Roster;
use crate::net::http::Http;
use crate::net::ws::Connection;
use crate::protocol::executor_v1::{RegisterRequest, RegisterResponse, SPEC_VERSION, TransportEndpoints};
use crate::protocol::problem::Problem;
use crate::protocol::route;
use crate::runtime::shutdown::Shutdown;
use std::time::Duration;
use tokio::sync::watch;

/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// A failure that is said again only after this many of its kind.
const SAY_EVERY: u32 = 20;

/// What the client needs to know.
#[derive(Debug, Clone)]
pub struct Client {
    /// The registry.
    pub serve_url: String,
    /// Where we are reached.
    pub own_url: String,
    /// Speaks HTTP.
    pub http: Http,
    /// The token that the registry gave us.
    pub token: watch::Sender<Option<Token>>,
    /// Control lines.
    pub lines: Lines,
}

impl Client {
    /// Registers and talks until the shutdown.
    pub async fn run(self, roster: Roster, shutdown: Shutdown) {
        let seed = u64::from(std::process::id());
        let mut delays = RetryPolicy::RECONNECT.delays(seed, crate::runtime::clock::now().instant);
        let mut failures: u32 = 0;
        while !shutdown.is_started() {
            let attempt = tokio::select! {
                attempt = self.connect(&roster) => attempt,
                () = shutdown.started() => return,
            };
            match attempt {
                Ok(line) => {
                    tracing::info!(http.url = self.serve_url, executor.id = %roster.shared.executor, "connected to the registry");
                    delays.reset();
                    failures = 0;
                    let gone = self.lines.serve(line, &roster, &shutdown).await;
                    match gone {
                        Gone::Ending => return,
                        Gone::Replaced | Gone::Closed(4009) => {}
                        Gone::Broken(_) | Gone::Closed(_) => {
                            tracing::warn!(reason = ?gone, "the line to the registry is gone; connecting again");
                        }
                    }
                }
                Err(problem) => {
                    if failures.is_multiple_of(SAY_EVERY) {
                        tracing::warn!(
                            http.url = self.serve_url,
                            error = problem,
                            "the registry cannot be reached; missions go on"
                        );
                    }
                    failures = failures.saturating_add(1);
                }
            }
            let delay = delays.next().unwrap_or(Duration::from_secs(30));
            tokio::select! {
                () = async {
                    tokio::time::sleep(delay).await;
                    // Where the registry has dialled us there is no need to dial.
                    self.lines.none_open().await;
                } => {}
                () = shutdown.started() => return,
            }
        }
    }

    async fn connect(&self, roster: &Roster) -> Result<Line, String> {
        let token = self.register(roster).await?;
        let executor = &roster.shared.executor;
        let base = route::socket_base(&self.serve_url);
        let url = format!(
            "{}?token={}",
            route::join(&base, &route::socket(executor.as_str())),
            route::segment(token.reveal())
        );
        let connection =
            Connection::open(&url, None, CONNECT_WITHIN).await.map_err(|failure| failure.to_string())?;
        Ok(Line::Outbound(Box::new(connection)))
    }

    async fn register(&self, roster: &Roster) -> Result<Token, String> {
        let config = &roster.shared.config;
        let request = RegisterRequest {
            executor_id: roster.shared.executor.clone(),
            name: config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            spec_version: SPEC_VERSION.to_owned(),
            transport_endpoints: TransportEndpoints {
                rest: self.own_url.clone(),
                ws: route::socket_base(&self.own_url),
                grpc: None,
            },
            capabilities: config.capabilities(),
            a2a_instance_id: None,
        };
        let url = route::join(&self.serve_url, route::REGISTER);
        let sent = self.http.send(self.http.request(reqwest::Method::POST, &url).json(&request)).await;
        let answer = sent.map_err(|failure| format!("{failure}: {}", failure.cause()))?;
        if !answer.is_success() {
            return Err(format!("it refuses us: {}", Problem::read(answer.status, &answer.body).detail));
        }
        let response: RegisterResponse = serde_json::from_slice(&answer.body)
            .map_err(|error| format!("its answer cannot be read: {error}"))?;
        let token = Token::new(response.token);
        self.token.send_replace(Some(token.clone()));
        Ok(token)
    }

    /// Says goodbye, if nothing is left that the registry should wait for.
    pub async fn deregister(&self, roster: &Roster) {
        let Some(token) = self.token.borrow().clone() else { return };
        let url = route::join(&self.serve_url, &route::executor(roster.shared.executor.as_str()));
        let request = self.http.request(reqwest::Method::DELETE, &url).bearer_auth(token.reveal());
        if let Err(failure) = self.http.send(request.timeout(Duration::from_secs(2))).await {
            tracing::debug!(error = %failure, "the registry did not hear the goodbye");
        }
    }
}
