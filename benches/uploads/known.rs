//! A file that is stored already, sent again by `lnsp ingest`: how many lines a second are recognised. The command is
//! a process of its own on the same machine, and its part counts.

use super::process::{Process, lnsp};
use super::{Result, scaled};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

const LINES: usize = 1_000_000;
/// Bytes of a text, about.
const TEXT: usize = 200;
const ROUNDS: usize = 3;

pub fn figures(scale: f64) -> Result<()> {
    let lines = scaled(LINES, scale);
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("known.ndjson");
    write_lines(&file, lines)?;
    let service = Process::scripted(&[])?;
    let new = send(&service.url, &file, lines, "stored")?;
    println!("figure ingest.new_lines_per_s {new:.0} lines/s ({lines} lines, encoder that costs nothing)");
    let mut known =
        (0..ROUNDS).map(|_| send(&service.url, &file, lines, "duplicates")).collect::<Result<Vec<f64>>>()?;
    known.sort_by(f64::total_cmp);
    println!("rounds: {known:.0?}");
    println!("figure ingest.known_lines_per_s {:.0} lines/s", known[ROUNDS / 2]);
    Ok(())
}

fn write_lines(path: &Path, lines: usize) -> Result<()> {
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    let filler = "The quick brown fox jumps over the lazy dog. ".repeat(TEXT / 45);
    for n in 0..lines {
        writeln!(file, r#"{{"id":"row-{n}","document_id":"doc-{}","text":"Fact {n}. {filler}"}}"#, n / 40)?;
    }
    Ok(file.flush()?)
}

/// Lines a second, when each of them had this status.
fn send(url: &str, file: &Path, lines: usize, status: &str) -> Result<f64> {
    let started = Instant::now();
    let mut command = lnsp();
    command.args(["ingest", "--url", url, "--dataset", "known"]).arg(file).stderr(Stdio::null());
    let output = command.output()?;
    let took = started.elapsed();
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || !said.contains(&format!("{lines} {status}")) {
        return Err(format!("expected {lines} {status}, received {}: {said}", output.status).into());
    }
    Ok(lines as f64 / took.as_secs_f64())
}
