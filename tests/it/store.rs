//! The store keeps what it acknowledges, exactly and once, and tells a follower of every change in order.
//!
//! First about rows: what goes in comes out, repetitions are recognised, errors say what to do. Then about the model,
//! and about the clock under concurrent writers.

use crate::support::postgres::{connect, database, open};
use diesel::QueryableByName;
use diesel::sql_types::{Array, BigInt, Nullable, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use lnsp_ingest::chunk::{
    BatchId, Chunk, ChunkKey, Draft, EmbeddedChunk, Embedding, Extraction, Metadata, Placement, Tagging,
    TmdSource,
};
use lnsp_ingest::filter::FilterFields;
use lnsp_ingest::model::ModelIdentity;
use lnsp_ingest::store::{Dsn, InsertOutcome, ModelId, Store, StoreError};
use lnsp_ingest::tmd::{AxisConfidence, Tmd};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

pub fn model(name: &str) -> ModelIdentity {
    let (name, recipe, fingerprint) =
        (name.to_owned(), "mean, normalise".to_owned(), format!("print of {name}"));
    ModelIdentity { name, recipe, fingerprint, dims: 4 }
}

pub fn draft(dataset: &str, id: &str, text: &str) -> Draft {
    Draft { id: Some(id.to_owned()), dataset: dataset.into(), text: text.to_owned(), ..Draft::default() }
}

pub fn embedded(draft: Draft, tmd: (u8, u8, u8), vector: &[f32]) -> EmbeddedChunk {
    let tagging = Tagging {
        tmd: Some(Tmd::new(tmd.0, tmd.1, tmd.2).unwrap()),
        source: TmdSource::Client,
        confidence: None,
        took: None,
    };
    let embedding =
        Embedding { vector: vector.into(), truncated: false, unread: None, took: Duration::from_millis(3) };
    let chunk = Arc::new(Chunk::new(draft).unwrap());
    let extraction = Extraction::without_llm(&chunk);
    EmbeddedChunk { chunk, tagging, extraction, embedding, question: None }
}

pub fn plain(id: &str) -> EmbeddedChunk {
    embedded(draft("info", id, &format!("text of {id}")), (4, 5, 9), &[0.5, 0.5, 0.5, 0.5])
}

/// A store on its own database, with a model.
pub async fn fresh() -> (Store, ModelId, Dsn) {
    let dsn = database().await;
    let store = open(dsn.clone()).await;
    let id = store.adopt_model(&model("tiny")).await.unwrap();
    (store, id, dsn)
}

pub fn seqs(outcomes: &[InsertOutcome]) -> Vec<Option<i64>> {
    outcomes
        .iter()
        .map(|outcome| match outcome {
            InsertOutcome::Inserted { seq, .. } => Some(*seq),
            InsertOutcome::Replaced { .. } | InsertOutcome::Present(_) | InsertOutcome::Gone => None,
        })
        .collect()
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    n: i64,
}

pub async fn count(conn: &mut AsyncPgConnection, from: &str) -> i64 {
    diesel::sql_query(format!("SELECT count(*) AS n FROM {from}")).get_result::<Count>(conn).await.unwrap().n
}

// Rows.

#[tokio::test]
async fn a_server_that_hides_its_log_has_a_history() {
    let (store, _, dsn) = fresh().await;
    let name = format!("blind_{}", store.store_id().simple());
    let mut link = connect(&dsn).await;
    let statements = [
        format!("CREATE ROLE {name}; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}"),
        "REVOKE EXECUTE ON FUNCTION pg_current_wal_lsn() FROM PUBLIC".to_owned(),
        format!(
            "DO $$ DECLARE seen text; BEGIN
                 SET LOCAL ROLE {name};
                 seen := store_history();
                 IF seen NOT LIKE '/%' THEN RAISE EXCEPTION 'it sees %', seen; END IF;
             END $$"
        ),
        format!("DROP OWNED BY {name}; DROP ROLE {name}"),
    ];
    for statement in statements {
        link.batch_execute(&statement).await.unwrap();
    }
    assert!(!store.clock_reading().await.unwrap().history.starts_with('/'));
}

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
        metadata: Some(Metadata::new(metadata.as_object().unwrap().clone()).unwrap()),
        batch: Some(BatchId::Named("batch 1".into())),
        ..draft("data \"set\"", "id/1", text)
    };
    // Every float comes back bit for bit: the smallest denormals, both zeros, the ends of the range.
    let vector = [
        0.0,
        -0.0,
        f32::from_bits(1),
        -f32::from_bits(0x7f_ffff),
        f32::MIN_POSITIVE,
        f32::MAX,
        f32::MIN,
        0.1,
    ];
    let mut row = embedded(whole, (15, 31, 63), &vector);
    row.tagging.source = TmdSource::Llm { model: "llama3.1:8b".into() };
    row.tagging.confidence = Some(AxisConfidence { domain: 0.9, task: 0.25, modifier: f32::MIN_POSITIVE });
    row.tagging.took = Some(Duration::from_micros(887_123));
    row.embedding.truncated = true;

    let outcomes = store.insert(model, &[&row]).await.unwrap().outcomes;
    let InsertOutcome::Inserted { seq, item } = outcomes[0] else { panic!("{outcomes:?}") };

    let known = store.known(&[row.chunk.key.clone()]).await.unwrap().remove(&row.chunk.key).unwrap();
    assert_eq!((known.cpe_id, known.content_hash), (row.chunk.cpe_id, row.chunk.content_hash));
    assert_eq!((known.seq, known.item, known.created_at), (seq, item, row.chunk.received_at));
    assert_eq!((known.tagging, known.truncated), (row.tagging.clone(), true));

    // What the index needs of the row is the same, whether it comes from the chunk or from the database.
    let changed = store.changes_after(seq - 1, 1, model).await.unwrap().rows.remove(0);
    assert_eq!(changed.fields, FilterFields::of_chunk(&row.chunk, row.tagging.tmd));
    let hits = store.hits(&[item]).await.unwrap();
    let hit = &hits[0];
    let stored: Value = serde_json::from_str(hit.metadata.as_ref().unwrap()).unwrap();
    assert_eq!((hit.text.as_str(), &stored), (text, &metadata));
    let bytes = text.len() + hit.metadata.as_ref().unwrap().len();
    assert_eq!(store.hit_sizes(&[item]).await.unwrap(), [(item, bytes)]);
    assert_eq!((&hit.dataset_source, &hit.id), (&"data \"set\"".to_owned(), &"id/1".to_owned()));
    assert_eq!((&hit.document_id, hit.chunk_index), (&placement.document_id, -7));
    assert_eq!(
        (&hit.article_title, &hit.source_document),
        (&placement.article_title, &placement.source_document)
    );
    assert_eq!((hit.tmd, &hit.tmd_source, hit.seq), (row.tagging.tmd, &row.tagging.source, seq));

    let changes = store.changes_after(0, 10, model).await.unwrap();
    let bits = |floats: &[f32]| floats.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&changes.rows[0].vector), bits(&vector));
}

