//! `lnsp ingest FILE...`: sends the chunks of files as people have them. What a file is, and which of its columns is
//! what, is the business of [`crate::input`]; how chunks are sent until their answers are known, that of
//! [`crate::cli::upload`].

mod file_source;
mod flags;
mod rejects;

use super::service_url::ServiceUrl;
use super::upload::{
    RefusalSink, RefusalTable, RetryLimits, RetrySpan, Target, Upload, UploadError, UploadOptions,
    UploadReport, UploadTally,
};
use super::{CommandResult, block_on, client, sentence};
use crate::input::{FoundFile, Input, InputError, InputOptions, find_files};
use crate::output::{print_error_line, print_line};
use clap::Args;
use file_source::FileSource;
use flags::{Delimiter, EncodingLabel, FlagError, MappingFlags};
use rejects::RejectsFile;
use std::error::Error;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Some chunks have no answer for good, or a file could not be taken: this command gave up.
const GAVE_UP: u8 = 2;

/// The arguments of `lnsp ingest`.
#[derive(Debug, Args)]
#[command(after_help = "\
Files are NDJSON, JSON arrays, JSON objects over several lines, requests with `chunks`, CSV or TSV with a line that names \
the columns, or Parquet; also compressed (gzip, zstd), and in UTF-16. What a file is follows from its content.

