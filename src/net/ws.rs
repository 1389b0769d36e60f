//! Edge: WebSocket connections as a client: connect, keep alive, cap frames, close politely.

use futures_util::{SinkExt as _, StreamExt as _};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// The largest frame that is accepted, in bytes: the limit of the executor contract.
pub const MAX_FRAME_BYTES: usize = 1024 * 1024;

/// How often a silent connection is pinged.
pub const PING_EVERY: Duration = Duration::from_secs(15);

/// After this much silence the connection counts as dead.
pub const DEAD_AFTER: Duration = Duration::from_secs(45);

/// A connection could not be made or did not last.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The address or a header is malformed.
    #[error("{url:?} is not a usable WebSocket address")]
    Unusable {
        /// The address without its query.
        url: String,
    },
    /// The server answered the upgrade with a plain status.
    #[error("{url} refused the WebSocket with HTTP {status}")]
    Refused {
        /// The address without its query.
        url: String,
        /// The status code.
        status: u16,
    },
    /// No connection, or it broke.
    #[error("the WebSocket to {url} broke: {cause}")]
    Broken {
        /// The address without its query.
        url: String,
        /// What happened, in one line.
        cause: String,
    },
    /// Nothing came for [`DEAD_AFTER`].
    #[error("the WebSocket to {url} is dead: nothing came for {} s", DEAD_AFTER.as_secs())]
    Silent {
        /// The address without its query.
        url: String,
    },
    /// The peer closed it.
    #[error("{url} closed the WebSocket with code {code} {reason:?}")]
    Closed {
        /// The address without its query.
        url: String,
        /// The close code; 1005 when there was none.
        code: u16,
        /// The reason given.
        reason: String,
    },
}

/// One open connection.
#[derive(Debug)]
pub struct Connection {
    url: String,
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    heard: tokio::time::Instant,
    next_ping: tokio::time::Instant,
}

impl Connection {
    /// Connects, with an optional bearer token, within `limit`.
    ///
    /// # Errors
    /// [`Failure`] says which step failed.
    pub async fn open(url: &str, bearer: Option<&str>, limit: Duration) -> Result<Self, Failure> {
        crate::net::http::install_tls();
        let shown = url.split('?').next().unwrap_or(url).to_owned();
        let unusable = || Failure::Unusable { url: shown.clone() };
        let mut request = url.into_client_request().map_err(|_syntax| unusable())?;
        if let Some(token) = bearer {
            let value = format!("Bearer {token}").parse().map_err(|_invalid| unusable())?;
            request.headers_mut().insert("authorization", value);
        }
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_FRAME_BYTES))
            .max_frame_size(Some(MAX_FRAME_BYTES));
        let connecting = tokio_tungstenite::connect_async_with_config(request, Some(config), true);
        let (stream, _response) = match tokio::time::timeout(limit, connecting).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(WsError::Http(response))) => {
                return Err(Failure::Refused { url: shown, status: response.status().as_u16() });
            }
            Ok(Err(error)) => return Err(Failure::Broken { url: shown, cause: error.to_string() }),
            Err(_elapsed) => {
                let cause = format!("no connection within {} s", limit.as_secs());
                return Err(Failure::Broken { url: shown, cause });
            }
        };
        let now = tokio::time::Instant::now();
        Ok(Self { url: shown, stream, heard: now, next_ping: now + PING_EVERY })
    }

    /// Returns the next text frame, pinging a silent peer meanwhile.
    ///
    /// # Errors
    /// [`Failure`] when the connection has ended; it is of no more use then.
    ///
    /// # Cancel safety
    /// Safe: a frame is either returned or still in the stream.
    pub async fn next_text(&mut self) -> Result<String, Failure> {
        loop {
            let wake = self.next_ping.min(self.heard + DEAD_AFTER);
            let message = tokio::select! {
                message = self.stream.next() => message,
                () = tokio::time::sleep_until(wake) => {
                    let now = tokio::time::Instant::now();
                    if now >= self.heard + DEAD_AFTER {
                        return Err(Failure::Silent { url: self.url.clone() });
                    }
                    self.next_ping = now + PING_EVERY;
                    self.send(Message::Ping(bytes::Bytes::new())).await?;
                    continue;
                }
            };
            self.heard = tokio::time::Instant::now();
            self.next_ping = self.heard + PING_EVERY;
            match message {
                Some(Ok(Message::Text(text))) => return Ok(text.as_str().to_owned()),
                Some(Ok(Message::Close(frame))) => {
                    let (code, reason) = frame
                        .map_or((1005, String::new()), |f| (u16::from(f.code), f.reason.as_str().to_owned()));
                    return Err(Failure::Closed { url: self.url.clone(), code, reason });
                }
                Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(error)) => {
                    return Err(Failure::Broken { url: self.url.clone(), cause: error.to_string() });
                }
                None => {
                    return Err(Failure::Closed { url: self.url.clone(), code: 1006, reason: String::new() });
                }
            }
        }
    }

    /// Sends one text frame.
    ///
    /// # Errors
    /// [`Failure`] when the connection has ended.
    pub async fn send_text(&mut self, text: String) -> Result<(), Failure> {
        self.send(Message::Text(text.into())).await
    }

    async fn send(&mut self, message: Message) -> Result<(), Failure> {
        let broken = |cause: String| Failure::Broken { url: self.url.clone(), cause };
        match tokio::time::timeout(DEAD_AFTER, self.stream.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(broken(error.to_string())),
            Err(_elapsed) => Err(broken(format!("nothing could be written for {} s", DEAD_AFTER.as_secs()))),
        }
    }

    /// Closes with code 1000, waiting at most a second for the peer to agree.
    pub async fn close(mut self) {
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let closing = async {
            if self.stream.close(Some(frame)).await.is_ok() {
                while let Some(Ok(_late)) = self.stream.next().await {}
            }
        };
        drop(tokio::time::timeout(Duration::from_secs(1), closing).await);
    }
}
