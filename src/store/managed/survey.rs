//! Looking at our own server without starting or changing it.

use super::binaries::Binaries;
use super::process::{PidFile, is_postmaster};
use super::server_user::ServerUser;
use super::{ManagedError, ROLE, cluster, server};
use crate::store::Dsn;
use std::path::Path;

/// What there is.
#[derive(Debug)]
pub struct Survey {
    /// Of the programs that would run, or run, the cluster.
    pub version: String,
    /// It has been made.
    pub has_cluster: bool,
    /// How to reach it, if it runs and takes connections.
    pub running: Option<Dsn>,
}

/// Looks whether [`super::ManagedPostgres::start`] would find what it needs.
///
/// # Errors
/// The permanent ones of a start.
pub fn survey(data_dir: &Path) -> Result<Survey, ManagedError> {
    let folder = data_dir.join("postgres");
    let folder = folder.canonicalize().or_else(|_| std::path::absolute(&folder));
    let folder = folder.map_err(|e| ManagedError::io("find the folder", data_dir, e))?;
    let cluster = folder.join("cluster");
    ServerUser::for_folder(&folder, &cluster)?.check_way_to(&folder)?;
    let made_by = cluster::major_version(&cluster)?;
    let version = Binaries::find(made_by, &cluster)?.version;
    let running = PidFile::read(&cluster).filter(|file| file.ready && is_postmaster(file.pid, &cluster));
    let running = running.map(|file| Dsn::socket(&file.socket_folder, server::PORT, ROLE, ROLE));
    Ok(Survey { version, has_cluster: made_by.is_some(), running })
}
