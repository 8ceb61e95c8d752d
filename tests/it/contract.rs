//! The contract that existing clients know, field by field, and what happens to bad input.

use crate::support::test_service::TestService;
use serde_json::{Value, json};

const SEED: [&str; 10] = [
    "Photosynthesis converts light into chemical energy.",
    "The Eiffel Tower was built in 1889.",
    "Machine learning is a subset of AI.",
    "The human brain has 86 billion neurons.",
    "Quantum mechanics describes atomic behavior.",
    "The Great Barrier Reef is the largest coral reef.",
    "DNA replication copies genetic information.",
    "The Industrial Revolution transformed manufacturing.",
    "Black holes have extremely strong gravity.",
    "Antibiotics target bacterial processes.",
];

fn seed() -> Value {
    let chunks: Vec<Value> = SEED.iter().map(|text| json!({ "text": text })).collect();
    json!({ "chunks": chunks, "dataset_source": "parallel_test", "skip_cpesh": true })
}

#[actix_web::test]
async fn the_ten_chunks_of_the_seed_are_answered_field_by_field() {
    let service = TestService::real().await;
    let (status, answer) = service.post("/ingest", seed().to_string()).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        (&answer["total_chunks"], &answer["successful"], &answer["failed"]),
        (&json!(10), &json!(10), &json!(0))
    );
    uuid::Uuid::parse_str(answer["batch_id"].as_str().unwrap()).unwrap();
    assert!(answer["processing_time_ms"].as_f64().unwrap() > 0.0);

    let results = answer["results"].as_array().unwrap();
    for (position, (result, text)) in results.iter().zip(SEED).enumerate() {
        let id = |at: usize| json!([results[at]["global_id"]]);
        assert_eq!(result["concept_text"], text);
        assert_eq!(result["success"], true);
        assert_eq!(result["error"], Value::Null);
        assert_eq!(result["status"], "stored");
        assert_eq!(
            uuid::Uuid::parse_str(result["global_id"].as_str().unwrap()).unwrap().get_version_num(),
            8
        );
        for (axis, codes) in [("domain", 16), ("task", 32), ("modifier", 64)] {
            assert!(result["tmd_codes"][axis].as_u64().unwrap() < codes, "{result}");
        }
        assert_eq!(result["vector_dimension"], 400);
        assert!((result["confidence_score"].as_f64().unwrap() - 0.09).abs() < 1e-9);
        let quality = &result["quality_metrics"];
        assert_eq!(quality["text_length"], text.chars().count());
        assert_eq!(quality["total_negatives"], 0);
        let created = result["created_at"].as_str().unwrap();
        chrono::NaiveDateTime::parse_from_str(created, "%Y-%m-%dT%H:%M:%S%.6fZ").unwrap();
        // No document: the request itself is the sequence.
        assert_eq!(result["parent_cpe_ids"], if position == 0 { json!([]) } else { id(position - 1) });
        assert_eq!(result["child_cpe_ids"], if position == 9 { json!([]) } else { id(position + 1) });
        for measured in ["tmd_ms", "embedding_ms", "postgres_ms", "total_ms"] {
            assert!(result["timings_ms"][measured].as_f64().unwrap() > 0.0, "{measured} of {result}");
        }
        // What does not apply is absent: nothing was chunked, no concept was made.
        assert!(
            result["timings_ms"].get("chunking_ms").is_none()
                && result["timings_ms"].get("cpesh_ms").is_none()
        );
        assert_eq!(result["backends"]["cpesh"], "disabled");
        assert!(result["backends"]["tmd"].as_str().unwrap().starts_with("local:"));
        assert_eq!(result["backends"]["embedding"], "inproc:all-minilm-l6-v2");
    }
    assert_eq!(service.stored().await, 10);

    let (status, again) = service.post("/ingest", seed().to_string()).await;
    assert_eq!((status, &again["successful"]), (200, &json!(10)));
    for (first, second) in results.iter().zip(again["results"].as_array().unwrap()) {
        assert_eq!(second["status"], "duplicate");
        assert_eq!(second["global_id"], first["global_id"]);
        assert_eq!(second["tmd_codes"], first["tmd_codes"]);
        assert_eq!(second["timings_ms"], json!({}), "nothing was measured, for nothing was done");
    }
    assert_eq!(service.stored().await, 10);

    let (_, stats) = service.get("/stats").await;
    assert_eq!(stats["total_chunks_processed"], 20);
    assert_eq!(stats["successfully_ingested"], 20);
    assert_eq!(stats["success_rate"], 100.0);
    let (_, found) = service
        .post("/search", json!({"query": "what do plants do with light?", "top_k": 1}).to_string())
        .await;
    assert_eq!(found["results"][0]["text"], SEED[0], "{found}");
    service.stop().await;
}

