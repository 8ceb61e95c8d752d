//! An embedding server instead of a local model: its identity, valid responses, retries and errors, and another lnsp as
//! the server.

use crate::embed_api::embed;
use crate::support::scripted_embedder::{DIMS, ScriptedEmbedder, Step, direction};
use crate::support::test_service::{Scripted, TestService, numbered, overrides, tally};
use crate::support::wait::until;
use lnsp_ingest::app::Overrides;
use lnsp_ingest::encoder::EncodeError;
use lnsp_ingest::encoder::plan::Budget;
use lnsp_ingest::flow::Backoff;
use lnsp_ingest::threads::Lane;
use lnsp_ingest::vectorizer::{Embedded, Remote, RemoteError, RemoteSettings, Text, VectorError, Vectorizer};
use serde_json::{Value, json};
use std::time::Duration;

/// The default settings with short pauses.
fn settings(url: &str) -> RemoteSettings {
    let backoff = Backoff { first: Duration::from_millis(1), ceiling: Duration::from_millis(4) };
    RemoteSettings { backoff, repeats: 2, ..RemoteSettings::at(url.parse().unwrap()) }
}

async fn connect(settings: RemoteSettings) -> Vectorizer {
    Vectorizer::remote(Remote::connect(settings).await.unwrap(), Budget { tokens: 8192, texts: 64 })
}

async fn read(vectorizer: &Vectorizer, count: usize) -> Vec<Text> {
    let mut texts = Vec::new();
    for n in 0..count {
        texts.push(vectorizer.read(Lane::Bulk, format!("This is fact number {n}.")).await.unwrap());
    }
    texts
}

type Answers = Vec<Result<Embedded, VectorError>>;

/// The results of one pass over `count` texts.
async fn pass(vectorizer: &Vectorizer, count: usize) -> Answers {
    vectorizer.embed(Lane::Bulk, &read(vectorizer, count).await).await.vectors
}

fn right(answers: &Answers) -> bool {
    answers.iter().enumerate().all(|(n, answer)| {
        answer.as_ref().is_ok_and(|found| *found.vector == direction(&format!("This is fact number {n}.")))
    })
}

/// The error that all results share.
fn failure(answers: &Answers) -> &VectorError {
    let first = answers[0].as_ref().unwrap_err();
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap_err() == first), "{answers:?}");
    first
}

#[actix_web::test]
async fn transient_errors_are_retried() {
    for status in [429, 500, 502, 503] {
        let server = ScriptedEmbedder::start([Step::Status(status), Step::Status(status)]);
        let vectorizer = connect(settings(&server.url)).await;
        let answers = pass(&vectorizer, 5).await;
        assert!(right(&answers), "{answers:?}");
        assert_eq!(server.requests(), [5, 5, 5]);
        assert_eq!(vectorizer.server().unwrap().problem(), None);
    }
    // Once too often: the chunks can be sent again.
    let server = ScriptedEmbedder::start([503, 503, 503].map(Step::Status));
    let vectorizer = connect(settings(&server.url)).await;
    let answers = pass(&vectorizer, 5).await;
    let error = failure(&answers);
    assert!(error.retryable());
    let sentence = format!("the embedding server at {} answered /embed with 503", server.url);
    assert!(error.to_string().starts_with(&sentence), "{error}");
    assert_eq!(server.requests(), [5, 5, 5]);
    assert_eq!(vectorizer.server().unwrap().problem(), Some(error.to_string()));
    assert!(right(&pass(&vectorizer, 3).await));
    assert_eq!(vectorizer.server().unwrap().problem(), None, "it answers again");
}

#[actix_web::test]
async fn a_server_that_is_silent_or_gone_is_no_fault_of_the_texts() {
    let server = ScriptedEmbedder::start([Step::Silence, Step::Silence]);
    // Long enough for the first question, which is answered, on a busy machine.
    let limit = Duration::from_secs(3);
    let vectorizer = connect(RemoteSettings { timeout: limit, ..settings(&server.url) }).await;
    let answers = pass(&vectorizer, 2).await;
    let error = failure(&answers);
    assert!(matches!(error, VectorError::Server { error: RemoteError::Timeout { .. }, .. }), "{error}");
    assert!(error.retryable());
    assert_eq!(server.requests(), [2, 2], "a slow server is asked once more");
    drop(server);
    let answers = pass(&vectorizer, 2).await;
    let error = failure(&answers);
    assert!(error.retryable() && error.to_string().contains("cannot be reached"), "{error}");
    assert!(error.to_string().contains("LNSP_EMBEDDING_ENDPOINT"), "{error}");
}

