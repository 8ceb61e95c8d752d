//! Rows are deleted and changed by SQL, on the tables and through the views of the old service: the index follows, and
//! what would make a row untrue is refused with a sentence.

use crate::deletions::{delete, found};
use crate::store::{fresh, plain, seqs};
use crate::support::postgres::{connect, server_folder};
use crate::support::process::{Service, lnsp, run};
use crate::support::test_service::{TestService, numbered, tally};
use crate::support::wait::until;
use diesel_async::SimpleAsyncConnection;
use lnsp_ingest::store::{Dsn, Store};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// The message of the error that a statement gives.
async fn refusal(service: &TestService, statement: &str) -> String {
    let address: Dsn = service.database.dsn().parse().unwrap();
    match connect(&address).await.batch_execute(statement).await {
        Ok(()) => panic!("not refused: {statement}"),
        Err(error) => error.to_string(),
    }
}

/// Waits until the index has every change in the database.
async fn followed(service: &TestService) {
    let clock = service.database.number("SELECT seq FROM change_clock").await;
    until("the indexes follow", || service.state.indexes().applied_seq() >= clock).await;
}

/// Items and vectors of the index and of the rows, which have to be the same.
async fn assert_equal(service: &TestService) {
    let rows = service.database.texts("SELECT item FROM chunks ORDER BY item").await;
    let items: Vec<String> = service.state.index.items().iter().map(|item| item.to_string()).collect();
    assert_eq!(items, rows);
    let stored: Vec<u32> = rows.iter().map(|item| item.parse().unwrap()).collect();
    let questions = service.state.questions.items();
    for (item, vectors) in service.state.store.vectors(&stored).await.unwrap() {
        let (index, other) = (&service.state.index, &service.state.questions);
        assert_eq!(index.vector(item).unwrap().as_deref(), Some(&*vectors.concept), "item {item}");
        assert_eq!(other.vector(item).unwrap().as_deref(), vectors.question.as_deref(), "item {item}");
        assert_eq!(questions.contains(item), vectors.question.is_some(), "item {item}");
    }
    assert!(questions.iter().all(|item| stored.contains(&item)), "{questions:?}");
}

