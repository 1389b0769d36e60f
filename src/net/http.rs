//! Edge: the one HTTP client, and three kinds of answers.
//!
//! A caller that decides about retries needs to know one thing above all: can the request have arrived? So an answer is
//! either [`Answer`] (the peer spoke, whatever the status), or a [`Failure`] that says whether the peer may have seen it.
//! Redirects are not followed: a POST that turns into a GET on the way is worse than an error.

use bytes::{Bytes, BytesMut};
use reqwest::header::{HeaderName, HeaderValue};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The largest answer body that is read, in bytes. Longer ones are cut; every answer of the contract is far smaller.
pub const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// The header that tells a repeated request from a new one.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The content type of every body that is sent.
pub const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Time-outs of one client.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// For the TCP and TLS handshakes. 5 s: three SYN retransmissions.
    pub connect_timeout: Duration,
    /// For the whole exchange. 30 s: three times the registry's own forward time-out of 10 s.
    pub request_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { connect_timeout: Duration::from_secs(5), request_timeout: Duration::from_secs(30) }
    }
}

/// What the peer said.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// `Retry-After`, when it was there and readable, as a duration from now.
    pub retry_after: Option<Duration>,
    /// The body, at most [`MAX_BODY_BYTES`].
    pub body: Bytes,
}

impl Answer {
    /// Says whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Returns the sentence for people: the body's `detail`, else its `error`, else `HTTP <status>`.
    pub fn message(&self) -> String {
        let body: Option<serde_json::Value> = serde_json::from_slice(&self.body).ok();
        let text =
            |key: &str| body.as_ref().and_then(|b| b.get(key)).and_then(|v| v.as_str()).map(str::to_owned);
        text("detail").or_else(|| text("error")).unwrap_or_else(|| format!("HTTP {}", self.status))
    }
}

/// No complete answer came.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No connection was made: the request was certainly not seen.
    #[error("{url} is unreachable")]
    Unreachable {
        /// The address without its query.
        url: String,
        /// What the client saw.
        #[source]
        source: reqwest::Error,
    },
    /// The connection broke or the time ran out after the request may have been sent: it may have been seen.
    #[error("no complete answer from {url}")]
    Uncertain {
        /// The address without its query.
        url: String,
        /// What the client saw.
        #[source]
        source: reqwest::Error,
    },
    /// The request could not be built.
    #[error("{url:?} is not a usable address")]
    Unusable {
        /// The address as given.
        url: String,
        /// What is wrong with it.
        #[source]
        source: reqwest::Error,
    },
}

impl Failure {
    /// Says whether the peer can have seen the request.
    pub fn may_have_arrived(&self) -> bool {
        matches!(self, Self::Uncertain { .. })
    }

    /// Returns the deepest cause in one line, without the address.
    pub fn cause(&self) -> String {
        let mut source: &dyn std::error::Error = self;
        while let Some(deeper) = source.source() {
            source = deeper;
        }
        source.to_string()
    }
}

/// Installs the TLS provider; without it the client cannot be built. Calling it again does nothing.
pub fn install_tls() {
    drop(rustls::crypto::ring::default_provider().install_default());
}

/// The client. Clones share one connection pool.
#[derive(Debug, Clone)]
pub struct Http {
    plain: reqwest::Client,
    secure: Arc<Secure>,
}

/// The client for `https`, made when the first such address is asked for: reading the system's certificates takes as long
/// as everything else that a short command does.
struct Secure {
    config: Config,
    names: Option<Arc<dyn reqwest::dns::Resolve>>,
    client: OnceLock<reqwest::Client>,
}

