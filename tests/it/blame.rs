//! A request that can never succeed is told so, with the field to correct, and never blamed on the service: its answer is
//! the error object of every route, and its status is not 503.

use crate::support::raw_connection::RawConnection;
use crate::support::test_service::{Scripted, TestService, numbered, tally};
use serde_json::{Value, json};

/// Checks that this is the error object, with this code and parameter.
fn blames(answer: &(u16, Value), status: u16, code: &str, param: Option<&str>, what: &str) {
    let error = &answer.1["error"];
    assert_eq!((answer.0, &error["code"]), (status, &json!(code)), "{what}: {}", answer.1);
    assert_eq!(error["retryable"], false, "{what}");
    assert!(error["message"].as_str().unwrap().len() < 1000, "{what}");
    assert!(error["type"].is_string() && answer.1["request_id"].is_string(), "{what}: {}", answer.1);
    if let Some(param) = param {
        assert_eq!(error["param"], param, "{what}: {}", answer.1);
    }
}

fn with(field: &str, value: Value) -> String {
    let mut query = json!({"query": "anything"});
    query[field] = value;
    query.to_string()
}

/// Searches with one wrong field.
fn wrong_searches() -> Vec<(String, &'static str, Option<&'static str>)> {
    let vector = |numbers: String| format!("{{\"vector\":[{numbers}]}}");
    let same = |number: &str| vector(vec![number; Scripted::DIMS].join(","));
    let (nul, long) = (json!("a\0b"), json!("a".repeat(513)));
    let filter = |field: &str, value: Value| with("filter", json!({ field: value }));
    vec![
        (filter("dataset_source", nul.clone()), "nul_character", Some("filter.dataset_source")),
        (filter("document_id", nul.clone()), "nul_character", Some("filter.document_id")),
        (filter("dataset_source", long.clone()), "invalid_name", Some("filter.dataset_source")),
        (filter("document_id", long), "invalid_name", Some("filter.document_id")),
        (filter("domain", nul), "invalid_query", Some("filter.domain")),
        (filter("task", json!(-1)), "invalid_query", Some("filter.task")),
        (filter("modifier", json!(64)), "invalid_query", Some("filter.modifier")),
        (filter("colour", json!(1)), "unknown_field", Some("filter.colour")),
        (same("0"), "invalid_query", Some("vector")),
        (same("null"), "wrong_type", None),
        (same("1e999"), "number_out_of_range", None),
        (same("NaN"), "invalid_json", None),
        (vector(String::new()), "invalid_query", Some("vector")),
        (vector("1".to_owned()), "invalid_query", Some("vector")),
        (with("vector", json!([1.0])), "missing_field", Some("query")),
        ("{}".to_owned(), "missing_field", Some("query")),
        (with("query", json!(" ")), "text_empty", Some("query")),
        (with("query", json!("\u{200b}\u{feff}")), "text_empty", Some("query")),
        (with("query", json!("a".repeat(64 * 1024 + 1))), "invalid_query", Some("query")),
        (with("query", json!(7)), "wrong_type", Some("query")),
        (with("top_k", json!(0)), "invalid_query", Some("top_k")),
        (with("top_k", json!(1001)), "invalid_query", Some("top_k")),
        (with("top_k", json!(u64::MAX)), "number_out_of_range", Some("top_k")),
        (with("top_k", json!(-1)), "invalid_query", Some("top_k")),
        (with("top_k", json!(1e30)), "number_out_of_range", Some("top_k")),
        (with("top_k", json!(2.5)), "wrong_type", Some("top_k")),
        (with("filter", json!(["Science"])), "wrong_type", Some("filter")),
        (filter("document_id", json!(1.5)), "wrong_type", Some("filter.document_id")),
        ("[\"anything\"]".to_owned(), "wrong_type", None),
        (with("tmd_weight", json!(-0.1)), "invalid_query", Some("tmd_weight")),
        (with("tmd_weight", json!(1e39)), "invalid_query", Some("tmd_weight")),
        (with("min_seq", json!(i64::MAX)), "invalid_query", Some("min_seq")),
        (with("min_seq", json!(u64::MAX)), "number_out_of_range", Some("min_seq")),
        ("{\"query\":".to_owned(), "invalid_json", None),
        (String::new(), "invalid_json", None),
    ]
}

#[actix_web::test]
async fn a_wrong_search_is_told_which_field_is_wrong() {
    let service = TestService::scripted().await;
    assert_eq!(tally(&service.stream(numbered(0..3)).await), (3, 0, 0));
    for (body, code, param) in wrong_searches() {
        let shown: String = body.chars().take(80).collect();
        blames(&service.post("/search", body).await, 422, code, param, &shown);
    }
    let not_text = service.post("/search", b"{\"query\":\"\xff\"}".to_vec()).await;
    blames(&not_text, 422, "invalid_utf8", None, "a query that is not UTF-8");
    service.stop().await;
}

