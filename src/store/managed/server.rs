//! Starting, adopting and stopping the server of one cluster.

use super::binaries::Binaries;
use super::error::ManagedError;
use super::process::{PidFile, Process, is_postmaster};
use super::server_user::ServerUser;
use super::{cluster, run_folder};
use crate::files;
use nix::sys::signal::Signal;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Only names the socket file: the server listens on no TCP port.
pub(super) const PORT: u16 = 5432;
/// Enough for a crash recovery of `max_wal_size`.
const START_WITHIN: Duration = Duration::from_secs(60);
/// Enough for the checkpoint of a fast shutdown.
const STOP_WITHIN: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// A longer log is renamed at the start of the server; one old log is kept.
const LOG_BYTES: u64 = 8 << 20;

/// The server of one cluster, running or not.
#[derive(Debug)]
pub(super) struct PostgresServer {
    folder: PathBuf,
    cluster: PathBuf,
    binaries: Binaries,
    server_user: ServerUser,
    run_folder: PathBuf,
    process: Option<Process>,
}

impl PostgresServer {
    pub fn new(
        folder: PathBuf,
        cluster: PathBuf,
        binaries: Binaries,
        server_user: ServerUser,
    ) -> PostgresServer {
        PostgresServer { folder, cluster, binaries, server_user, run_folder: PathBuf::new(), process: None }
    }

    /// The folder of the socket; empty before the first start.
    pub fn run_folder(&self) -> &Path {
        &self.run_folder
    }

