//! A client that stops in the middle of a transaction delays the others for seconds, and a transaction that fails in the
//! middle leaves nothing behind, although all of it was sent at once.

use crate::store::{draft, embedded, fresh, model, plain, seqs};
use crate::support::commit_cut_proxy::CommitCutProxy;
use crate::support::database::Database;
use crate::support::postgres::open;
use crate::support::process::Service;
use crate::support::test_service::{numbered, stream_to, tally};
use crate::support::wait::until_answered;
use lnsp_ingest::chunk::{Chunk, EmbeddedChunk, OnConflict};
use lnsp_ingest::store::{InsertOutcome, Store, StoreOptions};
use nix::sys::signal::Signal;
use std::sync::Arc;
use std::time::Duration;

/// No expectation of speed: it turns a hang into a failure.
const LIMIT: Duration = Duration::from_secs(60);

/// A chunk that replaces the row with its id.
fn replacing(id: &str, text: &str) -> EmbeddedChunk {
    let mut chunk = Chunk::new(draft("info", id, text)).unwrap();
    chunk.on_conflict = OnConflict::Replace;
    EmbeddedChunk { chunk: Arc::new(chunk), ..embedded(draft("info", id, text), (1, 2, 3), &[1.0]) }
}

#[actix_web::test]
async fn while_one_of_two_services_is_stopped_in_a_transaction_the_other_stores() {
    let database = Database::new().await;
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let flags = ["--database-url", database.dsn()];
    let [first, second] = folders.each_ref().map(|folder| Service::start(folder.path(), &flags));

    // Its transaction, of one chunk, waits for the clock, and with the clock for its end.
    let clock = database.hold("SELECT seq FROM change_clock FOR UPDATE").await;
    let upload = actix_web::rt::spawn(stream_to(first.url.clone(), numbered(0..1)));
    let waiting = "SELECT count(*) FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%new_chunk%'";
    until_answered("it waits", async || database.number(waiting).await == 1).await;
    first.signal(Signal::SIGSTOP);
    clock.release().await;

    let beside = tokio::time::timeout(LIMIT, stream_to(second.url.clone(), numbered(1..10))).await;
    assert_eq!(tally(&beside.expect("the other service stores")), (9, 0, 0));
    // What was sent as a whole is done as a whole.
    until_answered("ten rows", async || database.number("SELECT count(*) FROM chunks").await == 10).await;
    assert!(!upload.is_finished());
    first.signal(Signal::SIGCONT);
    assert_eq!(tally(&upload.await.unwrap()), (1, 0, 0));
    assert_eq!(database.number("SELECT seq FROM change_clock").await, 10);
    assert!(first.terminate().success() && second.terminate().success());
}

#[tokio::test]
async fn a_client_that_stops_while_it_holds_the_clock_is_cut_and_its_transaction_undone() {
    let proxy = CommitCutProxy::new().await;
    let frozen = Store::open(StoreOptions { dsn: proxy.database.dsn().parse().unwrap(), pool_size: 1 }).await;
    let (frozen, beside) = (frozen.unwrap(), open(proxy.database.address().clone()).await);
    let model = frozen.adopt_model(&model("tiny")).await.unwrap();
    frozen.insert(model, &[plain("a"), plain("b")]).await.unwrap();
    frozen.insert(model, &[replacing("b", "another text")]).await.unwrap();

    proxy.stall_replacements(true);
    let stalled = tokio::spawn(async move {
        let rows = [replacing("a", "another text"), replacing("c", "new")];
        (frozen.insert(model, &rows).await, frozen)
    });
    let holds = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                 AND state = 'idle in transaction' AND query LIKE '%FOR UPDATE'";
    until_answered("it holds the clock", async || proxy.database.number(holds).await == 1).await;
    let stored = tokio::time::timeout(LIMIT, beside.insert(model, &[plain("d")])).await;
    assert_eq!(seqs(&stored.expect("the other client stores").unwrap().outcomes), [Some(4)]);
    let (outcome, frozen) = stalled.await.unwrap();
    let error = outcome.unwrap_err();
    assert!(
        error.is_transient() && error.sqlstate().is_none_or(|state| state.as_str() == "25P03"),
        "{error:?}"
    );
    let texts = "SELECT id || ': ' || text FROM chunks ORDER BY id";
    let before = ["a: text of a", "b: another text", "d: text of d"];
    assert_eq!(proxy.database.texts(texts).await, before);

    proxy.stall_replacements(false);
    let rows = [replacing("a", "another text"), replacing("c", "new"), replacing("d", "text of d")];
    let outcomes = frozen.insert(model, &rows).await.unwrap().outcomes;
    assert!(matches!(outcomes[0], InsertOutcome::Replaced { seq: 5, .. }), "{outcomes:?}");
    assert!(matches!(outcomes[1], InsertOutcome::Inserted { seq: 6, .. }), "{outcomes:?}");
    // It does not differ.
    assert!(matches!(&outcomes[2], InsertOutcome::Present(known) if known.seq == 4), "{outcomes:?}");
}