#[actix_web::test]
async fn a_response_that_no_text_can_cause_is_not_retried() {
    let cases = [
        (Step::Encoder("other"), "encoder expected scripted, received other"),
        (Step::Status(401), "answered /embed with 401"),
    ];
    for (step, why) in cases {
        let server = ScriptedEmbedder::start([step]);
        let vectorizer = connect(settings(&server.url)).await;
        let answers = pass(&vectorizer, 5).await;
        let error = failure(&answers);
        assert!(error.retryable() && error.to_string().contains(why), "{why}: {error}");
        assert_eq!((server.requests(), server.probes()), (vec![5], 1), "{why}");
        assert_eq!(vectorizer.server().unwrap().problem(), Some(error.to_string()));
        assert!(right(&pass(&vectorizer, 5).await), "{why}: the next one is an answer");
    }
}

#[actix_web::test]
async fn a_response_that_was_wrong_once_is_asked_for_in_halves() {
    for step in [Step::Dimensions(7), Step::OneLess, Step::Rubbish, Step::Status(422)] {
        let server = ScriptedEmbedder::start([step]);
        let vectorizer = connect(settings(&server.url)).await;
        assert!(right(&pass(&vectorizer, 5).await));
        assert_eq!((server.requests(), server.probes()), (vec![5, 2, 3], 2));
        assert_eq!(vectorizer.server().unwrap().problem(), None);
    }
}

/// A probe tells: a text that the server could embed at the start.
#[actix_web::test]
async fn a_server_that_fails_for_every_text_is_not_asked_about_each() {
    let cases = [
        (Step::Dimensions(7), "another model than this service uses: dimensions expected 8, received 7"),
        (Step::OneLess, "expected 5, received 4"),
        (Step::Rubbish, "/embed gave \"<html>hello</html>\""),
        (Step::Status(422), "answered /embed with 422"),
        (Step::Status(404), "answered /embed with 404"),
    ];
    for (step, why) in cases {
        let server = ScriptedEmbedder::start([]);
        let vectorizer = connect(settings(&server.url)).await;
        server.break_after_probes(1, step);
        let answers = pass(&vectorizer, 5).await;
        let error = failure(&answers);
        assert!(error.retryable() && error.to_string().contains(why), "{why}: {error}");
        assert_eq!(server.requests(), [5], "{why}");
        assert_eq!(vectorizer.server().unwrap().problem(), Some(error.to_string()));
    }
    // It breaks while it is asked in halves: the first text that fails alone shows it.
    let server = ScriptedEmbedder::start([]);
    let vectorizer = connect(settings(&server.url)).await;
    server.refuse_text("This is fact number 5.", 422);
    server.break_after_probes(2, Step::Status(422));
    let answers = pass(&vectorizer, 8).await;
    assert!(failure(&answers).retryable());
    assert_eq!((server.requests(), server.probes()), (vec![8, 4, 2, 1], 3));
}

#[actix_web::test]
async fn a_vector_that_is_not_finite_fails_its_text_alone_and_one_of_another_length_is_mended() {
    let server = ScriptedEmbedder::start([Step::Null(2), Step::Long]);
    let vectorizer = connect(settings(&server.url)).await;
    let mut answers = pass(&vectorizer, 5).await;
    let bad = answers.remove(2).unwrap_err();
    assert!(matches!(&bad, VectorError::Encode(EncodeError::UnusableVector { .. })), "{bad}");
    assert!(!bad.retryable() && answers.iter().all(Result::is_ok));
    for (n, answer) in pass(&vectorizer, 5).await.iter().enumerate() {
        let wanted = direction(&format!("This is fact number {n}."));
        let found = &answer.as_ref().unwrap().vector;
        assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-6));
    }
    assert_eq!(server.requests(), [5, 5]);
}

#[actix_web::test]
async fn a_rejected_text_is_isolated_by_bisection() {
    let halves = [64, 32, 32, 16, 16, 8, 8, 4, 4, 2, 2, 1, 1];
    let retried = [&[64, 64], &halves[..]].concat();
    for (step, asked, why) in [
        (Step::Status(422), &halves[..], "as the script says (422)"),
        (Step::Status(413), &halves, "as the script says (413)"),
        (Step::Status(418), &halves, "as the script says (418)"),
        (Step::Status(500), &retried, "as the script says (500)"),
        (Step::Status(502), &retried, "as the script says (502)"),
        (Step::OneLess, &halves, "expected 1, received 0"),
        (Step::Rubbish, &halves, "<html>hello</html>"),
        (Step::Dimensions(7), &halves, "expected 8 numbers, received 7"),
    ] {
        let server = ScriptedEmbedder::start([]);
        server.spoil_text("This is fact number 31.", step);
        let vectorizer = connect(settings(&server.url)).await;
        let mut answers = pass(&vectorizer, 64).await;
        let bad = answers.remove(31).unwrap_err();
        let sentence = bad.to_string();
        assert!(!bad.retryable() && sentence.contains("cannot embed this text, but others"), "{sentence}");
        assert!(sentence.contains(why), "{why}: {sentence}");
        assert!(answers.iter().all(Result::is_ok), "{why}");
        let mut requests = server.requests();
        requests.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(requests, asked, "{why}");
        assert_eq!(server.probes(), 3, "at the start, before halving, before the text is rejected");
    }
}

