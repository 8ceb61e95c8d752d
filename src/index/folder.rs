//! The index folder: `LOCK`, `CURRENT`, and the volumes `index-N`, of which `CURRENT` names one.
//!
//! A rebuild fills the next volume beside the old one; renaming a new `CURRENT` into place makes it the current one.
//! Other volumes are left over from interrupted rebuilds.

use super::error::IndexError;
use crate::files;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const CURRENT: &str = "CURRENT";
const PREFIX: &str = "index-";

/// The index folder. Holds a lock against other processes. Only the account of the service may enter the folder, so no
/// other account can take the lock.
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Folder, IndexError> {
        files::own_folder(path, files::PRIVATE).map_err(|error| IndexError::io(path, error))?;
        let lock_path = path.join("LOCK");
        let mut options = OpenOptions::new();
        let lock = files::open(&lock_path, options.create(true).truncate(false).write(true), None)
            .map_err(|error| IndexError::io(&lock_path, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(IndexError::Locked(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(IndexError::io(&lock_path, error)),
        }
        let folder = Folder { path: path.to_owned(), _lock: lock };
        for (_, volume) in folder.volumes()? {
            files::own_folder(&volume, files::PRIVATE).map_err(|error| IndexError::io(&volume, error))?;
        }
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of the current volume, if there is one.
    pub(super) fn current(&self) -> Result<Option<PathBuf>, IndexError> {
        let path = self.path.join(CURRENT);
        match fs::read_to_string(&path) {
            Ok(name) => Ok(number(name.trim_end()).map(|n| self.volume(n)).filter(|volume| volume.is_dir())),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => Ok(None),
            Err(error) => Err(IndexError::io(path, error)),
        }
    }

    /// Creates the folder of a new volume, with a number above all others.
    pub(super) fn next(&self) -> Result<PathBuf, IndexError> {
        let last = self.volumes()?.into_iter().map(|(n, _)| n).max();
        let path = self.volume(last.map_or(1, |n| n + 1));
        files::own_folder(&path, files::PRIVATE).map_err(|error| IndexError::io(&path, error))?;
        Ok(path)
    }

    /// Makes a volume the current one, durably: after this returns, a power cut does not undo it.
    pub(super) fn set_current(&self, volume: &Path) -> Result<(), IndexError> {
        let name = volume.file_name().unwrap_or_default().to_string_lossy();
        let path = self.path.join(CURRENT);
        sync_folder(volume)?;
        let content = format!("{name}\n");
        files::replace(&path, &[content.as_bytes()]).map_err(|error| IndexError::io(&path, error))
    }

    /// Removes every volume but one. A reader of a removed volume keeps its pages until it closes them.
    pub(super) fn remove_others(&self, keep: &Path) -> Result<(), IndexError> {
        for (_, path) in self.volumes()? {
            if path != keep {
                fs::remove_dir_all(&path).map_err(|error| IndexError::io(&path, error))?;
            }
        }
        Ok(())
    }

    fn volume(&self, number: u64) -> PathBuf {
        self.path.join(format!("{PREFIX}{number}"))
    }

    fn volumes(&self) -> Result<Vec<(u64, PathBuf)>, IndexError> {
        let wrap = |error| IndexError::io(&self.path, error);
        let mut volumes = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(wrap)? {
            let entry = entry.map_err(wrap)?;
            if let Some(number) = entry.file_name().to_str().and_then(number) {
                volumes.push((number, entry.path()));
            }
        }
        Ok(volumes)
    }
}

/// `index-17` -> 17. Other names are refused, so `CURRENT` cannot name a path outside the folder.
fn number(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.parse().ok().filter(|number| format!("{PREFIX}{number}") == name)
}

fn sync_folder(path: &Path) -> Result<(), IndexError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(|error| IndexError::io(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(number("index-17"), Some(17));
        for name in ["index-", "index-+1", "index-01", "index-1/..", "other", ""] {
            assert_eq!(number(name), None, "{name}");
        }
    }

    #[test]
    fn the_life_of_a_folder() {
        let home = tempfile::tempdir().unwrap();
        let folder = Folder::open(home.path()).unwrap();
        assert!(matches!(Folder::open(home.path()), Err(IndexError::Locked(_))));
        assert_eq!(folder.current().unwrap(), None);
        let first = folder.next().unwrap();
        folder.set_current(&first).unwrap();
        let second = folder.next().unwrap();
        assert_eq!(folder.current().unwrap(), Some(first.clone()));
        folder.set_current(&second).unwrap();
        folder.remove_others(&second).unwrap();
        assert_eq!(folder.current().unwrap(), Some(second.clone()));
        assert!(!first.exists());
        drop(folder);
        assert_eq!(Folder::open(home.path()).unwrap().current().unwrap(), Some(second));
    }

    #[test]
    fn no_other_account_can_enter_the_folder_or_take_its_lock() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("index");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        // As earlier versions left it.
        fs::create_dir_all(path.join("index-1")).unwrap();
        fs::write(path.join("LOCK"), "").unwrap();
        for (path, mode) in [(path.clone(), 0o755), (path.join("index-1"), 0o755), (path.join("LOCK"), 0o644)]
        {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let folder = Folder::open(&path).unwrap();
        let second = folder.next().unwrap();
        folder.set_current(&second).unwrap();
        let modes = ["", "index-1", "index-2", "LOCK", CURRENT].map(|name| mode(&path.join(name)));
        assert_eq!(modes, [0o700, 0o700, 0o700, 0o600, 0o600]);
        drop(folder);

        let victim = home.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        for name in ["LOCK", CURRENT] {
            fs::remove_file(path.join(name)).unwrap();
            symlink(&victim, path.join(name)).unwrap();
            let error = Folder::open(&path).and_then(|folder| folder.set_current(&second)).unwrap_err();
            assert!(error.to_string().contains("it is a link"), "{error}");
            assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
            fs::remove_file(path.join(name)).unwrap();
        }
        let link = home.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(Folder::open(&link).is_err_and(|error| error.to_string().contains("it is a link")));
    }

    #[test]
    fn a_current_that_leads_nowhere_is_none() {
        let home = tempfile::tempdir().unwrap();
        let folder = Folder::open(home.path()).unwrap();
        for text in [&b"index-9\n"[..], b"../etc", b"\xff\xfe"] {
            fs::write(home.path().join(CURRENT), text).unwrap();
            assert_eq!(folder.current().unwrap(), None);
        }
    }
}
