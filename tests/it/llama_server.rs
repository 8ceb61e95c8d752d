//! A real llama.cpp server with a model of random weights as the source of codes and CPESH parts: it answers nonsense in
//! the form that the grammar allows, one call at a time, at its own speed.

use crate::support::llama_server::{LlamaServer, MODEL, installed};
use crate::support::test_service::{Scripted, TestService, overrides, tally};
use lnsp_ingest::app::Overrides;
use serde_json::{Value, json};

const CHUNKS: usize = 500;

/// Short texts, each different.
fn texts() -> String {
    let sample = std::fs::read_to_string(crate::root().join("tests/data/sample.ndjson")).unwrap();
    let texts: Vec<Value> = sample.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let chunk = |n: usize| {
        let text: String = texts[n % texts.len()]["text"].as_str().unwrap().chars().take(80).collect();
        format!("{}\n", json!({"id": format!("n{n}"), "text": format!("{n}: {text}")}))
    };
    (0..CHUNKS).map(chunk).collect()
}

async fn service(server: &LlamaServer, flags: &[&str]) -> TestService {
    let base = ["--tmd-backend", "llm", "--llm-endpoint", &server.url, "--tmd-llm-model", MODEL];
    let flags = [&base[..], &["--llm-timeout-s", "120", "--max-parallel-workers", "4"], flags].concat();
    let overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    TestService::build(overrides, &flags).await
}

async fn count(service: &TestService, condition: &str) -> i64 {
    service.database.number(&format!("SELECT count(*) FROM chunks WHERE {condition}")).await
}

const VALID: &str = "tmd_source = 'llm' AND tmd_model = 'tiny-random' AND tmd_failure IS NULL \
                     AND domain_code BETWEEN 0 AND 15 AND task_code BETWEEN 0 AND 31 AND modifier_code BETWEEN 0 AND 63";

#[actix_web::test]
async fn every_chunk_gets_valid_codes() {
    if !installed("llama_server::every_chunk_gets_valid_codes") {
        return;
    }
    let server = LlamaServer::start(&[]);
    let service = service(&server, &[]).await;
    assert_eq!(tally(&service.stream(texts()).await), (CHUNKS, 0, 0));
    assert_eq!(count(&service, VALID).await, CHUNKS as i64);
    service.stop().await;
}
