//! Why there is no backup, or why it was not restored. Each message is one sentence that says what to do.

use crate::store::StoreError;
use std::io;
use std::path::PathBuf;

/// The reason why a backup or a restore did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The database cannot be reached, or is none of this service.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// PostgreSQL's own programs are missing or too old.
    #[error(
        "backups need pg_dump, pg_restore and psql of PostgreSQL {needed} or newer, as the server is; found: {found}; \
         install them (Debian: apt install postgresql-client-{needed}), or name their folder with --programs"
    )]
    NoPrograms {
        /// The major version of the server.
        needed: u32,
        /// The versions that were found.
        found: String,
    },
    /// The system does not start a program.
    #[error("{} cannot be started: {error}", program.display())]
    NotStarted {
        /// The program that was to be started.
        program: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// The program that makes backups failed.
    #[error("pg_dump made no backup: {said}")]
    NotDumped {
        /// The end of what it said.
        said: String,
    },
    /// A file cannot be written or read.
    #[error("{}: {error}", file.display())]
    File {
        /// The file that was named.
        file: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// The file is no backup at all, or is damaged.
    #[error("{} is no backup, or a damaged one: {said}", file.display())]
    NoBackup {
        /// The file that was named.
        file: PathBuf,
        /// What PostgreSQL's program said of it.
        said: String,
    },
    /// The file is a dump of another database.
    #[error("{} is a dump of another database: it has no table {missing}", file.display())]
    OtherDatabase {
        /// The file that was named.
        file: PathBuf,
        /// The first table that is missing.
        missing: &'static str,
    },
    /// The backup was made by a later version of this program.
    #[error(
        "{} was made by a newer version: it has the migration {found}, which this program does not know; use the \
         newer program",
        file.display()
    )]
    TooNew {
        /// The file that was named.
        file: PathBuf,
        /// The first unknown migration.
        found: String,
    },
    /// The store holds chunks, and it was not said that they may go.
    #[error(
        "the store holds chunks, and nothing was changed; add --replace to have the backup take their place, or name \
         another store with --data-dir or DATABASE_URL"
    )]
    HoldsChunks,
    /// The database refused the backup.
    #[error("nothing was restored: {said}")]
    NotRestored {
        /// What PostgreSQL's program said.
        said: String,
    },
}
