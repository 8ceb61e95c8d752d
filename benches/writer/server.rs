//! A PostgreSQL as the service runs it, and a database of its own for each run.

use super::rows::model;
use super::{Result, process::shared_folder};
use lnsp_ingest::store::managed::{self, ManagedPostgres};
use lnsp_ingest::store::{Dsn, ModelId, Store, StoreOptions};
use std::process::{Command, Stdio};
use tokio_postgres::{Client, NoTls};

/// The server. Stopped when it is dropped.
pub struct BenchServer {
    server: ManagedPostgres,
    admin: Client,
    _folder: tempfile::TempDir,
}

/// The database that the others are copies of: empty, with the tables and a model.
const MOULD: &str = "bench_mould";

impl BenchServer {
    pub async fn start() -> Result<BenchServer> {
        let folder = shared_folder()?;
        let server = ManagedPostgres::start(folder.path())?;
        let admin = connect(server.dsn()).await?;
        admin.batch_execute(&format!("CREATE DATABASE {MOULD}")).await?;
        let (store, _) = open(server.dsn().with_database(MOULD)).await?;
        store.close().await;
        Ok(BenchServer { server, admin, _folder: folder })
    }

    /// A new database in the place of the one before. The server has nothing left to write.
    pub async fn database(&self) -> Result<Dsn> {
        self.admin.batch_execute("DROP DATABASE IF EXISTS bench WITH (FORCE)").await?;
        self.admin.batch_execute(&format!("CREATE DATABASE bench TEMPLATE {MOULD}")).await?;
        self.admin.batch_execute("CHECKPOINT").await?;
        Ok(self.server.dsn().with_database("bench"))
    }
}

/// A store with the model of the rows.
pub async fn open(dsn: Dsn) -> Result<(Store, ModelId)> {
    let store = Store::open(StoreOptions { dsn, pool_size: 1 }).await?;
    let model = store.adopt_model(&model()).await?;
    Ok((store, model))
}

pub async fn connect(dsn: &Dsn) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(&dsn.to_string(), NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Runs psql with these commands in one session; gives what it printed.
pub fn psql(dsn: &Dsn, commands: &[String]) -> Result<String> {
    let program =
        managed::psql().ok_or("psql was not found; install it (Debian: apt install postgresql-client)")?;
    let mut command = Command::new(program);
    command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]).envs(dsn.libpq_variables());
    for text in commands {
        command.args(["-c", text]);
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("psql: {}", output.status).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
