//! Reads and search results are counted a chunk, beside the rows, and written by themselves.

use crate::reading::stored;
use crate::support::test_service::{Scripted, TestService, client, overrides};
use lnsp_ingest::app::Overrides;
use serde_json::{Value, json};

async fn counted(service: &TestService) -> Vec<String> {
    let sql = "SELECT id || ' ' || count FROM chunk_access JOIN chunks USING (item) ORDER BY id";
    service.database.texts(sql).await
}

async fn flush(service: &TestService) {
    service.state.accesses.as_ref().unwrap().flush(&service.state.store).await.unwrap();
}

async fn search(service: &TestService, text: &str) {
    let body = json!({"query": text, "top_k": 1}).to_string();
    let (status, answer) = service.post("/search", body).await;
    assert_eq!((status, answer["results"].as_array().unwrap().len()), (200, 1), "{answer}");
}

#[actix_web::test]
async fn reads_and_results_are_counted_and_written_in_one_go() {
    let service = TestService::scripted().await;
    let chunks = json!([{"id": "a", "text": "Fact a."}, {"id": "b", "text": "Fact b."}, {"id": "c", "text": "Fact c."}]);
    stored(&service, "one", chunks).await;
    let clock = service.database.number("SELECT seq FROM change_clock").await;
    let access = async |id: &str| service.get(&format!("/chunks/{id}")).await.1["access"].clone();
    assert_eq!(access("a").await, json!({"count": 0, "last_at": null}));
    search(&service, "Fact a.").await;
    search(&service, "Fact b.").await;
    let read = access("a").await;
    assert_eq!((&read["count"], read["last_at"].is_string()), (&json!(2), true), "{read}");
    // Nothing is written on the way.
    assert_eq!(counted(&service).await, Vec::<String>::new());
    flush(&service).await;
    assert_eq!(counted(&service).await, ["a 3", "b 1"]);
    let read = access("a").await;
    assert_eq!(read["count"], 3);
    assert_eq!(access("a").await["count"], 4);
    flush(&service).await;
    flush(&service).await;
    assert_eq!(counted(&service).await, ["a 5", "b 1"]);
    // An access is no change: the index has nothing to follow, and a repetition is the same chunk.
    assert_eq!(service.database.number("SELECT seq FROM change_clock").await, clock);
    let old =
        "SELECT access_count || ' ' || (last_accessed_at IS NOT NULL) FROM cpe_entry ORDER BY source_chunk";
    assert_eq!(service.database.texts(old).await, ["5 true", "1 true", "0 false"]);

    // The counts go with their chunk, also those that are not written yet.
    assert_eq!(access("b").await["count"], 1);
    let deleted = client().delete(format!("{}/chunks/b", service.url)).send().await.unwrap();
    assert_eq!(deleted.status(), 200);
    assert_eq!(counted(&service).await, ["a 5"]);
    access("c").await;
    flush(&service).await;
    assert_eq!(counted(&service).await, ["a 5", "c 1"]);
    assert_eq!(service.database.number("SELECT count(*) FROM chunk_access").await, 2);
    service.stop().await;
}

#[actix_web::test]
async fn what_cannot_be_written_is_kept_for_the_next_time() {
    let service = TestService::scripted().await;
    stored(&service, "one", json!([{"id": "a", "text": "Fact a."}])).await;
    search(&service, "Fact a.").await;
    service.database.run("ALTER TABLE chunk_access RENAME TO elsewhere").await;
    let accesses = service.state.accesses.as_ref().unwrap();
    accesses.flush(&service.state.store).await.unwrap_err();
    service.database.run("ALTER TABLE elsewhere RENAME TO chunk_access").await;
    flush(&service).await;
    assert_eq!(counted(&service).await, ["a 1"]);
    service.stop().await;
}

#[actix_web::test]
async fn counting_can_be_switched_off() {
    let overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    let service = TestService::build(overrides, &["--access-counts", "false"]).await;
    stored(&service, "one", json!([{"id": "a", "text": "Fact a."}])).await;
    search(&service, "Fact a.").await;
    let (status, chunk) = service.get("/chunks/a").await;
    assert_eq!((status, chunk.get("access")), (200, None::<&Value>), "{chunk}");
    assert!(service.state.accesses.is_none());
    assert_eq!(counted(&service).await, Vec::<String>::new());
    service.stop().await;
}
