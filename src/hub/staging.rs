//! The folder of a model: `NAME.part` while it is made, by one pull at a time; `NAME` when it is whole.

use super::error::At;
use super::error::HubError;
use super::fetch::unfinished;
use super::manifest::{File, Manifest};
use crate::files;
use crate::model::UNFINISHED;
use nix::sys::statvfs::statvfs;
use std::collections::BTreeSet;
use std::fs::{self, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The folder of a model, before and after the pull.
pub struct StagingDir {
    /// The folder of the whole model.
    pub folder: PathBuf,
    part: PathBuf,
}

/// The state of the folder of a model.
pub enum StagedModel {
    Nothing,
    Whole(Manifest),
    /// A file differs from its entry in the manifest.
    Damaged(Manifest),
}

impl StagingDir {
    pub fn new(models: &Path, name: &str) -> StagingDir {
        StagingDir { folder: models.join(name), part: models.join(format!("{name}{UNFINISHED}")) }
    }

    /// Compares all files with the manifest.
    pub fn inspect(&self) -> Result<StagedModel, HubError> {
        if !self.folder.exists() {
            return Ok(StagedModel::Nothing);
        }
        let manifest =
            Manifest::of(&self.folder).ok_or_else(|| HubError::Foreign { folder: self.folder.clone() })?;
        for file in &manifest.files {
            if !file.is_whole_in(&self.folder)? {
                return Ok(StagedModel::Damaged(manifest));
            }
        }
        Ok(StagedModel::Whole(manifest))
    }

    /// Locks the unfinished folder, unless another pull holds it.
    pub fn lock(&self) -> Result<StagingLock<'_>, HubError> {
        let part = &self.part;
        loop {
            let models = part.parent().unwrap_or(Path::new("."));
            files::own_folder(models, files::PRIVATE).at(models)?;
            files::own_folder(part, files::PRIVATE).at(part)?;
            // The lock is on the folder itself, so it leaves nothing behind, and a killed pull holds none.
            let lock = fs::File::open(part).at(part)?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(HubError::Busy { folder: part.clone() }),
                Err(TryLockError::Error(error)) => return Err(error).at(part),
            }
            // It may have become the whole model since it was opened.
            let locked = lock.metadata().at(part)?;
            if fs::metadata(part)
                .is_ok_and(|found| (found.dev(), found.ino()) == (locked.dev(), locked.ino()))
            {
                return Ok(StagingLock { dir: self, _lock: lock });
            }
        }
    }
}

/// The unfinished folder of a model, locked against other pulls.
pub struct StagingLock<'a> {
    dir: &'a StagingDir,
    _lock: fs::File,
}

impl StagingLock<'_> {
    pub fn part(&self) -> &Path {
        &self.dir.part
    }

    /// Moves the files of a damaged model here, where [`Fetch`](super::fetch::Fetch) finds those that are good.
    pub fn reuse(&self, manifest: &Manifest) -> Result<(), HubError> {
        for file in &manifest.files {
            let (from, to) = (self.dir.folder.join(&file.path), self.part().join(&file.path));
            to.parent().map_or(Ok(()), |above| files::make_folders(above, files::PRIVATE)).at(&to)?;
            match fs::rename(&from, &to) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).at(&from),
                _ => {}
            }
        }
        fs::remove_dir_all(&self.dir.folder).at(&self.dir.folder)
    }

    /// Removes what belongs to another version of the model.
    pub fn keep_only(&self, files: &[File]) -> Result<(), HubError> {
        let kept = files.iter().flat_map(|file| [PathBuf::from(&file.path), unfinished(file)]);
        sweep(self.part(), &kept.map(|path| self.part().join(path)).collect())
    }

    /// Fails when the missing bytes do not fit on the disk.
    pub fn check_space(&self, files: &[File]) -> Result<(), HubError> {
        let size = |path: PathBuf| fs::metadata(self.part().join(path)).map_or(0, |found| found.len());
        let here = |file: &File| size(PathBuf::from(&file.path)).max(size(unfinished(file)));
        let needed = files.iter().map(|file| file.size.saturating_sub(here(file))).sum();
        let disk = statvfs(self.part()).map_err(io::Error::from).at(self.part())?;
        #[allow(clippy::useless_conversion, reason = "the types differ by platform")]
        let free = u64::from(disk.blocks_available()).saturating_mul(disk.fragment_size() as u64);
        match needed > free {
            true => Err(HubError::NoRoom { folder: self.part().to_owned(), needed, free }),
            false => Ok(()),
        }
    }

    /// The model is whole: gives the folder its name.
    pub fn finish(self, manifest: &Manifest) -> Result<(), HubError> {
        self.keep_only(&manifest.files)?;
        manifest.write(self.part())?;
        let target = &self.dir.folder;
        fs::rename(self.part(), target).at(target)?;
        let above = target.parent().unwrap_or(Path::new("."));
        fs::File::open(above).and_then(|folder| folder.sync_all()).at(above)
    }

    /// Gives the lock back without a change. An empty folder is removed.
    pub fn release(self) {
        // A folder with files is kept, as intended.
        drop(fs::remove_dir(self.part()));
    }
}

/// Removes all files that are not to be kept, and folders that become empty.
fn sweep(folder: &Path, kept: &BTreeSet<PathBuf>) -> Result<(), HubError> {
    for entry in fs::read_dir(folder).at(folder)? {
        let path = entry.at(folder)?.path();
        if fs::symlink_metadata(&path).at(&path)?.is_dir() {
            sweep(&path, kept)?;
            match fs::remove_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => {
                    return Err(error).at(&path);
                }
                _ => {}
            }
        } else if !kept.contains(&path) {
            fs::remove_file(&path).at(&path)?;
        }
    }
    Ok(())
}