/// Python writes numbers that JSON does not have; other servers write null, or nothing.
#[actix_web::test]
async fn a_text_without_a_usable_vector_fails_alone_and_nothing_is_asked_twice() {
    for (instead, received) in [
        ("[NaN, 0, 0, 0, 0, 0, 0, 0]", "received values that are not finite"),
        ("[0, 0, 0, 0, 0, 0, 0, -Infinity]", "received values that are not finite"),
        ("[1e300, 0, 0, 0, 0, 0, 0, 0]", "received values that are not finite"),
        ("[1e999, 0, 0, 0, 0, 0, 0, 0]", "received values that are not finite"),
        ("[0.5, 0.5]", "received one of another length"),
        ("[]", "received one of another length"),
        ("null", "received none"),
    ] {
        let server = ScriptedEmbedder::start([]);
        server.spoil_text("This is fact number 3.", Step::Instead(instead));
        let vectorizer = connect(settings(&server.url)).await;
        let mut answers = pass(&vectorizer, 8).await;
        let bad = answers.remove(3).unwrap_err();
        assert!(!bad.retryable() && bad.to_string().contains(received), "{instead}: {bad}");
        assert!(right(&answers[..3].to_vec()) && answers[3..].iter().all(Result::is_ok), "{instead}");
        assert_eq!((server.requests(), server.probes()), (vec![8], 1), "{instead}");
    }
}

#[actix_web::test]
async fn concurrent_requests_are_limited_and_a_search_does_not_wait_for_them() {
    let server = ScriptedEmbedder::start([]);
    let vectorizer = connect(RemoteSettings { calls: 3, ..settings(&server.url) }).await;
    assert_eq!(vectorizer.concurrency(), 3);
    server.shut();
    let passes: Vec<_> = (0..10)
        .map(|_| {
            let vectorizer = vectorizer.clone();
            actix_web::rt::spawn(async move { right(&pass(&vectorizer, 4).await) })
        })
        .collect();
    until("as many as may be are under way", || server.inside().0 == 3).await;
    let asking = vectorizer.clone();
    let search = actix_web::rt::spawn(async move { asking.vector("Who goes first?".to_owned()).await });
    until("the search is asked beside them", || server.inside().0 == 4).await;
    server.open();
    assert_eq!(*search.await.unwrap().unwrap(), direction("Who goes first?"));
    for pass in passes {
        assert!(pass.await.unwrap());
    }
    assert_eq!(server.inside(), (0, 4));
}

#[actix_web::test]
async fn the_identity_of_a_server_is_requested_at_startup() {
    let server = ScriptedEmbedder::start([]);
    let remote = Remote::connect(settings(&server.url)).await.unwrap();
    let identity = remote.identity();
    assert_eq!((identity.name.as_str(), identity.dims, remote.device()), ("scripted", DIMS, "cpu"));
    assert_eq!(identity.recipe, "remote, normalised");
    assert_eq!((server.requests(), server.probes()), (Vec::new(), 1));
    for health in [json!({"status": "ok"}), json!({"encoder": " ", "dimension": 3}), json!([1])] {
        let other = ScriptedEmbedder::saying(health, []);
        let error = Remote::connect(settings(&other.url)).await.err().unwrap().to_string();
        assert!(error.contains("is none: /health gave") && error.contains("POST /embed"), "{error}");
    }
    let server = ScriptedEmbedder::saying(json!({"encoder": "scripted", "dimension": 9}), []);
    let error = Remote::connect(settings(&server.url)).await.err().unwrap().to_string();
    assert!(error.contains("/health says 9 dimensions, and /embed gave 8"), "{error}");
}

