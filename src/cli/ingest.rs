//! `lnsp ingest FILE...`: streams files of one chunk a line, and reads the results while it sends.

use super::{CommandResult, block_on, client};
use crate::http::{Encoding, Inflate, Lines};
use clap::Args;
use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use serde::Deserialize;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio_util::io::ReaderStream;

/// Errors that are printed; the others are counted.
const PRINTED_ERRORS: u64 = 20;
/// Between two lines of progress when nobody watches a bar.
const PLAIN_PACE: Duration = Duration::from_secs(5);

/// `lnsp ingest`
#[derive(Debug, Args)]
pub struct Ingest {
    /// Where the service is.
    #[arg(long, env = "LNSP_URL", default_value = "http://127.0.0.1:8004")]
    url: String,
    /// The dataset the chunks belong to.
    #[arg(long, default_value = "user_input")]
    dataset: String,
    /// NDJSON files, one chunk a line; compressed ones (.gz, .zst) are sent as they are.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// Sends all files; exit code 1 if a chunk failed.
pub fn run(ingest: Ingest) -> CommandResult {
    block_on(async {
        let client = client()?;
        let mut total = Tally::default();
        for file in &ingest.files {
            let tally = send(&client, &ingest, file).await?;
            println!("{}: {tally}", file.display());
            total.add(&tally);
        }
        if ingest.files.len() > 1 {
            println!("all files: {total}");
        }
        Ok(if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })?
}

#[derive(Debug, thiserror::Error)]
enum IngestError {
    #[error("{file}: {error}")]
    File { file: String, error: io::Error },
    #[error("no answer from {url}; is the service running? (lnsp serve)")]
    Unreachable {
        url: String,
        #[source]
        error: reqwest::Error,
    },
    #[error("the service refused the upload: {status} {message}")]
    Refused { status: u16, message: String },
    #[error("the service took only a part of the file: {message}")]
    Partly { message: String },
    #[error(
        "the connection ended before the summary: chunks without a result may or may not be stored; send the file again"
    )]
    Cut,
}

#[derive(Debug, Default)]
struct Tally {
    stored: u64,
    duplicates: u64,
    failed: u64,
    took: Duration,
}

impl Tally {
    fn answered(&self) -> u64 {
        self.stored + self.duplicates + self.failed
    }

    fn rate(&self) -> f64 {
        self.answered() as f64 / self.took.as_secs_f64().max(1e-9)
    }

    fn add(&mut self, other: &Tally) {
        self.stored += other.stored;
        self.duplicates += other.duplicates;
        self.failed += other.failed;
        self.took += other.took;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Tally { stored, duplicates, failed, took } = self;
        let (seconds, rate) = (took.as_secs_f64(), self.rate());
        write!(
            f,
            "{stored} stored, {duplicates} duplicates, {failed} failed in {seconds:.2} s ({rate:.0} chunks/s)"
        )
    }
}

/// A line of the answer.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Answer {
    Result { line: u64, status: String, error: Option<Failure> },
    Summary { complete: bool, error: Option<Failure> },
}

#[derive(Debug, Deserialize)]
struct Failure {
    code: String,
    message: String,
}

async fn send(client: &reqwest::Client, ingest: &Ingest, path: &Path) -> Result<Tally, IngestError> {
    let fail = |error| IngestError::File { file: path.display().to_string(), error };
    let encoding = encoding_of(path);
    let lines = count_lines(path, encoding).map_err(fail)?;
    let file = tokio::fs::File::open(path).await.map_err(fail)?;
    let progress = Progress::new(path, lines);
    let started = Instant::now();
    let response = client
        .post(format!("{}/ingest", ingest.url.trim_end_matches('/')))
        .query(&[("dataset_source", &ingest.dataset)])
        .header("Content-Type", "application/x-ndjson")
        .header("Content-Encoding", encoding.name())
        .header("Accept", "application/x-ndjson")
        .body(reqwest::Body::wrap_stream(ReaderStream::with_capacity(file, 64 * 1024)))
        .send()
        .await
        .map_err(|error| IngestError::Unreachable { url: ingest.url.clone(), error })?;
    if !response.status().is_success() {
        let status = response.status().as_u16();
        let body: serde_json::Value = response.json().await.unwrap_or_default();
        let message = body["error"]["message"].as_str().unwrap_or("without a reason").to_owned();
        return Err(IngestError::Refused { status, message });
    }
    read_answer(response, progress, started).await
}

