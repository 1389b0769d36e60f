//! Command: `aiwg-rs serve`, the registry.

use crate::cli::duration;
use crate::cli::exit::{Code, Ended};
use crate::cli::output;
use crate::cli::project::repository;
use crate::executor::provision::port_lock::make_quiet_directory;
use crate::net::http::is_this_host;
use crate::registry::Webhook;
use crate::registry::acceptor::Listener;
use crate::registry::identity::IdentityError;
use crate::registry::operator_token::{self, OperatorTokenError};
use crate::registry::server::{self, ServeError};
use crate::registry::{Config, identity_path, tls, unix_socket};
use crate::runtime::shutdown::{self, Cause, Shutdown};
use clap::builder::FalseyValueParser;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::TcpListener;

/// The port of the Node program that this one stands in for.
const DEFAULT_PORT: u16 = 7337;

/// Settings of the registry
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Listen on this address; port 0 takes a free one and says which
    #[arg(long, env = "AIWG_RS_BIND", default_value = "127.0.0.1:7337", value_parser = address, value_name = "HOST:PORT")]
    pub bind: String,
    /// Keep missions, events and executors in this folder
    ///
    /// Without the flag it is `.aiwg/aiwg-rs` of the project, which is the git repository around, or a directory with `.aiwg` in it;
    /// elsewhere `$XDG_STATE_HOME/aiwg-rs`.
    #[arg(long, env = "AIWG_RS_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Keep the executors' tokens in this file
    ///
    /// Other programs share it. Without the flag it is found as they do: `roots.executor_identity` in
    /// `.aiwg/storage.config`, else `~/.config/aiwg/executor-identities.json`.
    #[arg(long, env = "AIWG_EXECUTOR_IDENTITY_STORE", value_name = "FILE")]
    pub identity_store: Option<PathBuf>,
    /// Listen on a Unix socket as well, which only the same user can open; give it as `unix:PATH`
    #[arg(long, env = "AIWG_RS_LISTEN", value_parser = unix_path, value_name = "unix:PATH")]
    pub listen: Option<PathBuf>,
    /// Serve TLS with this certificate (PEM, the whole chain)
    #[arg(long, env = "AIWG_RS_TLS_CERT", requires = "tls_key", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The private key of the certificate (PEM)
    #[arg(long, env = "AIWG_RS_TLS_KEY", requires = "tls_cert", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Answer to this name too, beside `localhost` and addresses; repeat it for more
    #[arg(long = "host", env = "AIWG_RS_HOSTS", value_delimiter = ',', value_name = "NAME")]
    pub hosts: Vec<String>,
    /// Keep the operator token in this file; made when it is absent and the registry can be reached from other hosts
    #[arg(long, env = "AIWG_RS_OPERATOR_TOKEN_FILE", value_name = "FILE")]
    pub operator_token_file: Option<PathBuf>,
    /// Send events to this URL as they happen, each at least once; repeat it for more
    #[arg(long = "webhook", env = "AIWG_RS_WEBHOOKS", value_delimiter = ',', value_name = "URL")]
    pub webhooks: Vec<String>,
    /// Send webhooks only events whose name begins so, such as `mission.completed`; repeat it for more
    #[arg(
        long = "webhook-event",
        env = "AIWG_RS_WEBHOOK_EVENTS",
        value_delimiter = ',',
        value_name = "KIND"
    )]
    pub webhook_events: Vec<String>,
    /// Sign webhooks with the secret in this file
    ///
    /// Made when it is absent, and refused when others may read it. What missions have told of their end (`mc dispatch --notify`)
    /// is signed with it too. The header `X-AIWG-Signature` is `t=<seconds>,v1=<hex>`, the HMAC-SHA256 of
    /// `<seconds>.<body>` under the secret.
    #[arg(long, env = "AIWG_RS_WEBHOOK_SECRET_FILE", value_name = "FILE")]
    pub webhook_secret_file: Option<PathBuf>,
    /// Let missions have their end told to this host, wherever it is; repeat it for more
    ///
    /// `mc dispatch --notify` leads to public addresses without it, and while the registry listens to this host only, to this host
    /// and to private networks; never to link-local addresses, where clouds keep their credentials.
    #[arg(long = "notify-host", env = "AIWG_RS_NOTIFY_HOSTS", value_delimiter = ',', value_name = "HOST")]
    pub notify_hosts: Vec<String>,
    /// Let nothing be changed over HTTP
    #[arg(long, env = "AIWG_RS_READ_ONLY", value_parser = FalseyValueParser::new())]
    pub read_only: bool,
    /// Take at most so many connections at a time
    #[arg(long, env = "AIWG_RS_MAX_CONNECTIONS", default_value_t = 16_384, value_name = "COUNT")]
    pub max_connections: usize,
    /// Take at most so many requests a second from one peer on another host; 0 for no limit
    #[arg(long, env = "AIWG_RS_REQUESTS_PER_SECOND", default_value_t = 200, value_name = "COUNT")]
    pub requests_per_second: u32,
    /// Keep ended missions for so long
    #[arg(long, env = "AIWG_RS_RETENTION", default_value = "30d", value_parser = duration::parse, value_name = "TIME")]
    pub retention: Duration,
    /// Let ended missions go sooner when the store is larger than so many MiB
    #[arg(long, env = "AIWG_RS_MAX_STORE_MIB", default_value_t = 4_096, value_name = "MIB")]
    pub max_store_mib: u64,
    /// Check the settings and the store, and end
    #[arg(long)]
    pub check: bool,
    /// Give an executor so long to answer a dispatch
    #[arg(long, env = "AIWG_RS_FORWARD_TIMEOUT", default_value = "10s", value_parser = duration::parse, value_name = "TIME")]
    pub forward_timeout: Duration,
    /// Give an executor so long to come back before its missions are suspended or failed
    #[arg(long, env = "AIWG_RS_EXECUTOR_GRACE", default_value = "30s", value_parser = duration::parse, value_name = "TIME")]
    pub executor_grace: Duration,
    /// Let one executor hold at most so many missions at a time
    #[arg(long, env = "AIWG_RS_MAX_MISSIONS_PER_EXECUTOR", value_name = "COUNT")]
    pub max_missions_per_executor: Option<u32>,
    /// Let one session have at most so many live missions at a time
    #[arg(long, env = "AIWG_RS_MAX_MISSIONS_PER_SESSION", value_name = "COUNT")]
    pub max_missions_per_session: Option<u32>,
    /// Give a peer so long to send the head of a request, or the next one on an idle connection
    #[arg(long, env = "AIWG_RS_HEAD_TIMEOUT", default_value = "60s", value_parser = duration::parse, value_name = "TIME")]
    pub head_timeout: Duration,
    /// Give a peer so long to send the body of a request
    #[arg(long, env = "AIWG_RS_BODY_TIMEOUT", default_value = "30s", value_parser = duration::parse, value_name = "TIME")]
    pub body_timeout: Duration,
    /// Give open requests so long to end once a signal has come
    #[arg(long, env = "AIWG_RS_DRAIN_TIMEOUT", default_value = "5s", value_parser = duration::parse, value_name = "TIME")]
    pub drain_timeout: Duration,
}

