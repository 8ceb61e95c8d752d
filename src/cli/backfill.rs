//! Has the service work on stored chunks, request by request, until all of a scope are done.

use super::amounts::{chunks, thousands};
use super::service_request::{RequestError, answer_of, read};
use super::service_url::ServiceUrl;
use super::{CommandResult, block_on, client};
use crate::output::{print_error_line, print_line};
use reqwest::Client;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::ExitCode;

/// What is asked for.
pub struct BackfillRequest<'a> {
    /// Where the service is.
    pub url: &'a ServiceUrl,
    /// The path of the endpoint.
    pub path: &'static str,
    /// Chunks of this dataset; `None` for all.
    pub dataset: Option<&'a str>,
    /// The further fields of each request.
    pub fields: Value,
}

/// What came of all requests.
#[derive(Debug, Default)]
pub struct BackfillTally {
    /// Chunks that have what the language model gave.
    pub updated: u64,
    /// Chunks that had a question and have its vector now.
    pub embedded: u64,
    /// The language model that was asked.
    pub model: Option<String>,
    changed_meanwhile: u64,
    failed: BTreeMap<String, u64>,
}

/// The answer to one request.
#[derive(Debug, Deserialize)]
struct BackfillAnswer {
    #[serde(alias = "retagged", alias = "extracted")]
    updated: u64,
    #[serde(default)]
    embedded: u64,
    changed_meanwhile: u64,
    failed: BTreeMap<String, u64>,
    remaining: u64,
    after: i64,
    upto: i64,
    stopped: Option<String>,
    model: Option<String>,
}

impl BackfillTally {
    fn add(&mut self, answer: &BackfillAnswer) {
        self.updated += answer.updated;
        self.embedded += answer.embedded;
        self.changed_meanwhile += answer.changed_meanwhile;
        for (kind, count) in &answer.failed {
            *self.failed.entry(kind.clone()).or_default() += count;
        }
        self.model.clone_from(&answer.model);
    }

    /// Prints what became of the chunks that were not changed; `without` says what is true of those without an answer.
    pub fn print_others(&self, without: &str) {
        if self.changed_meanwhile > 0 {
            print_line(format!("{} were changed or deleted meanwhile", chunks(self.changed_meanwhile)));
        }
        if !self.failed.is_empty() {
            let kinds = self.failed.iter().map(|(kind, count)| format!("{kind} {}", thousands(*count)));
            let kinds: Vec<String> = kinds.collect();
            let failed = chunks(self.failed.values().sum());
            print_line(format!("{failed} {without}: {}", kinds.join(", ")));
        }
    }
}

/// Asks until nothing is left, and then prints the tally; exit code 1 if there was no answer about some chunks.
pub fn run(asked: &BackfillRequest<'_>, print: impl FnOnce(&BackfillTally)) -> CommandResult {
    block_on(async {
        let client = client()?;
        let (mut tally, mut after, mut upto) = (BackfillTally::default(), 0, None);
        loop {
            let answer = request(&client, asked, after, upto).await?;
            tally.add(&answer);
            let done = chunks(tally.updated + tally.embedded);
            if let Some(problem) = answer.stopped {
                print_error_line(format!(
                    "lnsp: {problem}. {done} changed, {} are left: run it again when it answers",
                    thousands(answer.remaining)
                ));
                return Ok(ExitCode::FAILURE);
            }
            if answer.remaining == 0 {
                print(&tally);
                return Ok(if tally.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            (after, upto) = (answer.after, Some(answer.upto));
            print_error_line(format!("{done} done, {} to go", thousands(answer.remaining)));
        }
    })?
}

/// One request, until the service has time.
async fn request(
    client: &Client,
    asked: &BackfillRequest<'_>,
    after: i64,
    upto: Option<i64>,
) -> Result<BackfillAnswer, RequestError> {
    let mut body = asked.fields.clone();
    body["after"] = json!(after);
    if let Some(dataset) = asked.dataset {
        body["dataset_source"] = json!(dataset);
    }
    if let Some(upto) = upto {
        body["upto"] = json!(upto);
    }
    let (url, body) = (asked.url.at(asked.path), body.to_string());
    let post = || client.post(&url).header("Content-Type", "application/json").body(body.clone());
    read(answer_of(asked.url, post).await?)
}
