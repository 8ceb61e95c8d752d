//! A language model server that does all that such servers do: two of a hundred calls have each fault. Every chunk is
//! stored, with codes that the model has really said, or marked as labelled locally.

use crate::support::test_service::{Scripted, TestService, numbered, overrides, tally};
use lnsp_ingest::app::Overrides;
use lnsp_ingest::simulated_llm::{Fault, FaultShare, Options, ServerApi, SimulatedLlm};
use std::collections::BTreeMap;

const CHUNKS: usize = 600;

fn simulated(api: ServerApi, seed: u64) -> SimulatedLlm {
    let latency = "5ms".parse().unwrap();
    SimulatedLlm::start(Options { slots: 16, latency, api, seed, ..Options::default() }).unwrap()
}

async fn service(llm: &SimulatedLlm) -> TestService {
    let flags = ["--tmd-backend", "llm", "--llm-endpoint", llm.url(), "--llm-timeout-s", "1"];
    let overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    TestService::build(overrides, &flags).await
}

/// The source and the codes of each chunk by its id.
async fn labels(service: &TestService) -> BTreeMap<String, (String, String)> {
    let rows = "SELECT id || ' ' || tmd_source || ' ' || domain_code || '.' || task_code || '.' || modifier_code \
                FROM chunks";
    let rows = service.database.texts(rows).await;
    let parts = rows.iter().map(|row| {
        let mut parts = row.split(' ').map(str::to_owned);
        (parts.next().unwrap(), (parts.next().unwrap(), parts.next().unwrap()))
    });
    parts.collect()
}

/// What the model says when nothing goes wrong: its answers depend on the texts alone.
async fn said(api: ServerApi) -> BTreeMap<String, (String, String)> {
    let llm = simulated(api, 0);
    let service = service(&llm).await;
    assert_eq!(tally(&service.stream(numbered(0..CHUNKS)).await), (CHUNKS, 0, 0));
    let labels = labels(&service).await;
    assert!(labels.values().all(|(source, _)| source == "llm"));
    service.stop().await;
    labels
}

#[actix_web::test]
async fn with_all_faults_at_once_each_chunk_has_codes_that_were_said_or_says_that_it_fell_back() {
    for api in [ServerApi::Ollama, ServerApi::JsonSchema] {
        let said = said(api).await;
        let llm = simulated(api, 3);
        let service = service(&llm).await;
        // Not among them: a model that is gone. Its server is left out for a minute, as it should be.
        let faults = Fault::ALL.into_iter().filter(|fault| *fault != Fault::ModelGone);
        llm.set_fault_shares(&faults.map(|fault| FaultShare { fault, share: 0.02 }).collect::<Vec<_>>());
        assert_eq!(tally(&service.stream(numbered(0..CHUNKS)).await), (CHUNKS, 0, 0));
        let labels = labels(&service).await;
        let by_llm: Vec<_> = labels.iter().filter(|(_, (source, _))| source == "llm").collect();
        for (id, label) in &by_llm {
            assert_eq!(*label, &said[*id], "{api:?}: the codes of {id}");
        }
        let fallbacks = labels.values().filter(|(source, _)| source == "fallback").count();
        assert_eq!(by_llm.len() + fallbacks, CHUNKS, "{api:?}");
        assert!(by_llm.len() > CHUNKS / 2, "{api:?}: {} by the model", by_llm.len());
        let counts = llm.counts();
        assert!(counts.faulty > CHUNKS as u64 / 4, "{api:?}: {counts:?}");

        // Once nothing goes wrong any more, the model gives all codes again.
        llm.set_fault(None);
        let later = numbered(CHUNKS..CHUNKS + 40);
        assert_eq!(tally(&service.stream(later).await), (40, 0, 0));
        service.stop().await;
    }
}
