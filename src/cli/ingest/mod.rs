//! `lnsp ingest FILE...`: streams files of one chunk a line, and reads the results while it sends. How lines are sent
//! until their answers are known is the business of [`crate::cli::upload`].

mod file_source;

use super::upload::{
    PieceStream, RefusalTable, RetryLimits, RetrySpan, ServiceUrl, Target, Upload, UploadError,
    UploadOptions, UploadSource, UploadTally,
};
use super::{CommandResult, block_on, client, sentence};
use crate::input::{Compression, Inflated, NdjsonLines, PieceReader, ReadCount};
use crate::output::{print_error_line, print_line};
use crate::threads::lock;
use clap::Args;
use file_source::read_on_a_thread;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

/// Some lines have no answer for good: this command gave up.
const GAVE_UP: u8 = 2;

/// The arguments of `lnsp ingest`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 every chunk is stored; 1 some failed for good, and no other is left; 2 gave up, and a sentence says what \
to do.")]
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
    /// How long to go on without any chunk being settled while the service is away, full, or failing: seconds, or with
    /// a unit like 90s, 10m, 2h. 0 tries everything once.
    #[arg(long, default_value = "10m")]
    patience: RetrySpan,
    /// How often a chunk that the service does not take now is sent.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    tries: u32,
    /// NDJSON files, one chunk a line, also compressed (.gz, .zst); `-` is standard input.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// Sends all files.
pub fn run(ingest: Ingest) -> CommandResult {
    block_on(async {
        let parameters =
            vec![("dataset_source", ingest.dataset.clone()), ("on_conflict", ingest.on_conflict.clone())];
        let target = Target { client: client()?, url: ingest.url.to_string(), parameters };
        // A name that is misspelt is told before the files before it are sent.
        if let Some(error) = ingest.files.iter().find_map(|file| FileSource::of(file).err()) {
            print_error_line(format!("lnsp: {}", sentence(&error)));
            return Ok(ExitCode::from(GAVE_UP));
        }
        let limits = RetryLimits { patience: ingest.patience.0, tries: ingest.tries };
        let options = UploadOptions { limits, skips_empty: false };
        let (mut total, mut refusals, mut gave_up) = (UploadTally::default(), RefusalTable::default(), false);
        for (at, file) in ingest.files.iter().enumerate() {
            let source = Arc::new(FileSource::of(file)?);
            let report = Upload::new(&target, source, options, None).run().await;
            print_line(format!("{}: {report}", file.display()));
            total.add(&report.tally);
            refusals.merge(report.refusals);
            let Err(error) = report.result else { continue };
            gave_up = true;
            print_error_line(format!("lnsp: {}", sentence(&error)));
            let left = &ingest.files[at + 1..];
            if !error.is_of_the_source() && !left.is_empty() {
                let (more, first) = (left.len(), left[0].display());
                print_error_line(format!("lnsp: {more} more files were not sent, from {first} on"));
                break;
            }
        }
        refusals.print();
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

/// What changes with the contents of a file: its length, and the time of its last change.
type FileState = (u64, Option<SystemTime>);

struct FileSource {
    name: String,
    path: PathBuf,
    /// `None` for a pipe.
    then: Option<FileState>,
    /// What is read once.
    pipe: Mutex<Option<Box<dyn Read + Send>>>,
}

impl FileSource {
    fn of(path: &Path) -> Result<FileSource, UploadError> {
        let name = path.display().to_string();
        let failed = |error| UploadError::source(&path.display().to_string(), error);
        if path == Path::new("-") {
            return Ok(FileSource {
                name,
                path: path.into(),
                then: None,
                pipe: Mutex::new(Some(Box::new(io::stdin()))),
            });
        }
        let metadata = std::fs::metadata(path).map_err(failed)?;
        if metadata.is_dir() {
            return Err(failed(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        let then = metadata.is_file().then(|| (metadata.len(), metadata.modified().ok()));
        Ok(FileSource { name, path: path.into(), then, pipe: Mutex::new(None) })
    }
}

impl UploadSource for FileSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn can_reopen(&self) -> bool {
        self.then.is_some()
    }

    fn size(&self) -> Option<u64> {
        self.then.map(|(size, _)| size)
    }

    fn is_outdated(&self) -> bool {
        let now = || std::fs::metadata(&self.path).map(|now| (now.len(), now.modified().ok()));
        self.then.is_some_and(|then| !now().is_ok_and(|now| now == then))
    }

    fn open(&self) -> PieceStream {
        let (count, path) = (ReadCount::default(), self.path.clone());
        let pipe = lock(&self.pipe).take();
        read_on_a_thread(count.clone(), move || {
            let mut file: Box<dyn Read + Send> = match pipe {
                Some(pipe) => pipe,
                None => Box::new(File::open(&path)?),
            };
            let mut begin = Vec::new();
            (&mut file).take(4).read_to_end(&mut begin)?;
            let compression = Compression::of(&begin);
            let inflated = Inflated::new(io::Cursor::new(begin).chain(file), compression, count)?;
            Ok(Box::new(NdjsonLines::new(inflated)) as Box<dyn PieceReader>)
        })
    }
}
