//! What is stored comes out again: in order, whole, in files that others read, and back in without being embedded.

use crate::support::database::Database;
use crate::support::gated_encoder::GatedEncoder;
use crate::support::process::lnsp;
use crate::support::raw_connection::RawConnection;
use crate::support::test_service::{Scripted, TestService, client, overrides, stream_to};
use crate::support::wait::until;
use lnsp_ingest::app::Overrides;
use lnsp_ingest::http::{Limits, Settings};
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Runs `lnsp export`: exit code and what it complained about.
async fn export(arguments: &[&str]) -> (i32, String) {
    let output =
        tokio::process::Command::from(lnsp(&[&["export"], arguments].concat())).output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "files are asked for");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// As [`export`] into a new folder, which it has to do well; gives the folder and the file.
pub async fn exported(arguments: &[&str], name: &str) -> (TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    let (code, complaint) = export(&[arguments, &["--output", file.to_str().unwrap()]].concat()).await;
    assert_eq!(code, 0, "{complaint}");
    assert!(complaint.starts_with("exported "), "{complaint}");
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [name], "nothing else is left");
    (folder, file)
}

/// Everything that a row says, apart from what is given to it anew.
async fn rows(database: &Database) -> Vec<String> {
    let row =
        "to_jsonb(c) - 'item' - 'seq' - 'created_at' || jsonb_build_object('cpesh', to_jsonb(p) - 'item')";
    let query = format!(
        "SELECT {row} FROM chunks c LEFT JOIN chunk_cpesh p USING (item) ORDER BY c.dataset_source, c.id"
    );
    database.texts(&query).await
}

async fn vectors(database: &Database) -> Vec<String> {
    let join = "chunk_vectors v JOIN chunks c USING (item) JOIN models m USING (model_id)";
    let vector = "encode(v.vector, 'hex') || kind || m.fingerprint";
    database.texts(&format!("SELECT {vector} FROM {join} ORDER BY c.dataset_source, c.id, kind")).await
}

/// Chunks of every kind: with all fields and with none, of two datasets, with codes from everywhere.
pub async fn fill(service: &TestService) -> usize {
    let mut unit = vec![0.0; Scripted::DIMS];
    unit[1] = -1.0;
    let mut lines = vec![
        json!({"text": "Nothing else."}),
        json!({"text": "A\tb\u{1f600}\"\\ \u{7f}", "id": "own", "batch_id": "b", "metadata": {"float": 1e20, "e": {}, "n": [1.0, null]}}),
        json!({"text": "Linked.", "id": "l", "parent_cpe_ids": ["p", "q\""], "child_cpe_ids": ["c"], "metadata": {}}),
        // A model that read a part, and did not know most of its characters.
        json!({"text": "Placed.", "vector_model": service.state.info.model.fingerprint, "vector": unit, "vector_truncated": true,
               "vector_unread": 0.75, "document_id": "x", "chunk_index": -3, "article_title": "T", "article_index": 4}),
        json!({"text": "Coded.", "domain_code": 1, "task_code": 2, "modifier_code": 3, "source_document": "crawl"}),
        json!({"text": "Extracted.", "concept_text": "A concept.", "probe_question": "Why?", "expected_answer": "So.",
               "soft_negatives": ["a", "b\""], "hard_negatives": ["c"]}),
        json!({"text": "Extracted a little.", "id": "x", "hard_negatives": ["c"]}),
        json!({"text": "Elsewhere.", "dataset_source": "an other one", "episode_id": "e"}),
    ];
    for (number, source) in ["llm", "fallback", "local"].iter().enumerate() {
        let mut line = json!({"text": format!("By {source}."), "domain_code": 15, "task_code": 31, "modifier_code": 63,
                              "tmd_source": source, "tmd_model": "m", "tmd_took_us": 1_234_567 * number,
                              "tmd_confidence": {"domain": 0.1, "task": 0.333_333_34, "modifier": 1}});
        if *source == "fallback" {
            line["tmd_failure"] = json!("timeout");
        }
        lines.push(line);
    }
    // Without codes: because none were asked for, and because the classifier was not sure of them.
    lines.push(json!({"text": "Not asked.", "tmd_source": "none"}));
    for (source, failure) in [("local", Value::Null), ("fallback", json!("timeout"))] {
        lines.push(json!({"text": format!("Unsure, {source}."), "tmd_source": source, "tmd_model": "m", "tmd_took_us": 7,
                          "tmd_confidence": {"domain": 0.1, "task": 0.25, "modifier": 0.333_333_34}, "tmd_failure": failure}));
    }
    for n in 0..300 {
        let mut line =
            json!({"text": format!("Fact {n}."), "document_id": format!("d{}", n % 7), "chunk_index": n / 7});
        if n % 2 == 0 {
            (line["domain_code"], line["task_code"], line["modifier_code"]) =
                (json!(n / 2 % 16), json!(n * 7 / 2 % 32), json!(n * 11 / 2 % 64));
        }
        lines.push(line);
    }
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let answer = stream_to(service.url.clone(), body).await;
    assert_eq!(answer.last().unwrap()["stored"], lines.len(), "{:?}", answer.last());
    lines.len()
}

