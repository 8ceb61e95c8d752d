//! Questions have vectors of their own, and an index that follows them as the other one follows concepts.

use crate::support::process::{lnsp, run_beside};
use crate::support::test_service::{Scripted, TestService, overrides, tally};
use crate::support::wait::until;
use lnsp_ingest::app::Overrides;
use lnsp_ingest::index::RebuildReason;
use serde_json::{Value, json};

/// A chunk whose text, concept and question are different texts.
fn leaf() -> Value {
    json!({
        "id": "leaf", "text": "Chlorophyll in the leaves of plants takes up light, and sugar is made with it.",
        "concept_text": "Plants make sugar with light.", "probe_question": "What do plants make with light?",
        "expected_answer": "Sugar", "hard_negatives": ["The Eiffel Tower"],
    })
}

fn sea() -> Value {
    json!({"id": "sea", "text": "The moon moves the sea.", "probe_question": "What moves the sea?"})
}

fn bare() -> Value {
    json!({"id": "bare", "text": "Bread rises because yeast makes gas."})
}

async fn send(service: &TestService, on_conflict: &str, chunks: &[Value]) -> Vec<Value> {
    let body = json!({ "chunks": chunks, "dataset_source": "d", "on_conflict": on_conflict });
    let (_, answer) = service.post("/ingest", body.to_string()).await;
    answer["results"].as_array().unwrap().clone()
}

async fn service_with_questions() -> TestService {
    let service = TestService::scripted().await;
    let results = send(&service, "error", &[leaf(), sea(), bare()]).await;
    assert!(results.iter().all(|result| result["status"] == "stored"), "{results:?}");
    service
}

async fn search(service: &TestService, query: &str, search_in: &str) -> Value {
    let body = json!({"query": query, "search_in": search_in, "top_k": 10}).to_string();
    service.post("/search", body).await.1
}

/// Id, the vector that matched, and whether the text is that of the query.
fn found(answer: &Value) -> Vec<(&str, &str, bool)> {
    let results = answer["results"].as_array().unwrap().iter();
    let one = |result: &'_ Value| result["score"].as_f64().unwrap() > 0.999;
    results
        .map(|result| (result["id"].as_str().unwrap(), result["matched"].as_str().unwrap(), one(result)))
        .collect()
}

fn set(answer: &Value) -> Vec<&str> {
    let mut ids: Vec<&str> = found(answer).into_iter().map(|(id, ..)| id).collect();
    ids.sort_unstable();
    ids
}

/// Items and vectors of the index of questions, and those of the database, which have to be the same.
async fn assert_follows(service: &TestService) {
    let clock = service.database.number("SELECT seq FROM change_clock").await;
    until("the indexes follow", || service.state.indexes().applied_seq() >= clock).await;
    let sql = "SELECT item FROM chunk_vectors WHERE kind = 'question' ORDER BY item";
    let stored = service.database.texts(sql).await;
    let items: Vec<String> = service.state.questions.items().iter().map(|item| item.to_string()).collect();
    assert_eq!(items, stored);
    let numbers: Vec<u32> = stored.iter().map(|item| item.parse().unwrap()).collect();
    for (item, vectors) in service.state.store.vectors(&numbers).await.unwrap() {
        assert_eq!(service.state.questions.vector(item).unwrap().as_deref(), vectors.question.as_deref());
    }
}

