//! The time that a chunk waits for a language model: its turn, all attempts and all questions together. After it the
//! chunk goes on as if the model had failed.

use crate::support::scripted_router::{RouterAnswer, ScriptedRouter};
use crate::support::test_service::{Scripted, TestService, numbered, overrides, tally};
use crate::support::wait::until_answered;
use lnsp_ingest::app::Overrides;
use lnsp_ingest::simulated_llm::{Fault, Options, SimulatedLlm};
use serde_json::{Value, json};

/// A simulated model that answers in a few milliseconds, until it hangs.
fn quick(port: u16) -> SimulatedLlm {
    SimulatedLlm::start(Options { port, latency: "3ms".parse().unwrap(), ..Options::default() }).unwrap()
}

/// A service whose calls would wait ten minutes, and whose chunks wait a second.
async fn service(backend: [&str; 4], flags: &[&str]) -> TestService {
    let limits = ["--llm-timeout-s", "600", "--cpesh-timeout-s", "600", "--chunk-deadline-s", "1"];
    let overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    TestService::build(overrides, &[&backend[..], &limits, flags].concat()).await
}

fn asking(llm: &SimulatedLlm) -> [&str; 4] {
    ["--tmd-backend", "llm", "--llm-endpoint", llm.url()]
}

async fn count(service: &TestService, condition: &str) -> i64 {
    service.database.number(&format!("SELECT count(*) FROM chunks WHERE {condition}")).await
}

async fn post(service: &TestService, chunk: Value) -> Value {
    let (_, answer) = service.post("/ingest", json!({ "chunks": [chunk] }).to_string()).await;
    answer["results"][0].clone()
}

#[actix_web::test]
async fn chunks_beside_a_model_that_hangs_fall_back_and_are_repaired_once_it_answers() {
    let llm = quick(0);
    let port = llm.url().rsplit(':').next().unwrap().parse().unwrap();
    // More chunks than calls at once: waiting for a turn counts, too.
    let flags = ["--max-parallel-workers", "4", "--tmd-repair", "true"];
    let service = service(asking(&llm), &flags).await;
    llm.set_fault(Some((Fault::Hang, 1)));
    assert_eq!(tally(&service.stream(numbered(0..12)).await), (12, 0, 0));
    assert_eq!(count(&service, "tmd_source = 'fallback' AND tmd_failure = 'deadline'").await, 12);

    // What hangs ends with the server; another one takes its place.
    llm.stop();
    let _llm = quick(port);
    let repaired = async || count(&service, "tmd_source = 'llm' AND tmd_failure IS NULL").await == 12;
    until_answered("the chunks have codes of the model", repaired).await;
    service.stop().await;
}

#[actix_web::test]
async fn where_only_the_model_may_label_a_chunk_that_waited_too_long_is_to_be_sent_again() {
    let llm = quick(0);
    let service = service(asking(&llm), &["--tmd-on-failure", "reject"]).await;
    llm.set_fault(Some((Fault::Hang, 1)));
    let results = service.stream(numbered(0..4)).await;
    assert_eq!(tally(&results), (0, 0, 4));
    for result in &results[..4] {
        assert_eq!(result["error"]["code"], "llm_failed", "{result}");
        assert_eq!(result["error"]["retryable"], true);
        let message = result["error"]["message"].as_str().unwrap();
        assert!(message.contains("in the 1 s that a chunk waits"), "{message}");
        assert!(message.contains("LNSP_CHUNK_DEADLINE_S"), "{message}");
    }
    service.stop().await;
}

#[actix_web::test]
async fn the_questions_about_a_chunk_share_its_time() {
    let llm = quick(0);
    let service = service(asking(&llm), &["--enable-cpesh", "true"]).await;
    let probes = llm.counts().generate;
    llm.set_fault(Some((Fault::Hang, 1)));
    let result = post(&service, json!({"id": "leaf", "text": "Leaves take up light."})).await;
    assert_eq!(
        (&result["status"], &result["tmd_source"]),
        (&json!("stored"), &json!("fallback")),
        "{result}"
    );
    assert_eq!(result["cpesh_failure"], "deadline", "{result}");
    assert_eq!(count(&service, "tmd_failure = 'deadline'").await, 1);
    assert_eq!(llm.counts().generate, probes + 1, "the codes alone are not asked for after the deadline");
    service.stop().await;
}

#[actix_web::test]
async fn a_router_has_the_same_time() {
    let router = ScriptedRouter::start(RouterAnswer::Silence);
    let backend = ["--tmd-backend", "router", "--tmd-router-endpoint", &router.url];
    let service = service(backend, &[]).await;
    let result = post(&service, json!({"text": "Leaves take up light."})).await;
    assert_eq!(
        (&result["status"], &result["tmd_source"]),
        (&json!("stored"), &json!("fallback")),
        "{result}"
    );
    assert_eq!(count(&service, "tmd_failure = 'deadline'").await, 1);
    let (status, routed) = service.post("/route", json!({"concept_text": "Leaves grow."}).to_string()).await;
    assert_eq!((status, &routed["tmd_source"]), (200, &json!("fallback")), "{routed}");
    service.stop().await;
}
