//! A chunk that is answered `stored` is found by the very next search, whatever else goes on.

use crate::support::test_service::{TestService, numbered, tally};
use serde_json::json;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Chunks that others send during each of the thousand times; together they make several builds of the index.
const BESIDE: usize = 12;

#[actix_web::test]
async fn a_thousand_times_under_load() {
    let service = Arc::new(TestService::scripted().await);
    let (go, mut going) = mpsc::channel::<usize>(4);
    let others = service.clone();
    let load = actix_web::rt::spawn(async move {
        while let Some(round) = going.recv().await {
            let from = round * BESIDE;
            assert_eq!(tally(&others.stream(numbered(from..from + BESIDE)).await), (BESIDE, 0, 0));
        }
    });
    for n in 0..1000 {
        go.send(n).await.unwrap();
        let text = format!("Fresh sentence number {n}, just now.");
        let body = json!({"chunks": [{"id": format!("fresh{n}"), "text": text}], "dataset_source": "fresh"});
        let (status, answer) = service.post("/ingest", body.to_string()).await;
        assert_eq!((status, &answer["results"][0]["status"]), (200, &json!("stored")), "{answer}");
        let (_, found) = service.post("/search", json!({"query": text, "top_k": 1}).to_string()).await;
        assert_eq!(found["results"][0]["id"], format!("fresh{n}"), "{found}");
        assert!(found["index_seq"].as_i64() >= answer["results"][0]["seq"].as_i64());
    }
    drop(go);
    load.await.unwrap();
    assert_eq!(service.stored().await, 1000 + 1000 * BESIDE as u64);
    assert!(service.state.index.status().builds > 1, "builds went on beside the searches");
    Arc::into_inner(service).unwrap().stop().await;
}
