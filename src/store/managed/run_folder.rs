//! The folder of the socket. Socket paths are limited to about a hundred bytes, data folders are not.

use super::error::ManagedError;
use super::server_user::ServerUser;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// `sun_path` takes 104 bytes on macOS and 108 on Linux, with the closing zero.
const LONGEST_SOCKET_PATH: usize = 103;

/// Makes the folder of the socket, which only `server_user` can enter: beside the cluster, or a short path named by a
/// hash of the data folder, so that the next service finds the same one.
pub(super) fn prepare(folder: &Path, server_user: &ServerUser) -> Result<PathBuf, ManagedError> {
    let own_runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| {
        // The server's user cannot enter root's runtime folder.
        fs::metadata(path).is_ok_and(|meta| server_user.owns(&meta))
    });
    let path = choose(folder, own_runtime, server_user.uid);
    if path.starts_with(folder) || fs::symlink_metadata(&path).is_err() {
        server_user.make_private(&path)?;
    }
    // In a shared folder another user may have made it first.
    match fs::symlink_metadata(&path) {
        Ok(meta) if server_user.owns(&meta) => Ok(path),
        _ => Err(ManagedError::RunFolder { folder: path, server_user: server_user.name.clone() }),
    }
}

fn choose(folder: &Path, own_runtime: Option<PathBuf>, uid: u32) -> PathBuf {
    let fits = |path: &PathBuf| {
        let bytes = path.as_os_str().as_bytes();
        // The server gets the path in double quotes and writes it on a line of `postmaster.pid`.
        bytes.len() + "/.s.PGSQL.5432".len() <= LONGEST_SOCKET_PATH
            && !bytes.iter().any(|b| b"\"\n".contains(b))
    };
    let hash = blake3::hash(folder.as_os_str().as_bytes()).to_hex();
    let name = format!("lnsp-{uid}-{}", &hash[..16]);
    [Some(folder.join("run")), own_runtime.map(|path| path.join(&name))]
        .into_iter()
        .flatten()
        .find(fits)
        .unwrap_or_else(|| Path::new("/tmp").join(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_path_fits_whatever_the_data_folder() {
        let short = Path::new("/srv/lnsp/postgres");
        assert_eq!(choose(short, None, 1), Path::new("/srv/lnsp/postgres/run"));
        let long = PathBuf::from("/srv").join("x".repeat(90));
        let at = choose(&long, Some("/run/user/1".into()), 1);
        assert!(at.starts_with("/run/user/1") && at == choose(&long, Some("/run/user/1".into()), 1));
        assert!(choose(&long, Some(long.clone()), 1).starts_with("/tmp/"));
        assert_ne!(choose(&long, None, 1), choose(&long.join("y"), None, 1));
    }
}