/// Reads results as they come; an answer without its summary is incomplete.
async fn read_answer(
    response: reqwest::Response,
    mut progress: Progress,
    started: Instant,
) -> Result<Tally, IngestError> {
    let mut tally = Tally::default();
    let mut lines = Lines::default();
    let mut body = response.bytes_stream();
    while let Some(piece) = body.next().await {
        let Ok(piece) = piece else { break };
        lines.feed(&piece);
        while let Some((_, line)) = lines.next_line() {
            let answer = line.ok().and_then(|line| serde_json::from_slice(&line).ok());
            match answer {
                Some(Answer::Result { line, status, error }) => {
                    match status.as_str() {
                        "stored" => tally.stored += 1,
                        "duplicate" => tally.duplicates += 1,
                        _ => {
                            tally.failed += 1;
                            progress.complain(line, error.as_ref(), tally.failed);
                        }
                    }
                    tally.took = started.elapsed();
                    progress.show(&tally);
                }
                Some(Answer::Summary { complete, error }) => {
                    tally.took = started.elapsed();
                    progress.finish(&tally);
                    if let (false, Some(error)) = (complete, error) {
                        return Err(IngestError::Partly { message: error.message });
                    }
                    return Ok(tally);
                }
                // A line of a kind this version does not know.
                None => {}
            }
        }
    }
    progress.finish(&tally);
    Err(IngestError::Cut)
}

/// What the name of a file says about its bytes.
fn encoding_of(path: &Path) -> Encoding {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => Encoding::Gzip,
        Some("zst") => Encoding::Zstd,
        _ => Encoding::Identity,
    }
}

/// The lines that are not blank: what the bar counts. Where a file cannot be inflated the count ends; the service
/// will say what is wrong with it.
fn count_lines(path: &Path, encoding: Encoding) -> io::Result<u64> {
    let mut file = std::fs::File::open(path)?;
    let Ok(mut inflate) = Inflate::new(encoding) else { return Ok(0) };
    let (mut read, mut inflated) = (vec![0; 256 * 1024], vec![0; 256 * 1024]);
    let (mut lines, mut blank) = (0, true);
    loop {
        let count = file.read(&mut read)?;
        if count == 0 {
            return Ok(lines + u64::from(!blank));
        }
        let mut piece = &read[..count];
        loop {
            let Ok(written) = inflate.step(&mut piece, &mut inflated) else { return Ok(lines) };
            for byte in &inflated[..written] {
                if *byte == b'\n' {
                    lines += u64::from(!blank);
                    blank = true;
                } else if !byte.is_ascii_whitespace() {
                    blank = false;
                }
            }
            if piece.is_empty() && written < inflated.len() {
                break;
            }
        }
    }
}

/// A bar with rate and time to go on a terminal, a plain line now and then otherwise.
struct Progress {
    bar: ProgressBar,
    plain: bool,
    name: String,
    lines: u64,
    said: Instant,
}

impl Progress {
    fn new(path: &Path, lines: u64) -> Self {
        let plain = !io::stderr().is_terminal();
        let target = if plain { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(lines), target);
        let shape = "{msg} [{wide_bar}] {pos}/{len} chunks, {rate} chunks/s, {eta} to go";
        if let Ok(style) = ProgressStyle::with_template(shape) {
            let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                // Only a full line could refuse it, and a bar without its rate is still a bar.
                let _shown: std::fmt::Result = write!(out, "{:.0}", state.per_sec());
            };
            bar.set_style(style.with_key("rate", rate).progress_chars("=> "));
        }
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        bar.set_message(name.clone());
        Progress { bar, plain, name, lines, said: Instant::now() }
    }

    fn show(&mut self, tally: &Tally) {
        self.bar.set_position(tally.answered());
        if self.plain && self.said.elapsed() >= PLAIN_PACE {
            self.said = Instant::now();
            eprintln!(
                "{}: {} of {} chunks, {:.0} chunks/s",
                self.name,
                tally.answered(),
                self.lines,
                tally.rate()
            );
        }
    }

    fn complain(&self, line: u64, error: Option<&Failure>, failed: u64) {
        let (code, message) = error.map_or(("error", "no reason given"), |e| (&e.code, &e.message));
        let text = match failed {
            ..=PRINTED_ERRORS => format!("{} line {line}: {code}: {message}", self.name),
            n if n == PRINTED_ERRORS + 1 => "further errors are only counted".to_owned(),
            _ => return,
        };
        self.bar.suspend(|| eprintln!("{text}"));
    }

    fn finish(&self, tally: &Tally) {
        self.bar.set_position(tally.answered());
        self.bar.finish_and_clear();
    }
}
