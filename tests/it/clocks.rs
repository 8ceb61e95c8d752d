//! Clients that send nothing or too little are cut by name; clients that wait for us are not.

use crate::support::raw_connection::RawConnection;
use crate::support::test_service::{Scripted, TestService, numbered, overrides};
use crate::support::wait::until;
use lnsp_ingest::app::Overrides;
use lnsp_ingest::flow::Capacity;
use lnsp_ingest::http::{BodyTimeouts, Settings};
use std::time::Duration;

async fn service(body: BodyTimeouts) -> TestService {
    let mut overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    let slots = |items| Capacity { items, bytes: 1 << 30 };
    (overrides.pipeline.tmd, overrides.pipeline.embed, overrides.pipeline.write) =
        (slots(8), slots(16), slots(12));
    let linger = Duration::from_secs(1);
    TestService::build_with(overrides, &[], Settings { body, linger, ..Settings::default() }).await
}

fn silence(limit: Duration) -> BodyTimeouts {
    BodyTimeouts { silence: limit, ..BodyTimeouts::default() }
}

/// Shorter than a test waits, longer than a busy machine takes to pass bytes on.
const SHORT: Duration = Duration::from_secs(2);

#[actix_web::test]
async fn a_silent_client_is_cut_by_name_its_lines_count_and_its_connection_ends() {
    let service = service(silence(SHORT)).await;
    for headers in
        ["Accept: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\n"]
    {
        let mut upload = RawConnection::upload_with(&service.url, headers).await;
        upload.send("{\"id\":\"a\",\"text\":\"Whole.\"}\n{\"id\":\"b\",\"text\":\"Ha").await;
        // It does not close its side: the service does, after it has said why.
        let seen = upload.rest().await;
        for part in ["client_idle", "\"complete\":false", "\"total_chunks\":1", "\"retryable\":true"] {
            assert!(seen.contains(part), "{part}: {seen}");
        }
        assert!(seen.contains("408 Request Timeout") != headers.contains("Accept"), "{seen}");
    }
    let mut request = RawConnection::connect(&service.url).await.unwrap();
    let head = "POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n";
    request.write(format!("{head}{{\"chunks\":[")).await;
    let seen = request.rest().await;
    assert!(seen.starts_with("HTTP/1.1 408") && seen.contains("client_idle"), "{seen}");
    until("nothing is left", || service.state.admission.in_use() == 0).await;
    assert_eq!(service.stored().await, 1);
    service.stop().await;
}

#[actix_web::test]
async fn a_client_that_dribbles_is_cut_by_name() {
    let timeouts = BodyTimeouts {
        bytes_per_second: 1 << 20,
        over: Duration::from_millis(500),
        ..BodyTimeouts::default()
    };
    let service = service(timeouts).await;
    let mut upload = RawConnection::upload(&service).await;
    let mut seen = String::new();
    // It sends as fast as answers could come: a byte each time it has looked for one.
    while !seen.split_once("\"summary\"").is_some_and(|(_, rest)| rest.contains('\n')) {
        upload.send("x").await;
        seen += &upload.read_within(Duration::from_millis(5)).await;
    }
    assert!(seen.contains("client_too_slow") && seen.contains("\"complete\":false"), "{seen}");
    until("nothing is left", || service.state.admission.in_use() == 0).await;
    service.stop().await;
}

/// How a test knows that more than the limit has passed: a client that is silent is cut, one after the other.
async fn time_passes(service: &TestService) {
    for _ in 0..2 {
        let seen = RawConnection::upload(service).await.rest().await;
        assert!(seen.contains("client_idle"), "{seen}");
    }
}

#[actix_web::test]
async fn a_client_that_waits_for_us_is_never_cut() {
    let service = service(silence(SHORT)).await;
    let entrance = service.state.pipeline.entrance();
    let held = service.database.hold("SELECT seq FROM change_clock FOR UPDATE").await;
    // One sends a line and waits for its answer, as careful clients do.
    let mut careful = RawConnection::upload(&service).await;
    careful.send("{\"id\":\"careful\",\"text\":\"Careful.\"}\n").await;
    until("it is inside", || entrance.inside() == Some([0, 0, 0, 1])).await;
    // Another sends so much that it is not read any more.
    let mut hasty = RawConnection::upload(&service).await;
    hasty.send(numbered(0..3000)).await;
    hasty.end().await;
    until("the service is full", || entrance.inside() == Some([0, 8, 16, 12]) && entrance.waiting() > 0)
        .await;
    time_passes(&service).await;
    held.release().await;

    careful.read_until("\"status\":\"stored\"").await;
    hasty.read_until("\"complete\":true").await;
    // Now that it has its answer, it is waited for.
    let seen = careful.rest().await;
    assert!(seen.contains("client_idle") && seen.contains("\"stored\":1"), "{seen}");
    assert_eq!(service.stored().await, 3001);
    service.stop().await;
}

#[actix_web::test]
async fn a_head_that_does_not_come_to_its_end_is_answered_and_closed() {
    let overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    let head = Duration::from_secs(1);
    let service = TestService::build_with(overrides, &[], Settings { head, ..Settings::default() }).await;
    let mut raw = RawConnection::connect(&service.url).await.unwrap();
    raw.write("POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-").await;
    let seen = raw.rest().await;
    assert!(seen.starts_with("HTTP/1.1 408"), "{seen}");
    service.stop().await;
}
