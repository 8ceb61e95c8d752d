//! The calls of the old TMD router: codes and lanes of texts that are not stored, and a client that asks for codes
//! before it ingests.

use crate::support::raw_connection::RawConnection;
use crate::support::test_service::{Scripted, TestService, overrides};
use crate::support::wait::until;
use lnsp_ingest::app::Overrides;
use lnsp_ingest::classifier::LocalClassifier;
use lnsp_ingest::simulated_llm::{Fault, Options, SimulatedLlm};
use serde_json::{Value, json};

const TEXTS: [&str; 4] = [
    "Photosynthesis converts light into chemical energy.",
    "The Eiffel Tower was built in 1889.",
    "The court held that the contract was void.",
    "A hash table maps keys to values.",
];

fn simulated(latency: &str) -> SimulatedLlm {
    SimulatedLlm::start(Options { latency: latency.parse().unwrap(), ..Options::default() }).unwrap()
}

async fn with_llm(llm: &SimulatedLlm, flags: &[&str]) -> TestService {
    let base = ["--tmd-backend", "llm", "--llm-endpoint", llm.url()];
    let overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    TestService::build(overrides, &[&base[..], flags].concat()).await
}

/// The calls for answers from now on: at its start the service asks for one, to see whether it can be read.
fn calls(llm: &SimulatedLlm) -> impl Fn() -> u64 {
    let before = llm.counts().generate;
    move || llm.counts().generate - before
}

fn names(answer: &Value) -> Vec<&str> {
    answer.as_object().unwrap().keys().map(String::as_str).collect()
}

#[actix_web::test]
async fn a_text_gets_the_codes_that_ingest_would_give_it() {
    let service = TestService::scripted().await;
    let classifier = LocalClassifier::embedded().unwrap();
    let found = classifier.classify(TEXTS[0]);
    let (status, routed) =
        service.post("/route", json!({"concept_text": TEXTS[0], "use_cache": true}).to_string()).await;
    assert_eq!(status, 200, "{routed}");
    let codes = (&routed["domain_code"], &routed["task_code"], &routed["modifier_code"]);
    let (domain, task, modifier) = (found.tmd.domain(), found.tmd.task(), found.tmd.modifier());
    assert_eq!(codes, (&json!(domain), &json!(task), &json!(modifier)));
    assert_eq!(
        (&routed["concept_text"], &routed["tmd_source"], &routed["cache_hit"]),
        (&json!(TEXTS[0]), &json!("local"), &json!(false))
    );
    for name in [
        "domain_name",
        "lane_model",
        "lane_port",
        "specialist_prompt_id",
        "temperature",
        "max_tokens",
        "is_fallback",
        "tmd_model",
        "tmd_confidence",
    ] {
        assert!(!routed[name].is_null(), "{name} is missing in {routed}");
    }
    let (_, extracted) = service.post("/extract-tmd", json!({"concept_text": TEXTS[0]}).to_string()).await;
    let fields = [
        "concept_text",
        "domain_code",
        "domain_name",
        "modifier_code",
        "task_code",
        "tmd_confidence",
        "tmd_model",
        "tmd_source",
    ];
    assert_eq!(names(&extracted), fields);
    let (status, ingested) =
        service.post("/ingest", json!({"chunks": [{"text": TEXTS[0]}]}).to_string()).await;
    assert_eq!((status, &ingested["results"][0]["tmd_codes"]["domain"]), (200, &extracted["domain_code"]));
    assert_eq!(service.stored().await, 1, "only what was ingested is stored");
    service.stop().await;
}

