//! What is in a backup: whether it is one of this service, and of which version of its tables.

use super::error::BackupError;
use super::programs::{Programs, complaint};
use crate::store::known_migrations;
use std::ffi::OsStr;
use std::path::Path;

/// Tables without which a dump is none of this service.
const NEEDED: [&str; 3] = ["chunks", "change_clock", MIGRATIONS];
/// The table of the migrations that ran.
const MIGRATIONS: &str = "__diesel_schema_migrations";

/// A backup of this service that this program can restore.
#[derive(Debug)]
pub(super) struct Contents {
    /// The schema in which its tables are.
    pub schema: String,
}

impl Contents {
    /// Reads the list of a backup and the migrations in it.
    pub fn read(programs: &Programs, file: &Path) -> Result<Contents, BackupError> {
        let contents = Contents::list(programs, file)?;
        let path = file.as_os_str();
        let arguments = ["--data-only", "--table", MIGRATIONS, "--file", "-"].map(OsStr::new);
        let output = programs.output("pg_restore", &[&arguments[..], &[path]].concat())?;
        if !output.status.success() {
            return Err(no_backup(file, &output.stderr));
        }
        let known = known_migrations()?;
        match versions(&String::from_utf8_lossy(&output.stdout)).into_iter().find(|v| !known.contains(v)) {
            Some(found) => Err(BackupError::TooNew { file: file.to_owned(), found }),
            None => Ok(contents),
        }
    }

    /// Reads the list alone: whether all that is needed is in it.
    pub fn list(programs: &Programs, file: &Path) -> Result<Contents, BackupError> {
        // A folder or a pipe is no backup; the program would take the one for a dump and wait for the other.
        let found = std::fs::metadata(file);
        let found = found.map_err(|error| BackupError::File { file: file.to_owned(), error })?;
        if !found.is_file() {
            return Err(BackupError::NoBackup { file: file.to_owned(), said: "it is not a file".to_owned() });
        }
        let output = programs.output("pg_restore", &[OsStr::new("--list"), file.as_os_str()])?;
        if !output.status.success() {
            return Err(no_backup(file, &output.stderr));
        }
        let list = String::from_utf8_lossy(&output.stdout);
        let missing = NEEDED.into_iter().find(|table| schema_of(&list, table).is_none());
        match (missing, schema_of(&list, "chunks")) {
            (None, Some(schema)) => Ok(Contents { schema }),
            (missing, _) => Err(BackupError::OtherDatabase {
                file: file.to_owned(),
                missing: missing.unwrap_or("chunks"),
            }),
        }
    }
}

fn no_backup(file: &Path, stderr: &[u8]) -> BackupError {
    BackupError::NoBackup { file: file.to_owned(), said: complaint(stderr) }
}

/// The schema of a table with data in the list: `3412; 0 16393 TABLE DATA public chunks lnsp`.
fn schema_of(list: &str, table: &str) -> Option<String> {
    list.lines().find_map(|line| {
        let (_, entry) = line.split_once(" TABLE DATA ")?;
        // The owner comes last; names with blanks are none of ours.
        let mut words = entry.split(' ');
        let (schema, name) = (words.next()?, words.next()?);
        (name == table).then(|| schema.to_owned())
    })
}

/// The first column of the rows between `COPY .. FROM stdin;` and `\.`.
fn versions(script: &str) -> Vec<String> {
    let rows = script.lines().skip_while(|line| !line.starts_with("COPY ")).skip(1);
    let rows = rows.take_while(|line| *line != "\\.");
    rows.filter_map(|row| Some(row.split('\t').next()?.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_found_in_the_list_with_their_schema() {
        let list = ";\n; Archive created\n209; 1259 16392 TABLE public chunks lnsp\n\
                    3411; 0 16392 TABLE DATA own chunks lnsp\n3412; 0 1 TABLE DATA own chunks_old lnsp\n";
        assert_eq!(schema_of(list, "chunks").as_deref(), Some("own"));
        assert_eq!(schema_of(list, "change_clock"), None);
    }

    #[test]
    fn migrations_are_the_first_column() {
        let script = "SET x = 1;\n\nCOPY public.__diesel_schema_migrations (version, run_on) FROM stdin;\n\
                      20261123000001\t2026-11-30\n20990101000000\t2026-11-30\n\\.\n\nafter\tthis\n";
        assert_eq!(versions(script), ["20261123000001", "20990101000000"]);
        assert!(versions("SET x = 1;\n").is_empty());
    }
}
