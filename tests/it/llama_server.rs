//! A real llama.cpp server with a model of random weights as the source of codes and CPESH parts: it answers nonsense in
//! the form that the grammar allows, one call at a time, at its own speed.

use crate::support::llama_server::{LlamaServer, MODEL, is_installed};
use crate::support::test_service::{Scripted, TestService, overrides, tally};
use futures_util::{StreamExt, stream};
use lnsp_ingest::app::Overrides;
use lnsp_ingest::llm::{AnswerForm, Llm, LlmSettings, Wanted};
use serde_json::{Value, json};
use std::io::Write;
use std::time::Duration;

const CHUNKS: usize = 500;
/// Fewer, because an answer with CPESH parts has a thousand tokens with this model, whose vocabulary is single bytes.
/// `LNSP_TEST_CPESH_TEXTS` asks for another number.
fn cpesh_texts() -> usize {
    std::env::var("LNSP_TEST_CPESH_TEXTS").map_or(25, |count| count.parse().unwrap())
}

/// Whether the server is installed. Where it is not, the test says that it is left out, past the capturing of its output.
fn installed(test: &str) -> bool {
    if !is_installed() {
        let notice =
            format!("\nskipped: llama_server::{test} (no LLM server is installed; scripts/llm_server)\n");
        std::io::stdout().write_all(notice.as_bytes()).unwrap();
    }
    is_installed()
}

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
    if !installed("every_chunk_gets_valid_codes") {
        return;
    }
    let server = LlamaServer::start(&[]);
    let service = service(&server, &[]).await;
    assert_eq!(tally(&service.stream(texts()).await), (CHUNKS, 0, 0));
    assert_eq!(count(&service, VALID).await, CHUNKS as i64);
    service.stop().await;
}

#[actix_web::test]
async fn every_chunk_gets_codes_from_short_answers() {
    if !installed("every_chunk_gets_codes_from_short_answers") {
        return;
    }
    // With the logits of all tokens, of which confidences are made.
    let server = LlamaServer::start(&["--logprobs"]);
    let service = service(&server, &["--tmd-answer", "short"]).await;
    assert_eq!(tally(&service.stream(texts()).await), (CHUNKS, 0, 0));
    let sure = format!("{VALID} AND least(domain_confidence, task_confidence, modifier_confidence) > 0");
    assert_eq!(count(&service, &sure).await, CHUNKS as i64);
    service.stop().await;
}

#[actix_web::test]
async fn every_text_gets_codes_and_cpesh_parts_in_one_answer() {
    if !installed("every_text_gets_codes_and_cpesh_parts_in_one_answer") {
        return;
    }
    let server = LlamaServer::start(&[]);
    let settings = LlmSettings {
        endpoint: server.url.parse().unwrap(),
        model: MODEL.to_owned(),
        calls: 2,
        timeout: Duration::from_secs(300),
        cpesh_timeout: Duration::from_secs(300),
        dialect: None,
        answer: AnswerForm::Names,
        api_key: None,
    };
    let llm = Llm::new(&[settings]).unwrap();
    let texts = texts();
    let lines = texts.lines().take(cpesh_texts()).map(|line| serde_json::from_str::<Value>(line).unwrap());
    let asked = lines.map(|line| line["text"].as_str().unwrap().to_owned());
    let answers = stream::iter(asked).map(async |text| llm.classify(&text, Wanted::CodesAndCpesh).await);
    let answers: Vec<_> = answers.buffered(2).collect().await;
    assert_eq!(answers.len(), cpesh_texts());
    for answer in answers {
        let parts = answer.unwrap().cpesh.unwrap().unwrap();
        let all = [parts.concept_text, parts.probe_question, parts.expected_answer];
        let all: Vec<String> =
            all.into_iter().flatten().chain(parts.soft_negatives).chain(parts.hard_negatives).collect();
        assert_eq!(all.len(), 9);
        for part in all {
            assert!(!part.trim().is_empty() && !part.contains(|c: char| c.is_control()), "{part:?}");
        }
    }
}
