//! What makes a chunk the same chunk, what differs in a repetition, and how a stored chunk is replaced.

use crate::support::gated_encoder::GatedEncoder;
use crate::support::test_service::{TestService, client, overrides, tally};
use lnsp_ingest::app::Overrides;
use serde_json::{Value, json};

/// Sends chunks to a dataset and gives the results.
async fn send(service: &TestService, on_conflict: &str, chunks: Value) -> Vec<Value> {
    let body = json!({ "chunks": chunks, "dataset_source": "d", "on_conflict": on_conflict });
    let (_, answer) = service.post("/ingest", body.to_string()).await;
    answer["results"].as_array().unwrap_or_else(|| panic!("{answer}")).clone()
}

fn statuses(results: &[Value]) -> Vec<&str> {
    results.iter().map(|result| result["status"].as_str().unwrap()).collect()
}

async fn upload(service: &TestService, query: &str, lines: &[Value]) -> Vec<Value> {
    upload_text(&service.url, query, lines.iter().map(|line| format!("{line}\n")).collect()).await
}

/// The results in the order of the lines, and the summary.
async fn upload_text(url: &str, query: &str, body: String) -> Vec<Value> {
    let request = client()
        .post(format!("{url}/ingest?dataset_source=d&{query}"))
        .header("Content-Type", "application/x-ndjson")
        .header("Accept", "application/x-ndjson")
        .body(body);
    let text = request.send().await.unwrap().text().await.unwrap();
    let mut answer: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    answer.sort_by_key(|line| line["line"].as_u64().unwrap_or(u64::MAX));
    answer
}

async fn texts_found(service: &TestService, query: &str) -> Vec<String> {
    let body = json!({ "query": query, "top_k": 100 }).to_string();
    let (status, found) = service.post("/search", body).await;
    assert_eq!(status, 200, "{found}");
    let results = found["results"].as_array().unwrap();
    results.iter().map(|result| result["text"].as_str().unwrap().to_owned()).collect()
}