#[actix_web::test]
async fn a_search_compares_with_concepts_with_questions_or_with_the_better_of_both() {
    let service = service_with_questions().await;
    assert_eq!(service.stored().await, 3);
    let question = "What do plants make with light?";

    let of_questions = search(&service, question, "question").await;
    assert_eq!(found(&of_questions)[0], ("leaf", "question", true), "{of_questions}");
    assert_eq!(set(&of_questions), ["leaf", "sea"], "a chunk without a question is not found");
    let best = &of_questions["results"][0];
    for field in ["concept_text", "probe_question", "expected_answer", "text"] {
        assert_eq!(best[field], leaf()[field], "{field}");
    }

    let of_concepts = search(&service, question, "concept").await;
    assert_eq!(set(&of_concepts), ["bare", "leaf", "sea"]);
    assert!(found(&of_concepts).iter().all(|(_, matched, same)| *matched == "concept" && !same));
    let body = json!({"query": question, "top_k": 10}).to_string();
    assert_eq!(service.post("/search", body).await.1, of_concepts, "concepts are the default");
    let without = of_concepts["results"].as_array().unwrap().iter().find(|hit| hit["id"] == "bare").unwrap();
    assert_eq!((without.get("concept_text"), without.get("probe_question")), (None, None));

    for (query, id, matched) in [
        (question, "leaf", "question"),
        ("Plants make sugar with light.", "leaf", "concept"),
        ("The moon moves the sea.", "sea", "concept"),
        ("What moves the sea?", "sea", "question"),
        ("Bread rises because yeast makes gas.", "bare", "concept"),
    ] {
        let both = search(&service, query, "both").await;
        assert_eq!(found(&both)[0], (id, matched, true), "{query}: {both}");
        assert_eq!(set(&both), ["bare", "leaf", "sea"], "each once");
        // The better of the two scores counts.
        for hit in both["results"].as_array().unwrap() {
            let score = |answer: &Value| {
                let results = answer["results"].as_array().unwrap();
                let hit = results.iter().find(|other| other["id"] == hit["id"]);
                hit.map(|hit| hit["score"].as_f64().unwrap())
            };
            let alone = [
                score(&search(&service, query, "concept").await),
                score(&search(&service, query, "question").await),
            ];
            let best = alone.into_iter().flatten().fold(f64::MIN, f64::max);
            assert_eq!(hit["score"].as_f64().unwrap(), best, "{query}: {hit}");
        }
    }

    let filtered = json!({"query": question, "search_in": "question", "filter": {"document_id": "none"}});
    assert_eq!(service.post("/search", filtered.to_string()).await.1["results"], json!([]));
    let (status, refused) =
        service.post("/search", json!({"query": "x", "search_in": "probe"}).to_string()).await;
    assert_eq!((status, &refused["error"]["code"]), (422, &json!("invalid_query")), "{refused}");
    service.stop().await;
}

#[actix_web::test]
async fn the_command_asks_for_questions_and_shows_the_one_it_found() {
    let service = service_with_questions().await;
    let mut command =
        lnsp(&["search", "--url", &service.url, "--in", "question", "-k", "1", "What moves the sea?"]);
    command.env("COLUMNS", "80");
    let (code, out, complaint) = run_beside(command).await;
    assert_eq!((code, complaint.as_str()), (Some(0), ""), "{out}");
    assert!(out.starts_with("1. 1.000  sea\n"), "{out}");
    assert!(out.contains("   question: What moves the sea?\n   The moon moves the sea."), "{out}");
    service.stop().await;
}

#[actix_web::test]
async fn a_question_that_is_replaced_or_goes_is_not_found_any_more() {
    let service = service_with_questions().await;
    let asks = |query: &'static str| search(&service, query, "question");
    // Another question: the concept vector stays, and both indexes know at the answer.
    let mut asked = leaf();
    asked["probe_question"] = json!("How do leaves feed a plant?");
    assert_eq!(send(&service, "replace", &[asked.clone()]).await[0]["status"], "replaced");
    assert_eq!(found(&asks("How do leaves feed a plant?").await)[0], ("leaf", "question", true));
    assert!(!found(&asks("What do plants make with light?").await)[0].2);
    assert_follows(&service).await;

    // No question any more, with the same concept and with another text.
    asked["probe_question"] = Value::Null;
    assert_eq!(send(&service, "replace", &[asked]).await[0]["status"], "replaced");
    assert_eq!(set(&asks("How do leaves feed a plant?").await), ["sea"]);
    let plain = json!({"id": "sea", "text": "The tide is made by the moon."});
    assert_eq!(send(&service, "replace", &[plain]).await[0]["status"], "replaced");
    assert_eq!(set(&asks("What moves the sea?").await), Vec::<&str>::new());
    assert_follows(&service).await;
    assert_eq!(service.database.number("SELECT count(*) FROM question_tombstones").await, 2);

    // And back.
    assert_eq!(send(&service, "replace", &[leaf(), sea()]).await.len(), 2);
    assert_eq!(set(&asks("What moves the sea?").await), ["leaf", "sea"]);
    assert_follows(&service).await;

    // What is built is what is committed, and so is what is read again from the database.
    for _ in 0..2 {
        service.state.questions.flush().await.unwrap();
        assert_follows(&service).await;
        service.state.indexes().rebuild(RebuildReason::Manual).await.unwrap();
        assert_eq!(service.state.questions.status().items, 2);
        assert_eq!(
            send(&service, "replace", &[json!({"id": "leaf", "text": "Another text."})]).await.len(),
            1
        );
        assert_follows(&service).await;
        assert_eq!(send(&service, "replace", &[leaf()]).await.len(), 1);
    }

    service.database.run("DELETE FROM chunks WHERE id = 'leaf'").await;
    assert_follows(&service).await;
    assert_eq!(set(&asks("What moves the sea?").await), ["sea"]);
    assert_eq!(service.stored().await, 2);
    service.stop().await;
}