#[tokio::test]
async fn links_and_batch_are_stored_as_sent() {
    let (store, model, dsn) = fresh().await;
    let mut linked = draft("info", "1", "text");
    linked.placement.parent_cpe_ids = vec!["a\"b\\c".into(), String::new(), "NULL".into(), "{x,y}".into()];
    linked.batch = Some(BatchId::Named("batch 1".into()));
    store.insert(model, &[embedded(linked.clone(), (0, 0, 0), &[1.0])]).await.unwrap();

    #[derive(QueryableByName)]
    struct Pool {
        #[diesel(sql_type = Array<Text>)]
        parent_cpe_ids: Vec<String>,
        #[diesel(sql_type = Array<Text>)]
        child_cpe_ids: Vec<String>,
        #[diesel(sql_type = Nullable<Text>)]
        batch_id: Option<String>,
    }
    let stored = diesel::sql_query("SELECT parent_cpe_ids, child_cpe_ids, batch_id FROM chunks");
    let stored: Pool = stored.get_result(&mut connect(&dsn).await).await.unwrap();
    assert_eq!(stored.parent_cpe_ids, linked.placement.parent_cpe_ids);
    assert_eq!(
        (stored.child_cpe_ids, stored.batch_id),
        (vec![], linked.batch.as_ref().map(|batch| batch.as_str().to_owned()))
    );
}

#[tokio::test]
async fn a_repetition_is_the_same_row_and_uses_no_number() {
    let (store, model, _) = fresh().await;
    let rows: Vec<_> = ["b", "a", "c"].map(plain).into();
    let first = store.insert(model, &rows).await.unwrap().outcomes;
    // Change numbers follow the keys, outcomes the order of the batch.
    assert_eq!(seqs(&first), [Some(2), Some(1), Some(3)]);
    assert_eq!(seqs(&store.insert(model, &rows).await.unwrap().outcomes), [None, None, None]);
    assert_eq!(store.clock().await.unwrap(), 3);

    let mixed = [plain("a"), plain("d"), plain("c")];
    let outcomes = store.insert(model, &mixed).await.unwrap().outcomes;
    assert_eq!(seqs(&outcomes), [None, Some(4), None]);
    let InsertOutcome::Present(known) = &outcomes[0] else { panic!("{outcomes:?}") };
    assert_eq!((known.seq, known.content_hash), (1, mixed[0].chunk.content_hash));
    assert_eq!((store.clock().await.unwrap(), store.count_chunks().await.unwrap()), (4, 4));
    assert_eq!(store.insert::<EmbeddedChunk>(model, &[]).await.unwrap().outcomes, []);
}

