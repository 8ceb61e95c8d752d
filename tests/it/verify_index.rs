//! `POST /verify` and `lnsp verify`: what differs from the database is named, and mended on request.

use crate::support::process::{lnsp, run_beside};
use crate::support::test_service::{TestService, numbered, tally};
use serde_json::json;

#[actix_web::test]
async fn rows_that_went_or_changed_behind_the_index_are_named_and_mended() {
    let service = TestService::scripted().await;
    assert_eq!(tally(&service.stream(numbered(0..30)).await), (30, 0, 0));
    let equal = json!({"rows": 30, "missing": 0, "extra": 0, "stale": 0, "damaged": 0});
    let (status, answer) = service.post("/verify", "{}").await;
    assert_eq!((status, &answer["concept"], &answer["question"]["rows"]), (200, &equal, &json!(0)));

    // Without the triggers no change has a number.
    for statement in [
        "ALTER TABLE chunks DISABLE TRIGGER USER",
        "ALTER TABLE chunk_vectors DISABLE TRIGGER USER",
        "DELETE FROM chunks WHERE id = 'n3'",
        "UPDATE chunks SET domain_code = (domain_code + 1) % 16 WHERE id = 'n4'",
        "UPDATE chunk_vectors SET vector = (SELECT vector FROM chunk_vectors JOIN chunks USING (item) \
         WHERE id = 'n6' AND kind = 'concept') WHERE kind = 'concept' AND item = (SELECT item FROM chunks WHERE id = 'n5')",
        "ALTER TABLE chunks ENABLE TRIGGER USER",
        "ALTER TABLE chunk_vectors ENABLE TRIGGER USER",
    ] {
        service.database.run(statement).await;
    }
    let differences = json!({"rows": 29, "missing": 0, "extra": 1, "stale": 0, "damaged": 2});
    let url = service.url.clone();
    let (code, said, errors) = run_beside(lnsp(&["verify", "--url", &url])).await;
    assert_eq!(code, Some(1), "{errors}");
    assert!(said.contains("29 rows, 0 missing, 1 extra, 0 stale, 2 damaged"), "{said}");
    assert!(said.contains("lnsp verify --repair"), "{said}");
    let (_, answer) = service.post("/verify", json!({"repair": true}).to_string()).await;
    assert_eq!((&answer["concept"], &answer["repaired"]), (&differences, &json!(true)));
    let (_, answer) = service.post("/verify", "{}").await;
    assert_eq!(answer["concept"], json!({"rows": 29, "missing": 0, "extra": 0, "stale": 0, "damaged": 0}));
    let (_, found) =
        service.post("/search", json!({"query": "This is fact number 6.", "top_k": 2}).to_string()).await;
    let ids: Vec<&str> =
        found["results"].as_array().unwrap().iter().map(|hit| hit["id"].as_str().unwrap()).collect();
    assert!(ids.contains(&"n5") && ids.contains(&"n6"), "{ids:?}");
    let (status, answer) = service.post("/verify", json!({"repair": 1}).to_string()).await;
    assert_eq!((status, answer["error"]["code"].as_str()), (422, Some("wrong_type")));
    service.stop().await;
}