#[actix_web::test]
async fn the_same_words_from_two_places_are_two_chunks() {
    let service = TestService::scripted().await;
    let places = json!([
        {"text": "See also"},
        {"text": "See also", "source_document": "a"},
        {"text": "See also", "source_document": "b"},
        {"text": "See also", "article_title": "T"},
        {"text": "See also", "article_title": "T", "article_index": 2},
        {"text": "See also", "document_id": "a"},
        {"text": "See also", "document_id": "a", "chunk_index": 1},
    ]);
    let first = send(&service, "error", places.clone()).await;
    assert_eq!(statuses(&first), ["stored"; 7]);
    let mut ids: Vec<&str> = first.iter().map(|result| result["global_id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 7);
    let again = send(&service, "error", places).await;
    assert_eq!(statuses(&again), ["duplicate"; 7]);
    assert!(again.iter().all(|result| result.get("differs").is_none()));
    assert_eq!(service.rows().await, 7);
    service.stop().await;
}

#[actix_web::test]
async fn what_is_added_later_is_no_conflict_and_is_named() {
    let service = TestService::scripted().await;
    assert_eq!(
        upload(&service, "batch_id=b1", &[json!({"text": "Iron rusts."})]).await[0]["status"],
        "stored"
    );
    let more = json!({"text": "Iron rusts.", "metadata": {"k": 1}, "child_cpe_ids": ["x"],
                      "domain_code": 15, "task_code": 31, "modifier_code": 63});
    let [line, summary] = &upload(&service, "batch_id=b2", &[more]).await[..] else { panic!() };
    assert_eq!(line["status"], "duplicate");
    let differs = ["metadata", "child_cpe_ids", "domain_code", "task_code", "modifier_code", "batch_id"]
        .map(Value::from);
    let mut seen = line["differs"].as_array().unwrap().clone();
    seen.retain(|field| differs.contains(field));
    assert!(seen.contains(&json!("metadata")) && seen.contains(&json!("batch_id")), "{line}");
    assert_eq!(line["differs"].as_array().unwrap().len(), seen.len(), "{line}");
    assert_eq!((&summary["duplicates"], &summary["failed"]), (&json!(1), &json!(0)));
    // A request without a batch gets an id for its answer, which says nothing about its chunks.
    let again = send(&service, "error", json!([{"text": "Iron rusts."}])).await;
    assert_eq!((&again[0]["status"], again[0].get("differs")), (&json!("duplicate"), None), "{}", again[0]);
    service.stop().await;
}

#[actix_web::test]
async fn equal_metadata_is_equal_however_it_is_written() {
    let service = TestService::scripted().await;
    let send_text = async |metadata: &str| {
        let body = format!(
            r#"{{"chunks":[{{"id":"m","text":"Numbers.","metadata":{metadata}}}],"dataset_source":"d"}}"#
        );
        service.post("/ingest", body).await.1["results"][0].clone()
    };
    assert_eq!(send_text(r#"{"n":1,"o":{"b":[1,2.5],"a":null}}"#).await["status"], "stored");
    for same in
        [r#"{"o":{"a":null,"b":[1.0,25e-1]},"n":1.0}"#, r#"{ "n" : 10e-1, "o":{"b":[1,2.50],"a":null}}"#]
    {
        let result = send_text(same).await;
        assert_eq!((&result["status"], result.get("differs")), (&json!("duplicate"), None), "{result}");
    }
    for other in [r#"{"n":"1","o":{"b":[1,2.5],"a":null}}"#, r#"{"n":1}"#, "null", "{}"] {
        let result = send_text(other).await;
        assert_eq!(
            (&result["status"], &result["differs"]),
            (&json!("duplicate"), &json!(["metadata"])),
            "{result}"
        );
    }
    service.stop().await;
}

#[actix_web::test]
async fn other_content_under_one_id_is_a_conflict_that_names_what_differs() {
    let service = TestService::scripted().await;
    send(&service, "error", json!([{"id": "r", "text": "Old.", "article_title": "T"}])).await;
    let conflict = send(&service, "error", json!([{"id": "r", "text": "New.", "article_title": "U"}])).await;
    let detail = &conflict[0]["error_detail"];
    assert_eq!((&detail["code"], &detail["retryable"]), (&json!("id_conflict"), &json!(false)));
    let message = detail["message"].as_str().unwrap();
    assert!(message.contains("text, article_title") && message.contains("on_conflict=replace"), "{message}");
    let kept = send(&service, "keep", json!([{"id": "r", "text": "New.", "article_title": "T"}])).await;
    assert_eq!((&kept[0]["status"], &kept[0]["differs"]), (&json!("duplicate"), &json!(["text"])));
    assert_eq!(service.database.texts("SELECT text FROM chunks").await, ["Old."]);
    service.stop().await;
}

#[actix_web::test]
async fn a_replaced_chunk_is_found_by_its_new_text_and_by_nothing_else() {
    let gate = GatedEncoder::default();
    let service = TestService::build(Overrides { encoder: Some(gate.factory()), ..overrides() }, &[]).await;
    let old =
        send(&service, "error", json!([{"id": "r", "text": "Old rivers."}, {"id": "s", "text": "Lakes."}]))
            .await;
    let new = send(&service, "replace", json!([{"id": "r", "text": "New volcanoes."}])).await;
    assert_eq!(statuses(&new), ["replaced"]);
    assert_eq!(
        (&new[0]["global_id"], &new[0]["created_at"]),
        (&old[0]["global_id"], &old[0]["created_at"]),
        "it is the same chunk"
    );
    assert!(new[0]["seq"].as_i64() > old[1]["seq"].as_i64());
    assert_eq!(gate.texts(), 3);
    let mut found = texts_found(&service, "volcanoes").await;
    found.sort_unstable();
    assert_eq!(found, ["Lakes.", "New volcanoes."]);
    assert_eq!(gate.texts(), 4, "the query");

    // Other fields than the text: a new number, and no work for the model.
    let retitled = json!([{"id": "r", "text": "New volcanoes.", "article_title": "T", "metadata": {"k": 1},
                           "domain_code": 3, "task_code": 2, "modifier_code": 1}]);
    let third = send(&service, "replace", retitled.clone()).await;
    assert_eq!(statuses(&third), ["replaced"]);
    assert!(third[0]["seq"].as_i64() > new[0]["seq"].as_i64());
    assert_eq!(third[0]["tmd_codes"], json!({"domain": 3, "task": 2, "modifier": 1}));
    assert_eq!(gate.texts(), 4);
    let row = "SELECT concat_ws(' ', text, article_title, metadata, domain_code, tmd_source) FROM chunks WHERE id = 'r'";
    assert_eq!(service.database.texts(row).await, ["New volcanoes. T {\"k\": 1} 3 client"]);
    let vectors = "SELECT count(*) FROM chunk_vectors";
    assert_eq!((service.rows().await, service.database.number(vectors).await), (2, 2));

    // Nothing left to change.
    let fourth = send(&service, "replace", retitled).await;
    assert_eq!(statuses(&fourth), ["duplicate"]);
    let status = service.state.index.status();
    assert_eq!(Some(status.applied_seq), third[0]["seq"].as_i64());
    service.state.index.flush().await.unwrap();
    assert_eq!(texts_found(&service, "volcanoes").await.len(), 2);
    service.stop().await;
}

#[actix_web::test]
async fn a_file_with_corrections_replaces_what_changed_and_nothing_else() {
    let service = TestService::scripted().await;
    let line = |n: usize, text: String| json!({"id": n.to_string(), "text": text});
    let before: Vec<Value> = (0..600).map(|n| line(n, format!("Fact {n}."))).collect();
    assert_eq!(tally(&upload(&service, "batch_id=monday", &before).await), (600, 0, 0));
    let after: Vec<Value> = (0..600)
        .map(|n| line(n, if n % 100 == 0 { format!("Corrected fact {n}.") } else { format!("Fact {n}.") }))
        .collect();
    let answer = upload(&service, "batch_id=tuesday&on_conflict=replace", &after).await;
    let summary = answer.last().unwrap();
    assert_eq!(
        (&summary["replaced"], &summary["duplicates"], &summary["stored"], &summary["failed"]),
        (&json!(6), &json!(594), &json!(0), &json!(0))
    );
    let corrected = "SELECT count(*) FROM chunks WHERE text LIKE 'Corrected%' AND batch_id = 'tuesday'";
    assert_eq!((service.database.number(corrected).await, service.rows().await), (6, 600));
    service.stop().await;
}

#[actix_web::test]
async fn rows_are_in_the_order_in_which_they_were_sent() {
    let service = TestService::scripted().await;
    let text = |n: usize| format!("Sentence {n} {}", "word ".repeat((n * 37) % 60));
    let chunks: Vec<Value> = (0..300).map(|n| json!({ "text": text(n) })).collect();
    let results = send(&service, "error", json!(chunks)).await;
    let times: Vec<&str> = results.iter().map(|result| result["created_at"].as_str().unwrap()).collect();
    assert!(times.is_sorted_by(|a, b| a < b), "{:?}", &times[..9]);
    let lines: Vec<Value> = (300..900).map(|n| json!({ "text": text(n) })).collect();
    upload(&service, "", &lines).await;
    let expected: Vec<String> = (0..900).map(text).collect();
    for table in ["chunks", "cpe_entry"] {
        let column = if table == "chunks" { "text" } else { "concept_text" };
        let rows = service.database.texts(&format!("SELECT {column} FROM {table} ORDER BY created_at")).await;
        assert!(rows == expected, "{table}");
    }
    service.stop().await;
}

#[actix_web::test]
async fn what_was_exported_is_known_when_it_is_sent_again() {
    let service = TestService::scripted().await;
    let chunks = json!([
        {"text": "Plain."},
        {"id": "7", "text": "With an id.", "metadata": {"float": 1e20, "deep": {"list": [1.0, 2.5, 1e300]}}},
        {"text": "Placed.", "document_id": "x", "chunk_index": 3, "article_title": "T", "article_index": 4},
        {"text": "Coded.", "domain_code": 1, "task_code": 2, "modifier_code": 3, "parent_cpe_ids": ["p"]},
        {"text": "Named source.", "source_document": "crawl", "episode_id": "e"},
    ]);
    assert_eq!(statuses(&send(&service, "error", chunks).await), ["stored"; 5]);
    let lines = service.database.texts("SELECT line::text FROM chunk_lines ORDER BY created_at").await;
    let lines: Vec<String> = lines.into_iter().map(|line| line + "\n").collect();
    let answer = upload_text(&service.url, "", lines.concat()).await;
    assert_eq!(tally(&answer), (0, 5, 0), "{answer:?}");
    assert!(answer.iter().all(|line| line.get("differs").is_none()), "{answer:?}");
    service.stop().await;
}

#[actix_web::test]
async fn texts_that_repeat_under_other_sources_are_all_stored_and_known_afterwards() {
    const LINES: usize = 20_000;
    let service = TestService::scripted().await;
    // Two of five texts are one of a few sentences that stand in every article.
    let line = |n: usize| match n % 5 {
        0 => json!({"text": "See also", "source_document": format!("article {n}")}),
        1 => json!({"text": "References", "article_title": format!("Article {n}"), "article_index": n}),
        _ => json!({"text": format!("Fact {n}."), "source_document": format!("article {}", n / 5)}),
    };
    let lines: Vec<Value> = (0..LINES).map(line).collect();
    assert_eq!(tally(&upload(&service, "", &lines).await), (LINES, 0, 0));
    let again = upload(&service, "", &lines).await;
    assert_eq!(tally(&again), (0, LINES, 0));
    assert!(again.iter().all(|line| line.get("differs").is_none()));
    assert_eq!(service.rows().await, LINES as i64);
    service.stop().await;
}

#[actix_web::test]
async fn chunks_that_replace_one_that_is_in_flight_wait_and_the_last_one_stays() {
    let gate = GatedEncoder::shut();
    let service = TestService::build(Overrides { encoder: Some(gate.factory()), ..overrides() }, &[]).await;
    let line = |text: &str| json!({"id": "k", "text": text}).to_string() + "\n";
    let url = service.url.clone();
    let body = line("One.") + &line("Two.") + &line("One.") + &line("Three.");
    let sent = actix_web::rt::spawn(async move { upload_text(&url, "on_conflict=replace", body).await });
    let entrance = service.state.pipeline.entrance();
    crate::support::wait::until("the others follow", || entrance.following() == 3).await;
    gate.open();
    let answer = sent.await.unwrap();
    // The third is the first again, and is answered with it.
    assert_eq!(statuses(&answer[..4]), ["stored", "replaced", "duplicate", "replaced"]);
    assert_eq!(service.database.texts("SELECT text FROM chunks").await, ["Three."]);
    assert_eq!(texts_found(&service, "x").await, ["Three."]);
    service.stop().await;
}

#[actix_web::test]
async fn a_store_of_the_first_version_is_brought_up_to_date_and_doubles_nothing() {
    let service = TestService::scripted().await;
    let chunks = json!([
        {"text": "Derived.", "source_document": "a"},
        {"id": "own", "text": "With an id.", "metadata": {"k": 1.5}, "child_cpe_ids": ["x", "y\"{}"]},
        {"text": "Derived.", "source_document": "b", "document_id": "d", "chunk_index": 2},
    ]);
    assert_eq!(statuses(&send(&service, "error", chunks.clone()).await), ["stored"; 3]);
    // As the first version wrote them: other hashes, other derived ids, which are the public names. It had no triggers.
    for change in [
        "SET session_replication_role = replica;
         UPDATE chunks SET content_hash = sha256('old'), details_hash = NULL",
        "SET session_replication_role = replica;
         UPDATE chunks SET id = gen.name::text, cpe_id = gen.name
         FROM (SELECT item, gen_random_uuid() AS name FROM chunks WHERE id = cpe_id::text) AS gen
         WHERE chunks.item = gen.item",
        "UPDATE change_clock SET identity_version = 1",
        "INSERT INTO dead_letters (dataset_source, id, content_hash, stage, cause, message, attempts, input,
                                   first_failed_at, last_failed_at)
         VALUES ('d', gen_random_uuid()::text, sha256('old'), 'tmd', 'poison', '', 3,
                 '{\"text\":\"Failed.\",\"chunk_index\":0,\"source_document\":\"web_input\"}', now(), now())",
    ] {
        service.database.run(change).await;
    }
    let names = "SELECT cpe_id::text FROM chunks ORDER BY created_at";
    let before = service.database.texts(names).await;
    let address = service.database.dsn().to_owned();
    service.stop().await;

    let database = crate::support::database::Database::at(address.parse().unwrap());
    let service = TestService::build_at(database, overrides(), &[]).await;
    let again = send(&service, "error", chunks).await;
    assert_eq!(statuses(&again), ["duplicate"; 3]);
    assert!(again.iter().all(|result| result.get("differs").is_none()), "{again:?}");
    assert_eq!(again.iter().map(|result| result["global_id"].as_str().unwrap()).collect::<Vec<_>>(), before);
    assert_eq!(service.database.texts(names).await, before);
    assert_eq!(service.database.number("SELECT identity_version FROM change_clock").await, 2);
    // The dead letter is that of the chunk, and goes when the chunk is stored.
    assert_eq!(service.database.number("SELECT count(*) FROM dead_letters").await, 1);
    assert_eq!(statuses(&send(&service, "error", json!([{"text": "Failed."}])).await), ["stored"]);
    assert_eq!(service.database.number("SELECT count(*) FROM dead_letters").await, 0);
    service.stop().await;
}
