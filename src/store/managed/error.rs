//! The errors of the managed server.

use std::io;
use std::path::{Path, PathBuf};

/// Why the managed server does not run. Each message says what to do. A server named in `DATABASE_URL` avoids all of
/// these errors.
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
        /// The versions that were found.
        found: String,
    },
    /// The cluster can only be read by another major version. Permanent.
    #[error(
        "the data in {folder} was made by PostgreSQL {found}, but this machine has {installed}; install PostgreSQL \
         {found}, or move the data over with pg_upgrade or pg_dump"
    )]
    OtherMajor {
        /// The folder of the cluster.
        folder: PathBuf,
        /// The major version that created it.
        found: u32,
        /// The installed versions.
        installed: String,
    },
    /// The folder of the cluster exists and is no cluster. Permanent.
    #[error("{folder} is not a PostgreSQL data folder and not empty; move it away")]
    NotACluster {
        /// The folder `cluster`.
        folder: PathBuf,
    },
    /// The service runs as root and there is no user to run the server as. Permanent.
    #[error(
        "PostgreSQL refuses to run as root and there is no user `postgres` to run it as; start the service as \
         another user, create that user (useradd --system postgres), or set DATABASE_URL"
    )]
    NoServerUser,
    /// The server's user cannot reach the data. Permanent.
    #[error(
        "the user {server_user}, which runs PostgreSQL, cannot pass the folder {folder} on the way to the data; allow \
         it (chmod o+x {folder}) or choose another data folder"
    )]
    Closed {
        /// The first folder without permission.
        folder: PathBuf,
        /// The name of the server's user.
        server_user: String,
    },
    /// The data belongs to another user, and the service is not root. Permanent.
    #[error(
        "{folder} belongs to user {owner}, and PostgreSQL insists on its owner; start the service as that user"
    )]
    WrongOwner {
        /// The folder of the data.
        folder: PathBuf,
        /// Name or number of its owner.
        owner: String,
    },
    /// The folder for the socket belongs to another user. Permanent.
    #[error(
        "{folder} should hold the socket, but it is not a folder that only user {server_user} can enter; remove it"
    )]
    RunFolder {
        /// The folder of the socket.
        folder: PathBuf,
        /// The user that should own it.
        server_user: String,
    },
    /// Another service uses the folder. Transient: it may be about to end.
    #[error("another service uses {folder}; stop it, or give this one another data folder")]
    InUse {
        /// The folder `postgres`.
        folder: PathBuf,
    },
    /// `initdb` failed. Permanent until the reported problem is solved.
    #[error("initdb could not make {folder}: {log}")]
    Init {
        /// The folder of the new cluster.
        folder: PathBuf,
        /// The last lines of its output.
        log: String,
    },
    /// The server ended while it was starting. Transient.
    #[error("PostgreSQL ended while it was starting ({status}); the end of {log_file}: {log}")]
    Ended {
        /// Its exit status.
        status: String,
        /// The server's log file.
        log_file: PathBuf,
        /// The last lines of the log.
        log: String,
    },
    /// The server does not accept connections in time. Transient.
    #[error("PostgreSQL does not answer after {seconds} s; the end of {log_file}: {log}")]
    Silent {
        /// The timeout, in seconds.
        seconds: u64,
        /// The server's log file.
        log_file: PathBuf,
        /// The last lines of the log.
        log: String,
    },
    /// The server did not stop in time. Nothing committed is lost.
    #[error(
        "PostgreSQL did not stop within {seconds} s and was shut down immediately; it recovers at the next start"
    )]
    Stuck {
        /// The timeout, in seconds.
        seconds: u64,
    },
    /// A defect of this program.
    #[error("the thread that monitors PostgreSQL panicked; the server may still be running")]
    MonitorPanicked,
    /// The operating system refused an operation. Permanent until its cause is removed.
    #[error("could not {doing} {path}: {source}")]
    Io {
        /// The operation, as a verb.
        doing: &'static str,
        /// The file, folder or program.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

impl ManagedError {
    pub(super) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        ManagedError::Io { doing, path: path.to_owned(), source }
    }

    /// Whether starting again later can help without any change by an operator.
    pub fn is_transient(&self) -> bool {
        matches!(self, ManagedError::InUse { .. } | ManagedError::Ended { .. } | ManagedError::Silent { .. })
    }
}
