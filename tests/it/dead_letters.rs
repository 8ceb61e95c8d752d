//! Chunks on which the service fails are written to the table before their clients are told, and can be sent again.

use crate::store::{draft, embedded, fresh, plain};
use crate::support::gated_encoder::GatedEncoder;
use crate::support::process::{lnsp, run};
use crate::support::raw_connection::RawConnection;
use crate::support::test_service::{Poison, TestService, client, numbered, overrides, tally};
use crate::support::wait::until;
use chrono::{DateTime, Duration, Utc};
use lnsp_ingest::app::Overrides;
use lnsp_ingest::simulated_llm::{Options, SimulatedLlm};
use lnsp_ingest::stages::Stage;
use lnsp_ingest::store::{DeadLetter, DeadLetterFilter};
use serde_json::{Value, json};
use std::sync::Arc;

const BAD: &str = "The bad one.";
/// Makes the database refuse it.
const REFUSE: &str = "ALTER TABLE chunks ADD CONSTRAINT refused CHECK (text <> 'The bad one.')";
const ACCEPT: &str = "ALTER TABLE chunks DROP CONSTRAINT refused";

async fn letters(service: &TestService, query: &str) -> Value {
    let (status, page) = service.get(&format!("/dead-letters{query}")).await;
    assert_eq!(status, 200, "{page}");
    page
}

/// `stage cause attempts times` of each letter, in order.
async fn summary(service: &TestService) -> Vec<String> {
    let columns = "SELECT concat_ws(' ', stage, cause, attempts, times) FROM dead_letters ORDER BY letter";
    service.database.texts(columns).await
}

/// Runs `lnsp replay` as a process: exit code, last line, complaints.
fn replay(service: &TestService, flags: &[&str]) -> (Option<i32>, String, String) {
    let (code, said, complaint) = run(&mut lnsp(&[&["replay", "--url", &service.url], flags].concat()));
    (code, said.trim().to_owned(), complaint)
}

fn error_code(answer: &[Value]) -> &str {
    let error = answer.iter().find(|line| line["status"] == "error").unwrap();
    error["error"]["code"].as_str().unwrap()
}

/// A chunk with every field that a client can send.
fn whole() -> Value {
    json!({
        "id": "bad", "text": BAD, "document_id": "doc", "chunk_index": 7, "source_document": "crawl",
        "article_title": "Title", "article_index": 12, "parent_cpe_ids": ["p"], "child_cpe_ids": ["c", "d"],
        "domain_code": 3, "task_code": 4, "modifier_code": 5,
        "concept_text": "A concept.", "probe_question": "What?", "expected_answer": "This.",
        "soft_negatives": ["that"], "hard_negatives": ["tax", "rain"],
        "metadata": {"k": [0.1, -7, {"deep": null}]}, "episode_id": "e1",
    })
}

#[actix_web::test]
async fn a_row_the_database_refuses_is_found_by_halving_kept_and_stored_when_it_is_sent_again() {
    let service = TestService::scripted().await;
    service.database.run(REFUSE).await;
    let bad = whole().to_string() + "\n";
    let answer = service.stream(numbered(0..300) + &bad + &numbered(300..600)).await;
    assert_eq!((tally(&answer), error_code(&answer)), ((600, 0, 1), "store_failed"));
    assert_eq!(service.stored().await, 600);

    let page = letters(&service, "").await;
    let letter = &page["letters"][0];
    assert_eq!((page["letters"].as_array().unwrap().len(), &page["total"]), (1, &json!(1)));
    assert_eq!(letter["input"], whole());
    let named = ["dataset_source", "id", "stage", "cause", "attempts", "times", "batch_id"];
    let expected = json!(["user_input", "bad", "write", "store_failed", 1, 1, null]);
    assert_eq!(json!(named.map(|name| &letter[name])), expected);
    assert!(letter["message"].as_str().unwrap().contains("23514, refused"), "{letter}");
    assert_eq!(letter["first_failed_at"], letter["last_failed_at"]);

    // Once more by the client, once more by the command.
    assert_eq!(tally(&service.stream(bad.clone()).await), (0, 0, 1));
    let (code, said, complaint) = replay(&service, &[]);
    assert_eq!((code, &*said), (Some(1), "1 sent again: 0 stored, 0 duplicates, 1 failed again"));
    assert!(complaint.starts_with("store_failed: the database refused"), "{complaint}");
    assert_eq!(summary(&service).await, ["write store_failed 3 3"]);
    assert_eq!(service.get("/stats").await.1["dead_letters"], 1);

    service.database.run(ACCEPT).await;
    let (code, said, complaint) = replay(&service, &["--cause", "store_failed", "--dataset", "user_input"]);
    let expected = (Some(0), "1 sent again: 1 stored, 0 duplicates, 0 failed again", "");
    assert_eq!((code, &*said, &*complaint), expected);
    assert_eq!((service.stored().await, summary(&service).await), (601, vec![]));
    let stored = "SELECT concat_ws(' ', document_id, chunk_index, source_document, article_title, article_index, \
                  parent_cpe_ids, child_cpe_ids, domain_code, task_code, modifier_code, tmd_source, metadata) \
                  FROM chunks WHERE id = 'bad'";
    let metadata = r#"{"k": [0.1, -7, {"deep": null}], "episode_id": "e1"}"#;
    let expected = format!("doc 7 crawl Title 12 {{p}} {{c,d}} 3 4 5 client {metadata}");
    assert_eq!(service.database.texts(stored).await, [expected]);
    // The client's own line is the same chunk.
    assert_eq!(tally(&service.stream(bad).await), (0, 1, 0));
    assert_eq!(replay(&service, &[]).1, "0 sent again: 0 stored, 0 duplicates, 0 failed again");
    assert_eq!(service.get("/stats").await.1["dead_letters"], 0);
    service.stop().await;
}