#[actix_web::test]
async fn questions_that_sql_changes_are_followed() {
    let service = service_with_questions().await;
    let clock = async || service.database.number("SELECT seq FROM change_clock").await;
    let before = clock().await;
    // The vector is that of another question: it goes.
    service
        .database
        .run("UPDATE chunk_cpesh SET probe_question = 'Why?' WHERE probe_question LIKE '%sea%'")
        .await;
    assert_eq!(clock().await, before + 1);
    assert_follows(&service).await;
    assert_eq!(set(&search(&service, "What moves the sea?", "question").await), ["leaf"]);
    // A vector that SQL inserts, changes or deletes is a change.
    let vectors = "INSERT INTO chunk_vectors SELECT item, model_id, 'question', vector FROM chunk_vectors JOIN chunks \
                   USING (item) WHERE kind = 'concept' AND id <> 'leaf'";
    service.database.run(vectors).await;
    assert!(clock().await > before + 1);
    assert_follows(&service).await;
    assert_eq!(set(&search(&service, "The moon moves the sea.", "question").await), ["bare", "leaf", "sea"]);
    let turned = "UPDATE chunk_vectors SET vector = overlay(vector PLACING substr(vector, 5, 4) FROM 1) WHERE kind = 'question'";
    service.database.run(turned).await;
    assert_follows(&service).await;
    service.database.run("DELETE FROM chunk_vectors WHERE kind = 'question'").await;
    assert_follows(&service).await;
    assert_eq!(service.state.questions.len(), 0);
    assert_eq!(service.stored().await, 3);
    service.stop().await;
}

#[actix_web::test]
async fn another_service_on_the_same_database_follows_questions() {
    let first = service_with_questions().await;
    let overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    let database = crate::support::database::Database::at(first.database.dsn().parse().unwrap());
    let second = TestService::build_at(database, overrides, &[]).await;
    assert_eq!(set(&search(&second, "What moves the sea?", "question").await), ["leaf", "sea"]);
    let lines = format!(
        "{}\n{}\n",
        json!({"text": "Fire burns.", "probe_question": "What burns?"}),
        json!({"text": "Ice."})
    );
    assert_eq!(tally(&first.stream(lines).await), (2, 0, 0));
    assert_eq!(
        send(&first, "replace", &[json!({"id": "sea", "text": "Salt."})]).await[0]["status"],
        "replaced"
    );
    assert_follows(&second).await;
    assert_eq!(found(&search(&second, "What burns?", "question").await)[0].1, "question");
    assert_eq!(set(&search(&second, "What moves the sea?", "question").await).len(), 2);
    assert_eq!(second.state.questions.status().delta_len, 2, "only what concerns questions is held");
    second.stop().await;
    first.stop().await;
}

#[actix_web::test]
async fn a_vector_that_comes_with_its_chunk_stays_and_its_question_is_embedded() {
    let service = service_with_questions().await;
    let vector: Vec<f32> = (0..Scripted::DIMS).map(|place| if place == 7 { 1.0 } else { 0.0 }).collect();
    let model = &service.get("/health").await.1["model"]["fingerprint"];
    let chunk = json!({"id": "given", "text": "A text.", "probe_question": "Which text?", "vector": vector, "vector_model": model});
    assert_eq!(send(&service, "error", &[chunk]).await[0]["status"], "stored");
    let item = service.database.number("SELECT item FROM chunks WHERE id = 'given'").await;
    assert_eq!(service.state.index.vector(u32::try_from(item).unwrap()).unwrap(), Some(vector));
    assert_eq!(found(&search(&service, "Which text?", "question").await)[0], ("given", "question", true));
    assert_follows(&service).await;
    service.stop().await;
}
