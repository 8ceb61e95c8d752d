//! A document is replaced as a whole: what is equal stays, what is changed or new is stored, and what is gone is deleted,
//! or else nothing is deleted.

use crate::deletions::found;
use crate::reading::{column, stored};
use crate::support::test_service::{TestService, client};
use serde_json::{Value, json};
use std::collections::BTreeSet;

async fn put(url: &str, path: &str, body: &Value) -> (u16, Value) {
    let request = client().put(format!("{url}{path}")).header("Content-Type", "application/json");
    let response = request.body(body.to_string()).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

fn chunk(id: &str, index: i64, text: &str) -> Value {
    json!({"id": id, "text": text, "chunk_index": index})
}

/// Id and text of each chunk of a document, in order.
async fn texts(service: &TestService, document: &str, dataset: &str) -> Vec<String> {
    let (_, page) = service.get(&format!("/documents/{document}/chunks?dataset_source={dataset}")).await;
    let rows = page["chunks"].as_array().map(Vec::as_slice).unwrap_or_default();
    rows.iter()
        .map(|row| format!("{} {}", row["id"].as_str().unwrap(), row["text"].as_str().unwrap()))
        .collect()
}

#[actix_web::test]
async fn what_is_equal_stays_and_what_is_gone_is_deleted() {
    let service = TestService::scripted().await;
    let path = "/documents/d%2F1?dataset_source=one";
    let first =
        json!({"chunks": [chunk("a", 0, "Fact a."), chunk("b", 1, "Fact b."), chunk("c", 2, "Fact c.")]});
    let (status, answer) = put(&service.url, path, &first).await;
    assert_eq!(
        (status, &answer["complete"], &answer["successful"]),
        (200, &json!(true), &json!(3)),
        "{answer}"
    );
    assert_eq!((&answer["document_id"], &answer["dataset_source"]), (&json!("d/1"), &json!("one")));
    let of_equal = "SELECT seq FROM chunks WHERE dataset_source = 'one' AND id = 'a'";
    let before = service.database.number(of_equal).await;
    // Others that have nothing to do with it.
    stored(&service, "one", json!([{"id": "other", "text": "Another.", "document_id": "d/2"}])).await;
    stored(&service, "two", json!([{"id": "a", "text": "Elsewhere.", "document_id": "d/1"}])).await;

    let second = json!({"chunks": [
        chunk("a", 0, "Fact a."), chunk("b", 1, "Fact b, corrected."), {"text": "New.", "chunk_index": 2},
        // Fields that say the same as the request.
        {"id": "e", "text": "Last.", "chunk_index": 3, "document_id": "d/1", "dataset_source": "one"},
    ]});
    let (status, answer) = put(&service.url, path, &second).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(column(&answer["results"], "status"), ["duplicate", "replaced", "stored", "stored"]);
    let counted =
        ["unchanged", "deleted", "letters", "total_chunks", "failed"].map(|name| answer[name].as_i64());
    assert_eq!(counted, [1, 1, 0, 4, 0].map(Some), "{answer}");
    let left: Vec<String> = texts(&service, "d%2F1", "one").await;
    assert_eq!(
        (left.len(), &*left[0], &*left[1], &*left[3]),
        (4, "a Fact a.", "b Fact b, corrected.", "e Last.")
    );
    assert_eq!(texts(&service, "d%2F1", "two").await, ["a Elsewhere."]);
    assert_eq!((service.stored().await, found(&service).await.len()), (6, 6));
    assert_eq!(service.database.number(of_equal).await, before);

    // The same again changes nothing, not even the clock.
    let clock = service.database.number("SELECT seq FROM change_clock").await;
    let (status, answer) = put(&service.url, path, &second).await;
    assert_eq!((status, &answer["unchanged"], &answer["deleted"]), (200, &json!(4), &json!(0)), "{answer}");
    assert_eq!(service.database.number("SELECT seq FROM change_clock").await, clock);
    service.stop().await;
}

#[actix_web::test]
async fn a_chunk_that_cannot_be_read_leaves_everything_as_it_was() {
    let service = TestService::scripted().await;
    let before = json!({"chunks": [chunk("a", 0, "Fact a."), chunk("b", 1, "Fact b.")]});
    assert_eq!(put(&service.url, "/documents/d", &before).await.0, 200);
    let clock = service.database.number("SELECT seq FROM change_clock").await;
    let good = chunk("n", 0, "New.");
    for (path, body, code, param) in [
        ("", json!({"chunks": [good, {"id": "x", "text": " "}]}), "text_empty", "chunks[1].text"),
        ("", json!({"chunks": [good, 7]}), "wrong_type", "chunks[1]"),
        (
            "",
            json!({"chunks": [good, {"id": "x", "text": "t", "document_id": "e"}]}),
            "other_document",
            "chunks[1].document_id",
        ),
        (
            "",
            json!({"chunks": [{"id": "x", "text": "t", "dataset_source": "e"}]}),
            "other_document",
            "chunks[0].dataset_source",
        ),
        (
            "?dataset_source=a",
            json!({"chunks": [good], "dataset_source": "b"}),
            "other_document",
            "dataset_source",
        ),
        ("?on_conflict=keep", json!({"chunks": [good]}), "invalid_query", "on_conflict"),
        ("", json!({"chunks": [good], "on_conflict": "error"}), "invalid_query", "on_conflict"),
        ("", json!({"chunks": []}), "missing_field", "chunks"),
        ("", json!({"chunk": [good]}), "unknown_field", "chunk"),
        ("?confirm=1", json!({"chunks": [good]}), "unknown_field", "confirm"),
        ("?dataset_source=%20", json!({"chunks": [good]}), "invalid_name", "dataset_source"),
    ] {
        let (status, answer) = put(&service.url, &format!("/documents/d{path}"), &body).await;
        let error = &answer["error"];
        let named = (status, error["code"].as_str().unwrap(), error["param"].as_str().unwrap_or_default());
        assert_eq!(named, (422, code, param), "{path} {body}: {error}");
    }
    let (status, answer) = put(&service.url, "/documents/a%00", &json!({"chunks": [good]})).await;
    assert_eq!((status, &answer["error"]["code"]), (422, &json!("nul_character")));
    let request = client().put(format!("{}/documents/d", service.url)).header("Content-Type", "text/plain");
    assert_eq!(request.body("x").send().await.unwrap().status(), 415);
    assert_eq!(texts(&service, "d", "user_input").await, ["a Fact a.", "b Fact b."]);
    assert_eq!(service.database.number("SELECT seq FROM change_clock").await, clock);
    service.stop().await;
}

#[actix_web::test]
async fn while_a_chunk_is_not_stored_nothing_is_deleted() {
    let service = TestService::scripted().await;
    let before = json!({"chunks": [chunk("a", 0, "Fact a."), chunk("b", 1, "Fact b.")]});
    assert_eq!(put(&service.url, "/documents/d", &before).await.0, 200);
    service.database.run("ALTER TABLE chunks ADD CONSTRAINT refused CHECK (text NOT LIKE 'Bad%')").await;
    let after = json!({"chunks": [chunk("b", 0, "Bad b."), chunk("n", 1, "New.")]});
    let (status, answer) = put(&service.url, "/documents/d", &after).await;
    assert_eq!(
        (status, &answer["complete"], &answer["deleted"]),
        (422, &json!(false), &json!(0)),
        "{answer}"
    );
    assert_eq!(column(&answer["results"], "status"), ["error", "stored"]);
    let message = answer["error"]["message"].as_str().unwrap();
    assert_eq!(answer["error"]["code"], "store_failed");
    assert!(message.starts_with("1 of 2 chunks were rejected, so nothing was deleted"), "{message}");
    assert_eq!(texts(&service, "d", "user_input").await, ["a Fact a.", "b Fact b.", "n New."]);
    let only = json!({"chunks": [chunk("b", 0, "Bad b.")]});
    let (status, answer) = put(&service.url, "/documents/d", &only).await;
    assert_eq!(
        (status, &answer["complete"], &answer["error"]["code"]),
        (422, &json!(false), &json!("store_failed"))
    );
    assert_eq!(service.database.number("SELECT count(*) FROM dead_letters").await, 1);

    // Once it can be stored, the same request completes the replacement, and the dead letter is gone.
    service.database.run("ALTER TABLE chunks DROP CONSTRAINT refused").await;
    let (status, answer) = put(&service.url, "/documents/d", &after).await;
    assert_eq!((status, &answer["deleted"], &answer["unchanged"]), (200, &json!(1), &json!(1)), "{answer}");
    assert_eq!(texts(&service, "d", "user_input").await, ["b Bad b.", "n New."]);
    assert_eq!(service.database.number("SELECT count(*) FROM dead_letters").await, 0);
    assert_eq!((service.stored().await, found(&service).await), (2, vec!["b".to_owned(), "n".to_owned()]));
    service.stop().await;
}

/// Five chunks of one version.
fn version(name: &str) -> Value {
    let chunks: Vec<Value> =
        (0..5).map(|n| chunk(&format!("{name}{n}"), n, &format!("Fact {name} {n}."))).collect();
    json!({ "chunks": chunks })
}

fn ids(name: &str) -> BTreeSet<String> {
    (0..5).map(|n| format!("{name}{n}")).collect()
}

#[actix_web::test]
async fn replacements_at_the_same_time_leave_no_mixture_and_no_reader_finds_a_gap() {
    let service = TestService::scripted().await;
    assert_eq!(put(&service.url, "/documents/d", &version("a")).await.0, 200);
    let names = ["a", "b", "c", "d"];
    let replaced = names.map(|name| {
        let url = service.url.clone();
        actix_web::rt::spawn(async move {
            for _ in 0..10 {
                let (status, answer) = put(&url, "/documents/d", &version(name)).await;
                assert_eq!((status, &answer["complete"]), (200, &json!(true)), "{answer}");
            }
        })
    });
    let mut reads = 0;
    while !replaced.iter().all(|task| task.is_finished()) {
        let (status, page) = service.get("/documents/d/chunks").await;
        assert_eq!(status, 200, "{page}");
        let found: BTreeSet<String> = column(&page["chunks"], "id").into_iter().collect();
        assert!(names.iter().any(|name| ids(name).is_subset(&found)), "{found:?}");
        reads += 1;
    }
    for task in replaced {
        task.await.unwrap();
    }
    assert!(reads > 0);
    let (_, page) = service.get("/documents/d/chunks").await;
    let left: BTreeSet<String> = column(&page["chunks"], "id").into_iter().collect();
    assert!(names.iter().any(|name| ids(name) == left), "{left:?}");
    assert_eq!((service.stored().await, found(&service).await), (5, left.into_iter().collect()));
    service.stop().await;
}