#[actix_web::test]
async fn what_was_exported_and_deleted_comes_back_as_it_was_without_being_embedded() {
    let gate = GatedEncoder::default();
    let service = TestService::build(Overrides { encoder: Some(gate.factory()), ..overrides() }, &[]).await;
    let count = fill(&service).await;
    let (before, made) = ((rows(&service.database).await, vectors(&service.database).await), gate.texts());
    // One chunk brings its vector, and one has a question, which has a vector of its own.
    assert_eq!((before.0.len(), before.1.len(), made), (count, count + 1, count));

    for (questions, encoding) in [(1, "float"), (2, "base64")] {
        let flags = ["--url", &service.url, "--with-vectors", "--encoding-format", encoding];
        let (_folder, file) = exported(&flags, "all.ndjson").await;
        let lines = fs::read_to_string(&file).unwrap();
        assert_eq!(lines.lines().count(), count);
        // As long as it is there, it is known, and differs in nothing.
        let known = stream_to(service.url.clone(), lines.clone()).await;
        let summary = known.last().unwrap();
        assert_eq!(
            (&summary["duplicates"], summary.get("unknown_fields")),
            (&json!(count), None),
            "{summary}"
        );
        assert!(known.iter().all(|line| line.get("differs").is_none()), "{known:?}");

        service.database.run("DELETE FROM chunks").await;
        assert_eq!(service.rows().await, 0);
        let back = lnsp(&["ingest", "--url", &service.url, file.to_str().unwrap()]);
        let back = tokio::process::Command::from(back).output().await.unwrap();
        assert!(back.status.success(), "{}", String::from_utf8_lossy(&back.stderr));
        assert!(rows(&service.database).await == before.0, "{encoding}: the rows are the same");
        assert!(vectors(&service.database).await == before.1, "{encoding}: the vectors are the same");
        assert_eq!(gate.texts(), made + questions, "{encoding}: only the question was embedded");
    }
    // They are found, too.
    let (status, found) = service.post("/search", json!({"query": "x", "top_k": 1000}).to_string()).await;
    assert_eq!((status, found["results"].as_array().unwrap().len()), (200, count));
    service.stop().await;
}

#[actix_web::test]
async fn vectors_of_another_model_are_counted_and_made_anew() {
    let gate = GatedEncoder::default();
    let service = TestService::build(Overrides { encoder: Some(gate.factory()), ..overrides() }, &[]).await;
    let count = fill(&service).await;
    let before = (rows(&service.database).await, vectors(&service.database).await);
    let (_folder, file) = exported(&["--url", &service.url, "--with-vectors"], "all.ndjson").await;
    let fingerprint = &service.state.info.model.fingerprint;
    let of_another = fs::read_to_string(&file).unwrap().replace(fingerprint, "x");
    service.database.run("DELETE FROM chunks").await;
    let answer = stream_to(service.url.clone(), of_another).await;
    let summary = answer.last().unwrap();
    assert_eq!(
        (&summary["stored"], &summary["vectors_ignored"]),
        (&json!(count), &json!(count)),
        "{summary}"
    );
    assert_eq!(
        gate.texts(),
        2 * count + 1,
        "each text, and twice the question; once a vector came with its text"
    );
    // The model is the same in truth; only the vector that a client had given is not its own.
    let now = vectors(&service.database).await;
    let other = now.iter().zip(&before.1).filter(|(now, before)| now != before);
    assert_eq!((now.len(), other.count()), (count + 1, 1));

    // In a JSON request, too. A vector that the model cannot have made fails its chunk alone.
    let long = vec![1.0; Scripted::DIMS];
    let body = json!({"chunks": [
        {"text": "One.", "vector_model": "x", "vector": [1, 2]},
        {"text": "Two.", "vector_model": fingerprint, "vector": [1, 0]},
        {"text": "Three.", "vector_model": fingerprint, "vector": long},
        {"text": "Four.", "vector": [1, 2]},
    ]});
    let (_, answer) = service.post("/ingest", body.to_string()).await;
    assert_eq!(
        (&answer["vectors_ignored"], &answer["unknown_fields"]),
        (&json!(1), &json!({"vector": 1})),
        "{answer}"
    );
    let codes: Vec<&Value> =
        answer["results"].as_array().unwrap().iter().map(|result| &result["error_detail"]["code"]).collect();
    assert_eq!(codes, [&Value::Null, &json!("invalid_vector"), &json!("invalid_vector"), &Value::Null]);
    service.stop().await;
}

