//! Which codes are stored: a request says it, or the setting. A chunk without codes says so everywhere: because no source
//! was asked, or because the classifier in the program was not sure enough.

use crate::decision_order::{clear, counted, found, lines, unclear};
use crate::support::process::{lnsp, run_beside};
use crate::support::test_service::{Scripted, TestService, client, overrides, tally};
use lnsp_ingest::app::Overrides;
use lnsp_ingest::simulated_llm::{Fault, Options, SimulatedLlm};
use serde_json::{Value, json};
use std::fs;

const NO_CODES: &str = "domain_code IS NULL AND task_code IS NULL AND modifier_code IS NULL";
/// The columns of a row for which no source was asked.
pub const NOT_ASKED: &str = "tmd_source = 'none' AND domain_code IS NULL AND tmd_model IS NULL AND tmd_failure IS NULL \
                             AND domain_confidence IS NULL AND tmd_took_us IS NULL";

pub fn model() -> SimulatedLlm {
    SimulatedLlm::start(Options { slots: 64, latency: "1ms".parse().unwrap(), ..Options::default() }).unwrap()
}

pub async fn service(flags: &[&str]) -> TestService {
    let overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    TestService::build(overrides, flags).await
}

pub async fn with_llm(llm: &SimulatedLlm, flags: &[&str]) -> TestService {
    service(&[&["--tmd-backend", "llm", "--llm-endpoint", llm.url()], flags].concat()).await
}