#[actix_web::test]
async fn the_index_follows_deletions_by_sql_and_the_same_file_stores_exactly_what_is_missing() {
    let service = TestService::scripted().await;
    assert_eq!(tally(&service.stream(numbered(0..300)).await), (300, 0, 0));
    let mut left = 300;
    for (statement, deleted) in [
        ("DELETE FROM chunks WHERE id IN ('n1', 'n2', 'n3')", 3),
        ("DELETE FROM cpe_entry WHERE mission_text = 'This is fact number 7.'", 1),
        ("DELETE FROM cpe_vectors WHERE cpe_id IN (SELECT cpe_id FROM chunks WHERE id IN ('n8', 'n9'))", 2),
        ("DELETE FROM cpe_entry WHERE dataset_source = 'nowhere'", 0),
        ("BEGIN; DELETE FROM chunks; ROLLBACK", 0),
        ("BEGIN; DELETE FROM chunks WHERE id = 'n10'; SAVEPOINT s; DELETE FROM chunks; ROLLBACK TO s;
          DELETE FROM chunks WHERE id = 'n11'; COMMIT", 2),
        // With a right on the table and no other, as another program would have it, and from elsewhere.
        ("CREATE ROLE janitor; GRANT SELECT, DELETE ON chunks TO janitor; SET ROLE janitor; SET search_path = '';
          DELETE FROM public.chunks WHERE id = 'n12'; RESET ROLE; DROP OWNED BY janitor; DROP ROLE janitor", 1),
        ("DELETE FROM chunks WHERE chunk_index = 0 AND id ~ '^n2.$'", 10),
        ("DELETE FROM cpe_vectors_json WHERE cpe_id IN (SELECT cpe_id FROM chunks WHERE id = 'n30')", 1),
    ] {
        service.database.run(statement).await;
        left -= deleted;
        let count = usize::try_from(left).unwrap();
        // No other call than the search of the index itself: nobody asks it to look.
        until(statement, || service.state.index.len() == left).await;
        assert_eq!((service.stored().await, found(&service).await.len()), (left, count), "{statement}");
    }
    assert_eq!(service.database.number("SELECT count(*) FROM tombstones").await, 20);
    assert_equal(&service).await;
    assert_eq!(tally(&service.stream(numbered(0..300)).await), (20, 280, 0));
    assert_eq!(service.stored().await, 300);
    // What was built and what was rebuilt from the tables are the same.
    service.state.index.flush().await.unwrap();
    assert_equal(&service).await;
    service.state.index.rebuild(lnsp_ingest::index::RebuildReason::Manual).await.unwrap();
    assert_equal(&service).await;
    service.stop().await;
}

#[actix_web::test]
async fn what_only_the_program_can_change_is_refused_with_what_to_do() {
    let service = TestService::scripted().await;
    assert_eq!(tally(&service.stream(numbered(0..3)).await), (3, 0, 0));
    for (statement, part) in [
        ("UPDATE chunks SET text = 'other'", "text of a stored chunk cannot be changed by SQL"),
        ("UPDATE chunks SET id = 'x' WHERE id = 'n1'", "on_conflict=replace"),
        ("UPDATE chunks SET document_id = 'x'", "document_id of a stored chunk"),
        ("UPDATE chunks SET content_hash = sha256('x')", "content_hash of a stored chunk"),
        ("UPDATE chunks SET created_at = now()", "created_at of a stored chunk"),
        ("UPDATE chunks SET metadata = '[1]'", "received a JSON array"),
        ("UPDATE chunks SET child_cpe_ids = '{{a},{b}}'", "plain lists"),
        ("UPDATE chunks SET domain_code = 16", "chunks_domain_code_check"),
        ("UPDATE cpe_entry SET mission_text = 'other'", "mission_text of cpe_entry cannot be changed"),
        ("UPDATE cpe_entry SET domain_code = 3, tmd_bits = 5", "tmd_bits of cpe_entry cannot be changed"),
        ("UPDATE cpe_entry SET parent_cpe_ids = '\"x\"'", "JSON arrays of texts"),
        ("UPDATE cpe_vectors SET fused_norm = 1", "UPDATE of cpe_vectors is refused"),
        ("INSERT INTO cpe_entry (mission_text) VALUES ('x')", "POST /ingest"),
        ("INSERT INTO cpe_vectors (fused_norm) VALUES (1)", "POST /ingest"),
        ("UPDATE chunks SET seq = 7", "seq of a stored chunk"),
        (
            "INSERT INTO chunk_cpesh SELECT item, 'a concept', NULL, NULL, '{}', '{}', 'client' FROM chunks",
            "concept_text",
        ),
        ("TRUNCATE chunk_cpesh", "TRUNCATE of chunk_cpesh is refused"),
        ("UPDATE cpe_vectors_json SET fused_norm = 1", "UPDATE of cpe_vectors is refused"),
        (
            "UPDATE chunk_vectors SET vector = '\\x0000803f'",
            "expected 1536 bytes (384 little-endian f32), received 4",
        ),
        ("UPDATE chunk_vectors SET kind = 'question'", "insert another vector instead"),
        ("DELETE FROM chunk_vectors", "delete the row in chunks"),
        ("TRUNCATE chunks CASCADE", "lnsp delete --dataset NAME"),
        ("TRUNCATE chunk_vectors", "TRUNCATE of chunk_vectors is refused"),
        ("TRUNCATE tombstones", "TRUNCATE of tombstones is refused"),
        ("TRUNCATE models CASCADE", "TRUNCATE of chunk_vectors is refused"),
    ] {
        let message = refusal(&service, statement).await;
        assert!(message.contains(part), "{statement}: {message}");
    }
    assert_eq!((service.stored().await, service.state.store.clock().await.unwrap()), (3, 3));
    // Vectors of other kinds come and go.
    service
        .database
        .run("INSERT INTO chunk_vectors SELECT item, model_id, 'question', vector FROM chunk_vectors")
        .await;
    service.database.run("DELETE FROM chunk_vectors WHERE kind = 'question'").await;
    assert_eq!(service.stored().await, 3);
    service.stop().await;
}

#[actix_web::test]
async fn what_sql_may_change_takes_a_number_and_stays_true() {
    let service = TestService::scripted().await;
    let chunk = json!({"id": "a", "text": "A fact.", "metadata": {"k": 1}});
    assert_eq!(tally(&service.stream(chunk.to_string()).await), (1, 0, 0));
    let row = async |columns: &str| {
        service.database.texts(&format!("SELECT concat_ws(' ', {columns}) FROM chunks")).await.remove(0)
    };
    let source = "tmd_source, tmd_model IS NULL, domain_confidence IS NULL, tmd_took_us IS NULL";
    assert_eq!(row(source).await, "local f f f");

    // The same values are no change.
    service.database.run("UPDATE chunks SET batch_id = batch_id").await;
    assert_eq!(row("seq, details_hash IS NULL").await, "1 f");
    service.database.run("UPDATE chunks SET batch_id = 'other'").await;
    assert_eq!(row("seq, details_hash IS NULL, batch_id").await, "2 f other");
    // The codes are no longer those of the classifier.
    service.database.run("UPDATE chunks SET domain_code = 15, task_code = 1, modifier_code = 2").await;
    assert_eq!(row(&format!("seq, {source}")).await, "3 client t t t");
    let own = "UPDATE chunks SET domain_code = 14, tmd_source = 'llm', tmd_model = 'm'";
    service.database.run(own).await;
    assert_eq!(row("seq, tmd_source, tmd_model").await, "4 llm m");
    service.database.run("UPDATE cpe_entry SET domain_code = 9, parent_cpe_ids = '[\"p\", \"q\"]'").await;
    assert_eq!(
        row("seq, domain_code, parent_cpe_ids, tmd_source, details_hash IS NULL").await,
        "5 9 {p,q} client t"
    );

    followed(&service).await;
    let query = json!({"query": "A fact.", "filter": {"domain": 9}}).to_string();
    let (_, answer) = service.post("/search", query).await;
    assert_eq!((answer["results"].as_array().unwrap().len(), &answer["index_seq"]), (1, &json!(5)));
    // The chunk as it was first sent is a repetition that differs, and can take the place of the row.
    let again = service.stream(chunk.to_string()).await;
    assert_eq!(
        (&again[0]["status"], &again[0]["differs"]),
        (&json!("duplicate"), &json!(["parent_cpe_ids"])),
        "{again:?}"
    );
    let replace = json!({"chunks": [chunk], "dataset_source": "user_input", "on_conflict": "replace"});
    assert_eq!(service.post("/ingest", replace.to_string()).await.1["results"][0]["status"], "replaced");
    assert_eq!(row("seq, parent_cpe_ids, details_hash IS NULL").await, "6 {} f");
    assert_eq!(service.state.index.status().applied_seq, 6);

    // The CPESH parts belong to the chunk.
    let chunk = json!({"id": "a", "text": "A fact.", "metadata": {"k": 1}, "probe_question": "Which?"});
    let replace = json!({"chunks": [chunk], "dataset_source": "user_input", "on_conflict": "replace"});
    assert_eq!(service.post("/ingest", replace.to_string()).await.1["results"][0]["status"], "replaced");
    assert_eq!(row("seq, details_hash IS NULL").await, "7 f");
    service.database.run("UPDATE chunk_cpesh SET expected_answer = 'That.'").await;
    assert_eq!(row("seq, details_hash IS NULL").await, "8 t");
    let again = service.stream(chunk.to_string()).await;
    assert_eq!(again[0]["status"], "duplicate");
    assert_eq!(again[0]["differs"].as_array().map(Vec::len), Some(1), "{again:?}");
    service.database.run("DELETE FROM chunk_cpesh").await;
    service.database.run("INSERT INTO chunk_cpesh (item, probe_question, source) SELECT item, 'Which?', 'client' FROM chunks").await;
    assert_eq!(row("seq").await, "10");
    let again = service.stream(chunk.to_string()).await;
    assert_eq!((&again[0]["status"], again[0].get("differs")), (&json!("duplicate"), None), "{again:?}");

    // A vector is what a search compares with.
    let turned = "UPDATE chunk_vectors SET vector = overlay(vector PLACING substr(vector, 5, 4) FROM 1)";
    service.database.run(turned).await;
    assert_eq!(row("seq").await, "11");
    followed(&service).await;
    assert_equal(&service).await;
    service.stop().await;
}

/// Reads every change page by page: what is there at the end, and every number that was seen.
async fn replay_changes(store: &Store, model: lnsp_ingest::store::ModelId) -> (BTreeMap<u32, i64>, Vec<i64>) {
    let (mut rows, mut numbers, mut after) = (BTreeMap::new(), Vec::new(), 0);
    loop {
        let page = store.changes_after(after, 50, model).await.unwrap();
        let puts = page.rows.iter().map(|row| (row.seq, row.item, true));
        let gone = page.tombstones.iter().map(|(seq, item)| (*seq, *item, false));
        let mut changes: Vec<_> = puts.chain(gone).collect();
        changes.sort_unstable();
        for (seq, item, put) in changes {
            numbers.push(seq);
            if put {
                rows.insert(item, seq)
            } else {
                rows.remove(&item)
            };
        }
        if page.through == page.clock {
            return (rows, numbers);
        }
        after = page.through;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sql_beside_writers_neither_deadlocks_nor_loses_a_number() {
    let (store, model, dsn) = fresh().await;
    const KEYS: usize = 60;
    let writers = (0..3).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0..40 {
                let keys = (0..20).map(|n| (n * 7 + round * 3 + writer) % KEYS);
                let rows: Vec<_> = keys.map(|key| plain(&key.to_string())).collect();
                store.insert(model, &rows).await.unwrap();
            }
        })
    });
    let sessions = (0..3).map(|session| {
        let dsn = dsn.clone();
        tokio::spawn(async move {
            let mut conn = connect(&dsn).await;
            for round in 0..40 {
                let key = (round * 11 + session * 5) % KEYS;
                let statement = match (round + session) % 4 {
                    0 => format!("DELETE FROM chunks WHERE id IN ('{key}', '{}')", (key + 1) % KEYS),
                    1 => format!("UPDATE chunks SET batch_id = '{round}' WHERE id <= '{key}'"),
                    2 => format!("DELETE FROM cpe_entry WHERE mission_text = 'text of {key}'"),
                    _ => format!(
                        "BEGIN; UPDATE chunks SET metadata = '{{\"k\": {round}}}' WHERE id = '{key}';
                         DELETE FROM chunks WHERE id = '{}'; COMMIT",
                        (key + 7) % KEYS
                    ),
                };
                conn.batch_execute(&statement).await.unwrap();
            }
        })
    });
    let tasks: Vec<_> = writers.chain(sessions).collect();
    for task in tasks {
        tokio::time::timeout(Duration::from_secs(60), task).await.unwrap().unwrap();
    }
    let (rows, numbers) = replay_changes(&store, model).await;
    assert!(numbers.is_sorted_by(|one, next| one < next), "each number is of one change");
    let stored = store.selected_items(&lnsp_ingest::store::Selection::default(), 1000).await.unwrap();
    assert_eq!(rows.keys().copied().collect::<Vec<_>>(), stored.items);
    let again: Vec<_> = (0..KEYS).map(|key| plain(&key.to_string())).collect();
    let new = seqs(&store.insert(model, &again).await.unwrap().outcomes).iter().flatten().count();
    assert_eq!(new, KEYS - stored.items.len(), "exactly what is missing");
}

