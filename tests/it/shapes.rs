//! Chunks and requests as people really write them: fields of other tools, numbers as ids, numbers in quotes, `null`
//! everywhere, lists in the place of objects. What means one thing is taken for it; what does not fails alone, by name.

use crate::support::test_service::{TestService, client, tally};
use serde_json::{Value, json};

/// An upload of lines with a query; the lines of its answer.
async fn lines(service: &TestService, query: &str, body: impl Into<reqwest::Body>) -> Vec<Value> {
    let request = client().post(format!("{}/ingest?{query}", service.url)).body(body);
    let request =
        request.header("Content-Type", "application/x-ndjson").header("Accept", "application/x-ndjson");
    let answer = request.send().await.unwrap().text().await.unwrap();
    answer.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The results of an answer, in the order of the lines.
fn statuses(answer: &[Value]) -> Vec<String> {
    let mut results: Vec<&Value> = answer.iter().filter(|line| line["type"] == "result").collect();
    results.sort_by_key(|result| result["line"].as_u64());
    let said = |result: &Value| match result["error"]["code"].as_str() {
        Some(code) => code.to_owned(),
        None => result["status"].as_str().unwrap().to_owned(),
    };
    results.into_iter().map(said).collect()
}

async fn ingest(service: &TestService, body: Value) -> Value {
    let (status, answer) = service.post("/ingest", body.to_string()).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

#[actix_web::test]
async fn unknown_fields_are_kept_and_told_once() {
    let service = TestService::scripted().await;
    let answer = ingest(
        &service,
        json!({"chunks": [
            {"id": "a", "text": "From a chunker.", "chunk_id": "x", "word_count": 3, "metadata": {"word_count": "mine"}},
            {"id": "b", "text": "From another.", "word_count": 2},
            {"id": "c", "text": " ", "word_count": 0},
            {"id": "d", "text": "Plain."},
        ]}),
    )
    .await;
    assert_eq!((&answer["successful"], &answer["failed"]), (&json!(3), &json!(1)));
    assert_eq!(
        answer["unknown_fields"],
        json!({"chunk_id": 1, "word_count": 3}),
        "also those of a chunk that failed"
    );
    let stored = service.database.texts("SELECT metadata::text FROM chunks WHERE id = 'a'").await;
    let stored: Value = serde_json::from_str(&stored[0]).unwrap();
    assert_eq!(stored, json!({"chunk_id": "x", "word_count": "mine"}), "what is in the metadata stays");

    let answer =
        lines(&service, "", "{\"text\":\"A line.\",\"colour\":\"red\"}\n{\"text\":\"Another.\"}\n").await;
    assert_eq!(answer.last().unwrap()["unknown_fields"], json!({"colour": 1}));
    let answer = lines(&service, "", "{\"text\":\"Another.\"}\n").await;
    assert_eq!(answer.last().unwrap().get("unknown_fields"), None);
    let (_, summary) = service
        .post_as("/ingest", "application/x-ndjson", "{\"text\":\"A line.\",\"colour\":\"red\"}\n")
        .await;
    assert_eq!((&summary["duplicates"], &summary["unknown_fields"]), (&json!(1), &json!({"colour": 1})));
    service.stop().await;
}

#[actix_web::test]
async fn a_vector_of_another_model_is_kept_or_refused_by_its_name() {
    let service = TestService::scripted().await;
    let vector = |length: u32| -> Vec<f64> { (0..length).map(|n| f64::from(n) / 1537.0).collect() };
    let chunks = json!([{"text": "With a vector.", "embedding": vector(768)},
                        {"text": "With a long one.", "embedding": vector(1536)}]);
    let answer = ingest(&service, json!({ "chunks": chunks })).await;
    assert_eq!((&answer["successful"], &answer["failed"]), (&json!(1), &json!(1)));
    let error = &answer["results"][1]["error_detail"];
    assert_eq!(error["code"], "metadata_too_large");
    assert!(error["message"].as_str().unwrap().contains("embedding"), "{error}");
    let kept =
        service.database.number("SELECT jsonb_array_length(metadata->'embedding')::bigint FROM chunks").await;
    assert_eq!(kept, 768);
    service.stop().await;
}

#[actix_web::test]
async fn the_names_of_unknown_fields_are_bounded() {
    let service = TestService::scripted().await;
    let body: String = (0..300)
        .map(|n| format!("{{\"text\":\"Fact {n}.\",\"field {n} {}\":1,\"same\":1}}\n", "x".repeat(1000)))
        .collect();
    let answer = lines(&service, "", body).await;
    assert_eq!(tally(&answer), (300, 0, 0));
    let counts = answer.last().unwrap()["unknown_fields"].as_object().unwrap().clone();
    assert_eq!((counts.len(), &counts["(others)"], &counts["same"]), (65, &json!(237), &json!(300)));
    assert!(counts.keys().all(|name| name.len() < 110));
    service.stop().await;
}

#[actix_web::test]
async fn unknown_fields_can_be_refused_for_their_chunk_alone() {
    let service = TestService::scripted().await;
    let body = "{\"text\":\"Strict.\",\"colour\":\"red\"}\n{\"text\":\"Strict too.\",\"batch_id\":\"b\"}\n";
    let answer = lines(&service, "unknown_fields=refuse", body).await;
    assert_eq!(statuses(&answer), ["unknown_field", "stored"]);
    let refused = answer.iter().find(|line| line["line"] == 1).unwrap();
    assert!(refused["error"]["message"].as_str().unwrap().starts_with("unknown field `colour`"), "{refused}");
    assert_eq!(answer.last().unwrap().get("unknown_fields"), None);

    let chunks = json!([{"text": "One.", "colour": 1}, {"text": "Two."}]);
    for (path, body) in [
        ("/ingest?unknown_fields=refuse", json!({"chunks": chunks})),
        ("/ingest", json!({"chunks": chunks, "unknown_fields": "refuse"})),
        ("/ingest?unknown_fields=keep", json!({"chunks": chunks, "unknown_fields": "refuse"})),
    ] {
        let (status, answer) = service.post(path, body.to_string()).await;
        assert_eq!((status, &answer["failed"]), (200, &json!(1)), "{path}: {answer}");
        assert_eq!(answer["results"][0]["error_detail"]["code"], "unknown_field");
    }
    let (status, answer) =
        service.post("/ingest?unknown_fields=drop", json!({"chunks": chunks}).to_string()).await;
    assert_eq!((status, &answer["error"]["param"]), (422, &json!("unknown_fields")), "{answer}");
    service.stop().await;
}

#[actix_web::test]
async fn ids_may_be_numbers_and_whole_numbers_may_be_written_in_many_ways() {
    let service = TestService::scripted().await;
    let chunk = |id: Value, index: Value| json!({"chunks": [{"id": id, "document_id": 42, "chunk_index": index, "text": "Numbered."}]});
    let first = ingest(&service, chunk(json!(7), json!(3))).await;
    assert_eq!((&first["results"][0]["id"], &first["results"][0]["status"]), (&json!("7"), &json!("stored")));
    for (id, index) in [(json!("7"), json!("3")), (json!(7.0), json!(3.0)), (json!(7), json!("003"))] {
        let again = ingest(&service, chunk(id, index)).await;
        assert_eq!(again["results"][0]["status"], "duplicate", "{again}");
    }
    assert_eq!(service.database.texts("SELECT document_id FROM chunks").await, ["42"]);
    let codes = json!({"text": "Coded.", "domain_code": 4.0, "task_code": "005", "modifier_code": "6"});
    let answer = ingest(&service, json!({"chunks": [codes], "dataset_source": 2024, "batch_id": 9})).await;
    assert_eq!(answer["results"][0]["tmd_codes"], json!({"domain": 4, "task": 5, "modifier": 6}));
    assert_eq!(answer["batch_id"], "9");
    assert_eq!(service.database.number("SELECT count(*) FROM chunks WHERE dataset_source = '2024'").await, 1);

    let (status, answer) =
        service.post("/ingest", json!({"chunks": [{"text": "x", "chunk_index": 3.5}]}).to_string()).await;
    assert_eq!((status, &answer["error"]["param"]), (422, &json!("chunk_index")), "{answer}");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("expected a whole number") && message.contains("received the number 3.5"),
        "{message}"
    );
    service.stop().await;
}

#[actix_web::test]
async fn a_batch_may_stand_in_a_chunk() {
    let service = TestService::scripted().await;
    let chunks = json!([{"text": "Own batch.", "batch_id": "b7"}, {"text": "Batch of the request.", "batch_id": null}]);
    let answer = ingest(&service, json!({"chunks": chunks, "batch_id": "all"})).await;
    assert_eq!((&answer["successful"], answer.get("unknown_fields")), (&json!(2), None));
    let stored = service.database.texts("SELECT batch_id FROM chunks ORDER BY text").await;
    assert_eq!(stored, ["all", "b7"]);
    service.stop().await;
}

#[actix_web::test]
async fn null_is_absence() {
    let service = TestService::scripted().await;
    let body = json!({
        "chunks": [{"id": null, "text": "Null fields.", "document_id": null, "chunk_index": null, "metadata": null,
            "parent_cpe_ids": null, "domain_code": null, "concept_vec": null, "batch_id": null}],
        "dataset_source": null, "batch_id": null, "skip_cpesh": null, "chunking_time_ms": null, "on_conflict": null,
        "unknown_fields": null,
    });
    assert_eq!(ingest(&service, body).await["results"][0]["status"], "stored");
    let again = ingest(&service, json!({"chunks": [{"text": "Null fields."}]})).await;
    assert_eq!(again["results"][0]["status"], "duplicate", "the same as without");
    service.stop().await;
}

#[actix_web::test]
async fn a_bad_chunk_takes_no_neighbour_with_it() {
    let service = TestService::scripted().await;
    let deep = format!("{{\"text\":\"a\",\"metadata\":{{\"k\":{}{}}}}}", "[".repeat(40), "]".repeat(40));
    let bad: [(&str, &str); 12] = [
        ("{\"text\":\"cut \\ud83d\"}", "invalid_json"),
        ("{\"text\":\"bad escape \\x\"}", "invalid_json"),
        ("{\"text\":tru}", "invalid_json"),
        ("{\"text\":\"a\",}", "invalid_json"),
        ("{\"text\":5}", "wrong_type"),
        ("[\"pos\",\"by position\",null]", "wrong_type"),
        ("\"only a text\"", "wrong_type"),
        ("null", "wrong_type"),
        (&deep, "nested_too_deep"),
        ("{\"text\":\"a\",\"text\":\"b\"}", "duplicate_key"),
        ("{\"text\":\"a\",\"chunk_index\":123456789012345678901}", "number_out_of_range"),
        ("{\"content\":\"a\"}", "missing_field"),
    ];
    let good = |n: usize| format!("{{\"id\":\"good {n}\",\"text\":\"Good neighbour {n}.\"}}");
    let both: Vec<String> =
        bad.iter().enumerate().flat_map(|(n, (chunk, _))| [good(n), (*chunk).to_owned()]).collect();
    let expected: Vec<&str> = bad.iter().flat_map(|(_, code)| ["stored", *code]).collect();

    let body = format!("{{\"chunks\":[{}],\"dataset_source\":\"json\"}}", both.join(",\n"));
    let (status, answer) = service.post("/ingest", body).await;
    assert_eq!((status, &answer["successful"], &answer["failed"]), (200, &json!(12), &json!(12)), "{answer}");
    let results = answer["results"].as_array().unwrap();
    let said = |result: &Value| result["error_detail"]["code"].as_str().unwrap_or("stored").to_owned();
    assert_eq!(results.iter().map(said).collect::<Vec<_>>(), expected);
    for result in results.iter().filter(|result| result["status"] == "error") {
        let message = result["error"].as_str().unwrap();
        assert!(
            message.len() > 10 && !message.contains("struct") && !message.contains("sequence"),
            "{message}"
        );
    }
    // Bytes that are not UTF-8 are in one chunk, too.
    let raw =
        [&b"{\"chunks\":[{\"text\":\"Before.\"},{\"text\":\"\xff\"},{\"text\":\"After.\"}]}"[..]].concat();
    let (status, answer) = service.post("/ingest", raw).await;
    assert_eq!((status, &answer["successful"]), (200, &json!(2)), "{answer}");
    assert_eq!(answer["results"][1]["error_detail"]["code"], "invalid_utf8");

    let answer = lines(&service, "dataset_source=lines", both.join("\n")).await;
    assert_eq!(statuses(&answer), expected);
    service.stop().await;
}

#[actix_web::test]
async fn lists_by_position_are_refused_in_every_body() {
    let service = TestService::scripted().await;
    let chunk = "[\"pos\",\"A chunk by position\",null,null,null,null,null,null,null,null,null,null,null,null,null]\n";
    let answer = lines(&service, "", chunk).await;
    assert_eq!(statuses(&answer), ["wrong_type"]);
    for (path, body) in [
        ("/ingest", json!([[{"text": "a"}], "d"])),
        ("/ingest", json!([{"text": "a"}])),
        ("/embed", json!([["a"]])),
        ("/search", json!(["a"])),
        ("/search", json!({"query": "a", "filter": ["Science"]})),
    ] {
        let (status, answer) = service.post(path, body.to_string()).await;
        assert_eq!(
            (status, &answer["error"]["code"]),
            (422, &json!("wrong_type")),
            "{path} {body}: {answer}"
        );
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains("received an array"), "{path} {body}: {message}");
    }
    assert_eq!(service.rows().await, 0);
    service.stop().await;
}

