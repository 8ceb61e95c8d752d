//! `lnsp cpesh`: has the service give stored chunks CPESH parts and vectors of their questions, request by request.

use super::CommandResult;
use super::amounts::chunks;
use super::backfill::{self, BackfillRequest};
use super::service_url::ServiceUrl;
use crate::output::print_line;
use clap::Args;
use serde_json::json;

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

/// Asks about all of them; exit code 1 if some have nothing.
pub fn run(cpesh: &CpeshCommand) -> CommandResult {
    let CpeshCommand { url, dataset, retry_failed, questions_only } = cpesh;
    let fields = json!({ "retry_failed": retry_failed, "questions_only": questions_only });
    let asked = BackfillRequest { url, path: "/cpesh", dataset: dataset.as_deref(), fields };
    backfill::run(&asked, |tally| {
        let model = tally.model.as_deref().filter(|_| !questions_only);
        if let Some(model) = model {
            print_line(format!("{} now have CPESH parts from {model}", chunks(tally.updated)));
        }
        if tally.embedded > 0 || model.is_none() {
            print_line(format!("{} now have the vector of their question", chunks(tally.embedded)));
        }
        tally.print_others("have none, because nothing was usable");
    })
}
