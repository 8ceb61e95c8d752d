//! A chunk, a document or a dataset is deleted by its name in the path, and the index hears of it at once.

use crate::deletions::found;
use crate::reading::stored;
use crate::support::test_service::{TestService, client, tally};
use serde_json::{Value, json};

async fn delete(service: &TestService, path: &str) -> (u16, Value) {
    let response = client().delete(format!("{}{path}", service.url)).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

/// Dataset and id of each chunk, in order.
async fn left(service: &TestService) -> Vec<String> {
    let sql = "SELECT dataset_source || ' ' || id FROM chunks ORDER BY 1";
    let left = service.database.texts(sql).await;
    assert_eq!(service.stored().await, left.len() as u64);
    left
}

#[actix_web::test]
async fn one_chunk_is_deleted_by_its_name_and_needs_no_confirmation() {
    let service = TestService::scripted().await;
    let chunks = |ids: &[&str]| {
        json!(ids.iter().map(|id| json!({"id": id, "text": format!("Fact {id}.")})).collect::<Vec<_>>())
    };
    let names = stored(&service, "a", chunks(&["same", "x/y z", "third"])).await;
    stored(&service, "b", chunks(&["same"])).await;
    let (status, answer) = delete(&service, "/chunks/same").await;
    assert_eq!((status, &answer["error"]["code"]), (409, &json!("ambiguous_id")), "{answer}");
    let (status, answer) = delete(&service, &format!("/chunks/{}", names[0])).await;
    let counted = ["deleted", "letters", "remaining", "index_seq"].map(|name| answer[name].as_i64());
    assert_eq!((status, counted), (200, [Some(1), Some(0), Some(0), Some(5)]), "{answer}");
    assert_eq!(found(&service).await, ["same", "third", "x/y z"]);
    // Only one dataset has it now.
    assert_eq!(delete(&service, "/chunks/same").await.0, 200);
    assert_eq!(delete(&service, "/chunks/x%2Fy%20z?dataset_source=a").await.0, 200);
    assert_eq!(
        (left(&service).await, found(&service).await),
        (vec!["a third".to_owned()], vec!["third".to_owned()])
    );
    for path in ["/chunks/same", "/chunks/third?dataset_source=b", &format!("/chunks/{}", names[0])] {
        let (status, answer) = delete(&service, path).await;
        assert_eq!((status, &answer["error"]["code"]), (404, &json!("not_stored")), "{path}: {answer}");
    }
    assert_eq!(delete(&service, "/chunks/third?confirm=1").await.1["error"]["code"], "unknown_field");
    assert_eq!(left(&service).await, ["a third"]);
    // Sent again, it is stored again under its name.
    assert_eq!(stored(&service, "a", chunks(&["same"])).await[0], names[0]);
    service.stop().await;
}

#[actix_web::test]
async fn the_dead_letter_of_a_chunk_or_document_goes_with_it() {
    let service = TestService::scripted().await;
    service.database.run("ALTER TABLE chunks ADD CONSTRAINT refused CHECK (text NOT LIKE 'Bad%')").await;
    let line = |id: &str, text: &str| json!({"id": id, "text": text, "document_id": "d"}).to_string() + "\n";
    let upload = line("a", "Bad a.") + &line("b", "Bad b.") + &line("c", "Good.");
    assert_eq!(tally(&service.stream(upload).await), (1, 0, 2));
    let (status, answer) = delete(&service, "/chunks/a?dataset_source=user_input").await;
    assert_eq!((status, &answer["deleted"], &answer["letters"]), (200, &json!(0), &json!(1)), "{answer}");
    let (status, answer) = delete(&service, "/documents/d").await;
    assert_eq!((status, &answer["deleted"], &answer["letters"]), (200, &json!(1), &json!(1)), "{answer}");
    assert_eq!(service.database.number("SELECT count(*) FROM dead_letters").await, 0);
    assert_eq!(delete(&service, "/chunks/a?dataset_source=user_input").await.0, 404);
    service.stop().await;
}

#[actix_web::test]
async fn a_document_is_deleted_at_once_and_a_dataset_by_the_number_of_its_chunks() {
    let service = TestService::scripted().await;
    let chunks = |document: &str, count: usize| {
        let chunk = |n| json!({"text": format!("Fact {n} of {document}."), "document_id": document, "chunk_index": n});
        json!((0..count).map(chunk).collect::<Vec<_>>())
    };
    for (dataset, document, count) in
        [("a/1", "d/1", 3), ("a/1", "e", 2), ("b", "d/1", 4), ("b", "f", 1), ("c", "e", 1)]
    {
        stored(&service, dataset, chunks(document, count)).await;
    }
    let (status, answer) = delete(&service, "/documents/d%2F1").await;
    assert_eq!((status, &answer["error"]["param"]), (409, &json!("dataset_source")), "{answer}");
    let (status, answer) = delete(&service, "/documents/d%2F1?dataset_source=b").await;
    assert_eq!((status, &answer["deleted"], &answer["remaining"]), (200, &json!(4), &json!(0)), "{answer}");
    // Now it is the only one.
    assert_eq!(delete(&service, "/documents/d%2F1").await.1["deleted"], 3);
    assert_eq!(delete(&service, "/documents/d%2F1").await.0, 404);
    assert_eq!(delete(&service, "/documents/d%2F1?dataset_source=b").await.0, 404);
    assert_eq!(service.stored().await, 4);

    for confirm in ["", "?confirm=1", "?confirm=3"] {
        let (status, answer) = delete(&service, &format!("/datasets/a%2F1{confirm}")).await;
        let error = &answer["error"];
        assert_eq!(
            (status, &error["code"], &error["count"]),
            (409, &json!("confirmation_needed"), &json!(2))
        );
    }
    assert_eq!(delete(&service, "/datasets/a%2F1?confirm=2").await.1["deleted"], 2);
    assert_eq!((service.stored().await, found(&service).await.len()), (2, 2));
    for path in ["/datasets/a%2F1?confirm=2", "/datasets/a%2F1", "/datasets/none?confirm=0"] {
        let (status, answer) = delete(&service, path).await;
        assert_eq!((status, &answer["error"]["code"]), (404, &json!("not_stored")), "{path}: {answer}");
    }
    assert_eq!(delete(&service, "/datasets/a%00").await.1["error"]["code"], "nul_character");
    service.stop().await;
}
