//! A database that says nothing, or has no connection left: calls end with an error that says so, and chunks wait.

use crate::store::{fresh, plain, seqs};
use crate::support::commit_cut_proxy::{CommitCutProxy, Cut};
use crate::support::database::Database;
use crate::support::test_service::{Scripted, TestService, client, numbered, overrides, stream_to, tally};
use crate::support::wait::{until, until_answered};
use lnsp_ingest::app::Overrides;
use lnsp_ingest::store::{Store, StoreError, StoreOptions, StoreTimeouts};
use std::time::Duration;

/// Longer than a busy machine takes to answer a statement.
const SHORT: Duration = Duration::from_secs(3);

#[actix_web::test]
async fn a_batch_whose_answer_never_came_is_stored_once_when_the_network_speaks_again() {
    let proxy = CommitCutProxy::new().await;
    let mut overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    overrides.store.answer = SHORT;
    // The database is asked who it is within a second, so that a try to connect is short.
    let database = proxy.database.clone().reached_at(format!("{} connect_timeout=1", proxy.database.dsn()));
    let service = TestService::build_at(database, overrides, &[]).await;
    proxy.cut([Cut::Silence]);
    let tried = proxy.tries();
    let upload = actix_web::rt::spawn(stream_to(service.url.clone(), numbered(0..600)));
    until("the batch is committed, and the network silent", || proxy.is_silent()).await;
    let rows = service.rows().await;
    assert!(rows > 0, "it was committed");
    until("the writer has given the connection up, and tries others", || proxy.tries() >= tried + 2).await;
    assert!(!upload.is_finished());
    let (status, ready) = service.get("/ready").await;
    assert!(status == 503 && ready["reasons"][0].as_str().unwrap().starts_with("PostgreSQL"), "{ready}");
    proxy.speak();
    assert_eq!(tally(&upload.await.unwrap()), (600, 0, 0));
    assert_eq!(service.stored().await, 600);
    assert_eq!(
        service.database.number("SELECT seq FROM change_clock").await,
        600,
        "each batch was made once"
    );
    service.stop().await;
}

#[tokio::test]
async fn a_call_to_a_silent_server_ends_with_a_transient_error_that_says_so() {
    let proxy = CommitCutProxy::new().await;
    let options = StoreOptions { dsn: proxy.database.dsn().parse().unwrap(), pool_size: 1 };
    let timeouts = StoreTimeouts { answer: SHORT, scan: SHORT, ..StoreTimeouts::default() };
    let store = Store::open_with(options, timeouts).await.unwrap();
    let model = store.adopt_model(&crate::store::model("tiny")).await.unwrap();
    proxy.cut([Cut::Silence]);
    let error = store.insert(model, &[plain("a")]).await.unwrap_err();
    assert!(matches!(error, StoreError::NoAnswer { seconds: 3 }) && error.is_transient(), "{error:?}");
    assert!(error.to_string().contains("may or may not be committed"), "{error}");
    proxy.speak();
    assert_eq!(
        seqs(&store.insert(model, &[plain("a"), plain("b")]).await.unwrap().outcomes),
        [None, Some(2)]
    );
}

#[tokio::test]
async fn a_server_that_works_for_long_is_not_silent_as_long_as_the_call_may_take() {
    let (_, model, dsn) = fresh().await;
    let options = StoreOptions { dsn: dsn.clone(), pool_size: 1 };
    let timeouts = StoreTimeouts { answer: Duration::from_secs(1), ..StoreTimeouts::default() };
    let store = Store::open_with(options, timeouts).await.unwrap();
    store.insert(model, &[plain("a")]).await.unwrap();
    // Counting reads the whole table, and may take longer than other calls.
    let slow = "ALTER TABLE chunks RENAME TO stored_chunks; \
                CREATE VIEW chunks AS SELECT stored_chunks.* FROM stored_chunks, pg_sleep(2)";
    Database::at(dsn).run(slow).await;
    assert_eq!(store.count_chunks().await.unwrap(), 1);
}

#[tokio::test]
async fn a_call_without_a_free_connection_names_the_pool_limit() {
    let (_, model, dsn) = fresh().await;
    let options = StoreOptions { dsn: dsn.clone(), pool_size: 1 };
    let timeouts = StoreTimeouts { wait: Duration::from_millis(50), ..StoreTimeouts::default() };
    let store = Store::open_with(options, timeouts).await.unwrap();
    let clock = Database::at(dsn.clone()).hold("SELECT seq FROM change_clock FOR UPDATE").await;
    let writer = store.clone();
    let insert = tokio::spawn(async move { writer.insert(model, &[plain("a")]).await });
    let waiting = "SELECT count(*) FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let database = Database::at(dsn);
    until_answered("the only connection is in use", async || database.number(waiting).await == 1).await;
    let error = store.ping().await.unwrap_err();
    assert!(matches!(error, StoreError::NoConnection { limit: 1, .. }) && error.is_transient(), "{error:?}");
    assert!(error.to_string().starts_with("connection pool limit exceeded: all 1 database"), "{error}");
    clock.release().await;
    assert_eq!(seqs(&insert.await.unwrap().unwrap().outcomes), [Some(1)]);
    store.ping().await.unwrap();
}

#[actix_web::test]
async fn the_pool_limit_is_counted_and_chunks_wait_for_a_connection() {
    let mut overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    overrides.store.wait = Duration::from_millis(50);
    let service = TestService::build(overrides, &[]).await;
    let limits = async || {
        let metrics = client().get(format!("{}/metrics", service.url)).send().await.unwrap();
        let metrics = metrics.text().await.unwrap();
        let value = metrics.lines().find_map(|line| line.strip_prefix("lnsp_store_pool_limit_total "));
        value.map_or(0, |value| value.parse::<u64>().unwrap())
    };
    let before = limits().await;
    // Every upload waits for the look-up of its keys, each with a connection.
    let table = service.database.hold("LOCK TABLE chunks IN ACCESS EXCLUSIVE MODE").await;
    let upload = |n: usize| stream_to(service.url.clone(), numbered(10 * n..10 * (n + 1)));
    let uploads: Vec<_> = (0..12).map(|n| actix_web::rt::spawn(upload(n))).collect();
    until_answered("the limit is reached", async || limits().await > before).await;
    table.release().await;
    for upload in uploads {
        assert_eq!(tally(&upload.await.unwrap()), (10, 0, 0));
    }
    assert_eq!(service.stored().await, 120);
    service.stop().await;
}
