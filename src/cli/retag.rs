//! `lnsp retag`: has the service ask its language model again for the codes of stored chunks, request by request.

use super::amounts::{chunks, thousands};
use super::service_request::{error_message, send_until_admitted};
use super::service_url::ServiceUrl;
use super::{CommandResult, block_on, client};
use crate::output::{print_error_line, print_line};
use clap::Args;
use reqwest::Client;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::ExitCode;

/// The arguments of `lnsp retag`.
#[derive(Debug, Args)]
#[command(after_help = "\
Only codes change; vectors, texts and metadata stay. Codes that clients sent are not touched. It can be stopped and run \
again: chunks that have codes of the language model by then are not asked about again.

Exit codes: 0 every chunk has new codes; 1 the language model had no answer for some, or does not answer; 2 wrong \
arguments.")]
pub struct RetagCommand {
    /// Where the service is.
    #[arg(long, env = "LNSP_URL", default_value = "http://127.0.0.1:8004")]
    url: ServiceUrl,
    /// Chunks whose codes come from here, `none` for chunks for which no source was asked; may be repeated.
    #[arg(long = "source", id = "sources", value_name = "SOURCE", default_value = "fallback",
        value_parser = ["fallback", "local", "llm", "none"])]
    sources: Vec<String>,
    /// Chunks of this dataset; without it, of all.
    #[arg(long)]
    dataset: Option<String>,
    /// Asks the language model also about texts whose answer is known.
    #[arg(long)]
    fresh: bool,
}

#[derive(Debug, thiserror::Error)]
enum RetagError {
    #[error("no answer from {url}; is the service running? (lnsp serve)")]
    Unreachable {
        url: ServiceUrl,
        #[source]
        error: reqwest::Error,
    },
    #[error("the service refused: {status} {message}")]
    Refused { status: u16, message: String },
    #[error("the answer of the service cannot be read: {0}; are both of one version?")]
    Unreadable(serde_json::Error),
}

/// The answer to one request.
#[derive(Debug, Deserialize)]
struct RetagAnswer {
    retagged: u64,
    changed_meanwhile: u64,
    failed: BTreeMap<String, u64>,
    remaining: u64,
    after: i64,
    upto: i64,
    stopped: Option<String>,
    model: String,
}

#[derive(Debug, Default)]
struct RetagTally {
    retagged: u64,
    changed_meanwhile: u64,
    failed: BTreeMap<String, u64>,
}

impl RetagTally {
    fn add(&mut self, answer: &RetagAnswer) {
        self.retagged += answer.retagged;
        self.changed_meanwhile += answer.changed_meanwhile;
        for (kind, count) in &answer.failed {
            *self.failed.entry(kind.clone()).or_default() += count;
        }
    }

    fn print(&self, model: &str) {
        print_line(format!("{} now have codes from {model}", chunks(self.retagged)));
        if self.changed_meanwhile > 0 {
            print_line(format!("{} were changed or deleted meanwhile", chunks(self.changed_meanwhile)));
        }
        if !self.failed.is_empty() {
            let kinds = self.failed.iter().map(|(kind, count)| format!("{kind} {}", thousands(*count)));
            let kinds: Vec<String> = kinds.collect();
            let failed = chunks(self.failed.values().sum());
            print_line(format!(
                "{failed} keep their codes, because there was no answer: {}",
                kinds.join(", ")
            ));
        }
    }
}

/// Asks about all of them; exit code 1 if some keep their codes.
pub fn run(retag: &RetagCommand) -> CommandResult {
    block_on(async {
        let client = client()?;
        let (mut tally, mut after, mut upto) = (RetagTally::default(), 0, None);
        loop {
            let answer = request(&client, retag, after, upto).await?;
            tally.add(&answer);
            if let Some(problem) = answer.stopped {
                print_error_line(format!(
                    "lnsp: {problem}. {} changed, {} are left: run it again when it answers",
                    chunks(tally.retagged),
                    thousands(answer.remaining)
                ));
                return Ok(ExitCode::FAILURE);
            }
            if answer.remaining == 0 {
                tally.print(&answer.model);
                return Ok(if tally.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            (after, upto) = (answer.after, Some(answer.upto));
            print_error_line(format!(
                "{} retagged, {} to go",
                chunks(tally.retagged),
                thousands(answer.remaining)
            ));
        }
    })?
}

/// One request, until the service has time.
async fn request(
    client: &Client,
    retag: &RetagCommand,
    after: i64,
    upto: Option<i64>,
) -> Result<RetagAnswer, RetagError> {
    let mut body = json!({ "sources": retag.sources, "after": after, "fresh": retag.fresh });
    if let Some(dataset) = &retag.dataset {
        body["dataset_source"] = json!(dataset);
    }
    if let Some(upto) = upto {
        body["upto"] = json!(upto);
    }
    let (url, body) = (retag.url.at("/retag"), body.to_string());
    let unreachable = |error| RetagError::Unreachable { url: retag.url.clone(), error };
    let post = || client.post(&url).header("Content-Type", "application/json").body(body.clone());
    let response = send_until_admitted(post).await.map_err(unreachable)?;
    let status = response.status();
    let answer: Value = response.json().await.map_err(unreachable)?;
    if !status.is_success() {
        return Err(RetagError::Refused { status: status.as_u16(), message: error_message(&answer) });
    }
    serde_json::from_value(answer).map_err(RetagError::Unreadable)
}
