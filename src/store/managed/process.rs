//! The server process: a child of the service, or one that an earlier service left running.

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

#[derive(Debug)]
pub(super) enum Process {
    Child(Child),
    Adopted { pid: i32, cluster: PathBuf },
}

impl Process {
    pub fn is_alive(&mut self) -> bool {
        match self {
            // Also reaps the child, so that it does not stay a zombie.
            Process::Child(child) => matches!(child.try_wait(), Ok(None)),
            Process::Adopted { pid, cluster } => is_postmaster(*pid, cluster),
        }
    }

    pub fn pid(&self) -> i32 {
        match self {
            Process::Child(child) => i32::try_from(child.id()).unwrap_or_default(),
            Process::Adopted { pid, .. } => *pid,
        }
    }

    /// Signals the process if it is alive: the pid of an ended process may belong to another one by now.
    pub fn signal(&mut self, signal: Signal) {
        let pid = self.pid();
        if pid > 0
            && self.is_alive()
            && let Err(error) = kill(Pid::from_raw(pid), signal)
        {
            tracing::warn!(pid, %signal, %error, "could not signal postgresql");
        }
    }
}

/// The contents of `postmaster.pid`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PidFile {
    pub pid: i32,
    pub socket_folder: PathBuf,
    /// Whether connections are accepted: a recovery is over.
    pub ready: bool,
}

impl PidFile {
    /// `None` where the file is missing or incomplete.
    pub fn read(cluster: &Path) -> Option<PidFile> {
        PidFile::parse(&std::fs::read_to_string(cluster.join("postmaster.pid")).ok()?)
    }

    /// One line each: pid, cluster, start time, port, socket folder, address, shared memory, state.
    fn parse(text: &str) -> Option<PidFile> {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        Some(PidFile {
            pid: lines.first()?.parse().ok().filter(|pid| *pid > 0)?,
            socket_folder: lines.get(4).copied().unwrap_or_default().into(),
            ready: lines.get(7).is_some_and(|state| *state == "ready"),
        })
    }
}

/// Whether `pid` is a live process and the server of this cluster. Containers reuse small pids quickly, so the number
/// alone is no proof.
pub(super) fn is_postmaster(pid: i32, cluster: &Path) -> bool {
    if kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH) {
        return false;
    }
    let proc = PathBuf::from(format!("/proc/{pid}"));
    if !proc.exists() {
        let output = Command::new("ps").args(["-o", "comm=", "-p", &pid.to_string()]).output();
        return output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("postgres"));
    }
    // "<pid> (<name>) <state> ..": a zombie (Z) or dead process (X) is not alive.
    let stat = std::fs::read_to_string(proc.join("stat")).unwrap_or_default();
    let living = stat.split_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']));
    // The working directory of a postmaster is its cluster.
    living
        && stat.contains("(postgres)")
        && std::fs::read_link(proc.join("cwd")).map_or(true, |at| at == cluster)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_is_read_while_it_is_being_written_too() {
        let whole = "4711\n/data/cluster\n1700000000\n5432\n/data/run\n\n  131073   6\nready   \n";
        let read = PidFile { pid: 4711, socket_folder: "/data/run".into(), ready: true };
        assert_eq!(PidFile::parse(whole), Some(read.clone()));
        assert_eq!(
            PidFile::parse(&whole.replace("ready", "starting")),
            Some(PidFile { ready: false, ..read })
        );
        assert!(PidFile::parse("4711\n/data").is_some_and(|file| file.pid == 4711 && !file.ready));
        assert_eq!(PidFile::parse(""), None);
        // A negative number there is a single-user process.
        assert_eq!(PidFile::parse("-4711\n"), None);
    }

    #[test]
    fn this_test_is_no_postmaster() {
        assert!(!is_postmaster(std::process::id() as i32, Path::new("/data/cluster")));
    }
}