impl Arguments {
    /// Turns the arguments into settings.
    ///
    /// # Errors
    /// The token file cannot be located.
    pub fn config(&self) -> anyhow::Result<Config> {
        let home = std::env::home_dir();
        let project = std::env::current_dir()?;
        let path = identity_path::locate(self.identity_store.as_deref(), &project, home.as_deref());
        let default = || default_state_dir(&project, home.as_deref());
        let state_dir = self.state_dir.clone().unwrap_or_else(default);
        if self.state_dir.is_none() {
            // Tokens and missions are nothing to be committed by chance.
            make_quiet_directory(&state_dir).map_err(|error| {
                Ended::new(Code::State, format!("failed to make {}", state_dir.display()))
                    .because(error)
                    .hint("choose another folder with --state-dir")
            })?;
        }
        let operator_token = match &self.operator_token_file {
            Some(file) => Some(operator_token::read_or_create(file).map_err(untrusted("operator token"))?),
            None if is_open(&self.bind) => {
                let file = state_dir.join("operator-token");
                let token = operator_token::read_or_create(&file).map_err(untrusted("operator token"))?;
                tracing::info!(file.path = %file.display(), "peers on other hosts need the operator token");
                Some(token)
            }
            None => None,
        };
        let secret = self.webhook_secret_file.as_deref().map(operator_token::read_or_create);
        let secret = secret.transpose().map_err(untrusted("webhook secret"))?;
        let webhook = |url: &String| Webhook {
            url: url.clone(),
            kinds: self.webhook_events.clone(),
            secret: secret.clone(),
        };
        Ok(Config {
            webhooks: self.webhooks.iter().map(webhook).collect(),
            state_dir: Some(state_dir),
            identity_file: Some(path.map_err(refused)?),
            forward_timeout: self.forward_timeout,
            executor_grace: self.executor_grace,
            max_missions_per_executor: self.max_missions_per_executor,
            max_missions_per_session: self.max_missions_per_session,
            notify_secret: secret,
            notify_hosts: self.notify_hosts.clone(),
            head_timeout: self.head_timeout,
            body_timeout: self.body_timeout,
            drain_timeout: self.drain_timeout,
            hosts: self.hosts.clone(),
            operator_token,
            read_only: self.read_only,
            max_connections: self.max_connections,
            requests_per_second: self.requests_per_second,
            retention: self.retention,
            max_store_bytes: self.max_store_mib.saturating_mul(1 << 20),
            ..Config::default()
        })
    }

