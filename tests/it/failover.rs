//! A server that takes no writes is refused at the start; one that stops taking them costs a pause. Of several hosts
//! the one that takes writes is used, also when that is another one than before.

use crate::store::plain;
use crate::support::database::Database;
use crate::support::tcp_server::TcpServer;
use crate::support::test_service::{Scripted, TestService, numbered, overrides, stream_to, tally};
use crate::support::wait::until;
use lnsp_ingest::app::Overrides;
use lnsp_ingest::store::{Dsn, Store, StoreError, StoreOptions};

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
    assert_eq!(i64::try_from(service.state.index.len().unwrap()).unwrap(), 200);
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