#[actix_web::test]
async fn whatever_happens_in_whatever_order_the_index_is_the_rows() {
    for seed in 0..4 {
        let service = TestService::scripted().await;
        let mut random = StdRng::seed_from_u64(seed);
        for step in 0..60 {
            let key = random.random_range(0..40);
            match random.random_range(0..9) {
                0 | 1 => {
                    // What was replaced meanwhile is refused as a conflict.
                    let lines = numbered(key..key + random.random_range(1..20));
                    tally(&service.stream(lines).await);
                }
                2 => {
                    let chunk = json!({"id": format!("n{key}"), "text": format!("Changed in step {step}.")});
                    let body =
                        json!({"chunks": [chunk], "dataset_source": "user_input", "on_conflict": "replace"});
                    assert_eq!(service.post("/ingest", body.to_string()).await.0, 200);
                }
                3 => service.database.run(&format!("DELETE FROM chunks WHERE id = 'n{key}'")).await,
                4 => {
                    let turned = "vector = overlay(vector PLACING substr(vector, 9, 4) FROM 1)";
                    let which = format!("item IN (SELECT item FROM chunks WHERE id LIKE 'n{}%')", key % 10);
                    service.database.run(&format!("UPDATE chunk_vectors SET {turned} WHERE {which}")).await;
                }
                5 => {
                    let change = format!("UPDATE chunks SET batch_id = '{step}' WHERE id < 'n{key}'");
                    service.database.run(&change).await;
                }
                6 => {
                    let undone = format!(
                        "BEGIN; UPDATE chunks SET task_code = 1 WHERE id < 'n{key}'; SAVEPOINT s;
                         DELETE FROM chunks WHERE id > 'n2'; ROLLBACK TO s;
                         UPDATE chunks SET task_code = 2 WHERE id > 'n{key}'; DELETE FROM cpe_entry
                         WHERE cpe_id IN (SELECT cpe_id FROM chunks WHERE id = 'n{key}'); COMMIT"
                    );
                    service.database.run(&undone).await;
                }
                7 => {
                    let ids: Vec<String> = (key..key + 5).map(|n| format!("n{n}")).collect();
                    let filter = json!({"dataset_source": "user_input", "ids": ids});
                    let (_, answer) = delete(&service, &json!({"filter": filter})).await;
                    let body = json!({"filter": filter, "confirm": answer["error"]["count"]});
                    assert_eq!(delete(&service, &body).await.0, 200);
                }
                _ => service.state.index.flush().await.unwrap(),
            }
        }
        followed(&service).await;
        assert_equal(&service).await;
        let stored = service.stored().await;
        let ids: Vec<Value> = service
            .database
            .texts("SELECT id FROM chunks ORDER BY id COLLATE \"C\"")
            .await
            .into_iter()
            .map(Value::from)
            .collect();
        assert_eq!(json!(found(&service).await), json!(ids), "seed {seed}: {stored} rows");
        service.state.index.rebuild(lnsp_ingest::index::RebuildReason::Manual).await.unwrap();
        assert_equal(&service).await;
        service.stop().await;
    }
}