    async fn listeners(&self) -> anyhow::Result<Vec<Listener>> {
        let listener = TcpListener::bind(&self.bind).await.map_err(|error| {
            let message = format!("listen on {}", self.bind);
            Ended::new(Code::Failed, message).hint("choose another address with --bind").because(error)
        })?;
        let address = listener.local_addr()?;
        let (scheme, listener) = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => {
                let acceptor = tls::acceptor(certificate, key)
                    .map_err(|error| Ended::new(Code::Settings, "serve TLS").because(error))?;
                ("https", Listener::Tls(listener, acceptor))
            }
            (Some(_) | None, _) => ("http", Listener::Tcp(listener)),
        };
        tracing::info!(address = %address, "registry listening on {scheme}://{address}");
        let mut listeners = vec![listener];
        if let Some(path) = &self.listen {
            let socket = unix_socket::listen(path).map_err(|error| {
                Ended::new(Code::Failed, format!("listen on unix:{}", path.display())).because(error)
            })?;
            tracing::info!(file.path = %path.display(), "registry listening on a Unix socket");
            listeners.push(Listener::Unix(socket, path.clone()));
        }
        Ok(listeners)
    }
}

fn unix_path(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("unix:") {
        Some(path) if !path.is_empty() => Ok(PathBuf::from(path)),
        Some(_) | None => Err(format!("{text:?} is no Unix socket; write unix:PATH")),
    }
}

/// Reads an address to listen on; without a port it is [`DEFAULT_PORT`].
///
/// # Errors
/// It has no host, or a port that is none.
pub fn address(text: &str) -> Result<String, String> {
    if let Ok(host) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(SocketAddr::new(host, DEFAULT_PORT).to_string());
    }
    let problem = || format!("{text:?} is no address to listen on; write HOST:PORT, such as 127.0.0.1:0");
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let port = if text.contains(':') { port.parse().map_err(|_error| problem())? } else { DEFAULT_PORT };
    let is_host = !host.is_empty() && !host.contains(['/', ' ']);
    if is_host { Ok(format!("{host}:{port}")) } else { Err(problem()) }
}

/// Says whether peers on other hosts could reach this address. A name is resolved only when it is listened on.
fn is_open(bind: &str) -> bool {
    !is_this_host(bind.rsplit_once(':').map_or(bind, |(host, _)| host))
}

