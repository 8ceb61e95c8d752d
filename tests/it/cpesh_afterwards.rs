//! `lnsp cpesh`: chunks that are stored get their CPESH parts, and questions their vectors, afterwards.

use crate::support::process::{lnsp, run_beside};
use crate::support::test_service::{Scripted, TestService, numbered, overrides, tally};
use lnsp_ingest::app::Overrides;
use lnsp_ingest::simulated_llm::{Fault, Options, SimulatedLlm};
use serde_json::{Value, json};

fn quick() -> SimulatedLlm {
    SimulatedLlm::start(Options { slots: 64, latency: "3ms".parse().unwrap(), ..Options::default() }).unwrap()
}

/// A service that asks the model for codes, and extracts nothing by itself.
async fn service(llm: &SimulatedLlm) -> TestService {
    let overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    TestService::build(overrides, &["--tmd-backend", "llm", "--llm-endpoint", llm.url()]).await
}

async fn cpesh(service: &TestService, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = lnsp(&["cpesh", "--url", &service.url]);
    command.args(arguments);
    run_beside(command).await
}

async fn count(service: &TestService, condition: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM chunks LEFT JOIN chunk_cpesh USING (item) WHERE {condition}");
    service.database.number(&sql).await
}

async fn text(service: &TestService, column: &str, id: &str) -> String {
    let sql = format!("SELECT {column} FROM chunks JOIN chunk_cpesh USING (item) WHERE id = '{id}'");
    service.database.texts(&sql).await.remove(0)
}

async fn best(service: &TestService, query: &str, search_in: &str) -> Value {
    let body = json!({"query": query, "search_in": search_in, "top_k": 1}).to_string();
    service.post("/search", body).await.1["results"][0].clone()
}

/// Rows, vectors and both indexes agree, and every item has the vectors of its row.
async fn assert_consistent(service: &TestService) {
    service.stored().await;
    let items: Vec<u32> = service.state.index.items().iter().collect();
    for (item, vectors) in service.state.store.vectors(&items).await.unwrap() {
        assert_eq!(service.state.index.vector(item).unwrap().as_deref(), Some(&*vectors.concept));
        assert_eq!(service.state.questions.vector(item).unwrap().as_deref(), vectors.question.as_deref());
    }
}

#[actix_web::test]
async fn every_chunk_gets_its_parts_once_and_is_found_by_them() {
    let llm = quick();
    let service = service(&llm).await;
    assert_eq!(tally(&service.stream(numbered(0..300)).await), (300, 0, 0));
    let own =
        json!({"id": "own", "text": "The moon moves the sea.", "probe_question": "What moves the sea?"});
    let other = json!({"chunks": [{"id": "x", "text": "Elsewhere."}], "dataset_source": "other"});
    assert_eq!(tally(&service.stream(own.to_string()).await), (1, 0, 0));
    assert_eq!(service.post("/ingest", other.to_string()).await.1["successful"], 1);
    let (calls, clock) = (llm.counts().generate, service.state.store.clock().await.unwrap());

    let (code, out, progress) = cpesh(&service, &["--dataset", "user_input"]).await;
    assert_eq!(
        (code, out.trim()),
        (Some(0), "300 chunks now have CPESH parts from llama3.1:8b"),
        "{progress}"
    );
    assert_eq!(llm.counts().generate, calls + 300);
    let whole =
        "source = 'llm' AND model = 'llama3.1:8b' AND took_us > 0 AND failure IS NULL AND concept_text <> ''";
    assert_eq!(count(&service, whole).await, 300);
    assert_eq!(count(&service, "id = 'x' AND source IS NULL").await, 1);
    assert_eq!(text(&service, "probe_question", "own").await, "What moves the sea?");
    // Each change has a number of its own, and searches reflect it.
    assert_eq!(service.state.store.clock().await.unwrap(), clock + 300);
    assert_eq!(count(&service, &format!("seq > {clock}")).await, 300);
    assert_consistent(&service).await;
    for (column, search_in) in [("concept_text", "concept"), ("probe_question", "question")] {
        let found = best(&service, &text(&service, column, "n77").await, search_in).await;
        assert_eq!((&found["id"], &found["matched"]), (&json!("n77"), &json!(search_in)));
    }
    // The chunk as it was sent is still a repetition.
    assert_eq!(tally(&service.stream(numbered(0..300)).await), (0, 300, 0));

    // A second run finds nothing to do.
    let (code, out, _) = cpesh(&service, &["--dataset", "user_input"]).await;
    assert_eq!((code, out.trim()), (Some(0), "0 chunks now have CPESH parts from llama3.1:8b"));
    assert_eq!(llm.counts().generate, calls + 300);
    assert_eq!(service.state.store.clock().await.unwrap(), clock + 300);
    service.stop().await;
}

