//! `POST /embed` and `POST /embed/single`: the old embedding service's shape, what is refused and how, and which
//! request is first when all need the model.

use crate::support::gated_encoder::GatedEncoder;
use crate::support::scripted_encoder::{self, Conduct, tokens};
use crate::support::test_service::{Scripted, TestService, client, numbered, overrides, tally};
use crate::support::wait::until;
use futures_util::poll;
use lnsp_ingest::app::Overrides;
use lnsp_ingest::encoder::Tokens;
use lnsp_ingest::search::{Collapse, SearchBy, SearchIn, SearchQuery, SearchTarget};
use lnsp_ingest::threads::Lane;
use serde_json::{Value, json};
use std::pin::pin;

/// The vectors of a list, in its order, bit by bit.
pub async fn embed(service: &TestService, texts: &[&str]) -> Vec<Vec<f32>> {
    let (status, answer) =
        service.post("/embed", json!({"texts": texts, "normalize": true}).to_string()).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["count"], texts.len());
    vectors(&answer)
}

fn vectors(answer: &Value) -> Vec<Vec<f32>> {
    serde_json::from_value(answer["embeddings"].clone()).unwrap()
}

/// So many different texts of one length, with one in the middle to look for.
fn sixty_four(bad: &str) -> Vec<String> {
    let mut texts: Vec<String> = (0..64).map(|n| format!("This is fact number {n}.")).collect();
    texts[31] = bad.to_owned();
    texts
}

#[actix_web::test]
async fn the_vectors_are_those_that_ingest_and_search_use() {
    let service = TestService::real().await;
    let texts = ["Plants turn light into sugar.", ".", "Ξένη γλῶσσα 🦉", "Plants turn light into sugar."];
    let (status, answer) = service.post("/embed", json!({ "texts": texts }).to_string()).await;
    assert_eq!(
        (status, &answer["count"], &answer["dimension"], &answer["encoder"]),
        (200, &json!(4), &json!(384), &json!("all-minilm-l6-v2"))
    );
    let list = vectors(&answer);
    assert_eq!(list[0], list[3]);
    assert!(list[0] != list[1] && list[1] != list[2]);
    for vector in &list {
        let length: f32 = vector.iter().map(|x| x * x).sum();
        assert!(vector.len() == 384 && (length - 1.0).abs() < 1e-4, "{length}");
    }

    let url = format!("{}/embed/single", service.url);
    let single = client().post(url).query(&[("text", texts[2])]).send().await.unwrap();
    let single: Value = single.json().await.unwrap();
    assert_eq!((&single["dimension"], &single["encoder"]), (&json!(384), &json!("all-minilm-l6-v2")));
    let single: Vec<f32> = serde_json::from_value(single["embedding"].clone()).unwrap();
    let apart = single.iter().zip(&list[2]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart < 1e-6, "{apart}");

    service.post("/ingest", json!({"chunks": [{"text": texts[0]}]}).to_string()).await;
    let found = service.post("/search", json!({"vector": list[0], "top_k": 1}).to_string()).await.1;
    assert!(found["results"][0]["score"].as_f64().unwrap() > 0.99999, "{found}");
    service.stop().await;
}