#[actix_web::test]
async fn a_chunk_with_its_vector_and_without_codes_is_classified_and_not_embedded() {
    let gate = GatedEncoder::default();
    let service = TestService::build(Overrides { encoder: Some(gate.factory()), ..overrides() }, &[]).await;
    let fingerprint = &service.state.info.model.fingerprint;
    let mut vector = vec![0.0; Scripted::DIMS];
    vector[7] = 1.0;
    let line = json!({"id": "v", "text": "Photosynthesis.", "vector_model": fingerprint, "vector": vector});
    let answer = stream_to(service.url.clone(), format!("{line}\n")).await;
    assert_eq!((&answer[0]["status"], &answer[0]["tmd"]["source"]), (&json!("stored"), &json!("local")));
    assert_eq!(gate.texts(), 0);
    let stored = "SELECT encode(vector, 'hex') FROM chunk_vectors";
    let bytes: String =
        vector.iter().flat_map(|x: &f32| x.to_le_bytes()).map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(service.database.texts(stored).await, [bytes]);
    service.stop().await;
}

/// The lines of an export, and its last one.
async fn lines(service: &TestService, query: &str) -> (Vec<Value>, Value) {
    let response = client().get(format!("{}/export?{query}", service.url)).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let text = response.text().await.unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let summary = lines.pop().unwrap();
    assert_eq!((&summary["type"], &summary["complete"]), (&json!("summary"), &json!(true)), "{summary}");
    assert_eq!(summary["rows"], lines.len());
    (lines, summary)
}

#[actix_web::test]
async fn an_export_is_in_order_and_only_of_what_was_asked_for() {
    let service = TestService::scripted().await;
    let count = fill(&service).await;
    let (all, summary) = lines(&service, "").await;
    assert_eq!((all.len(), summary.get("vector_model")), (count, None));
    let place = |line: &Value| {
        let text = |name: &str| line[name].as_str().map(str::to_owned);
        (text("dataset_source"), text("document_id"), line["chunk_index"].as_i64())
    };
    assert!(all.is_sorted_by_key(place));
    assert!(all.iter().all(|line| line.get("vector").is_none() && line.get("row").is_none()));
    let (other, _) = lines(&service, "dataset_source=an%20other%20one").await;
    assert_eq!((other.len(), &other[0]["text"]), (1, &json!("Elsewhere.")));
    let (document, summary) = lines(&service, "document_id=d3&vectors=true&row_fields=1").await;
    assert_eq!(
        (document.len(), &summary["vector_model"]),
        (43, &json!(service.state.info.model.fingerprint))
    );
    assert_eq!(document[1]["vector"].as_array().unwrap().len(), Scripted::DIMS);
    assert_eq!((&document[1]["text"], &document[1]["chunk_index"]), (&json!("Fact 10."), &json!(1)));
    assert_eq!(document[1]["row"]["truncated"], false);
    assert_eq!(lines(&service, "dataset_source=nothing").await.0.len(), 0);
    for (query, code, param) in [
        ("vectors=perhaps", "invalid_query", "vectors"),
        ("encoding_format=hex", "invalid_query", "encoding_format"),
        ("dataset=d", "unknown_field", "dataset"),
        ("document_id=a%00", "nul_character", "document_id"),
    ] {
        let (status, answer) = service.get(&format!("/export?{query}")).await;
        assert_eq!((status, &answer["error"]["code"]), (422, &json!(code)), "{answer}");
        assert_eq!(answer["error"]["param"], param);
    }
    service.stop().await;
}

#[actix_web::test]
async fn a_database_gives_the_same_as_a_service_and_a_wrong_one_is_told() {
    let service = TestService::scripted().await;
    fill(&service).await;
    for flags in [&["--with-vectors"][..], &["--dataset", "user_input", "--document", "d3"]] {
        let from_service = exported(&[&["--url", &service.url], flags].concat(), "s.ndjson").await;
        let from_database =
            exported(&[&["--from", service.database.dsn()], flags].concat(), "d.ndjson").await;
        assert!(fs::read(from_service.1).unwrap() == fs::read(from_database.1).unwrap(), "{flags:?}");
    }
    service.database.run("CREATE SCHEMA aside; ALTER TABLE chunks SET SCHEMA aside").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.ndjson");
    let (code, complaint) =
        export(&["--from", service.database.dsn(), "--output", file.to_str().unwrap()]).await;
    assert_eq!(code, 2, "{complaint}");
    assert!(complaint.contains("no tables of this version of the service"), "{complaint}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    service.database.run("ALTER TABLE aside.chunks SET SCHEMA public").await;
    service.stop().await;
}

/// A server that answers every export with this body and then ends the connection.
async fn server_of(body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    actix_web::rt::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _request = socket.read(&mut request).await.unwrap();
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n\r\n";
            socket.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        }
    });
    url
}