#[actix_web::test]
async fn codes_of_the_client_are_taken_as_they_are_and_links_as_they_were_sent() {
    let service = TestService::scripted().await;
    let body = json!({"chunks": [
        {"text": "one", "id": "a", "domain_code": 15, "task_code": 14, "modifier_code": 9, "document_id": "d"},
        {"text": "two", "id": "b", "document_id": "d", "parent_cpe_ids": ["mine"], "sequence_index": 4},
        {"text": "three", "id": "c", "document_id": "e", "domain_code": 3},
    ], "chunking_time_ms": 12.5, "batch_id": "any text"});
    let (status, answer) = service.post("/ingest", body.to_string()).await;
    assert_eq!((status, &answer["batch_id"]), (200, &json!("any text")));
    let result = |at: usize| &answer["results"][at];
    assert_eq!(result(0)["tmd_codes"], json!({"domain": 15, "task": 14, "modifier": 9}));
    assert_eq!(result(0)["backends"]["tmd"], "client-provided");
    assert!(result(0)["timings_ms"].get("tmd_ms").is_none(), "no source was asked");
    assert_eq!(result(0)["timings_ms"]["chunking_ms"], 12.5);
    assert_eq!(result(0)["child_cpe_ids"], json!([result(1)["global_id"]]));
    assert_eq!(result(1)["parent_cpe_ids"], json!(["mine"]));
    assert_eq!(result(2)["parent_cpe_ids"], json!([]));
    assert_eq!(result(2)["tmd_source"], "local", "one code of three is none");
    assert_eq!(service.database.number("SELECT chunk_index FROM chunks WHERE id = 'b'").await, 4);
    service.stop().await;
}

#[actix_web::test]
async fn the_same_key_with_other_content_is_a_conflict_and_never_a_silent_drop() {
    let service = TestService::scripted().await;
    let send = |text: &str| json!({"chunks": [{"id": "k", "text": text}]}).to_string();
    assert_eq!(service.post("/ingest", send("first")).await.0, 200);
    let (status, answer) = service.post("/ingest", send("second")).await;
    assert_eq!(status, 422);
    assert_eq!(answer["results"][0]["error_detail"]["code"], "id_conflict");
    let within = json!({"chunks": [{"id": "w", "text": "one"}, {"id": "w", "text": "one"}, {"id": "w", "text": "two"}]});
    let (_, answer) = service.post("/ingest", within.to_string()).await;
    let status = |at: usize| answer["results"][at]["status"].as_str().unwrap();
    assert_eq!([status(0), status(1), status(2)], ["stored", "duplicate", "error"]);
    assert_eq!(service.stored().await, 2);
    service.stop().await;
}

