//! Restores a backup in one transaction: all of it is there afterwards, or nothing has changed.
//!
//! `pg_restore` writes the backup as SQL, and `psql` runs it between what this program puts before and after it. The
//! COMMIT is sent only when `pg_restore` has read the whole backup without an error.

use super::contents::Contents;
use super::error::BackupError;
use super::programs::{Programs, complaint};
use crate::store::Dsn;
use crate::store::restore::{after_restore, before_restore};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::thread::JoinHandle;

/// How often it is tried while transactions of the service are in the way.
const TRIES: u32 = 5;
/// The bytes that are passed on at a time.
const BUFFER: usize = 256 * 1024;

/// Restores, and tries again where the transaction and one of the service waited for each other.
pub(super) fn load(
    programs: &Programs,
    dsn: &Dsn,
    (file, contents): (&Path, &Contents),
    replace: bool,
) -> Result<(), BackupError> {
    let mut tries = 1;
    loop {
        match once(programs, dsn, (file, contents), replace) {
            Err(BackupError::NotRestored { said }) if is_held_up(&said) && tries < TRIES => tries += 1,
            Err(BackupError::NotRestored { said }) if said.contains("add --replace") => {
                return Err(BackupError::HoldsChunks);
            }
            done => return done,
        }
    }
}

fn is_held_up(said: &str) -> bool {
    said.contains("deadlock detected") || said.contains("lock timeout")
}

fn once(
    programs: &Programs,
    dsn: &Dsn,
    (file, contents): (&Path, &Contents),
    replace: bool,
) -> Result<(), BackupError> {
    let mut psql = programs.command("psql", Some(dsn));
    psql.args(["--no-psqlrc", "--quiet", "--no-password", "--set", "ON_ERROR_STOP=1", "--file", "-"]);
    psql.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut psql = psql.spawn().map_err(|error| programs.not_started("psql", error))?;
    let mut reader = programs.command("pg_restore", None);
    reader.args(["--no-owner", "--file", "-"]).arg(file).stdout(Stdio::piped()).stderr(Stdio::piped());
    let reader = reader.spawn().map_err(|error| programs.not_started("pg_restore", error));
    let mut reader = match reader {
        Ok(reader) => reader,
        Err(error) => {
            end(&mut psql);
            return Err(error);
        }
    };
    let (said, read) = (complaints(&mut psql), complaints(&mut reader));
    let pipes = (psql.stdin.take(), reader.stdout.take());
    let passed = match pipes {
        (Some(to), Some(from)) => pass_on(from, to, &contents.schema, replace, || reader.wait()),
        _ => Err(io::Error::other("a program has no pipe")),
    };
    if passed.is_err() {
        // It may still write.
        end(&mut reader);
    }
    let ended = psql.wait().map_err(|error| programs.not_started("psql", error))?;
    let (said, read) = (gathered(said), gathered(read));
    match passed {
        Ok(true) if ended.success() => Ok(()),
        // The backup ended early, so no COMMIT was sent.
        Ok(false) => Err(BackupError::NoBackup { file: file.to_owned(), said: complaint(&read) }),
        Ok(true) | Err(_) => Err(BackupError::NotRestored { said: complaint(&said) }),
    }
}

/// Passes the SQL on, with what belongs around it. Whether the backup was whole; if not, nothing is committed.
fn pass_on(
    from: ChildStdout,
    mut to: ChildStdin,
    schema: &str,
    replace: bool,
    mut ended: impl FnMut() -> io::Result<std::process::ExitStatus>,
) -> io::Result<bool> {
    to.write_all(before_restore(schema, replace).as_bytes())?;
    let mut from = BufReader::with_capacity(BUFFER, from);
    settings(&mut from, &mut to)?;
    io::copy(&mut from, &mut to)?;
    let whole = ended()?.success();
    if whole {
        to.write_all(after_restore(schema).as_bytes())?;
    }
    Ok(whole)
}

/// The lines before the first object, without the settings that an older server does not know.
fn settings(from: &mut impl BufRead, to: &mut impl Write) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        from.read_until(b'\n', &mut line)?;
        if !line.starts_with(b"SET transaction_timeout") {
            to.write_all(&line)?;
        }
        if line.is_empty() || [&b"CREATE "[..], b"ALTER ", b"COPY "].iter().any(|word| line.starts_with(word))
        {
            return Ok(());
        }
    }
}

/// Reads what a program complains about, beside it, so that it never waits for its reader.
fn complaints(child: &mut Child) -> Option<JoinHandle<Vec<u8>>> {
    let mut pipe = child.stderr.take()?;
    let read = move || {
        let mut said = Vec::new();
        // What was read until an error is what there is.
        drop(pipe.read_to_end(&mut said));
        said
    };
    std::thread::Builder::new().name("lnsp-complaints".into()).spawn(read).ok()
}

fn gathered(thread: Option<JoinHandle<Vec<u8>>>) -> Vec<u8> {
    thread.and_then(|thread| thread.join().ok()).unwrap_or_default()
}

fn end(child: &mut Child) {
    // It may have ended by itself.
    drop(child.kill());
    drop(child.wait());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_of_newer_servers_is_left_out_and_nothing_else() {
        let script = b"--\nSET a = 1;\nSET transaction_timeout = 0;\n\nCREATE TABLE t ();\nSET transaction_timeout = 0;\n";
        let (mut from, mut to) = (BufReader::new(&script[..]), Vec::new());
        settings(&mut from, &mut to).unwrap();
        io::copy(&mut from, &mut to).unwrap();
        let passed = String::from_utf8(to).unwrap();
        assert_eq!(passed, "--\nSET a = 1;\n\nCREATE TABLE t ();\nSET transaction_timeout = 0;\n");
    }

    #[test]
    fn transactions_that_wait_for_each_other_are_tried_again() {
        assert!(
            is_held_up("ERROR:  deadlock detected") && is_held_up("canceling statement due to lock timeout")
        );
        assert!(!is_held_up("ERROR:  syntax error"));
    }
}
