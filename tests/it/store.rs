//! The store keeps what it acknowledges, exactly and once, and tells a follower of every change in order.
//!
//! The first half is about rows: what goes in comes out, repetitions are recognised, errors say what to do. The
//! second is about the clock under concurrent writers, the third about the SQL that other programs read, the last
//! about the managed server: made, adopted, restarted, refused.

use crate::postgres::{DataFolder, connect, database, open};
use chrono::{DateTime, Utc};
use diesel::sql_types::{Array, BigInt, Float, Integer, Nullable, Text};
use diesel::{OptionalExtension, QueryableByName};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use lnsp_ingest::chunk::{Chunk, ChunkKey, Draft, EmbeddedChunk, Embedding, Placement, Tagging, TmdSource};
use lnsp_ingest::store::managed::{ManagedError, ManagedPostgres};
use lnsp_ingest::store::{Dsn, ModelId, ModelIdentity, RowFate, SearchFilter, Store, StoreError, StoreOptions};
use lnsp_ingest::tmd::{AxisConfidence, Tmd, packing, projection};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgid};
use serde_json::json;
use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

fn model(name: &str) -> ModelIdentity {
    let (name, recipe, fingerprint) = (name.to_owned(), "mean, normalise".to_owned(), format!("print of {name}"));
    ModelIdentity { name, recipe, fingerprint, dims: 4 }
}

fn draft(dataset: &str, id: &str, text: &str) -> Draft {
    Draft { id: Some(id.to_owned()), dataset: dataset.into(), text: text.to_owned(), ..Draft::default() }
}

fn embedded(draft: Draft, tmd: (u8, u8, u8), vector: &[f32]) -> EmbeddedChunk {
    let tagging = Tagging {
        tmd: Tmd::new(tmd.0, tmd.1, tmd.2).unwrap(),
        source: TmdSource::Client,
        confidence: None,
        took: None,
    };
    let embedding = Embedding { vector: vector.into(), truncated: false, took: Duration::from_millis(3) };
    EmbeddedChunk { chunk: Arc::new(Chunk::new(draft).unwrap()), tagging, embedding }
}

fn plain(id: &str) -> EmbeddedChunk {
    embedded(draft("facts", id, &format!("text of {id}")), (4, 5, 9), &[0.5, 0.5, 0.5, 0.5])
}

/// A store on its own database, with a model.
async fn fresh() -> (Store, ModelId, Dsn) {
    let dsn = database().await;
    let store = open(dsn.clone()).await;
    let id = store.adopt_model(&model("tiny")).await.unwrap();
    (store, id, dsn)
}

fn seqs(fates: &[RowFate]) -> Vec<Option<i64>> {
    fates
        .iter()
        .map(|fate| match fate {
            RowFate::Inserted { seq, .. } => Some(*seq),
            RowFate::Present(_) => None,
        })
        .collect()
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    n: i64,
}

async fn count(conn: &mut AsyncPgConnection, from: &str) -> i64 {
    diesel::sql_query(format!("SELECT count(*) AS n FROM {from}")).get_result::<Count>(conn).await.unwrap().n
}

// Rows.

#[tokio::test]
async fn what_goes_in_comes_out() {
    let (store, model, _) = fresh().await;
    let text = "Ω ≈ ø — 黒い穴 🕳️ \"quoted\" \\ tab\t line\n";
    let placement = Placement {
        document_id: Some("d'oc".into()),
        chunk_index: -7,
        source_document: Some("crawl {1}".into()),
        article_title: Some("Löcher".into()),
        article_index: Some(i64::MAX),
        parent_cpe_ids: vec!["a\"b\\c".into(), String::new(), "NULL".into(), "{x,y}".into()],
        child_cpe_ids: vec![],
    };
    let metadata = json!({"nested": [1, -2.5, null, {"k": "ü"}], "big": u64::MAX, "empty": {}});
    let whole = Draft {
        placement: placement.clone(),
        metadata: Some(metadata.clone()),
        batch_id: Some("batch 1".into()),
        ..draft("data \"set\"", "id/1", text)
    };
    // Every float comes back bit for bit: the smallest denormals, both zeros, the ends of the range.
    let vector = [0.0, -0.0, f32::from_bits(1), -f32::from_bits(0x7f_ffff), f32::MIN_POSITIVE, f32::MAX, f32::MIN, 0.1];
    let mut row = embedded(whole, (15, 31, 63), &vector);
    row.tagging.source = TmdSource::Llm { model: "llama3.1:8b".into() };
    row.tagging.confidence = Some(AxisConfidence { domain: 0.9, task: 0.25, modifier: f32::MIN_POSITIVE });
    row.tagging.took = Some(Duration::from_micros(887_123));
    row.embedding.truncated = true;

    let fates = store.insert(model, &[&row]).await.unwrap();
    let RowFate::Inserted { seq, item, created_at } = fates[0] else { panic!("{fates:?}") };
    assert!((Utc::now() - created_at).num_seconds().abs() < 60);

    let known = store.known(&[row.chunk.key.clone()]).await.unwrap().remove(&row.chunk.key).unwrap();
    assert_eq!((known.cpe_id, known.content_hash), (row.chunk.cpe_id, row.chunk.content_hash));
    assert_eq!((known.seq, known.item, known.created_at), (seq, item, created_at));
    assert_eq!((known.tagging, known.truncated), (row.tagging.clone(), true));

    let hits = store.hits(&[item], &SearchFilter::default()).await.unwrap();
    let hit = &hits[0];
    assert_eq!((hit.text.as_str(), hit.metadata.as_ref()), (text, Some(&metadata)));
    assert_eq!((&hit.dataset_source, &hit.id), (&"data \"set\"".to_owned(), &"id/1".to_owned()));
    assert_eq!((&hit.document_id, hit.chunk_index), (&placement.document_id, -7));
    assert_eq!((&hit.article_title, &hit.source_document), (&placement.article_title, &placement.source_document));
    assert_eq!((hit.tmd, &hit.tmd_source, hit.seq), (row.tagging.tmd, &row.tagging.source, seq));

    let changes = store.changes_after(0, 10, model).await.unwrap();
    let bits = |floats: &[f32]| floats.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&changes.rows[0].vector), bits(&vector));
}

