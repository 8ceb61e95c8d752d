//! What `lnsp doctor` says about language model servers: each one of the list, whether it answers in the lists, and on
//! how many calls at once it works.

use crate::doctor::report;
use lnsp_ingest::simulated_llm::{Fault, Latency, Options, SimulatedLlm};
use serde_json::Value;
use std::time::Duration;

fn server(slots: usize) -> SimulatedLlm {
    // Long against what a busy machine adds to each call.
    let latency = Latency::Constant(Duration::from_millis(250));
    SimulatedLlm::start(Options { slots, latency, ..Options::default() }).unwrap()
}

/// The report on these servers. Nothing answers for the embedding model, so no device is measured.
fn examined(servers: &str, flags: &[&str]) -> Value {
    let data = tempfile::tempdir().unwrap();
    let base = ["--port", "0", "--tmd-backend", "llm", "--embedding-endpoint", "http://127.0.0.1:9"];
    let llm = ["--llm-endpoint", servers, "--max-parallel-workers", "4"];
    report(data.path(), &[&base[..], &llm, flags].concat()).1
}

/// Grade and finding of each line about a language model.
fn lines(report: &Value) -> Vec<(&str, &str)> {
    let checks = report["checks"].as_array().unwrap().iter().filter(|check| check["name"] == "LLM");
    checks.map(|check| (check["grade"].as_str().unwrap(), check["finding"].as_str().unwrap())).collect()
}

fn suggested(report: &Value) -> Vec<&str> {
    let each = report["suggestions"].as_array().unwrap().iter();
    each.filter(|suggestion| suggestion["setting"] == "OLLAMA_NUM_PARALLEL")
        .map(|suggestion| suggestion["value"].as_str().unwrap())
        .collect()
}

#[test]
fn a_server_that_answers_one_at_a_time_is_named_with_its_remedy() {
    let llm = server(1);
    let report = examined(llm.url(), &[]);
    let found = lines(&report);
    assert_eq!(found.len(), 3, "{report:#}");
    assert!(found[0].1.contains("has llama3.1:8b") && found[1].1.contains("answers in the lists"));
    let (grade, finding) = found[2];
    assert!(
        grade == "warning" && finding.contains("answers one at a time: 4 calls at once took"),
        "{finding}"
    );
    let advice = report["checks"].as_array().unwrap().iter().find(|check| check["finding"] == finding);
    assert!(advice.unwrap()["advice"].as_str().unwrap().contains("OLLAMA_NUM_PARALLEL=4"), "{report:#}");
    assert_eq!(suggested(&report), ["4"]);
}

#[test]
fn each_server_of_a_list_is_measured_by_its_own_slots() {
    let (four, two) = (server(4), server(2));
    let report = examined(&format!("{}*4,{}*4", four.url(), two.url()), &[]);
    let found = lines(&report);
    assert_eq!(found.len(), 6, "{report:#}");
    let about = |llm: &SimulatedLlm| {
        let mut of_it = found.iter().filter(|(_, finding)| finding.contains(llm.url()));
        *of_it.next_back().unwrap()
    };
    let (grade, finding) = about(&four);
    assert!(grade == "ok" && finding.contains("works on 4 calls at once"), "{finding}");
    let (grade, finding) = about(&two);
    assert!(grade == "warning" && finding.contains("works on about 2 calls at once"), "{finding}");
    assert_eq!(suggested(&report), ["4"]);
}

#[test]
fn a_server_that_is_there_and_answers_nonsense_is_found_out() {
    let llm = server(4);
    llm.set_fault(Some((Fault::Echo, 1)));
    let report = examined(llm.url(), &[]);
    let found = lines(&report);
    assert!(found.len() == 2 && found[0].0 == "ok", "{report:#}");
    assert!(found[1].0 == "warning" && found[1].1.contains("no usable answer"), "{report:#}");
    assert!(llm.counts().answered == 0);
}

#[test]
fn without_measuring_no_question_is_asked() {
    let llm = server(4);
    let report = examined(llm.url(), &["--no-measure"]);
    assert_eq!(lines(&report).len(), 1, "{report:#}");
    assert_eq!((llm.counts().generate, llm.counts().loads), (0, 0));
}

#[test]
fn the_controls_of_the_benchmark_are_pointed_out() {
    let llm = server(4);
    let flags = ["--no-measure", "--enable-parallel", "false", "--enable-batch-embeddings", "false"];
    let report = examined(llm.url(), &flags);
    let checks = report["checks"].as_array().unwrap();
    let advice: Vec<&str> = checks
        .iter()
        .filter(|check| check["name"] == "parallel")
        .map(|check| check["advice"].as_str().unwrap())
        .collect();
    assert!(advice.len() == 2 && advice[0].contains("LNSP_ENABLE_PARALLEL"), "{report:#}");
    assert!(advice[1].contains("LNSP_ENABLE_BATCH_EMBEDDINGS"), "{report:#}");
}
