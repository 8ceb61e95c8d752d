//! Every documented request with one thing changed, by a seed: types swapped, numbers in quotes, `null`, lists, other
//! fields. Each is answered with the right rows or with an error that names what was changed; never with a failure of
//! the service, and never at the cost of a neighbour.

use crate::support::test_service::{TestService, client, numbered, tally};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

/// The mutations of each request.
const TIMES: usize = 48;

/// What takes the place of a value.
fn values() -> Vec<Value> {
    vec![
        Value::Null,
        json!(true),
        json!("True"),
        json!("yes"),
        json!(0),
        json!(1),
        json!(5),
        json!(-1),
        json!(3.0),
        json!(3.5),
        json!(1e30),
        json!(u64::MAX),
        json!("5"),
        json!("005"),
        json!("3.0"),
        json!(""),
        json!("\u{200b}"),
        json!("some words"),
        json!("a\u{0}b"),
        json!("x".repeat(70_000)),
        json!([]),
        json!(["a", 1, null]),
        json!([[1], {"a": 1}]),
        json!({}),
        json!({"a": {"b": [1, "two"]}}),
    ]
}

/// The places of all values in objects, as JSON pointers, and the names of their fields.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    let Value::Object(fields) = value else { return };
    for (name, value) in fields {
        let place = format!("{at}/{name}");
        places(value, &place, found);
        found.push(place);
    }
}

/// A change of a request: the request, the name of the field, and what was done.
struct Mutation {
    request: Value,
    field: String,
    what: String,
}

fn mutate(request: &Value, dice: &mut StdRng) -> Mutation {
    let mut changed = request.clone();
    let mut all = Vec::new();
    places(request, "", &mut all);
    let place = &all[dice.random_range(0..all.len())];
    let (parent, name) = place.rsplit_once('/').unwrap();
    let values = values();
    let value = values[dice.random_range(0..values.len())].clone();
    // An error of metadata names the metadata.
    let of_metadata = parent.starts_with("/metadata");
    let field = if of_metadata { "metadata" } else { name };
    let shown: String = value.to_string().chars().take(40).collect();
    let object = changed.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match dice.random_range(0..8) {
        0 => {
            object.remove(name);
            Mutation { request: changed, field: name.to_owned(), what: format!("without {place}") }
        }
        1 => {
            object.insert("surplus".to_owned(), value);
            Mutation {
                request: changed,
                field: if of_metadata { "metadata" } else { "surplus" }.to_owned(),
                what: format!("{parent}/surplus {shown}"),
            }
        }
        _ => {
            object.insert(name.to_owned(), value);
            Mutation { request: changed, field: field.to_owned(), what: format!("{place} {shown}") }
        }
    }
}

/// Words of this program's language that mean nothing to a client.
const FOREIGN: [&str; 14] = [
    "i64", "i32", "u8", "u32", "u64", "usize", "f32", "f64", "struct", "sequence", "enum", "variant",
    "newtype", "visitor",
];

/// An answer that is no success says what is wrong, and with which field; it is the client's to mend.
fn blames(status: u16, error: &Value, field: &str, what: &str) {
    assert!((400..500).contains(&status), "{what}: {status} {error}");
    assert_eq!(error["retryable"], false, "{what}: {error}");
    let message = error["message"].as_str().unwrap();
    let foreign =
        message.split(|c: char| !c.is_alphanumeric() && c != '_').find(|word| FOREIGN.contains(word));
    assert_eq!(foreign, None, "{what}: {message}");
    let named = |part: &str| error[part].as_str().is_some_and(|said| said.contains(field));
    assert!(named("param") || named("message"), "{what}: {field} is not named in {error}");
}

fn chunk() -> Value {
    json!({
        "id": "m", "text": "A chunk in the middle.", "document_id": "d", "chunk_index": 3, "source_document": "s",
        "article_title": "t", "article_index": 1, "batch_id": "b", "metadata": {"k": 1, "deep": {"l": [1, 2]}},
        "parent_cpe_ids": ["p"], "child_cpe_ids": [], "domain_code": 1, "task_code": 2, "modifier_code": 3,
        "sequence_index": null, "episode_id": "e", "concept_vec": [0.5],
    })
}

fn dataset(n: usize) -> String {
    format!("mutation {n}")
}

fn neighbour(name: &str) -> Value {
    json!({"id": name, "text": format!("A good neighbour, {name}.")})
}

