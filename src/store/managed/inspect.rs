//! Reads the state of the managed server without starting or changing it.

use super::binaries::Binaries;
use super::cluster::{self, ROLE};
use super::error::ManagedError;
use super::process::{PidFile, is_postmaster};
use super::server;
use super::server_user::ServerUser;
use crate::store::Dsn;
use std::path::{Path, PathBuf};

/// The state of the managed server, see [`inspect`].
#[derive(Debug)]
pub struct ManagedServerInfo {
    /// The version of the programs that run the cluster.
    pub version: String,
    /// Whether the cluster exists.
    pub has_cluster: bool,
    /// The client program beside them, if it is installed, or that on the PATH.
    pub psql: Option<PathBuf>,
    /// The address of the database, if the server accepts connections.
    pub running: Option<Dsn>,
}

/// Checks what [`super::ManagedPostgres::start`] needs in `data_dir`.
///
/// # Errors
/// The permanent errors of a start.
pub fn inspect(data_dir: &Path) -> Result<ManagedServerInfo, ManagedError> {
    let folder = data_dir.join("postgres");
    let folder = folder.canonicalize().or_else(|_| std::path::absolute(&folder));
    let folder = folder.map_err(|e| ManagedError::io("find the folder", data_dir, e))?;
    let cluster = folder.join("cluster");
    ServerUser::for_folder(&folder, &cluster)?.check_path_to(&folder)?;
    let cluster_major = cluster::major_version(&cluster)?;
    let binaries = Binaries::find(cluster_major, &cluster)?;
    let psql = binaries.psql().or_else(super::psql);
    let running = PidFile::read(&cluster).filter(|file| file.ready && is_postmaster(file.pid, &cluster));
    let running = running.map(|file| Dsn::socket(&file.socket_folder, server::PORT, ROLE, ROLE));
    Ok(ManagedServerInfo { version: binaries.version, psql, has_cluster: cluster_major.is_some(), running })
}
