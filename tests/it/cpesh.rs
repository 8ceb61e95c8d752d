//! The CPESH parts that a client gives are kept, the concept is what is embedded, and the old tables show them.

use crate::store::{draft, embedded, fresh, plain};
use crate::support::gated_encoder::GatedEncoder;
use crate::support::process::{lnsp, run};
use crate::support::test_service::{TestService, overrides};
use diesel_async::SimpleAsyncConnection;
use lnsp_ingest::app::Overrides;
use lnsp_ingest::chunk::{Chunk, Cpesh};
use lnsp_ingest::quality::QualityMetrics;
use serde_json::{Value, json};

const TEXT: &str =
    "Chlorophyll in the leaves of plants takes up light, and sugar is made of water and air with it.";

/// A chunk with all five parts.
fn whole() -> Value {
    json!({
        "id": "leaf", "text": TEXT, "concept_text": "Plants make sugar with light.",
        "probe_question": "What do plants make with light?", "expected_answer": "Sugar",
        "soft_negatives": ["Starch", "Oxygen", "Wood"], "hard_negatives": ["The Eiffel Tower", "a \"tax\", {or} two"],
    })
}

async fn send(service: &TestService, on_conflict: &str, chunk: Value) -> Value {
    let body = json!({ "chunks": [chunk], "dataset_source": "d", "on_conflict": on_conflict });
    let (_, answer) = service.post("/ingest", body.to_string()).await;
    answer["results"][0].clone()
}

async fn vector(service: &TestService, id: &str) -> String {
    let query = format!(
        "SELECT encode(vector, 'hex') FROM chunks JOIN chunk_vectors USING (item) WHERE id = '{id}' AND kind = 'concept'"
    );
    service.database.texts(&query).await.remove(0)
}

async fn line(service: &TestService, id: &str) -> Value {
    let query = format!("SELECT line::text FROM chunk_lines WHERE line ->> 'id' = '{id}'");
    serde_json::from_str(&service.database.texts(&query).await[0]).unwrap()
}

fn with(mut chunk: Value, field: &str, value: Value) -> Value {
    chunk[field] = value;
    chunk
}

#[actix_web::test]
async fn all_parts_are_stored_and_the_concept_is_what_is_embedded() {
    let service = TestService::scripted().await;
    let result = send(&service, "error", whole()).await;
    assert_eq!(result["status"], "stored", "{result}");
    assert_eq!(result["concept_text"], whole()["concept_text"]);
    assert_eq!(result["backends"]["cpesh"], "client-provided");
    let metrics = &result["quality_metrics"];
    let counted =
        ["cpesh_completeness", "concept_length", "text_length", "soft_negatives_count", "total_negatives"]
            .map(|name| metrics[name].as_f64().unwrap());
    assert_eq!(counted, [1.0, 29.0, TEXT.chars().count() as f64, 3.0, 5.0]);

    let concept = send(&service, "error", json!({"id": "c", "text": whole()["concept_text"]})).await;
    let text = send(&service, "error", json!({"id": "t", "text": TEXT})).await;
    assert_eq!([&concept["status"], &text["status"]], ["stored", "stored"]);
    assert_eq!(vector(&service, "leaf").await, vector(&service, "c").await);
    assert_ne!(vector(&service, "leaf").await, vector(&service, "t").await);

    // As a line of an upload it is what was sent, and is known when it is sent again.
    let exported = line(&service, "leaf").await;
    for (field, value) in whole().as_object().unwrap() {
        assert_eq!(&exported[field], value, "{field}");
    }
    let again = send(&service, "error", exported).await;
    assert_eq!((&again["status"], again.get("differs")), (&json!("duplicate"), None), "{again}");
    assert_eq!(service.stored().await, 3);
    service.stop().await;
}

