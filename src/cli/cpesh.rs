//! `lnsp cpesh`: has the service give stored chunks CPESH parts and vectors of their questions, request by request.

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

/// The arguments of `lnsp cpesh`.
#[derive(Debug, Args)]
#[command(after_help = "\
The language model is asked about chunks that have no concept, question, answer or negatives. The concept is embedded in \
place of the text; questions get vectors of their own. Codes stay. It can be stopped and run again: chunks that have \
their parts by then are not asked about again, nor are those that failed, unless it is told to.

Exit codes: 0 every chunk has what it lacked; 1 the language model had nothing usable for some, or does not answer; 2 \
wrong arguments.")]
pub struct CpeshCommand {
    /// Where the service is.
    #[arg(long, env = "LNSP_URL", default_value = "http://127.0.0.1:8004")]
    url: ServiceUrl,
    /// Chunks of this dataset; without it, of all.
    #[arg(long)]
    dataset: Option<String>,
    /// Asks also about chunks for which the language model gave nothing usable before.
    #[arg(long)]
    retry_failed: bool,
    /// Only embeds questions that have no vector yet; no language model is asked.
    #[arg(long, conflicts_with = "retry_failed")]
    questions_only: bool,
}

#[derive(Debug, thiserror::Error)]
enum ExtractError {
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
struct CpeshAnswer {
    extracted: u64,
    embedded: u64,
    changed_meanwhile: u64,
    failed: BTreeMap<String, u64>,
    remaining: u64,
    after: i64,
    upto: i64,
    stopped: Option<String>,
    model: Option<String>,
}

#[derive(Debug, Default)]
struct CpeshTally {
    extracted: u64,
    embedded: u64,
    changed_meanwhile: u64,
    failed: BTreeMap<String, u64>,
}

impl CpeshTally {
    fn add(&mut self, answer: &CpeshAnswer) {
        self.extracted += answer.extracted;
        self.embedded += answer.embedded;
        self.changed_meanwhile += answer.changed_meanwhile;
        for (kind, count) in &answer.failed {
            *self.failed.entry(kind.clone()).or_default() += count;
        }
    }

    fn print(&self, model: Option<&str>) {
        if let Some(model) = model {
            print_line(format!("{} now have CPESH parts from {model}", chunks(self.extracted)));
        }
        if self.embedded > 0 || model.is_none() {
            print_line(format!("{} now have the vector of their question", chunks(self.embedded)));
        }
        if self.changed_meanwhile > 0 {
            print_line(format!("{} were changed or deleted meanwhile", chunks(self.changed_meanwhile)));
        }
        if !self.failed.is_empty() {
            let kinds = self.failed.iter().map(|(kind, count)| format!("{kind} {}", thousands(*count)));
            let kinds: Vec<String> = kinds.collect();
            let failed = chunks(self.failed.values().sum());
            print_line(format!("{failed} have none, because nothing was usable: {}", kinds.join(", ")));
        }
    }
}

/// Asks about all of them; exit code 1 if some have nothing.
pub fn run(cpesh: &CpeshCommand) -> CommandResult {
    block_on(async {
        let client = client()?;
        let (mut tally, mut after, mut upto) = (CpeshTally::default(), 0, None);
        loop {
            let answer = request(&client, cpesh, after, upto).await?;
            tally.add(&answer);
            if let Some(problem) = answer.stopped {
                print_error_line(format!(
                    "lnsp: {problem}. {} changed, {} are left: run it again when it answers",
                    chunks(tally.extracted + tally.embedded),
                    thousands(answer.remaining)
                ));
                return Ok(ExitCode::FAILURE);
            }
            if answer.remaining == 0 {
                tally.print(answer.model.as_deref().filter(|_| !cpesh.questions_only));
                return Ok(if tally.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            (after, upto) = (answer.after, Some(answer.upto));
            print_error_line(format!(
                "{} done, {} to go",
                chunks(tally.extracted + tally.embedded),
                thousands(answer.remaining)
            ));
        }
    })?
}

/// One request, until the service has time.
async fn request(
    client: &Client,
    cpesh: &CpeshCommand,
    after: i64,
    upto: Option<i64>,
) -> Result<CpeshAnswer, ExtractError> {
    let mut body =
        json!({ "after": after, "retry_failed": cpesh.retry_failed, "questions_only": cpesh.questions_only });
    if let Some(dataset) = &cpesh.dataset {
        body["dataset_source"] = json!(dataset);
    }
    if let Some(upto) = upto {
        body["upto"] = json!(upto);
    }
    let (url, body) = (cpesh.url.at("/cpesh"), body.to_string());
    let unreachable = |error| ExtractError::Unreachable { url: cpesh.url.clone(), error };
    let post = || client.post(&url).header("Content-Type", "application/json").body(body.clone());
    let response = send_until_admitted(post).await.map_err(unreachable)?;
    let status = response.status();
    let answer: Value = response.json().await.map_err(unreachable)?;
    if !status.is_success() {
        return Err(ExtractError::Refused { status: status.as_u16(), message: error_message(&answer) });
    }
    serde_json::from_value(answer).map_err(ExtractError::Unreadable)
}