#[actix_web::test]
async fn each_stage_leaves_letters_and_errors_of_the_client_leave_none() {
    let llm = SimulatedLlm::start(Options { latency: "3ms".parse().unwrap(), ..Options::default() }).unwrap();
    let gate = GatedEncoder::default();
    gate.break_on(Some(BAD));
    let fault_hook = Arc::new(Poison { stage: Stage::Embed, text: "It kills." });
    let overrides = Overrides { fault_hook, encoder: Some(gate.factory()), ..overrides() };
    let flags = ["--tmd-backend", "llm", "--llm-endpoint", llm.url(), "--tmd-on-failure", "reject"];
    let service = TestService::build(overrides, &flags).await;
    let coded = |id: &str, text: &str| {
        let codes = json!({"id": id, "text": text, "domain_code": 1, "task_code": 1, "modifier_code": 1});
        codes.to_string() + "\n"
    };
    let good = coded("good", "Good.");
    assert_eq!(tally(&service.stream(good).await), (1, 0, 0));
    for (line, code) in [
        (coded("broken", BAD), "embed_failed"),
        (coded("poison", "It kills."), "poison"),
        (coded("good", "Other content."), "id_conflict"),
        (coded("empty", "  "), "text_empty"),
        (coded("odd", "a\0"), "nul_character"),
        ("{\"txt\":1}".to_owned(), "missing_field"),
    ] {
        assert_eq!(error_code(&service.stream(line).await), code);
    }
    llm.stop();
    assert_eq!(error_code(&service.stream("{\"text\":\"Without codes.\"}".to_owned()).await), "llm_failed");
    let expected = ["embed embed_failed 1 1", "embed poison 3 1", "tmd llm_failed 1 1"];
    assert_eq!(summary(&service).await, expected);
    // A derived id comes out of the input again, so the input does not name it.
    assert_eq!(letters(&service, "?cause=llm_failed").await["letters"][0]["input"].get("id"), None);
    let text = client().get(format!("{}/metrics", service.url)).send().await.unwrap().text().await.unwrap();
    for cause in ["embed_failed", "poison", "llm_failed"] {
        assert!(text.contains(&format!("lnsp_dead_letters_total{{cause=\"{cause}\"}}")), "{text}");
    }
    assert!(text.contains("# HELP lnsp_dead_letters Dead letters"), "{text}");

    // The model works again; the letter of the chunk is removed with its commit.
    gate.break_on(None);
    assert_eq!(tally(&service.stream(coded("broken", BAD)).await), (1, 0, 0));
    assert_eq!(summary(&service).await, expected[1..]);
    service.stop().await;
}

#[actix_web::test]
async fn the_client_is_told_after_the_letter_is_written_and_the_slot_is_held_until_then() {
    let gate = GatedEncoder::default();
    gate.break_on(Some(BAD));
    let service = TestService::build(Overrides { encoder: Some(gate.factory()), ..overrides() }, &[]).await;
    let held = service.database.hold("LOCK TABLE dead_letters IN EXCLUSIVE MODE").await;
    let mut upload = RawConnection::upload(&service).await;
    upload.send(format!("{{\"text\":\"{BAD}\"}}\n{{\"text\":\"Good.\"}}\n")).await;
    upload.end().await;
    let seen = upload.read_until("stored").await;
    assert!(!seen.contains("embed_failed"), "{seen}");
    let entrance = service.state.pipeline.entrance();
    until("only the bad one is left, in its slot", || entrance.inside() == Some([0, 0, 1, 0])).await;
    assert_eq!(entrance.keys(), 1);
    held.release().await;
    let seen = upload.read_until("summary").await;
    assert!(seen.contains("embed_failed") && seen.contains("\"failed\":1"), "{seen}");
    assert_eq!(summary(&service).await, ["embed embed_failed 1 1"]);
    service.stop().await;
}

