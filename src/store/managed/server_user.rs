//! The user that runs the server. PostgreSQL refuses root, so a service started as root runs it as another user.

use super::error::ManagedError;
use crate::files;
use nix::unistd::{Gid, Uid, User};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// The user of a new cluster when the service runs as root.
const SYSTEM_USER: &str = "postgres";

/// The user that runs the server: the service's own, or the one that root switches to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerUser {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// The service is root and switches to this user.
    switched: bool,
}

impl ServerUser {
    /// The owner of an existing cluster; for a new one the service's user or, as root, the system user `postgres`.
    pub fn for_folder(folder: &Path, cluster: &Path) -> Result<ServerUser, ManagedError> {
        let owner = [cluster, folder].into_iter().find_map(|path| fs::metadata(path).ok()).map(|m| m.uid());
        let own = Uid::effective().as_raw();
        if own != 0 {
            return match owner {
                Some(other) if other != own => {
                    Err(ManagedError::WrongOwner { folder: folder.to_owned(), owner: user_name(other) })
                }
                _ => Ok(ServerUser {
                    name: user_name(own),
                    uid: own,
                    gid: Gid::effective().as_raw(),
                    switched: false,
                }),
            };
        }
        let user = match owner {
            Some(uid) if uid != 0 => User::from_uid(Uid::from_raw(uid)),
            _ => User::from_name(SYSTEM_USER),
        };
        let user =
            user.ok().flatten().filter(|user| !user.uid.is_root()).ok_or(ManagedError::NoServerUser)?;
        Ok(ServerUser { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw(), switched: true })
    }

    /// A command that runs `program` as this user: in a process group of its own, in the C locale, and without `PG*`
    /// variables, which could override its arguments.
    pub fn command(&self, program: &Path, folder: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(folder).env_clear().env("LC_ALL", "C").process_group(0);
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        if self.switched {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// Makes a folder private to this user (mode 0700), and creates it where it is missing.
    pub fn make_private(&self, folder: &Path) -> Result<(), ManagedError> {
        files::own_folder_of(folder, files::PRIVATE, self.uid, self.gid)
            .map_err(|e| ManagedError::io("make a private folder of the server's user", folder, e))
    }

    /// Makes the user the owner. Without root everything the service creates is its own already.
    pub fn chown(&self, path: &Path) -> io::Result<()> {
        if self.switched { std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid)) } else { Ok(()) }
    }

    /// Checks that the user can pass every folder above `folder`. Needed only for root, which passes every folder
    /// itself.
    pub fn check_path_to(&self, folder: &Path) -> Result<(), ManagedError> {
        if !self.switched {
            return Ok(());
        }
        let closed = |path: &&Path| fs::metadata(path).is_ok_and(|meta| !self.may_pass(&meta));
        match folder.ancestors().skip(1).filter(closed).last() {
            Some(path) => {
                Err(ManagedError::Closed { folder: path.to_owned(), server_user: self.name.clone() })
            }
            None => Ok(()),
        }
    }

    /// Whether only this user can enter the folder.
    pub fn owns(&self, meta: &Metadata) -> bool {
        meta.is_dir() && meta.uid() == self.uid && meta.mode() & 0o077 == 0
    }

    /// By owner, main group and others. Supplementary groups do not count, because the switch of users drops them.
    fn may_pass(&self, meta: &Metadata) -> bool {
        let shift = match () {
            () if meta.uid() == self.uid => 6,
            () if meta.gid() == self.gid => 3,
            () => 0,
        };
        meta.mode() >> shift & 1 == 1
    }
}

fn user_name(uid: u32) -> String {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    fn stranger() -> ServerUser {
        ServerUser { name: "stranger".into(), uid: 54_321, gid: 54_321, switched: true }
    }

    #[test]
    fn the_outermost_closed_folder_on_the_way_is_named() {
        let base = tempfile::tempdir().unwrap();
        let inner = base.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::set_permissions(&inner, Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(base.path(), Permissions::from_mode(0o700)).unwrap();
        let inner = inner.join("data");
        let error = stranger().check_path_to(&inner).unwrap_err();
        assert!(matches!(error, ManagedError::Closed { ref folder, .. } if folder == base.path()), "{error}");

        let error = stranger().check_path_to(&inner.join("deeper")).unwrap_err();
        assert!(matches!(error, ManagedError::Closed { ref folder, .. } if folder == base.path()), "{error}");
        for path in [base.path(), inner.parent().unwrap()] {
            fs::set_permissions(path, Permissions::from_mode(0o711)).unwrap();
        }
        assert!(stranger().check_path_to(&inner).is_ok());
    }

    #[test]
    fn only_a_folder_of_its_own_is_owned() {
        let base = tempfile::tempdir().unwrap();
        let meta = || fs::symlink_metadata(base.path()).unwrap();
        fs::set_permissions(base.path(), Permissions::from_mode(0o700)).unwrap();
        let own = ServerUser { uid: meta().uid(), gid: meta().gid(), ..stranger() };
        assert!(own.owns(&meta()) && !stranger().owns(&meta()));
        fs::set_permissions(base.path(), Permissions::from_mode(0o750)).unwrap();
        assert!(!own.owns(&meta()));
    }
}