#[actix_web::test]
async fn a_lane_follows_from_codes() {
    let service = TestService::scripted().await;
    let select = async |body: Value| service.post("/select-lane", body.to_string()).await;
    let law = json!({"domain_code": 11, "task_code": 31, "modifier_code": 63, "allow_fallback": false});
    let (status, lane) = select(law).await;
    let expected = json!({
        "domain_code": 11, "domain_name": "Law", "task_code": 31, "modifier_code": 63, "lane_model": "llama3.1:8b",
        "lane_port": 11434, "specialist_prompt_id": "lane_specialist_law", "temperature": 0.2, "max_tokens": 250,
        "is_fallback": false,
    });
    assert_eq!((status, lane), (200, expected));
    let (status, error) = select(json!({"domain_code": 16, "task_code": 0, "modifier_code": 0})).await;
    assert_eq!((status, &error["error"]["code"]), (422, &json!("code_out_of_range")));
    assert_eq!(error["error"]["param"], "domain_code");
    let (status, error) = select(json!({"domain_code": 1, "task_code": 0})).await;
    assert_eq!((status, &error["error"]["param"]), (422, &json!("modifier_code")));
    service.stop().await;
}

#[actix_web::test]
async fn a_client_asks_for_codes_and_then_ingests_with_them() {
    // The order of the old Wikipedia pipeline: a call for the codes of each piece, then one request with all pieces.
    let llm = simulated("3ms");
    let service = with_llm(&llm, &[]).await;
    let asked = calls(&llm);
    let mut chunks = Vec::new();
    for (n, text) in TEXTS.iter().enumerate() {
        let (status, tmd) = service.post("/route", json!({ "concept_text": text }).to_string()).await;
        assert_eq!(
            (status, &tmd["tmd_source"], &tmd["tmd_model"]),
            (200, &json!("llm"), &json!("llama3.1:8b"))
        );
        assert_eq!(tmd["cache_hit"], false);
        chunks.push(json!({
            "text": text, "document_id": "wikipedia_1", "sequence_index": n, "episode_id": "wikipedia_1_ep0",
            "domain_code": tmd["domain_code"], "task_code": tmd["task_code"], "modifier_code": tmd["modifier_code"],
            "concept_vec": vec![0.5; 768],
        }));
    }
    assert_eq!(asked(), 4);
    let (_, again) = service.post("/route", json!({"concept_text": TEXTS[0]}).to_string()).await;
    assert_eq!((&again["cache_hit"], asked()), (&json!(true), 4), "a known text costs no call");
    let body = json!({"chunks": chunks, "dataset_source": "wikipedia_500k"});
    let (status, answer) = service.post("/ingest", body.to_string()).await;
    assert_eq!((status, &answer["successful"], &answer["failed"]), (200, &json!(4), &json!(0)), "{answer}");
    for (chunk, result) in chunks.iter().zip(answer["results"].as_array().unwrap()) {
        assert_eq!(result["backends"]["tmd"], "client-provided");
        assert_eq!(result["tmd_codes"]["task"], chunk["task_code"]);
    }
    assert_eq!(asked(), 4, "ingest asks for none");
    let rows = "SELECT count(DISTINCT chunk_index) FROM chunks WHERE document_id = 'wikipedia_1' \
                AND tmd_source = 'client' AND metadata->>'episode_id' = 'wikipedia_1_ep0'";
    assert_eq!(service.database.number(rows).await, 4);
    service.stop().await;
}

#[actix_web::test]
async fn a_batch_is_worked_on_in_parallel_and_answered_in_order() {
    let llm = simulated("20ms");
    let service = with_llm(&llm, &["--max-parallel-workers", "4"]).await;
    let asked = calls(&llm);
    let concepts: Vec<String> = (0..40).map(|n| format!("This is fact number {n}.")).collect();
    let (status, answer) = service.post("/route/batch", json!({ "concepts": concepts }).to_string()).await;
    assert_eq!((status, &answer["count"]), (200, &json!(40)));
    for (concept, result) in concepts.iter().zip(answer["results"].as_array().unwrap()) {
        assert_eq!((&result["concept_text"], &result["tmd_source"]), (&json!(concept), &json!("llm")));
    }
    assert_eq!((asked(), llm.counts().most_in_flight), (40, 4));
    service.stop().await;
}

