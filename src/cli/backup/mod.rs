//! `lnsp backup FILE` and `lnsp restore FILE`: the whole store as one file, while the service runs.
//!
//! PostgreSQL's own programs do the work. The database is the service's, or one that is started for the command.

mod contents;
mod dump;
mod error;
mod load;
mod programs;

use super::amounts::chunks;
use super::reached_database::DatabasePlace;
use super::{CommandResult, block_on};
use crate::output::print_error_line;
use crate::store::{Dsn, Store, StoreError, StoreOptions, inspect};
use clap::Args;
use contents::Contents;
use error::BackupError;
use indicatif::HumanBytes;
use programs::Programs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// The arguments of `lnsp backup`.
#[derive(Debug, Args)]
#[command(after_help = "\
The service goes on meanwhile: the backup is what was stored at one moment. It holds chunks, vectors, codes, dead letters \
and models; the search indexes are made from them. The file is in the custom format of pg_dump, and appears when it is \
complete.

Exit codes: 0 done; 1 no backup was made; 2 wrong arguments.")]
pub struct BackupCommand {
    /// The file to write; `-` is the standard output.
    file: PathBuf,
    /// The database of the service.
    #[command(flatten)]
    place: DatabasePlace,
    /// The folder of pg_dump and pg_restore, if another than the one that is found.
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
}

/// The arguments of `lnsp restore`.
#[derive(Debug, Args)]
#[command(after_help = "\
All of it is restored in one transaction, or nothing. A service that runs meanwhile waits for it, and searches what was \
restored about a second later; you need not start it anew. What it stored since the backup is gone.

Exit codes: 0 done; 1 nothing was restored; 2 wrong arguments.")]
pub struct RestoreCommand {
    /// The file that `lnsp backup` has written.
    file: PathBuf,
    /// The database; an own one is made where there is none.
    #[command(flatten)]
    place: DatabasePlace,
    /// Restores although the store holds chunks, which then are gone.
    #[arg(long)]
    replace: bool,
    /// The folder of pg_restore and psql, if another than the one that is found.
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
}

/// Makes a backup, and says how large it is.
pub fn back_up(command: &BackupCommand) -> CommandResult {
    let started = Instant::now();
    let database = command.place.reach()?;
    let made = make(&database.dsn, command);
    database.release()?;
    if let Some(bytes) = made? {
        let (file, size) = (command.file.display(), HumanBytes(bytes));
        let seconds = started.elapsed().as_secs_f64();
        print_error_line(format!("{file}: {size} in {seconds:.1} s"));
    }
    Ok(ExitCode::SUCCESS)
}

fn make(dsn: &Dsn, command: &BackupCommand) -> Result<Option<u64>, Box<dyn std::error::Error>> {
    let version = server_version(dsn)?;
    let programs = Programs::for_server(&version, command.programs.as_deref())?;
    if command.file.as_os_str() == "-" {
        dump::to_standard_output(&programs, dsn)?;
        return Ok(None);
    }
    Ok(Some(dump::to_file(&programs, dsn, &command.file)?))
}

fn server_version(dsn: &Dsn) -> Result<String, Box<dyn std::error::Error>> {
    Ok(block_on(inspect(dsn.clone()))??.version)
}

/// Restores a backup, brings its tables up to date, and says what is there now.
pub fn restore(command: &RestoreCommand) -> CommandResult {
    // Before a server is made for it.
    let found = std::fs::metadata(&command.file);
    found.map_err(|error| BackupError::File { file: command.file.clone(), error })?;
    let database = command.place.reach_or_make()?;
    let restored = put_back(&database.dsn, command);
    database.release()?;
    print_error_line(restored?);
    Ok(ExitCode::SUCCESS)
}

fn put_back(dsn: &Dsn, command: &RestoreCommand) -> Result<String, Box<dyn std::error::Error>> {
    let (file, started): (&Path, _) = (&command.file, Instant::now());
    let info = block_on(inspect(dsn.clone()))??;
    let programs = Programs::for_server(&info.version, command.programs.as_deref())?;
    let contents = Contents::read(&programs, file)?;
    if info.has_vectors && !command.replace {
        return Err(BackupError::HoldsChunks.into());
    }
    load::load(&programs, dsn, (file, &contents), command.replace)?;
    let (rows, model) = block_on(now_there(dsn.clone()))??;
    let (seconds, file) = (started.elapsed().as_secs_f64(), file.display());
    Ok(format!("{file}: {} restored{model} in {seconds:.1} s", chunks(rows)))
}

/// Opens the store, which brings tables of an earlier version up to date, and counts.
async fn now_there(dsn: Dsn) -> Result<(u64, String), StoreError> {
    let store = Store::open(StoreOptions { dsn, pool_size: 1 }).await?;
    let rows = store.count_chunks().await?.unsigned_abs();
    let model = store.model().await?.map(|(_, model)| format!(", with vectors of {}", model.name));
    store.close().await;
    Ok((rows, model.unwrap_or_default()))
}