#[actix_web::test]
async fn a_letter_that_cannot_be_written_costs_no_answer() {
    let gate = GatedEncoder::default();
    gate.break_on(Some(BAD));
    let service = TestService::build(Overrides { encoder: Some(gate.factory()), ..overrides() }, &[]).await;
    service.database.run("ALTER TABLE dead_letters RENAME TO elsewhere").await;
    let answer =
        service.stream(numbered(0..10) + &format!("{{\"text\":\"{BAD}\"}}\n") + &numbered(10..20)).await;
    assert_eq!((tally(&answer), error_code(&answer)), ((20, 0, 1), "embed_failed"));
    let text = client().get(format!("{}/metrics", service.url)).send().await.unwrap().text().await.unwrap();
    assert!(text.contains("\nlnsp_dead_letters_unwritten_total "), "{text}");
    let (status, answer) = service.get("/dead-letters").await;
    assert_eq!((status, &answer["error"]["code"]), (503, &json!("store_unavailable")));
    service.database.run("ALTER TABLE elsewhere RENAME TO dead_letters").await;
    assert_eq!(summary(&service).await, Vec::<String>::new());
    assert_eq!(service.state.pipeline.entrance().inside(), Some([0, 0, 0, 0]));
    service.stop().await;
}

#[actix_web::test]
async fn pages_are_bounded_and_filtered() {
    let service = TestService::scripted().await;
    service.database.run("ALTER TABLE chunks ADD CONSTRAINT refused CHECK (id !~ '^n')").await;
    let (status, _) = service
        .post_as("/ingest?dataset_source=one&batch_id=b", "application/x-ndjson", numbered(0..25))
        .await;
    assert_eq!(status, 200);
    service.post_as("/ingest?dataset_source=two", "application/x-ndjson", numbered(0..5)).await;
    let (mut after, mut seen) = (json!(0), Vec::new());
    loop {
        let page = letters(&service, &format!("?limit=10&after={after}")).await;
        assert_eq!(page["total"], 30);
        if page["next"].is_null() {
            break;
        }
        after = page["next"].clone();
        let letters = page["letters"].as_array().unwrap();
        assert_eq!(letters.len(), 10);
        seen.extend(letters.iter().map(|l| (l["letter"].as_i64().unwrap(), l["batch_id"].clone())));
    }
    assert!(seen.len() == 30 && seen.is_sorted_by_key(|(letter, _)| *letter), "{seen:?}");
    assert_eq!(seen.iter().filter(|(_, batch)| batch == "b").count(), 25);
    let count = async |query: &str| letters(&service, query).await["letters"].as_array().unwrap().len();
    assert_eq!(count("?dataset_source=two").await, 5);
    assert_eq!(count("?cause=store_failed&dataset_source=one").await, 25);
    assert_eq!(count("?cause=poison").await, 0);
    for (query, code) in [
        ("?cause=id_conflict", "invalid_query"),
        ("?limit=0", "invalid_query"),
        ("?limit=1001", "invalid_query"),
        ("?page=2", "unknown_field"),
    ] {
        let (status, answer) = service.get(&format!("/dead-letters{query}")).await;
        assert_eq!((status, &answer["error"]["code"]), (422, &json!(code)), "{query}");
    }
    let (code, said, _) = replay(&service, &["--cause", "id_conflict"]);
    assert_eq!((code, &*said), (Some(1), ""));

    service.database.run(ACCEPT).await;
    assert_eq!(
        replay(&service, &["--dataset", "one"]).1,
        "25 sent again: 25 stored, 0 duplicates, 0 failed again"
    );
    assert_eq!(service.database.number("SELECT count(*) FROM chunks WHERE batch_id = 'b'").await, 25);
    assert_eq!((service.stored().await, summary(&service).await.len()), (25, 5));
    service.stop().await;
}

