//! PostgreSQL's own programs, which make and read backups: found, and started without a password in their arguments.

use super::error::BackupError;
use crate::store::Dsn;
use crate::store::managed::{ClientPrograms, client_programs};
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The programs of one version, for one server.
#[derive(Debug)]
pub(super) struct Programs {
    found: ClientPrograms,
}

impl Programs {
    /// Those of the server's own version, else the first that are newer. `only` is the folder to look in.
    pub fn for_server(version: &str, only: Option<&Path>) -> Result<Programs, BackupError> {
        let needed = major(version);
        let mut found = client_programs(only);
        // What a newer program writes, an older one cannot always read: so the same version comes first.
        found.sort_by_key(|programs| programs.major != needed);
        let versions: Vec<&str> = found.iter().map(|programs| programs.version.as_str()).collect();
        let versions = if versions.is_empty() { "none".to_owned() } else { versions.join(", ") };
        let usable = found.into_iter().find(|programs| programs.major >= needed);
        match usable {
            Some(found) => Ok(Programs { found }),
            None => Err(BackupError::NoPrograms { needed, found: versions }),
        }
    }

    /// A program, on this database or on none. Its address is in the environment, because every account can read the
    /// arguments of a process.
    pub fn command(&self, name: &str, dsn: Option<&Dsn>) -> Command {
        let mut command = Command::new(self.found.folder.join(name));
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_of_postgres(name)) {
            command.env_remove(name);
        }
        // Its messages are passed on.
        command.env("LC_MESSAGES", "C").stdin(Stdio::null());
        command.envs(dsn.into_iter().flat_map(Dsn::libpq_variables));
        command
    }

    /// Runs a program that is no client of a database to its end.
    pub fn output(&self, name: &str, arguments: &[&OsStr]) -> Result<Output, BackupError> {
        let ran = self.command(name, None).args(arguments).output();
        ran.map_err(|error| self.not_started(name, error))
    }

    /// The error of a program that the system does not start.
    pub fn not_started(&self, name: &str, error: std::io::Error) -> BackupError {
        BackupError::NotStarted { program: self.found.folder.join(name), error }
    }
}

fn is_of_postgres(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with("PG"))
}

/// `15.18` -> 15; `19beta1` -> 19.
fn major(version: &str) -> u32 {
    let digits = version.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().unwrap_or_default()
}

/// What a program complained about, in one line: its last ones, without its name.
pub(super) fn complaint(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let from = lines.iter().position(|line| line.contains("ERROR:") || line.contains("error:")).unwrap_or(0);
    let said: Vec<&str> = lines.iter().skip(from).take(3).copied().collect();
    if said.is_empty() { "it said nothing".to_owned() } else { said.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_a_major_part() {
        assert_eq!([major("15.18"), major("19beta1"), major("")], [15, 19, 0]);
    }

    #[test]
    fn a_complaint_is_one_line_that_begins_at_the_error() {
        let said = complaint(b"SET\npsql:<stdin>:9: ERROR:  no\nCONTEXT:  line 3\n\n");
        assert_eq!(said, "psql:<stdin>:9: ERROR:  no; CONTEXT:  line 3");
        assert_eq!(complaint(b"\n"), "it said nothing");
    }
}