#[tokio::test]
async fn links_and_batch_are_stored_as_sent() {
    let (store, model, dsn) = fresh().await;
    let mut linked = draft("facts", "1", "text");
    linked.placement.parent_cpe_ids = vec!["a\"b\\c".into(), String::new(), "NULL".into(), "{x,y}".into()];
    linked.batch_id = Some("batch 1".into());
    store.insert(model, &[embedded(linked.clone(), (0, 0, 0), &[1.0])]).await.unwrap();

    #[derive(QueryableByName)]
    struct Links {
        #[diesel(sql_type = Array<Text>)]
        parent_cpe_ids: Vec<String>,
        #[diesel(sql_type = Array<Text>)]
        child_cpe_ids: Vec<String>,
        #[diesel(sql_type = Nullable<Text>)]
        batch_id: Option<String>,
    }
    let stored = diesel::sql_query("SELECT parent_cpe_ids, child_cpe_ids, batch_id FROM chunks");
    let stored: Links = stored.get_result(&mut connect(&dsn).await).await.unwrap();
    assert_eq!(stored.parent_cpe_ids, linked.placement.parent_cpe_ids);
    assert_eq!((stored.child_cpe_ids, stored.batch_id), (vec![], linked.batch_id));
}

#[tokio::test]
async fn a_repetition_is_the_same_row_and_uses_no_number() {
    let (store, model, _) = fresh().await;
    let rows: Vec<_> = ["b", "a", "c"].map(plain).into();
    let first = store.insert(model, &rows).await.unwrap();
    // Numbers go by key, fates by place in the batch.
    assert_eq!(seqs(&first), [Some(2), Some(1), Some(3)]);
    assert_eq!(seqs(&store.insert(model, &rows).await.unwrap()), [None, None, None]);
    assert_eq!(store.clock().await.unwrap(), 3);

    let mixed = [plain("a"), plain("d"), plain("c")];
    let fates = store.insert(model, &mixed).await.unwrap();
    assert_eq!(seqs(&fates), [None, Some(4), None]);
    let RowFate::Present(known) = &fates[0] else { panic!("{fates:?}") };
    assert_eq!((known.seq, known.content_hash), (1, mixed[0].chunk.content_hash));
    assert_eq!((store.clock().await.unwrap(), store.count_chunks().await.unwrap()), (4, 4));
    assert_eq!(store.insert::<EmbeddedChunk>(model, &[]).await.unwrap(), []);
}

#[tokio::test]
async fn the_second_of_two_equal_keys_in_a_batch_meets_the_first() {
    let (store, model, _) = fresh().await;
    let other_content = embedded(draft("facts", "a", "something else"), (1, 1, 1), &[1.0]);
    let rows = [plain("a"), other_content, plain("b"), plain("a")];
    let fates = store.insert(model, &rows).await.unwrap();
    assert_eq!(seqs(&fates), [Some(1), None, Some(2), None]);
    for fate in [&fates[1], &fates[3]] {
        let RowFate::Present(known) = fate else { panic!("{fates:?}") };
        // The caller tells a repetition from a conflict by the hash.
        assert_eq!(known.content_hash, rows[0].chunk.content_hash);
        assert_eq!(known.tagging, rows[0].tagging);
    }
    assert_ne!(rows[0].chunk.content_hash, rows[1].chunk.content_hash);
    // The same id in another dataset is another chunk.
    let elsewhere = embedded(draft("other", "a", "text of a"), (4, 5, 9), &[1.0]);
    assert_eq!(seqs(&store.insert(model, &[elsewhere]).await.unwrap()), [Some(3)]);
}

