//! Searches: what their answers hold, how large they become, and who is let in.

use crate::support::raw_connection::RawConnection;
use crate::support::test_service::{Scripted, TestService, numbered, overrides, tally};
use crate::support::wait::until;
use lnsp_ingest::app::Overrides;
use lnsp_ingest::http::{BodyTimeouts, Limits, MAX_ANSWER_BYTES, MAX_QUERY_BYTES, Settings};
use serde_json::{Value, json};
use std::io::Write;
use std::time::Duration;

/// The characters of a text that is as long as texts can be.
const LONG: usize = 64 * 1024;
/// Chunks whose answer would be twice as large as an answer can be.
const CHUNKS: usize = 42;

/// No client is cut.
const NEVER: Duration = Duration::from_secs(3600);

/// The scripted encoder, with these limits.
fn limited(change: impl FnOnce(&mut Limits)) -> Overrides {
    let mut overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    change(&mut overrides.admission);
    overrides
}

/// A text of control characters, and a visible one, without which it would be empty.
fn long_text() -> String {
    format!("a{}", "\u{1}".repeat(LONG - 1))
}

/// A service with chunks of control characters: each is 64 KiB, and 384 KiB in an answer.
async fn stuffed(change: impl FnOnce(&mut Limits)) -> TestService {
    let service = TestService::build(limited(change), &[]).await;
    let lines: String = (0..CHUNKS)
        .map(|n| json!({"id": format!("c{n}"), "text": long_text(), "metadata": {"n": n}}).to_string() + "\n")
        .collect();
    assert_eq!(tally(&service.stream(lines).await), (CHUNKS, 0, 0));
    service
}

fn everything() -> String {
    json!({"query": "anything", "top_k": 1000}).to_string()
}

/// The answer to a search, with its length in bytes.
async fn found(service: &TestService, body: &Value) -> (usize, Value) {
    let request = crate::support::test_service::client().post(format!("{}/search", service.url));
    let request = request.header("Content-Type", "application/json").body(body.to_string());
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let text = answer.bytes().await.unwrap();
    (text.len(), serde_json::from_slice(&text).unwrap())
}

fn ids(answer: &Value) -> Vec<&str> {
    answer["results"].as_array().unwrap().iter().map(|result| result["id"].as_str().unwrap()).collect()
}

/// Asks for everything and reads nothing of the answer.
async fn slow_reader(service: &TestService) -> RawConnection {
    let mut raw = RawConnection::connect(&service.url).await.unwrap();
    let (head, body) =
        ("POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n", everything());
    raw.write(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())).await;
    raw
}

/// The head of a search alone: a refusal comes before a byte of the body is sent.
async fn refused(service: &TestService, why: &str) {
    let mut raw = RawConnection::connect(&service.url).await.unwrap();
    raw.write(
        "POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n",
    )
    .await;
    let (head, answer) = raw.answer().await;
    assert!(head.starts_with("http/1.1 429") && head.contains("retry-after: "), "{head}");
    assert_eq!(answer["error"]["code"], "overloaded");
    assert!(answer["error"]["message"].as_str().unwrap().contains(why), "{answer}");
}

#[actix_web::test]
async fn an_answer_is_bounded_in_bytes_and_says_that_results_are_missing() {
    let service = stuffed(|_| {}).await;
    let (bytes, all) = found(&service, &json!({"query": "anything", "top_k": 1000})).await;
    assert!(bytes <= MAX_ANSWER_BYTES && bytes > MAX_ANSWER_BYTES - 7 * LONG, "{bytes} bytes");
    let best = ids(&all);
    assert_eq!((best.len(), &all["truncated_results"]), (21, &json!(true)));
    let first = &all["results"][0];
    assert_eq!(first["text"].as_str().unwrap(), long_text());
    assert_eq!(format!("c{}", first["metadata"]["n"]), best[0]);

    let (_, few) = found(&service, &json!({"query": "anything", "top_k": 9})).await;
    assert_eq!((ids(&few), &few["truncated_results"]), (best[..9].to_vec(), &json!(false)));
    let (_, none) = found(&service, &json!({"query": "x", "filter": {"dataset_source": "nowhere"}})).await;
    assert_eq!((&none["results"], &none["truncated_results"]), (&json!([]), &json!(false)));
    assert_eq!(none["index_seq"], all["index_seq"]);
    service.stop().await;
}

