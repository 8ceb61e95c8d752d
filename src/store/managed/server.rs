//! Starting, adopting and stopping the server of one cluster.

use super::binaries::Binaries;
use super::process::{PidFile, Process, is_postmaster};
use super::server_user::ServerUser;
use super::{ManagedError, cluster, runfolder};
use nix::sys::signal::Signal;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Only a name for the socket file: the server listens on no port.
pub(super) const PORT: u16 = 5432;
/// Enough for the recovery of `max_wal_size` after a crash.
const START_WITHIN: Duration = Duration::from_secs(60);
/// A fast stop writes a checkpoint.
const STOP_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A log longer than this is put aside (one old one is kept) when the server is started.
const LOG_BYTES: u64 = 8 << 20;

/// The server of one cluster, running or not.
#[derive(Debug)]
pub(super) struct Server {
    folder: PathBuf,
    cluster: PathBuf,
    binaries: Binaries,
    server_user: ServerUser,
    run_folder: PathBuf,
    process: Option<Process>,
}

impl Server {
    pub fn new(folder: PathBuf, cluster: PathBuf, binaries: Binaries, server_user: ServerUser) -> Server {
        Server { folder, cluster, binaries, server_user, run_folder: PathBuf::new(), process: None }
    }

    /// Where the socket is; known once it is up.
    pub fn run_folder(&self) -> &Path {
        &self.run_folder
    }

    pub fn is_alive(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_alive)
    }

    /// Makes it answer; true when it was running already.
    pub fn bring_up(&mut self) -> Result<bool, ManagedError> {
        let deadline = Instant::now() + START_WITHIN;
        let left = PidFile::read(&self.cluster).filter(|file| is_postmaster(file.pid, &self.cluster));
        self.process = left.map(|file| Process::Adopted { pid: file.pid, cluster: self.cluster.clone() });
        loop {
            let log_start = self.log_length();
            let adopted = self.process.is_some();
            if !adopted {
                self.run_folder = runfolder::prepare(&self.folder, &self.server_user)?;
                self.forget_dead_server()?;
                self.launch()?;
            }
            match self.wait(deadline, log_start) {
                Ok(()) => return Ok(adopted),
                // It was on its way out: the last service told it to stop and did not live to see it.
                Err(ManagedError::Ended { .. }) if adopted => {}
                // The backends of a server that was killed need a moment to notice, and it may itself be left as a
                // zombie for a while, which PostgreSQL takes for alive.
                Err(ManagedError::Ended { log, .. })
                    if ["still in use", "already exists"].iter().any(|words| log.contains(words))
                        && Instant::now() < deadline =>
                {
                    std::thread::sleep(LOOK_EVERY * 10);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Stops it in the fast way and waits until it is gone.
    pub fn stop(&mut self) -> Result<(), ManagedError> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.signal(Signal::SIGINT);
        if !gone(&mut process, STOP_WITHIN) {
            process.signal(Signal::SIGQUIT);
            gone(&mut process, Duration::from_secs(10));
            return Err(ManagedError::Stuck { seconds: STOP_WITHIN.as_secs() });
        }
        Ok(())
    }

    fn launch(&mut self) -> Result<(), ManagedError> {
        let mut sockets = std::ffi::OsString::from("unix_socket_directories=\"");
        sockets.push(&self.run_folder);
        sockets.push("\"");
        let told = |e| ManagedError::io("start", &self.binaries.postgres(), e);
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
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(told)?).stderr(log);
        self.process = Some(Process::Child(command.spawn().map_err(told)?));
        Ok(())
    }

    /// Waits until it says that it accepts connections.
    fn wait(&mut self, deadline: Instant, log_start: u64) -> Result<(), ManagedError> {
        let log_file = self.log_path();
        loop {
            if let Some(file) = self.answering() {
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
                // A long recovery is left to go on; the next start waits for it again. A server that says it is
                // ready but cannot be reached has lost its socket.
                if PidFile::read(&self.cluster).is_some_and(|file| file.ready) {
                    self.stop()?;
                }
                return Err(ManagedError::Silent { seconds: START_WITHIN.as_secs(), log_file, log });
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn answering(&self) -> Option<PidFile> {
        let pid = self.process.as_ref()?.pid();
        let file = PidFile::read(&self.cluster).filter(|file| file.pid == pid && file.ready)?;
        let socket = file.socket_folder.join(format!(".s.PGSQL.{PORT}"));
        std::os::unix::net::UnixStream::connect(socket).is_ok().then_some(file)
    }

    /// PostgreSQL itself sees through the lock files of a dead server, except when the number in them now belongs to
    /// another process of the same server_user, or to the dead server as a zombie that nobody has taken the exit status
    /// of. We know better: it is no server of this cluster.
    fn forget_dead_server(&self) -> Result<(), ManagedError> {
        let socket = self.run_folder.join(format!(".s.PGSQL.{PORT}.lock"));
        for path in [self.cluster.join("postmaster.pid"), socket] {
            let Some(pid) = first_number(&path) else { continue };
            let number_taken = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_ok();
            if number_taken && !is_postmaster(pid, &self.cluster) && !others_work_in(&self.cluster) {
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
        let told = |e| ManagedError::io("open", &path, e);
        if self.log_length() > LOG_BYTES {
            fs::rename(&path, path.with_extension("log.1")).map_err(told)?;
        }
        let file = File::options().create(true).append(true).open(&path).map_err(told)?;
        self.server_user.give(&path).map_err(told)?;
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

/// Both lock files begin with the number of the server's process.
fn first_number(path: &Path) -> Option<i32> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().next()?.trim().parse().ok().filter(|pid| *pid > 0)
}

fn gone(process: &mut Process, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    while process.is_alive() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    true
}

/// Some process works in the folder: a backend of the dead server, which has to end before the pid file, and with
/// it the knowledge of their shared memory, may go. Says yes where the system cannot tell.
fn others_work_in(cluster: &Path) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return true };
    processes.flatten().any(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|at| at == cluster))
}