#[actix_web::test]
async fn an_export_that_breaks_off_leaves_the_file_of_before() {
    const LINE: &str = "{\"dataset_source\":\"d\",\"text\":\"a\",\"chunk_index\":0}\n";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kept.ndjson");
    fs::write(&file, "of before").unwrap();
    let broken: &'static str = (LINE.repeat(3)).leak();
    let ended: &'static str = format!(
        "{LINE}{}\n",
        r#"{"type":"summary","rows":1,"complete":false,"error":{"message":"the database went away"}}"#
    )
    .leak();
    let short: &'static str = format!("{LINE}{}\n", r#"{"type":"summary","rows":2,"complete":true}"#).leak();
    for (body, sentence) in [
        (broken, "broke off"),
        ("", "broke off"),
        (ended, "after 1 chunks: the database went away"),
        (short, "sent 2 chunks, and 1 have come"),
    ] {
        let url = server_of(body).await;
        let (code, complaint) = export(&["--url", &url, "--output", file.to_str().unwrap()]).await;
        assert_eq!(code, 2, "{complaint}");
        assert!(complaint.contains(sentence), "'{sentence}' is not in {complaint}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "of before");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }
    let whole: &'static str = format!("{LINE}{}\n", r#"{"type":"summary","rows":1,"complete":true}"#).leak();
    let url = server_of(whole).await;
    let (code, complaint) = export(&["--url", &url, "--output", file.to_str().unwrap()]).await;
    assert_eq!((code, fs::read_to_string(&file).unwrap().as_str()), (0, LINE), "{complaint}");
}

/// Rows of 60 KB each, made by SQL.
async fn heavy_rows(database: &Database, count: usize) {
    database
        .run(&format!(
            "WITH clock AS (UPDATE change_clock SET seq = seq + {count}, next_item = next_item + {count} \
             RETURNING seq - {count} AS seq, next_item - {count} AS item) \
             INSERT INTO chunks (dataset_source, id, cpe_id, item, seq, content_hash, text, chunk_index, domain_code, \
                                 task_code, modifier_code, tmd_source, truncated) \
             SELECT 'heavy', n::text, gen_random_uuid(), item + n - 1, seq + n, sha256(n::text::bytea), \
                    repeat('heavy ', 10000), n, 0, 0, 0, 'client', false \
             FROM clock, generate_series(1, {count}) AS n"
        ))
        .await;
}

#[actix_web::test]
async fn clients_that_do_not_read_are_bounded_in_number_and_time() {
    let settings = Settings { read_timeout: Duration::from_millis(200), ..Settings::default() };
    let limits = Limits { exports: 2, ..Limits::default() };
    let overrides = Overrides { encoder: Some(Scripted::factory()), admission: limits, ..overrides() };
    let service = TestService::build_with(overrides, &[], settings).await;
    heavy_rows(&service.database, 1000).await;
    let mut stuck = Vec::new();
    for _ in 0..2 {
        let mut raw = RawConnection::connect(&service.url).await.unwrap();
        raw.write("GET /export HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        stuck.push(raw);
    }
    // Both give their places back by themselves, and the sessions end. An export meanwhile may find them taken.
    until("an export finds both places taken", || service.state.admission.in_use() == 2).await;
    let (status, answer) = service.get("/export").await;
    assert_eq!((status, &answer["error"]["code"]), (429, &json!("overloaded")), "{answer}");
    until("the clients that do not read are cut", || service.state.admission.in_use() == 0).await;
    let (all, _) = lines(&service, "").await;
    assert_eq!(all.len(), 1000);
    let sessions =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'";
    assert_eq!(service.database.number(sessions).await, 0);
    drop(stuck);
    service.stop().await;
}

#[actix_web::test]
async fn wrong_arguments_are_told_before_anything_is_asked() {
    for (flags, sentence) in [
        (&["--format", "npz", "--output", "-"][..], "only NDJSON can be written to the standard output"),
        (&["--columns", "text", "--output", "x"], "--columns is for Parquet and NPZ"),
        (&["--format", "npz", "--columns", "text,fused_vec", "--output", "x"], "unknown column 'fused_vec'"),
    ] {
        let (code, complaint) = export(flags).await;
        assert_eq!(code, 1, "{complaint}");
        assert!(complaint.contains(sentence), "{complaint}");
    }
}