impl std::fmt::Debug for Secure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secure").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Http {
    /// Builds a client that speaks to its peers directly: a proxy from the environment is not asked, because it would
    /// be asked for loopback peers too.
    ///
    /// # Errors
    /// The TLS library cannot be set up.
    pub fn new(config: Config) -> Result<Self, reqwest::Error> {
        Self::build(config, None)
    }

    /// Builds a client that connects to what `names` resolves names to, and to nothing else.
    ///
    /// # Errors
    /// The TLS library cannot be set up.
    pub fn resolving(
        config: Config,
        names: impl reqwest::dns::Resolve + 'static,
    ) -> Result<Self, reqwest::Error> {
        Self::build(config, Some(Arc::new(names)))
    }

    fn build(config: Config, names: Option<Arc<dyn reqwest::dns::Resolve>>) -> Result<Self, reqwest::Error> {
        let plain = builder(config, names.clone()).tls_certs_only([]).build()?;
        Ok(Self { plain, secure: Arc::new(Secure { config, names, client: OnceLock::new() }) })
    }

    fn secure(&self) -> &reqwest::Client {
        self.secure.client.get_or_init(|| {
            let built = builder(self.secure.config, self.secure.names.clone()).build();
            built.unwrap_or_else(|error| {
                tracing::error!(error = %error, "the system's certificates cannot be used; no https peer will be trusted");
                self.plain.clone()
            })
        })
    }

    /// Starts a request; finish it with [`Http::send`].
    pub fn request(&self, method: reqwest::Method, url: impl reqwest::IntoUrl) -> reqwest::RequestBuilder {
        self.plain.request(method, url)
    }

    /// Sends the request and reads the whole answer.
    ///
    /// # Errors
    /// [`Failure`] when there is no complete answer.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the peer saw the request.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer, Failure> {
        let built = request
            .build()
            .map_err(|source| Failure::Unusable { url: without_query(source.url()), source })?;
        let client = if built.url().scheme() == "https" { self.secure() } else { &self.plain };
        let mut response = client.execute(built).await.map_err(|source| {
            let url = without_query(source.url());
            match source {
                source if source.is_connect() => Failure::Unreachable { url, source: source.without_url() },
                source if source.is_builder() => Failure::Unusable { url, source: source.without_url() },
                source => Failure::Uncertain { url, source: source.without_url() },
            }
        })?;
        let status = response.status().as_u16();
        let retry_after =
            response.headers().get("retry-after").and_then(|v| v.to_str().ok()).and_then(retry_after);
        let mut body = Body::default();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    if body.is_full_with(chunk) {
                        break;
                    }
                }
                Ok(None) => break,
                // The status line is the answer to a refusal; half a success is no success.
                Err(_cut) if status >= 400 => break,
                Err(source) => {
                    let url = without_query(Some(response.url()));
                    return Err(Failure::Uncertain { url, source: source.without_url() });
                }
            }
        }
        Ok(Answer { status, retry_after, body: body.into_bytes() })
    }
}

/// A body as it comes in. Most come in one piece, which is not copied.
#[derive(Debug, Default)]
struct Body {
    first: Bytes,
    whole: BytesMut,
}

impl Body {
    /// Takes a piece in; says whether that is as much as is read of any body.
    fn is_full_with(&mut self, mut piece: Bytes) -> bool {
        piece.truncate(MAX_BODY_BYTES - self.len());
        if self.len() == 0 {
            self.first = piece;
        } else {
            self.whole.extend_from_slice(&std::mem::take(&mut self.first));
            self.whole.extend_from_slice(&piece);
        }
        self.len() >= MAX_BODY_BYTES
    }

    fn len(&self) -> usize {
        self.first.len() + self.whole.len()
    }

    fn into_bytes(self) -> Bytes {
        if self.whole.is_empty() { self.first } else { self.whole.freeze() }
    }
}

/// Says whether a host, as it is written in a URL or an address, is this one by its name alone; nothing is resolved.
pub fn is_this_host(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    let address = || host.parse::<std::net::IpAddr>().ok();
    host == "localhost" || address().is_some_and(|address| address.to_canonical().is_loopback())
}

/// Returns the URL of `path`, given as it is to be sent, below a base that has been parsed already.
pub fn under(base: &reqwest::Url, path: &str) -> reqwest::Url {
    let mut url = base.clone();
    let prefix = base.path().trim_end_matches('/');
    if prefix.is_empty() {
        url.set_path(path);
    } else {
        url.set_path(&format!("{prefix}{path}"));
    }
    url
}

