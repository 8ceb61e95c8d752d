//! A chunk that is answered `stored` is found by the very next search, whatever else goes on.

use crate::support::test_service::{TestService, client, numbered, tally};
use serde_json::json;
use std::sync::Arc;
use tokio::sync::mpsc;

/// How often: `LNSP_TEST_PAIRS` says more.
fn pairs(usual: usize) -> usize {
    std::env::var("LNSP_TEST_PAIRS").ok().and_then(|pairs| pairs.parse().ok()).unwrap_or(usual)
}

/// Chunks that others send during each of the thousand times; together they make several builds of the index.
const BESIDE: usize = 12;

#[actix_web::test]
async fn a_thousand_times_under_load() {
    let times = pairs(1000);
    let service = Arc::new(TestService::scripted().await);
    let (go, mut going) = mpsc::channel::<usize>(4);
    let others = service.clone();
    let load = actix_web::rt::spawn(async move {
        while let Some(round) = going.recv().await {
            let from = round * BESIDE;
            assert_eq!(tally(&others.stream(numbered(from..from + BESIDE)).await), (BESIDE, 0, 0));
        }
    });
    for n in 0..times {
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
    assert_eq!(service.stored().await, (times + times * BESIDE) as u64);
    assert!(service.state.index.status().builds > 1, "builds went on beside the searches");
    Arc::into_inner(service).unwrap().stop().await;
}

#[actix_web::test]
async fn what_was_replaced_or_deleted_is_not_found_by_the_next_search() {
    let service = TestService::scripted().await;
    for n in 0..pairs(200) {
        let (old, new) = (format!("The old word{n}."), format!("A newer term{n}."));
        for (text, on_conflict) in [(&old, "error"), (&new, "replace")] {
            let chunk = json!({"id": "one", "text": text});
            let body = json!({"chunks": [chunk], "dataset_source": "fresh", "on_conflict": on_conflict});
            assert_eq!(service.post("/ingest", body.to_string()).await.1["successful"], 1);
        }
        for (query, mode, expected) in [
            (old.clone(), "keyword", 0),
            (format!("word{n}"), "keyword", 0),
            (format!("term{n}"), "keyword", 1),
            (new.clone(), "vector", 1),
        ] {
            let (_, found) = service.post("/search", json!({"query": query, "mode": mode}).to_string()).await;
            let results = found["results"].as_array().unwrap();
            assert_eq!(results.len(), expected, "{n}, {query}: {found}");
            assert!(results.iter().all(|result| result["text"] == new), "{n}, {query}: {found}");
        }
        let gone =
            client().delete(format!("{}/chunks/one?dataset_source=fresh", service.url)).send().await.unwrap();
        assert!(gone.status().is_success());
        for (query, mode) in [(&new, "vector"), (&new, "keyword")] {
            let (_, found) = service.post("/search", json!({"query": query, "mode": mode}).to_string()).await;
            assert_eq!(found["results"], json!([]), "{n}, {mode}");
        }
    }
    service.stop().await;
}
