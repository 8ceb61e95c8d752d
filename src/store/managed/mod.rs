//! The zero set-up database: a PostgreSQL that the service makes, starts and keeps in its own data folder.
//!
//! ```text
//! <data_dir>/postgres/     0700, of the server_user the server runs under
//!     cluster/             PGDATA; appears complete, by a rename, or not at all
//!     run/                 the socket, where the path is short enough for one
//!     server.log           what the server has to say; no statements and no row contents
//!     lock                 held while a service uses the folder
//! ```
//!
//! The server answers on a Unix socket in a folder that only its server_user can enter, and nowhere else. It is in a
//! process group of its own, so a Ctrl-C on the terminal reaches the service alone, which then stops the server
//! when it is done with it. A service that is killed leaves the server running; the next one adopts it. A
//! server that dies under a living service is started again by the keeper thread.

mod binaries;
mod cluster;
mod error;
mod process;
mod runfolder;
mod server;
mod server_user;
mod survey;

pub use error::ManagedError;
pub use survey::{Survey, survey};

use crate::store::Dsn;
use binaries::Binaries;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use server::Server;
use server_user::ServerUser;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

/// The superuser and the database of a managed server.
const ROLE: &str = "lnsp";
/// The oldest major version whose SQL the migrations need (function bodies parsed when they are made).
const OLDEST_MAJOR: u32 = 14;
/// How often the keeper looks after the server.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The pauses between failed restarts grow from one look to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A running server of our own. Dropping it stops the server; [`Self::stop`] also says how that went.
#[derive(Debug)]
pub struct ManagedPostgres {
    dsn: Dsn,
    version: String,
    adopted: bool,
    folder: PathBuf,
    keeper: Option<ServerKeeper>,
    /// Held until after the server is stopped: two services must not keep one server.
    _lock: Flock<File>,
}

#[derive(Debug)]
struct ServerKeeper {
    stop: Sender<()>,
    thread: JoinHandle<Result<(), ManagedError>>,
}

impl ManagedPostgres {
    /// Makes the server answer: the one that a killed service left running, or a new one, making the cluster
    /// first where there is none. Blocks until it answers, 60 s at most (a crash recovery may need that long).
    ///
    /// # Errors
    /// Permanent, with what to do: no binaries, a cluster of another major version, started as root without an
    /// server_user to drop to, a closed folder, a folder in use. Transient ([`ManagedError::is_transient`]): the server
    /// did not start, with the last lines of its log.
    pub fn start(data_dir: &Path) -> Result<Self, ManagedError> {
        let folder = data_dir.join("postgres");
        fs::create_dir_all(&folder).map_err(|e| ManagedError::io("create the folder", &folder, e))?;
        let folder = folder.canonicalize().map_err(|e| ManagedError::io("find the folder", &folder, e))?;
        let (lock_file, lock) = lock(&folder)?;
        let cluster = folder.join("cluster");
        let server_user = ServerUser::for_folder(&folder, &cluster)?;
        server_user.own(&folder)?;
        server_user.give(&lock_file).map_err(|e| ManagedError::io("give away", &lock_file, e))?;
        server_user.check_way_to(&folder)?;
        let binaries = Binaries::find(cluster::major_version(&cluster)?, &cluster)?;
        cluster::ensure(&cluster, &binaries, &server_user)?;

        let version = binaries.version.clone();
        let mut server = Server::new(folder.clone(), cluster, binaries, server_user);
        let adopted = server.bring_up()?;
        let dsn = Dsn::socket(server.run_folder(), server::PORT, ROLE, ROLE);
        let keeper = Some(ServerKeeper::spawn(server)?);
        Ok(ManagedPostgres { dsn, version, adopted, folder, keeper, _lock: lock })
    }

    /// How to reach it; stays the same when the keeper has to restart the server.
    pub fn dsn(&self) -> &Dsn {
        &self.dsn
    }

    /// The full version, for example `15.18`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// It was running already, left by a service that was killed.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// The folder with the cluster and the log.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Stops it in the fast way: open connections are ended, everything committed is flushed. Blocks until it is
    /// gone.
    ///
    /// # Errors
    /// It did not stop within its time and was told to quit at once; it will recover at the next start.
    pub fn stop(mut self) -> Result<(), ManagedError> {
        self.keeper.take().map_or(Ok(()), ServerKeeper::end)
    }
}

impl Drop for ManagedPostgres {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.take()
            && let Err(error) = keeper.end()
        {
            tracing::warn!(%error, "postgresql did not stop in order");
        }
    }
}

impl ServerKeeper {
    fn spawn(server: Server) -> Result<ServerKeeper, ManagedError> {
        let (stop, told) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("lnsp-postgres".into())
            .spawn(move || keep(server, &told))
            .map_err(|e| ManagedError::io("start the keeper thread for", Path::new("postgres"), e))?;
        Ok(ServerKeeper { stop, thread })
    }

    fn end(self) -> Result<(), ManagedError> {
        drop(self.stop);
        self.thread.join().unwrap_or(Err(ManagedError::KeeperPanicked))
    }
}

/// The keeper: restarts a server that died, until it is told (by the channel closing) to stop it.
fn keep(mut server: Server, told: &mpsc::Receiver<()>) -> Result<(), ManagedError> {
    let mut pause = LOOK_EVERY;
    while told.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        pause = if server.is_alive() {
            LOOK_EVERY
        } else {
            tracing::warn!("postgresql is gone; starting it again");
            match server.bring_up() {
                Ok(_) => LOOK_EVERY,
                Err(error) => {
                    tracing::error!(%error, "postgresql could not be started again");
                    (pause * 4).min(LONGEST_PAUSE)
                }
            }
        };
    }
    server.stop()
}

fn lock(folder: &Path) -> Result<(PathBuf, Flock<File>), ManagedError> {
    let path = folder.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| ManagedError::io("open the lock file", &path, e))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok((path, lock)),
        Err((_, Errno::EWOULDBLOCK)) => Err(ManagedError::InUse { folder: folder.to_owned() }),
        Err((_, other)) => Err(ManagedError::io("lock", &path, other.into())),
    }
}
