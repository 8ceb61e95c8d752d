//! `lnsp verify`: has the service compare its search indexes with PostgreSQL.

use super::service_request::{answer_of, read};
use super::service_url::ServiceUrl;
use super::{CommandResult, block_on, client};
use crate::output::print_line;
use clap::Args;
use serde::Deserialize;
use serde_json::json;
use std::process::ExitCode;

/// The arguments of `lnsp verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
The index follows PostgreSQL by itself; this shows that it does. Both sides hash their rows in blocks, and blocks that \
differ are compared row by row. The service does the same every hour (LNSP_INDEX_VERIFY_S) and mends what differs.

Exit codes: 0 equal, or mended; 1 rows differ; 2 wrong arguments.")]
pub struct VerifyCommand {
    /// Where the service is.
    #[arg(long, env = "LNSP_URL", default_value = "http://127.0.0.1:8004")]
    url: ServiceUrl,
    /// Mends the rows that differ, and no others.
    #[arg(long)]
    repair: bool,
}

#[derive(Deserialize)]
struct ComparedRows {
    rows: u64,
    missing: u64,
    extra: u64,
    stale: u64,
    damaged: u64,
}

#[derive(Deserialize)]
struct VerifyAnswer {
    concept: ComparedRows,
    question: ComparedRows,
}

/// Compares; exit code 1 if rows differ and are not mended.
pub fn run(verify: &VerifyCommand) -> CommandResult {
    let VerifyCommand { url, repair } = verify;
    let client = client()?;
    let request = || client.post(url.at("/verify")).json(&json!({ "repair": repair }));
    let answer: VerifyAnswer = read(block_on(answer_of(url, request))??)?;
    let mut differences = 0;
    for (vectors, compared) in [("concept", answer.concept), ("question", answer.question)] {
        let ComparedRows { rows, missing, extra, stale, damaged } = compared;
        print_line(format!(
            "{vectors} vectors: {rows} rows, {missing} missing, {extra} extra, {stale} stale, {damaged} damaged"
        ));
        differences += missing + extra + stale + damaged;
    }
    print_line(match (differences, repair) {
        (0, _) => "The indexes equal the database.".to_owned(),
        (_, true) => format!("{differences} differences were mended."),
        (_, false) => format!("{differences} differences: mend them with lnsp verify --repair"),
    });
    Ok(if differences == 0 || *repair { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
