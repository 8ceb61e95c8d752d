//! The only functions that print; clippy forbids the macros of the standard library elsewhere.

use super::escape::{escape, escape_json, escape_lines};
use std::fmt::Display;
use std::io::{ErrorKind, Write};

/// Prints one line to the standard output, escaped.
pub fn print_line(text: impl Display) {
    print_json(&escape(&text.to_string()));
}

/// Prints lines to the standard output; their breaks are our own, and everything else is escaped.
pub fn print_block(text: impl Display) {
    print_json(&escape_lines(&text.to_string()));
}

/// Prints a JSON document to the standard output as it is: JSON has escapes of its own.
///
/// Who reads it may be gone, and what runs must end in order all the same: what cannot be printed is dropped.
pub fn print_json(document: &str) {
    if let Err(error) = writeln!(std::io::stdout().lock(), "{document}")
        && error.kind() != ErrorKind::BrokenPipe
    {
        to_standard_error(&format!("lnsp: the standard output cannot be written: {error}"));
    }
}

/// Prints a JSON document of others to the standard output: the same document, without characters that change the
/// terminal.
pub fn print_foreign_json(document: &str) {
    print_json(&escape_json(document));
}

/// The columns of the terminal; 80 where there is none, or where it does not say.
pub fn terminal_width() -> usize {
    match terminal_size::terminal_size() {
        Some((terminal_size::Width(columns @ 1..), _)) => usize::from(columns),
        _ => 80,
    }
}

/// Prints one line to the standard error output, escaped.
pub fn print_error_line(text: impl Display) {
    to_standard_error(&escape(&text.to_string()));
}

/// Prints lines to the standard error output; their breaks are our own, and everything else is escaped.
pub fn print_error_block(text: impl Display) {
    to_standard_error(&escape_lines(&text.to_string()));
}

/// The terminal may be gone, and what runs must end in order all the same: a line that cannot be printed is dropped.
fn to_standard_error(text: &str) {
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}