fn untrusted(what: &str) -> impl Fn(OperatorTokenError) -> Ended {
    let message = format!("use the {what}");
    move |error| Ended::new(Code::State, message.clone()).because(error)
}

/// Returns where state lies when nobody says so.
pub fn default_state_dir(project: &Path, home: Option<&Path>) -> PathBuf {
    let in_project = project.join(".aiwg");
    if in_project.is_dir() {
        return in_project.join("aiwg-rs");
    }
    if let Some(top) = repository(project) {
        return top.join(".aiwg/aiwg-rs");
    }
    let state_home = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    match state_home.or_else(|| home.map(|home| home.join(".local/state"))) {
        Some(state_home) => state_home.join("aiwg-rs"),
        None => in_project.join("aiwg-rs"),
    }
}

fn refused(error: IdentityError) -> Ended {
    let hint = "set AIWG_EXECUTOR_IDENTITY_STORE to use another file";
    Ended::new(Code::State, "use the executors' tokens").hint(hint).because(error)
}

/// Runs the registry until a signal comes.
///
/// # Errors
/// Whatever stopped it.
pub async fn run(arguments: Arguments) -> anyhow::Result<Code> {
    if arguments.check {
        return check(&arguments).await;
    }
    let shutdown = Shutdown::new();
    shutdown::listen(&shutdown)?;
    let listeners = arguments.listeners().await?;
    let config = arguments.config()?;
    server::run_on(listeners, config, shutdown.clone(), || {}).await.map_err(stopped)?;
    match shutdown.cause() {
        Some(Cause::Panic(_) | Cause::Fatal(_)) => Ok(Code::Failed),
        Some(Cause::Signal | Cause::Finished) | None => Ok(Code::Done),
    }
}

/// Says what stopped a registry, with the exit code for it.
pub fn stopped(error: ServeError) -> anyhow::Error {
    match error {
        ServeError::Identity(error) => refused(error).into(),
        ServeError::Store(error) => {
            let hint = "choose another folder with --state-dir, or end the registry that uses this one";
            Ended::new(Code::State, "use the registry's store").hint(hint).because(error).into()
        }
        ServeError::OpenWithoutToken => {
            let hint = "name a file with --operator-token-file; it is made when it is absent";
            Ended::new(Code::Settings, error.to_string()).hint(hint).into()
        }
        ServeError::Interrupted | ServeError::Client(_) | ServeError::Listener(_) => error.into(),
    }
}

/// Opens everything that the registry would stand on, and says what is there.
async fn check(arguments: &Arguments) -> anyhow::Result<Code> {
    let found = server::check(arguments.config()?).await.map_err(stopped)?;
    drop(arguments.listeners().await?);
    output::line(&found)?;
    Ok(Code::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_closed_to_the_network() {
        for closed in ["127.0.0.1:7337", "[::1]:7337", "localhost:1", "127.9.9.9:0"] {
            assert!(!is_open(closed), "{closed}");
        }
        for open in ["0.0.0.0:7337", "[::]:7337", "10.0.0.1:7337", "registry.example:7337"] {
            assert!(is_open(open), "{open}");
        }
        assert!(unix_path("unix:/tmp/s").is_ok());
        for (written, meant) in [
            ("localhost", "localhost:7337"),
            ("127.0.0.1", "127.0.0.1:7337"),
            ("::1", "[::1]:7337"),
            ("[::1]", "[::1]:7337"),
            ("[::1]:0", "[::1]:0"),
            ("0.0.0.0:80", "0.0.0.0:80"),
        ] {
            assert_eq!(address(written).as_deref(), Ok(meant));
        }
        for wrong in ["", ":0", "localhost:", "localhost:http", "http://127.0.0.1:0", "127.0.0.1:70000"] {
            assert!(address(wrong).unwrap_err().contains("write HOST:PORT"), "{wrong}");
        }
        assert!(unix_path("/tmp/s").is_err());
    }
}