#[actix_web::test]
async fn query_parameters_are_options_of_a_json_request_and_its_fields_win() {
    let service = TestService::scripted().await;
    let chunks = |text: &str| json!([{"text": text}]);
    for skip in ["True", "false", "1", "0", "YES", "no"] {
        let path = format!("/ingest?dataset_source=query&batch_id=b&skip_cpesh={skip}");
        let body = json!({"chunks": chunks(&format!("Skipped {skip}."))});
        let (status, answer) = service.post(&path, body.to_string()).await;
        assert_eq!((status, &answer["batch_id"]), (200, &json!("b")), "{answer}");
        let expected = if ["True", "1", "YES"].contains(&skip) { "disabled" } else { "env-disabled" };
        assert_eq!(answer["results"][0]["backends"]["cpesh"], expected, "{skip}");
        let (_, stream) = service.post_as(&path, "application/x-ndjson", "{\"text\":\"A line.\"}").await;
        assert_eq!(stream["successful"], 1, "{skip}");
    }
    let body = json!({"chunks": chunks("Mine."), "dataset_source": "body", "skip_cpesh": "False"});
    let (status, answer) =
        service.post("/ingest?dataset_source=query&skip_cpesh=true", body.to_string()).await;
    assert_eq!(
        (status, &answer["results"][0]["backends"]["cpesh"]),
        (200, &json!("env-disabled")),
        "{answer}"
    );
    let datasets = service.database.texts("SELECT DISTINCT dataset_source FROM chunks ORDER BY 1").await;
    assert_eq!(datasets, ["body", "query"]);

    for (query, code, param) in [
        ("colour=red", "unknown_field", "colour"),
        ("skip_cpesh=perhaps", "invalid_query", "skip_cpesh"),
        ("on_conflict=merge", "invalid_query", "on_conflict"),
        ("dataset_source=caf%E9", "invalid_utf8", "dataset_source"),
        ("dataset_source=a&dataset_source=b", "duplicate_key", "dataset_source"),
        ("dataset_source=%E2%80%8B", "invalid_name", "dataset_source"),
    ] {
        let (status, answer) =
            service.post(&format!("/ingest?{query}"), json!({"chunks": chunks("x")}).to_string()).await;
        let error = &answer["error"];
        assert_eq!(
            (status, &error["code"], &error["param"]),
            (422, &json!(code), &json!(param)),
            "{query}: {answer}"
        );
    }
    service.stop().await;
}

#[actix_web::test]
async fn an_idempotency_key_belongs_to_the_query_too() {
    let service = TestService::scripted().await;
    let send = async |query: &str| {
        let request = client().post(format!("{}/ingest?{query}", service.url)).header("Idempotency-Key", "k");
        let request =
            request.header("Content-Type", "application/json").body("{\"chunks\":[{\"text\":\"Once.\"}]}");
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.headers().contains_key("idempotency-replayed"))
    };
    assert_eq!(send("dataset_source=a").await, (200, false));
    assert_eq!(send("dataset_source=a").await, (200, true));
    assert_eq!(send("dataset_source=b").await, (422, false));
    service.stop().await;
}
