//! Makes a backup: one snapshot of the database, in PostgreSQL's custom format.

use super::contents::Contents;
use super::error::BackupError;
use super::programs::{Programs, complaint};
use crate::store::{Dsn, StoreError};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Vectors do not become smaller; more costs time and spares nothing.
const ARGUMENTS: [&str; 4] =
    ["--format=custom", "--compress=1", "--no-password", "--lock-wait-timeout=60000"];
/// Everything that is stored is in it.
const PRIVATE_FILE: u32 = 0o600;

/// Writes a backup to the standard output.
pub(super) fn to_standard_output(programs: &Programs, dsn: &Dsn) -> Result<(), BackupError> {
    dump(programs, dsn, Stdio::inherit())
}

/// Writes a backup to a file, and gives its size in bytes. The file appears under its name when it is complete, on the
/// disk, and found to be a backup of this service.
pub(super) fn to_file(programs: &Programs, dsn: &Dsn, file: &Path) -> Result<u64, BackupError> {
    let failed = |error| BackupError::File { file: file.to_owned(), error };
    // A link is followed: what it leads to is replaced, and not the link.
    let place = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    if place.exists() && !place.is_file() {
        return Err(failed(io::Error::other("it is there and is not a file; name another")));
    }
    let part = with_ending(&place, ".part");
    let mut options = OpenOptions::new();
    let open = options.create(true).truncate(true).write(true).mode(PRIVATE_FILE);
    let written = open.open(&part).map_err(failed)?;
    let finished = finish(programs, dsn, (&part, written), &place);
    if finished.is_err() {
        // What is left of it is overwritten by the next one.
        drop(fs::remove_file(&part));
    }
    finished
}

fn finish(
    programs: &Programs,
    dsn: &Dsn,
    (part, written): (&Path, File),
    place: &Path,
) -> Result<u64, BackupError> {
    let failed = |error| BackupError::File { file: place.to_owned(), error };
    dump(programs, dsn, Stdio::from(written.try_clone().map_err(failed)?))?;
    written.sync_all().map_err(failed)?;
    match Contents::list(programs, part) {
        Err(BackupError::OtherDatabase { .. }) => {
            return Err(StoreError::NoStore { to: dsn.to_string() }.into());
        }
        listed => drop(listed?),
    }
    let bytes = written.metadata().map_err(failed)?.len();
    fs::rename(part, place).map_err(failed)?;
    let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // The name is in the folder when that is written.
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
    Ok(bytes)
}

fn dump(programs: &Programs, dsn: &Dsn, output: Stdio) -> Result<(), BackupError> {
    let mut command: Command = programs.command("pg_dump", Some(dsn));
    command.args(ARGUMENTS).stdout(output).stderr(Stdio::piped());
    let running = command.spawn().map_err(|error| programs.not_started("pg_dump", error))?;
    let ended = running.wait_with_output().map_err(|error| programs.not_started("pg_dump", error))?;
    if ended.status.success() {
        Ok(())
    } else {
        Err(BackupError::NotDumped { said: complaint(&ended.stderr) })
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(ending);
    name.into()
}