#[tokio::test]
async fn the_second_of_two_equal_keys_in_a_batch_meets_the_first() {
    let (store, model, _) = fresh().await;
    let other_content = embedded(draft("info", "a", "something else"), (1, 1, 1), &[1.0]);
    let rows = [plain("a"), other_content, plain("b"), plain("a")];
    let outcomes = store.insert(model, &rows).await.unwrap().outcomes;
    assert_eq!(seqs(&outcomes), [Some(1), None, Some(2), None]);
    for outcome in [&outcomes[1], &outcomes[3]] {
        let InsertOutcome::Present(known) = outcome else { panic!("{outcomes:?}") };
        // The caller tells a repetition from a conflict by the hash.
        assert_eq!(known.content_hash, rows[0].chunk.content_hash);
        assert_eq!(known.tagging, rows[0].tagging);
    }
    assert_ne!(rows[0].chunk.content_hash, rows[1].chunk.content_hash);
    // The same id in another dataset is another chunk.
    let elsewhere = embedded(draft("other", "a", "text of a"), (4, 5, 9), &[1.0]);
    assert_eq!(seqs(&store.insert(model, &[elsewhere]).await.unwrap().outcomes), [Some(3)]);
}

#[tokio::test]
async fn only_known_keys_are_known() {
    let (store, model, _) = fresh().await;
    store.insert(model, &[plain("a"), plain("b")]).await.unwrap();
    let key = |dataset: &str, id: &str| ChunkKey { dataset: dataset.into(), id: id.into() };
    let keys = [key("info", "a"), key("info", "x"), key("other", "b"), key("info", "a")];
    let known = store.known(&keys).await.unwrap();
    assert_eq!(known.into_keys().collect::<Vec<_>>(), [key("info", "a")]);
    assert!(store.known(&[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_refused_row_is_a_data_error_and_takes_the_whole_batch_along() {
    let (store, model, _) = fresh().await;
    let mut row = draft("info", "nul", "text");
    row.metadata = Some(Metadata::new(json!({"a": 1}).as_object().unwrap().clone()).unwrap());
    let mut bad = Chunk::new(row).unwrap();
    // No chunk can be made with a NUL; the store does not rely on that.
    bad.text = "secret\0text".into();
    let nul_text = EmbeddedChunk { chunk: Arc::new(bad), ..plain("x") };
    let no_vector = embedded(draft("info", "none", "secret"), (1, 1, 1), &[]);
    let mut share_weights = Chunk::new(draft("info", "share_weights", "secret")).unwrap();
    share_weights.cpe_id = plain("a").chunk.cpe_id;
    let share_weights = EmbeddedChunk { chunk: Arc::new(share_weights), ..plain("x") };

    for (bad, state, constraint) in [
        (nul_text, "22021", None),
        (no_vector, "23514", Some("chunk_vectors_vector_check")),
        (share_weights, "23505", Some("chunks_cpe_id_key")),
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
    let mut documented = draft("info", "b", "two");
    documented.placement.document_id = Some("doc".into());
    let rows = [
        embedded(draft("info", "a", "one"), (1, 2, 3), &[1.0]),
        embedded(documented, (1, 5, 3), &[1.0]),
        embedded(draft("other", "a", "three"), (4, 2, 6), &[1.0]),
    ];
    let items: Vec<u32> = store
        .insert(model, &rows)
        .await
        .unwrap()
        .outcomes
        .iter()
        .map(|outcome| match outcome {
            InsertOutcome::Inserted { item, .. } => *item,
            other => panic!("nothing was there: {other:?}"),
        })
        .collect();
    let mut texts: Vec<_> = store.hits(&items).await.unwrap().into_iter().map(|hit| hit.text).collect();
    texts.sort();
    assert_eq!(texts, ["one", "three", "two"]);
    assert!(store.hits(&[99]).await.unwrap().is_empty());
    assert!(store.hit_sizes(&[99]).await.unwrap().is_empty());
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

    // A process that still writes with the other one is stopped, also before the first row.
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
                    let rows: Vec<_> = (0..50)
                        .map(|n| plain(&format!("{}", (writer * 31 + batch * 37 + n * 7) % KEYS)))
                        .collect();
                    let outcomes = store.insert(model, &rows).await.unwrap().outcomes;
                    new += seqs(&outcomes).iter().flatten().count();
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
    new += seqs(&store.insert(model, &rest).await.unwrap().outcomes).iter().flatten().count();
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
    // With holes, which are legal.
    let delete = "BEGIN;
        UPDATE change_clock SET seq = seq + 1;
        DELETE FROM chunks WHERE id = 'b';
        UPDATE change_clock SET seq = seq + 1;
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
    let outcomes = store.insert(model, &[plain("a")]).await.unwrap().outcomes;
    assert!(matches!(outcomes[0], InsertOutcome::Inserted { item: 4_294_967_294, .. }));
    let error = store.insert(model, &[plain("b")]).await.unwrap_err();
    assert!(matches!(error, StoreError::Full) && !error.is_data_error() && !error.is_transient(), "{error}");
}