/// The old service does: its `/health` names the code that computes, its `/embed` the model.
#[actix_web::test]
async fn a_server_may_name_its_encoder_in_two_ways_but_not_change_them() {
    let health = json!({
        "status": "healthy", "model": "sentence-transformers/gtr-t5-base", "dimension": DIMS,
        "encoder": "orchestrator", "device": "cpu",
    });
    let server = ScriptedEmbedder::saying(health, []);
    let vectorizer = connect(settings(&server.url)).await;
    assert_eq!(vectorizer.server().unwrap().identity().name, "orchestrator");
    assert!(right(&pass(&vectorizer, 5).await));
    for other in ["other", "orchestrator"] {
        server.spoil_text("This is fact number 0.", Step::Encoder(other));
        let answers = pass(&vectorizer, 2).await;
        let error = failure(&answers).to_string();
        assert!(error.contains(&format!("encoder expected scripted, received {other}")), "{error}");
    }
}

async fn served_by(url: &str) -> TestService {
    TestService::build(overrides(), &["--embedding-endpoint", url]).await
}

#[actix_web::test]
async fn another_lnsp_can_be_the_server() {
    let server =
        TestService::build(Overrides { encoder: Some(Scripted::factory()), ..overrides() }, &[]).await;
    let service = served_by(&server.url).await;
    assert_eq!(tally(&service.stream(numbered(0..200)).await), (200, 0, 0));
    assert_eq!(service.stored().await, 200);
    let texts = ["This is fact number 0.", "This is fact number 123."];
    let (there, here) = (embed(&server, &texts).await, embed(&service, &texts).await);
    for (there, here) in there.iter().flatten().zip(here.iter().flatten()) {
        assert!((there - here).abs() < 1e-6);
    }
    for (text, vector) in texts.iter().zip(&there) {
        let query = json!({"query": text, "top_k": 1}).to_string();
        let by_text = service.post("/search", query).await.1;
        let by_vector = service.post("/search", json!({"vector": vector, "top_k": 1}).to_string()).await.1;
        assert_eq!(
            (&by_text["results"][0]["text"], &by_vector["results"][0]["text"]),
            (&json!(text), &json!(text))
        );
        assert!(by_vector["results"][0]["score"].as_f64().unwrap() > 0.999_999);
    }
    let (_, health) = service.get("/health").await;
    assert_eq!((&health["status"], &health["embedding"]["server"]), (&json!("healthy"), &json!(server.url)));
    assert_eq!(health["model"]["recipe"], "remote, normalised");
    let answer = service.post("/ingest", json!({"chunks": [{"text": texts[0]}]}).to_string()).await.1;
    assert_eq!(answer["results"][0]["backends"]["embedding"], "remote:all-minilm-l6-v2", "{answer}");

    // The store holds the server's vectors now, and no others.
    let local = server.state.info.model.clone();
    let error = service.state.store.adopt_model(&local).await.unwrap_err().to_string();
    assert!(error.contains("remote, normalised"), "{error}");
    service.stop().await;
    server.stop().await;
}

#[actix_web::test]
async fn a_chunk_that_the_server_refuses_fails_alone_and_one_it_cannot_take_may_be_sent_again() {
    let server = ScriptedEmbedder::start([]);
    let service = served_by(&server.url).await;
    server.refuse_text("This is fact number 31.", 422);
    let answer = service.stream(numbered(0..64)).await;
    assert_eq!(tally(&answer), (63, 0, 1));
    let error =
        |lines: &[Value]| lines.iter().find(|line| line["status"] == "error").unwrap()["error"].clone();
    assert_eq!(error(&answer)["code"], "embed_failed");
    server.refuse_text("This is fact number 64.", 401);
    let answer = service.stream(numbered(64..65)).await;
    let error = error(&answer);
    assert_eq!((&error["code"], &error["retryable"]), (&json!("embed_unavailable"), &json!(true)));
    assert_eq!(service.database.number("SELECT count(*) FROM dead_letters").await, 2);

    let (status, health) = service.get("/health").await;
    assert_eq!((status, &health["status"], &health["gtr_t5_api"]), (200, &json!("degraded"), &json!(false)));
    assert!(health["embedding"]["problem"].as_str().unwrap().contains("401"), "{health}");
    let (status, ready) = service.get("/ready").await;
    assert!(status == 503 && ready["reasons"][0].as_str().unwrap().contains("401"), "{ready}");
    let list = json!({"texts": ["This is fact number 64."]}).to_string();
    let (status, answer) = service.post("/embed", list).await;
    assert_eq!((status, &answer["error"]["code"]), (503, &json!("model_unavailable")), "{answer}");
    server.refuse_text("nothing", 401);
    assert_eq!(tally(&service.stream(numbered(64..65)).await), (1, 0, 0));
    assert_eq!(service.get("/ready").await.0, 200);
    service.stop().await;
}