#[tokio::test]
async fn a_statement_that_fails_in_the_middle_undoes_the_others_and_the_session_goes_on() {
    let (_, model, dsn) = fresh().await;
    let (database, store) =
        (Database::at(dsn.clone()), Store::open(StoreOptions { dsn, pool_size: 1 }).await);
    let store = store.unwrap();
    store.insert(model, &[plain("a"), plain("b")]).await.unwrap();
    store.insert(model, &[replacing("b", "another text")]).await.unwrap();
    database.run("ALTER TABLE chunks ADD CONSTRAINT no_bad_id CHECK (id <> 'bad' AND text <> 'bad')").await;
    let session = "SELECT sum(pid) FROM pg_stat_activity \
                   WHERE datname = current_database() AND application_name = 'lnsp-ingest'";
    let (before, texts) =
        (database.number(session).await, "SELECT id || ': ' || text FROM chunks ORDER BY id");
    for batch in [
        // The first statement replaces, the second one fails, and the COMMIT comes after both.
        vec![replacing("a", "another text"), plain("bad")],
        vec![replacing("a", "bad"), plain("c")],
        vec![plain("c"), plain("bad")],
    ] {
        let error = store.insert(model, &batch).await.unwrap_err();
        assert!(error.is_data_error() && error.to_string().contains("no_bad_id"), "{error}");
        assert_eq!(database.texts(texts).await, ["a: text of a", "b: another text"]);
        assert_eq!(store.clock().await.unwrap(), 3, "no number was used up");
    }
    let outcomes = store.insert(model, &[replacing("a", "another text"), plain("c")]).await.unwrap().outcomes;
    assert!(matches!(outcomes[0], InsertOutcome::Replaced { seq: 4, .. }), "{outcomes:?}");
    assert_eq!(seqs(&outcomes), [None, Some(5)]);
    assert_eq!(database.number(session).await, before, "over the same connection");
}

#[tokio::test]
async fn a_known_row_that_is_gone_when_it_is_read_is_neither_stored_nor_present() {
    let (store, model, dsn) = fresh().await;
    store.insert(model, &[plain("a")]).await.unwrap();
    // As if the rows were deleted between the transaction and the look-up.
    Database::at(dsn)
        .run(
            "CREATE OR REPLACE FUNCTION new_chunk_numbers(datasets text[], ids text[], model integer)
             RETURNS TABLE (known boolean, seq bigint, item bigint) LANGUAGE sql
             AS 'SELECT true, NULL::bigint, NULL::bigint FROM unnest(ids)'",
        )
        .await;
    let outcomes = store.insert(model, &[plain("b"), plain("a"), plain("b")]).await.unwrap().outcomes;
    assert_eq!((&outcomes[0], &outcomes[2]), (&InsertOutcome::Gone, &InsertOutcome::Gone));
    assert!(matches!(&outcomes[1], InsertOutcome::Present(known) if known.seq == 1), "{outcomes:?}");
}
