//! A TMD router as the source of codes: the old one, whose failures look like codes, or another service of this kind.

use crate::support::scripted_router::{RouterAnswer, ScriptedRouter};
use crate::support::test_service::{Scripted, TestService, numbered, overrides, tally};
use lnsp_ingest::app::Overrides;
use serde_json::{Value, json};

async fn service(routers: &str, flags: &[&str]) -> TestService {
    let base = ["--tmd-backend", "router", "--tmd-router-endpoint", routers, "--llm-timeout-s", "1"];
    let overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    TestService::build(overrides, &[&base[..], flags].concat()).await
}

async fn count(service: &TestService, condition: &str) -> i64 {
    service.database.number(&format!("SELECT count(*) FROM chunks WHERE {condition}")).await
}

#[actix_web::test]
async fn its_codes_are_stored_with_its_name() {
    let router = ScriptedRouter::start(RouterAnswer::Codes(11, 12, 6));
    let service = service(&router.url, &[]).await;
    assert_eq!(tally(&service.stream(numbered(0..20)).await), (20, 0, 0));
    let asked = router.asked();
    assert_eq!((asked.len(), asked[0].as_object().unwrap().len()), (20, 1));
    assert!(asked.contains(&json!({"concept_text": "This is fact number 7."})));
    let address = router.url.trim_start_matches("http://");
    let row = format!(
        "(domain_code, task_code, modifier_code) = (11, 12, 6) AND tmd_source = 'llm' \
         AND tmd_model = 'router:{address}' AND tmd_failure IS NULL AND domain_confidence IS NULL"
    );
    assert_eq!(count(&service, &row).await, 20);
    let (_, health) = service.get("/health").await;
    assert_eq!(health["tmd"], json!({"backend": "router", "source": format!("router:{address}")}));
    assert_eq!((&health["router"][0]["state"], &health["llm"]), (&json!("answers"), &Value::Null));
    // Its own calls of the router's shape ask that router in turn.
    let (_, routed) = service.post("/route", json!({"concept_text": "A text."}).to_string()).await;
    assert_eq!((&routed["domain_code"], &routed["tmd_source"]), (&json!(11), &json!("llm")));
    service.stop().await;
}

#[actix_web::test]
async fn what_is_no_answer_is_stored_as_a_fallback_with_its_reason() {
    let cases = [
        ("zeroes", RouterAnswer::Codes(0, 0, 0), "invalid"),
        ("outside", RouterAnswer::Codes(16, 0, 0), "invalid"),
        ("negative", RouterAnswer::Codes(1, -1, 0), "invalid"),
        ("status", RouterAnswer::Status(500), "http_5xx"),
        ("body", RouterAnswer::Body("{}"), "not_router"),
        ("rubbish", RouterAnswer::Body("<html>"), "not_router"),
        ("silence", RouterAnswer::Silence, "timeout"),
    ];
    for (id, answer, reason) in cases {
        // Each with a router of its own: one that does not speak the API is left out for a while.
        let router = ScriptedRouter::start(answer);
        let service = service(&router.url, &[]).await;
        let chunk = json!({"chunks": [{"text": format!("A text about {id}."), "id": id}]});
        let (status, answer) = service.post("/ingest", chunk.to_string()).await;
        assert_eq!((status, &answer["results"][0]["tmd_source"]), (200, &json!("fallback")), "{answer}");
        let row = format!("id = '{id}' AND tmd_failure = '{reason}'");
        assert_eq!(count(&service, &row).await, 1, "{id}");
        service.stop().await;
    }
}

#[actix_web::test]
async fn a_single_zero_is_a_code() {
    let router = ScriptedRouter::start(RouterAnswer::Codes(0, 0, 0));
    let service = service(&router.url, &[]).await;
    let source = async |text: &str| {
        let (_, answer) = service.post("/ingest", json!({"chunks": [{ "text": text }]}).to_string()).await;
        answer["results"][0]["tmd_source"].as_str().unwrap().to_owned()
    };
    assert_eq!(source("Three zeroes.").await, "fallback");
    router.set_answer(RouterAnswer::Codes(0, 0, 1));
    assert_eq!(source("Two zeroes.").await, "llm");
    service.stop().await;
}

#[actix_web::test]
async fn another_service_of_this_kind_is_a_router_and_says_where_codes_come_from() {
    let other = TestService::scripted().await;
    let service = service(&other.url, &[]).await;
    assert_eq!(tally(&service.stream(numbered(0..10)).await), (10, 0, 0));
    assert_eq!(count(&service, "tmd_source = 'llm' AND tmd_model LIKE 'router:127.0.0.1:%'").await, 10);
    let (_, here) = service.post("/extract-tmd", json!({"concept_text": "A cat."}).to_string()).await;
    let (_, there) = other.post("/extract-tmd", json!({"concept_text": "A cat."}).to_string()).await;
    for code in ["domain_code", "task_code", "modifier_code"] {
        assert_eq!(here[code], there[code]);
    }
    assert_eq!(other.stored().await, 0);
    service.stop().await;
    other.stop().await;
}

#[actix_web::test]
async fn when_one_of_two_dies_the_other_gives_all_codes() {
    let (one, two) = (
        ScriptedRouter::start(RouterAnswer::Codes(1, 1, 1)),
        ScriptedRouter::start(RouterAnswer::Codes(2, 2, 2)),
    );
    let service = service(&format!("{}*2,{}*2", one.url, two.url), &[]).await;
    assert_eq!(tally(&service.stream(numbered(0..40)).await), (40, 0, 0));
    assert!(!one.asked().is_empty() && !two.asked().is_empty());
    drop(one);
    assert_eq!(tally(&service.stream(numbered(40..80)).await), (40, 0, 0));
    assert_eq!(count(&service, "tmd_source = 'llm'").await, 80, "no fallback");
    service.stop().await;
}

#[actix_web::test]
async fn where_only_the_router_may_label_a_chunk_is_rejected_until_it_answers() {
    let router = ScriptedRouter::start(RouterAnswer::Status(500));
    let service = service(&router.url, &["--tmd-on-failure", "reject"]).await;
    let results = service.stream(numbered(0..3)).await;
    assert_eq!(tally(&results), (0, 0, 3));
    let error = &results[0]["error"];
    assert_eq!((&error["code"], &error["retryable"]), (&json!("llm_failed"), &json!(true)));
    assert!(error["message"].as_str().unwrap().starts_with("the TMD router at http://127.0.0.1"), "{error}");
    service.stop().await;
}
