//! The data folder, and the disk it is on.

use super::check::{Check, existing, mebibytes};
use crate::files;
use nix::sys::statvfs::statvfs;
use std::path::Path;

/// The log of PostgreSQL alone grows to 2 GiB (`max_wal_size` of our own server).
const LITTLE: u64 = 4 << 30;
/// Below this a commit may fail at any moment.
const TOO_LITTLE: u64 = 512 << 20;

pub fn checks(folder: &Path) -> [Check; 2] {
    [folder_check(folder), disk_check(folder)]
}

/// A file is made and removed there; nothing is where the folder is still to be made.
fn folder_check(folder: &Path) -> Check {
    let name = "data folder";
    let advice = "choose another folder with LNSP_DATA_DIR, or let this account write there";
    let Some(place) = existing(folder) else {
        return Check::failure(name, format!("{} cannot be reached", folder.display()), advice);
    };
    if !place.is_dir() {
        return Check::failure(name, format!("{} is no folder", place.display()), advice);
    }
    // A link may name the data folder, and what is in a folder that is still to be made is ours.
    let owned = if place == folder {
        place.canonicalize().and_then(|real| files::could_own_folder(&real))
    } else {
        Ok(())
    };
    if let Err(error) = owned {
        return Check::failure(name, format!("{}: {error}", place.display()), advice);
    }
    let state = if place == folder { "usable" } else { "will be made at the first start" };
    // The probe is gone when it is dropped, also when this process is killed: it has no name.
    let probed = if place == folder { tempfile::tempfile_in(place).map(drop) } else { may_write(place) };
    match probed {
        Ok(()) => Check::ok(name, format!("{}: {state}", folder.display())),
        Err(error) => Check::failure(name, format!("{}: {error}", place.display()), advice),
    }
}

fn may_write(folder: &Path) -> std::io::Result<()> {
    let flags = nix::unistd::AccessFlags::W_OK | nix::unistd::AccessFlags::X_OK;
    Ok(nix::unistd::access(folder, flags)?)
}

fn disk_check(folder: &Path) -> Check {
    let name = "disk";
    let found = existing(folder).ok_or(nix::Error::ENOENT).and_then(statvfs);
    let stat = match found {
        Ok(stat) => stat,
        Err(error) => return Check::warning(name, format!("its room is not told: {error}"), "see df"),
    };
    #[expect(clippy::unnecessary_cast, reason = "the types differ between systems")]
    let bytes = |blocks| blocks as u64 * stat.fragment_size() as u64;
    graded(name, bytes(stat.blocks_available()), bytes(stat.blocks()))
}

fn graded(name: &'static str, free: u64, size: u64) -> Check {
    let finding = format!("{} free of {}", mebibytes(free), mebibytes(size));
    let advice = "free some, or put the data on another disk with LNSP_DATA_DIR";
    match free {
        ..TOO_LITTLE => Check::failure(name, finding, advice),
        TOO_LITTLE..LITTLE => Check::warning(name, finding, advice),
        _ => Check::ok(name, finding),
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::Grade;
    use super::*;

    #[test]
    fn a_folder_that_can_be_used_is_left_as_it_was() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(folder_check(data.path()).grade, Grade::Ok);
        let later = folder_check(&data.path().join("not/yet"));
        assert!(later.grade == Grade::Ok && later.finding.contains("will be made"), "{later:?}");
        assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 0);

        let file = data.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(folder_check(&file).grade, Grade::Failure);
        assert_eq!(folder_check(&file.join("below")).grade, Grade::Failure);
    }

    #[test]
    fn a_disk_is_graded_by_what_is_free() {
        let grade = |free| graded("disk", free, 1 << 40).grade;
        assert_eq!([100 << 20, 1 << 30, 5 << 30].map(grade), [Grade::Failure, Grade::Warning, Grade::Ok]);
    }
}