#[actix_web::test]
async fn a_changed_chunk_is_stored_or_told_and_its_neighbours_are_stored() {
    let service = TestService::scripted().await;
    let mut dice = StdRng::seed_from_u64(11);
    let mut outcomes = [0, 0];
    for n in 0..4 * TIMES {
        let Mutation { request: chunk, field, what } = mutate(&chunk(), &mut dice);
        let chunks = [neighbour("before"), chunk.clone(), neighbour("after")];
        let good = if n % 2 == 0 {
            let body = json!({"chunks": chunks, "dataset_source": dataset(n)}).to_string();
            let (status, answer) = service.post("/ingest", body).await;
            assert_eq!(status, 200, "{what}: {answer}");
            let results = answer["results"].as_array().unwrap();
            assert!(
                results.len() == 3 && results[0]["status"] == "stored" && results[2]["status"] == "stored",
                "{what}: {answer}"
            );
            if results[1]["status"] != "stored" {
                blames(422, &results[1]["error_detail"], &field, &what);
            }
            results[1]["status"] == "stored"
        } else {
            let body: String = chunks.iter().map(|chunk| format!("{chunk}\n")).collect();
            let request =
                client().post(format!("{}/ingest", service.url)).query(&[("dataset_source", dataset(n))]);
            let request =
                request.header("Content-Type", "application/jsonl").header("Accept", "application/jsonl");
            let answer = request.body(body).send().await.unwrap().text().await.unwrap();
            let answer: Vec<Value> = answer.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let (stored, _, failed) = tally(&answer);
            assert_eq!(stored + failed, 3, "{what}");
            let middle = answer.iter().find(|result| result["line"] == 2).unwrap();
            if middle["status"] != "stored" {
                blames(422, &middle["error"], &field, &what);
            }
            assert!(stored >= 2, "{what}: {answer:?}");
            middle["status"] == "stored"
        };
        let rows = format!("SELECT count(*) FROM chunks WHERE dataset_source = '{}'", dataset(n));
        assert_eq!(service.database.number(&rows).await, 2 + i64::from(good), "{what}");
        outcomes[usize::from(good)] += 1;
    }
    assert!(outcomes.iter().all(|count| *count > TIMES / 2), "{outcomes:?}");
    service.stop().await;
}

#[actix_web::test]
async fn a_changed_request_is_taken_or_told() {
    let service = TestService::scripted().await;
    assert_eq!(tally(&service.stream(numbered(0..5)).await), (5, 0, 0));
    let vector = vec![json!(0.5); 384];
    let requests = [
        (
            "/ingest",
            json!({"chunks": [neighbour("a")], "dataset_source": "d", "batch_id": "b", "skip_cpesh": true,
            "chunking_time_ms": 1.5, "on_conflict": "keep", "unknown_fields": "keep"}),
        ),
        (
            "/search",
            json!({"query": "a fact", "top_k": 3, "filter": {"domain": "science", "task": 1, "modifier": "2",
            "dataset_source": "user_input", "document_id": "d"}, "tmd_weight": 0.5, "min_seq": 1}),
        ),
        ("/search", json!({"vector": vector, "top_k": 3, "filter": {}})),
        ("/embed", json!({"texts": ["one", "two"], "normalize": true})),
    ];
    let mut dice = StdRng::seed_from_u64(12);
    for (path, request) in requests {
        let mut outcomes = [0, 0];
        for _ in 0..TIMES {
            let Mutation { request, field, what } = mutate(&request, &mut dice);
            let (status, answer) = service.post(path, request.to_string()).await;
            let what = format!("{path} {what}");
            outcomes[usize::from(status == 200)] += 1;
            match path {
                _ if status != 200 => blames(status, &answer["error"], &field, &what),
                "/ingest" => {
                    assert_eq!((&answer["successful"], &answer["failed"]), (&json!(1), &json!(0)), "{what}");
                }
                "/search" => assert!(answer["results"].as_array().unwrap().len() <= 10, "{what}"),
                _ => assert_eq!(answer["embeddings"].as_array().unwrap().len(), 2, "{what}"),
            }
        }
        assert!(outcomes.iter().all(|count| *count > 4), "{path}: {outcomes:?}");
    }
    service.stop().await;
}

#[actix_web::test]
async fn a_changed_query_is_taken_or_told() {
    let service = TestService::scripted().await;
    let values = [
        "",
        "true",
        "True",
        "NO",
        "1",
        "0",
        "5",
        "-5",
        "2.0",
        "2.5",
        "005",
        "1e3",
        "abc",
        "%00",
        "%FF",
        "%E2%80%8B",
        "null",
        "keep",
        "replace",
        "a+b",
        "[1]",
        "NaN",
        "99999999999999999999",
    ];
    let ingest = [
        "dataset_source",
        "batch_id",
        "skip_cpesh",
        "chunking_time_ms",
        "on_conflict",
        "unknown_fields",
        "surplus",
    ];
    let pages = ["cause", "dataset_source", "limit", "after", "surplus"];
    let mut outcomes = [0, 0];
    for value in values {
        for name in ingest {
            for (kind, body) in [
                ("application/json", json!({"chunks": [neighbour("a"), neighbour("b")]}).to_string()),
                ("application/x-ndjson", format!("{}\n{}\n", neighbour("a"), neighbour("b"))),
            ] {
                let path = format!("/ingest?{name}={value}");
                let (status, answer) = service.post_as(&path, kind, body).await;
                outcomes[usize::from(status == 200)] += 1;
                match status {
                    200 => assert_eq!(
                        (&answer["successful"], &answer["failed"]),
                        (&json!(2), &json!(0)),
                        "{path}: {answer}"
                    ),
                    _ => blames(status, &answer["error"], name, &path),
                }
            }
        }
        for name in pages {
            let path = format!("/dead-letters?{name}={value}");
            let (status, answer) = service.get(&path).await;
            if status != 200 {
                blames(status, &answer["error"], name, &path);
            }
        }
        for path in [format!("/embed/single?text={value}"), format!("/embed/single?text=a&surplus={value}")] {
            let (status, answer) = service.post(&path, "").await;
            if status != 200 {
                let name = if path.contains("surplus") { "surplus" } else { "text" };
                blames(status, &answer["error"], name, &path);
            }
        }
    }
    assert!(outcomes.iter().all(|count| *count > 50), "{outcomes:?}");
    service.stop().await;
}
