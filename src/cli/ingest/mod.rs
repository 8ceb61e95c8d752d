//! `lnsp ingest FILE...`: streams files of one chunk a line, and reads the results while it sends.
//!
//! Whatever happens to the service, the connection, or this command, a line is sent again until its answer is known,
//! and not after. [`file_upload`] is the way of one file: rounds of the lines that are left ([`attempt`]), pauses
//! between them ([`retry_policy`]), what is settled ([`ledger`]) and the journal that remembers it for the next run
//! ([`journal`]).

mod answer;
mod attempt;
mod error;
mod file_upload;
mod journal;
mod ledger;
mod progress_line;
mod retry_policy;
mod source;
mod state;
mod survey;

use super::{CommandResult, block_on, client, sentence};
use crate::output::{print_error_line, print_line};
use attempt::Target;
use clap::Args;
use error::IngestError;
use file_upload::{FileUpload, RetryLimits};
use journal::{Journal, Subject};
use ledger::UploadTally;
use retry_policy::RetrySpan;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use survey::Survey;

/// Some lines have no answer for good: this command gave up.
const GAVE_UP: u8 = 2;

/// The arguments of `lnsp ingest`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 every chunk is stored; 1 some failed for good, and no other is left; 2 gave up, and a sentence says what \
to do.

Beside FILE lies FILE.lnsp-journal while it is not done: after a kill the same command goes on where it was. It stays \
when lines failed for good; remove it to send them again as they are.")]
pub struct Ingest {
    /// Where the service is.
    #[arg(long, env = "LNSP_URL", default_value = "http://127.0.0.1:8004")]
    url: String,
    /// The dataset the chunks belong to.
    #[arg(long, default_value = "user_input")]
    dataset: String,
    /// What happens to a chunk whose id is stored with other content: it is refused, the stored one is kept, or it takes
    /// the place of the stored one.
    #[arg(long, default_value = "error", value_parser = ["error", "keep", "replace"])]
    on_conflict: String,
    /// How long to go on without any chunk being settled while the service is away, full, or failing: seconds, or with
    /// a unit like 90s, 10m, 2h. 0 tries everything once.
    #[arg(long, default_value = "10m")]
    patience: RetrySpan,
    /// How often a chunk that the service does not take now is sent.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    tries: u32,
    /// Leaves no journal beside the files, and looks for none.
    #[arg(long)]
    no_journal: bool,
    /// NDJSON files, one chunk a line, also compressed (.gz, .zst); `-` is standard input.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// Sends all files.
pub fn run(ingest: Ingest) -> CommandResult {
    block_on(async {
        let url = ingest.url.trim_end_matches('/').to_owned();
        let (dataset, on_conflict) = (ingest.dataset.clone(), ingest.on_conflict.clone());
        let target = Target { client: client()?, url, dataset, on_conflict };
        // A name that is misspelt is told before the files before it are sent.
        if let Some(error) = ingest.files.iter().find_map(|file| kind_of(file).err()) {
            print_error_line(format!("lnsp: {}", sentence(&error)));
            return Ok(ExitCode::from(GAVE_UP));
        }
        let (mut total, mut gave_up) = (UploadTally::default(), false);
        for (at, file) in ingest.files.iter().enumerate() {
            let Err(error) = send(&target, file, &ingest, &mut total).await else { continue };
            gave_up = true;
            print_error_line(format!("lnsp: {}", sentence(&error)));
            let left = &ingest.files[at + 1..];
            if !error.is_of_the_file() && !left.is_empty() {
                let (more, first) = (left.len(), left[0].display());
                print_error_line(format!("lnsp: {more} more files were not sent, from {first} on"));
                break;
            }
        }
        if ingest.files.len() > 1 {
            print_line(format!("all files: {total}"));
        }
        Ok(match (gave_up, total.failed) {
            (true, _) => ExitCode::from(GAVE_UP),
            (false, 0) => ExitCode::SUCCESS,
            (false, _) => ExitCode::FAILURE,
        })
    })?
}

async fn send(
    target: &Target,
    file: &Path,
    ingest: &Ingest,
    total: &mut UploadTally,
) -> Result<(), IngestError> {
    let file_upload = match kind_of(file)? {
        FileKind::Regular => FileUpload::of_file(target, file, !ingest.no_journal)?,
        FileKind::Pipe => FileUpload::of_pipe(target, file),
    };
    let limits = RetryLimits { patience: ingest.patience.0, tries: ingest.tries };
    let (tally, report, result) = file_upload.run(limits).await;
    print_line(format!("{}: {report}", file.display()));
    total.add(&tally);
    result
}

enum FileKind {
    Regular,
    Pipe,
}

fn kind_of(file: &Path) -> Result<FileKind, IngestError> {
    if file == Path::new("-") {
        return Ok(FileKind::Pipe);
    }
    let kind = std::fs::metadata(file).map_err(|error| IngestError::file(file, error))?;
    if kind.is_dir() {
        return Err(IngestError::file(file, io::Error::from(io::ErrorKind::IsADirectory)));
    }
    Ok(if kind.is_file() { FileKind::Regular } else { FileKind::Pipe })
}

impl Target {
    fn journal(&self, file: &Path, survey: &Survey) -> Journal {
        let subject = Subject {
            url: self.url.clone(),
            dataset: self.dataset.clone(),
            on_conflict: self.on_conflict.clone(),
            bytes: survey.bytes,
            fingerprint: survey.fingerprint.clone(),
        };
        Journal::beside(file, subject)
    }
}