Exit codes: 0 every chunk is stored; 1 some were refused for good, and no other is left; 2 gave up, and a sentence says \
what to do. Sending the same files again is safe: what is stored is known, and not stored twice.")]
pub struct Ingest {
    /// Where the service is.
    #[arg(long, env = "LNSP_URL", default_value = "http://127.0.0.1:8004")]
    url: ServiceUrl,
    /// The dataset the chunks belong to.
    #[arg(long, default_value = "user_input")]
    dataset: String,
    /// What happens to a chunk whose id is stored with other content: it is refused, the stored one is kept, or it takes
    /// the place of the stored one.
    #[arg(long, default_value = "error", value_parser = ["error", "keep", "replace"])]
    on_conflict: String,
    /// Which codes the chunks get: all, those that they bring (client), or none. Without it, the service decides.
    #[arg(long, value_parser = ["all", "client", "none"])]
    labels: Option<String>,
    /// How long to go on without any chunk being settled while the service is away, full, or failing: seconds, or with
    /// a unit like 90s, 10m, 2h. 0 tries everything once.
    #[arg(long, default_value = "10m")]
    patience: RetrySpan,
    /// How often a chunk that the service does not take now is sent.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    tries: u32,
    /// Writes each refused line with its reason to this file, which can be mended and sent again. It is emptied first.
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Passes over chunks without a text: they are no failures.
    #[arg(long)]
    skip_empty: bool,
    #[command(flatten)]
    mapping: MappingFlags,
    /// The encoding of files that are not UTF-8 and do not say so, like windows-1252.
    #[arg(long, value_name = "LABEL")]
    encoding: Option<EncodingLabel>,
    /// The character between the cells of a table, or `tab`, where it is not recognised.
    #[arg(long, value_name = "CHARACTER")]
    delimiter: Option<Delimiter>,
    /// Files, and folders of them; `-` is standard input.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// Why nothing is sent at all.
#[derive(Debug, thiserror::Error)]
enum IngestStartError {
    #[error("{0}")]
    Flags(#[from] FlagError),
    #[error("{0}: {1}")]
    File(String, io::Error),
    #[error("{0} is to be sent and to get the rejects: name another file with --rejects")]
    RejectsAreSent(String),
    #[error("the rejects cannot be written to {0}: {1}")]
    Rejects(String, io::Error),
    #[error("no client for HTTP can be made: {0}")]
    Client(#[from] reqwest::Error),
}

/// Sends all files.
pub fn run(ingest: Ingest) -> CommandResult {
    block_on(async {
        match send_all(&ingest).await {
            Ok(totals) => totals.finish(),
            Err(error) => {
                complain(&error);
                ExitCode::from(GAVE_UP)
            }
        }
    })
    .map_err(Into::into)
}

async fn send_all(ingest: &Ingest) -> Result<IngestTotals, IngestStartError> {
    let options = InputOptions {
        mapping: Arc::new(ingest.mapping.mapping(ingest.skip_empty)?),
        encoding: ingest.encoding.map(|EncodingLabel(encoding)| encoding),
        delimiter: ingest.delimiter.map(|Delimiter(delimiter)| delimiter),
        dataset: ingest.dataset.clone(),
    };
    // A name that is misspelt is told before the files before it are sent.
    let named = |path: PathBuf, error| IngestStartError::File(path.display().to_string(), error);
    let files = find_files(&ingest.files).map_err(|(path, error)| named(path, error))?;
    let mut rejects = ingest.rejects.as_deref().map(|path| rejects_file(path, &files)).transpose()?;
    let mut parameters =
        vec![("dataset_source", ingest.dataset.clone()), ("on_conflict", ingest.on_conflict.clone())];
    parameters.extend(ingest.labels.clone().map(|labels| ("labels", labels)));
    let target = Target { client: client()?, url: ingest.url.to_string(), parameters };
    let limits = RetryLimits { patience: ingest.patience.0, tries: ingest.tries };
    let upload = UploadOptions { limits, skips_empty: ingest.skip_empty };
    let mut totals = IngestTotals::default();
    for (at, file) in files.iter().enumerate() {
        let input = match Input::inspect(&file.path, &options) {
            Ok(input) => input,
            Err(error) => {
                totals.pass_over(file, &error);
                continue;
            }
        };
        let name = input.name().to_owned();
        let sink = rejects.as_mut().map(|rejects| rejects as &mut dyn RefusalSink);
        let report = Upload::new(&target, Arc::new(FileSource::new(input)), upload, sink).run().await;
        print_line(format!("{name}: {report}"));
        let Err(error) = totals.add(report) else { continue };
        complain(&error);
        let left = &files[at + 1..];
        if !error.is_of_the_source() && !left.is_empty() {
            let (more, first) = (left.len(), left[0].path.display());
            print_error_line(format!("lnsp: {more} more files were not sent, from {first} on"));
            break;
        }
    }
    Ok(totals)
}

/// Creates the file for refused lines, unless it is one of those that are sent.
fn rejects_file(path: &Path, files: &[FoundFile]) -> Result<RejectsFile, IngestStartError> {
    let identity = |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
    let name = path.display().to_string();
    if let Some(own) = identity(path)
        && files.iter().any(|file| identity(&file.path) == Some(own))
    {
        return Err(IngestStartError::RejectsAreSent(name));
    }
    RejectsFile::create(path).map_err(|error| IngestStartError::Rejects(name, error))
}

/// What is known of all files together.
#[derive(Default)]
struct IngestTotals {
    tally: UploadTally,
    refusals: RefusalTable,
    files: usize,
    skipped: usize,
    gave_up: bool,
}

impl IngestTotals {
    /// Takes what became of a file.
    fn add(&mut self, report: UploadReport) -> Result<(), UploadError> {
        self.files += 1;
        self.tally.add(&report.tally);
        self.refusals.merge(report.refusals);
        self.gave_up |= report.result.is_err();
        report.result
    }

    /// A file that cannot be taken. In a folder may lie what is none of chunks.
    fn pass_over(&mut self, file: &FoundFile, error: &InputError) {
        let name = file.path.display();
        if file.is_in_folder && matches!(error, InputError::Unknown(_)) {
            self.skipped += 1;
            return print_error_line(format!("{name} is skipped: it {error}"));
        }
        self.gave_up = true;
        match error {
            InputError::Io(error) => complain(&IngestStartError::File(
                name.to_string(),
                io::Error::new(error.kind(), error.to_string()),
            )),
            error => print_error_line(format!("lnsp: {name} {error}")),
        }
    }

    /// Prints what is to be said of all files, and gives the exit code.
    fn finish(mut self) -> ExitCode {
        self.refusals.print();
        let UploadTally { truncated, unread, .. } = self.tally;
        if truncated > 0 {
            print_line(format!(
                "{truncated} texts are longer than the model reads: searches find them by their beginnings only. Cut \
                 them into smaller chunks"
            ));
        }
        if unread > 0 {
            print_line(format!(
                "{unread} texts are mostly of characters that the model does not know: searches hardly find them. Take \
                 a model that knows their language"
            ));
        }
        if self.skipped > 0 {
            print_line(format!(
                "files of folders that were skipped, because they hold no chunks: {}",
                self.skipped
            ));
        }
        if self.files > 1 {
            print_line(format!("all files: {}", self.tally));
        }
        if self.files == 0 && !self.gave_up {
            print_error_line("lnsp: there is no file of chunks in what was named");
            self.gave_up = true;
        }
        match (self.gave_up, self.tally.failed) {
            (true, _) => ExitCode::from(GAVE_UP),
            (false, 0) => ExitCode::SUCCESS,
            (false, _) => ExitCode::FAILURE,
        }
    }
}

fn complain(error: &dyn Error) {
    print_error_line(format!("lnsp: {}", sentence(error)));
}