#[actix_web::test]
async fn a_wrong_shape_refuses_the_request_and_says_where() {
    let service = TestService::scripted().await;
    let many: Vec<Value> = (0..20_000).map(|n| json!({ "text": n.to_string() })).collect();
    let cases = [
        ("this is no JSON".to_owned(), 422, "invalid_json", None),
        (String::new(), 422, "invalid_json", None),
        ("{}".to_owned(), 422, "missing_field", None),
        (json!({"chunks": []}).to_string(), 422, "missing_field", Some("chunks")),
        (json!({"chunks": "x"}).to_string(), 422, "wrong_type", Some("chunks")),
        (json!({"chunks": [{"text": 5}]}).to_string(), 422, "wrong_type", Some("text")),
        (json!({"chunks": [{"text": "a", "domain_code": 1.5}]}).to_string(), 422, "wrong_type", None),
        (json!({"chunks": [{"text": "a"}], "mode": "x"}).to_string(), 422, "unknown_field", Some("mode")),
        (
            json!({"chunks": [{"text": "a"}], "batch_id": [1]}).to_string(),
            422,
            "wrong_type",
            Some("batch_id"),
        ),
        (json!([{"text": "a"}]).to_string(), 422, "wrong_type", None),
        (json!({"chunks": many}).to_string(), 413, "body_too_large", None),
        (json!({"chunks": [{"text": "a".repeat(33 << 20)}]}).to_string(), 413, "body_too_large", None),
    ];
    for (body, status, code, param) in cases {
        let shown: String = body.chars().take(60).collect();
        let (received, answer) = service.post("/ingest", body).await;
        assert_eq!((received, &answer["error"]["code"]), (status, &json!(code)), "{shown}: {answer}");
        assert!(answer["request_id"].is_string() && answer["error"]["message"].is_string());
        if let Some(param) = param {
            assert_eq!(answer["error"]["param"], param, "{answer}");
        }
    }
    let (status, answer) = service.post("/ingest", b"{\"chunks\":[{\"text\":\"a\xff\"}]}".to_vec()).await;
    assert_eq!((status, &answer["error"]["code"]), (422, &json!("invalid_utf8")));
    assert_eq!(service.post_as("/ingest", "text/plain", "x").await.0, 415);
    assert_eq!(service.get("/nowhere").await.0, 404);
    assert_eq!(service.get("/ingest").await.0, 405);
    assert_eq!(service.rows().await, 0);
    service.stop().await;
}

/// Chunks whose content is bad, each with its cause.
fn bad_contents() -> Vec<(Value, &'static str)> {
    vec![
        (json!({"text": ""}), "text_empty"),
        (json!({"text": " \n\t "}), "text_empty"),
        (json!({"text": "a\u{0}b"}), "nul_character"),
        (json!({"text": "a", "metadata": {"k": ["\u{0}"]}}), "nul_character"),
        (json!({"text": "a", "document_id": "\u{0}"}), "nul_character"),
        (json!({"text": "b".repeat(5 << 20)}), "text_too_long"),
        (json!({"text": "a", "domain_code": 16, "task_code": 0, "modifier_code": 0}), "code_out_of_range"),
        (json!({"text": "a", "domain_code": 0, "task_code": -1, "modifier_code": 0}), "code_out_of_range"),
        (json!({"text": "a", "domain_code": 0, "task_code": 0, "modifier_code": 64}), "code_out_of_range"),
        (json!({"text": "a", "id": " "}), "invalid_name"),
        (json!({"text": "a", "id": "i".repeat(600)}), "invalid_name"),
        (json!({"text": "a", "id": "\u{200b}"}), "invalid_name"),
        (json!({"text": "\u{200b}\u{feff}"}), "text_empty"),
        (json!({"text": 5}), "wrong_type"),
        (json!({"text": "a", "chunk_index": 1.5}), "wrong_type"),
        (json!({"text": "a", "metadata": "none"}), "wrong_type"),
        (json!(["an id", "a text by its position"]), "wrong_type"),
        (json!("a text"), "wrong_type"),
        (json!({}), "missing_field"),
    ]
}

