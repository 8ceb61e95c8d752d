//! Chunks that were classified while the language model was away get its codes later: by themselves, by request, and by
//! command. Their vectors stay, searches follow, and nothing is asked twice.

use crate::support::process::{lnsp, run_beside};
use crate::support::test_service::{Scripted, TestService, client, numbered, overrides, tally};
use crate::support::wait::{until, until_answered};
use lnsp_ingest::app::Overrides;
use lnsp_ingest::llm::Llm;
use lnsp_ingest::simulated_llm::{Fault, Options, SimulatedLlm};
use serde_json::{Value, json};

/// A model that answers at once.
fn quick() -> SimulatedLlm {
    SimulatedLlm::start(Options { slots: 64, latency: "0ms".parse().unwrap(), ..Options::default() }).unwrap()
}

async fn service(llm: &str, flags: &[&str]) -> TestService {
    let base = ["--tmd-backend", "llm", "--llm-endpoint", llm];
    let overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    TestService::build(overrides, &[&base[..], flags].concat()).await
}

async fn retag(service: &TestService, body: Value) -> (u16, Value) {
    let request = client().post(format!("{}/retag", service.url));
    let request = request.header("Content-Type", "application/json").body(body.to_string());
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

/// The calls about texts: a handshake loads the model and asks one question of its own.
fn questions(llm: &SimulatedLlm) -> u64 {
    llm.counts().generate - llm.counts().loads
}

async fn count(service: &TestService, condition: &str) -> i64 {
    service.database.number(&format!("SELECT count(*) FROM chunks WHERE {condition}")).await
}

const WHOLE: &str =
    "tmd_source = 'llm' AND tmd_model = 'llama3.1:8b' AND tmd_failure IS NULL AND tmd_took_us > 0";
const VECTORS: &str = "SELECT item || ' ' || md5(vector) FROM chunk_vectors ORDER BY item";

#[actix_web::test]
async fn after_an_outage_all_chunks_are_repaired_and_a_second_time_costs_no_call() {
    let llm = quick();
    llm.set_fault(Some((Fault::Error500, 1)));
    let service = service(llm.url(), &[]).await;
    assert_eq!(tally(&service.stream(numbered(0..1000)).await), (1000, 0, 0));
    assert_eq!(count(&service, "tmd_source = 'fallback'").await, 1000);
    let vectors = service.database.texts(VECTORS).await;
    let clock = service.state.store.clock().await.unwrap();

    // While it is away, nothing changes, and the answer says why.
    let said = loop {
        let (status, answer) = retag(&service, json!({})).await;
        assert_eq!((status, &answer["retagged"]), (200, &json!(0)), "{answer}");
        if let Some(said) = answer["stopped"].as_str() {
            break said.to_owned();
        }
    };
    assert!(said.contains(llm.url()), "{said}");

    llm.set_fault(None);
    let resting = || service.state.llm.as_ref().is_none_or(Llm::is_resting);
    until("a probe finds that it answers again", || !resting()).await;
    let before = questions(&llm);
    let (mut after, mut retagged) = (0, 0);
    loop {
        let (status, answer) = retag(&service, json!({"after": after, "upto": clock})).await;
        assert_eq!((status, &answer["failed"]), (200, &json!({})), "{answer}");
        (after, retagged) =
            (answer["after"].as_i64().unwrap(), retagged + answer["retagged"].as_i64().unwrap());
        if answer["remaining"] == 0 {
            break;
        }
    }
    assert_eq!((retagged, questions(&llm) - before), (1000, 1000));
    assert_eq!(count(&service, WHOLE).await, 1000);
    assert_eq!(service.state.store.clock().await.unwrap(), clock + 1000, "each change has a number");
    assert_eq!(
        service.database.number("SELECT count(DISTINCT seq) FROM chunks WHERE seq > 1000").await,
        1000
    );
    assert_eq!(service.database.texts(VECTORS).await, vectors, "nothing was embedded");
    assert_eq!(service.state.index.status().applied_seq, clock + 1000);

    // Searches by domain follow.
    let domains = "SELECT domain_code::text FROM chunks GROUP BY 1 ORDER BY 1";
    for domain in service.database.texts(domains).await {
        let stored = count(&service, &format!("domain_code = {domain}")).await;
        let filter = json!({"domain": domain.parse::<u8>().unwrap()});
        let query = json!({"query": "fact", "top_k": 1000, "filter": filter}).to_string();
        let (_, found) = service.post("/search", query).await;
        assert_eq!(found["results"].as_array().unwrap().len() as i64, stored, "domain {domain}");
        assert_eq!(found["results"][0]["tmd"]["source"], "llm");
    }

    let calls = llm.counts().generate;
    let (_, answer) = retag(&service, json!({})).await;
    assert_eq!((&answer["retagged"], &answer["remaining"]), (&json!(0), &json!(0)));
    assert_eq!(llm.counts().generate, calls);

    // What was answered is known; only `fresh` asks again.
    for (fresh, asked) in [(false, 0), (true, 1000)] {
        let (mut after, mut retagged) = (0, 0);
        let upto = service.state.store.clock().await.unwrap();
        loop {
            let body = json!({"sources": ["llm"], "after": after, "upto": upto, "fresh": fresh});
            let (_, answer) = retag(&service, body).await;
            (after, retagged) =
                (answer["after"].as_i64().unwrap(), retagged + answer["retagged"].as_i64().unwrap());
            if answer["remaining"] == 0 {
                break;
            }
        }
        assert_eq!((retagged, llm.counts().generate - calls), (1000, asked));
    }
    service.stop().await;
}

#[actix_web::test]
async fn the_service_repairs_by_itself_and_ingest_goes_on() {
    let llm = quick();
    llm.set_fault(Some((Fault::Busy503, 1)));
    let service = service(llm.url(), &["--tmd-repair", "true"]).await;
    assert_eq!(tally(&service.stream(numbered(0..200)).await), (200, 0, 0));
    assert_eq!(count(&service, "tmd_source = 'fallback'").await, 200);
    llm.set_fault(None);
    assert_eq!(tally(&service.stream(numbered(200..220)).await), (20, 0, 0));
    let database = &service.database;
    let left = "SELECT count(*) FROM chunks WHERE tmd_source <> 'llm'";
    until_answered("all have codes of the model", async || database.number(left).await == 0).await;
    assert_eq!(count(&service, WHOLE).await, 220);
    service.stop().await;
}

#[actix_web::test]
async fn while_the_model_fails_one_chunk_shows_it_and_the_others_are_not_asked_about() {
    let llm = quick();
    let service = service(llm.url(), &[]).await;
    llm.set_fault(Some((Fault::ModelGone, 1)));
    // Few, so that the breaker stays closed.
    assert_eq!(tally(&service.stream(numbered(0..3)).await), (3, 0, 0));
    let failures = async || service.get("/health").await.1["llm"]["failures_in_a_row"].as_u64().unwrap();
    assert_eq!(failures().await, 3);
    let (_, answer) = retag(&service, json!({})).await;
    assert_eq!(failures().await, 4, "all three could be asked about at once: {answer}");
    assert_eq!((&answer["retagged"], &answer["remaining"]), (&json!(0), &json!(3)), "{answer}");
    assert!(answer["stopped"].as_str().unwrap().contains("ollama pull llama3.1:8b"), "{answer}");
    llm.set_fault(None);
    let (_, answer) = retag(&service, json!({})).await;
    assert_eq!((&answer["retagged"], &answer["remaining"]), (&json!(3), &json!(0)), "{answer}");
    service.stop().await;
}

#[actix_web::test]
async fn what_the_model_cannot_answer_keeps_its_codes_and_is_counted() {
    let llm = quick();
    let service = service(llm.url(), &[]).await;
    // Few, and with an answer between, so that the breaker stays closed.
    llm.set_fault(Some((Fault::WrongName, 1)));
    assert_eq!(tally(&service.stream(numbered(0..4)).await), (4, 0, 0));
    llm.set_fault(None);
    assert_eq!(tally(&service.stream(numbered(8..9)).await), (1, 0, 0));
    llm.set_fault(Some((Fault::WrongName, 1)));
    let codes = "SELECT id || domain_code || task_code || seq FROM chunks ORDER BY id";
    let before = service.database.texts(codes).await;
    let (_, answer) = retag(&service, json!({"sources": ["fallback"]})).await;
    assert_eq!((&answer["failed"], &answer["remaining"]), (&json!({"invalid": 4}), &json!(0)), "{answer}");
    assert_eq!(service.database.texts(codes).await, before);
    service.stop().await;
}

#[actix_web::test]
async fn the_command_retags_a_dataset_and_leaves_codes_of_clients_alone() {
    let llm = quick();
    let service = service(llm.url(), &[]).await;
    // Few, so that the breaker stays closed.
    llm.set_fault(Some((Fault::Error500, 1)));
    for dataset in ["a", "b"] {
        let mut chunks: Vec<Value> =
            (0..2).map(|n| json!({"id": format!("{n}"), "text": format!("Fact {n}.")})).collect();
        chunks.push(json!({"text": "Given.", "domain_code": 1, "task_code": 2, "modifier_code": 3}));
        let body = json!({"chunks": chunks, "dataset_source": dataset});
        assert_eq!(service.post("/ingest", body.to_string()).await.0, 200);
    }
    llm.set_fault(None);
    let command = |flags: &[&str]| run_beside(lnsp(&[&["retag", "--url", &service.url], flags].concat()));
    let (code, said, complaint) = command(&["--dataset", "a"]).await;
    assert_eq!(
        (code, said.as_str(), complaint.as_str()),
        (Some(0), "2 chunks now have codes from llama3.1:8b\n", "")
    );
    assert_eq!(count(&service, "tmd_source = 'llm' AND dataset_source = 'a'").await, 2);
    assert_eq!(count(&service, "tmd_source = 'fallback' AND dataset_source = 'b'").await, 2);
    assert_eq!(count(&service, "tmd_source = 'client' AND domain_code = 1").await, 2);

    let (code, said, _) = command(&["--dataset", "none"]).await;
    assert_eq!((code, said.as_str()), (Some(0), "0 chunks now have codes from llama3.1:8b\n"));
    let (code, _, complaint) = command(&["--source", "client"]).await;
    assert!(code == Some(2) && complaint.contains("fallback, local, llm"), "{complaint}");
    llm.set_fault(Some((Fault::WrongName, 1)));
    let (code, said, _) = command(&["--source", "fallback", "--source", "local", "--fresh"]).await;
    assert_eq!(code, Some(1));
    assert!(said.contains("2 chunks keep their codes, because there was no answer: invalid 2"), "{said}");
    service.stop().await;
}

#[actix_web::test]
async fn a_service_without_a_language_model_says_so() {
    let service = TestService::scripted().await;
    let (status, answer) = retag(&service, json!({})).await;
    assert_eq!((status, &answer["error"]["code"]), (409, &json!("no_language_model")), "{answer}");
    let (status, answer) = retag(&service, json!({"sources": ["client"]})).await;
    assert_eq!((status, &answer["error"]["param"]), (422, &json!("sources")), "{answer}");
    let (status, _) = retag(&service, json!({"source": ["local"]})).await;
    assert_eq!(status, 422);
    service.stop().await;
}
