//! Who is let in, and who is not.

use super::peer::{Peer, Serve, order, soon};
use aiwg_rs::domain::secret::Token;
use aiwg_rs::registry::Config;
use aiwg_rs::registry::server::{self, ServeError};
use aiwg_rs::runtime::shutdown::Shutdown;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

#[tokio::test]
async fn a_page_elsewhere_cannot_reach_the_registry() {
    let serve = Serve::start().await;
    let (_peer, _line) = Peer::connected(&serve, 1, &[]).await;
    let url = format!("{}/api/v1/sessions/s/dispatch", serve.base);
    let post = || serve.http.post(&url).json(&order("m-1"));
    let cross_origin = serve.send(post().header("origin", "http://evil.example")).await;
    assert_eq!((cross_origin.status, &cross_origin.body["error"]), (403, &json!("foreign_origin")));
    assert_eq!(serve.send(post().header("origin", "null")).await.status, 403);
    assert_eq!(
        serve.send(post().header("origin", "http://127.0.0.1:1")).await.status,
        403,
        "another local page"
    );
    let rebound = serve.send(post().header("host", "evil.example")).await;
    assert_eq!((rebound.status, &rebound.body["error"]), (421, &json!("wrong_host")));
    let form = serve.http.post(&url).header("content-type", "text/plain").body(order("m-1").to_string());
    assert_eq!(serve.send(form).await.status, 415);
    let abort = format!("{}/api/v1/missions/m-1/abort", serve.base);
    let form =
        serve.http.post(&abort).header("content-type", "application/x-www-form-urlencoded").body("a=b");
    assert_eq!(serve.send(form).await.status, 415);
    let read =
        serve.http.get(format!("{}/api/v1/missions", serve.base)).header("origin", "http://evil.example");
    assert_eq!(serve.send(read).await.status, 403);
    assert_eq!(serve.get("/api/v1/missions/m-1").await.status, 404, "none of them got through");
    let same = serve.send(post().header("origin", &serve.base)).await;
    assert_eq!(same.status, 202, "our own page may");
    serve.stop().await;
}

#[tokio::test]
async fn a_page_elsewhere_cannot_open_a_line() {
    let serve = Serve::start().await;
    let peer = Peer::register(&serve, 1, &[]).await;
    let base = serve.base.replace("http://", "ws://");
    for (name, value, status) in [("origin", "http://evil.example", 403), ("host", "evil.example", 421)] {
        let mut request = format!("{base}/ws/executors/{}", peer.id).into_client_request().unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
        let refused = soon(tokio_tungstenite::connect_async(request)).await.unwrap_err();
        let WsError::Http(response) = refused else { panic!("{refused:?}") };
        assert_eq!(response.status().as_u16(), status);
    }
    serve.stop().await;
}

#[tokio::test]
async fn the_network_is_listened_to_only_with_an_operator_token() {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let refused = server::run(listener, Config::default(), Shutdown::new()).await;
    assert!(matches!(refused, Err(ServeError::OpenWithoutToken)));
}

/// An address of this host that is not a loopback one, where there is one.
pub(super) fn outward_address() -> Option<std::net::IpAddr> {
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    probe.connect("192.0.2.1:9").ok()?;
    let address = probe.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[tokio::test]
async fn from_another_host_the_operator_token_opens_and_a_first_registration_rotates() {
    let Some(address) = outward_address() else {
        println!("skipped: this host has no address but loopback");
        return;
    };
    let config = Config { operator_token: Some(Token::new("operator-secret-123")), ..Config::default() };
    let mut serve = Serve::on("0.0.0.0:0", config).await;
    let mut peer = Peer::register(&serve, 1, &[]).await;
    let local = peer.token.clone();
    serve.base = serve.base.replace("0.0.0.0", &address.to_string());
    let register = format!("{}/api/v1/executors/register", serve.base);
    let registration = peer.registration(&[]);
    let without = serve.send(serve.http.post(&register).json(&registration)).await;
    assert_eq!((without.status, &without.body["error"]), (401, &json!("token_missing")));
    let wrong = serve.send(serve.http.post(&register).bearer_auth("x").json(&registration)).await;
    assert_eq!((wrong.status, &wrong.body["error"]), (401, &json!("token_invalid")));
    let with = || serve.http.post(&register).bearer_auth("operator-secret-123").json(&registration);
    let first = serve.send(with()).await;
    assert_eq!(first.status, 201);
    assert!(first.headers["x-aiwg-warning"].to_str().unwrap().starts_with("Token rotated"));
    first.body["token"].as_str().unwrap().clone_into(&mut peer.token);
    assert_ne!(peer.token, local);
    let again = serve.send(with()).await;
    assert!(!again.headers.contains_key("x-aiwg-warning"));
    assert_eq!(again.body["token"], peer.token.as_str());
    let list = format!("{}/api/v1/executors", serve.base);
    assert_eq!(
        serve.send(serve.http.get(&list).bearer_auth(&local)).await.status,
        401,
        "the old one is over"
    );
    assert_eq!(serve.send(serve.http.get(&list).bearer_auth(&peer.token)).await.status, 200);
    assert_eq!(serve.send(serve.http.get(&list)).await.status, 401);
    assert_eq!(serve.get("/api/health").await.status, 200);
    assert_eq!(serve.socket(&peer.id, "").await.hear().await, Err(4001), "no observer without a token");
    serve.stop().await;
}

#[tokio::test]
async fn a_read_only_registry_is_only_read() {
    let serve = Serve::with(Config { read_only: true, ..Config::default() }).await;
    let refused = serve.post("/api/v1/executors/register", &json!({})).await;
    assert_eq!((refused.status, &refused.body["error"]), (403, &json!("read_only")));
    assert_eq!(serve.get("/api/v1/missions").await.status, 200);
    serve.stop().await;
}

#[tokio::test]
async fn heads_without_end_and_garbage_are_cut_off() {
    let serve = Serve::start().await;
    let address = serve.base.strip_prefix("http://").unwrap().to_owned();
    let exchange = async |text: Vec<u8>| {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(&text).await.ok();
        let mut answer = Vec::new();
        soon(stream.read_to_end(&mut answer)).await.ok();
        String::from_utf8_lossy(&answer).into_owned()
    };
    let long = format!("GET /api/health HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(64 << 10));
    assert!(exchange(long.into_bytes()).await.starts_with("HTTP/1.1 431"));
    let many = "a: b\r\n".repeat(300);
    let many = format!("GET /api/health HTTP/1.1\r\nhost: localhost\r\n{many}\r\n");
    assert!(exchange(many.into_bytes()).await.starts_with("HTTP/1.1 431"));
    assert!(exchange(vec![0xff; 100]).await.starts_with("HTTP/1.1 400"));
    assert_eq!(serve.get("/api/health").await.status, 200);
    serve.stop().await;
}

#[tokio::test]
async fn tokens_are_nowhere_to_be_read() {
    let serve = Serve::start().await;
    let (peer, _line) = Peer::connected(&serve, 1, &[]).await;
    serve.dispatch("m-1").await;
    for path in ["/api/v1/executors", "/api/v1/missions", "/api/v1/missions/m-1", "/metrics", "/api/ready"] {
        let text = soon(serve.http.get(format!("{}{path}", serve.base)).send()).await.unwrap();
        assert_eq!(text.status(), 200, "{path}");
        assert!(!text.text().await.unwrap().contains(&peer.token), "{path}");
    }
    serve.stop().await;
}