#[actix_web::test]
async fn bad_content_fails_alone() {
    let service = TestService::scripted().await;
    let mut chunks = vec![json!({"text": "good neighbour 0"})];
    let bad = bad_contents();
    for (n, (chunk, _)) in bad.iter().enumerate() {
        chunks.extend([chunk.clone(), json!({ "text": format!("good neighbour {}", n + 1) })]);
    }
    let (status, answer) = service.post("/ingest", json!({ "chunks": chunks }).to_string()).await;
    assert_eq!((status, &answer["failed"]), (200, &json!(bad.len())));
    for (n, (_, code)) in bad.iter().enumerate() {
        let result = &answer["results"][2 * n + 1];
        assert_eq!(result["success"], false);
        assert_eq!(result["error_detail"]["code"], *code, "{result}");
        assert_eq!(
            (&result["global_id"], &result["tmd_codes"], &result["vector_dimension"]),
            (&json!(""), &json!({}), &json!(0))
        );
        assert!(result["concept_text"].as_str().unwrap().chars().count() <= 50);
        assert_eq!(answer["results"][2 * n + 2]["success"], true);
    }
    assert_eq!(service.stored().await, bad.len() as u64 + 1);
    let (status, answer) = service.post("/ingest", json!({"chunks": [{"text": " "}]}).to_string()).await;
    assert_eq!((status, &answer["error"]["code"]), (422, &json!("text_empty")), "no chunk was good");
    service.stop().await;
}

#[actix_web::test]
async fn in_a_stream_a_bad_line_is_an_answer_and_the_next_line_goes_on() {
    let service = TestService::scripted().await;
    let bad: [(&[u8], &str); 7] = [
        (b"hello", "invalid_json"),
        (b"{\"text\":\"\xff\"}", "invalid_utf8"),
        (b"{\"text\":\"\\ud800\"}", "invalid_json"),
        (b"{\"txt\":\"a\"}", "missing_field"),
        (b"{\"text\":7}", "wrong_type"),
        (b"{\"text\":\"a\\u0000\"}", "nul_character"),
        (b"{\"text\":\"  \"}", "text_empty"),
    ];
    let long = format!("{{\"text\":\"{}\"}}", "x".repeat(5 << 20)).into_bytes();
    let mut lines: Vec<(Vec<u8>, &str)> = bad.iter().map(|(line, code)| (line.to_vec(), *code)).collect();
    lines.push((long, "line_too_long"));
    let mut body = Vec::new();
    for (n, (line, _)) in lines.iter().enumerate() {
        body.extend_from_slice(line);
        body.extend_from_slice(format!("\r\n\n{{\"text\":\"good {n}\"}}\n").as_bytes());
    }
    let answer = service.stream(body).await;
    assert_eq!(crate::support::test_service::tally(&answer), (lines.len(), 0, lines.len()));
    for (n, (_, code)) in lines.iter().enumerate() {
        let at = |line: usize| answer.iter().find(|result| result["line"] == line).unwrap();
        assert_eq!(at(3 * n + 1)["error"]["code"], *code);
        assert_eq!(at(3 * n + 3)["status"], "stored");
    }
    assert_eq!(service.stored().await, lines.len() as u64);
    service.stop().await;
}

#[actix_web::test]
async fn the_state_of_the_service_is_told_in_the_old_fields_and_new_ones() {
    let service = TestService::scripted().await;
    let (status, health) = service.get("/health").await;
    assert_eq!((status, &health["status"]), (200, &json!("healthy")));
    for field in ["postgresql", "faiss", "gtr_t5_api", "tmd_router_api"] {
        assert_eq!(health[field], true, "{field}");
    }
    assert!(health["llm_endpoint"].is_string());
    assert_eq!(health["parallel"]["enabled"], true);
    assert_eq!(health["parallel"]["max_workers"], 10);
    assert_eq!(health["pipeline"]["generation"], 1);
    let (status, ready) = service.get("/ready").await;
    assert_eq!((status, ready), (200, json!({"ready": true, "reasons": [], "warnings": []})));
    service.post("/ingest", seed().to_string()).await;
    let text = crate::support::test_service::client()
        .get(format!("{}/metrics", service.url))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    for name in [
        "lnsp_ingest_chunks_total{result=\"stored\"}",
        "lnsp_stage_queue_capacity{stage=\"embed\"}",
        "lnsp_stage_wait_seconds_bucket",
        "lnsp_stage_busy_seconds_bucket",
        "lnsp_embed_batch_size_bucket",
        "lnsp_store_commit_seconds_bucket",
        "lnsp_index_lag_rows",
        "lnsp_pipeline_generation",
        "lnsp_pipeline_arbiter_busy_seconds_total",
    ] {
        assert!(text.contains(name), "{name} is not in {text}");
    }
    service.stop().await;
}
