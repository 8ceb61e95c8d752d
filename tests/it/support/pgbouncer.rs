//! PgBouncer, as the distribution has it, in front of the shared server.

use crate::support::postgres::server_folder;
use crate::support::tcp_server::free_port;
use crate::support::wait::until;
use lnsp_ingest::store::Dsn;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Ends when its standard input does, also when the tests are killed.
const RUN: &str = r#""$1" "$2" 2> "$2.log" & pid=$!
while read -r word; do kill -HUP "$pid"; done
kill "$pid""#;

/// A running pooler. Ended when it is dropped.
pub struct PgBouncer {
    port: u16,
    folder: tempfile::TempDir,
    server: String,
    child: Child,
}

/// Where it is installed. Where it is not, the test says that it is left out, past the capturing of its output.
pub fn installed(test: &str) -> bool {
    let there = program().is_some();
    if !there {
        let notice = format!("\nskipped: {test} (PgBouncer is not installed; scripts/setup --tests)\n");
        std::io::stdout().write_all(notice.as_bytes()).unwrap();
    }
    there
}

fn program() -> Option<&'static str> {
    let places = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/opt/homebrew/bin/pgbouncer"];
    places.into_iter().find(|place| Path::new(place).exists())
}

impl PgBouncer {
    /// In front of the server of this database, with these settings, a line each.
    pub async fn start(database: &Dsn, settings: &str) -> PgBouncer {
        let server = database.to_string();
        let word =
            |name: &str| server.split(' ').find_map(|word| word.strip_prefix(name)).unwrap().to_owned();
        let server = format!("host={} port={}", word("host="), word("port="));
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let config = folder.path().join("pgbouncer.ini");
        let log = folder.path().join("pgbouncer.ini.log");
        fs::write(folder.path().join("users"), "\"lnsp\" \"\"\n").unwrap();
        fs::write(&log, "").unwrap();
        let port = free_port();
        fs::write(&config, text(port, folder.path(), &server, settings)).unwrap();
        // The account of the server: PgBouncer refuses root, and only that account reaches the socket.
        let owner = fs::metadata(server_folder()).unwrap();
        std::os::unix::fs::chown(&log, Some(owner.uid()), Some(owner.gid())).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", RUN, "pooler", program().unwrap()]).arg(&config).stdin(Stdio::piped());
        command.current_dir("/").process_group(0);
        if nix::unistd::Uid::effective().is_root() {
            command.uid(owner.uid()).gid(owner.gid());
        }
        let child = command.spawn().unwrap();
        let pooler = PgBouncer { port, folder, server, child };
        until("the pooler listens", || TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
        pooler
    }

    /// The address of this database, through the pooler.
    pub fn dsn(&self, database: &Dsn) -> Dsn {
        let database = database.to_string();
        let name = database.split(' ').find_map(|word| word.strip_prefix("dbname=")).unwrap();
        format!("host=127.0.0.1 port={} user=lnsp dbname={name}", self.port).parse().unwrap()
    }

    /// Gives it other settings while it runs.
    pub async fn reload(&mut self, settings: &str) {
        let config = self.folder.path().join("pgbouncer.ini");
        fs::write(config, text(self.port, self.folder.path(), &self.server, settings)).unwrap();
        let reloads = |log: &str| log.matches("RELOAD").count() + log.matches("re-reading config").count();
        let before = reloads(&self.log());
        self.child.stdin.as_mut().unwrap().write_all(b"reload\n").unwrap();
        until("it has its settings", || reloads(&self.log()) > before).await;
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("pgbouncer.ini.log")).unwrap()
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

fn text(port: u16, folder: &Path, server: &str, settings: &str) -> String {
    let users = folder.join("users");
    format!(
        "[databases]\n* = {server}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
         unix_socket_dir =\nauth_type = trust\nauth_file = {}\n{settings}\n",
        users.display()
    )
}
