//! `lnsp delete`: says how many chunks are selected, asks, and deletes them, request by request.

use super::amounts::{chunks, thousands};
use super::service_request::{RequestError, read, status_and_answer};
use super::service_url::ServiceUrl;
use super::{CommandResult, block_on, client};
use crate::output::{print_error_line, print_line};
use clap::{ArgGroup, Args};
use reqwest::Client;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fmt;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Ids in one request: as many as the service takes.
const IDS: usize = 10_000;
/// How often in a row the number of chunks may have changed between the question and the deletion.
const CHANGES: u32 = 10;
/// Nothing was deleted, because it could not be asked.
const NOT_ASKED: u8 = 2;

/// The arguments of `lnsp delete`.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("selection").required(true).multiple(true).args(["dataset", "document", "ids", "conditions"]),
    after_help = "\
What is given together has to fit together. A chunk that is on its way into the service meanwhile may be stored after.

Exit codes: 0 done; 1 not everything was deleted, or you said no; 2 wrong arguments, or there is no terminal to ask on: \
add --yes."
)]
pub struct Delete {
    /// Where the service is.
    #[arg(long, env = "LNSP_URL", default_value = "http://127.0.0.1:8004")]
    url: ServiceUrl,
    /// Chunks of this dataset.
    #[arg(long)]
    dataset: Option<String>,
    /// Chunks of this document.
    #[arg(long)]
    document: Option<String>,
    /// Chunks with these ids or global ids, one a line; `-` is standard input. Needs --dataset.
    #[arg(long, value_name = "FILE", requires = "dataset")]
    ids: Option<PathBuf>,
    /// Chunks with this value in their metadata; may be repeated.
    #[arg(long = "where", id = "conditions", value_name = "KEY=VALUE", value_parser = condition)]
    conditions: Vec<(String, String)>,
    /// Deletes without asking.
    #[arg(long, short = 'y')]
    yes: bool,
}

#[derive(Debug, thiserror::Error)]
enum DeleteError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("{} cannot be read: {error}; expected a text file with one id a line", file.display())]
    Ids { file: PathBuf, error: std::io::Error },
    #[error("{} has no id in it; expected one a line", file.display())]
    NoIds { file: PathBuf },
    #[error(
        "the number of chunks changed {CHANGES} times between the question and the deletion; stop what sends them, and \
         run it again"
    )]
    AlwaysChanging,
    #[error("you said no: nothing more was deleted")]
    Declined,
}

/// What is selected at one moment.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
struct SelectedCount {
    count: u64,
    letters: u64,
}

/// The answer to a deletion.
#[derive(Debug, Deserialize)]
struct DeletionAnswer {
    deleted: u64,
    letters: u64,
    remaining: u64,
    on_disk: String,
}

enum DeletionReply {
    Deleted(DeletionAnswer),
    /// Nothing was deleted, because it is not confirmed, or the number is another one.
    Unconfirmed(SelectedCount),
}

#[derive(Debug, Default)]
struct DeletionTally {
    deleted: u64,
    letters: u64,
    on_disk: String,
}

/// Asks, and deletes.
pub fn run(delete: Delete) -> CommandResult {
    block_on(async {
        let filters = delete.filters()?;
        let requests = Requests { client: client()?, delete };
        let mut counts = Vec::with_capacity(filters.len());
        for filter in &filters {
            counts.push(requests.count(filter).await?);
        }
        let all = counts.iter().fold(SelectedCount::default(), |all, one| SelectedCount {
            count: all.count + one.count,
            letters: all.letters + one.letters,
        });
        let (what, described) = (amount(all), &requests.delete);
        if all.count + all.letters == 0 {
            print_line(format!("nothing is stored of {described}"));
            return Ok(ExitCode::SUCCESS);
        }
        if !described.yes {
            if !described.can_ask() {
                print_error_line(format!(
                    "lnsp: {what} of {described} would be deleted, and there is no terminal to ask on; add --yes to \
                     delete them"
                ));
                return Ok(ExitCode::from(NOT_ASKED));
            }
            ask(&format!("Delete {what} of {described}?"))?;
        }
        let mut tally = DeletionTally::default();
        for (filter, count) in filters.iter().zip(counts) {
            if let Err(error) = requests.delete_all(filter, count.count, &mut tally).await {
                if tally.deleted > 0 {
                    print_error_line(format!("{} were deleted before that", chunks(tally.deleted)));
                }
                return Err(error.into());
            }
        }
        print_line(format!(
            "deleted: {}",
            amount(SelectedCount { count: tally.deleted, letters: tally.letters })
        ));
        if !tally.on_disk.is_empty() {
            print_line(tally.on_disk);
        }
        Ok(ExitCode::SUCCESS)
    })?
}

impl Delete {
    /// The filters of the requests: several only for many ids.
    fn filters(&self) -> Result<Vec<Value>, DeleteError> {
        let mut filter = json!({});
        let names = [("dataset_source", &self.dataset), ("document_id", &self.document)];
        for (name, value) in names.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
            filter[name] = json!(value);
        }
        if !self.conditions.is_empty() {
            filter["metadata"] =
                self.conditions.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        }
        let Some(file) = &self.ids else { return Ok(vec![filter]) };
        let ids = read_ids(file)?;
        let with = |ids: &[String]| {
            let mut filter = filter.clone();
            filter["ids"] = json!(ids);
            filter
        };
        Ok(ids.chunks(IDS).map(with).collect())
    }

    /// Whether a question would be seen and could be answered.
    fn can_ask(&self) -> bool {
        let taken = self.ids.as_deref() == Some(Path::new("-"));
        !taken && std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
    }
}

