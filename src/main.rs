//! The `lnsp` program: what can be asked of it, and nothing else.

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use lnsp_ingest::config::{Config, without_empty_variables};
use lnsp_ingest::encoder::bound_kernel_caches;
use lnsp_ingest::output::{escape, print_error_block, print_error_line};
use lnsp_ingest::{cli, threads};
use std::error::Error;
use std::process::ExitCode;

/// Takes text chunks over HTTP and makes them durable, classified and searchable.
#[derive(Parser)]
#[command(name = "lnsp", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the service until it is told to stop.
    Serve(Box<Config>),
    /// Looks whether the service would run here, measures the devices, and suggests settings.
    Doctor(Box<cli::doctor::Doctor>),
    /// Sends files of chunks (NDJSON, JSON, CSV, Parquet, folders), and shows the progress.
    Ingest(cli::ingest::Ingest),
    /// Searches, and prints the results.
    Search(cli::search::Search),
    /// Lists the names of domains, tasks and modifiers with their codes.
    Labels(cli::labels::LabelList),
    /// Writes what is stored as NDJSON, Parquet or NPZ.
    Export(cli::export::Export),
    /// Deletes chunks, after a question.
    Delete(cli::delete::Delete),
    /// Sends the rows of a database of the old service.
    Import(cli::import::Import),
    /// Sends chunks again on which the service has failed, from its dead letters.
    Replay(cli::replay::Replay),
    /// Asks the language model again for the codes of stored chunks.
    Retag(cli::retag::RetagCommand),
    /// Compares the search indexes of a service with its database.
    Verify(cli::verify::VerifyCommand),
    /// Gives stored chunks CPESH parts, and their questions vectors, by the language model of the service.
    Cpesh(cli::cpesh::CpeshCommand),
    /// Writes everything that is stored into one file, while the service runs.
    Backup(cli::backup::BackupCommand),
    /// Restores such a file.
    Restore(cli::backup::RestoreCommand),
    /// Gives stored chunks vectors of another model, beside those in use.
    Reembed(cli::reembed::ReembedCommand),
    /// Opens psql on the database of the service.
    Psql(cli::psql::Psql),
    /// Fetches embedding models, lists them, and puts one to use.
    Model(cli::model::Model),
    /// Measures ten chunks one after the other and in parallel, and prints a report.
    Bench(cli::bench::Bench),
    /// Plays a language model server with a set speed, for benchmarks and tries.
    SimulateLlm(cli::simulate_llm::SimulateLlm),
}

fn main() -> ExitCode {
    bound_kernel_caches();
    threads::report_panics(|line| print_error_line(line));
    let command = match grammar().try_get_matches().and_then(|m| Arguments::from_arg_matches(&m)) {
        Ok(arguments) => arguments.command,
        Err(error) => return explain(&error),
    };
    let result = match command {
        Command::Serve(config) => cli::serve::run(*config),
        Command::Doctor(doctor) => cli::doctor::run(*doctor),
        Command::Ingest(ingest) => cli::ingest::run(ingest),
        Command::Search(search) => cli::search::run(search),
        Command::Labels(labels) => cli::labels::run(labels),
        Command::Export(export) => cli::export::run(export),
        Command::Delete(delete) => cli::delete::run(delete),
        Command::Import(import) => cli::import::run(import),
        Command::Replay(replay) => cli::replay::run(replay),
        Command::Retag(retag) => cli::retag::run(&retag),
        Command::Verify(verify) => cli::verify::run(&verify),
        Command::Cpesh(cpesh) => cli::cpesh::run(&cpesh),
        Command::Backup(backup) => cli::backup::back_up(&backup),
        Command::Restore(restore) => cli::backup::restore(&restore),
        Command::Reembed(reembed) => cli::reembed::run(&reembed),
        Command::Psql(psql) => cli::psql::run(psql),
        Command::Model(model) => cli::model::run(model),
        Command::Bench(bench) => cli::bench::run(bench),
        Command::SimulateLlm(flags) => cli::simulate_llm::run(flags),
    };
    result.unwrap_or_else(|error| {
        print_error_line(format!("lnsp: {}", cli::sentence(error.as_ref())));
        ExitCode::FAILURE
    })
}

/// What can be asked.
fn grammar() -> clap::Command {
    without_empty_variables(Arguments::command())
}

/// A value that is not allowed is explained by its own sentence; everything else by clap.
fn explain(error: &clap::Error) -> ExitCode {
    if let (clap::error::ErrorKind::ValueValidation, Some(sentence)) = (error.kind(), error.source()) {
        print_error_line(format!("lnsp: {sentence}"));
        return ExitCode::from(2);
    }
    if error.use_stderr() {
        // It quotes arguments, which can be names of files, and their line breaks are not ours.
        let escaped = std::env::args_os().map(|argument| escape(&argument.to_string_lossy()));
        let again = grammar().try_get_matches_from(escaped).err();
        print_error_block(again.as_ref().unwrap_or(error).render().to_string().trim_end_matches('\n'));
    } else {
        // Help and version are "errors" here too; printing them can only fail when nobody reads.
        drop(error.print());
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}
