//! A server that takes no writes is refused at the start; one that stops taking them costs a pause. Of several hosts
//! the one that takes writes is used, also when that is another one than before.

use crate::store::plain;
use crate::support::database::Database;
use crate::support::postgres::{connect, database};
use crate::support::process::{lnsp, run};
use crate::support::tcp_server::{GUARDED_ROLE, TcpServer};
use crate::support::test_service::{Scripted, TestService, numbered, overrides, stream_to, tally};
use crate::support::wait::until;
use diesel_async::SimpleAsyncConnection;
use lnsp_ingest::app::Overrides;
use lnsp_ingest::store::{Dsn, Store, StoreError, StoreOptions};
use std::net::TcpListener;

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

#[tokio::test]
async fn a_database_that_cannot_hold_every_text_is_refused() {
    let server = database().await;
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let name = format!("narrow_{}", encoding.to_lowercase());
        let create = format!("CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0");
        connect(&server).await.batch_execute(&create).await.unwrap();
        let error = refused(server.with_database(&name)).await;
        let sentence = error.to_string();
        assert!(matches!(error, StoreError::Encoding { ref found, .. } if found == encoding), "{sentence}");
        assert!(sentence.contains("expected UTF8") && sentence.contains(&name), "{sentence}");

        let dsn = server.with_database(&name).to_string();
        let data = tempfile::tempdir().unwrap();
        let flags = ["--database-url", &dsn, "--port", "0", "--data-dir", data.path().to_str().unwrap()];
        let (code, report, _) = run(&mut lnsp(&[&["doctor", "--no-measure"], &flags[..]].concat()));
        assert!(code == Some(1) && report.contains("expected UTF8"), "{report}");
        let (code, _, complaint) = run(&mut lnsp(&[&["serve"], &flags[..]].concat()));
        let said: Vec<&str> = complaint.lines().filter(|line| line.starts_with("lnsp: ")).collect();
        assert!(code == Some(1) && said.len() == 1 && said[0].contains("expected UTF8"), "{complaint}");
    }
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

    // The standby stands first; so does a port at which nothing listens.
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
    // The rule makes the one session of the store answer with these states, once.
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

#[tokio::test]
async fn a_host_that_does_not_answer_is_passed_over() {
    let server = database().await;
    // A listener whose queue is full, or that never says a word, is a host that does not answer.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = crate::support::tcp_server::free_port();
    let socket = server.to_string().split(' ').next().unwrap().replace("host=", "");
    let name = server.to_string().rsplit("dbname=").next().unwrap().to_owned();
    let dsn = format!(
        "host=127.0.0.1,127.0.0.1,{socket} port={closed},{},5432 user=lnsp dbname={name} connect_timeout=1",
        silent.local_addr().unwrap().port()
    );
    let store = open(dsn.parse().unwrap()).await.unwrap();
    store.ping().await.unwrap();
}

#[tokio::test]
async fn the_password_comes_from_the_environment_and_is_not_shown() {
    const SECRET: &str = "s3cret/@";
    let server = TcpServer::start();
    let create = format!("CREATE ROLE {GUARDED_ROLE} LOGIN PASSWORD '{SECRET}'");
    server.run_all(&[&create, &format!("GRANT CREATE ON SCHEMA public TO {GUARDED_ROLE}")]).await;
    let data = tempfile::tempdir().unwrap();
    let doctor = |address: &str, variables: &[(&str, &str)]| {
        let flags = ["doctor", "--no-measure", "--port", "0", "--data-dir", data.path().to_str().unwrap()];
        let mut command = lnsp(&flags);
        let (_, out, complaint) = run(command.env("DATABASE_URL", address).envs(variables.iter().copied()));
        let said = out + &complaint;
        assert!(!said.contains("s3cret"), "{said}");
        said.lines().find(|line| line.contains("database  ")).unwrap().to_owned()
    };
    let port = server.port.to_string();
    let address = format!("postgresql://{GUARDED_ROLE}@127.0.0.1:{port}/lnsp");
    let found = doctor(&address, &[]);
    assert!(found.starts_with("failure") && found.contains("PGPASSWORD"), "{found}");
    let found = doctor(&address, &[("PGPASSWORD", "wrong s3cret")]);
    assert!(found.starts_with("failure") && found.contains(GUARDED_ROLE), "{found}");
    let found = doctor(&address, &[("PGPASSWORD", SECRET)]);
    assert!(found.starts_with("ok") && found.contains("password=***"), "{found}");
    let all = [("PGHOST", "127.0.0.1"), ("PGPORT", &port), ("PGUSER", GUARDED_ROLE), ("PGDATABASE", "lnsp")];
    let found = doctor("postgresql://", &[&all[..], &[("PGPASSWORD", SECRET)]].concat());
    assert!(found.starts_with("ok") && found.contains(&format!("port={port}")), "{found}");
    let escaped = format!("\"postgresql+psycopg2://{GUARDED_ROLE}:s3cret%2F%40@127.0.0.1:{port}/lnsp\"");
    let found = doctor(&escaped, &[]);
    assert!(found.starts_with("ok") && found.contains("psycopg2"), "{found}");
    let found = doctor(&escaped.replace("%2F", "/").replace("%40", "@"), &[]);
    assert!(found.starts_with("failure") && found.contains("write @ as %40"), "{found}");
}
