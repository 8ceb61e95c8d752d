//! What hostile clients send, and that it costs them their connection and nobody else anything.

use crate::support::raw_connection::RawConnection;
use crate::support::test_service::{Scripted, TestService, overrides};
use crate::support::wait::until;
use futures_util::future::join_all;
use lnsp_ingest::app::Overrides;
use lnsp_ingest::http::{BodyTimeouts, ROUTES, Route, Settings};
use serde_json::{Value, json};
use std::time::Duration;

/// A service that waits for clients as shortly as a busy machine allows.
async fn service() -> TestService {
    service_that_keeps(Duration::from_secs(1)).await
}

/// As [`service`], with another limit for idle connections.
async fn service_that_keeps(keep_alive: Duration) -> TestService {
    let overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    let second = Duration::from_secs(1);
    let body = BodyTimeouts { silence: second, bytes_per_second: 1 << 20, over: second };
    let settings = Settings { head: second, keep_alive, linger: second, body, ..Settings::default() };
    TestService::build_with(overrides, &[], settings).await
}

/// The head of a request with a JSON body, without its last line.
fn head(method: &str, path: &str, host: &str, kind: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\n")
}

fn json_head(method: &str, path: &str) -> String {
    head(method, path, "localhost", "application/json")
}

/// The statuses of all answers on a connection that has ended.
fn statuses(seen: &str) -> Vec<u16> {
    seen.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].parse().unwrap()).collect()
}

/// What a client does to a route.
struct Attack {
    name: &'static str,
    host: &'static str,
    kind: &'static str,
    /// The other header lines and the beginning of the body.
    sends: &'static str,
    /// It goes on sending bytes, one after the other, until the connection ends.
    dribbles: bool,
    /// The statuses of the answers of a route that takes a body.
    expected: &'static [u16],
    /// The statuses before the usual answer of a route that takes no body.
    before: &'static [u16],
    /// The status that may follow the answer.
    after: &'static [u16],
}

const fn attack(name: &'static str, sends: &'static str, expected: &'static [u16]) -> Attack {
    let (host, kind, dribbles) = ("localhost", "application/json", false);
    Attack { name, host, kind, sends, dribbles, expected, before: &[], after: &[] }
}

/// One JSON object that says nothing, and a request behind it that ends the chunks in a way of its own.
const BARE_LF: &str = "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\n\
                       GET /stats HTTP/1.1\r\nHost: localhost\r\n\r\n";

const ATTACKS: &[Attack] = &[
    attack("silent body", "Content-Length: 500\r\n\r\n", &[408]),
    Attack {
        before: &[100],
        ..attack(
            "silent body after Expect",
            "Content-Length: 500\r\nExpect: 100-continue\r\n\r\n",
            &[100, 408],
        )
    },
    attack("silent chunked body", "Transfer-Encoding: chunked\r\n\r\n", &[408]),
    Attack { dribbles: true, ..attack("dribbled body", "Content-Length: 100000\r\n\r\n{", &[408]) },
    attack("oversized body", "Content-Length: 99999999\r\n\r\n{", &[413]),
    Attack { kind: "text/plain", ..attack("wrong type", "Content-Length: 2\r\n\r\n{}", &[415]) },
    Attack { host: "evil.example", ..attack("foreign host", "Connection: close\r\n\r\n", &[403]) },
    // The second request is refused, or not even read.
    Attack { after: &[400], ..attack("bare LF at the end of chunks", BARE_LF, &[422]) },
];

/// One attack on one route.
async fn cell(service: &TestService, route: &Route, attack: &Attack) {
    let method = route.method.as_str();
    let mut raw = RawConnection::connect(&service.url).await.unwrap();
    raw.write(head(method, route.path, attack.host, attack.kind) + attack.sends).await;
    let seen = if attack.dribbles { raw.dribble().await } else { raw.rest().await };
    let cell = format!("{method} {}, {}: {seen}", route.path, attack.name);

    // What is read or deleted by its name takes no body, and nothing has these names.
    let by_name = route.path.contains('{') && method != "PUT";
    let takes_a_body =
        matches!(method, "POST" | "PUT" | "DELETE") && route.path != "/embed/single" && !by_name;
    let expected = if takes_a_body || attack.expected == [403] {
        attack.expected.to_vec()
    } else {
        // It has its answer before the body.
        [attack.before, &[if method == "GET" && !by_name { 200 } else { 422 }]].concat()
    };
    let statuses = statuses(&seen);
    // These take every object, and the service has no language model.
    let answers = match route.path {
        "/retag" | "/cpesh" => vec![422, 409],
        "/verify" => vec![422, 200],
        _ if by_name => vec![422, 404],
        _ => vec![422],
    };
    let fits = |answer: u16| {
        let expected: Vec<u16> =
            expected.iter().map(|status| if *status == 422 { answer } else { *status }).collect();
        statuses == expected || statuses == [&expected, attack.after].concat()
    };
    assert!(answers.into_iter().any(fits), "{cell}");
    for answer in seen.split("HTTP/1.1 ").skip(1).filter(|answer| answer.starts_with('4')) {
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{cell}"));
        assert!(body["error"]["code"].is_string() && body["request_id"].is_string(), "{cell}");
    }
}

