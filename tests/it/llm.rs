//! A language model as the source of codes: calls, stored rows, and failures. The model is simulated and called over
//! TCP.

use crate::support::process::Service;
use crate::support::test_service::{Scripted, TestService, client, numbered, overrides, stream_to, tally};
use crate::support::wait::until;
use lnsp_ingest::app::Overrides;
use lnsp_ingest::classifier::LocalClassifier;
use lnsp_ingest::simulated_llm::{Fault, Options, SimulatedLlm};
use serde_json::{Value, json};

/// A simulated model that answers in a few milliseconds.
fn quick() -> SimulatedLlm {
    after("3ms")
}

/// A simulated model that answers after so long.
fn after(latency: &str) -> SimulatedLlm {
    SimulatedLlm::start(Options { slots: 64, latency: latency.parse().unwrap(), ..Options::default() })
        .unwrap()
}

/// A service that uses the model at `llm`.
async fn service(llm: &str, flags: &[&str]) -> TestService {
    let base = ["--tmd-backend", "llm", "--llm-endpoint", llm];
    let overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    TestService::build(overrides, &[&base[..], flags].concat()).await
}

async fn count(service: &TestService, condition: &str) -> i64 {
    service.database.number(&format!("SELECT count(*) FROM chunks WHERE {condition}")).await
}

async fn health(service: &TestService) -> Value {
    service.get("/health").await.1
}

#[actix_web::test]
async fn each_new_chunk_is_one_call_and_a_known_one_none() {
    // So long that the other workers have called before the first is answered.
    let llm = after("30ms");
    let service = service(llm.url(), &[]).await;
    assert_eq!(tally(&service.stream(numbered(0..512)).await), (512, 0, 0));
    let counts = llm.counts();
    assert_eq!((counts.generate, counts.loads, counts.faulty), (513, 1, 0), "and one in the handshake");
    assert_eq!(counts.most_in_flight, 10, "as many at once as there are workers");
    assert_eq!(tally(&service.stream(numbered(0..512)).await), (0, 512, 0));
    assert_eq!(llm.counts().generate, 513);

    let whole = "tmd_source = 'llm' AND tmd_model = 'llama3.1:8b' AND tmd_failure IS NULL AND tmd_took_us > 0 \
                 AND least(domain_confidence, task_confidence, modifier_confidence) > 0";
    assert_eq!(count(&service, whole).await, 512);
    let triples = "SELECT count(DISTINCT (domain_code, task_code, modifier_code)) FROM chunks";
    assert!(service.database.number(triples).await > 400, "the answers differ as the texts do");

    let health = health(&service).await;
    assert_eq!(health["tmd"], json!({"backend": "llm", "source": "llm:llama3.1:8b"}));
    assert_eq!((&health["llm"]["state"], &health["llm"]["problem"]), (&json!("answers"), &Value::Null));
    assert_eq!(health["llm_endpoint"], llm.url());
    service.stop().await;
}

#[actix_web::test]
async fn concurrent_calls_are_limited_to_the_workers() {
    let llm = after("30ms");
    let service = service(llm.url(), &["--max-parallel-workers", "4"]).await;
    let two =
        futures_util::future::join(service.stream(numbered(0..60)), service.stream(numbered(60..120))).await;
    assert_eq!((tally(&two.0), tally(&two.1)), ((60, 0, 0), (60, 0, 0)));
    assert_eq!(llm.counts().most_in_flight, 4);
    service.stop().await;
}

#[actix_web::test]
async fn without_parallel_processing_there_is_one_call_at_a_time() {
    let llm = quick();
    let service = service(llm.url(), &["--enable-parallel", "false"]).await;
    assert_eq!(tally(&service.stream(numbered(0..20)).await), (20, 0, 0));
    assert_eq!((llm.counts().generate, llm.counts().most_in_flight), (21, 1));
    service.stop().await;
}

#[actix_web::test]
async fn hanging_calls_do_not_delay_chunks_that_need_none() {
    let llm = quick();
    let service = service(llm.url(), &[]).await;
    llm.set_fault(Some((Fault::Hang, 1)));
    let waiting = actix_web::rt::spawn(stream_to(service.url.clone(), numbered(0..100)));
    let entrance = service.state.pipeline.entrance();
    let full = || entrance.inside() == Some([12, 0, 0, 0]) && entrance.waiting() > 0;
    until("ten calls hang, two chunks wait, the rest is not admitted", full).await;
    until("all calls have come", || llm.counts().generate == 11).await;

    for n in 0..20 {
        let text = format!(
            r#"{{"id":"c{n}","text":"Codes are given.","domain_code":1,"task_code":1,"modifier_code":1}}"#
        );
        assert_eq!(tally(&service.stream(text).await), (1, 0, 0));
    }
    assert_eq!(llm.counts().generate, 11, "the ten still hang");

    // The server goes away: the calls that hung fail, and their chunks get the local label.
    llm.stop();
    assert_eq!(tally(&waiting.await.unwrap()), (100, 0, 0));
    assert_eq!(
        count(&service, "tmd_source = 'fallback' AND tmd_failure IN ('connect', 'resting')").await,
        100
    );
    assert_eq!(count(&service, "tmd_source = 'client'").await, 20);
    service.stop().await;
}

