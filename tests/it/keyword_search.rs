//! Searches by words, alone and together with vectors.

use crate::support::process::{lnsp, run_beside};
use crate::support::test_service::{TestService, client, overrides, tally};
use lnsp_ingest::index::RebuildReason;
use serde_json::{Value, json};

async fn store(service: &TestService, on_conflict: &str, chunks: &[Value]) {
    let body = json!({ "chunks": chunks, "dataset_source": "d", "on_conflict": on_conflict });
    let (_, answer) = service.post("/ingest", body.to_string()).await;
    assert_eq!(answer["successful"], chunks.len(), "{answer}");
}

async fn search(service: &TestService, body: Value) -> Value {
    service.post("/search", body.to_string()).await.1
}

fn ids(answer: &Value) -> Vec<&str> {
    let results = answer["results"].as_array().unwrap_or_else(|| panic!("{answer}"));
    results.iter().map(|result| result["id"].as_str().unwrap()).collect()
}

async fn by_keyword(service: &TestService, query: &str) -> Vec<String> {
    let answer = search(service, json!({"query": query, "mode": "keyword"})).await;
    ids(&answer).into_iter().map(str::to_owned).collect()
}

/// Tickets about deliveries and payments, which differ in little more than their numbers.
fn ticket(n: usize) -> String {
    let city = ["Oslo", "Lyon", "Graz", "Porto", "Turku", "Leeds", "Brno"][n % 7];
    let what =
        ["arrived late", "was paid twice", "has a wrong address", "was returned", "is missing a page"][n % 5];
    let number = format!("INV-{}-{:05}", 2020 + n % 6, 10_007 + n * 7919 % 89_000);
    format!(
        "A customer from {city} writes that the order with invoice {number} {what}. Please call back and apologise."
    )
}

#[actix_web::test]
async fn a_ticket_is_found_by_a_number_that_stands_in_it_once() {
    let service = TestService::build(overrides(), &[]).await;
    let line = |n: usize| json!({"id": format!("t{n}"), "text": ticket(n)}).to_string() + "\n";
    let lines: String = (0..400).map(line).collect();
    assert_eq!(tally(&service.stream(lines).await), (400, 0, 0));
    for mode in ["keyword", "hybrid"] {
        let mut found = 0;
        for n in (0..400).step_by(13).take(30) {
            let number =
                ticket(n).split_whitespace().find(|word| word.starts_with("INV-")).unwrap().to_owned();
            // As people write it: as it stands there, without its marks, or only its last part.
            let written = match n % 3 {
                0 => number,
                1 => number.replace('-', " ").to_lowercase(),
                _ => number.rsplit('-').next().unwrap().to_owned(),
            };
            let query = json!({"query": format!("what about invoice {written}?"), "mode": mode, "top_k": 5});
            found += usize::from(ids(&search(&service, query).await).contains(&format!("t{n}").as_str()));
        }
        assert_eq!(found, 30, "{mode}");
    }
    service.stop().await;
}

#[actix_web::test]
async fn words_follow_what_is_stored_replaced_deleted_and_rebuilt() {
    let service = TestService::scripted().await;
    let chunk = |id: &str, text: &str| json!({"id": id, "text": text});
    store(&service, "error", &[chunk("a", "A heron waits."), chunk("b", "The Héron and the frog")]).await;
    assert_eq!(by_keyword(&service, "HERON?").await, ["a", "b"], "the shorter text first");
    assert_eq!(by_keyword(&service, "frog heron").await, ["b", "a"]);
    assert_eq!(by_keyword(&service, "toad").await, [""; 0]);
    assert_eq!(by_keyword(&service, "...").await, [""; 0]);

    store(&service, "replace", &[chunk("a", "A toad waits.")]).await;
    assert_eq!(by_keyword(&service, "heron").await, ["b"]);
    assert_eq!(by_keyword(&service, "toad").await, ["a"]);
    let concepts = service.state.searcher.indexes.concepts.clone();
    concepts.rebuild(RebuildReason::Manual).await.unwrap();
    assert_eq!(by_keyword(&service, "toad frog").await.len(), 2);

    let gone = client().delete(format!("{}/chunks/b?dataset_source=d", service.url)).send().await.unwrap();
    assert!(gone.status().is_success(), "{gone:?}");
    assert_eq!(by_keyword(&service, "frog").await, [""; 0]);
    service.stop().await;
}

