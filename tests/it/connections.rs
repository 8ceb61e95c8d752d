//! Connections come and go, and the store either does not mind or says that the call can be repeated.

use crate::store::{count, fresh, plain, seqs};
use crate::support::postgres::{connect, database};
use diesel_async::SimpleAsyncConnection;
use lnsp_ingest::store::{Dsn, Store, StoreError, StoreOptions};
use std::time::Duration;

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
    let killed =
        count(&mut admin, &format!("(SELECT pg_terminate_backend(pid) FROM {others}) AS killed")).await;
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
    assert_eq!(seqs(&store.insert(model, &[plain("a")]).await.unwrap().outcomes), [Some(1)]);
}

#[tokio::test]
async fn a_cancelled_insert_is_done_as_a_whole_and_leaves_no_transaction_open() {
    let (store, model, dsn) = fresh().await;
    let mut admin = connect(&dsn).await;
    admin.batch_execute("BEGIN; SELECT FROM change_clock FOR UPDATE").await.unwrap();
    let waits = "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let rows = [plain("a")];
    tokio::select! {
        inserted = store.insert(model, &rows) => panic!("{inserted:?} while the clock is held"),
        () = async { while count(&mut admin, waits).await == 0 {} } => {}
    }
    // The server has the whole statement, and its transaction with it.
    admin.batch_execute("ROLLBACK").await.unwrap();
    while count(&mut admin, "chunks").await == 0 {
        tokio::task::yield_now().await;
    }
    let insert = [plain("a"), plain("b")];
    let insert = tokio::time::timeout(Duration::from_secs(60), store.insert(model, &insert));
    assert_eq!(seqs(&insert.await.unwrap().unwrap().outcomes), [None, Some(2)]);
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
async fn a_missing_server_is_transient_and_shows_no_password() {
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
