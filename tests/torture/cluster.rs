//! PostgreSQL from outside the service: its process, whether it lives, and connections beside the service's.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use tokio_postgres::{Client, NoTls};

/// The server of a data folder, as its pid file tells.
#[derive(Debug, Clone)]
pub struct Postmaster {
    /// The id of its first process.
    pub pid: i32,
    /// Where its socket is.
    pub socket: PathBuf,
}

/// The folder with the tables.
pub fn cluster(data: &Path) -> PathBuf {
    data.join("postgres/cluster")
}

/// The server that runs in a data folder, if one does and accepts connections.
pub fn postmaster(data: &Path) -> Option<Postmaster> {
    let text = std::fs::read_to_string(cluster(data).join("postmaster.pid")).ok()?;
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let pid = lines.first()?.parse().ok().filter(|pid| *pid > 0)?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let lives = stat.contains("(postgres)") && !stat.contains(") Z");
    let ready = lines.get(7).is_some_and(|status| *status == "ready");
    (lives && ready).then(|| Postmaster { pid, socket: PathBuf::from(lines[4]) })
}

impl Postmaster {
    /// Sends it a signal; says whether it was there.
    pub fn signal(&self, signal: Signal) -> bool {
        kill(Pid::from_raw(self.pid), signal).is_ok()
    }

    /// Sends it and all its children a signal; says how many there were.
    pub fn signal_all(&self, signal: Signal) -> usize {
        let stat = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("stat")).ok();
        // "<pid> (<name>) <state> <parent> ..", and no name of PostgreSQL's holds a bracket.
        let child = |stat: String| {
            let (pid, rest) = stat.split_once(" (")?;
            let parent: i32 = rest.split_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
            (parent == self.pid).then(|| pid.parse::<i32>().ok()).flatten()
        };
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let children: Vec<i32> = processes.filter_map(stat).filter_map(child).collect();
        let told = [self.pid].into_iter().chain(children);
        told.filter(|pid| kill(Pid::from_raw(*pid), signal).is_ok()).count()
    }

    /// A connection of our own.
    pub async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host_path(&self.socket).port(5432).user("lnsp").dbname("lnsp").application_name("torture");
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Ends every connection of the service; says how many.
    pub async fn terminate_backends(&self) -> Result<i64, tokio_postgres::Error> {
        let query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                     WHERE application_name = 'lnsp-ingest'";
        Ok(self.connect().await?.query_one(query, &[]).await?.get(0))
    }
}
