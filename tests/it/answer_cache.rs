//! No text is asked about twice: equal texts in flight share a call, and answers outlive the process. What the answer
//! depends on is part of its key.

use crate::support::test_service::{Scripted, TestService, overrides, tally};
use futures_util::future::join_all;
use lnsp_ingest::answer_cache::AnswerCache;
use lnsp_ingest::app::Overrides;
use lnsp_ingest::llm::{AnswerForm, CacheUse, CallPriority, Llm, LlmError, LlmSettings, Wanted};
use lnsp_ingest::simulated_llm::{Fault, Options, SimulatedLlm};
use std::path::Path;
use std::time::Duration;

fn simulated(latency: &str) -> SimulatedLlm {
    SimulatedLlm::start(Options { slots: 64, latency: latency.parse().unwrap(), ..Options::default() })
        .unwrap()
}

fn settings(llm: &SimulatedLlm) -> LlmSettings {
    LlmSettings {
        endpoint: llm.url().parse().unwrap(),
        model: "llama3.1:8b".to_owned(),
        calls: 8,
        timeout: Duration::from_secs(20),
        cpesh_timeout: Duration::from_secs(20),
        dialect: None,
        answer: AnswerForm::Names,
        api_key: None,
    }
}

/// A handle with the answers in this folder. The handshake is made, and is not counted.
async fn handle(settings: &LlmSettings, folder: &Path) -> Llm {
    let known = AnswerCache::open(folder, 1 << 20).unwrap();
    let llm = Llm::with_cache(std::slice::from_ref(settings), Some(known)).unwrap();
    assert!(llm.probe().await[0].1.is_ok());
    llm
}

#[actix_web::test]
async fn equal_texts_in_flight_share_a_call() {
    let llm = simulated("30ms");
    let overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    let service = TestService::build(overrides, &["--tmd-backend", "llm", "--llm-endpoint", llm.url()]).await;
    let before = llm.counts().generate;
    let lines: String =
        (0..40).map(|n| format!("{{\"id\":\"{n}\",\"text\":\"Fact {}.\"}}\n", n % 2)).collect();
    assert_eq!(tally(&service.stream(lines).await), (40, 0, 0));
    assert_eq!(llm.counts().generate - before, 2);
    let labels = "SELECT count(DISTINCT (text, domain_code, task_code, modifier_code)) FROM chunks WHERE tmd_source = 'llm'";
    assert_eq!(service.database.number(labels).await, 2);
    service.stop().await;
}

#[actix_web::test]
async fn an_answer_outlives_the_process_and_belongs_to_its_question() {
    let home = tempfile::tempdir().unwrap();
    let server = simulated("0ms");
    let settings = settings(&server);
    let text = "Rivers carry sediment.";
    let first = {
        let llm = handle(&settings, home.path()).await;
        let before = server.counts().generate;
        let answer = llm.classify(text, Wanted::Codes).await.unwrap();
        let again = llm.classify(text, Wanted::Codes).await.unwrap();
        assert_eq!((again.tmd, again.confidence), (answer.tmd, answer.confidence));
        assert_eq!(server.counts().generate - before, 1);
        answer
    };
    let llm = handle(&settings, home.path()).await;
    let before = server.counts().generate;
    let calls = || server.counts().generate - before;
    let known = llm.classify(text, Wanted::Codes).await.unwrap();
    assert_eq!((known.tmd, known.confidence, calls()), (first.tmd, first.confidence, 0));
    // Another question about the same text.
    llm.classify(text, Wanted::CodesAndCpesh).await.unwrap();
    assert_eq!(calls(), 1);
    llm.classify("Rivers carry sediment", Wanted::Codes).await.unwrap();
    assert_eq!(calls(), 2);
    // Known, and asked about all the same.
    llm.classify_as(CallPriority::Background, CacheUse::Refresh, text, Wanted::Codes).await.unwrap();
    assert_eq!(calls(), 3);
    drop(llm);
    let short = handle(&LlmSettings { answer: AnswerForm::Short, ..settings.clone() }, home.path()).await;
    let before = server.counts().generate;
    short.classify(text, Wanted::Codes).await.unwrap();
    assert_eq!(server.counts().generate - before, 1, "the form of the answer is a part of the question");
}

#[actix_web::test]
async fn a_failure_is_shared_and_not_kept() {
    let home = tempfile::tempdir().unwrap();
    let server = simulated("20ms");
    let llm = handle(&settings(&server), home.path()).await;
    server.set_fault(Some((Fault::WrongName, 1)));
    let before = server.counts().generate;
    let asked = join_all((0..5).map(|_| llm.classify("Rivers.", Wanted::Codes))).await;
    assert!(asked.iter().all(|answer| matches!(answer, Err(LlmError::Answer(_)))), "{asked:?}");
    assert_eq!(server.counts().generate - before, 2, "one call and its repetition");
    server.set_fault(None);
    assert!(llm.classify("Rivers.", Wanted::Codes).await.is_ok());
}

#[test]
fn two_processes_do_not_share_a_folder() {
    let home = tempfile::tempdir().unwrap();
    let known = AnswerCache::open(home.path(), 1 << 20).unwrap();
    let error = AnswerCache::open(home.path(), 1 << 20).err().unwrap().to_string();
    assert!(error.contains("used by another process"), "{error}");
    drop(known);
    assert!(AnswerCache::open(home.path(), 1 << 20).is_ok());
}