#[tokio::test]
async fn only_known_keys_are_known() {
    let (store, model, _) = fresh().await;
    store.insert(model, &[plain("a"), plain("b")]).await.unwrap();
    let key = |dataset: &str, id: &str| ChunkKey { dataset: dataset.into(), id: id.into() };
    let keys = [key("facts", "a"), key("facts", "x"), key("other", "b"), key("facts", "a")];
    let known = store.known(&keys).await.unwrap();
    assert_eq!(known.into_keys().collect::<Vec<_>>(), [key("facts", "a")]);
    assert!(store.known(&[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_refused_row_is_a_data_error_and_takes_the_whole_batch_along() {
    let (store, model, _) = fresh().await;
    let mut row = draft("facts", "nul", "text");
    row.metadata = Some(json!({"a": 1}));
    let mut bad = Chunk::new(row).unwrap();
    // No chunk can be made with a NUL; the store does not rely on that.
    bad.text = "secret\0text".into();
    let nul_text = EmbeddedChunk { chunk: Arc::new(bad), ..plain("x") };
    let no_vector = embedded(draft("facts", "none", "secret"), (1, 1, 1), &[]);
    let mut twin = Chunk::new(draft("facts", "twin", "secret")).unwrap();
    twin.cpe_id = plain("a").chunk.cpe_id;
    let twin = EmbeddedChunk { chunk: Arc::new(twin), ..plain("x") };

    for (bad, state, constraint) in [
        (nul_text, "22021", None),
        (no_vector, "23514", Some("chunk_vectors_vector_check")),
        (twin, "23505", Some("chunks_cpe_id_key")),
    ] {
        let error = store.insert(model, &[plain("a"), bad]).await.unwrap_err();
        assert!(error.is_data_error() && !error.is_transient(), "{error:?}");
        assert_eq!(error.sqlstate().unwrap().as_str(), state);
        assert_eq!(error.sqlstate_class().as_deref(), Some(&state[..2]));
        let told = error.to_string();
        assert!(!told.contains("secret") && constraint.is_none_or(|name| told.contains(name)), "{told}");
    }
    assert_eq!((store.count_chunks().await.unwrap(), store.clock().await.unwrap()), (0, 0));
    store.insert(model, &[plain("a")]).await.unwrap();
}

#[tokio::test]
async fn hits_are_filtered_in_the_database() {
    let (store, model, _) = fresh().await;
    let mut documented = draft("facts", "b", "two");
    documented.placement.document_id = Some("doc".into());
    let rows = [
        embedded(draft("facts", "a", "one"), (1, 2, 3), &[1.0]),
        embedded(documented, (1, 5, 3), &[1.0]),
        embedded(draft("other", "a", "three"), (4, 2, 6), &[1.0]),
    ];
    let items: Vec<u32> = store
        .insert(model, &rows)
        .await
        .unwrap()
        .iter()
        .map(|fate| match fate {
            RowFate::Inserted { item, .. } => *item,
            RowFate::Present(_) => panic!("nothing was there"),
        })
        .collect();
    let texts = async |filter: SearchFilter| {
        let hits = store.hits(&[items.as_slice(), &[99]].concat(), &filter).await.unwrap();
        let mut texts: Vec<_> = hits.into_iter().map(|hit| hit.text).collect();
        texts.sort();
        texts
    };
    let any = SearchFilter::default;
    assert_eq!(texts(any()).await, ["one", "three", "two"]);
    assert_eq!(texts(SearchFilter { domain: Some(1), ..any() }).await, ["one", "two"]);
    assert_eq!(texts(SearchFilter { task: Some(2), ..any() }).await, ["one", "three"]);
    assert_eq!(texts(SearchFilter { modifier: Some(6), ..any() }).await, ["three"]);
    assert_eq!(texts(SearchFilter { dataset_source: Some("facts".into()), ..any() }).await, ["one", "two"]);
    let in_document = SearchFilter { document_id: Some("doc".into()), domain: Some(1), ..any() };
    assert_eq!(texts(in_document).await, ["two"]);
    assert!(store.hits(&[], &any()).await.unwrap().is_empty());
}

// The model.

#[tokio::test]
async fn a_store_keeps_to_the_model_of_its_vectors() {
    let dsn = database().await;
    let store = open(dsn.clone()).await;
    assert_eq!(store.model().await.unwrap(), None);
    let other = store.adopt_model(&model("other")).await.unwrap();
    // No vector yet: the choice is free.
    let tiny = store.adopt_model(&model("tiny")).await.unwrap();
    assert_eq!(store.adopt_model(&model("tiny")).await.unwrap(), tiny);
    assert_eq!(store.model().await.unwrap(), Some((tiny, model("tiny"))));

    // Whoever still writes with the other one is stopped, also before the first row.
    let error = store.insert(other, &[plain("a")]).await.unwrap_err();
    assert!(matches!(error, StoreError::ModelChanged) && !error.is_transient(), "{error}");
    store.insert(tiny, &[plain("a")]).await.unwrap();
    let error = store.adopt_model(&model("other")).await.unwrap_err();
    let told = error.to_string();
    assert!(told.contains("tiny") && told.contains("other") && !error.is_transient(), "{told}");
    assert_eq!(open(dsn).await.adopt_model(&model("tiny")).await.unwrap(), tiny);
}

#[tokio::test]
async fn a_store_is_told_from_any_other() {
    let dsn = database().await;
    let store = open(dsn.clone()).await;
    assert_eq!(store.store_id(), open(dsn.clone()).await.store_id());
    connect(&dsn).await.batch_execute("UPDATE change_clock SET store_id = gen_random_uuid()").await.unwrap();
    assert_ne!(store.store_id(), open(dsn).await.store_id());
}

// The clock.

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_follower_of_overlapping_writers_misses_nothing() {
    const WRITERS: usize = 8;
    const BATCHES: usize = 12;
    const KEYS: usize = 400;
    let (store, model, dsn) = fresh().await;
    let follower = tokio::spawn({
        let store = open(dsn.clone()).await;
        async move {
            let (mut at, mut seen) = (0, Vec::new());
            while seen.len() < KEYS {
                let changes = store.changes_after(at, 7, model).await.unwrap();
                assert!(changes.through >= at && changes.through <= changes.clock);
                assert!(changes.rows.iter().all(|row| row.seq > at && row.seq <= changes.through));
                seen.extend(changes.rows.iter().map(|row| (row.seq, row.item)));
                at = changes.through;
            }
            (at, seen)
        }
    });
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let dsn = dsn.clone();
            tokio::spawn(async move {
                let store = open(dsn).await;
                let mut new = 0;
                for batch in 0..BATCHES {
                    // Strides that overlap the other writers' and come in another order each time.
                    let rows: Vec<_> =
                        (0..50).map(|n| plain(&format!("{}", (writer * 31 + batch * 37 + n * 7) % KEYS))).collect();
                    let fates = store.insert(model, &rows).await.unwrap();
                    new += seqs(&fates).iter().flatten().count();
                }
                new
            })
        })
        .collect();
    let mut new = 0;
    for writer in writers {
        new += writer.await.unwrap();
    }
    // Top up whatever the strides left out, so the follower knows when to stop.
    let rest: Vec<_> = (0..KEYS).map(|n| plain(&n.to_string())).collect();
    new += seqs(&store.insert(model, &rest).await.unwrap()).iter().flatten().count();
    assert_eq!(new, KEYS, "each key is inserted exactly once");

    let (at, seen) = tokio::time::timeout(Duration::from_secs(30), follower).await.unwrap().unwrap();
    assert!(seen.is_sorted(), "in the order of the clock");
    assert_eq!(at, KEYS as i64, "no number was used up by a repetition");
    assert_eq!(seen.iter().map(|(_, item)| item).collect::<HashSet<_>>().len(), KEYS);
    assert_eq!(store.clock().await.unwrap(), KEYS as i64);
}

#[tokio::test]
async fn deletions_come_in_their_place() {
    let (store, model, dsn) = fresh().await;
    store.insert(model, &[plain("a"), plain("b"), plain("c")]).await.unwrap();
    let delete = "BEGIN;
        UPDATE change_clock SET seq = seq + 3;
        WITH gone AS (DELETE FROM chunks WHERE id = 'b' RETURNING item, cpe_id)
        INSERT INTO tombstones (seq, item, cpe_id) SELECT 5, item, cpe_id FROM gone;
        COMMIT";
    connect(&dsn).await.batch_execute(delete).await.unwrap();
    store.insert(model, &[plain("d")]).await.unwrap();

    let all = store.changes_after(0, 100, model).await.unwrap();
    assert_eq!(all.rows.iter().map(|row| row.seq).collect::<Vec<_>>(), [1, 3, 7]);
    assert_eq!((all.tombstones.as_slice(), all.through, all.clock), ([(5, 1)].as_slice(), 7, 7));

    let two = store.changes_after(1, 2, model).await.unwrap();
    assert_eq!((two.rows.len(), two.tombstones.len(), two.through, two.clock), (1, 1, 5, 7));
    let rest = store.changes_after(two.through, 2, model).await.unwrap();
    assert_eq!((rest.rows.len(), rest.through), (1, 7));
    let none = store.changes_after(7, 2, model).await.unwrap();
    assert_eq!((none.rows.len(), none.tombstones.len(), none.through), (0, 0, 7));
    assert_eq!(count(&mut connect(&dsn).await, "chunk_vectors").await, 3);
}

#[tokio::test]
async fn the_last_item_number_is_the_end() {
    let (store, model, dsn) = fresh().await;
    let almost = "UPDATE change_clock SET next_item = 4294967294";
    connect(&dsn).await.batch_execute(almost).await.unwrap();
    let fates = store.insert(model, &[plain("a")]).await.unwrap();
    assert!(matches!(fates[0], RowFate::Inserted { item: 4_294_967_294, .. }));
    let error = store.insert(model, &[plain("b")]).await.unwrap_err();
    assert!(matches!(error, StoreError::Full) && !error.is_data_error() && !error.is_transient(), "{error}");
}

// Connections.

#[test]
fn connections_outlive_the_runtime_that_asked_for_them() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let (store, model, _) = first.block_on(fresh());
    first.block_on(store.insert(model, &[plain("a")])).unwrap();
    drop(first);
    let second = runtime();
    second.block_on(store.insert(model, &[plain("b")])).unwrap();
    assert_eq!(second.block_on(store.count_chunks()).unwrap(), 2);
}

#[tokio::test]
async fn a_killed_backend_is_transient_and_replaced() {
    let (store, model, dsn) = fresh().await;
    let mut admin = connect(&dsn).await;
    let others = "pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    // An idle one is noticed when it is taken from the pool.
    store.ping().await.unwrap();
    let killed = count(&mut admin, &format!("(SELECT pg_terminate_backend(pid) FROM {others}) AS killed")).await;
    assert!(killed >= 1);
    store.ping().await.unwrap();

    // One that waits for the clock in the middle of its work is an error that can be repeated.
    admin.batch_execute("BEGIN; SELECT FROM change_clock FOR UPDATE").await.unwrap();
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.insert(model, &[plain("a")]).await }
    });
    let blocked = format!("{others} AND wait_event_type = 'Lock'");
    while count(&mut admin, &blocked).await == 0 {
        tokio::task::yield_now().await;
    }
    count(&mut admin, &format!("(SELECT pg_terminate_backend(pid) FROM {blocked}) AS killed")).await;
    let error = waiting.await.unwrap().unwrap_err();
    assert!(error.is_transient() && error.sqlstate().is_none_or(|s| s.as_str() == "57P01"), "{error:?}");
    admin.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(seqs(&store.insert(model, &[plain("a")]).await.unwrap()), [Some(1)]);
}

