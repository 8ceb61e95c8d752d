//! Chunks are deleted over HTTP and by the command, after their number was confirmed: they are neither found nor known
//! any more, and the same file sent again stores exactly what is missing.

use crate::support::process::{lnsp, run};
use crate::support::test_service::{TestService, client, numbered, tally};
use lnsp_ingest::deletion::DeletionError;
use lnsp_ingest::store::Selection;
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

/// `DELETE /chunks` with a JSON body.
pub async fn delete(service: &TestService, body: &Value) -> (u16, Value) {
    let request = client().delete(format!("{}/chunks", service.url));
    let request = request.header("Content-Type", "application/json").body(body.to_string());
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

/// `DELETE /chunks` with a query.
async fn delete_by_query(service: &TestService, query: &str) -> (u16, Value) {
    let response = client().delete(format!("{}/chunks?{query}", service.url)).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

/// The number of chunks that a filter selects.
async fn selected(service: &TestService, filter: &Value) -> u64 {
    let (status, answer) = delete(service, &json!({"filter": filter})).await;
    assert_eq!((status, &answer["error"]["code"]), (409, &json!("confirmation_needed")), "{answer}");
    answer["error"]["count"].as_u64().unwrap()
}

/// The ids that a search for everything finds, in order.
pub async fn found(service: &TestService) -> Vec<String> {
    let (status, answer) = service.post("/search", json!({"query": "fact", "top_k": 1000}).to_string()).await;
    assert_eq!(status, 200, "{answer}");
    let results = answer["results"].as_array().unwrap().iter();
    let mut ids: Vec<String> = results.map(|result| result["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

async fn ids(service: &TestService) -> Vec<String> {
    service.database.texts("SELECT id FROM chunks ORDER BY id COLLATE \"C\"").await
}

/// Runs `lnsp delete` as a process: exit code, what it printed, what it complained about.
fn command(service: &TestService, flags: &[&str]) -> (Option<i32>, String, String) {
    run(&mut lnsp(&[&["delete", "--url", &service.url], flags].concat()))
}

#[actix_web::test]
async fn what_is_deleted_is_gone_at_once_and_the_same_file_stores_exactly_it_again() {
    let service = TestService::scripted().await;
    assert_eq!(tally(&service.stream(numbered(0..300)).await), (300, 0, 0));
    let names = "SELECT id || ' ' || cpe_id FROM chunks ORDER BY id";
    let before = service.database.texts(names).await;

    // Without the number, or with another one, it only says what would be deleted.
    for query in ["dataset_source=user_input", "dataset_source=user_input&confirm=299"] {
        let (status, answer) = delete_by_query(&service, query).await;
        let error = &answer["error"];
        assert_eq!(
            (status, &error["code"], &error["count"]),
            (409, &json!("confirmation_needed"), &json!(300))
        );
        assert!(error["message"].as_str().unwrap().contains("confirm=300"), "{error}");
    }
    assert_eq!(service.stored().await, 300);

    let some: Vec<String> = (0..100).map(|n| format!("n{}", 3 * n)).collect();
    let filter = json!({"dataset_source": "user_input", "ids": some});
    let (status, answer) = delete(&service, &json!({"filter": filter, "confirm": 100})).await;
    assert_eq!(status, 200, "{answer}");
    let counted = ["deleted", "letters", "remaining", "index_seq"].map(|name| answer[name].as_i64().unwrap());
    assert_eq!(counted, [100, 0, 0, 400]);
    assert!(answer["on_disk"].as_str().unwrap().contains("until its next build"), "{answer}");
    // The next search does not find them, and the next upload does not know them.
    let left = found(&service).await;
    assert!(left.len() == 200 && some.iter().all(|id| !left.contains(id)), "{left:?}");
    assert_eq!((service.stored().await, left), (200, ids(&service).await));
    assert_eq!(service.database.number("SELECT count(*) FROM tombstones").await, 100);
    assert_eq!(tally(&service.stream(numbered(0..300)).await), (100, 200, 0));
    assert_eq!((service.stored().await, found(&service).await), (300, ids(&service).await));
    // The same names; the numbers in the index are new ones.
    assert_eq!(service.database.texts(names).await, before);
    assert_eq!(service.database.number("SELECT max(item) FROM chunks").await, 399);

    let everything = "dataset_source=user_input&confirm=300";
    assert_eq!(delete_by_query(&service, everything).await.1["deleted"], 300);
    assert_eq!((service.stored().await, found(&service).await), (0, vec![]));
    service.state.index.flush().await.unwrap();
    assert_eq!(service.stored().await, 0);
    service.stop().await;
}

#[actix_web::test]
async fn a_filter_is_by_dataset_document_ids_and_metadata() {
    let service = TestService::scripted().await;
    for dataset in ["a", "b"] {
        let chunks: Vec<Value> = (0..6)
            .map(|n| {
                json!({
                    "id": format!("c{n}"), "text": format!("Fact {n}."), "document_id": format!("d{}", n % 2),
                    "metadata": {"number": n % 3, "word": "it's", "fraction": 1.5, "flag": n == 0},
                })
            })
            .collect();
        let body = json!({"chunks": chunks, "dataset_source": dataset});
        assert_eq!(service.post("/ingest", body.to_string()).await.0, 200);
    }
    let name =
        service.database.texts("SELECT cpe_id FROM chunks WHERE dataset_source = 'a' AND id = 'c3'").await;
    for (filter, count) in [
        (json!({"dataset_source": "a"}), 6),
        (json!({"dataset_source": "c"}), 0),
        (json!({"document_id": "d0"}), 6),
        (json!({"dataset_source": "a", "document_id": "d0"}), 3),
        (json!({"dataset_source": "a", "ids": ["c1", "c2", "c2", "none"]}), 2),
        // The public name is also an id; that of another dataset is not.
        (json!({"dataset_source": "a", "ids": name}), 1),
        (json!({"dataset_source": "b", "ids": name}), 0),
        (json!({"dataset_source": "a", "ids": []}), 0),
        (json!({"metadata": {"number": 1}}), 4),
        (json!({"metadata": {"number": "1", "word": "it's"}}), 4),
        (json!({"metadata": {"fraction": 1.5, "flag": true}}), 2),
        (json!({"metadata": {"absent": 1}}), 0),
        (
            json!({"dataset_source": "b", "document_id": "d1", "ids": ["c1", "c2"], "metadata": {"number": 1}}),
            1,
        ),
    ] {
        assert_eq!(selected(&service, &filter).await, count, "{filter}");
    }
    let filter = json!({"dataset_source": "b", "document_id": "d1", "metadata": {"number": 1}});
    assert_eq!(delete(&service, &json!({"filter": filter, "confirm": 1})).await.1["deleted"], 1);
    let left =
        "SELECT string_agg(id, ' ' ORDER BY id) FROM chunks GROUP BY dataset_source ORDER BY dataset_source";
    assert_eq!(service.database.texts(left).await, ["c0 c1 c2 c3 c4 c5", "c0 c2 c3 c4 c5"]);
    assert_eq!(service.stored().await, 11);
    service.stop().await;
}

#[actix_web::test]
async fn a_filter_that_is_wrong_deletes_nothing_and_is_named() {
    let service = TestService::scripted().await;
    assert_eq!(tally(&service.stream(numbered(0..3)).await), (3, 0, 0));
    let many: Vec<String> = (0..10_001).map(|n| n.to_string()).collect();
    for (body, status, code, param) in [
        (json!({}), 422, "missing_field", "filter"),
        (json!({"filter": {}}), 422, "missing_field", "filter"),
        (json!({"filter": {"metadata": {}}, "confirm": 3}), 422, "missing_field", "filter"),
        (json!({"filter": {"ids": ["n1"]}, "confirm": 1}), 422, "missing_field", "dataset_source"),
        (
            json!({"filter": {"dataset_source": "user_input", "ids": many}}),
            413,
            "body_too_large",
            "filter.ids",
        ),
        (json!({"filter": {"dataset": "user_input"}}), 422, "unknown_field", "filter.dataset"),
        (json!({"filter": {"dataset_source": "a\0"}}), 422, "nul_character", "dataset_source"),
        (json!({"filter": {"metadata": {"k": "a\0"}}}), 422, "nul_character", "filter.metadata"),
        (json!({"filter": {"metadata": {"k": [1]}}}), 422, "wrong_type", "filter.metadata"),
        (
            json!({"filter": {"dataset_source": "user_input"}, "confirm": "three"}),
            422,
            "wrong_type",
            "confirm",
        ),
    ] {
        let (found, answer) = delete(&service, &body).await;
        let error = &answer["error"];
        let named = (found, error["code"].as_str().unwrap(), error["param"].as_str().unwrap_or_default());
        assert_eq!(named, (status, code, param), "{body:.200}: {error}");
    }
    for (query, code) in [
        ("", "missing_field"),
        ("confirm=3", "missing_field"),
        ("id=n1&confirm=1", "missing_field"),
        ("dataset=user_input", "unknown_field"),
        ("dataset_source=user_input&confirm=x", "invalid_query"),
    ] {
        let (status, answer) = delete_by_query(&service, query).await;
        assert_eq!((status, &answer["error"]["code"]), (422, &json!(code)), "{query}: {answer}");
    }
    // A number below zero is no number of chunks.
    assert_eq!(delete_by_query(&service, "dataset_source=user_input&confirm=-3").await.0, 409);
    assert_eq!(service.stored().await, 3);
    service.stop().await;
}

#[actix_web::test]
async fn the_dead_letters_of_a_selection_go_with_it() {
    let service = TestService::scripted().await;
    service.database.run("ALTER TABLE chunks ADD CONSTRAINT refused CHECK (text NOT LIKE 'Bad%')").await;
    let bad = |id: &str, document: &str, kind: &str| {
        json!({"id": id, "text": format!("Bad {id}."), "document_id": document, "metadata": {"kind": kind}})
            .to_string()
            + "\n"
    };
    let upload = bad("a", "d", "x") + &bad("b", "d", "y") + &bad("c", "e", "x") + &numbered(0..5);
    assert_eq!(tally(&service.stream(upload).await), (5, 0, 3));
    let letters = async || service.database.texts("SELECT id FROM dead_letters ORDER BY letter").await;

    let body = json!({"filter": {"document_id": "d", "metadata": {"kind": "x"}}});
    let (_, answer) = delete(&service, &body).await;
    assert_eq!((&answer["error"]["count"], &answer["error"]["letters"]), (&json!(0), &json!(1)));
    let body = json!({"filter": {"document_id": "d", "metadata": {"kind": "x"}}, "confirm": 0});
    assert_eq!(delete(&service, &body).await.1["letters"], 1);
    assert_eq!(letters().await, ["b", "c"]);
    let body = json!({"filter": {"dataset_source": "user_input", "ids": ["c", "n1"]}, "confirm": 1});
    let (_, answer) = delete(&service, &body).await;
    assert_eq!((&answer["deleted"], &answer["letters"]), (&json!(1), &json!(1)));
    // What another program wrote is no chunk; it goes with its dataset.
    service.database.run("UPDATE dead_letters SET input = 'no JSON'").await;
    assert_eq!(delete_by_query(&service, "document_id=d&confirm=0").await.1["letters"], 0);
    let (_, answer) = delete_by_query(&service, "dataset_source=user_input&confirm=4").await;
    assert_eq!((&answer["deleted"], &answer["letters"]), (&json!(4), &json!(1)));
    assert_eq!((letters().await, service.stored().await), (vec![], 0));
    assert_eq!(service.get("/stats").await.1["dead_letters"], 0);
    service.stop().await;
}

#[actix_web::test]
async fn a_large_deletion_is_done_in_parts_and_takes_what_was_confirmed() {
    let service = TestService::scripted().await;
    assert_eq!(tally(&service.stream(numbered(0..2_500)).await), (2_500, 0, 0));
    let deleter = service.state.deleter();
    let all = Selection { dataset: Some("user_input".into()), ..Selection::default() };
    let unconfirmed = deleter.delete(&all, None, Duration::ZERO, || false).await.unwrap_err();
    assert!(matches!(unconfirmed, DeletionError::Unconfirmed(size) if size.chunks == 2_500), "{unconfirmed}");

    // No time: one transaction.
    let first = deleter.delete(&all, Some(2_500), Duration::ZERO, || false).await.unwrap();
    assert_eq!((first.deleted, first.remaining), (1_000, 1_500));
    assert_eq!(service.stored().await, 1_500);
    // The service goes down: the transaction in progress ends.
    let next = deleter.delete(&all, Some(1_500), Duration::from_secs(60), || true).await.unwrap();
    assert_eq!((next.deleted, next.remaining), (1_000, 500));
    let last = deleter.delete(&all, Some(500), Duration::from_secs(60), || false).await.unwrap();
    assert_eq!((last.deleted, last.remaining, service.stored().await), (500, 0, 0));
    let metrics =
        client().get(format!("{}/metrics", service.url)).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("lnsp_chunks_deleted_total "), "{metrics}");
    service.stop().await;
}

#[actix_web::test]
async fn deletions_beside_uploads_leave_rows_and_index_equal() {
    let service = TestService::scripted().await;
    let uploads = (0..4).map(|n| {
        let url = service.url.clone();
        async move {
            for round in 0..5 {
                let lines = numbered(n * 200..n * 200 + 200);
                let answer = crate::support::test_service::stream_to(url.clone(), lines).await;
                assert_eq!(tally(&answer).2, 0, "round {round}");
            }
        }
    });
    let deletions = async {
        let mut deleted = 0;
        for _ in 0..20 {
            let count = selected(&service, &json!({"dataset_source": "user_input"})).await;
            let body = json!({"filter": {"dataset_source": "user_input"}, "confirm": count});
            let (status, answer) = delete(&service, &body).await;
            assert!(status == 200 || status == 409, "{answer}");
            deleted += answer["deleted"].as_i64().unwrap_or(0);
        }
        deleted
    };
    let (_, deleted) = tokio::join!(futures_util::future::join_all(uploads), deletions);
    assert_eq!(service.database.number("SELECT count(*) FROM tombstones").await, deleted);
    let stored = service.stored().await;
    assert_eq!(tally(&service.stream(numbered(0..800)).await), (800 - stored as usize, stored as usize, 0));
    assert_eq!((service.stored().await, found(&service).await), (800, ids(&service).await));
    service.stop().await;
}

#[actix_web::test]
async fn the_command_says_how_many_and_asks_before_it_deletes() {
    let service = TestService::scripted().await;
    let upload = async || tally(&service.stream(numbered(0..1_200)).await).0;
    assert_eq!(upload().await, 1_200);

    let (code, said, complaint) = command(&service, &["--dataset", "user_input"]);
    assert_eq!((code, &*said), (Some(2), ""));
    let expected = "lnsp: 1,200 chunks of dataset \"user_input\" would be deleted, and there is no terminal to ask on; \
                    add --yes to delete them\n";
    assert_eq!((complaint.as_str(), service.stored().await), (expected, 1_200));

    // On a terminal it asks; everything but a yes is a no.
    for (answer, code, stored) in [("\n", 1, 1_200), ("n\n", 1, 1_200), ("y\n", 0, 0)] {
        let question =
            format!("{} delete --url {} --dataset user_input", env!("CARGO_BIN_EXE_lnsp"), service.url);
        let mut terminal = Command::new("script");
        terminal.args(["-qec", &question, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut terminal = terminal.spawn().unwrap();
        terminal.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        let output = terminal.wait_with_output().unwrap();
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(shown.contains("Delete 1,200 chunks of dataset \"user_input\"? [y/N]"), "{shown}");
        assert_eq!((output.status.code(), service.stored().await), (Some(code), stored), "{shown}");
    }

    assert_eq!(upload().await, 1_200);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ids");
    std::fs::write(&file, "\u{feff}n1\r\n\nn2\nn2\n  n3  \nnone\n").unwrap();
    let (code, said, _) =
        command(&service, &["--dataset", "user_input", "--ids", file.to_str().unwrap(), "--yes"]);
    assert_eq!((code, said.lines().next().unwrap()), (Some(0), "deleted: 3 chunks"), "{said}");
    assert!(said.contains("until its next build"), "{said}");
    assert_eq!(upload().await, 3);
    let (code, said, _) = command(&service, &["--document", "none", "--where", "k=v", "--yes"]);
    assert_eq!((code, &*said), (Some(0), "nothing is stored of document \"none\", k=v\n"));
    for (flags, part) in [
        (&["--yes"][..], "--dataset"),
        (&["--ids", "x", "--yes"], "--dataset"),
        (&["--where", "novalue", "--yes"], "KEY=VALUE"),
    ] {
        let (code, _, complaint) = command(&service, flags);
        assert!(code == Some(2) && complaint.contains(part), "{code:?} {complaint}");
    }
    let (code, _, complaint) = command(&service, &["--dataset", "user_input", "--ids", "/nowhere", "--yes"]);
    assert!(code == Some(1) && complaint.contains("/nowhere cannot be read"), "{complaint}");
    let (code, said, _) = command(&service, &["--dataset", "user_input", "--yes"]);
    assert!(code == Some(0) && said.starts_with("deleted: 1,200 chunks\n"), "{said}");
    assert_eq!(service.stored().await, 0);
    service.stop().await;
}
