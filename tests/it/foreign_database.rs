//! A PostgreSQL that is not the service's own: what its address may leave out, and a database that is refused.

use crate::support::postgres::{connect, database, open};
use crate::support::process::{lnsp, run};
use crate::support::tcp_server::{GUARDED_ROLE, TcpServer, free_port};
use diesel_async::SimpleAsyncConnection;
use lnsp_ingest::store::{Store, StoreError, StoreOptions};
use std::net::TcpListener;

#[tokio::test]
async fn a_database_that_cannot_hold_every_text_is_refused() {
    let server = database().await;
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let name = format!("narrow_{}", encoding.to_lowercase());
        let create = format!("CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0");
        connect(&server).await.batch_execute(&create).await.unwrap();
        let options = StoreOptions { dsn: server.with_database(&name), pool_size: 2 };
        let error = Store::open(options).await.unwrap_err();
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

#[tokio::test]
async fn a_host_that_does_not_answer_is_passed_over() {
    let server = database().await;
    // At one port nothing listens, at the other the connection is accepted and nothing is said.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = free_port();
    let socket = server.to_string().split(' ').next().unwrap().replace("host=", "");
    let name = server.to_string().rsplit("dbname=").next().unwrap().to_owned();
    let dsn = format!(
        "host=127.0.0.1,127.0.0.1,{socket} port={closed},{},5432 user=lnsp dbname={name} connect_timeout=1",
        silent.local_addr().unwrap().port()
    );
    let store = open(dsn.parse().unwrap()).await;
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