#[tokio::test]
async fn a_cancelled_insert_leaves_no_transaction_open() {
    let (store, model, dsn) = fresh().await;
    let mut admin = connect(&dsn).await;
    admin.batch_execute("BEGIN; SELECT FROM change_clock FOR UPDATE").await.unwrap();
    let cancelled = tokio::time::timeout(Duration::from_millis(200), store.insert(model, &[plain("a")])).await;
    assert!(cancelled.is_err());
    admin.batch_execute("ROLLBACK").await.unwrap();
    let rows = [plain("b")];
    let insert = tokio::time::timeout(Duration::from_secs(10), store.insert(model, &rows));
    assert_eq!(seqs(&insert.await.unwrap().unwrap()), [Some(1)]);
}

#[tokio::test]
async fn a_closed_store_says_so_and_leaves_no_session() {
    let (store, model, dsn) = fresh().await;
    store.insert(model, &[plain("a")]).await.unwrap();
    store.close().await;
    assert!(matches!(store.ping().await, Err(StoreError::Closed)));
    let sessions = "pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let mut admin = connect(&dsn).await;
    while count(&mut admin, sessions).await > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn nobody_there_is_transient_and_shows_no_password() {
    let dsn: Dsn = "postgres://lnsp:s3cret@127.0.0.1:1/lnsp".parse().unwrap();
    let error = Store::open(StoreOptions { dsn, pool_size: 1 }).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("127.0.0.1"), "{error}");
    assert!(!format!("{error} {error:?}").contains("s3cret"));
    // A server that answers no is another thing.
    let dsn = database().await.with_database("no_such_database");
    let error = Store::open(StoreOptions { dsn, pool_size: 1 }).await.unwrap_err();
    assert_eq!((error.is_transient(), error.sqlstate().unwrap().as_str()), (false, "3D000"));
}