#[actix_web::test]
async fn what_is_refused_says_what_to_mend() {
    let service = TestService::scripted().await;
    let many = vec!["a"; 4097];
    let long = "b".repeat(64 * 1024 + 1);
    let cases = [
        (json!({"texts": []}), 400, "missing_field", Some("texts")),
        (json!({}), 422, "missing_field", Some("texts")),
        (json!({"texts": null}), 422, "missing_field", Some("texts")),
        (json!([["a"]]), 422, "wrong_type", None),
        (json!({"texts": ["a", "\u{200b}"]}), 422, "text_empty", Some("texts[1]")),
        (json!({"texts": ["a", ""]}), 422, "text_empty", Some("texts[1]")),
        (json!({"texts": ["a"], "normalize": "perhaps"}), 422, "wrong_type", Some("normalize")),
        (json!({"texts": "one"}), 422, "wrong_type", Some("texts")),
        (json!({"texts": ["a", 7]}), 422, "wrong_type", Some("texts[1]")),
        (json!({"texts": ["a"], "pooling": "cls"}), 422, "unknown_field", Some("pooling")),
        (json!({"texts": ["a"], "normalize": false}), 422, "invalid_query", Some("normalize")),
        (json!({"texts": ["a", long]}), 422, "text_too_long", Some("texts[1]")),
        (json!({"texts": many}), 413, "body_too_large", Some("texts")),
        (json!({"texts": ["c".repeat(33 << 20)]}), 413, "body_too_large", None),
    ];
    for (body, status, code, param) in cases {
        let body = body.to_string();
        let shown: String = body.chars().take(60).collect();
        let (received, answer) = service.post("/embed", body).await;
        assert_eq!((received, &answer["error"]["code"]), (status, &json!(code)), "{shown}: {answer}");
        assert_eq!(answer["error"]["param"], param.map_or(Value::Null, |param| json!(param)), "{answer}");
        assert!(answer["request_id"].is_string());
    }
    assert_eq!(service.post_as("/embed", "text/plain", "x").await.0, 415);
    assert_eq!(service.post_as("/embed", "application/x-ndjson", "{}\n").await.0, 415);
    assert_eq!(service.get("/embed").await.0, 405);
    for (query, code, param) in [
        ("", "missing_field", "text"),
        ("?txt=a", "unknown_field", "txt"),
        ("?text=a&normalize=false", "unknown_field", "normalize"),
    ] {
        let (status, answer) = service.post(&format!("/embed/single{query}"), "").await;
        assert_eq!((status, &answer["error"]["code"]), (422, &json!(code)), "{query}");
        assert_eq!(answer["error"]["param"], param, "{query}");
    }
    let body = json!({"texts": ["a"], "normalize": null}).to_string();
    assert_eq!(service.post("/embed", body).await.0, 200);
    let marked = [&b"\xef\xbb\xbf"[..], br#"{"texts": ["a"], "normalize": "True"}"#].concat();
    assert_eq!(service.post("/embed", marked).await.0, 200);
    assert_eq!(embed(&service, &vec!["a"; 4096]).await.len(), 4096, "the most there can be");
    service.stop().await;
}

#[actix_web::test]
async fn equal_texts_are_computed_once_and_passes_are_full() {
    let (service, log) = scripted_encoder::service(|_| Conduct::Well).await;
    let texts: Vec<String> = (0..200).map(|n| format!("This is fact number {}.", 100 + n % 100)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let list = embed(&service, &texts).await;
    assert_eq!(list[..100], list[100..]);
    let mut sizes = log.sizes(&Conduct::Well);
    sizes.sort_unstable();
    assert_eq!(sizes, [36, 64], "64 texts are the budget of a pass");
    service.stop().await;
}

#[actix_web::test]
async fn a_text_that_breaks_the_model_is_named_after_a_pass_for_each_half() {
    let bad = tokens("This one kills.");
    let breaks = move |texts: &[&Tokens]| if texts.contains(&&bad) { Conduct::Panics } else { Conduct::Well };
    let (service, log) = scripted_encoder::service(breaks).await;
    let body = json!({"texts": sixty_four("This one kills.")}).to_string();
    let (status, answer) = service.post("/embed", body).await;
    assert_eq!((status, &answer["error"]["code"]), (422, &json!("embed_failed")), "{answer}");
    assert_eq!(answer["error"]["param"], "texts[31]");
    let failed = log.sizes(&Conduct::Panics);
    assert_eq!(failed, [64, 32, 16, 8, 4, 2, 1]);
    let mut well = log.sizes(&Conduct::Well);
    well.sort_unstable();
    assert_eq!(well, [1, 2, 4, 8, 16, 32], "the others were computed once");
    let texts = sixty_four("This is fact number 31.");
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    assert_eq!(embed(&service, &texts).await.len(), 64, "the model is there again");
    service.stop().await;
}

#[actix_web::test]
async fn a_search_overtakes_a_list_and_a_list_does_not_keep_ingest_out() {
    let gate = GatedEncoder::shut();
    let service = TestService::build(Overrides { encoder: Some(gate.factory()), ..overrides() }, &[]).await;
    let Some(local) = service.state.vectorizer.model() else { panic!("the model is elsewhere") };
    let threads = local.encoders.threads();
    // Twenty passes of a list, of which as many stand before the model as it has threads.
    let texts: Vec<String> = (0..64 * 20).map(|n| format!("This is fact number {}.", 1000 + n)).collect();
    let list = actix_web::rt::spawn({
        let vectorizer = service.state.vectorizer.clone();
        async move { vectorizer.vectors(texts).await }
    });
    until("every thread has a pass of it", || gate.passes().len() == threads).await;
    let chunks =
        actix_web::rt::spawn(crate::support::test_service::stream_to(service.url.clone(), numbered(0..20)));
    until("chunks stand in line", || {
        let [_, embedder, _] = service.state.pipeline.oldest_work();
        embedder.is_some_and(|work| work.waits_for == Some("the model"))
    })
    .await;

    let query = SearchQuery {
        by: SearchBy::Vector,
        search_in: SearchIn::Concept,
        target: SearchTarget::Text("Who goes first?".to_owned()),
        top_k: 1,
        filter: Default::default(),
        tmd_weight: 0.0,
        min_seq: None,
        collapse: Collapse::None,
        diversity: 0.0,
    };
    let searcher = service.state.searcher.clone();
    let mut search = pin!(searcher.search(query));
    assert!(poll!(&mut search).is_pending(), "it is at the tokenizer");
    local.tokenizer.run(Lane::Express, |_| ()).await.unwrap();
    assert!(poll!(&mut search).is_pending(), "it stands before the model");
    gate.open();
    search.await.unwrap();
    assert_eq!(tally(&chunks.await.unwrap()), (20, 0, 0));
    assert!(list.await.unwrap().iter().all(Result::is_ok));

    // As soon as a thread is free it takes the search, and then the chunks, before any other pass of the list.
    let passes = gate.passes();
    let place = |texts: &[String]| {
        let texts: Vec<Tokens> = texts.iter().map(|text| tokens(text)).collect();
        passes.iter().position(|pass| texts.iter().any(|text| pass.contains(text))).unwrap()
    };
    let chunks: Vec<String> = (0..20).map(|n| format!("This is fact number {n}.")).collect();
    let mut places = [place(&["Who goes first?".to_owned()]), place(&chunks)];
    places.sort_unstable();
    assert_eq!(places, [threads, threads + 1]);
    service.stop().await;
}

#[actix_web::test]
async fn health_has_the_fields_of_the_old_embedding_service() {
    let overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    let service = TestService::build(overrides, &["--device", "cpu"]).await;
    let (_, health) = service.get("/health").await;
    assert_eq!(
        (&health["status"], &health["encoder"], &health["dimension"], &health["device"]),
        (&json!("healthy"), &json!("all-minilm-l6-v2"), &json!(384), &json!("cpu"))
    );
    assert_eq!(health["embedding"], json!({"server": null, "servers": null, "problem": null}));
    assert_eq!(health["model"]["name"], "all-minilm-l6-v2", "an object, as before");
    service.stop().await;
}
