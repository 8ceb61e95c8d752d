//! A database of the old service: the new one does not start on it, and `lnsp import` brings its rows over.

use crate::support::database::Database;
use crate::support::postgres;
use crate::support::process::{lnsp, run, run_beside};
use crate::support::test_service::TestService;
use futures_util::{StreamExt, TryStreamExt};
use lnsp_ingest::store::{Dsn, OldTables, OldTablesError};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU32, Ordering};

/// An empty database on the shared server, without the tables of the service.
async fn empty() -> Database {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("old_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let database = Database::new().await;
    database.run(&format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'")).await;
    database.elsewhere(&name)
}

/// With 2,000 rows of the old service.
async fn old() -> Database {
    let database = empty().await;
    database.run(include_str!("../data/old_database.sql")).await;
    database
}

/// Runs `lnsp import`: exit code, last line, complaints.
async fn import(from: &Database, service: &TestService, flags: &[&str]) -> (Option<i32>, String, String) {
    let base = ["import", "--from", from.dsn(), "--url", &service.url];
    let (code, said, complaint) = run_beside(lnsp(&[&base[..], flags].concat())).await;
    (code, said.lines().last().unwrap_or_default().to_owned(), complaint)
}

/// The beginning of the last line: what became of the rows.
fn tally(line: &str) -> &str {
    line.split(" in ").next().unwrap()
}

/// Everything that is in a database: relations and their sizes in rows.
async fn contents(database: &Database) -> Vec<String> {
    database
        .texts("SELECT relname || relkind::text FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1")
        .await
}

#[tokio::test]
async fn the_service_does_not_start_on_it_says_how_its_rows_come_over_and_changes_nothing() {
    let old = old().await;
    let before = contents(&old).await;
    let data = tempfile::tempdir().unwrap();
    let flags = ["--database-url", old.dsn(), "--port", "0", "--data-dir", data.path().to_str().unwrap()];
    for _ in 0..2 {
        let (code, said, complaint) = run(&mut lnsp(&[&["serve"], &flags[..]].concat()));
        let lines: Vec<&str> = complaint.lines().filter(|line| line.starts_with("lnsp: ")).collect();
        assert!(code == Some(1) && lines.len() == 1, "{said}{complaint}");
        for words in ["old service", "cpe_entry", "nothing in it was changed", "lnsp import --from"] {
            assert!(lines[0].contains(words), "{words}: {complaint}");
        }
    }
    let (code, report, _) = run(&mut lnsp(&[&["doctor", "--no-measure"], &flags[..]].concat()));
    let line = report.lines().find(|line| line.contains("old service")).unwrap_or_else(|| panic!("{report}"));
    assert!(code == Some(1) && line.starts_with("failure"), "{report}");
    assert_eq!(contents(&old).await, before);

    // In another schema of the same database the old tables are in nobody's way.
    old.run("CREATE SCHEMA lnsp").await;
    let elsewhere: Dsn = format!("{} options='-c search_path=lnsp,public'", old.dsn()).parse().unwrap();
    postgres::open(elsewhere).await.close().await;
    assert_eq!(old.number("SELECT count(*) FROM public.cpe_entry").await, 2000);
}

/// The columns of the old table, and where they are in the new ones, as one text a row.
const OLD: &str = "
    SELECT concat_ws(' | ', cpe_id, source_chunk, dataset_source, document_id, batch_id,
        coalesce((chunk_position ->> 'chunk_index')::int, (chunk_position ->> 'index')::int, 0),
        chunk_position ->> 'source', chunk_position ->> 'article_title', chunk_position ->> 'article_index',
        parent_cpe_ids, child_cpe_ids, echo_score, validation_status, episode_id,
        CASE WHEN concept_text <> source_chunk THEN concept_text END, nullif(probe_question, ''),
        nullif(expected_answer, ''), coalesce(soft_negatives, '[]'), coalesce(hard_negatives, '[]'))
    FROM cpe_entry ORDER BY 1";
const NEW: &str = "
    SELECT concat_ws(' | ', id, text, dataset_source, document_id, batch_id, chunk_index,
        nullif(source_document, CASE WHEN metadata ? 'start' THEN 'web_input' END), article_title, article_index,
        to_jsonb(parent_cpe_ids), to_jsonb(child_cpe_ids), metadata ->> 'echo_score',
        metadata ->> 'validation_status', metadata ->> 'episode_id', concept_text, probe_question, expected_answer,
        coalesce(to_jsonb(soft_negatives), '[]'), coalesce(to_jsonb(hard_negatives), '[]'))
    FROM chunks LEFT JOIN chunk_cpesh USING (item) ORDER BY 1";

#[actix_web::test]
async fn all_rows_come_over_with_ids_codes_and_cpesh_and_the_same_again_are_duplicates() {
    let (old, service) = (old().await, TestService::scripted().await);
    let before = old.texts("SELECT md5(e::text) FROM cpe_entry e ORDER BY 1").await;
    let (code, last, complaint) = import(&old, &service, &[]).await;
    assert_eq!(tally(&last), "2000 rows read: 2000 stored, 0 duplicates, 0 failed", "{complaint}");
    assert_eq!((code, service.stored().await), (Some(0), 2000), "{complaint}");
    for words in [
        "cpe_entry has 2000 rows",
        "the old vectors are not taken",
        "10 rows have a code outside its axis",
        "32 rows have the codes 0.0.0",
    ] {
        assert!(complaint.contains(words), "{words}: {complaint}");
    }
    let (theirs, ours) = (old.texts(OLD).await, service.database.texts(NEW).await);
    assert_eq!(theirs.len(), 2000);
    let differ = theirs.iter().zip(&ours).find(|(theirs, ours)| theirs != ours);
    assert_eq!(differ, None);

    // The codes are those of the rows, or those of the service where a row has none that can be taken.
    let codes = "concat_ws(' ', domain_code, task_code, modifier_code)";
    let good = "domain_code < 16 AND (domain_code, task_code, modifier_code) <> (0, 0, 0)";
    let theirs = old.texts(&format!("SELECT cpe_id || {codes} FROM cpe_entry WHERE {good} ORDER BY 1")).await;
    let ours = format!("SELECT id || {codes} FROM chunks WHERE tmd_source = 'client' ORDER BY 1");
    assert_eq!((theirs.len(), service.database.texts(&ours).await), (1958, theirs));
    let kept = "SELECT count(*) FROM chunks WHERE tmd_source = 'local' AND metadata ->> 'domain_code' IN ('0', '200')";
    assert_eq!(service.database.number(kept).await, 42);

    // In the order of their time, which is kept too; the parts of the concept are what is embedded.
    let ours =
        service.database.texts("SELECT metadata ->> 'created_at' FROM chunks ORDER BY created_at").await;
    assert!(ours.is_sorted() && ours[0] == "2025-10-12T03:04:05.5+00:00", "{}", ours[0]);
    let chunk = json!({"text": "Concept of 2"}).to_string();
    assert_eq!(service.post("/ingest", format!("{{\"chunks\":[{chunk}]}}")).await.0, 200);
    let same = "SELECT count(DISTINCT vector) FROM chunk_vectors JOIN chunks USING (item) LEFT JOIN chunk_cpesh USING (item)
                WHERE 'Concept of 2' IN (text, concept_text) AND kind = 'concept'";
    assert_eq!(service.database.number(same).await, 1);

    let (code, last, complaint) = import(&old, &service, &[]).await;
    assert_eq!(tally(&last), "2000 rows read: 0 stored, 2000 duplicates, 0 failed", "{complaint}");
    assert_eq!((code, service.rows().await), (Some(0), 2001));
    assert_eq!(old.texts("SELECT md5(e::text) FROM cpe_entry e ORDER BY 1").await, before);
    service.stop().await;
}

#[actix_web::test]
async fn vectors_may_be_arrays_or_text_or_in_the_table_of_a_server_without_pgvector_or_not_there() {
    let change = |kind: &str| {
        let columns = ["fused_vec", "question_vec", "concept_vec", "tmd_dense"];
        let change =
            |column| format!("ALTER {column} TYPE {kind} USING translate({column}, '[]', '{{}}')::{kind}");
        format!("ALTER TABLE cpe_vectors {}", columns.map(change).join(", "))
    };
    for (change, told) in [
        (change("real[]"), true),
        ("ALTER TABLE cpe_vectors RENAME TO cpe_vectors_json".to_owned(), true),
        ("DROP TABLE cpe_vectors".to_owned(), false),
    ] {
        let (old, service) = (old().await, TestService::scripted().await);
        old.run(&change).await;
        let (code, last, complaint) = import(&old, &service, &[]).await;
        assert_eq!(tally(&last), "2000 rows read: 2000 stored, 0 duplicates, 0 failed", "{complaint}");
        assert_eq!(
            (code, complaint.contains("the old vectors are not taken")),
            (Some(0), told),
            "{complaint}"
        );
        service.stop().await;
    }
}

#[actix_web::test]
async fn an_older_table_without_later_columns_and_with_empty_ones_comes_over_too() {
    let (old, service) = (old().await, TestService::scripted().await);
    for change in [
        "DROP TABLE cpe_vectors",
        "ALTER TABLE cpe_entry DROP last_accessed_at, DROP access_count, DROP confidence_score, DROP quality_metrics,
             DROP parent_cpe_ids, DROP child_cpe_ids, DROP document_id, DROP sequence_index, DROP episode_id,
             DROP parent_cpe_id, DROP child_cpe_id, DROP last_accessed, DROP soft_negatives, DROP hard_negatives,
             DROP created_at, DROP relations_text, DROP batch_id, DROP mission_text",
        "ALTER TABLE cpe_entry ALTER domain_code DROP NOT NULL, ALTER chunk_position DROP NOT NULL,
             ALTER dataset_source DROP NOT NULL, ALTER source_chunk DROP NOT NULL, ALTER cpe_id TYPE text",
        // Extra columns of some installation, one of them with vectors.
        "ALTER TABLE cpe_entry ADD sequential_id bigserial, ADD concept_vec real[] DEFAULT '{1,2}'",
        "UPDATE cpe_entry SET domain_code = NULL WHERE domain_code = 3",
        "UPDATE cpe_entry SET chunk_position = NULL, dataset_source = NULL WHERE domain_code = 4",
        "UPDATE cpe_entry SET source_chunk = NULL, concept_text = ' ' WHERE cpe_id = old_id(17)::text",
    ] {
        old.run(change).await;
    }
    let (code, last, complaint) = import(&old, &service, &[]).await;
    assert_eq!(tally(&last), "2000 rows read: 1999 stored, 0 duplicates, 1 failed", "{complaint}");
    assert_eq!(code, Some(1), "one row has no text");
    let id = old.texts("SELECT old_id(17)").await.remove(0);
    assert!(complaint.contains(&format!("text_empty: cpe_id {id}")), "{complaint}");
    let found =
        "SELECT count(*) FROM chunks WHERE dataset_source = 'user_input' AND source_document = 'web_input'
                 AND NOT metadata ? 'concept_vec' AND metadata ? 'sequential_id'";
    let without = old.number("SELECT count(*) FROM cpe_entry WHERE dataset_source IS NULL").await;
    assert_eq!((service.database.number(found).await, without), (125, 125));
    service.stop().await;
}

#[actix_web::test]
async fn flags_choose_the_dataset_the_zero_codes_and_what_happens_to_stored_ids() {
    let (old, service) = (old().await, TestService::scripted().await);
    let (code, last, complaint) = import(&old, &service, &["--dataset", "mine", "--zero-codes"]).await;
    assert_eq!((code, tally(&last)), (Some(0), "2000 rows read: 2000 stored, 0 duplicates, 0 failed"));
    assert!(!complaint.contains("0.0.0"), "{complaint}");
    let zero = "SELECT count(*) FROM chunks WHERE tmd_source = 'client' AND dataset_source = 'mine'
                AND (domain_code, task_code, modifier_code) = (0, 0, 0)";
    assert_eq!(service.database.number(zero).await, 32);

    old.run("UPDATE cpe_entry SET source_chunk = 'Changed ' || source_chunk WHERE domain_code = 5").await;
    let changed = old.number("SELECT count(*) FROM cpe_entry WHERE domain_code = 5").await;
    let again = ["--dataset", "mine", "--zero-codes", "--on-conflict", "replace"];
    let (code, last, complaint) = import(&old, &service, &again[..3]).await;
    assert_eq!(
        (code, tally(&last)),
        (Some(1), &*format!("2000 rows read: 0 stored, {} duplicates, {changed} failed", 2000 - changed)),
        "{complaint}"
    );
    assert!(complaint.contains("id_conflict: cpe_id "), "{complaint}");
    let (code, last, _) = import(&old, &service, &again).await;
    let expected =
        format!("2000 rows read: 0 stored, {changed} replaced, {} duplicates, 0 failed", 2000 - changed);
    assert_eq!((code, tally(&last)), (Some(0), &*expected));
    service.stop().await;
}

#[tokio::test]
async fn a_database_that_is_none_of_the_old_service_is_refused_by_name() {
    let own = Database::new().await;
    let refused = |from: &str| {
        let (code, said, complaint) =
            run(&mut lnsp(&["import", "--from", from, "--url", "http://127.0.0.1:1"]));
        assert_eq!((code, &*said, complaint.lines().count()), (Some(2), "", 1), "{complaint}");
        complaint
    };
    assert!(refused(own.dsn()).contains("is one of this service"));
    let empty = empty().await;
    assert!(refused(empty.dsn()).contains("expected cpe_entry"));
    assert!(refused("host=/nowhere user=lnsp dbname=lnsp").contains("cannot connect to the old database"));
    let said = refused("postgres://user:s3cret@host:port/old");
    assert!(said.contains("--from") && !said.contains("s3cret"), "{said}");
}

#[tokio::test]
async fn rows_are_read_in_one_snapshot_from_the_first_on_as_often_as_they_are_asked_for() {
    let old = old().await;
    let dsn: Dsn = old.dsn().parse().unwrap();
    let tables = OldTables::open(&dsn).await.unwrap();
    old.run("UPDATE cpe_entry SET source_chunk = 'later'; DELETE FROM cpe_entry WHERE domain_code = 1").await;
    // An attempt that is cut off in the middle of a page.
    let first: Vec<_> = tables.read().take(777).try_collect().await.unwrap();
    let all: Vec<_> = tables.read().try_collect().await.unwrap();
    assert_eq!((all.len(), tables.rows()), (2000, 2000));
    assert_eq!(first, all[..777]);
    let again: Vec<_> = tables.read().try_collect().await.unwrap();
    assert!(again == all);
    let row: Value = serde_json::from_slice(&all[0]).unwrap();
    assert_ne!(row["source_chunk"], "later");
    assert_eq!(row["created_at"], "2025-10-12T03:04:05.5+00:00");
}

#[tokio::test]
async fn a_connection_that_is_lost_says_what_to_do() {
    let old = old().await;
    let tables = OldTables::open(&old.dsn().parse().unwrap()).await.unwrap();
    let mut rows = tables.read().boxed();
    assert!(rows.next().await.unwrap().is_ok());
    old.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    .await;
    let lost = rows.try_collect::<Vec<_>>().await.unwrap_err();
    assert!(matches!(lost, OldTablesError::Lost { .. }), "{lost:?}");
    assert!(lost.to_string().contains("run the same command again"), "{lost}");
}

#[actix_web::test]
async fn bytes_that_are_no_text_fail_alone_and_a_narrow_encoding_is_read() {
    for (encoding, code, expected) in [
        ("LATIN1", Some(0), "2 rows read: 2 stored, 0 duplicates, 0 failed"),
        ("SQL_ASCII", Some(1), "2 rows read: 1 stored, 0 duplicates, 1 failed"),
    ] {
        let service = TestService::scripted().await;
        let name = format!("narrow_old_{}", encoding.to_lowercase());
        let create = format!("CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0");
        service.database.run(&create).await;
        let old = service.database.elsewhere(&name);
        old.run(
            "SET client_encoding = 'SQL_ASCII'; CREATE TABLE cpe_entry (cpe_id text PRIMARY KEY, source_chunk text);
             INSERT INTO cpe_entry VALUES ('a', 'plain'), ('b', E'caf\\351')",
        )
        .await;
        let (found, last, complaint) = import(&old, &service, &[]).await;
        assert_eq!((found, tally(&last)), (code, expected), "{complaint}");
        if encoding == "LATIN1" {
            assert_eq!(
                service.database.texts("SELECT text FROM chunks ORDER BY id").await,
                ["plain", "café"]
            );
        } else {
            assert!(complaint.contains("invalid_utf8"), "{complaint}");
        }
        service.stop().await;
    }
}
