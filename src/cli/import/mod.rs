//! `lnsp import --from DSN`: sends the rows of a database of the old service to a running one. The rows are read in one
//! snapshot, and how they are sent until their answers are known is the business of [`crate::cli::upload`].

mod old_row;
mod refused_rows;
mod row_source;

use super::service_url::ServiceUrl;
use super::upload::{RetryLimits, RetrySpan, Target, Upload, UploadOptions};
use super::{CommandResult, block_on, client, sentence};
use crate::output::{print_error_line, print_line};
use crate::store::{Dsn, OldTables, StoreError};
use clap::Args;
use old_row::RowOptions;
use refused_rows::RefusedRows;
use row_source::RowSource;
use std::process::ExitCode;
use std::sync::Arc;

/// Some rows have no answer for good: this command gave up.
const GAVE_UP: u8 = 2;

/// The arguments of `lnsp import`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 every row is stored; 1 some failed for good, and no other is left; 2 gave up, and a sentence says what to \
do. The same command again sends what is left: rows that are stored are answered as duplicates.

The id of a chunk is the cpe_id of its row. The vectors are made anew by the model of the service.")]
pub struct Import {
    /// The database of the old service, as DATABASE_URL takes it; PGPASSWORD and the other variables of libpq say what
    /// it leaves out. It is only read.
    #[arg(long, value_name = "DSN", value_parser = old_address)]
    from: Dsn,
    /// Where the service is.
    #[arg(long, env = "LNSP_URL", default_value = "http://127.0.0.1:8004")]
    url: ServiceUrl,
    /// The dataset of all chunks. Without it each keeps that of its row.
    #[arg(long)]
    dataset: Option<String>,
    /// What happens to a row whose id is stored with other content: it is refused, the stored chunk is kept, or it takes
    /// the place of the stored chunk.
    #[arg(long, default_value = "error", value_parser = ["error", "keep", "replace"])]
    on_conflict: String,
    /// Takes the codes 0.0.0 as they are. The old service wrote them when it had no answer, so without this flag the
    /// service gives such rows their codes.
    #[arg(long)]
    zero_codes: bool,
    /// How long to go on without any chunk being settled while the service is away, full, or failing: seconds, or with
    /// a unit like 90s, 10m, 2h. 0 tries everything once.
    #[arg(long, default_value = "10m")]
    patience: RetrySpan,
    /// How often a chunk that the service does not take now is sent.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    tries: u32,
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("the address of the old database is not usable: {0}; check --from")]
struct InvalidOldAddress(String);

fn old_address(text: &str) -> Result<Dsn, InvalidOldAddress> {
    text.parse().map_err(|error| match error {
        StoreError::Dsn { problem } => InvalidOldAddress(problem),
        other => InvalidOldAddress(other.to_string()),
    })
}

/// Sends all rows.
pub fn run(import: Import) -> CommandResult {
    block_on(async {
        let tables = match OldTables::open(&import.from).await {
            Ok(tables) => tables,
            Err(error) => {
                print_error_line(format!("lnsp: {}", sentence(&error)));
                return Ok(ExitCode::from(GAVE_UP));
            }
        };
        print_error_line(format!("cpe_entry has {} rows ({})", tables.rows(), import.from));
        if tables.has_vectors() {
            print_error_line(
                "the old vectors are not taken: they are of other models, which cannot be compared with that of the \
                 service; it makes each vector anew",
            );
        }
        let options = RowOptions { dataset: import.dataset, zero_codes: import.zero_codes };
        let source = Arc::new(RowSource::new(tables, options));
        let parameters = vec![("on_conflict", import.on_conflict)];
        let target = Target { client: client()?, url: import.url.to_string(), parameters };
        let limits = RetryLimits { patience: import.patience.0, tries: import.tries };
        let options = UploadOptions { limits, skips_empty: false };
        let mut refused = RefusedRows::default();
        let report = Upload::new(&target, source.clone(), options, Some(&mut refused)).run().await;
        source.tally().sentences().iter().for_each(print_error_line);
        report.refusals.print();
        refused.sentences().iter().for_each(print_error_line);
        print_line(format!("{} rows read: {report}", source.tally().rows));
        Ok(match (report.result, report.tally.failed) {
            (Err(error), _) => {
                print_error_line(format!("lnsp: {}", sentence(&error)));
                ExitCode::from(GAVE_UP)
            }
            (Ok(()), 0) => ExitCode::SUCCESS,
            (Ok(()), _) => ExitCode::FAILURE,
        })
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_none_is_refused_without_being_repeated() {
        assert_eq!(
            old_address("host=old dbname=lnsp").unwrap().to_string().split(' ').next(),
            Some("host=old")
        );
        let error = old_address("postgres://u:s3cret@host:port/lnsp").unwrap_err().to_string();
        assert!(error.contains("--from") && !error.contains("DATABASE_URL"), "{error}");
        assert!(!error.contains("s3cret"), "{error}");
    }
}
