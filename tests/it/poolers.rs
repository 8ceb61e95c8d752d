//! A pooler in front of PostgreSQL: in session mode it makes no difference, in transaction mode it is found and refused,
//! whatever session it hands out.

use crate::store::{fresh, plain};
use crate::support::database::Database;
use crate::support::pgbouncer::{PgBouncer, installed};
use crate::support::postgres::database;
use crate::support::process::{lnsp, run};
use crate::support::test_service::{Scripted, TestService, numbered, overrides, stream_to, tally};
use crate::support::wait::until;
use lnsp_ingest::app::Overrides;
use lnsp_ingest::store::{Dsn, Store, StoreError, StoreOptions};
use tokio_postgres::NoTls;

/// So many sessions are idle in the pooler before the store comes.
const IDLE: usize = 4;

async fn open(dsn: Dsn) -> Result<Store, StoreError> {
    Store::open(StoreOptions { dsn, pool_size: 2 }).await
}

/// Leaves idle sessions in the pooler, with simple queries only: prepared statements do not survive there.
async fn warm(dsn: &Dsn) {
    let mut links = Vec::new();
    for _ in 0..IDLE {
        let (link, driver) = tokio_postgres::connect(&dsn.to_string(), NoTls).await.unwrap();
        tokio::spawn(driver);
        link.batch_execute("BEGIN; SELECT 1").await.unwrap();
        links.push(link);
    }
    for link in links {
        link.batch_execute("COMMIT").await.unwrap();
    }
}

#[tokio::test]
async fn a_pooler_that_shares_sessions_is_refused_whichever_session_it_hands_out() {
    if !installed("a_pooler_that_shares_sessions_is_refused_whichever_session_it_hands_out") {
        return;
    }
    for settings in [
        "pool_mode = transaction",
        "pool_mode = transaction\nserver_round_robin = 1",
        "pool_mode = transaction\nserver_reset_query_always = 1",
        "pool_mode = transaction\nserver_reset_query_always = 1\nserver_round_robin = 1",
        "pool_mode = transaction\ndefault_pool_size = 1",
        "pool_mode = statement",
    ] {
        for idle in [false, true] {
            let database = database().await;
            let pooler = PgBouncer::start(&database, settings).await;
            let dsn = pooler.dsn(&database);
            if idle && !settings.contains("statement") && !settings.contains("pool_size") {
                warm(&dsn).await;
            }
            let error = open(dsn).await.expect_err(settings);
            let sentence = error.to_string();
            assert!(matches!(error, StoreError::SharedSession { .. }), "{settings}: {sentence}");
            assert!(sentence.contains("pool_mode=session") && sentence.contains("127.0.0.1"), "{sentence}");
            // No lock is left where it was met.
            let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database =
                         (SELECT oid FROM pg_database WHERE datname = current_database())";
            let left = Database::at(database).number(locks).await;
            assert!(idle || left == 0, "{settings}: {left}");
        }
    }
}

#[tokio::test]
async fn the_doctor_and_the_start_say_it_in_one_sentence() {
    if !installed("the_doctor_and_the_start_say_it_in_one_sentence") {
        return;
    }
    let database = database().await;
    let pooler = PgBouncer::start(&database, "pool_mode = transaction").await;
    let dsn = pooler.dsn(&database).to_string();
    let data = tempfile::tempdir().unwrap();
    let flags = ["--port", "0", "--database-url", &dsn, "--data-dir", data.path().to_str().unwrap()];
    let (code, _, complaint) = run(&mut lnsp(&[&["serve"], &flags[..]].concat()));
    let said: Vec<&str> = complaint.lines().filter(|line| line.starts_with("lnsp: ")).collect();
    assert!(code == Some(1) && said.len() == 1 && said[0].contains("pool_mode=session"), "{complaint}");
    let (code, report, _) = run(&mut lnsp(&[&["doctor", "--no-measure"], &flags[..]].concat()));
    let said: Vec<&str> = report.lines().filter(|line| line.contains("database  ")).collect();
    assert_eq!((code, said.len()), (Some(1), 1), "{report}");
    assert!(said[0].starts_with("failure") && said[0].contains("pool_mode=session"), "{}", said[0]);
}

#[actix_web::test]
async fn in_session_mode_a_pooler_makes_no_difference() {
    if !installed("in_session_mode_a_pooler_makes_no_difference") {
        return;
    }
    let database = database().await;
    // As many sessions as the service has connections.
    let settings = "pool_mode = session\nserver_round_robin = 1\ndefault_pool_size = 8";
    let pooler = PgBouncer::start(&database, settings).await;
    let dsn = pooler.dsn(&database);
    warm(&dsn).await;
    for _ in 0..8 {
        open(dsn.clone()).await.unwrap().close().await;
    }
    let overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    let behind = Database::at(database).reached_at(dsn.to_string());
    let service = TestService::build_at(behind, overrides, &[]).await;
    let (one, two) =
        futures_util::future::join(service.stream(numbered(0..300)), service.stream(numbered(300..600)))
            .await;
    assert_eq!((tally(&one), tally(&two)), ((300, 0, 0), (300, 0, 0)));
    assert_eq!(tally(&service.stream(numbered(0..600)).await), (0, 600, 0));
    assert_eq!(service.stored().await, 600);
    service.stop().await;
}

#[actix_web::test]
async fn a_pooler_that_begins_to_share_sessions_costs_a_pause_and_no_chunk() {
    if !installed("a_pooler_that_begins_to_share_sessions_costs_a_pause_and_no_chunk") {
        return;
    }
    let database = database().await;
    let mut pooler = PgBouncer::start(&database, "pool_mode = session").await;
    let behind = Database::at(database.clone()).reached_at(pooler.dsn(&database).to_string());
    let overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    let service = TestService::build_at(behind, overrides, &[]).await;
    assert_eq!(tally(&service.stream(numbered(0..50)).await), (50, 0, 0));

    pooler.reload("pool_mode = transaction").await;
    // A connection that is open keeps its session while no other wants it. So the sessions end, and new ones are opened.
    let sessions = "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity
                    WHERE datname = current_database() AND pid <> pg_backend_pid()";
    Database::at(database.clone()).texts(sessions).await;
    let upload = actix_web::rt::spawn(stream_to(service.url.clone(), numbered(50..100)));
    let waits = || service.state.admission.unavailable().is_some();
    until("the service says that its database is away", waits).await;
    assert!(!upload.is_finished());
    pooler.reload("pool_mode = session").await;
    assert_eq!(tally(&upload.await.unwrap()), (50, 0, 0));
    assert_eq!(service.stored().await, 100);
    service.stop().await;
}

/// The session lock must not depend on what else goes on in the database.
#[tokio::test]
async fn many_stores_open_at_once_without_a_pooler() {
    let (_store, _, dsn) = fresh().await;
    let opened = futures_util::future::join_all((0..16).map(|_| open(dsn.clone()))).await;
    for store in opened {
        let store = store.unwrap();
        let model = store.adopt_model(&crate::store::model("tiny")).await.unwrap();
        store.insert(model, &[plain("a")]).await.unwrap();
        store.close().await;
    }
}
