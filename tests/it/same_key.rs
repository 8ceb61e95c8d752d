//! Chunks whose key is in flight: they cost no work, and are answered with the outcome of the first.

use crate::streams::zstd;
use crate::support::gated_encoder::GatedEncoder;
use crate::support::test_service::{Poison, TestService, numbered, overrides, stream_as, stream_to, tally};
use crate::support::wait::until;
use lnsp_ingest::app::Overrides;
use lnsp_ingest::chunk::{Chunk, Draft, Placement};
use lnsp_ingest::error_code::ErrorCode;
use lnsp_ingest::flow::{Capacity, receipt_channel};
use lnsp_ingest::outcome::Outcome;
use lnsp_ingest::pipeline::Arrival;
use lnsp_ingest::simulated_llm::{Fault, Options, SimulatedLlm};
use lnsp_ingest::stages::Stage;
use serde_json::{Value, json};
use std::sync::Arc;

fn line(text: &str) -> String {
    json!({ "id": "k", "text": text }).to_string() + "\n"
}

async fn behind(gate: &GatedEncoder, flags: &[&str]) -> TestService {
    TestService::build(Overrides { encoder: Some(gate.factory()), ..overrides() }, flags).await
}

fn upload(service: &TestService, body: String) -> actix_web::rt::task::JoinHandle<Vec<Value>> {
    actix_web::rt::spawn(stream_to(service.url.clone(), body))
}

/// Codes of the errors, in the order of the lines.
fn codes(answer: &[Value]) -> Vec<&str> {
    let mut errors: Vec<&Value> = answer.iter().filter(|line| line["status"] == "error").collect();
    errors.sort_by_key(|line| line["line"].as_u64());
    errors.into_iter().map(|line| line["error"]["code"].as_str().unwrap()).collect()
}

/// No chunk is held, and no key is left in flight.
fn assert_empty(service: &TestService) {
    let entrance = service.state.pipeline.entrance();
    assert_eq!((entrance.keys(), entrance.following(), entrance.waiting()), (0, 0, 0));
}

#[actix_web::test]
async fn a_thousand_copies_at_once_cost_one_call_and_one_text() {
    let llm = SimulatedLlm::start(Options { latency: "3ms".parse().unwrap(), ..Options::default() }).unwrap();
    let gate = GatedEncoder::shut();
    let service = behind(&gate, &["--tmd-backend", "llm", "--llm-endpoint", llm.url()]).await;
    let streams: Vec<_> = (0..3).map(|_| upload(&service, line("One fact.").repeat(300))).collect();
    let chunks = vec![json!({ "id": "k", "text": "One fact." }); 100];
    let request = service.post("/ingest", json!({ "chunks": chunks }).to_string());
    let entrance = service.state.pipeline.entrance();
    let opened = async {
        // Its text is embedded while the language model is asked, or after it.
        let one = || matches!(entrance.inside(), Some([1, 0, 0, 0] | [0, 0, 1, 0]));
        let held = || entrance.following() == 999 && gate.passes().len() == 1 && one();
        until("all others follow", held).await;
        assert_eq!((entrance.keys(), entrance.waiting()), (1, 0));
        gate.open();
    };
    let ((status, answer), ()) = futures_util::future::join(request, opened).await;
    let results = answer["results"].as_array().unwrap();
    let mut seen = (
        results.iter().filter(|result| result["status"] == "stored").count(),
        results.iter().filter(|result| result["status"] == "duplicate").count(),
    );
    for stream in streams {
        let (stored, duplicate, failed) = tally(&stream.await.unwrap());
        seen = (seen.0 + stored, seen.1 + duplicate);
        assert_eq!(failed, 0);
    }
    assert_eq!((status, seen), (200, (1, 999)));
    assert_eq!((gate.texts(), llm.counts().generate), (1, 2), "and one call in the handshake");
    assert_eq!(service.stored().await, 1);
    assert_empty(&service);
    service.stop().await;
}

#[actix_web::test]
async fn copies_of_poison_are_rejected_with_it_and_kill_no_stage_again() {
    let gate = GatedEncoder::shut();
    let fault_hook = Arc::new(Poison { stage: Stage::Write, text: "It kills." });
    let encoder = Some(gate.factory());
    let service = TestService::build(Overrides { fault_hook, encoder, ..overrides() }, &[]).await;
    let streams =
        [upload(&service, line("It kills.").repeat(100)), upload(&service, line("It kills.").repeat(50))];
    let entrance = service.state.pipeline.entrance();
    until("all others follow", || entrance.following() == 149).await;
    gate.open();
    for (stream, copies) in streams.into_iter().zip([100, 50]) {
        assert_eq!(codes(&stream.await.unwrap()), vec!["poison"; copies]);
    }
    assert_eq!(gate.texts(), 3, "once for each of the three deaths");
    service.state.pipeline.wait_for(|health| health.generation == 4 && health.open).await;
    let letters = "SELECT concat_ws(' ', stage, cause, attempts, times) FROM dead_letters";
    assert_eq!(service.database.texts(letters).await, ["write poison 3 1"]);
    assert_empty(&service);
    service.stop().await;
}

