//! What can keep a managed server from running.

use std::io;
use std::path::{Path, PathBuf};

/// Why there is no managed server. Each sentence says what to do; the way out of all of them is a server of the
/// user's own, named in `DATABASE_URL`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManagedError {
    /// No usable PostgreSQL is installed. Permanent.
    #[error(
        "no PostgreSQL {oldest} or newer was found ({found}); install one (Debian: postgresql, macOS: brew \
         install postgresql), put its programs on the PATH, or set DATABASE_URL to a server of your own"
    )]
    NoBinaries {
        /// The oldest usable major version.
        oldest: u32,
        /// What was found instead.
        found: String,
    },
    /// The cluster can only be read by another major version. Permanent.
    #[error(
        "the data in {folder} was made by PostgreSQL {found}, but this machine has {installed}; install PostgreSQL \
         {found}, or move the data over with pg_upgrade or pg_dump"
    )]
    OtherMajor {
        /// The cluster.
        folder: PathBuf,
        /// Major version that made it.
        found: u32,
        /// What is installed.
        installed: String,
    },
    /// There is a folder in the place of the cluster that is no cluster. Permanent.
    #[error("{folder} is not a PostgreSQL data folder and not empty; move it away")]
    NotACluster {
        /// The folder.
        folder: PathBuf,
    },
    /// Root, and nobody to drop to. Permanent.
    #[error(
        "PostgreSQL refuses to run as root and there is no user `postgres` to run it as; start the service as \
         another user, create that user (useradd --system postgres), or set DATABASE_URL"
    )]
    NoAccount,
    /// The server's account cannot get to the data. Permanent.
    #[error(
        "the user {server_user}, who runs PostgreSQL, cannot pass the folder {folder} on the way to the data; allow it \
         (chmod o+x {folder}) or choose another data folder"
    )]
    Closed {
        /// The first folder that is closed.
        folder: PathBuf,
        /// Who is kept out.
        server_user: String,
    },
    /// The data belongs to somebody else, and we are not root. Permanent.
    #[error(
        "{folder} belongs to user {owner}, and PostgreSQL insists on its owner; start the service as that user"
    )]
    WrongOwner {
        /// The folder.
        folder: PathBuf,
        /// Name or number of its owner.
        owner: String,
    },
    /// The short folder for the socket is not ours. Permanent.
    #[error(
        "{folder} should hold the socket, but it is not a folder that only user {server_user} can enter; remove it"
    )]
    RunFolder {
        /// The folder.
        folder: PathBuf,
        /// Who should own it.
        server_user: String,
    },
    /// Another service holds the folder. Transient: it may be on its way out.
    #[error("another service uses {folder}; stop it, or give this one another data folder")]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// `initdb` failed. Permanent until what it says is mended.
    #[error("initdb could not make {folder}: {log}")]
    Init {
        /// The cluster that was to be made.
        folder: PathBuf,
        /// The end of what it said.
        log: String,
    },
    /// The server ended while it was starting. Transient.
    #[error("PostgreSQL ended while it was starting ({status}); the end of {log_file}: {log}")]
    Ended {
        /// How it ended.
        status: String,
        /// The log.
        log_file: PathBuf,
        /// Its last lines.
        log: String,
    },
    /// The server does not answer. Transient.
    #[error("PostgreSQL does not answer after {seconds} s; the end of {log_file}: {log}")]
    Silent {
        /// How long was waited.
        seconds: u64,
        /// The log.
        log_file: PathBuf,
        /// Its last lines.
        log: String,
    },
    /// The server did not stop in order; nothing committed is lost.
    #[error(
        "PostgreSQL did not stop within {seconds} s and was told to quit at once; it recovers at the next start"
    )]
    Stuck {
        /// How long was waited.
        seconds: u64,
    },
    /// A defect of this program.
    #[error("the thread that keeps PostgreSQL panicked; the server may still be running")]
    KeeperPanicked,
    /// The file system or the process table said no. Permanent until it is mended.
    #[error("could not {doing} {path}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl ManagedError {
    pub(super) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        ManagedError::Io { doing, path: path.to_owned(), source }
    }

    /// Starting again later, without a person mending anything, can help.
    pub fn is_transient(&self) -> bool {
        matches!(self, ManagedError::InUse { .. } | ManagedError::Ended { .. } | ManagedError::Silent { .. })
    }
}
