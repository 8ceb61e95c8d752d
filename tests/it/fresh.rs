//! A chunk that is answered `stored` is found by the very next search, whatever else goes on.

use crate::house::{House, numbered};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[actix_web::test]
async fn a_thousand_times_under_load() {
    let house = Arc::new(House::scripted().await);
    let done = Arc::new(AtomicBool::new(false));
    let load = {
        let (house, done) = (house.clone(), done.clone());
        actix_web::rt::spawn(async move {
            let mut sent = 0;
            while !done.load(Ordering::Relaxed) {
                crate::house::tally(&house.stream(numbered(sent..sent + 500)).await);
                sent += 500;
            }
            sent as u64
        })
    };
    for n in 0..1000 {
        let text = format!("Fresh sentence number {n}, just now.");
        let body = json!({"chunks": [{"id": format!("fresh{n}"), "text": text}], "dataset_source": "fresh"});
        let (status, answer) = house.post("/ingest", body.to_string()).await;
        assert_eq!((status, &answer["results"][0]["status"]), (200, &json!("stored")), "{answer}");
        let (_, found) = house.post("/search", json!({"query": text, "top_k": 1}).to_string()).await;
        assert_eq!(found["results"][0]["id"], format!("fresh{n}"), "{found}");
        assert!(found["index_seq"].as_i64() >= answer["results"][0]["seq"].as_i64());
    }
    done.store(true, Ordering::Relaxed);
    let sent = load.await.unwrap();
    assert!(sent > 0);
    assert_eq!(house.stored().await, 1000 + sent);
    Arc::into_inner(house).unwrap().stop().await;
}