#[tokio::test]
async fn lnsp_psql_opens_the_database_of_the_service() {
    // A server of the operator's, named by its address.
    let (store, model, dsn) = fresh().await;
    store.insert(model, &[plain("a"), plain("b")]).await.unwrap();
    let query = ["psql", "--", "-Atc", "SELECT count(*) FROM chunks"];
    let (code, said, complaint) = run(lnsp(&query).env("DATABASE_URL", dsn.to_string()));
    assert_eq!((code, &*said), (Some(0), "2\n"), "{complaint}");
    let idle = ["psql", "--", "-Atc", "SHOW idle_in_transaction_session_timeout"];
    assert_eq!(run(lnsp(&idle).env("PG_DSN", dsn.to_string())).1, "5min\n");

    // Its own, in its folder.
    let folder = server_folder().parent().unwrap().to_str().unwrap().to_owned();
    let (code, said, complaint) = run(&mut lnsp(&["psql", "--data-dir", &folder, "--", "-Atc", "SELECT 7"]));
    assert_eq!((code, &*said), (Some(0), "7\n"), "{complaint}");
    let empty = tempfile::tempdir().unwrap();
    let (code, _, complaint) = run(&mut lnsp(&["psql", "--data-dir", empty.path().to_str().unwrap()]));
    assert!(code == Some(1) && complaint.contains("there is no database in"), "{complaint}");
    let (code, _, complaint) = run(lnsp(&["psql"]).env("DATABASE_URL", "s3cret"));
    assert!(
        code == Some(1) && complaint.contains("DATABASE_URL") && !complaint.contains("s3cret"),
        "{complaint}"
    );
}