    pub fn is_alive(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_alive)
    }

    /// Adopts or starts the server and waits until it accepts connections; true when it was running already.
    pub fn ensure_running(&mut self) -> Result<bool, ManagedError> {
        let deadline = Instant::now() + START_WITHIN;
        let left = PidFile::read(&self.cluster).filter(|file| is_postmaster(file.pid, &self.cluster));
        self.process = left.map(|file| Process::Adopted { pid: file.pid, cluster: self.cluster.clone() });
        loop {
            let log_start = self.log_length();
            let adopted = self.process.is_some();
            if !adopted {
                self.run_folder = run_folder::prepare(&self.folder, &self.server_user)?;
                self.remove_stale_lock_files()?;
                self.launch()?;
            }
            match self.wait(deadline, log_start) {
                Ok(()) => return Ok(adopted),
                // It was stopping: the last service had signalled it and was killed.
                Err(ManagedError::Ended { .. }) if adopted => {}
                // The backends of a killed server end a moment later, and it may itself stay a zombie for a while,
                // which PostgreSQL takes for alive.
                Err(ManagedError::Ended { log, .. })
                    if ["still in use", "already exists"].iter().any(|words| log.contains(words))
                        && Instant::now() < deadline =>
                {
                    std::thread::sleep(POLL_INTERVAL * 10);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Stops the server in fast mode and waits until it has ended.
    pub fn stop(&mut self) -> Result<(), ManagedError> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.signal(Signal::SIGINT);
        if !wait_for_exit(&mut process, STOP_WITHIN) {
            process.signal(Signal::SIGQUIT);
            wait_for_exit(&mut process, Duration::from_secs(10));
            return Err(ManagedError::Stuck { seconds: STOP_WITHIN.as_secs() });
        }
        Ok(())
    }

    fn launch(&mut self) -> Result<(), ManagedError> {
        let mut sockets = std::ffi::OsString::from("unix_socket_directories=\"");
        sockets.push(&self.run_folder);
        sockets.push("\"");
        let failed = |e| ManagedError::io("start", &self.binaries.postgres(), e);
        let log = self.open_log()?;
        let mut command = self.server_user.command(&self.binaries.postgres(), &self.folder);
        command.arg("-D").arg(&self.cluster).arg("-c").arg(sockets).args(["-p", &PORT.to_string()]);
        for setting in [
            "listen_addresses=",
            "unix_socket_permissions=0700",
            "fsync=on",
            "full_page_writes=on",
            "synchronous_commit=on",
            "logging_collector=off",
            "log_destination=stderr",
        ] {
            command.args(["-c", setting]);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(failed)?).stderr(log);
        self.process = Some(Process::Child(command.spawn().map_err(failed)?));
        Ok(())
    }

    /// Waits until the server accepts connections.
    fn wait(&mut self, deadline: Instant, log_start: u64) -> Result<(), ManagedError> {
        let log_file = self.log_path();
        loop {
            if let Some(file) = self.accepting_connections() {
                self.run_folder = file.socket_folder;
                return Ok(());
            }
            if !self.is_alive() {
                let status = match self.process.take() {
                    Some(Process::Child(mut child)) => child.wait().map(|status| status.to_string()).ok(),
                    _ => None,
                };
                let status = status.unwrap_or_else(|| "it was adopted".to_owned());
                return Err(ManagedError::Ended { status, log: self.log_since(log_start), log_file });
            }
            if Instant::now() >= deadline {
                let log = self.log_since(log_start);
                // A long recovery goes on; the next start waits for it again. A server that is ready but cannot be
                // reached has lost its socket.
                if PidFile::read(&self.cluster).is_some_and(|file| file.ready) {
                    self.stop()?;
                }
                return Err(ManagedError::Silent { seconds: START_WITHIN.as_secs(), log_file, log });
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn accepting_connections(&self) -> Option<PidFile> {
        let pid = self.process.as_ref()?.pid();
        let file = PidFile::read(&self.cluster).filter(|file| file.pid == pid && file.ready)?;
        let socket = file.socket_folder.join(format!(".s.PGSQL.{PORT}"));
        std::os::unix::net::UnixStream::connect(socket).is_ok().then_some(file)
    }

    /// Removes the lock files of a dead server. PostgreSQL does so itself, except when their pid belongs to another
    /// process of the same user by now, or to the dead server as a zombie. Neither is a server of this cluster.
    fn remove_stale_lock_files(&self) -> Result<(), ManagedError> {
        let socket = self.run_folder.join(format!(".s.PGSQL.{PORT}.lock"));
        for path in [self.cluster.join("postmaster.pid"), socket] {
            let Some(pid) = first_number(&path) else { continue };
            let pid_taken = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_ok();
            if pid_taken && !is_postmaster(pid, &self.cluster) && !any_process_in(&self.cluster) {
                fs::remove_file(&path).map_err(|e| ManagedError::io("remove the stale", &path, e))?;
            }
        }
        Ok(())
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    fn log_length(&self) -> u64 {
        fs::metadata(self.log_path()).map_or(0, |meta| meta.len())
    }

    fn open_log(&self) -> Result<File, ManagedError> {
        let path = self.log_path();
        let failed = |e| ManagedError::io("open", &path, e);
        if self.log_length() > LOG_BYTES {
            fs::rename(&path, path.with_extension("log.1")).map_err(failed)?;
        }
        // Root appends in a folder of another account: what that account put there is not followed.
        let mut options = OpenOptions::new();
        let options = options.create(true).append(true);
        let file = files::open(&path, options, Some(self.server_user.uid)).map_err(failed)?;
        self.server_user.chown(&path).map_err(failed)?;
        Ok(file)
    }

    fn log_since(&self, start: u64) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(self.log_path())?;
            let start = if file.metadata()?.len() < start { 0 } else { start };
            file.seek(SeekFrom::Start(start))?;
            let mut bytes = Vec::new();
            file.take(1 << 20).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        cluster::last_lines(&read().unwrap_or_default())
    }
}

/// Both lock files begin with the pid of the server.
fn first_number(path: &Path) -> Option<i32> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().next()?.trim().parse().ok().filter(|pid| *pid > 0)
}

fn wait_for_exit(process: &mut Process, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    while process.is_alive() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    true
}

/// Whether any process has the cluster as its working directory: a backend of the dead server, which must end before
/// the pid file, which names their shared memory, is removed. True where the system cannot tell.
fn any_process_in(cluster: &Path) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return true };
    processes.flatten().any(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|at| at == cluster))
}
