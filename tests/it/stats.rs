//! `GET /stats`: what was answered since the start, and what is held.

use crate::support::database::Database;
use crate::support::gated_encoder::GatedEncoder;
use crate::support::test_service::{TestService, numbered, overrides, stream_to, tally};
use crate::support::wait::until;
use lnsp_ingest::app::Overrides;
use lnsp_ingest::pipeline::Bottleneck;
use lnsp_ingest::store::Amount;
use serde_json::{Value, json};

/// 300 chunks: two of three are in one of 20 documents; each text has 8 bytes.
fn lines() -> String {
    let line = |n: usize| {
        let mut line = json!({"id": format!("n{n}"), "text": format!("Fäct {:02}", n % 100)});
        if !n.is_multiple_of(3) {
            line["document_id"] = json!(format!("d{}", n % 20));
        }
        line.to_string() + "\n"
    };
    (0..300).map(line).collect()
}

async fn held(service: &TestService) -> Value {
    let (status, stats) = service.get("/stats").await;
    assert_eq!(status, 200);
    stats["held"].clone()
}

#[actix_web::test]
async fn what_is_held_stands_beside_what_was_answered() {
    let service = TestService::scripted().await;
    let empty = held(&service).await;
    for field in ["rows", "documents", "datasets", "text_bytes"] {
        assert_eq!(empty[field], 0, "{empty}");
    }
    assert_eq!(tally(&service.stream(lines()).await), (300, 0, 0));
    let other = service.post_as("/ingest?dataset_source=other", "application/x-ndjson", lines()).await;
    assert_eq!((other.0, &other.1["stored"]), (200, &json!(300)));
    service.post("/ingest", json!({"chunks": [{"id": "n", "text": "x"}, {"text": ""}]}).to_string()).await;

    // A count of a small store is kept for a moment.
    until_held(&service, 601).await;
    let (_, stats) = service.get("/stats").await;
    assert_eq!((&stats["stored"], &stats["failed"]), (&json!(601), &json!(1)), "{stats}");
    let held = &stats["held"];
    assert_eq!(held["documents"], 40, "the same name in another dataset is another document: {held}");
    assert_eq!((&held["datasets"], &held["text_bytes"]), (&json!(2), &json!(600 * 8 + 1)), "{held}");
    // Vectors of 384 numbers, and what PostgreSQL adds.
    assert!((601 * 384 * 4..20 << 20).contains(&held["table_bytes"].as_u64().unwrap()), "{held}");
    assert!(held["index_bytes"].is_u64() && held["counted_at"].is_string(), "{held}");
    assert_eq!(held["estimated"], json!([]));
    service.stop().await;
}

async fn until_held(service: &TestService, rows: u64) {
    let mut last = Value::Null;
    let looks = async {
        while last["rows"] != rows {
            last = held(service).await;
        }
    };
    let came_true = tokio::time::timeout(std::time::Duration::from_secs(60), looks).await.is_ok();
    assert!(came_true, "expected {rows} rows, the last was {last}");
}

#[actix_web::test]
async fn what_limits_the_rate_is_named_while_chunks_wait_for_it() {
    let gate = GatedEncoder::shut();
    let service = TestService::build(Overrides { encoder: Some(gate.factory()), ..overrides() }, &[]).await;
    let limited_by = async || service.get("/stats").await.1["limited_by"].clone();
    assert_eq!(limited_by().await, Value::Null, "nothing is in flight");
    let upload = actix_web::rt::spawn(stream_to(service.url.clone(), numbered(0..2000)));
    let pipeline = service.state.pipeline.clone();
    until("the embedder is full", || pipeline.bottleneck() == Some(Bottleneck::Embedder)).await;
    assert_eq!(limited_by().await, "embedder");
    gate.open();
    assert_eq!(tally(&upload.await.unwrap()), (2000, 0, 0));
    until("nothing is in flight", || pipeline.bottleneck().is_none()).await;
    service.stop().await;
}

#[actix_web::test]
async fn a_large_store_is_estimated_and_says_so() {
    let service = TestService::scripted().await;
    // It would make statistics at a moment of its own.
    service.database.run("ALTER TABLE chunks SET (autovacuum_enabled = false)").await;
    assert_eq!(tally(&service.stream(lines()).await), (300, 0, 0));
    let store = &service.state.store;
    let exact = store.holdings(300, 300).await.unwrap();
    let expected = [20, 1, 2400].map(Amount::Exact);
    assert_eq!([exact.documents, exact.datasets, exact.text_bytes], expected);

    // Before PostgreSQL has statistics, what needs them is not known.
    let large = store.holdings(300, 299).await.unwrap();
    assert_eq!((large.datasets, large.text_bytes), (Amount::Exact(1), Amount::Estimate(2400)));
    assert_eq!(large.documents, Amount::Unknown);
    service.database.run("ANALYZE chunks").await;
    let large = store.holdings(300, 299).await.unwrap();
    assert_eq!((large.datasets, large.documents), (Amount::Exact(1), Amount::Estimate(20)));
    service.stop().await;
}

#[actix_web::test]
async fn without_the_database_the_counts_since_the_start_are_there() {
    let service = TestService::build_at(Database::new().await, overrides(), &[]).await;
    let held = service.database.hold("LOCK TABLE chunks IN ACCESS EXCLUSIVE MODE").await;
    let (status, stats) = service.get("/stats").await;
    assert_eq!((status, &stats["total_chunks_processed"]), (200, &json!(0)));
    let problem = stats["held"]["problem"].as_str().unwrap();
    assert!(problem.contains("PostgreSQL did not answer within 2s"), "{stats}");
    held.release().await;
    service.stop().await;
}