#[actix_web::test]
async fn a_row_that_fits_into_no_answer_is_left_out_and_hides_no_other() {
    let service = TestService::scripted().await;
    assert_eq!(tally(&service.stream(numbered(0..5)).await), (5, 0, 0));
    let large = "UPDATE chunks SET metadata = jsonb_build_object('k', repeat('x', 8000000)) WHERE id = 'n0'";
    service.database.run(large).await;
    let (_, answer) = found(&service, &json!({"query": "This is fact number 0."})).await;
    let mut others = ids(&answer);
    others.sort_unstable();
    assert_eq!((others, &answer["truncated_results"]), (vec!["n1", "n2", "n3", "n4"], &json!(true)));

    // One that just fits is alone in its piece.
    let smaller =
        "UPDATE chunks SET metadata = jsonb_build_object('k', repeat('x', 7000000)) WHERE id = 'n0'";
    service.database.run(smaller).await;
    let (bytes, answer) = found(&service, &json!({"query": "This is fact number 0."})).await;
    assert_eq!((ids(&answer).len(), &answer["truncated_results"]), (5, &json!(false)));
    assert!(ids(&answer)[0] == "n0" && bytes > 7_000_000, "{bytes}");
    assert_eq!(answer["results"][0]["metadata"]["k"].as_str().unwrap().len(), 7_000_000);
    service.stop().await;
}

#[actix_web::test]
async fn searches_are_limited_until_their_answers_are_read_and_keep_no_upload_out() {
    let service = stuffed(|limits| (limits.searches, limits.cut_after) = (2, NEVER)).await;
    let admission = &service.state.admission;
    let mut first = slow_reader(&service).await;
    let second = slow_reader(&service).await;
    until("both searches are let in", || admission.in_use() == 2).await;
    first.read_until("200 OK").await;
    refused(&service, "2 searches are under way").await;
    let chunk = json!({"chunks": [{"id": "new", "text": "A new one."}]}).to_string();
    assert_eq!(service.post("/ingest", chunk).await.0, 200);
    assert_eq!(admission.in_use(), 2, "both answers still wait for their clients");

    let rest = first.read_until("\"truncated_results\":true}\r\n0\r\n\r\n").await;
    assert!(rest.len() > MAX_ANSWER_BYTES / 2);
    until("the permit of the answer that was read is back", || admission.in_use() == 1).await;
    second.reset();
    until("the permit of the client that broke off is back", || admission.in_use() == 0).await;
    assert_eq!(
        found(&service, &json!({"query": "A new one.", "top_k": 1})).await.1["results"][0]["id"],
        "new"
    );
    service.stop().await;
}

#[actix_web::test]
async fn clients_that_read_slowly_keep_no_search_out() {
    let service = stuffed(|limits| (limits.searches, limits.cut_after) = (2, Duration::from_millis(1))).await;
    let mut slow = [slow_reader(&service).await, slow_reader(&service).await];
    for reader in &mut slow {
        reader.read_until("200 OK").await;
    }
    // Until a client has made the service wait, both only read: then the answer is 429.
    let small = r#"{"query":"anything","top_k":1}"#;
    let let_in = async { while service.post("/search", small).await.0 != 200 {} };
    tokio::time::timeout(Duration::from_secs(60), let_in).await.expect("a slow client is cut");
    for _ in 0..10 {
        let (status, answer) = service.post("/search", small).await;
        assert_eq!(status, 200, "{answer}");
    }
    // One permit was enough for them all.
    until("one client has lost its permit", || service.state.admission.in_use() == 1).await;
    let [one, other] = &mut slow;
    let (cut, _) =
        futures_util::future::select(Box::pin(one.rest()), Box::pin(other.rest())).await.factor_first();
    assert!(!cut.ends_with("\r\n0\r\n\r\n"), "it is not taken for a whole answer");
    drop(slow);
    until("all permits are back", || service.state.admission.in_use() == 0).await;
    service.stop().await;
}

