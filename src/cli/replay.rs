//! `lnsp replay`: reads the dead letters and sends their chunks again, page by page. What is stored then leaves the
//! table by itself; what fails again stays, and is counted there.

use super::service_request::{RequestError, answer_of, read};
use super::service_url::ServiceUrl;
use super::{CommandResult, block_on, client};
use crate::output::{print_error_line, print_line};
use clap::Args;
use reqwest::{Client, RequestBuilder};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::ExitCode;

/// Letters asked for at once: fewer than the errors that a summary lists.
const PAGE: u32 = 500;
/// Errors that are printed; the others are counted.
const PRINTED_ERRORS: u64 = 20;

/// The arguments of `lnsp replay`.
#[derive(Debug, Args)]
pub struct Replay {
    /// Where the service is.
    #[arg(long, env = "LNSP_URL", default_value = "http://127.0.0.1:8004")]
    url: ServiceUrl,
    /// Only chunks with this error, for example llm_failed.
    #[arg(long)]
    cause: Option<String>,
    /// Only chunks of this dataset.
    #[arg(long)]
    dataset: Option<String>,
    /// What happens to a chunk whose id is stored with other content.
    #[arg(long, default_value = "error", value_parser = ["error", "keep", "replace"])]
    on_conflict: String,
}

#[derive(Debug, thiserror::Error)]
enum ReplayError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("the service took only a part of the letters; run it again")]
    Partly,
}

/// A page of letters; what else is in it is for people.
#[derive(Debug, Deserialize)]
struct LetterPage {
    letters: Vec<Letter>,
    next: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct Letter {
    dataset_source: String,
    batch_id: Option<String>,
    input: Value,
}

/// The answer to a stream of chunks.
#[derive(Debug, Deserialize)]
struct Summary {
    stored: u64,
    replaced: u64,
    duplicates: u64,
    failed: u64,
    complete: bool,
    errors: Vec<ReplayFailure>,
}

#[derive(Debug, Deserialize)]
struct ReplayFailure {
    code: String,
    message: String,
}

#[derive(Debug, Default)]
struct ReplayTally {
    stored: u64,
    duplicates: u64,
    failed: u64,
}

impl ReplayTally {
    fn add_summary(&mut self, summary: Summary) -> Result<(), ReplayError> {
        self.stored += summary.stored + summary.replaced;
        self.duplicates += summary.duplicates;
        summary.errors.iter().enumerate().for_each(|(n, error)| complain(self.failed + n as u64, error));
        self.failed += summary.failed;
        if summary.complete { Ok(()) } else { Err(ReplayError::Partly) }
    }
}

impl std::fmt::Display for ReplayTally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ReplayTally { stored, duplicates, failed } = self;
        let sent = stored + duplicates + failed;
        write!(f, "{sent} sent again: {stored} stored, {duplicates} duplicates, {failed} failed again")
    }
}

/// `before` counts the errors before this one.
fn complain(before: u64, error: &ReplayFailure) {
    match before {
        ..PRINTED_ERRORS => print_error_line(format!("{}: {}", error.code, error.message)),
        PRINTED_ERRORS => print_error_line("further errors are only counted"),
        _ => {}
    }
}

/// Sends all letters once; exit code 1 if a chunk failed again.
pub fn run(replay: Replay) -> CommandResult {
    block_on(async {
        let sender = Sender { client: client()?, replay };
        let mut tally = ReplayTally::default();
        let mut after = 0;
        loop {
            let page = sender.page(after).await?;
            for (request, chunks) in requests(page.letters) {
                sender.send(&request, &chunks, &mut tally).await?;
            }
            // Letters that fail again keep their numbers, so each is sent once.
            match page.next {
                Some(last) => after = last,
                None => break,
            }
        }
        print_line(&tally);
        Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })?
}

/// What holds for all chunks of a request.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Request {
    dataset: String,
    batch: Option<String>,
}

/// As few requests as datasets and batches allow; in each the chunks in their order. The longest chunk that is taken fits
/// into a line.
fn requests(letters: Vec<Letter>) -> BTreeMap<Request, Vec<Value>> {
    let mut requests: BTreeMap<Request, Vec<Value>> = BTreeMap::new();
    for letter in letters {
        let request = Request { dataset: letter.dataset_source, batch: letter.batch_id };
        requests.entry(request).or_default().push(letter.input);
    }
    requests
}

struct Sender {
    client: Client,
    replay: Replay,
}

impl Sender {
    async fn page(&self, after: i64) -> Result<LetterPage, ReplayError> {
        let mut query = vec![("limit", PAGE.to_string()), ("after", after.to_string())];
        query.extend(self.replay.cause.clone().map(|cause| ("cause", cause)));
        query.extend(self.replay.dataset.clone().map(|dataset| ("dataset_source", dataset)));
        Ok(read(self.ask(|| self.client.get(self.replay.url.at("/dead-letters")).query(&query)).await?)?)
    }

    async fn send(
        &self,
        request: &Request,
        chunks: &[Value],
        tally: &mut ReplayTally,
    ) -> Result<(), ReplayError> {
        let Request { dataset, batch } = request;
        let post = || self.client.post(self.replay.url.at("/ingest"));
        let all = "all".to_owned();
        // A letter of a chunk that is to have no codes says so itself.
        let mut query =
            vec![("dataset_source", dataset), ("on_conflict", &self.replay.on_conflict), ("labels", &all)];
        query.extend(batch.as_ref().map(|batch| ("batch_id", batch)));
        let lines: String = chunks.iter().map(|chunk| format!("{chunk}\n")).collect();
        let post = || post().query(&query).header("Content-Type", "application/x-ndjson").body(lines.clone());
        tally.add_summary(read(self.ask(post).await?)?)
    }

    /// Asks until the service has time.
    async fn ask(&self, request: impl Fn() -> RequestBuilder) -> Result<Value, ReplayError> {
        Ok(answer_of(&self.replay.url, request).await?)
    }
}
