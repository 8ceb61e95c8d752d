//! The same JSON request again: the same answer, once the work.

use crate::support::raw_connection::RawConnection;
use crate::support::test_service::{Scripted, TestService, overrides};
use crate::support::wait::until;
use lnsp_ingest::app::Overrides;
use lnsp_ingest::http::Limits;
use serde_json::json;

fn body(text: &str) -> String {
    json!({"chunks": [{"id": text, "text": text}, {"text": ""}]}).to_string()
}

fn key(key: &str) -> String {
    format!("Idempotency-Key: {key}\r\n")
}

fn is_replayed(head: &str) -> bool {
    head.contains("idempotency-replayed: true")
}

#[actix_web::test]
async fn the_same_key_and_body_get_the_first_answer_and_another_body_does_not() {
    let service = TestService::scripted().await;
    let mut raw = RawConnection::connect(&service.url).await.unwrap();
    let (head, first) = raw.ask("POST /ingest", &key("k-1"), &body("a")).await;
    assert!(head.starts_with("http/1.1 200") && !is_replayed(&head), "{head}");
    assert_eq!(first["results"][0]["status"], "stored");
    let (head, again) = raw.ask("POST /ingest", &key("k-1"), &body("a")).await;
    assert!(head.starts_with("http/1.1 200") && is_replayed(&head), "{head}");
    assert!(head.contains("x-ingest-errors: 1"), "{head}");
    assert_eq!(again, first, "also its batch and its times");
    let (head, other) = raw.ask("POST /ingest", &key("k-1"), &body("b")).await;
    assert!(head.starts_with("http/1.1 422"), "{head}");
    assert_eq!(other["error"]["code"], "idempotency_key_reused");
    // Without a key, or under another, it is a request like any other.
    for headers in [String::new(), key("k-2")] {
        let (head, answer) = raw.ask("POST /ingest", &headers, &body("a")).await;
        assert!(!is_replayed(&head));
        assert_eq!(answer["results"][0]["status"], "duplicate");
        assert_ne!(answer["batch_id"], first["batch_id"]);
    }
    // A wrong request stays wrong.
    let (_, wrong) = raw.ask("POST /ingest", &key("k-3"), "{").await;
    let (head, again) = raw.ask("POST /ingest", &key("k-3"), "{").await;
    assert!(head.starts_with("http/1.1 422") && is_replayed(&head), "{head}");
    assert_eq!((&wrong["error"], wrong["request_id"] == again["request_id"]), (&again["error"], false));
    for bad in ["", "a b", "é", &"k".repeat(256), "twice\r\nIdempotency-Key: twice"] {
        let mut raw = RawConnection::connect(&service.url).await.unwrap();
        let (head, answer) = raw.ask("POST /ingest", &key(bad), &body("a")).await;
        assert!(head.starts_with("http/1.1 400"), "{bad}: {head}");
        assert_eq!(answer["error"]["code"], "invalid_idempotency_key");
    }
    assert_eq!(service.state.idempotency.kept().0, 3);
    service.stop().await;
}

#[actix_web::test]
async fn a_repeated_request_waits_for_the_first_also_when_the_client_of_that_is_gone() {
    let service = TestService::scripted().await;
    let held = service.database.hold("SELECT seq FROM change_clock FOR UPDATE").await;
    let head =
        format!("POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{}", key("k"));
    let request = format!("{head}Content-Length: {}\r\n\r\n{}", body("a").len(), body("a"));
    let mut clients = Vec::new();
    for number in 1..=3 {
        let mut raw = RawConnection::connect(&service.url).await.unwrap();
        raw.write(&request).await;
        until("it is admitted", || service.state.admission.in_use() == number).await;
        until("the first is inside", || service.state.counts.unanswered() == 1).await;
        clients.push(raw);
    }
    clients.remove(0).reset();
    held.release().await;
    let (head, second) = clients[0].answer().await;
    assert!(head.starts_with("http/1.1 200") && is_replayed(&head), "{head}");
    assert_eq!(second["results"][0]["status"], "stored");
    assert_eq!(clients[1].answer().await.1, second);
    assert_eq!(service.state.counts.tally().stored, 1, "one work for three requests");
    until("all permits are back", || service.state.admission.in_use() == 0).await;
    service.stop().await;
}

#[actix_web::test]
async fn a_refusal_is_not_kept() {
    let admission = Limits { requests: 0, ..Limits::default() };
    let service =
        TestService::build(Overrides { encoder: Some(Scripted::factory()), admission, ..overrides() }, &[])
            .await;
    let mut raw = RawConnection::connect(&service.url).await.unwrap();
    for _ in 0..2 {
        let (head, _) = raw.ask("POST /ingest", &key("k"), &body("a")).await;
        assert!(head.starts_with("http/1.1 429") && !is_replayed(&head), "{head}");
    }
    assert_eq!(service.state.idempotency.kept(), (0, 0));
    service.stop().await;
}
