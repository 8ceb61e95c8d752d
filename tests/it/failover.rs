//! A server that takes no writes is refused at the start; one that stops taking them costs a pause. Of several hosts
//! the one that takes writes is used, also when that is another one than before.

use crate::store::plain;
use crate::support::database::Database;
use crate::support::tcp_server::TcpServer;
use crate::support::test_service::{Scripted, TestService, numbered, overrides, stream_to, tally};
use crate::support::wait::{until, until_answered};
use lnsp_ingest::app::Overrides;
use lnsp_ingest::store::{Dsn, Store, StoreError, StoreOptions};
use serde_json::json;

async fn open(dsn: Dsn) -> Result<Store, StoreError> {
    Store::open(StoreOptions { dsn, pool_size: 2 }).await
}

async fn refused(dsn: Dsn) -> StoreError {
    open(dsn).await.unwrap_err()
}

/// A service on this address, with the scripted encoder.
async fn service(address: Dsn, reached_at: String) -> TestService {
    let overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    TestService::build_at(Database::at(address).reached_at(reached_at), overrides, &[]).await
}

/// These servers in this order, as one address.
fn hosts(servers: &[&TcpServer]) -> String {
    let hosts: Vec<String> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
    format!("postgresql://lnsp@{}/lnsp?target_session_attrs=read-write", hosts.join(","))
}

#[actix_web::test]
async fn of_a_primary_and_its_standby_the_primary_is_used_before_and_after_a_failover() {
    let primary = TcpServer::start();
    let standby = primary.standby();
    let error = refused(standby.dsn()).await;
    assert!(matches!(error, StoreError::ReadOnly { .. }), "{error}");
    assert!(error.to_string().contains("it is a standby; name the primary"), "{error}");
    let two_standbys = format!("host=127.0.0.1,127.0.0.1 port={0},{0} user=lnsp dbname=lnsp", standby.port);
    let error = refused(two_standbys.parse().unwrap()).await;
    let sentence = error.to_string();
    assert!(error.is_transient() && sentence.matches("it is a standby").count() == 2, "{sentence}");

    // The standby comes first.
    let service = service(primary.dsn(), hosts(&[&standby, &primary])).await;
    assert_eq!(tally(&service.stream(numbered(0..100)).await), (100, 0, 0));
    assert_eq!(service.rows().await, 100);
    let replica = Database::at(standby.dsn());
    let replayed = "SELECT count(*) FROM chunks";
    while replica.number(replayed).await < 100 {}

    primary.stop();
    let upload = actix_web::rt::spawn(stream_to(service.url.clone(), numbered(50..200)));
    until("the service says that its database is away", || service.state.admission.unavailable().is_some())
        .await;
    assert!(!upload.is_finished());
    standby.promote();
    assert_eq!(tally(&upload.await.unwrap()), (100, 50, 0));
    assert_eq!(replica.number(replayed).await, 200);
    assert_eq!(i64::try_from(service.state.index.len()).unwrap(), 200);
    service.stop().await;
}

/// The best result for the text of a fact: its text and its score.
async fn best(service: &TestService, fact: usize) -> Option<(String, f64)> {
    let body = json!({"query": format!("This is fact number {fact}."), "top_k": 1}).to_string();
    let (status, answer) = service.post("/search", body).await;
    assert_eq!(status, 200, "{answer}");
    let best = answer["results"].get(0)?;
    Some((best["text"].as_str().unwrap().to_owned(), best["score"].as_f64().unwrap()))
}