/// As [`TestService::stream`], with options in the query.
pub async fn stream(service: &TestService, query: &str, body: String) -> Vec<Value> {
    let request = client().post(format!("{}/ingest?{query}", service.url));
    let request =
        request.header("Content-Type", "application/x-ndjson").header("Accept", "application/x-ndjson");
    let text = request.body(body).send().await.unwrap().text().await.unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The result of one chunk of a JSON request.
pub async fn send(service: &TestService, options: Value, chunk: Value) -> Value {
    let mut body = json!({ "chunks": [chunk] });
    for (name, value) in options.as_object().unwrap() {
        body[name] = value.clone();
    }
    service.post("/ingest", body.to_string()).await.1["results"][0].clone()
}

pub async fn count(service: &TestService, condition: &str) -> i64 {
    service.database.number(&format!("SELECT count(*) FROM chunks WHERE {condition}")).await
}

/// Ten chunks with codes of the client, and ten without.
pub fn mixed(prefix: &str) -> String {
    let line = |n: usize| {
        let mut line = json!({"id": format!("{prefix}{n}"), "text": format!("{prefix}: fact {n}.")});
        if n.is_multiple_of(2) {
            (line["domain_code"], line["task_code"], line["modifier_code"]) = (json!(11), json!(2), json!(n));
        }
        format!("{line}\n")
    };
    (0..20).map(line).collect()
}

#[actix_web::test]
async fn a_request_says_which_codes_are_stored_and_the_setting_where_it_does_not() {
    let llm = model();
    for (setting, kept, asked) in [("all", 10, 10), ("client", 10, 0), ("none", 0, 0)] {
        let service = with_llm(&llm, &["--labels", setting]).await;
        let before = llm.counts().generate;
        assert_eq!(tally(&service.stream(mixed("setting")).await), (20, 0, 0), "{setting}");
        let by_client = count(&service, "tmd_source = 'client'").await;
        let by_model = count(&service, "tmd_source = 'llm'").await;
        assert_eq!((by_client, by_model), (kept, asked), "{setting}");
        assert_eq!(count(&service, NOT_ASKED).await, 20 - kept - asked, "{setting}");
        assert_eq!(llm.counts().generate - before, asked.unsigned_abs(), "{setting}");

        // The request wins over the setting.
        for (wanted, kept, asked) in [("all", 10, 10), ("client", 10, 0), ("none", 0, 0)] {
            let before = llm.counts().generate;
            let answer = stream(&service, &format!("labels={wanted}"), mixed(wanted)).await;
            assert_eq!(tally(&answer), (20, 0, 0), "{setting} {wanted}");
            let of_request = format!("id ~ '^{wanted}\\d'");
            let of = async |source: &str| {
                count(&service, &format!("{of_request} AND tmd_source = '{source}'")).await
            };
            assert_eq!((of("client").await, of("llm").await), (kept, asked), "{setting} {wanted}");
            assert_eq!(of("none").await, 20 - kept - asked, "{setting} {wanted}");
            assert_eq!(llm.counts().generate - before, asked.unsigned_abs(), "{setting} {wanted}");
        }
        assert_eq!(service.stored().await, 80);
        service.stop().await;
    }
}

#[actix_web::test]
async fn a_field_of_the_body_wins_over_the_query_and_another_word_is_refused() {
    let service = service(&[]).await;
    let body = json!({"chunks": [{"id": "a", "text": "Text a."}], "labels": "Client"}).to_string();
    let (status, answer) = service.post("/ingest?labels=all", body).await;
    assert_eq!((status, &answer["results"][0]["tmd_source"]), (200, &json!("none")), "{answer}");
    let (status, answer) = service.post("/ingest?labels=some", mixed("x")).await;
    assert_eq!((status, &answer["error"]["code"]), (422, &json!("invalid_query")), "{answer}");
    assert!(
        answer["error"]["message"].as_str().unwrap().contains("expected all or client or none"),
        "{answer}"
    );

    // The same for files.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chunks.ndjson");
    fs::write(&file, mixed("file")).unwrap();
    let command = lnsp(&["ingest", "--url", &service.url, "--labels", "client", file.to_str().unwrap()]);
    let (code, said, complaint) = run_beside(command).await;
    assert_eq!((code, complaint.as_str()), (Some(0), ""), "{said}");
    assert_eq!(count(&service, "id LIKE 'file%' AND tmd_source = 'client'").await, 10);
    assert_eq!(count(&service, &format!("id LIKE 'file%' AND {NOT_ASKED}")).await, 10);
    service.stop().await;
}

#[actix_web::test]
async fn every_answer_says_that_there_are_no_codes() {
    let service = service(&["--labels", "client"]).await;
    let labels = r#"source="none",reason="none""#;
    let before = counted(&service, labels).await;
    let result = send(&service, json!({}), json!({"id": "a", "text": "The moon moves the sea."})).await;
    assert_eq!((&result["tmd_codes"], &result["tmd_source"]), (&Value::Null, &json!("none")), "{result}");
    assert_eq!((&result["tmd_confidence"], &result["status"]), (&Value::Null, &json!("stored")));
    assert_eq!(result["backends"]["tmd"], "none (not asked)");
    assert!(result["timings_ms"].get("tmd_ms").is_none(), "{result}");
    assert!(counted(&service, labels).await > before);

    let line = json!({"id": "b", "text": "A contract binds.", "domain_code": 11, "task_code": 1, "modifier_code": 2});
    let answer = stream(&service, "labels=none", format!("{line}\n")).await;
    let nothing = json!({"domain": null, "task": null, "modifier": null, "source": "none"});
    assert_eq!((tally(&answer), &answer[0]["tmd"]), ((1, 0, 0), &nothing));
    // Asked again with its codes, it is a duplicate that differs in them; without, it is the same.
    let again = stream(&service, "", format!("{line}\n")).await;
    let codes = json!(["domain_code", "task_code", "modifier_code"]);
    assert_eq!((tally(&again), &again[0]["differs"]), ((0, 1, 0), &codes));
    assert_eq!(again[0]["tmd"], nothing, "what is stored");
    let again = stream(&service, "labels=none", format!("{line}\n")).await;
    assert_eq!((tally(&again), again[0].get("differs")), ((0, 1, 0), None));

    // A search finds them, unless it asks for codes.
    let search = async |body: Value| {
        let (_, found) = service.post("/search", body.to_string()).await;
        found["results"].as_array().unwrap().clone()
    };
    let all = search(json!({"query": "sea"})).await;
    assert_eq!(all.len(), 2);
    for hit in &all {
        let labels =
            json!({"domain": null, "task": null, "modifier": null, "source": "none", "confidence": null});
        assert_eq!(hit["tmd"], labels);
        assert_eq!(hit["names"], json!({"domain": null, "task": null, "modifier": null}));
    }
    for axis in ["domain", "task", "modifier"] {
        for code in 0..16 {
            assert!(
                search(json!({"query": "sea", "filter": {axis: code}})).await.is_empty(),
                "{axis} {code}"
            );
        }
    }
    // Their codes are like no others.
    for (hit, plain) in search(json!({"query": "sea", "tmd_weight": 0.5})).await.iter().zip(&all) {
        let (mixed, plain) = (hit["score"].as_f64().unwrap(), plain["score"].as_f64().unwrap());
        assert!((mixed - plain / 2.0).abs() < 1e-5, "{mixed} of {plain}");
    }
    let (code, said, _) = run_beside(lnsp(&["search", "--url", &service.url, "sea"])).await;
    assert_eq!((code, said.matches("\n   no labels\n").count()), (Some(0), 2), "{said}");
    // A text that is not stored still gets codes.
    let (status, routed) = service.post("/route", json!({"concept_text": "sea"}).to_string()).await;
    assert_eq!((status, routed["domain_code"].is_u64()), (200, true), "{routed}");

    let view = "SELECT to_jsonb(e) FROM cpe_entry e WHERE mission_text LIKE 'The moon%'";
    let entry: Value = serde_json::from_str(&service.database.texts(view).await[0]).unwrap();
    for name in
        ["domain_code", "tmd_bits", "tmd_bits_canonical", "tmd_lane", "lane_index", "lane_index_canonical"]
    {
        assert_eq!(entry.get(name), Some(&Value::Null), "{name}");
    }
    let vectors = "SELECT count(*) FROM cpe_vectors WHERE concept_vec IS NOT NULL AND question_vec IS NOT NULL AND \
                   num_nulls(tmd_dense, tmd_dense_canonical, fused_vec, fused_norm, fused_vec_canonical) = 5";
    assert_eq!(service.database.number(vectors).await, 2);
    service.stop().await;
}

#[actix_web::test]
async fn codes_of_which_the_classifier_is_not_sure_are_not_stored_and_the_row_says_how_sure_it_was() {
    let flags = ["--tmd-local-min-confidence", "0.6"];
    let local = service(&flags).await;
    assert_eq!(tally(&local.stream(lines(&clear())).await), (20, 0, 0));
    assert_eq!(tally(&local.stream(lines(&unclear())).await), (20, 0, 0));
    let sure = "tmd_source = 'local' AND domain_confidence >= 0.6 AND num_nulls(domain_code, task_code, modifier_code) = 0";
    let unsure = format!(
        "tmd_source = 'local' AND domain_confidence < 0.6 AND num_nulls(domain_confidence, task_confidence, \
         modifier_confidence) = 0 AND tmd_model LIKE 'tmd-2+%' AND {NO_CODES}"
    );
    assert_eq!((count(&local, sure).await, count(&local, &unsure).await), (20, 20));
    let text = &unclear()[0];
    let result = send(&local, json!({}), json!({ "text": text })).await;
    let confidence = result["tmd_confidence"]["domain"].as_f64().unwrap();
    assert!((confidence - f64::from(found(text).confidence.domain)).abs() < 1e-6, "{result}");
    assert_eq!((&result["tmd_codes"], &result["tmd_source"]), (&Value::Null, &json!("local")));
    let backend = result["backends"]["tmd"].as_str().unwrap();
    assert!(backend.starts_with("none (local:tmd-2+") && backend.ends_with(" was not sure)"), "{backend}");
    // The calls of the router promise codes.
    let (_, routed) = local.post("/route", json!({ "concept_text": text }).to_string()).await;
    assert_eq!(routed["domain_code"], found(text).tmd.domain());
    local.stop().await;

    // In place of a language model, too. Where it is asked first, another threshold decides.
    let llm = model();
    llm.set_fault(Some((Fault::WrongName, 1)));
    let fallback = with_llm(&llm, &flags).await;
    let few = |texts: Vec<String>| lines(&texts[..3]);
    assert_eq!(tally(&fallback.stream(few(unclear())).await), (3, 0, 0));
    assert_eq!(tally(&fallback.stream(few(clear())).await), (3, 0, 0));
    let unsure = format!(
        "tmd_source = 'fallback' AND tmd_failure IS NOT NULL AND domain_confidence < 0.6 AND {NO_CODES}"
    );
    assert_eq!(count(&fallback, &unsure).await, 3);
    assert_eq!(count(&fallback, "tmd_source = 'fallback' AND domain_code IS NOT NULL").await, 3);
    let result = send(&fallback, json!({}), json!({ "text": &unclear()[0] })).await;
    assert!(result["backends"]["tmd"].as_str().unwrap().contains(" was not sure; llm: "), "{result}");
    llm.set_fault(None);
    fallback.stop().await;

    let first = with_llm(
        &llm,
        &["--tmd-local-min-confidence", "1", "--tmd-fast-first", "true", "--tmd-fast-conf-min", "0.6"],
    )
    .await;
    assert_eq!(tally(&first.stream(lines(&clear())).await), (20, 0, 0));
    assert_eq!(count(&first, "tmd_failure = 'fast_first' AND domain_code IS NOT NULL").await, 20);
    first.stop().await;
}

#[actix_web::test]
async fn parts_are_extracted_also_of_chunks_that_are_to_have_no_codes() {
    let llm = model();
    let service = with_llm(&llm, &["--enable-cpesh", "true", "--labels", "client"]).await;
    let before = llm.counts().generate;
    let text =
        "Chlorophyll in the leaves of plants takes up light, and sugar is made of water and air with it.";
    let result = send(&service, json!({}), json!({ "id": "leaf", "text": text })).await;
    assert_eq!((&result["tmd_source"], &result["cpesh_source"]), (&json!("none"), &json!("llm")), "{result}");
    assert_eq!((llm.counts().generate - before, count(&service, NOT_ASKED).await), (1, 1));
    let skipped = json!({"id": "plain", "text": "Nothing is extracted."});
    assert_eq!(send(&service, json!({"skip_cpesh": true}), skipped).await["tmd_source"], "none");
    assert_eq!(llm.counts().generate - before, 1);
    assert_eq!(service.stored().await, 2);
    service.stop().await;
}