#[actix_web::test]
async fn a_weight_moves_from_the_meaning_to_the_words_and_filters_hold_for_both() {
    let service = TestService::scripted().await;
    let chunk =
        |id: &str, text: &str, lang: &str| json!({"id": id, "text": text, "metadata": {"lang": lang}});
    let chunks = [
        chunk("same", "one two three", "en"),
        chunk("word", "seven", "en"),
        chunk("other", "seven eight", "de"),
        chunk("far", "nothing of it", "en"),
    ];
    store(&service, "error", &chunks).await;
    let hybrid = async |weight: f64| {
        let query = json!({"query": "seven", "mode": "hybrid", "keyword_weight": weight, "explain": true});
        search(&service, query).await
    };
    let (vectors, words) = (hybrid(0.0).await, hybrid(1.0).await);
    let plain = search(&service, json!({"query": "seven"})).await;
    assert_eq!(ids(&vectors), ids(&plain));
    assert_eq!(ids(&words)[..2], ["word", "other"], "the others have no word of it");
    assert_eq!(words["explanation"]["path"], "hybrid");
    let half = hybrid(0.5).await;
    for result in half["results"].as_array().unwrap() {
        let part = |name| result["scores"][name].as_f64().unwrap();
        let score = result["score"].as_f64().unwrap();
        assert!((score - (part("cosine") + part("keyword")) / 2.0).abs() < 1e-6, "{result}");
    }
    for mode in ["keyword", "hybrid"] {
        let query = json!({"query": "seven", "mode": mode, "filter": {"metadata": {"lang": "de"}}});
        assert_eq!(ids(&search(&service, query).await), ["other"], "{mode}");
    }
    let found = search(&service, json!({"query": "seven", "mode": "keyword", "explain": true})).await;
    assert_eq!(
        (&found["explanation"]["path"], &found["explanation"]["matching"]),
        (&json!("keyword"), &json!(2))
    );
    assert!(found["results"][0]["scores"].get("cosine").is_none(), "{found}");
    service.stop().await;
}

#[actix_web::test]
async fn what_words_cannot_answer_is_refused() {
    let service = TestService::scripted().await;
    for (query, param) in [
        (json!({"vector": [1.0, 2.0], "mode": "keyword"}), "mode"),
        (json!({"vector": [1.0, 2.0], "mode": "hybrid"}), "mode"),
        (json!({"query": "a", "mode": "hybrid", "search_in": "question"}), "search_in"),
        (json!({"query": "a", "mode": "keyword", "search_in": "both"}), "search_in"),
        (json!({"query": "a", "keyword_weight": 0.3}), "keyword_weight"),
        (json!({"query": "a", "mode": "hybrid", "keyword_weight": 1.5}), "keyword_weight"),
    ] {
        let answer = search(&service, query.clone()).await;
        assert_eq!(answer["error"]["code"], "invalid_query", "{query}: {answer}");
        assert_eq!(answer["error"]["param"], param, "{query}: {answer}");
    }
    service.stop().await;
}

#[actix_web::test]
async fn the_command_searches_by_words_too() {
    let service = TestService::scripted().await;
    let chunk = |id: &str, text: &str| json!({"id": id, "text": text, "metadata": {"year": 2026}});
    store(&service, "error", &[chunk("x", "Invoice 4711 is paid."), chunk("y", "It rains.")]).await;
    for (arguments, expected) in [
        (&["--mode", "keyword"][..], &["x"][..]),
        (&["--mode", "hybrid", "--keyword-weight", "1", "-k", "1"], &["x"]),
        (&["--mode", "keyword", "--filter", "metadata.year=2026"], &["x"]),
        (&["--mode", "keyword", "--filter", "metadata.year=2025"], &[]),
        (&["--mode", "keyword", "--filter", "metadata.year=2025", "--filter", "metadata.year=2026"], &["x"]),
        (&["--mode", "keyword", "--collapse", "text"], &["x"]),
    ] {
        let mut command = lnsp(&["search", "--url", &service.url, "--json", "4711"]);
        command.args(arguments);
        let (code, out, complaint) = run_beside(command).await;
        assert_eq!(code, Some(0), "{arguments:?}: {complaint}");
        assert_eq!(ids(&serde_json::from_str(&out).unwrap()), expected, "{arguments:?}");
    }
    service.stop().await;
}