#[tokio::test]
async fn the_start_says_how_to_open_the_database_and_what_is_deleted_there_is_not_found() {
    let data = crate::support::postgres::DataFolder::with_cluster();
    let service = Service::start(data.path(), &[]);
    let path = data.path().to_str().unwrap();
    assert!(service.log.contains(&format!("SQL: lnsp psql --data-dir {path}\n")), "{}", service.log);
    let file = data.path().join("facts.ndjson");
    std::fs::write(&file, numbered(0..20)).unwrap();
    let ingest = || run(&mut lnsp(&["ingest", "--url", &service.url, file.to_str().unwrap()]));
    assert_eq!(ingest().0, Some(0));
    let search = || run(&mut lnsp(&["search", "--url", &service.url, "-k", "20", "number"])).1;
    assert!(search().contains("This is fact number 7."));
    let (code, said, complaint) =
        run(&mut lnsp(&["psql", "--data-dir", path, "--", "-c", "DELETE FROM chunks WHERE id = 'n7'"]));
    assert_eq!((code, &*said), (Some(0), "DELETE 1\n"), "{complaint}");
    assert!(!search().contains("This is fact number 7."));
    let (code, said, _) = ingest();
    assert!(code == Some(0) && said.contains("1 stored") && said.contains("19 duplicates"), "{said}");
    assert!(search().contains("This is fact number 7."));
    assert!(service.terminate().success());
    let (code, _, complaint) = run(&mut lnsp(&["psql", "--data-dir", path]));
    assert!(code == Some(1) && complaint.contains("does not run"), "{complaint}");
}