#[tokio::test]
async fn a_database_of_a_later_version_is_refused() {
    let dsn = database().await;
    let later = "INSERT INTO __diesel_schema_migrations (version) VALUES ('29990101000000')";
    connect(&dsn).await.batch_execute(later).await.unwrap();
    let error = Store::open(StoreOptions { dsn, pool_size: 1 }).await.unwrap_err();
    assert!(matches!(error, StoreError::TooNew { .. }) && error.to_string().contains("29990101"), "{error}");
}

// What other programs read.

#[derive(QueryableByName)]
struct Floats {
    #[diesel(sql_type = Array<Float>)]
    floats: Vec<f32>,
}

async fn floats(conn: &mut AsyncPgConnection, expression: &str) -> Vec<f32> {
    let query = diesel::sql_query(format!("SELECT {expression} AS floats"));
    query.get_result::<Floats>(conn).await.unwrap().floats
}

fn assert_close(found: &[f32], expected: &[f32]) {
    let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6;
    assert!(found.len() == expected.len() && found.iter().zip(expected).all(close), "{found:?} is not {expected:?}");
}

#[tokio::test]
async fn the_code_functions_agree_with_the_published_values_and_with_ours() {
    #[derive(QueryableByName)]
    struct Packed {
        #[diesel(sql_type = Integer)]
        bits: i32,
        #[diesel(sql_type = Integer)]
        lane: i32,
    }
    let mut conn = connect(&database().await).await;
    let published = [((0, 0, 1), 2), ((4, 5, 9), 17042), ((15, 14, 9), 63250), ((15, 31, 63), 65534), ((2, 5, 10), 8852)];
    for ((d, t, m), bits) in published {
        let tmd = Tmd::new(d, t, m).unwrap();
        let query = format!("SELECT tmd_bits_canonical({d},{t},{m}) AS bits, tmd_lane_index({d},{t},{m}) AS lane");
        let packed: Packed = diesel::sql_query(query).get_result(&mut conn).await.unwrap();
        assert_eq!((packed.bits, packed.lane), (bits, bits / 2), "{tmd}");
        assert_eq!(packed.lane, i32::from(packing::lane_index(tmd)));
    }
    let head = floats(&mut conn, "(tmd_16d_canonical(4, 5, 9))[1:3]").await;
    assert_close(&head, &[0.571_803_7, -0.252_801_1, 0.042_821_4]);

    for (d, t, m) in [(0, 0, 0), (0, 0, 1), (8, 16, 32), (4, 5, 9), (15, 14, 9), (15, 31, 63), (1, 2, 32)] {
        let tmd = Tmd::new(d, t, m).unwrap();
        let canonical = floats(&mut conn, &format!("tmd_16d_canonical({d},{t},{m})")).await;
        assert_close(&canonical, &projection::canonical_16d(tmd));
        let ingest = floats(&mut conn, &format!("tmd_16d_ingest({d},{t},{m})")).await;
        assert_eq!(ingest, projection::ingest_16d(tmd), "{tmd}");
    }
}

#[tokio::test]
async fn every_float_is_readable_in_sql_bit_for_bit() {
    let mut conn = connect(&database().await).await;
    // One of each exponent, both signs, the ends of the fraction; NaN keeps no payload and is left out.
    let values: Vec<f32> = (0..=254u32)
        .flat_map(|exponent| [0, 1, 0x40_0000, 0x7f_ffff].map(|fraction| exponent << 23 | fraction))
        .chain([255 << 23])
        .flat_map(|bits| [f32::from_bits(bits), -f32::from_bits(bits)])
        .collect();
    let hex: String = values.iter().flat_map(|x| x.to_le_bytes()).map(|byte| format!("{byte:02x}")).collect();
    let read = floats(&mut conn, &format!("bytea_to_real_array('\\x{hex}')")).await;
    let bits = |floats: &[f32]| floats.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&read), bits(&values));
    assert_eq!(floats(&mut conn, "bytea_to_real_array('')").await, Vec::<f32>::new());
}