/// The answer is there, in a form of its own.
const FORMS: [Fault; 4] = [Fault::Thinking, Fault::ThinkTag, Fault::Fence, Fault::InProse];

/// Each fault with its name in the row, and a part of the sentence in `/health`.
const FAULTS: [(Fault, &str, &str); 18] = [
    (Fault::Error500, "http_5xx", "answered 500"),
    (Fault::Busy503, "http_5xx", "answered 503"),
    (Fault::Limited429, "http_429", "answered 429"),
    (Fault::Html, "foreign", "speaks neither Ollama's API nor OpenAI's"),
    (Fault::Garbage, "foreign", "speaks neither Ollama's API nor OpenAI's"),
    (Fault::HalfJson, "invalid", "expected an object with domain, task and modifier"),
    (Fault::Unfinished, "incomplete", "done: false"),
    (Fault::Cut, "incomplete", "done_reason: \"length\""),
    (Fault::WrongName, "invalid", "expected the name of a domain"),
    (Fault::Numbers, "invalid", "no usable answer"),
    (Fault::Huge, "too_long", "more than 262144 bytes"),
    (Fault::Reset, "connect", "cannot be reached"),
    (Fault::ResetMidBody, "connect", "cannot be reached"),
    (Fault::Dribble, "timeout", "did not answer within 1 s"),
    (Fault::Echo, "invalid", "received what stands in the text itself"),
    (Fault::Redirect, "foreign", "gave 302"),
    (Fault::ModelGone, "no_model", "ollama pull llama3.1:8b"),
    (Fault::Hang, "timeout", "did not answer within 1 s"),
];

#[actix_web::test]
async fn whatever_the_llm_does_the_chunk_is_stored_with_the_local_label() {
    assert_eq!(FAULTS.len() + FORMS.len(), Fault::ALL.len());
    let llm = quick();
    let service = service(llm.url(), &["--llm-timeout-s", "1"]).await;
    let classifier = LocalClassifier::embedded().unwrap();
    for (fault, reason, sentence) in FAULTS {
        llm.set_fault(Some((fault, 1)));
        let text = format!("A sentence about the {} of rivers.", fault.name());
        let local = classifier.classify(&text).tmd;
        let chunk = json!({"chunks": [{"text": text, "id": fault.name()}], "dataset_source": "faults"});
        let (status, answer) = service.post("/ingest", chunk.to_string()).await;
        let result = &answer["results"][0];
        assert_eq!((status, &result["status"]), (200, &json!("stored")), "{fault:?}: {answer}");
        assert_eq!(result["tmd_source"], "fallback", "{fault:?}");
        assert!(
            result["backends"]["tmd"].as_str().unwrap().ends_with(&format!("(llm: {reason})")),
            "{result}"
        );
        let codes = json!({"domain": local.domain(), "task": local.task(), "modifier": local.modifier()});
        assert_eq!(result["tmd_codes"], codes, "{fault:?}");
        let row = format!("id = '{}' AND tmd_source = 'fallback' AND tmd_failure = '{reason}'", fault.name());
        assert_eq!(count(&service, &row).await, 1, "{fault:?}");
        let health = health(&service).await;
        let problem = health["llm"]["problem"].as_str().unwrap();
        assert!(
            problem.starts_with("the LLM at http://") && problem.contains(sentence),
            "{fault:?}: {problem}"
        );
        // An echo says nothing about the server.
        let state = if fault == Fault::Echo { "answers" } else { "failing" };
        assert_eq!(health["llm"]["state"], state, "{fault:?}");

        llm.set_fault(None);
        let good = json!({"chunks": [{"text": format!("Good again after {}.", fault.name())}]});
        let (_, answer) = service.post("/ingest", good.to_string()).await;
        assert_eq!(answer["results"][0]["tmd_source"], "llm", "after {fault:?}");
    }
    service.stop().await;
}

#[actix_web::test]
async fn an_unusable_answer_is_requested_once_more() {
    let llm = quick();
    let service = service(llm.url(), &["--max-parallel-workers", "1"]).await;
    llm.set_fault(Some((Fault::WrongName, 2)));
    // One after the other: while a call waits to be repeated, another chunk would be asked about.
    for n in 0..4 {
        assert_eq!(tally(&service.stream(numbered(n..n + 1)).await), (1, 0, 0));
    }
    // After that of the handshake, the second call, the fourth and the sixth are bad; each is followed by a good one for
    // the same chunk.
    assert_eq!((llm.counts().generate, llm.counts().faulty), (8, 3));
    assert_eq!(count(&service, "tmd_source = 'llm'").await, 4);
    service.stop().await;
}