#[actix_web::test]
async fn a_search_that_only_looks_wrong_succeeds() {
    let service = TestService::scripted().await;
    assert_eq!(tally(&service.stream(numbered(0..3)).await), (3, 0, 0));
    let ids = async |body: String| {
        let (status, answer) = service.post("/search", body).await;
        assert_eq!(status, 200, "{answer}");
        let results = answer["results"].as_array().unwrap().clone();
        results.iter().map(|result| result["id"].clone()).collect::<Vec<_>>()
    };
    // Only the direction of a vector counts, also where the squares of its numbers are too large, or vanish.
    let same = |number: &str| format!("{{\"vector\":[{}]}}", vec![number; Scripted::DIMS].join(","));
    let expected = ids(same("1")).await;
    for number in ["1e300", "3e38", "1e-3", "1e-30", "1e-45", "1e-320", "\"0.5\""] {
        assert_eq!(ids(same(number)).await, expected, "{number}");
    }
    // `null` is absence, whole numbers are whole numbers however they are written, and ids may be numbers.
    let absent = json!({"query": "anything", "vector": null, "top_k": null, "filter": null, "tmd_weight": null,
        "min_seq": null});
    assert_eq!(ids(absent.to_string()).await.len(), 3);
    assert_eq!(ids(with("filter", json!({"domain": null, "document_id": null}))).await.len(), 3);
    for top_k in [json!(2.0), json!("2"), json!("002")] {
        assert_eq!(ids(with("top_k", top_k)).await.len(), 2);
    }
    assert_eq!(ids(with("filter", json!({"dataset_source": 7}))).await, Vec::<Value>::new());
    assert_eq!(ids(with("query", json!("a\0b"))).await.len(), 3);
    assert_eq!(ids(with("min_seq", json!(i64::MIN))).await.len(), 3);
    assert_eq!(ids(with("filter", json!({"document_id": ""}))).await, Vec::<Value>::new());
    service.stop().await;
}

#[actix_web::test]
async fn a_wrong_parameter_of_a_query_is_named() {
    let service = TestService::scripted().await;
    for (query, code, param) in [
        ("limit=-1", "invalid_query", "limit"),
        ("limit=4294967296", "invalid_query", "limit"),
        ("limit=x", "invalid_query", "limit"),
        ("after=9223372036854775808", "invalid_query", "after"),
        ("after=", "invalid_query", "after"),
        ("cause=%00", "invalid_query", "cause"),
        ("dataset_source=a%00b", "nul_character", "dataset_source"),
        ("dataset_source=%FF", "invalid_utf8", "dataset_source"),
        ("page=2", "unknown_field", "page"),
    ] {
        let answer = service.get(&format!("/dead-letters?{query}")).await;
        blames(&answer, 422, code, Some(param), query);
    }
    let long = service.get(&format!("/dead-letters?dataset_source={}", "a".repeat(513))).await;
    blames(&long, 422, "invalid_name", Some("dataset_source"), "a long name");
    assert_eq!(service.get("/dead-letters?after=-9223372036854775808").await.0, 200);

    for (query, code, param) in [
        ("skip_cpesh=perhaps", "invalid_query", "skip_cpesh"),
        ("chunking_time_ms=soon", "invalid_query", "chunking_time_ms"),
        ("chunking_time_ms=NaN", "invalid_query", "chunking_time_ms"),
        ("chunking_time_ms=1e999", "invalid_query", "chunking_time_ms"),
        ("dataset_source=%C3", "invalid_utf8", "dataset_source"),
        ("colour=red", "unknown_field", "colour"),
    ] {
        let path = format!("/ingest?{query}");
        let answer = service.post_as(&path, "application/x-ndjson", numbered(0..1)).await;
        blames(&answer, 422, code, Some(param), query);
    }
    // A name that no chunk can have is refused before a line is read.
    for field in ["dataset_source", "batch_id"] {
        let path = format!("/ingest?{field}=a%00b");
        let answer = service.post_as(&path, "application/x-ndjson", numbered(0..2)).await;
        blames(&answer, 422, "nul_character", Some(field), field);
    }

    let text = service.post("/embed/single?text=%FF", "").await;
    blames(&text, 422, "invalid_utf8", Some("text"), "a text that is not UTF-8");
    let blank = service.post("/embed/single?text=%E2%80%8B", "").await;
    blames(&blank, 422, "text_empty", Some("text"), "an invisible text");
    for (path, body) in [("/search", "{\"query\":\"a\"}"), ("/embed", "{\"texts\":[\"a\"]}")] {
        let answer = service.post(&format!("{path}?top_k=5"), body).await;
        blames(&answer, 422, "unknown_field", Some("top_k"), path);
        let answer = service.post(&format!("{path}?a=%E9"), body).await;
        blames(&answer, 422, "invalid_utf8", Some("a"), path);
    }
    assert_eq!(service.post("/embed/single?text=a%00b", "").await.0, 200);
    assert_eq!(service.post("/embed", json!({"texts": ["a\0b"]}).to_string()).await.0, 200);
    let many = json!({"texts": vec![""; 500_000]}).to_string();
    let many = service.post("/embed", many).await;
    blames(&many, 413, "body_too_large", Some("texts"), "many empty texts");
    assert!(many.1["error"]["message"].as_str().unwrap().contains("received 500000"));
    assert_eq!(service.rows().await, 0);
    service.stop().await;
}

#[actix_web::test]
async fn every_path_and_method_has_the_error_object() {
    let service = TestService::scripted().await;
    let long = format!("/{}", "a".repeat(20_000));
    for path in ["/%FF", "/search%00", "/search/", "//", "/a/../b", "/ingest/x?y=%FF", &long] {
        blames(&service.get(path).await, 404, "not_found", None, path);
    }
    for (line, status, code) in [
        ("OPTIONS *", 404, "not_found"),
        ("CONNECT elsewhere:1", 403, "host_not_allowed"),
        ("GET http://elsewhere/nothing", 403, "host_not_allowed"),
        ("GET http://localhost/nothing", 404, "not_found"),
        ("PROPFIND /search", 405, "method_not_allowed"),
    ] {
        let mut raw = RawConnection::connect(&service.url).await.unwrap();
        raw.write(format!("{line} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        let (head, answer) = raw.answer().await;
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{line}: {head}");
        blames(&(status, answer), status, code, None, line);
    }
    service.stop().await;
}