#[actix_web::test]
async fn the_old_table_shows_the_parts_and_scores_them_as_the_answer_does() {
    let service = TestService::scripted().await;
    let parts: [Value; 5] = [
        whole(),
        json!({"id": "none", "text": TEXT}),
        json!({"id": "probe", "text": TEXT, "probe_question": "What is made?"}),
        json!({"id": "long", "text": "a b c d", "concept_text": "A concept that is longer than its text.",
               "hard_negatives": ["x", "y", "z", "u", "v", "w"]}),
        json!({"id": "tiny", "text": TEXT, "concept_text": "Sugar", "soft_negatives": ["Salt"]}),
    ];
    for chunk in parts {
        let result = send(&service, "error", chunk.clone()).await;
        assert_eq!(result["status"], "stored", "{result}");
        let row = format!(
            "SELECT to_jsonb(e) FROM cpe_entry e JOIN chunks c USING (cpe_id) WHERE c.id = '{}'",
            chunk["id"].as_str().unwrap()
        );
        let row: Value = serde_json::from_str(&service.database.texts(&row).await[0]).unwrap();
        for (column, absent) in [
            ("concept_text", chunk["text"].clone()),
            ("probe_question", json!("")),
            ("expected_answer", json!("")),
            ("soft_negatives", json!([])),
            ("hard_negatives", json!([])),
        ] {
            assert_eq!(&row[column], chunk.get(column).unwrap_or(&absent), "{column} of {chunk}");
        }
        assert_eq!((&row["mission_text"], &row["source_chunk"]), (&chunk["text"], &chunk["text"]));
        for (name, value) in result["quality_metrics"].as_object().unwrap() {
            assert_eq!(row["quality_metrics"][name].as_f64(), value.as_f64(), "{name} of {chunk}");
        }
        let (ours, theirs) = (&result["confidence_score"], &row["confidence_score"]);
        assert!((ours.as_f64().unwrap() - theirs.as_f64().unwrap()).abs() < 1e-6, "{ours} {theirs} {chunk}");
    }
    service.stop().await;
}

#[actix_web::test]
async fn other_parts_are_no_conflict_and_only_another_concept_is_embedded_again() {
    let gate = GatedEncoder::default();
    let service = TestService::build(Overrides { encoder: Some(gate.factory()), ..overrides() }, &[]).await;
    assert_eq!(send(&service, "error", whole()).await["status"], "stored");
    let before = vector(&service, "leaf").await;
    let texts = gate.texts();

    for (field, value) in [
        ("concept_text", json!("Leaves work.")),
        ("probe_question", Value::Null),
        ("expected_answer", json!("Starch")),
        ("soft_negatives", json!(["Oxygen", "Starch", "Wood"])),
        ("hard_negatives", json!([])),
    ] {
        let result = send(&service, "error", with(whole(), field, value)).await;
        assert_eq!(
            (&result["status"], &result["differs"]),
            (&json!("duplicate"), &json!([field])),
            "{result}"
        );
    }
    // A blank part is an absent one, and so is a concept that is the text.
    let plain = json!({"id": "plain", "text": TEXT});
    assert_eq!(send(&service, "error", plain.clone()).await["status"], "stored");
    let blank = with(with(plain, "concept_text", json!(TEXT)), "soft_negatives", json!(["", null]));
    let result = send(&service, "error", with(blank, "probe_question", json!(" "))).await;
    assert_eq!((&result["status"], result.get("differs")), (&json!("duplicate"), None), "{result}");
    assert_eq!(gate.texts(), texts + 1);

    let asked = with(whole(), "probe_question", json!("What is sugar made of?"));
    assert_eq!(send(&service, "replace", asked.clone()).await["status"], "replaced");
    // The question alone is embedded.
    assert_eq!((gate.texts(), vector(&service, "leaf").await), (texts + 2, before.clone()));
    assert_eq!(line(&service, "leaf").await["probe_question"], asked["probe_question"]);

    let renamed = with(whole(), "concept_text", json!("Leaves work."));
    assert_eq!(send(&service, "replace", renamed).await["status"], "replaced");
    assert_eq!(gate.texts(), texts + 4, "concept and question");
    let after = vector(&service, "leaf").await;
    assert_ne!(after, before);

    // Without parts the text is its own concept again.
    assert_eq!(send(&service, "replace", json!({"id": "leaf", "text": TEXT})).await["status"], "replaced");
    assert_eq!(vector(&service, "leaf").await, vector(&service, "plain").await);
    assert_eq!(service.database.number("SELECT count(*) FROM chunk_cpesh").await, 0);
    service.stop().await;
}

#[actix_web::test]
async fn concept_and_question_share_a_pass_where_they_are_about_as_long() {
    let long =
        json!({"id": "long", "text": "Rivers run. ".repeat(60), "probe_question": "What do rivers do?"});
    // The question of a long text would be padded to its length. Without batches, each text has a pass of its own.
    let together: [(&[&str], &[usize]); 2] =
        [(&[], &[2, 1, 1]), (&["--enable-batch-embeddings", "false"], &[1, 1, 1, 1])];
    for (flags, expected) in together {
        let gate = GatedEncoder::default();
        let overrides = Overrides { encoder: Some(gate.factory()), ..overrides() };
        let service = TestService::build(overrides, flags).await;
        let before = gate.passes().len();
        send(&service, "error", whole()).await;
        send(&service, "error", long.clone()).await;
        let passes: Vec<usize> = gate.passes()[before..].iter().map(Vec::len).collect();
        assert_eq!(passes, expected, "{flags:?}");
        assert_eq!(service.stored().await, 2);
        service.stop().await;
    }
}