#[actix_web::test]
async fn uploads_keep_no_search_out() {
    let overrides = limited(|limits| (limits.requests, limits.request_bytes) = (1, 1000));
    let service = TestService::build(overrides, &["--max-uploads", "1"]).await;
    let upload = RawConnection::upload(&service).await;
    let mut request = RawConnection::connect(&service.url).await.unwrap();
    request
        .write("POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{")
        .await;
    until("both are let in", || service.state.admission.in_use() == 2).await;
    assert_eq!(service.post("/search", r#"{"query":"anything"}"#).await.0, 200);
    drop((upload, request));
    until("all permits are back", || service.state.admission.in_use() == 0).await;
    service.stop().await;
}

#[actix_web::test]
async fn the_bytes_that_answers_hold_are_limited() {
    // Less than one full answer holds: that is admitted alone.
    let service = stuffed(|limits| limits.answer_bytes = 600 * 1024).await;
    let mut reader = slow_reader(&service).await;
    reader.read_until("200 OK").await;
    let (status, answer) = service.post("/search", r#"{"query":"anything","top_k":1}"#).await;
    assert_eq!((status, &answer["error"]["code"]), (429, &json!("overloaded")), "{answer}");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("the answers that clients are reading"), "{message}");
    reader.reset();
    until("the permit is back", || service.state.admission.in_use() == 0).await;
    assert_eq!(service.post("/search", r#"{"query":"anything","top_k":1}"#).await.0, 200);
    service.stop().await;
}

#[actix_web::test]
async fn pages_of_dead_letters_are_limited() {
    let service = TestService::build(limited(|limits| limits.pages = 0), &[]).await;
    let (status, answer) = service.get("/dead-letters").await;
    assert_eq!((status, &answer["error"]["code"]), (429, &json!("overloaded")));
    assert_eq!(service.get("/dead-letters?limit=0").await.0, 422);
    service.stop().await;
}

#[actix_web::test]
async fn an_answer_that_cannot_be_finished_is_not_taken_for_a_whole_one() {
    let service = stuffed(|_| {}).await;
    let mut reader = slow_reader(&service).await;
    reader.read_until("200 OK").await;
    let name = service.database.texts("SELECT current_database()").await.remove(0);
    let admin = service.database.elsewhere("postgres");
    admin.run(&format!("ALTER DATABASE \"{name}\" WITH ALLOW_CONNECTIONS false")).await;
    let sessions = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
    admin.texts(&sessions).await;
    let seen = reader.rest().await;
    assert!(!seen.ends_with("0\r\n\r\n") && !seen.contains("truncated_results"), "{} bytes", seen.len());
    until("its permit is back", || service.state.admission.in_use() == 0).await;
    admin.run(&format!("ALTER DATABASE \"{name}\" WITH ALLOW_CONNECTIONS true")).await;
    service.stop().await;
}

#[actix_web::test]
async fn the_body_of_a_search_is_read_as_every_other() {
    let silence = Duration::from_secs(1);
    let settings = Settings {
        body: BodyTimeouts { silence, ..BodyTimeouts::default() },
        linger: silence,
        ..Settings::default()
    };
    let service = TestService::build_with(limited(|_| {}), &[], settings).await;
    let plain = br#"{"query":"anything"}"#;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(plain).unwrap();
    let send = async |encoding: &str, body: Vec<u8>| {
        let request = crate::support::test_service::client().post(format!("{}/search", service.url));
        let request = request.header("Content-Type", "application/json").header("Content-Encoding", encoding);
        let answer = request.body(body).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap()["error"]["code"].clone())
    };
    assert_eq!(send("gzip", gzip.finish().unwrap()).await, (200, Value::Null));
    assert_eq!(send("gzip", plain.to_vec()).await, (400, json!("corrupt_body")));
    assert_eq!(send("br", plain.to_vec()).await, (415, json!("unsupported_encoding")));
    let long = json!({"query": "a".repeat(MAX_QUERY_BYTES)}).to_string();
    assert_eq!(send("identity", long.clone().into_bytes()).await, (413, json!("body_too_large")));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    gzip.write_all(long.as_bytes()).unwrap();
    assert_eq!(send("gzip", gzip.finish().unwrap()).await, (413, json!("body_too_large")));
    for kind in ["text/plain", "application/x-ndjson"] {
        let (status, answer) = service.post_as("/search", kind, "{}").await;
        assert_eq!((status, &answer["error"]["code"]), (415, &json!("unsupported_media_type")), "{kind}");
    }

    let head = "POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let mut silent = RawConnection::connect(&service.url).await.unwrap();
    silent.write(format!("{head}Content-Length: 500\r\n\r\n{{")).await;
    let seen = silent.rest().await;
    assert!(seen.starts_with("HTTP/1.1 408") && seen.contains("\"client_idle\""), "{seen}");
    until("nothing is left", || service.state.admission.in_use() == 0).await;
    service.stop().await;
}
