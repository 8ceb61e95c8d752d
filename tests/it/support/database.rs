//! A database of a test's own, looked at from outside the service.

use crate::support::postgres;
use diesel::sql_types::{BigInt, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use lnsp_ingest::store::Dsn;

/// An empty, migrated database on the shared server.
#[derive(Clone)]
pub struct Database {
    dsn: String,
    address: Dsn,
}

/// A transaction that is left open.
pub struct Held(AsyncPgConnection);

#[derive(diesel::QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    value: i64,
}

#[derive(diesel::QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    value: String,
}

impl Database {
    /// Creates a database with a name of its own.
    pub async fn new() -> Database {
        Database::at(postgres::database().await)
    }

    /// One that is there.
    pub fn at(address: Dsn) -> Database {
        Database { dsn: address.to_string(), address }
    }

    /// The same, which services are to reach at another address.
    pub fn reached_at(self, dsn: String) -> Database {
        Database { dsn, ..self }
    }

    /// Where it is, without what stands before it.
    pub fn address(&self) -> &Dsn {
        &self.address
    }

    /// As `DATABASE_URL` takes it.
    pub fn dsn(&self) -> &str {
        &self.dsn
    }

    /// The one number that a query gives.
    pub async fn number(&self, query: &str) -> i64 {
        let query = format!("SELECT value::bigint AS value FROM ({query}) AS q (value)");
        let mut link = postgres::connect(&self.address).await;
        diesel::sql_query(query).get_result::<Number>(&mut link).await.unwrap().value
    }

    /// The column of texts that a query gives.
    pub async fn texts(&self, query: &str) -> Vec<String> {
        let query = format!("SELECT value::text AS value FROM ({query}) AS q (value)");
        let mut link = postgres::connect(&self.address).await;
        let lines: Vec<Line> = diesel::sql_query(query).load(&mut link).await.unwrap();
        lines.into_iter().map(|line| line.value).collect()
    }

    /// Another database on the same server.
    pub fn elsewhere(&self, name: &str) -> Database {
        Database::at(self.address.with_database(name))
    }

    /// Runs a statement.
    pub async fn run(&self, statement: &str) {
        postgres::connect(&self.address).await.batch_execute(statement).await.unwrap();
    }

    /// Runs a statement in a transaction and keeps its locks.
    pub async fn hold(&self, statement: &str) -> Held {
        let mut link = postgres::connect(&self.address).await;
        link.batch_execute(&format!("BEGIN; {statement}")).await.unwrap();
        Held(link)
    }
}

impl Held {
    /// Ends the transaction, and with it the lock.
    pub async fn release(mut self) {
        self.0.batch_execute("COMMIT").await.unwrap();
    }
}