#[tokio::test]
async fn the_old_tables_are_views_with_the_old_values() {
    let (store, model, dsn) = fresh().await;
    let mut sent = draft("wiki", "1", "Photosynthesis converts light energy.");
    sent.placement = Placement {
        document_id: Some("doc".into()),
        chunk_index: 3,
        source_document: Some("web_input".into()),
        article_title: Some("Photosynthesis".into()),
        article_index: Some(12),
        parent_cpe_ids: vec!["p".into()],
        child_cpe_ids: vec![],
    };
    sent.batch_id = Some("b-1".into());
    sent.metadata = Some(json!({"episode_id": "e1"}));
    let row = embedded(sent, (15, 14, 9), &[0.6, 0.8, 0.0, 0.0]);
    store.insert(model, &[&row]).await.unwrap();
    let mut conn = connect(&dsn).await;

    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Text)]
        row: String,
    }
    let query = "SELECT (to_jsonb(e) - 'created_at')::text AS row FROM cpe_entry e";
    let found: Row = diesel::sql_query(query).get_result(&mut conn).await.unwrap();
    let text = "Photosynthesis converts light energy.";
    let expected = json!({
        "cpe_id": row.chunk.cpe_id, "mission_text": text, "source_chunk": text, "concept_text": text,
        "probe_question": "", "expected_answer": "", "soft_negatives": [], "hard_negatives": [],
        "domain_code": 15, "task_code": 14, "modifier_code": 9, "content_type": "factual", "dataset_source": "wiki",
        "chunk_position": {"article_title": "Photosynthesis", "article_index": 12, "chunk_index": 3, "source": "web_input"},
        "relations_text": [], "echo_score": null, "validation_status": "pending", "batch_id": "b-1",
        "tmd_bits": 31625, "tmd_bits_canonical": 63250, "tmd_lane": "lane_15",
        "lane_index": 15, "lane_index_canonical": 31625, "confidence_score": 0.09,
        "quality_metrics": {
            "cpesh_completeness": 0.2, "vector_norm": 1, "vector_dimension": 4, "text_length": 37,
            "concept_length": 37, "soft_negatives_count": 0, "hard_negatives_count": 0, "total_negatives": 0,
        },
        "parent_cpe_ids": ["p"], "child_cpe_ids": [], "last_accessed_at": null, "access_count": 0,
        "document_id": "doc", "sequence_index": 3, "episode_id": "e1",
    });
    assert_eq!(serde_json::from_str::<serde_json::Value>(&found.row).unwrap(), expected);

    let concept = row.embedding.vector.to_vec();
    let (a, b) = (projection::canonical_16d(row.tagging.tmd), projection::ingest_16d(row.tagging.tmd));
    let mut column = async |name: &str| floats(&mut conn, &format!("{name} FROM (SELECT * FROM cpe_vectors) v; --")).await;
    let mut read = BTreeMap::new();
    for name in ["concept_vec", "question_vec", "tmd_dense", "tmd_dense_canonical", "fused_vec", "fused_vec_canonical"] {
        read.insert(name, column(&format!("v.{name} AS floats, 1 AS one")).await);
    }
    read.insert("fused_norm", column("ARRAY[v.fused_norm] AS floats, 1 AS one").await);
    assert_eq!((&read["concept_vec"], &read["question_vec"]), (&concept, &concept));
    assert_eq!(read["tmd_dense"], b);
    assert_close(&read["tmd_dense_canonical"], &a);
    assert_eq!(read["fused_vec"], [concept.as_slice(), &b].concat());
    let popcount = packing::lane_index(row.tagging.tmd).count_ones() as f32;
    assert_close(&read["fused_norm"], &[(1.0 + popcount).sqrt()]);
    let halved = |x: &f32| x / 2f32.sqrt();
    assert_close(&read["fused_vec_canonical"], &a.iter().chain(&concept).map(halved).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_question_vector_is_used_where_there_is_one() {
    let (store, model, dsn) = fresh().await;
    store.insert(model, &[plain("a")]).await.unwrap();
    let mut conn = connect(&dsn).await;
    let question = "INSERT INTO chunk_vectors SELECT item, model_id, 'question', '\\x0000803f' FROM chunk_vectors";
    conn.batch_execute(question).await.unwrap();
    assert_eq!(floats(&mut conn, "question_vec AS question, question_vec AS floats FROM cpe_vectors --").await, [1.0]);
    assert_eq!(count(&mut conn, "cpe_vectors").await, 1);
    // A follower is shown concepts only.
    let changes = store.changes_after(0, 10, model).await.unwrap();
    assert_eq!(changes.rows.iter().map(|row| row.vector.len()).collect::<Vec<_>>(), [4]);
}

#[tokio::test]
async fn schema_rs_is_what_the_migrations_make() {
    #[derive(QueryableByName)]
    struct Table {
        #[diesel(sql_type = Text)]
        name: String,
        #[diesel(sql_type = Text)]
        primary_key: String,
        #[diesel(sql_type = Text)]
        columns: String,
        #[diesel(sql_type = BigInt)]
        uncommented: i64,
    }
    let tables = diesel::sql_query(
        "SELECT t.relname::text AS name,
                (SELECT string_agg(a.attname, ', ' ORDER BY array_position(i.indkey, a.attnum))
                 FROM pg_index i JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = ANY (i.indkey)
                 WHERE i.indrelid = t.oid AND i.indisprimary) AS primary_key,
                string_agg(a.attname || ' ' || y.typname || CASE WHEN a.attnotnull THEN '' ELSE '?' END, E'\\n'
                           ORDER BY a.attnum) AS columns,
                count(*) FILTER (WHERE col_description(t.oid, a.attnum) IS NULL)
                    + (obj_description(t.oid) IS NULL)::integer AS uncommented
         FROM pg_class t JOIN pg_attribute a ON a.attrelid = t.oid JOIN pg_type y ON y.oid = a.atttypid
         WHERE t.relkind = 'r' AND t.relnamespace = 'public'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped
           AND t.relname <> '__diesel_schema_migrations'
         GROUP BY t.oid, t.relname ORDER BY t.relname",
    );
    let tables: Vec<Table> = tables.load(&mut connect(&database().await).await).await.unwrap();
    let mut expected = "// @generated automatically by Diesel CLI.\n".to_owned();
    for table in &tables {
        assert_eq!(table.uncommented, 0, "{} and its columns have comments", table.name);
        expected += &format!("\ndiesel::table! {{\n    {} ({}) {{\n", table.name, table.primary_key);
        for column in table.columns.lines() {
            let (name, kind) = column.split_once(' ').unwrap();
            expected += &format!("        {name} -> {},\n", diesel_type(kind));
        }
        expected += "    }\n}\n";
    }
    let written = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/schema.rs")).unwrap();
    let (written, _) = written.split_once("\ndiesel::joinable!").unwrap();
    assert_eq!(written, expected, "run `diesel print-schema` after changing a migration");
}

/// As `diesel print-schema` writes it: PostgreSQL does not know whether elements of arrays may be null.
fn diesel_type(kind: &str) -> String {
    if let Some(kind) = kind.strip_suffix('?') {
        return format!("Nullable<{}>", diesel_type(kind));
    }
    if let Some(element) = kind.strip_prefix('_') {
        return format!("Array<Nullable<{}>>", diesel_type(element));
    }
    kind[..1].to_uppercase() + &kind[1..]
}

#[tokio::test]
async fn the_migration_can_be_taken_back() {
    let dsn = database().await;
    let mut conn = connect(&dsn).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/2026-11-23-000001_chunks");
    conn.batch_execute(&std::fs::read_to_string(folder.join("down.sql")).unwrap()).await.unwrap();
    let left = "pg_class WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE '%diesel%'";
    assert_eq!(count(&mut conn, left).await, 0);
    assert_eq!(count(&mut conn, "pg_proc WHERE pronamespace = 'public'::regnamespace AND proname !~ 'diesel'").await, 0);
    conn.batch_execute(&std::fs::read_to_string(folder.join("up.sql")).unwrap()).await.unwrap();
}

// The managed server.

async fn stored(dsn: &Dsn, id: &str) -> bool {
    let store = open(dsn.clone()).await;
    let key = ChunkKey { dataset: "facts".into(), id: id.into() };
    !store.known(&[key]).await.unwrap().is_empty()
}

fn server_pid(folder: &Path) -> Pid {
    let file = std::fs::read_to_string(folder.join("postgres/cluster/postmaster.pid")).unwrap();
    Pid::from_raw(file.lines().next().unwrap().parse().unwrap())
}

/// Run as a process of its own by the tests that kill a service: starts a server, says so, and waits for its end.
#[test]
fn a_service_in_a_process_of_its_own() {
    let Some(folder) = std::env::var_os("LNSP_TEST_SERVICE_FOLDER") else { return };
    let server = ManagedPostgres::start(Path::new(&folder)).unwrap();
    println!("\nready {}", server.dsn());
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
    server.stop().unwrap();
}

fn service(folder: &Path) -> std::process::Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::a_service_in_a_process_of_its_own", "--nocapture"])
        .env("LNSP_TEST_SERVICE_FOLDER", folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.starts_with("ready ")), "the service ended");
    child
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_survives_its_service_and_is_adopted() {
    let folder = DataFolder::new();
    let mut killed = service(folder.path());
    let pid = server_pid(folder.path());
    // Not in the group of the service: a Ctrl-C on the terminal does not reach it.
    assert_eq!(getpgid(Some(pid)).unwrap(), pid);
    let refused = ManagedPostgres::start(folder.path()).unwrap_err();
    assert!(matches!(refused, ManagedError::InUse { .. }) && refused.is_transient(), "{refused}");
    killed.kill().unwrap();
    killed.wait().unwrap();

    let server = ManagedPostgres::start(folder.path()).unwrap();
    assert!(server.adopted() && server_pid(folder.path()) == pid);
    let store = open(server.dsn().clone()).await;
    let model = store.adopt_model(&model("tiny")).await.unwrap();
    store.insert(model, &[plain("a")]).await.unwrap();
    // Stopping ends open connections, and also stops what was adopted.
    server.stop().unwrap();
    assert!(!folder.path().join("postgres/cluster/postmaster.pid").exists());
    assert!(store.ping().await.unwrap_err().is_transient());

    let server = ManagedPostgres::start(folder.path()).unwrap();
    assert!(!server.adopted());
    assert!(stored(server.dsn(), "a").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_comes_back_under_the_living_service() {
    let folder = DataFolder::new();
    let server = ManagedPostgres::start(folder.path()).unwrap();
    let store = open(server.dsn().clone()).await;
    let model = store.adopt_model(&model("tiny")).await.unwrap();
    store.insert(model, &[plain("a")]).await.unwrap();
    let pid = server_pid(folder.path());
    kill(pid, Signal::SIGKILL).unwrap();

    // Whatever is asked meanwhile is answered, or fails in a way that can be repeated.
    let repeated = async {
        while server_pid(folder.path()) == pid {
            if let Err(error) = store.insert(model, &[plain("a"), plain("b")]).await {
                assert!(error.is_transient(), "{error:?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        loop {
            match store.insert(model, &[plain("a"), plain("b"), plain("c")]).await {
                Ok(fates) => break fates,
                Err(error) => assert!(error.is_transient(), "{error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let fates = tokio::time::timeout(Duration::from_secs(60), repeated).await.unwrap();
    assert!(matches!(fates[0], RowFate::Present(_)) && matches!(fates[2], RowFate::Inserted { .. }), "{fates:?}");
    assert_eq!(store.count_chunks().await.unwrap(), 3);
    server.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pid_file_of_a_dead_or_foreign_process_is_no_obstacle() {
    let folder = DataFolder::new();
    let server = ManagedPostgres::start(folder.path()).unwrap();
    let pid_file = folder.path().join("postgres/cluster/postmaster.pid");
    let left = std::fs::read_to_string(&pid_file).unwrap();
    server.stop().unwrap();
    // The number of a living process that is no server; the kernel reused it, as containers do.
    let rest = left.split_once('\n').unwrap().1;
    std::fs::write(&pid_file, format!("{}\n{rest}", std::process::id())).unwrap();
    let server = ManagedPostgres::start(folder.path()).unwrap();
    assert!(!server.adopted());
    server.stop().unwrap();
    std::fs::write(&pid_file, left).unwrap();
    assert!(!ManagedPostgres::start(folder.path()).unwrap().adopted());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_beginning_is_mended_and_a_long_path_works() {
    let folder = DataFolder::new();
    let long = folder.path().join("x".repeat(120));
    let unfinished = long.join("postgres/cluster.unfinished");
    std::fs::create_dir_all(unfinished.join("base")).unwrap();
    std::fs::write(unfinished.join("PG_VERSION"), "15\n").unwrap();
    std::fs::create_dir(long.join("postgres/cluster")).unwrap();
    let server = ManagedPostgres::start(&long).unwrap();
    assert!(server.version().split('.').next().unwrap().parse::<u32>().unwrap() >= 14);
    let store = open(server.dsn().clone()).await;
    store.ping().await.unwrap();
    assert!(!unfinished.exists());
    let run_folder = server.dsn().to_string();
    let run_folder = run_folder.strip_prefix("host=").unwrap().split_once(" port").unwrap().0.to_owned();
    server.stop().unwrap();
    std::fs::remove_dir(run_folder).unwrap();
}

#[test]
fn a_cluster_of_another_version_is_refused() {
    let folder = DataFolder::new();
    let cluster = folder.path().join("postgres/cluster");
    std::fs::create_dir_all(&cluster).unwrap();
    std::fs::write(cluster.join("PG_VERSION"), "9.6\n").unwrap();
    let error = ManagedPostgres::start(folder.path()).unwrap_err();
    assert!(matches!(error, ManagedError::OtherMajor { found: 9, .. }) && !error.is_transient(), "{error}");

    std::fs::remove_file(cluster.join("PG_VERSION")).unwrap();
    std::fs::write(cluster.join("letters.txt"), "of mine").unwrap();
    let error = ManagedPostgres::start(folder.path()).unwrap_err();
    assert!(matches!(error, ManagedError::NotACluster { .. }), "{error}");
    assert!(cluster.join("letters.txt").exists());
}

#[test]
fn root_is_told_which_folder_keeps_the_server_out() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let folder = DataFolder::new();
    let closed = folder.path().join("closed");
    std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&closed).unwrap();
    let error = ManagedPostgres::start(&closed.join("data")).unwrap_err();
    assert!(error.to_string().contains("closed (chmod") || error.to_string().contains("chmod o+x"), "{error}");
    assert!(matches!(error, ManagedError::Closed { folder, .. } if folder == closed.canonicalize().unwrap()));
}

#[tokio::test]
async fn the_server_flushes_and_logs_no_row() {
    let (store, model, dsn) = fresh().await;
    #[derive(QueryableByName)]
    struct Setting {
        #[diesel(sql_type = Text)]
        value: String,
    }
    let mut conn = connect(&dsn).await;
    for (name, value) in [
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
        ("data_checksums", "on"),
        ("listen_addresses", ""),
        ("log_min_error_statement", "panic"),
        ("shared_buffers", "128MB"),
    ] {
        let found = diesel::sql_query(format!("SELECT current_setting('{name}') AS value"));
        let found: Option<Setting> = found.get_result(&mut conn).await.optional().unwrap();
        assert_eq!(found.unwrap().value, value, "{name}");
    }
    let no_vector = embedded(draft("facts", "1", "a very secret text"), (1, 1, 1), &[]);
    store.insert(model, &[no_vector]).await.unwrap_err();
    let log = std::fs::read_to_string(crate::postgres::server_folder().join("server.log")).unwrap();
    assert!(log.contains("violates check constraint") && !log.contains("very secret"), "{log}");
    let _: DateTime<Utc> = Utc::now();
}