#[actix_web::test]
async fn other_content_is_a_conflict_when_the_first_is_stored() {
    let gate = GatedEncoder::shut();
    let service = behind(&gate, &[]).await;
    let entrance = service.state.pipeline.entrance();
    let first = upload(&service, line("One fact."));
    until("the first is in the embedder", || entrance.inside() == Some([0, 0, 1, 0])).await;
    let others =
        upload(&service, line("Another.") + &line("One fact.") + &line("A third.") + &line("One fact."));
    until("the others follow", || entrance.following() == 4).await;
    gate.open();
    assert_eq!(tally(&first.await.unwrap()), (1, 0, 0));
    let others = others.await.unwrap();
    assert_eq!(tally(&others), (0, 2, 2));
    assert_eq!(codes(&others), ["id_conflict"; 2]);
    assert_eq!((gate.texts(), service.stored().await), (1, 1));
    assert_empty(&service);
    service.stop().await;
}

#[actix_web::test]
async fn other_content_has_a_try_of_its_own_when_the_first_is_rejected() {
    let gate = GatedEncoder::shut();
    gate.break_on(Some("It breaks the model."));
    let service = behind(&gate, &[]).await;
    let entrance = service.state.pipeline.entrance();
    let first = upload(&service, line("It breaks the model."));
    until("the first is in the embedder", || entrance.inside() == Some([0, 0, 1, 0])).await;
    let others = ["It breaks the model.", "Good.", "It breaks the model.", "Another.", "Good."].map(line);
    let others = upload(&service, others.concat());
    until("the others follow", || entrance.following() == 5).await;
    gate.open();
    assert_eq!(codes(&first.await.unwrap()), ["embed_failed"]);
    let others = others.await.unwrap();
    // Line 2 led when the first had failed; lines 4 and 5 followed it.
    assert_eq!(tally(&others), (1, 1, 3));
    assert_eq!(codes(&others), ["embed_failed", "embed_failed", "id_conflict"]);
    assert_eq!((gate.texts(), service.stored().await), (2, 1));
    assert_empty(&service);
    service.stop().await;
}

#[actix_web::test]
async fn after_a_transient_failure_the_next_one_is_tried_and_no_other_key_waits_meanwhile() {
    let llm = SimulatedLlm::start(Options { latency: "3ms".parse().unwrap(), ..Options::default() }).unwrap();
    let gate = GatedEncoder::default();
    let flags = ["--tmd-backend", "llm", "--llm-endpoint", llm.url(), "--tmd-on-failure", "reject"];
    // So long that the last line is done before it is over, also on a busy machine.
    let service = behind(&gate, &[&flags[..], &["--llm-timeout-s", "10"]].concat()).await;
    llm.set_fault(Some((Fault::Hang, 1)));
    let coded = r#"{"id":"c","text":"Codes are given.","domain_code":1,"task_code":1,"modifier_code":1}"#;
    let stream = upload(&service, line("One fact.").repeat(5) + coded);
    let entrance = service.state.pipeline.entrance();
    until("the call has come", || llm.counts().generate == 2 && entrance.following() == 4).await;
    llm.set_fault(None);
    until("the last line is done while the first hangs", || {
        service.state.counts.tally().stored == 1 && entrance.keys() == 1
    })
    .await;
    let answer = stream.await.unwrap();
    assert_eq!((tally(&answer), codes(&answer)), ((2, 3, 1), vec!["llm_failed"]));
    // One call was in the handshake, and one text was embedded beside the call that hung.
    assert_eq!((llm.counts().generate, gate.texts(), service.stored().await), (3, 3, 2));
    assert_eq!(service.database.number("SELECT count(*) FROM dead_letters").await, 0, "it was stored later");
    assert_empty(&service);
    service.stop().await;
}

