//! The cluster (PGDATA), created once.

use super::binaries::Binaries;
use super::error::ManagedError;
use super::server_user::ServerUser;
use crate::files;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The superuser and the database of a managed server.
pub(super) const ROLE: &str = "lnsp";
/// Appended to `postgresql.conf` when a cluster is created; afterwards the file belongs to the operator.
const SETTINGS: &str = "
# Chosen by lnsp-ingest when it made this cluster. Change them as you like: this file is not written again.
# (fsync, full_page_writes, synchronous_commit and the socket are given on the command line and cannot be changed.)
shared_buffers = 128MB
max_wal_size = 2GB
wal_compression = on
jit = off
# The log holds no row contents: neither statements nor the values in the details of errors.
log_statement = none
log_min_error_statement = panic
log_error_verbosity = terse
log_checkpoints = off
";

/// The major version that created the cluster; `None` where there is no cluster yet.
pub(super) fn major_version(cluster: &Path) -> Result<Option<u32>, ManagedError> {
    let path = cluster.join("PG_VERSION");
    match fs::read_to_string(&path) {
        Ok(text) => {
            let digits = text.trim().split('.').next().unwrap_or_default();
            let not_one = |_| ManagedError::NotACluster { folder: cluster.to_owned() };
            digits.parse().map(Some).map_err(not_one)
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(ManagedError::io("read", &path, e)),
    }
}

/// Creates the cluster where there is none. It is created under another name and renamed, so an interrupted start
/// leaves nothing that looks like a cluster; the next start removes what it left.
pub(super) fn ensure(
    cluster: &Path,
    binaries: &Binaries,
    server_user: &ServerUser,
) -> Result<(), ManagedError> {
    if major_version(cluster)?.is_some() {
        return Ok(());
    }
    match fs::remove_dir(cluster) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(_) => return Err(ManagedError::NotACluster { folder: cluster.to_owned() }),
    }
    let unfinished = cluster.with_extension("unfinished");
    match fs::remove_dir_all(&unfinished) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            return Err(ManagedError::io("remove", &unfinished, e));
        }
        _ => {}
    }
    server_user.make_private(&unfinished)?;
    tracing::info!(version = binaries.version, "making a new postgresql cluster");
    initdb(&unfinished, binaries, server_user)?;

    let failed = |e| ManagedError::io("put in place", cluster, e);
    let conf = unfinished.join("postgresql.conf");
    let mut file =
        files::open(&conf, OpenOptions::new().append(true), Some(server_user.uid)).map_err(failed)?;
    file.write_all(SETTINGS.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&unfinished, cluster).map_err(failed)?;
    let parent = cluster.parent().unwrap_or(cluster);
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(failed)
}

fn initdb(folder: &Path, binaries: &Binaries, server_user: &ServerUser) -> Result<(), ManagedError> {
    let mut command = server_user.command(&binaries.initdb(), folder);
    command.arg("-D").arg(folder).args(["-U", ROLE, "--encoding=UTF8", "--locale=C", "--data-checksums"]);
    // `peer` would refuse a service that runs under another user than the server. Only the server's user (and root) can
    // enter the folder of the socket, so there is nothing left to check.
    command.args(["--auth-local=trust", "--auth-host=reject", "--no-instructions"]);
    run(command, "", folder)?;

    let mut command = server_user.command(&binaries.postgres(), folder);
    command.arg("--single").arg("-D").arg(folder).arg("postgres");
    run(command, &format!("CREATE DATABASE {ROLE}\n"), folder)
}

fn run(mut command: Command, input: &str, folder: &Path) -> Result<(), ManagedError> {
    let mut feed = || -> std::io::Result<Output> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        child.wait_with_output()
    };
    let output = feed().map_err(|e| ManagedError::io("run initdb for", folder, e))?;
    if output.status.success() {
        return Ok(());
    }
    let log = last_lines(&String::from_utf8_lossy(&output.stderr));
    Err(ManagedError::Init { folder: folder.to_owned(), log })
}

/// The last five lines that are not blank, joined into one.
pub(super) fn last_lines(text: &str) -> String {
    let mut lines: Vec<&str> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).rev().take(5).collect();
    lines.reverse();
    if lines.is_empty() { "(nothing)".to_owned() } else { lines.join(" | ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_a_cluster_is_read() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(major_version(folder.path()).unwrap(), None);
        fs::write(folder.path().join("PG_VERSION"), "15\n").unwrap();
        assert_eq!(major_version(folder.path()).unwrap(), Some(15));
        fs::write(folder.path().join("PG_VERSION"), "9.6\n").unwrap();
        assert_eq!(major_version(folder.path()).unwrap(), Some(9));
        fs::write(folder.path().join("PG_VERSION"), "").unwrap();
        assert!(matches!(major_version(folder.path()), Err(ManagedError::NotACluster { .. })));
    }

    #[test]
    fn only_the_end_of_a_log_is_shown() {
        assert_eq!(last_lines("\n \n"), "(nothing)");
        assert_eq!(last_lines("1\n2\n3\n4\n5\n6\n\n"), "2 | 3 | 4 | 5 | 6");
    }
}
