//! The database of the service, for commands that work on it themselves: a given one, the one that a service runs in its
//! data folder, or that one started for as long as the command takes.

use crate::config::variable;
use crate::store::Dsn;
use crate::store::managed::{self, ManagedPostgres};
use clap::Args;
use std::error::Error;
use std::path::{Path, PathBuf};

/// Which database it is.
#[derive(Debug, Clone, Args)]
pub struct DatabasePlace {
    /// The data folder of the service, which keeps its own PostgreSQL in it.
    #[arg(long, env = "LNSP_DATA_DIR", default_value = "./data")]
    pub data_dir: PathBuf,
    /// The PostgreSQL of the service, if it has not its own (also read from PG_DSN).
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
}

/// A database that answers. Dropping it stops a server that was started for the command.
#[derive(Debug)]
pub struct ReachedDatabase {
    /// The address of the database.
    pub dsn: Dsn,
    server: Option<ManagedPostgres>,
}

#[derive(Debug, thiserror::Error)]
#[error("there is no database in {}; name the folder of the service with --data-dir, or its DATABASE_URL", .0.display())]
struct NoDatabase(PathBuf);

impl DatabasePlace {
    /// The address that was given: `DATABASE_URL`, else `PG_DSN`.
    pub fn given(&self) -> Option<String> {
        let given = self.database_url.clone().or_else(|| variable("PG_DSN"));
        given.filter(|dsn| !dsn.trim().is_empty())
    }

    /// The database, which has to be there. Blocks until it answers.
    ///
    /// # Errors
    /// There is none, or its server cannot be started; the sentence says what to do.
    pub fn reach(&self) -> Result<ReachedDatabase, Box<dyn Error>> {
        self.find(|data_dir| Err(NoDatabase(data_dir.to_owned()).into()))
    }

    /// As [`Self::reach`]; an own server that is not there yet is made.
    ///
    /// # Errors
    /// As [`Self::reach`].
    pub fn reach_or_make(&self) -> Result<ReachedDatabase, Box<dyn Error>> {
        self.find(started)
    }

    /// The address of the database, if it answers without being started: a given one, or that of a service that runs.
    ///
    /// # Errors
    /// The given address is unusable.
    pub fn running(&self) -> Result<Option<Dsn>, Box<dyn Error>> {
        if let Some(address) = self.given() {
            return Ok(Some(address.parse()?));
        }
        // A folder in which no server can run has none that does.
        Ok(managed::inspect(&self.data_dir).ok().and_then(|info| info.running))
    }

    fn find(
        &self,
        without: impl FnOnce(&Path) -> Result<ReachedDatabase, Box<dyn Error>>,
    ) -> Result<ReachedDatabase, Box<dyn Error>> {
        if let Some(address) = self.given() {
            return Ok(ReachedDatabase { dsn: address.parse()?, server: None });
        }
        let info = managed::inspect(&self.data_dir)?;
        match info.running {
            Some(dsn) => Ok(ReachedDatabase { dsn, server: None }),
            None if info.has_cluster => started(&self.data_dir),
            None => without(&self.data_dir),
        }
    }
}

fn started(data_dir: &Path) -> Result<ReachedDatabase, Box<dyn Error>> {
    let server = ManagedPostgres::start(data_dir)?;
    Ok(ReachedDatabase { dsn: server.dsn().clone(), server: Some(server) })
}

impl ReachedDatabase {
    /// Stops the server, if it was started for the command.
    ///
    /// # Errors
    /// It did not stop in order; nothing is lost.
    pub fn release(self) -> Result<(), Box<dyn Error>> {
        self.server.map_or(Ok(()), |server| server.stop().map_err(Into::into))
    }
}
