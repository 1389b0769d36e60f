//! The OpenAPI document describes what is there: its paths are the router's, and answers are as it says.

use super::peer::{Behaviour, Peer, Serve, order, soon};
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[tokio::test]
async fn the_document_has_the_routers_paths_and_no_other() {
    let serve = Serve::start().await;
    let document = serve.get("/api/v1/openapi.json").await.body;
    let described: BTreeSet<&str> =
        document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let source = include_str!("../../../src/registry/http/router.rs");
    let routed: BTreeSet<&str> =
        source.split(".route(\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(described, routed);
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let url = format!("{}{}", serve.base, path.replace("{id}", "x"));
            let method = method.to_uppercase().parse().unwrap();
            let answer = serve.http.request(method, url).send().await.unwrap();
            assert_ne!(answer.status(), 405, "{path}");
        }
    }
    serve.stop().await;
}

/// Checks a value against the parts of JSON Schema that the document uses.
fn check(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(reference.trim_start_matches('#')).unwrap();
        return check(document, target, value, at);
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().map(|kind| kind.as_str().unwrap()).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => return,
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    assert!(kinds.contains(&kind), "{at} is {kind}, not {kinds:?}: {value}");
    if let Some(words) = schema["enum"].as_array() {
        assert!(words.contains(value), "{at} is none of {words:?}: {value}");
    }
    if schema["format"] == "date-time" {
        let text = value.as_str().unwrap();
        assert!(text.parse::<jiff::Timestamp>().is_ok() && text.ends_with('Z'), "{at}: {text}");
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        check(document, &schema["items"], item, &format!("{at}[{index}]"));
    }
    let Some(members) = value.as_object() else { return };
    for required in schema["required"].as_array().into_iter().flatten() {
        assert!(members.contains_key(required.as_str().unwrap()), "{at} lacks {required}: {value}");
    }
    for (name, member) in members {
        let described = &schema["properties"][name];
        assert!(
            !described.is_null() || schema["additionalProperties"] != false,
            "{at} has {name}, which nobody described"
        );
        check(document, described, member, &format!("{at}.{name}"));
    }
}

#[tokio::test]
async fn answers_are_as_the_document_says() {
    let serve = Serve::start().await;
    let document = serve.get("/api/v1/openapi.json").await.body;
    let (peer, mut line) = Peer::connected(&serve, 1, &["hitl"]).await;
    let registration = peer.registration(&["hitl"]);
    let executor = format!("/api/v1/executors/{}", peer.id);
    let dispatch = "/api/v1/sessions/s/dispatch";
    let answer = json!({"hitl_id": "h-1", "response": "yes"});
    let mut reused = order("m-1");
    reused["objective"] = json!("else");
    let mut impossible = order("m-2");
    impossible["executor_filter"]["capabilities"] = json!(["x-none"]);
    let nothing = json!({});
    // Method, path, template, body, expected status.
    let exchanges: Vec<(&str, &str, &str, &Value, u16)> = vec![
        ("get", "/api/health", "/api/health", &nothing, 200),
        ("get", "/api/ready", "/api/ready", &nothing, 200),
        ("post", "/api/v1/executors/register", "/api/v1/executors/register", &registration, 201),
        ("post", "/api/v1/executors/register", "/api/v1/executors/register", &nothing, 400),
        ("get", "/api/v1/executors", "/api/v1/executors", &nothing, 200),
        ("get", &executor, "/api/v1/executors/{id}", &nothing, 200),
        ("get", "/api/v1/executors/x", "/api/v1/executors/{id}", &nothing, 404),
        ("delete", &executor, "/api/v1/executors/{id}", &nothing, 401),
        ("post", dispatch, "/api/v1/sessions/{id}/dispatch", &nothing, 400),
        ("post", dispatch, "/api/v1/sessions/{id}/dispatch", &impossible, 503),
        ("post", dispatch, "/api/v1/sessions/{id}/dispatch", &reused, 202),
        ("post", "/api/v1/sessions/s/explain", "/api/v1/sessions/{id}/explain", &impossible, 200),
        ("get", "/api/v1/missions", "/api/v1/missions", &nothing, 200),
        ("get", "/api/v1/missions?state=x", "/api/v1/missions", &nothing, 400),
        ("get", "/api/v1/sessions/s/missions", "/api/v1/sessions/{id}/missions", &nothing, 200),
        ("get", "/api/v1/missions/m-1", "/api/v1/missions/{id}", &nothing, 200),
        ("get", "/api/v1/missions/m-9", "/api/v1/missions/{id}", &nothing, 404),
        ("get", "/api/v1/hitl", "/api/v1/hitl", &nothing, 200),
        ("post", "/api/v1/missions/m-1/hitl_response", "/api/v1/missions/{id}/hitl_response", &answer, 202),
        ("post", "/api/v1/missions/m-1/hitl_response", "/api/v1/missions/{id}/hitl_response", &answer, 409),
        ("post", "/api/v1/missions/m-1/pause", "/api/v1/missions/{id}/pause", &nothing, 202),
        ("post", "/api/v1/missions/m-9/abort", "/api/v1/missions/{id}/abort", &nothing, 404),
    ];
    let mut tried: BTreeSet<(String, String)> = BTreeSet::new();
    for (method, path, template, body, status) in exchanges {
        tried.insert((method.to_owned(), template.to_owned()));
        if template == "/api/v1/hitl" {
            let question =
                json!({"hitl_id": "h-1", "prompt": "really?", "expires_at": "2100-01-01T00:00:00Z"});
            line.say(&peer.frame("mission.hitl_required", Some("m-1"), question)).await;
            serve.mission_in("m-1", "hitl-required").await;
        }
        let got = match method {
            "get" => serve.get(path).await,
            "delete" => serve.send(serve.http.delete(format!("{}{path}", serve.base))).await,
            _ => serve.post(path, body).await,
        };
        assert_eq!(got.status, status, "{method} {path}: {got:?}");
        let described = &document["paths"][template][method]["responses"][status.to_string()];
        let kind = got.headers["content-type"].to_str().unwrap();
        let schema = &described["content"][kind]["schema"];
        assert!(schema.is_object(), "{method} {template} {status} {kind} is not described");
        check(&document, schema, &got.body, template);
    }
    the_rest_is_as_described(&serve, &document, &peer, tried).await;
    peer.behave(Behaviour::Refuse(500));
    let failed = serve.post(dispatch, &order("m-3")).await;
    let described = &document["paths"]["/api/v1/sessions/{id}/dispatch"]["post"]["responses"]["502"];
    check(&document, &described["content"]["application/problem+json"]["schema"], &failed.body, "502");
    serve.stop().await;
}

