//! Command: callers, and executors that answer 202 from raw sockets.

use crate::process::Registry;
use futures_util::stream::SplitSink;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

/// A keep-alive connection that writes requests as text and reads the status and the body.
pub(crate) struct Caller {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Caller {
    pub(crate) async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::with_capacity(4096) }
    }

    pub(crate) async fn get(&mut self, path: &str) -> (u16, Value) {
        let (status, body) = self.exchange(&get_request(path)).await;
        (status, serde_json::from_slice(body).unwrap_or(Value::Null))
    }

    pub(crate) async fn get_text(&mut self, path: &str) -> String {
        String::from_utf8_lossy(self.exchange(&get_request(path)).await.1).into_owned()
    }

    pub(crate) async fn post(&mut self, path: &str, body: &str) -> (u16, Value) {
        let head = "host: 127.0.0.1\r\ncontent-type: application/json";
        let length = body.len();
        let request = format!("POST {path} HTTP/1.1\r\n{head}\r\ncontent-length: {length}\r\n\r\n{body}");
        let (status, body) = self.exchange(&request).await;
        (status, serde_json::from_slice(body).unwrap_or(Value::Null))
    }

    async fn exchange(&mut self, request: &str) -> (u16, &[u8]) {
        self.stream.write_all(request.as_bytes()).await.unwrap();
        self.buffer.clear();
        loop {
            assert_ne!(self.stream.read_buf(&mut self.buffer).await.unwrap(), 0, "cut");
            let complete = head(&self.buffer).filter(|(head, length)| self.buffer.len() >= head + length);
            if let Some((head, length)) = complete {
                let status = std::str::from_utf8(&self.buffer[9..12]).unwrap().parse().unwrap();
                return (status, &self.buffer[head..head + length]);
            }
        }
    }
}

fn get_request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
}

/// Returns the length of the head and of the body, once the head is complete.
fn head(buffer: &[u8]) -> Option<(usize, usize)> {
    let end = buffer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&buffer[..end]).unwrap().to_ascii_lowercase();
    let length =
        text.lines().find_map(|line| line.strip_prefix("content-length:").map(|n| n.trim().parse().unwrap()));
    Some((end, length.unwrap_or(0)))
}

/// Answers every request on a socket with 202.
async fn answer_everything(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let mut buffer = Vec::with_capacity(4096);
    let body = r#"{"status":"accepted"}"#;
    let answer = format!(
        "HTTP/1.1 202 Accepted\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    while matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
        while let Some((head, length)) = head(&buffer)
            && buffer.len() >= head + length
        {
            buffer.drain(..head + length);
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

pub(crate) async fn bare_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer_everything(stream));
        }
    });
    address
}

pub(crate) type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<TcpStream>>;

/// The n-th executor id.
pub(crate) fn id(number: usize) -> String {
    format!("0b7e0c1e-8a53-4c7e-9d52-{number:012x}")
}

/// Registers the n-th executor, whose REST surface is at `rest`, and opens its line.
pub(crate) async fn executor(registry: &Registry, number: usize, rest: &str) -> Socket {
    let registration = json!({
        "executor_id": id(number), "name": "bench", "version": "1", "spec_version": "1.0.0", "capabilities": [],
        "transport_endpoints": {"rest": format!("http://{rest}"), "ws": format!("ws://{rest}")}
    });
    let mut caller = Caller::connect(&registry.address).await;
    let (status, answer) = caller.post("/api/v1/executors/register", &registration.to_string()).await;
    assert_eq!(status, 201, "{answer}");
    let token = answer["token"].as_str().unwrap();
    let url = format!("ws://{}/ws/executors/{}?token={token}", registry.address, id(number));
    let mut socket = tokio_tungstenite::connect_async(url).await.unwrap().0;
    socket.send(frame(number, "executor.resync", None, &json!({"owned_mission_ids": []}))).await.unwrap();
    socket
}

/// Reads what comes, which answers pings, and returns the way to send.
pub(crate) fn keep_reading(line: Socket) -> SplitSink<Socket, Message> {
    let (sender, mut receiver) = line.split();
    tokio::spawn(async move { while let Some(Ok(_)) = receiver.next().await {} });
    sender
}

pub(crate) fn frame(executor: usize, event: &str, mission: Option<&str>, data: &Value) -> Message {
    let mut frame =
        json!({"event": event, "executor_id": id(executor), "ts": "2026-01-01T00:00:00.000Z", "data": data});
    if let Some(mission) = mission {
        frame["mission_id"] = mission.into();
    }
    Message::Text(frame.to_string().into())
}