#[actix_web::test]
async fn without_a_slot_for_followers_only_that_upload_waits() {
    let gate = GatedEncoder::shut();
    let mut overrides = Overrides { encoder: Some(gate.factory()), ..overrides() };
    overrides.pipeline.followers = Capacity { items: 2, bytes: 1 << 20 };
    let service = TestService::build(overrides, &[]).await;
    let entrance = service.state.pipeline.entrance();
    // One block of zstd is inflated as a whole, so the first group is full however the socket delivers.
    let (url, body) = (service.url.clone(), zstd(line("One fact.").repeat(600)));
    let copies = actix_web::rt::spawn(async move { stream_as(&url, "zstd", body).await });
    // The first group: one leader, two followers, and the entrance holds the others.
    until("the slots for followers are in use", || entrance.following() == 2 && entrance.waiting() == 253)
        .await;
    let others = upload(&service, numbered(0..100));
    until("the others are in the embedder", || entrance.inside() == Some([0, 0, 101, 0])).await;
    assert_eq!((entrance.following(), entrance.waiting(), entrance.keys()), (2, 253, 101));
    gate.open();
    assert_eq!(tally(&others.await.unwrap()), (100, 0, 0));
    assert_eq!(tally(&copies.await.unwrap()), (1, 599, 0));
    assert_eq!((gate.texts(), service.stored().await), (101, 101));
    assert_empty(&service);
    service.stop().await;
}

#[actix_web::test]
async fn one_at_a_time_too_every_key_is_tried_once() {
    let gate = GatedEncoder::default();
    let service = behind(&gate, &["--enable-parallel", "false"]).await;
    let body = numbered(0..20) + &numbered(0..20);
    let streams = [(); 3].map(|()| upload(&service, body.clone()));
    let (mut stored, mut duplicate) = (0, 0);
    for stream in streams {
        let seen = tally(&stream.await.unwrap());
        (stored, duplicate) = (stored + seen.0, duplicate + seen.1);
    }
    assert_eq!((stored, duplicate, gate.texts()), (20, 100, 20));
    assert_eq!(service.stored().await, 20);
    assert_empty(&service);
    service.stop().await;
}

#[actix_web::test]
async fn a_client_that_leaves_before_its_chunk_is_admitted_makes_the_next_one_the_leader() {
    let gate = GatedEncoder::shut();
    let mut overrides = Overrides { encoder: Some(gate.factory()), ..overrides() };
    let one = Capacity { items: 1, bytes: 1 << 20 };
    (overrides.pipeline.tmd, overrides.pipeline.embed, overrides.pipeline.write) = (one, one, one);
    let service = TestService::build(overrides, &[]).await;
    let entrance = service.state.pipeline.entrance();
    let full = upload(&service, numbered(0..2));
    until("the service is full", || entrance.inside() == Some([0, 1, 1, 0]) && entrance.waiting() == 0).await;

    // A handler that is dropped drops what it brings.
    let (issuer, mut results) = receipt_channel(1);
    let receipt = issuer.issue(1).await.unwrap();
    let text = "One fact.".to_owned();
    let placement = Placement { source_document: Some("web_input".into()), ..Placement::default() };
    let draft =
        Draft { id: Some("k".into()), dataset: "user_input".into(), text, placement, ..Draft::default() };
    let chunk = Chunk::new(draft).unwrap().into();
    let mut handler = Box::pin(entrance.admit(vec![Arrival { chunk, receipt }]));
    tokio::select! {
        () = &mut handler => panic!("there is no room"),
        () = until("it waits for room", || entrance.waiting() == 1 && entrance.keys() == 3) => {}
    }
    let next = upload(&service, line("One fact.").repeat(2));
    until("the others follow", || entrance.following() == 2).await;
    drop(handler);
    let (_, outcome) = results.next().await.unwrap();
    assert!(matches!(&outcome, Outcome::Rejected(lost) if lost.code == ErrorCode::Lost), "{outcome:?}");
    until("the next waits for room", || entrance.waiting() == 1 && entrance.keys() == 3).await;
    gate.open();
    assert_eq!(tally(&next.await.unwrap()), (1, 1, 0));
    assert_eq!(tally(&full.await.unwrap()), (2, 0, 0));
    assert_eq!((gate.texts(), service.stored().await), (3, 3));
    assert_empty(&service);
    service.stop().await;
}

#[actix_web::test]
async fn drain_waits_for_followers() {
    let gate = GatedEncoder::shut();
    let service = behind(&gate, &[]).await;
    let entrance = service.state.pipeline.entrance();
    let stream = upload(&service, line("One fact.").repeat(9));
    let held = || entrance.following() == 8 && entrance.inside() == Some([0, 0, 1, 0]);
    until("one is in the embedder, and eight follow", held).await;
    let pipeline = service.state.pipeline.clone();
    let mut stop = std::pin::pin!(pipeline.stop());
    assert!(futures_util::poll!(&mut stop).is_pending(), "a chunk is in the embedder");
    gate.open();
    stop.await;
    assert_eq!(tally(&stream.await.unwrap()), (1, 8, 0));
    assert_eq!(service.stored().await, 1);
    assert_empty(&service);
    service.stop().await;
}