#[actix_web::test]
async fn a_concept_without_codes_fails_alone() {
    let llm = simulated("1ms");
    let service = with_llm(&llm, &["--tmd-on-failure", "reject"]).await;
    let concepts = ["A good one.", " ", "Another."];
    let (status, answer) = service.post("/route/batch", json!({ "concepts": concepts }).to_string()).await;
    let results = answer["results"].as_array().unwrap();
    assert_eq!((status, results.len(), results[0]["tmd_source"].as_str()), (200, 3, Some("llm")));
    assert_eq!(results[1]["error"]["code"], "text_empty");
    assert_eq!((&results[1]["concept_text"], &results[2]["tmd_source"]), (&json!(" "), &json!("llm")));

    llm.set_fault(Some((Fault::ModelGone, 1)));
    let (status, error) = service.post("/route", json!({"concept_text": "A text."}).to_string()).await;
    assert_eq!((status, &error["error"]["code"]), (503, &json!("llm_failed")), "{error}");
    assert_eq!(error["error"]["retryable"], true);
    service.stop().await;
}

#[actix_web::test]
async fn a_failure_of_the_model_is_no_code() {
    let llm = simulated("1ms");
    let service = with_llm(&llm, &[]).await;
    llm.set_fault(Some((Fault::Echo, 1)));
    let (_, routed) = service.post("/route", json!({"concept_text": TEXTS[1]}).to_string()).await;
    assert_eq!((&routed["tmd_source"], &routed["tmd_failure"]), (&json!("fallback"), &json!("invalid")));
    service.stop().await;
}

#[actix_web::test]
async fn requests_are_read_as_strictly_as_others() {
    let llm = simulated("1ms");
    let service = with_llm(&llm, &[]).await;
    let asked = calls(&llm);
    let route = async |body: &str| {
        let (status, answer) = service.post("/route", body.to_owned()).await;
        (status, answer["error"]["code"].as_str().unwrap_or_default().to_owned())
    };
    let refused = |code: &str| (422, code.to_owned());
    assert_eq!(route("{}").await, refused("missing_field"));
    assert_eq!(route(r#"{"concept_text":" "}"#).await, refused("text_empty"));
    assert_eq!(
        route(r#"{"concept_text":"x","llm_endpoint":"http://example.org"}"#).await,
        refused("invalid_query")
    );
    assert_eq!(route(r#"{"concept_text":"x","llm_model":"other:1b"}"#).await, refused("invalid_query"));
    assert_eq!(route(r#"{"concept_text":"x","llm_model":null}"#).await.0, 200);
    assert_eq!(route(r#"{"concept_text":"y","llm_model":"llama3.1:8b"}"#).await.0, 200);
    assert_eq!(route(r#"{"concept_text":"x","concept":"y"}"#).await, refused("unknown_field"));
    let many = json!({"concepts": vec!["x"; 5000]}).to_string();
    let (status, error) = service.post("/route/batch", many).await;
    assert_eq!((status, &error["error"]["code"]), (413, &json!("body_too_large")));
    assert_eq!(asked(), 2);
    service.stop().await;
}

#[actix_web::test]
async fn a_client_whose_connection_breaks_takes_its_batch_with_it() {
    let llm = simulated("1ms");
    // So long that the calls do not end by themselves.
    let service = with_llm(&llm, &["--llm-timeout-s", "600", "--chunk-deadline-s", "3600"]).await;
    let asked = calls(&llm);
    llm.set_latency("10000s".parse().unwrap());
    let concepts: Vec<String> = (0..40).map(|n| format!("This is fact number {n}.")).collect();
    let body = json!({ "concepts": concepts }).to_string();
    let mut client = RawConnection::connect(&service.url).await.unwrap();
    let head = "POST /route/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    client.write(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())).await;
    until("its calls are in flight", || llm.counts().in_flight == 10).await;
    // A reset. Behind an end in order it might still read.
    client.socket.get_ref().set_zero_linger().unwrap();
    drop(client);
    until("its calls have ended", || llm.counts().in_flight == 0).await;
    assert_eq!(asked(), 10);
    service.stop().await;
}
