//! `lnsp export`: writes what is stored as NDJSON, Parquet or NPZ, from a service or straight from a database.
//!
//! The file appears under its name when it is complete, and not before.

mod arguments;
mod error;
mod output;
mod sink;
mod source;

pub use arguments::Export;

use super::{CommandResult, block_on};
use crate::export::choose;
use crate::output::{escape, print_error_line};
use crate::store::{Dsn, Selection};
use arguments::FileFormat;
use error::ExportFailure;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use output::Output;
use sink::Sink;
use source::{DatabaseSource, ServiceSource};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Instant;

/// The exit code of an export that did not come to its end.
const INCOMPLETE: u8 = 2;

/// Exports, and says how much. The exit code is 2 when the export did not come to its end.
pub fn run(export: Export) -> CommandResult {
    if export.format != FileFormat::Ndjson && export.output.as_os_str() == "-" {
        return Err("only NDJSON can be written to the standard output; name a file with --output".into());
    }
    if export.format == FileFormat::Ndjson && !export.columns.is_empty() {
        return Err("--columns is for Parquet and NPZ: a line of NDJSON is a whole chunk".into());
    }
    choose(&export.columns, export.with_vectors)?;
    match block_on(write(&export))? {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(failure) => {
            print_error_line(format!("lnsp: {}", super::sentence(&failure)));
            Ok(ExitCode::from(INCOMPLETE))
        }
    }
}

async fn write(export: &Export) -> Result<(), ExportFailure> {
    let started = Instant::now();
    let output = Output::create(&export.output, export.format != FileFormat::Ndjson)?;
    let progress = ExportProgress::new();
    let (sink, rows) = match &export.from {
        Some(dsn) => {
            let dsn: Dsn = dsn.parse()?;
            let selection = Selection {
                dataset: export.dataset.clone(),
                document: export.document.clone(),
                ..Selection::default()
            };
            let mut source = DatabaseSource::open(dsn, &selection, export).await?;
            let mut sink = Sink::new(export, output)?;
            while let Some(page) = source.next_page().await? {
                sink.rows(&page, source.line_options())?;
                progress.show(sink.count());
            }
            sink.set_vector_model(source.vector_model());
            source.close().await;
            let rows = sink.count();
            (sink, rows)
        }
        None => {
            let mut source = ServiceSource::open(export).await?;
            let mut sink = Sink::new(export, output)?;
            while let Some(lines) = source.next_lines().await? {
                sink.lines(&lines)?;
                progress.show(sink.count());
            }
            let rows = source.check_complete(sink.count())?;
            sink.set_vector_model(source.vector_model());
            (sink, rows)
        }
    };
    progress.finish();
    let bytes = sink.finish()?;
    let name = escape(&export.output.display().to_string());
    let (mib, took) = (bytes as f64 / (1024.0 * 1024.0), started.elapsed().as_secs_f64());
    print_error_line(format!("exported {rows} chunks to {name}: {mib:.1} MiB in {took:.1} s"));
    Ok(())
}

/// The rows so far, on a terminal.
struct ExportProgress(ProgressBar);

impl ExportProgress {
    fn new() -> ExportProgress {
        let hidden = !std::io::stderr().is_terminal();
        let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{pos} chunks, {per_sec}") {
            bar.set_style(style);
        }
        ExportProgress(bar)
    }

    fn show(&self, rows: u64) {
        self.0.set_position(rows);
    }

    fn finish(&self) {
        self.0.finish_and_clear();
    }
}
