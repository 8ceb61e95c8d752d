//! `lnsp psql`: opens a `psql` on the database of the service.

use super::CommandResult;
use crate::config::variable;
use crate::store::Dsn;
use crate::store::managed::{self, ManagedServerInfo};
use clap::Args;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A transaction that changes chunks keeps all writers waiting, so one that is left open ends after this time.
const IDLE: &str = "-c idle_in_transaction_session_timeout=300s";

/// The arguments of `lnsp psql`.
#[derive(Args)]
#[command(after_help = "\
Example: lnsp psql -- -c 'SELECT dataset_source, count(*) FROM chunks GROUP BY 1'

DELETE and UPDATE are safe: the search index follows within about a second. While a transaction that deletes or changes \
chunks is open, the service stores nothing; it is ended when it does nothing for 5 minutes.")]
pub struct Psql {
    /// The data folder of the service, which keeps its own PostgreSQL in it.
    #[arg(long, env = "LNSP_DATA_DIR", default_value = "./data")]
    data_dir: PathBuf,
    /// The PostgreSQL of the service, if it has not its own (also read from PG_DSN).
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
    /// What psql is to do, after `--`.
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

#[derive(Debug, thiserror::Error)]
enum PsqlError {
    #[error("there is no database in {}; name the folder of the service with --data-dir, or its DATABASE_URL", .0.display())]
    NoDatabase(PathBuf),
    #[error(
        "the database in {} does not run; it runs while the service does: lnsp serve --data-dir {}", .0.display(), .0.display()
    )]
    NotRunning(PathBuf),
    #[error(
        "psql was not found; install it (Debian: apt install postgresql-client), or give another client this \
         address: {0}"
    )]
    NoProgram(String),
    #[error("{} cannot be started: {error}", program.display())]
    NotStarted { program: PathBuf, error: std::io::Error },
}

/// Becomes `psql`; returns only an error.
pub fn run(psql: Psql) -> CommandResult {
    let given = psql.database_url.or_else(|| variable("PG_DSN")).filter(|dsn| !dsn.trim().is_empty());
    let (dsn, program) = match given {
        Some(address) => (address.parse()?, managed::psql()),
        None => own(&psql.data_dir)?,
    };
    let Some(program) = program else { return Err(PsqlError::NoProgram(dsn.to_string()).into()) };
    let mut command = Command::new(&program);
    for name in ["PGSERVICE", "PGSERVICEFILE", "PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", "PGDATABASE"] {
        command.env_remove(name);
    }
    if std::env::var_os("PGOPTIONS").is_none() {
        command.env("PGOPTIONS", IDLE);
    }
    // In the environment, because every account can read arguments.
    command.envs(dsn.libpq_variables()).args(psql.arguments);
    let error = command.exec();
    Err(PsqlError::NotStarted { program, error }.into())
}

/// The server in the data folder, and the `psql` beside its programs.
fn own(data_dir: &Path) -> Result<(Dsn, Option<PathBuf>), Box<dyn std::error::Error>> {
    let ManagedServerInfo { has_cluster, running, psql, .. } = managed::inspect(data_dir)?;
    match running {
        Some(dsn) => Ok((dsn, psql)),
        None if has_cluster => Err(PsqlError::NotRunning(data_dir.to_owned()).into()),
        None => Err(PsqlError::NoDatabase(data_dir.to_owned()).into()),
    }
}