#[actix_web::test]
async fn where_only_the_llm_may_label_a_chunk_is_rejected_until_it_answers() {
    let llm = quick();
    let service = service(llm.url(), &["--tmd-on-failure", "reject"]).await;
    llm.set_fault(Some((Fault::ModelGone, 1)));
    let (results, coded) = (
        service.stream(numbered(0..20)).await,
        r#"{"text":"Codes are given.","domain_code":1,"task_code":1,"modifier_code":1}"#,
    );
    assert_eq!(tally(&results), (0, 0, 20));
    for result in &results[..20] {
        assert_eq!(result["error"]["code"], "llm_failed", "{result}");
        assert_eq!(result["error"]["retryable"], true);
    }
    assert_eq!(tally(&service.stream(coded).await), (1, 0, 0), "a chunk that needs no LLM is not concerned");
    assert_eq!(service.rows().await, 1);
    let (status, ready) = service.get("/ready").await;
    assert_eq!((status, &ready["ready"]), (503, &json!(false)), "{ready}");
    let health = health(&service).await;
    assert_eq!(health["llm"]["state"], "resting");
    assert!(health["llm"]["failures_in_a_row"].as_u64().unwrap() >= 10, "so many open the breaker: {health}");
    // Up to nine more were under way when the tenth failure came. Some failures are those of a handshake that chunks
    // share: so many in a row put the way of asking in doubt.
    let calls = llm.counts().generate;
    assert!(calls <= 19, "{calls}");
    service.stop().await;
}

/// Sends one chunk; returns its result.
async fn tag(service: &Service, text: &str) -> Value {
    let body = json!({"chunks": [{"text": text}]});
    let answer = client().post(format!("{}/ingest", service.url)).json(&body).send().await.unwrap();
    answer.json::<Value>().await.unwrap()["results"][0].clone()
}

#[actix_web::test]
async fn a_missing_server_is_reported_at_startup_and_used_once_it_is_there() {
    let data = crate::support::postgres::DataFolder::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let flags = |backend| ["--tmd-backend", backend, "--llm-endpoint", &endpoint].map(str::to_owned);
    let start = |backend| {
        let flags = flags(backend);
        Service::start(data.path(), &flags.each_ref().map(String::as_str))
    };
    // `auto`: the local classifier until it is there.
    let service = start("auto");
    let sentence = format!("the LLM at {endpoint} cannot be reached");
    assert!(service.log.contains(&sentence) && service.log.contains("TMD source: local:"), "{}", service.log);
    let result = tag(&service, "Nobody is there.").await;
    assert_eq!(result["tmd_source"], "local", "{result}");
    assert!(service.terminate().success());

    // `llm`: asked again with each chunk.
    let service = start("llm");
    assert!(service.log.contains(&sentence) && service.log.contains("TMD source: llm:"), "{}", service.log);
    assert_eq!(tag(&service, "Still nobody.").await["tmd_source"], "fallback");
    let options = Options { port, latency: "1ms".parse().unwrap(), ..Options::default() };
    let llm = SimulatedLlm::start(options.clone()).unwrap();
    assert_eq!(tag(&service, "There it is.").await["tmd_source"], "llm");
    assert_eq!((llm.counts().loads, llm.counts().generate), (1, 2));
    assert!(service.terminate().success());

    // A model it does not have.
    let flags = ["--tmd-backend", "auto", "--llm-endpoint", &endpoint, "--tmd-llm-model", "nobody:1b"];
    let service = Service::start(data.path(), &flags);
    let sentence = "has no model 'nobody:1b' (it has llama3.1:8b): run `ollama pull nobody:1b`";
    assert!(service.log.contains(sentence), "{}", service.log);
    assert!(service.terminate().success());

    // There, and as it should be.
    let service = start("auto");
    assert!(service.log.contains("✅ LLM ready: llama3.1:8b on Ollama"), "{}", service.log);
    assert!(service.log.contains(&format!("LLM endpoint: {endpoint}")), "{}", service.log);
    assert_eq!(tag(&service, "One more text.").await["tmd_source"], "llm");
    assert!(service.terminate().success());

    // Something else listens there: the service itself.
    let other = Service::start(data.path(), &[]);
    let database = crate::support::postgres::DataFolder::new();
    let service = Service::start(database.path(), &["--tmd-backend", "auto", "--llm-endpoint", &other.url]);
    assert!(
        service.log.contains("speaks neither Ollama's API nor OpenAI's (/v1/models gave 404"),
        "{}",
        service.log
    );
    assert!(service.terminate().success());
    assert!(other.terminate().success());
}
