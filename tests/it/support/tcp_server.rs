//! PostgreSQL servers that one test has for itself, on a TCP port of loopback: a primary, and standbys that follow it.

use crate::support::postgres::{DataFolder, connect};
use diesel_async::SimpleAsyncConnection;
use lnsp_ingest::store::Dsn;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Everybody may come in, but this role has to say its password.
pub const GUARDED_ROLE: &str = "guarded";
const ACCESS: &str = "host all guarded 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
host replication all 127.0.0.1/32 trust
";

/// A running server. Stopped and removed when it is dropped.
pub struct TcpServer {
    pub port: u16,
    folder: DataFolder,
    programs: PathBuf,
}

impl TcpServer {
    /// A primary with an empty database.
    pub fn start() -> TcpServer {
        let folder = DataFolder::with_cluster();
        let cluster = cluster_in(&folder);
        fs::write(cluster.join("pg_hba.conf"), ACCESS).unwrap();
        // The server writes down how it was started.
        let options = fs::read_to_string(cluster.join("postmaster.opts")).unwrap();
        let programs = Path::new(options.split_whitespace().next().unwrap()).parent().unwrap().to_owned();
        TcpServer { port: free_port(), folder, programs }.started()
    }

    /// A standby that streams from this one.
    pub fn standby(&self) -> TcpServer {
        let folder = DataFolder::new();
        let cluster = cluster_in(&folder);
        let owner = fs::metadata(cluster_in(&self.folder)).unwrap();
        fs::create_dir(cluster.parent().unwrap()).unwrap();
        chown(cluster.parent().unwrap(), Some(owner.uid()), Some(owner.gid())).unwrap();
        let port = self.port.to_string();
        self.run(
            "pg_basebackup",
            &["-h", "127.0.0.1", "-p", &port, "-U", "lnsp", "-R", "-X", "stream", "-c", "fast", "-D"],
            &cluster,
        );
        TcpServer { port: free_port(), folder, programs: self.programs.clone() }.started()
    }

    /// The address of its database.
    pub fn dsn(&self) -> Dsn {
        format!("host=127.0.0.1 port={} user=lnsp dbname=lnsp", self.port).parse().unwrap()
    }

    /// Runs statements, one after the other and each for itself.
    pub async fn run_all(&self, statements: &[&str]) {
        let mut link = connect(&self.dsn()).await;
        for statement in statements {
            link.batch_execute(statement).await.unwrap();
        }
    }

    /// Stops the server in order; connections end.
    pub fn stop(&self) {
        self.control(&["stop", "-m", "fast"]);
    }

    /// Makes a primary of a standby.
    pub fn promote(&self) {
        self.control(&["promote"]);
    }

    fn started(self) -> TcpServer {
        let options = format!("-c listen_addresses=127.0.0.1 -p {} -c unix_socket_directories=''", self.port);
        let log = self.folder.path().join("postgres/server.log");
        self.control(&["start", "-l", log.to_str().unwrap(), "-o", &options]);
        self
    }

    /// Waits until it is done.
    fn control(&self, arguments: &[&str]) {
        self.run("pg_ctl", &[&["-w", "-t", "60"], arguments, &["-D"]].concat(), &cluster_in(&self.folder));
    }

    /// As the account of the server: PostgreSQL refuses root.
    fn run(&self, program: &str, arguments: &[&str], cluster: &Path) {
        let owner = fs::metadata(cluster.parent().unwrap()).unwrap();
        let mut command = Command::new(self.programs.join(program));
        command.args(arguments).arg(cluster).current_dir("/").env_clear().env("LC_ALL", "C");
        if nix::unistd::Uid::effective().is_root() {
            command.uid(owner.uid()).gid(owner.gid());
        }
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().unwrap();
        assert!(status.success(), "{program} {arguments:?}: {status}");
    }
}

/// Where the clean-up of the folder looks for a server.
fn cluster_in(folder: &DataFolder) -> PathBuf {
    folder.path().join("postgres/cluster")
}

/// A port that was free just now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