/// What is selected, in words.
impl fmt::Display for Delete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dataset = self.dataset.iter().map(|name| format!("dataset \"{name}\""));
        let document = self.document.iter().map(|name| format!("document \"{name}\""));
        let ids = self.ids.iter().map(|file| format!("the ids in {}", file.display()));
        let conditions = self.conditions.iter().map(|(key, value)| format!("{key}={value}"));
        let parts: Vec<String> = dataset.chain(document).chain(ids).chain(conditions).collect();
        f.write_str(&parts.join(", "))
    }
}

struct Requests {
    client: Client,
    delete: Delete,
}

impl Requests {
    async fn count(&self, filter: &Value) -> Result<SelectedCount, DeleteError> {
        match self.send(filter, None).await? {
            DeletionReply::Unconfirmed(count) => Ok(count),
            DeletionReply::Deleted(_) => {
                let message = "it deleted without a confirmation".to_owned();
                Err(RequestError::Refused { status: 200, message }.into())
            }
        }
    }

    /// Deletes until nothing is left. Chunks that come or go meanwhile change the number: fewer are deleted without a
    /// question, more only with `--yes` or another answer.
    async fn delete_all(
        &self,
        filter: &Value,
        mut count: u64,
        tally: &mut DeletionTally,
    ) -> Result<(), DeleteError> {
        let mut changes = 0;
        loop {
            match self.send(filter, Some(count)).await? {
                DeletionReply::Deleted(answer) => {
                    tally.deleted += answer.deleted;
                    tally.letters += answer.letters;
                    tally.on_disk = answer.on_disk;
                    if answer.remaining == 0 {
                        return Ok(());
                    }
                    (count, changes) = (answer.remaining, 0);
                    print_error_line(format!(
                        "{} deleted, {} to go",
                        chunks(tally.deleted),
                        thousands(count)
                    ));
                }
                DeletionReply::Unconfirmed(_) if changes == CHANGES => {
                    return Err(DeleteError::AlwaysChanging);
                }
                DeletionReply::Unconfirmed(now) => {
                    changes += 1;
                    if now.count > count && !self.delete.yes {
                        ask(&format!("It is {} now. Delete them?", amount(now)))?;
                    }
                    count = now.count;
                }
            }
        }
    }

    /// Asks until the service has time.
    async fn send(&self, filter: &Value, confirm: Option<u64>) -> Result<DeletionReply, DeleteError> {
        let url = self.delete.url.at("/chunks");
        let mut body = json!({ "filter": filter });
        if let Some(count) = confirm {
            body["confirm"] = json!(count);
        }
        let body = body.to_string();
        let request =
            || self.client.delete(&url).header("Content-Type", "application/json").body(body.clone());
        let (status, mut answer) = status_and_answer(&self.delete.url, request).await?;
        if status.is_success() {
            return Ok(DeletionReply::Deleted(read(answer)?));
        }
        if answer["error"]["code"] == "confirmation_needed" {
            return Ok(DeletionReply::Unconfirmed(read(answer["error"].take())?));
        }
        Err(RequestError::refused(status, &answer).into())
    }
}

/// Asks on the terminal; everything but a yes is a no.
fn ask(question: &str) -> Result<(), DeleteError> {
    print_error_line(format!("{question} [y/N]"));
    let mut answer = String::new();
    // What cannot be read is no yes.
    let answered = std::io::stdin().read_line(&mut answer).is_ok();
    let yes = ["y", "yes"].iter().any(|yes| answer.trim().eq_ignore_ascii_case(yes));
    if answered && yes { Ok(()) } else { Err(DeleteError::Declined) }
}

/// The ids of a file, each once, in its order.
fn read_ids(file: &Path) -> Result<Vec<String>, DeleteError> {
    let text = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    let text = text.map_err(|error| DeleteError::Ids { file: file.to_owned(), error })?;
    let mut seen = HashSet::new();
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
    let ids: Vec<String> =
        lines.filter(|id| !id.is_empty() && seen.insert(*id)).map(ToOwned::to_owned).collect();
    if ids.is_empty() { Err(DeleteError::NoIds { file: file.to_owned() }) } else { Ok(ids) }
}

fn condition(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("--where: expected KEY=VALUE, received '{text}'")),
    }
}

fn amount(selected: SelectedCount) -> String {
    let letters = match selected.letters {
        0 => String::new(),
        1 => " and 1 dead letter".to_owned(),
        more => format!(" and {} dead letters", thousands(more)),
    };
    format!("{}{letters}", chunks(selected.count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_easy_to_read() {
        assert_eq!(amount(SelectedCount { count: 1, letters: 0 }), "1 chunk");
        assert_eq!(amount(SelectedCount { count: 1_234, letters: 1 }), "1,234 chunks and 1 dead letter");
        assert_eq!(amount(SelectedCount { count: 0, letters: 2 }), "0 chunks and 2 dead letters");
    }

    #[test]
    fn a_condition_has_a_key_and_its_value_may_have_anything() {
        assert_eq!(condition("k=a=b"), Ok(("k".into(), "a=b".into())));
        assert_eq!(condition("k="), Ok(("k".into(), String::new())));
        assert!(condition("=v").is_err() && condition("k").is_err());
    }
}