#[actix_web::test]
async fn what_fails_is_marked_and_asked_about_again_only_on_demand() {
    let llm = quick();
    let service = service(&llm).await;
    assert_eq!(tally(&service.stream(numbered(0..4)).await), (4, 0, 0));
    let codes = "SELECT string_agg(domain_code || ' ' || tmd_source, ',' ORDER BY id) FROM chunks";
    let before = service.database.texts(codes).await;
    // Few, so that the breaker stays closed.
    llm.set_fault(Some((Fault::WrongName, 1)));
    let (code, out, progress) = cpesh(&service, &[]).await;
    assert_eq!(code, Some(1), "{progress}");
    assert!(out.contains("4 chunks have none, because nothing was usable: "), "{out}");
    assert_eq!(
        count(&service, "failure IS NOT NULL AND concept_text IS NULL AND model IS NOT NULL").await,
        4
    );
    assert_consistent(&service).await;
    assert_eq!(service.state.questions.len(), 0);

    llm.set_fault(None);
    assert_eq!(cpesh(&service, &[]).await.1.trim(), "0 chunks now have CPESH parts from llama3.1:8b");
    let (code, out, _) = cpesh(&service, &["--retry-failed"]).await;
    assert_eq!((code, out.trim()), (Some(0), "4 chunks now have CPESH parts from llama3.1:8b"));
    assert_eq!(count(&service, "failure IS NULL AND concept_text IS NOT NULL").await, 4);
    assert_eq!(service.database.texts(codes).await, before, "codes stay");
    assert_consistent(&service).await;
    service.stop().await;
}

#[actix_web::test]
async fn a_model_that_is_away_ends_the_work_and_marks_nothing() {
    let llm = quick();
    let service = service(&llm).await;
    assert_eq!(tally(&service.stream(numbered(0..20)).await), (20, 0, 0));
    drop(llm);
    let (code, _, complaint) = cpesh(&service, &[]).await;
    assert_eq!(code, Some(1));
    assert!(complaint.contains("run it again when it answers"), "{complaint}");
    assert_eq!(count(&service, "source IS NOT NULL").await, 0);
    service.stop().await;
}

#[actix_web::test]
async fn questions_that_have_no_vector_get_one_without_a_language_model() {
    let service = TestService::scripted().await;
    let lines: String = (0..10)
        .map(|n| json!({"id": format!("q{n}"), "text": format!("Fact {n}."), "probe_question": format!("Which fact is {n}?")}).to_string() + "\n")
        .collect();
    assert_eq!(tally(&service.stream(lines).await), (10, 0, 0));
    // As in a store of an earlier version.
    service.database.run("SET lnsp.writer = on; DELETE FROM chunk_vectors WHERE kind = 'question'").await;
    let (status, refused) = service.post("/cpesh", json!({}).to_string()).await;
    assert_eq!((status, &refused["error"]["code"]), (409, &json!("no_language_model")), "{refused}");
    let (code, out, complaint) = cpesh(&service, &["--questions-only"]).await;
    assert_eq!(
        (code, out.trim()),
        (Some(0), "10 chunks now have the vector of their question"),
        "{complaint}"
    );
    assert_consistent(&service).await;
    assert_eq!(best(&service, "Which fact is 7?", "question").await["id"], "q7");
    assert_eq!(
        cpesh(&service, &["--questions-only"]).await.1.trim(),
        "0 chunks now have the vector of their question"
    );
    let both = json!({"questions_only": true, "retry_failed": true}).to_string();
    assert_eq!(service.post("/cpesh", both).await.1["error"]["param"], "retry_failed");
    service.stop().await;
}

#[actix_web::test]
async fn a_row_that_changes_meanwhile_keeps_what_it_has() {
    // So slow that the row changes while the model is asked.
    let llm =
        SimulatedLlm::start(Options { slots: 64, latency: "400ms".parse().unwrap(), ..Options::default() })
            .unwrap();
    let service = service(&llm).await;
    assert_eq!(tally(&service.stream(numbered(0..2)).await), (2, 0, 0));
    let calls = llm.counts().generate;
    let asking = service.post("/cpesh", json!({}).to_string());
    let changing = async {
        crate::support::wait::until("the model is asked", || llm.counts().generate >= calls + 2).await;
        service.database.run("UPDATE chunks SET batch_id = 'other' WHERE id = 'n0'").await;
    };
    let ((_, answer), ()) = futures_util::future::join(asking, changing).await;
    assert_eq!((&answer["extracted"], &answer["changed_meanwhile"]), (&json!(1), &json!(1)), "{answer}");
    assert_eq!(count(&service, "id = 'n0' AND source IS NULL").await, 1);
    assert_consistent(&service).await;
    service.stop().await;
}