#[actix_web::test]
async fn parts_that_cannot_be_stored_are_refused_by_name() {
    let service = TestService::scripted().await;
    let long = "x".repeat(64 * 1024);
    for (field, value, code) in [
        ("concept_text", json!(long), "cpesh_too_large"),
        ("expected_answer", json!("a\0b"), "nul_character"),
        ("soft_negatives", json!(vec!["n"; 17]), "cpesh_too_large"),
        ("hard_negatives", json!(["x", long]), "cpesh_too_large"),
        ("soft_negatives", json!("one"), "wrong_type"),
        ("probe_question", json!(["what"]), "wrong_type"),
    ] {
        let result = send(&service, "error", with(whole(), field, value)).await;
        let error = &result["error_detail"];
        assert_eq!((&error["code"], &error["param"]), (&json!(code), &json!(field)), "{result}");
    }
    assert_eq!(service.rows().await, 0);
    let largest = with(whole(), "soft_negatives", json!(vec!["x".repeat(4000); 16]));
    assert_eq!(send(&service, "error", largest).await["status"], "stored");
    service.stop().await;
}

#[actix_web::test]
async fn a_dead_letter_has_the_parts_and_replay_stores_them() {
    let service = TestService::scripted().await;
    service.database.run("ALTER TABLE chunks ADD CONSTRAINT refused CHECK (id <> 'leaf')").await;
    assert_eq!(send(&service, "error", whole()).await["error_detail"]["code"], "store_failed");
    let letter = service.get("/dead-letters").await.1["letters"][0]["input"].clone();
    for (field, value) in whole().as_object().unwrap() {
        assert_eq!(&letter[field], value, "{field}");
    }
    service.database.run("ALTER TABLE chunks DROP CONSTRAINT refused").await;
    let (code, said, _) = run(&mut lnsp(&["replay", "--url", &service.url]));
    assert_eq!((code, said.trim()), (Some(0), "1 sent again: 1 stored, 0 duplicates, 0 failed again"));
    assert_eq!(line(&service, "leaf").await["hard_negatives"], whole()["hard_negatives"]);
    service.stop().await;
}

#[tokio::test]
async fn parts_come_and_go_with_their_rows() {
    let (store, model, dsn) = fresh().await;
    let mut with_parts = draft("d", "p", TEXT);
    with_parts.cpesh =
        Cpesh { concept_text: Some("Sugar.".into()), hard_negatives: vec!["Tax".into()], ..Cpesh::default() };
    let row = embedded(with_parts, (4, 5, 9), &[0.6, 0.8, 0.0, 0.0]);
    store.insert(model, &[plain("a"), row.clone(), plain("b")]).await.unwrap();
    let mut conn = crate::support::postgres::connect(&dsn).await;
    let parts = async |conn: &mut _| crate::store::count(conn, "chunk_cpesh").await;
    assert_eq!(parts(&mut conn).await, 1);
    // What a language model extracted is not what the client said.
    let fields = store.stored_fields(&[&row.chunk.key]).await.unwrap();
    assert_eq!(fields[&row.chunk.key].cpesh, row.chunk.cpesh);
    conn.batch_execute("UPDATE chunk_cpesh SET source = 'llm'").await.unwrap();
    assert_eq!(store.stored_fields(&[&row.chunk.key]).await.unwrap()[&row.chunk.key].cpesh, None);
    conn.batch_execute("DELETE FROM chunks WHERE id = 'p'").await.unwrap();
    assert_eq!(parts(&mut conn).await, 0);
}

#[test]
fn a_chunk_without_parts_has_the_hash_it_had_before_there_were_any() {
    // Parts with their lengths in front: the purpose, no metadata, no parents, no children.
    let mut before = blake3::Hasher::new();
    before.update(&14u64.to_le_bytes()).update(b"lnsp details 1").update(&[0]).update(&0u64.to_le_bytes());
    for _ in 0..2 {
        before.update(&8u64.to_le_bytes()).update(&0u64.to_le_bytes());
    }
    let none = Chunk::new(draft("d", "i", TEXT)).unwrap();
    assert_eq!(&none.details_hash, before.finalize().as_bytes());
    let mut given = draft("d", "i", TEXT);
    given.cpesh.probe_question = Some("What?".into());
    let given = Chunk::new(given).unwrap();
    assert_ne!(given.details_hash, none.details_hash);
    assert_eq!((given.content_hash, given.cpe_id), (none.content_hash, none.cpe_id));
    assert!((QualityMetrics::new(TEXT, None, 4).confidence() - 0.09).abs() < 1e-12);
}