#[actix_web::test]
async fn the_longest_chunk_that_is_taken_fits_into_a_line_and_is_sent_again() {
    let service = TestService::scripted().await;
    service.database.run(&REFUSE.replace("text <> 'The bad one.'", "text NOT LIKE 'The bad one.%'")).await;
    // A control character takes six bytes in JSON.
    let long = |bytes: usize| "\u{1}".repeat(bytes);
    let links = vec![long(512); 64];
    let text = format!("{BAD}{}", long((64 << 10) - BAD.len()));
    let chunk = json!({
        "id": format!("i{}", long(511)), "text": text, "document_id": long(512), "source_document": long(512),
        "article_title": long(512), "parent_cpe_ids": links, "child_cpe_ids": links,
        "metadata": {"long": "x".repeat((64 << 10) - 11)},
        "concept_text": format!("c{}", long(10_915)),
    });
    assert!(chunk.to_string().len() > 900_000);
    let body = json!({"chunks": [chunk], "batch_id": "b"}).to_string();
    let (status, answer) = service.post("/ingest", body.clone()).await;
    assert_eq!((status, &answer["error"]["code"]), (422, &json!("store_failed")), "{}", answer["error"]);
    let (code, said, _) = replay(&service, &[]);
    assert_eq!((code, &*said), (Some(1), "1 sent again: 0 stored, 0 duplicates, 1 failed again"));
    service.database.run(ACCEPT).await;
    assert_eq!(replay(&service, &[]).1, "1 sent again: 1 stored, 0 duplicates, 0 failed again");
    assert_eq!(service.post("/ingest", body).await.1["results"][0]["status"], "duplicate");
    assert_eq!(summary(&service).await, Vec::<String>::new());
    service.stop().await;
}

#[actix_web::test]
async fn the_letter_of_a_chunk_that_is_stored_goes_when_it_is_sent_and_no_other() {
    let service = TestService::scripted().await;
    assert_eq!(tally(&service.stream(numbered(0..3)).await), (3, 0, 0));
    // As another service on the same database leaves them: this one learns of them when the list is read.
    let leave = "INSERT INTO dead_letters (dataset_source, id, content_hash, stage, cause, message, attempts, input, \
                 first_failed_at, last_failed_at) \
                 SELECT dataset_source, id, CASE id WHEN 'n1' THEN sha256('other') ELSE content_hash END, 'write', \
                 'store_failed', 'left', 1, '{}', now(), now() FROM chunks";
    service.database.run(leave).await;
    assert_eq!(letters(&service, "").await["total"], 3);
    assert_eq!(tally(&service.stream(numbered(0..2)).await), (0, 2, 0));
    let left = "SELECT id FROM dead_letters ORDER BY id";
    assert_eq!(service.database.texts(left).await, ["n1", "n2"]);
    service.stop().await;
}

fn letter(text: &str, failed_at: DateTime<Utc>) -> DeadLetter {
    let chunk = embedded(draft("info", text, text), (0, 0, 0), &[1.0]).chunk;
    let message = "quotes a server\0".to_owned();
    DeadLetter { chunk, stage: "tmd", cause: "llm_failed", message, attempts: 2, failed_at }
}

#[tokio::test]
async fn a_letter_written_twice_is_one_failure_and_a_page_ends_before_it_is_too_long() {
    let (store, model, _) = fresh().await;
    let now = DateTime::from_timestamp_micros(Utc::now().timestamp_micros()).unwrap();
    let batch = [letter("b", now), letter("a", now), letter("b", now + Duration::seconds(1))];
    for _ in 0..2 {
        store.write_dead_letters(&batch).await.unwrap();
    }
    assert_eq!((store.dead_letter_count(), store.count_dead_letters().await.unwrap()), (2, 2));
    store.write_dead_letters(&[letter("b", now + Duration::seconds(2))]).await.unwrap();
    let all = DeadLetterFilter::default();
    let page = async |after, bytes| store.dead_letters(&all, after, 10, bytes).await.unwrap();
    let found = page(0, 1 << 20).await;
    let told: Vec<_> =
        found.iter().map(|l| (l.id.as_str(), l.attempts, l.times, l.last_failed_at - now)).collect();
    assert_eq!(told, [("a", 2, 1, Duration::zero()), ("b", 4, 2, Duration::seconds(2))]);
    assert_eq!(found[0].message, "quotes a server");
    // One at least, however long it is.
    assert_eq!(page(0, 1).await, found[..1]);
    assert_eq!(page(0, found[0].input.len() + found[1].input.len()).await, found);
    assert_eq!(page(found[0].letter, 1).await, found[1..]);
    assert_eq!(page(found[1].letter, 1).await, []);

    // Stored under the same key with other content, it is not what the letter is about.
    store.insert(model, &[plain("a"), embedded(draft("info", "b", "b"), (0, 0, 0), &[1.0])]).await.unwrap();
    assert_eq!((store.dead_letter_count(), store.count_dead_letters().await.unwrap()), (1, 1));
    assert_eq!(page(0, 1 << 20).await, found[..1]);
}

#[test]
fn replay_says_when_there_is_no_service() {
    let mut command = lnsp(&["replay", "--url", "http://127.0.0.1:1"]);
    let (code, said, complaint) = run(&mut command);
    assert_eq!((code, &*said), (Some(1), ""));
    assert!(
        complaint.starts_with("lnsp: no answer from http://127.0.0.1:1; is the service running?"),
        "{complaint}"
    );
}