fn builder(config: Config, names: Option<Arc<dyn reqwest::dns::Resolve>>) -> reqwest::ClientBuilder {
    install_tls();
    let builder = match names {
        Some(names) => reqwest::Client::builder().dns_resolver(names),
        None => reqwest::Client::builder(),
    };
    builder
        .user_agent(concat!("aiwg-rs/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(config.connect_timeout)
        .timeout(config.request_timeout)
        .pool_max_idle_per_host(256)
        .tcp_nodelay(true)
        .redirect(reqwest::redirect::Policy::none())
        // What is sent again, and when, is decided elsewhere; without HTTP/2 the client's own repeats never happen, but keep
        // a copy of every request.
        .retry(reqwest::retry::never().max_retries_per_request(0))
        .no_proxy()
}

fn without_query(url: Option<&reqwest::Url>) -> String {
    url.map_or_else(String::new, |url| {
        let mut url = url.clone();
        url.set_query(None);
        url.to_string()
    })
}

/// Reads `Retry-After`: whole seconds or an HTTP date. At most a day; a date in the past is zero.
fn retry_after(text: &str) -> Option<Duration> {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds).min(DAY));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    let wait = crate::domain::time::Timestamp::from_millis(at.as_millisecond()).since(now_for_dates());
    Some(wait.min(DAY))
}

/// An HTTP date is relative to the wall clock of the moment it is read.
fn now_for_dates() -> crate::domain::time::Timestamp {
    crate::domain::time::Timestamp::from_millis(jiff::Timestamp::now().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::route;

    #[test]
    fn retry_after_is_read_as_seconds_or_as_a_date() {
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("999999999"), Some(Duration::from_secs(86_400)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let ahead = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(100);
        let wait = retry_after(&ahead.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()).unwrap();
        assert!((90..=100).contains(&wait.as_secs()), "{wait:?}");
        assert_eq!(retry_after("soon"), None);
    }

    #[test]
    fn a_path_below_a_parsed_base_is_what_parsing_the_whole_would_give() {
        for base in ["http://h:1", "http://h:1/", "https://[::1]:7/a/b", "http://h/a//"] {
            for path in [route::HEALTH.to_owned(), route::dispatch("a/b %?#é"), route::mission("m 1")] {
                let parsed = reqwest::Url::parse(base).unwrap();
                let whole = reqwest::Url::parse(&route::join(base, &path)).unwrap();
                assert_eq!(under(&parsed, &path), whole);
            }
        }
    }

    #[test]
    fn a_body_in_pieces_is_put_together_and_cut_where_it_is_too_long() {
        let read = |pieces: &[usize]| {
            let mut body = Body::default();
            let full =
                pieces.iter().zip(b'a'..).map(|(&length, byte)| body.is_full_with(vec![byte; length].into()));
            (full.last(), body.into_bytes())
        };
        assert_eq!(read(&[]), (None, Bytes::new()));
        assert_eq!(read(&[2]), (Some(false), Bytes::from_static(b"aa")));
        assert_eq!(read(&[2, 0, 1, 1]), (Some(false), Bytes::from_static(b"aacd")));
        let (full, body) = read(&[MAX_BODY_BYTES - 1, 2]);
        assert_eq!((full, body.len(), body.last()), (Some(true), MAX_BODY_BYTES, Some(&b'b')));
        assert_eq!(read(&[MAX_BODY_BYTES + 1]).1.len(), MAX_BODY_BYTES);
    }

    #[tokio::test]
    async fn nobody_listening_is_unreachable_and_a_cut_answer_is_uncertain() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let http = Http::new(Config::default()).unwrap();
        let url = format!("http://{address}/x?token=secret");
        let cut = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 1024];
            let read = tokio::io::AsyncReadExt::read(&mut stream, &mut buffer).await.unwrap();
            assert!(read > 0);
            let half = b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{\"half";
            tokio::io::AsyncWriteExt::write_all(&mut stream, half).await.unwrap();
        };
        let (answer, ()) = tokio::join!(http.send(http.request(reqwest::Method::POST, &url)), cut);
        let failure = answer.unwrap_err();
        assert!(failure.may_have_arrived());
        assert!(!format!("{failure:?} {failure}").contains("secret"));
        drop(listener);
        let failure = http.send(http.request(reqwest::Method::POST, &url)).await.unwrap_err();
        assert!(!failure.may_have_arrived(), "{failure:?}");
    }
}
