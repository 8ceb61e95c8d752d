//! `lnsp retag`: has the service ask its language model again for the codes of stored chunks, request by request.

use super::CommandResult;
use super::amounts::chunks;
use super::backfill::{self, BackfillRequest};
use super::service_url::ServiceUrl;
use crate::output::print_line;
use clap::Args;
use serde_json::json;

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

/// Asks about all of them; exit code 1 if some keep their codes.
pub fn run(retag: &RetagCommand) -> CommandResult {
    let RetagCommand { url, sources, dataset, fresh } = retag;
    let fields = json!({ "sources": sources, "fresh": fresh });
    let asked = BackfillRequest { url, path: "/retag", dataset: dataset.as_deref(), fields };
    backfill::run(&asked, |tally| {
        let model = tally.model.as_deref().unwrap_or_default();
        print_line(format!("{} now have codes from {model}", chunks(tally.updated)));
        tally.print_others("keep their codes, because there was no answer");
    })
}