/// The routes that are not like the others; with these, every operation of the document has been tried.
async fn the_rest_is_as_described(
    serve: &Serve,
    document: &Value,
    peer: &Peer,
    mut tried: BTreeSet<(String, String)>,
) {
    let moved = serve.post("/api/sessions/s/dispatch", &order("m-1")).await;
    assert_eq!(moved.status, 308);
    assert_eq!(moved.headers["location"], "/api/v1/sessions/s/dispatch");
    let lined = serve.get(&format!("/ws/executors/{}", peer.id)).await;
    let rest = [
        ("post", "/api/sessions/{id}/dispatch", moved),
        ("get", "/ws/executors/{id}", lined),
        ("get", "/metrics", serve.get("/metrics").await),
        ("get", "/api/v1/openapi.json", serve.get("/api/v1/openapi.json").await),
        ("get", "/api/v1/events", serve.get("/api/v1/events?after=x").await),
        ("post", "/api/v1/missions/{id}/resume", serve.post("/api/v1/missions/m-1/resume", &json!({})).await),
        ("post", "/api/v1/missions/{id}/abort", serve.post("/api/v1/missions/m-1/abort", &json!({})).await),
    ];
    for (method, template, got) in rest {
        let described = &document["paths"][template][method]["responses"][got.status.to_string()];
        assert!(described.is_object(), "{method} {template} {} is not described", got.status);
        if let Some(kind) = got.headers.get("content-type") {
            let kind = kind.to_str().unwrap().split(';').next().unwrap();
            let schema = &described["content"][kind]["schema"];
            assert!(schema.is_object(), "{method} {template} {} {kind} is not described", got.status);
            if kind.ends_with("json") {
                check(document, schema, &got.body, template);
            }
        }
        tried.insert((method.to_owned(), template.to_owned()));
    }
    let paths = document["paths"].as_object().unwrap().iter();
    let all: BTreeSet<(String, String)> = paths
        .flat_map(|(path, operations)| {
            operations.as_object().unwrap().keys().map(|method| (method.clone(), path.clone()))
        })
        .collect();
    assert_eq!(tried, all);
    // A stream, up to its first event.
    let mut stream =
        soon(serve.http.get(format!("{}/api/v1/events?after=0", serve.base)).send()).await.unwrap();
    let kind = stream.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(
        document["paths"]["/api/v1/events"]["get"]["responses"]["200"]["content"][&kind].is_object(),
        "{kind}"
    );
    let first = String::from_utf8(soon(stream.chunk()).await.unwrap().unwrap().to_vec()).unwrap();
    let data = first.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let event: Value = serde_json::from_str(data).unwrap();
    check(document, &document["components"]["schemas"]["Envelope"], &event, "event");
    drop(stream);
}
