//! The managed database: a PostgreSQL server that the service creates, starts and stops in its own data folder.
//!
//! ```text
//! <data_dir>/postgres/     0700, owned by the user that runs the server
//!     cluster/             PGDATA; appears complete, by a rename, or not at all
//!     run/                 the socket, where the path is short enough for one
//!     server.log           the server's log; no statements and no row contents
//!     lock                 held while a service uses the folder
//! ```
//!
//! The server listens only on a Unix socket, in a folder that only its user can enter. It has a process group of its
//! own, so a Ctrl-C on the terminal reaches only the service, which stops the server at the end of its own shutdown. A
//! service that is killed leaves the server running, and the next one adopts it. The monitor thread restarts a server
//! that dies while the service runs.

mod binaries;
mod cluster;
mod error;
mod inspect;
mod process;
mod run_folder;
mod server;
mod server_user;

pub use binaries::{ClientPrograms, client_programs, psql};
pub use error::ManagedError;
pub use inspect::{ManagedServerInfo, inspect};

use crate::files;
use crate::store::Dsn;
use binaries::Binaries;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use server::PostgresServer;
use server_user::ServerUser;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the monitor checks that the server runs.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// The longest pause between failed restarts; the first is one poll interval.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A running managed server. Dropping it stops the server; [`Self::stop`] also reports how that went.
#[derive(Debug)]
pub struct ManagedPostgres {
    dsn: Dsn,
    version: String,
    adopted: bool,
    folder: PathBuf,
    monitor: Option<ServerMonitor>,
    /// Held until after the server is stopped: two services must not manage one server.
    _lock: Flock<File>,
}

#[derive(Debug)]
struct ServerMonitor {
    stop: Sender<()>,
    thread: JoinHandle<Result<(), ManagedError>>,
}

impl ManagedPostgres {
    /// Adopts the server that a killed service left running, or starts one, and creates the cluster in
    /// `data_dir/postgres` where there is none. Blocks until the server accepts connections, at most 60 s, as a crash
    /// recovery may take.
    ///
    /// # Errors
    /// Permanent, with what to do: no binaries, a cluster of another major version, started as root without a user
    /// `postgres`, a folder without permission. Transient ([`ManagedError::is_transient`]): the folder is in use, or
    /// the server did not start (with the last lines of its log).
    pub fn start(data_dir: &Path) -> Result<Self, ManagedError> {
        let folder = data_dir.join("postgres");
        files::make_folders(data_dir, files::data_folder_mode())
            .and_then(|()| files::make_folders(&folder, files::PRIVATE))
            .map_err(|e| ManagedError::io("create the folder", &folder, e))?;
        let data_dir =
            data_dir.canonicalize().map_err(|e| ManagedError::io("find the folder", data_dir, e))?;
        let folder = data_dir.join("postgres");
        let cluster = folder.join("cluster");
        let server_user = ServerUser::for_folder(&folder, &cluster)?;
        server_user.make_private(&folder)?;
        let (lock_file, lock) = lock(&folder, server_user.uid)?;
        server_user.chown(&lock_file).map_err(|e| ManagedError::io("give away", &lock_file, e))?;
        server_user.check_path_to(&folder)?;
        let binaries = Binaries::find(cluster::major_version(&cluster)?, &cluster)?;
        cluster::ensure(&cluster, &binaries, &server_user)?;

        let version = binaries.version.clone();
        let mut server = PostgresServer::new(folder.clone(), cluster, binaries, server_user);
        let adopted = server.ensure_running()?;
        let dsn = Dsn::socket(server.run_folder(), server::PORT, cluster::ROLE, cluster::ROLE);
        let monitor = Some(ServerMonitor::spawn(server)?);
        Ok(ManagedPostgres { dsn, version, adopted, folder, monitor, _lock: lock })
    }

    /// The address of the database; it stays the same over restarts by the monitor.
    pub fn dsn(&self) -> &Dsn {
        &self.dsn
    }

    /// The server's version, for example `15.18`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether the server was running already, left by a service that was killed.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// The folder `postgres` with the cluster and the log.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Stops the server in fast mode: open connections end, and everything committed is flushed. Blocks until the
    /// process has ended.
    ///
    /// # Errors
    /// [`ManagedError::Stuck`] when it did not stop in time and was shut down immediately; it recovers at the next
    /// start.
    pub fn stop(mut self) -> Result<(), ManagedError> {
        self.monitor.take().map_or(Ok(()), ServerMonitor::end)
    }
}

impl Drop for ManagedPostgres {
    fn drop(&mut self) {
        if let Some(monitor) = self.monitor.take()
            && let Err(error) = monitor.end()
        {
            tracing::warn!(%error, "postgresql did not stop in order");
        }
    }
}

impl ServerMonitor {
    fn spawn(server: PostgresServer) -> Result<ServerMonitor, ManagedError> {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("lnsp-postgres".into())
            .spawn(move || monitor(server, &stopped))
            .map_err(|e| ManagedError::io("start the monitor thread for", Path::new("postgres"), e))?;
        Ok(ServerMonitor { stop, thread })
    }

    fn end(self) -> Result<(), ManagedError> {
        drop(self.stop);
        self.thread.join().unwrap_or(Err(ManagedError::MonitorPanicked))
    }
}

/// Restarts a server that died, until the channel closes; then stops it.
fn monitor(mut server: PostgresServer, stopped: &mpsc::Receiver<()>) -> Result<(), ManagedError> {
    let mut pause = POLL_INTERVAL;
    while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        pause = if server.is_alive() {
            POLL_INTERVAL
        } else {
            tracing::warn!("postgresql is gone; starting it again");
            match server.ensure_running() {
                Ok(_) => POLL_INTERVAL,
                Err(error) => {
                    tracing::error!(%error, "postgresql could not be started again");
                    (pause * 4).min(LONGEST_PAUSE)
                }
            }
        };
    }
    server.stop()
}

fn lock(folder: &Path, server_user: u32) -> Result<(PathBuf, Flock<File>), ManagedError> {
    let path = folder.join("lock");
    let mut options = OpenOptions::new();
    let file = files::open(&path, options.create(true).truncate(false).write(true), Some(server_user))
        .map_err(|e| ManagedError::io("open the lock file", &path, e))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok((path, lock)),
        Err((_, Errno::EWOULDBLOCK)) => Err(ManagedError::InUse { folder: folder.to_owned() }),
        Err((_, other)) => Err(ManagedError::io("lock", &path, other.into())),
    }
}