#[actix_web::test]
async fn after_a_failover_that_lost_commits_searches_give_rows_that_exist_with_their_own_texts() {
    let primary = TcpServer::start();
    let standby = primary.standby();
    let service = service(primary.dsn(), hosts(&[&primary, &standby])).await;
    assert_eq!(tally(&service.stream(numbered(0..100)).await), (100, 0, 0));
    let replica = Database::at(standby.dsn());
    while replica.number("SELECT count(*) FROM chunks").await < 100 {}
    // From here on the standby gets nothing: fifty chunks are acknowledged and lost.
    standby.run_all(&["ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()"]).await;
    while replica.number("SELECT count(*) FROM pg_stat_wal_receiver").await > 0 {}
    assert_eq!(tally(&service.stream(numbered(100..150)).await), (50, 0, 0));
    assert_eq!(best(&service, 120).await.unwrap().0, "This is fact number 120.");
    primary.stop();
    standby.promote();

    // Fifty others take the numbers of those that were lost.
    assert_eq!(tally(&service.stream(numbered(200..250)).await), (50, 0, 0));
    assert_eq!(replica.number("SELECT count(*) FROM chunks").await, 150);
    let wrong = async |fact: usize| {
        let own = format!("This is fact number {fact}.");
        best(&service, fact).await.is_some_and(|(text, score)| score > 0.999 && text != own)
    };
    let missing = async |fact: usize| {
        let own = format!("This is fact number {fact}.");
        best(&service, fact).await.is_none_or(|(text, score)| text != own || score < 0.999)
    };
    until_answered("the new rows are found, and no text is wrong meanwhile", async || {
        let mut all = true;
        for fact in (100..150).chain(200..250) {
            assert!(!wrong(fact).await, "fact {fact} is found by the vector of another");
            all &= fact < 200 || !missing(fact).await;
        }
        all
    })
    .await;
    for fact in 0..100 {
        assert!(!missing(fact).await, "{fact}");
    }
    assert_eq!(service.state.index.len(), 150);
    let (status, report) = service.post("/verify", "{}").await;
    assert_eq!(
        (status, &report["concept"]),
        (200, &json!({"rows": 150, "missing": 0, "extra": 0, "stale": 0, "damaged": 0}))
    );
    service.stop().await;
}

#[actix_web::test]
async fn a_server_that_takes_no_writes_for_a_while_costs_a_pause() {
    let server = TcpServer::start();
    let service = service(server.dsn(), server.dsn().to_string()).await;
    assert_eq!(tally(&service.stream(numbered(0..50)).await), (50, 0, 0));
    let set = |value: &str| format!("ALTER SYSTEM SET default_transaction_read_only = {value}");
    let reload = "SELECT pg_reload_conf()";
    server.run_all(&[&set("on"), reload]).await;
    let upload = actix_web::rt::spawn(stream_to(service.url.clone(), numbered(50..100)));
    until("the service says that its database is away", || service.state.admission.unavailable().is_some())
        .await;
    assert!(!upload.is_finished());
    let error = refused(server.dsn()).await;
    assert!(error.to_string().contains("default_transaction_read_only is on; turn it off"), "{error}");
    server.run_all(&[&set("off"), reload]).await;
    assert_eq!(tally(&upload.await.unwrap()), (50, 0, 0));
    assert_eq!(service.stored().await, 100);
    service.stop().await;
}

#[tokio::test]
async fn a_session_that_takes_no_writes_or_lost_its_statements_is_not_used_again() {
    let server = TcpServer::start();
    let store = Store::open(StoreOptions { dsn: server.dsn(), pool_size: 1 }).await.unwrap();
    let model = store.adopt_model(&crate::store::model("tiny")).await.unwrap();
    store.insert(model, &[plain("a")]).await.unwrap();
    // The trigger makes the one session of the store answer with these states.
    for state in ["25006", "26000"] {
        let raise = format!(
            "CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE EXCEPTION 'as told' USING ERRCODE = '{state}'; END $$;
             CREATE OR REPLACE TRIGGER fail BEFORE INSERT ON chunks EXECUTE FUNCTION fail()"
        );
        server.run_all(&[&raise]).await;
        let sessions = "SELECT sum(pid) FROM pg_stat_activity WHERE application_name = 'lnsp-ingest'";
        let before = Database::at(server.dsn()).number(sessions).await;
        let error = store.insert(model, &[plain(state)]).await.unwrap_err();
        assert_eq!((error.is_transient(), error.sqlstate().unwrap().as_str()), (true, state));
        server.run_all(&["DROP TRIGGER fail ON chunks"]).await;
        store.insert(model, &[plain(state)]).await.unwrap();
        assert_ne!(Database::at(server.dsn()).number(sessions).await, before, "{state}");
    }
    assert_eq!(store.count_chunks().await.unwrap(), 3);
}