#[actix_web::test]
async fn every_route_survives_every_attack() {
    let service = service().await;
    for attack in ATTACKS {
        // Each cell waits for a clock of the service, so the routes are attacked side by side.
        join_all(ROUTES.iter().map(|route| cell(&service, route, attack))).await;
    }
    until("nothing is held", || service.state.admission.in_use() == 0).await;
    assert_eq!(service.stored().await, 0);
    service.stop().await;
}

#[actix_web::test]
async fn nothing_behind_a_chunked_body_is_run() {
    let service = service().await;
    let smuggled = "{\"chunks\":[{\"text\":\"smuggled\"}]}";
    let smuggled =
        format!("{}Content-Length: {}\r\n\r\n{smuggled}", json_head("POST", "/ingest"), smuggled.len());
    let first = "{\"chunks\":[{\"text\":\"first\"}]}";
    for connection in ["", "Connection: keep-alive\r\n", "Connection: close\r\n"] {
        for end in ["0\r\n\r\n", "0\r\n\n"] {
            let mut raw = RawConnection::connect(&service.url).await.unwrap();
            let head =
                format!("{}{connection}Transfer-Encoding: chunked\r\n\r\n", json_head("POST", "/ingest"));
            raw.write(format!("{head}{:x}\r\n{first}\r\n{end}{smuggled}", first.len())).await;
            let seen = raw.rest().await;
            let lower = seen.to_ascii_lowercase();
            assert!(lower.contains("connection: close"), "{seen}");
            assert_eq!(seen.matches("\"success\":true").count(), 1, "{seen}");
        }
    }
    assert_eq!(service.stored().await, 1);
    service.stop().await;
}

#[actix_web::test]
async fn the_next_head_of_a_connection_has_a_clock_too() {
    let service = service().await;
    for (name, next) in
        [("silent", ""), ("begun", "GET /sta"), ("after a body", "POST /ingest HTTP/1.1\r\nHos")]
    {
        let mut raw = RawConnection::connect(&service.url).await.unwrap();
        for _ in 0..2 {
            let answer = raw.ask("GET /stats", "", "").await;
            assert!(answer.0.starts_with("http/1.1 200"), "{name}: {}", answer.0);
        }
        raw.write(next).await;
        assert_eq!(raw.rest().await, "", "{name}");
    }
    // One byte after the other does not keep it open either.
    let mut raw = RawConnection::connect(&service.url).await.unwrap();
    raw.ask("GET /stats", "", "").await;
    raw.write("GET /stats?").await;
    assert_eq!(raw.dribble().await, "");
    service.stop().await;
}

#[actix_web::test]
async fn a_head_that_begins_together_with_the_request_before_has_the_same_clock() {
    let service = service_that_keeps(Duration::from_secs(3600)).await;
    let request = "GET /stats HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut raw = RawConnection::connect(&service.url).await.unwrap();
    raw.write(format!("{request}{request}GET /st")).await;
    assert_eq!(statuses(&raw.rest().await), [200, 200]);
    service.stop().await;
}

#[actix_web::test]
async fn names_that_no_chunk_can_have_are_refused_once() {
    let service = service().await;
    let chunks = vec![json!({"text": "x"}); 10_000];
    let body = json!({"chunks": chunks, "batch_id": "b".repeat(7 << 20)}).to_string();
    let (status, answer) = service.post("/ingest", body).await;
    assert_eq!((status, &answer["error"]["code"]), (422, &json!("invalid_name")));
    assert_eq!(answer["error"]["param"], "batch_id");
    let query = format!("/ingest?dataset_source={}", "d".repeat(513));
    let (status, answer) = service.post_as(&query, "application/x-ndjson", "{\"text\":\"x\"}\n").await;
    assert_eq!((status, &answer["error"]["param"]), (422, &json!("dataset_source")), "{answer}");
    assert_eq!(service.stored().await, 0);
    service.stop().await;
}

#[actix_web::test]
async fn a_list_of_empty_chunks_is_counted_and_not_built() {
    let service = service().await;
    let body = format!("{{\"chunks\":[{}]}}", vec!["{\"text\":\"\"}"; 600_000].join(","));
    let (status, answer) = service.post("/ingest", body).await;
    let error = &answer["error"];
    assert_eq!((status, &error["code"]), (413, &json!("body_too_large")));
    assert!(error["message"].as_str().unwrap().contains("received 600000"), "{answer}");
    service.stop().await;
}
