//! `lnsp bench`: ten sentences through two services side by side, one that takes one chunk at a time and one that
//! takes many, with a language model as the source of codes.
//!
//! Everything measured is a process of its own, reached over TCP: both services, each with its own PostgreSQL, and
//! the simulated language model when it is asked for. A report is printed only when the model was called once for
//! each chunk; a figure from cached or local codes would say nothing.
//!
//! With `--agreement` it compares the forms of answers instead ([`agreement`]).

mod agreement;
mod child;
mod client_pool;
mod llm;
mod numbers;
mod report;
mod round;
mod service;
mod verdict;

pub use llm::{BenchLlm, InvalidLlm};
pub use round::SENTENCES;

use super::{CommandResult, block_on, client, signalled};
use crate::output::print_block;
use agreement::{Agreement, AgreementError};
use child::{ChildError, say};
use clap::Args;
use client_pool::ClientPool;
use report::{BenchReport, Measured};
use round::Witness;
use service::{Mode, RoundError, Service};
use std::path::PathBuf;
use std::process::ExitCode;

/// What a shell gives when a command was interrupted.
const INTERRUPTED: u8 = 130;

/// The arguments of `lnsp bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// Who gives the codes. `configured` is the one of the environment (LNSP_LLM_ENDPOINT, LNSP_TMD_LLM_MODEL);
    /// `simulated:887ms` starts one that takes this time a call (also `500ms..1500ms`, `887ms~0.2`), with a slot for
    /// each worker or as many as `simulated:887ms,4` says; `simulated:http://..` is one that runs already.
    #[arg(long, default_value = "configured")]
    llm: BenchLlm,
    /// How often both services get the ten sentences.
    #[arg(long, default_value = "3", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Calls to the language model at once, in the parallel service.
    #[arg(long, default_value = "10", value_parser = clap::value_parser!(u32).range(1..=1024))]
    workers: u32,
    /// Measures the forms of answers (LNSP_TMD_ANSWER) instead: labels this many chunks of FILE by name and by number,
    /// and by the local classifier; prints how often they agree, and what calls cost.
    #[arg(long, value_name = "N", requires = "file", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    agreement: Option<u32>,
    /// The file with the chunks, of any form that `lnsp ingest` takes.
    #[arg(requires = "agreement")]
    file: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
enum BenchError {
    #[error(transparent)]
    Child(#[from] ChildError),
    #[error(transparent)]
    Round(#[from] RoundError),
    #[error("the HTTP client could not be made: {0}")]
    Client(#[from] reqwest::Error),
    #[error(transparent)]
    Agreement(#[from] AgreementError),
}

/// Measures and prints; an error, or a signal, ends everything that was started.
pub fn run(bench: Bench) -> CommandResult {
    block_on(async {
        let interrupted = interrupted();
        tokio::select! {
            measured = report(&bench) => {
                print_block(measured?.trim_end_matches('\n'));
                Ok(ExitCode::SUCCESS)
            }
            () = interrupted => Ok(ExitCode::from(INTERRUPTED)),
        }
    })?
}

/// Listens from this call on; what it gives ends with the first signal.
fn interrupted() -> impl Future<Output = ()> {
    let signalled = signalled();
    async move {
        signalled.await;
        say("interrupted: what was started is being ended; there is no report");
    }
}

async fn report(bench: &Bench) -> Result<String, BenchError> {
    match (bench.agreement, &bench.file) {
        (Some(count), Some(file)) => {
            let agreement = Agreement { count: count as usize, file, workers: bench.workers as usize };
            let mut crew = ClientPool::default();
            let llm = bench.llm.clone().with_slots(agreement.workers);
            let simulated = simulated(&llm, &mut crew, agreement.workers).await?;
            Ok(agreement::measure(&agreement, &llm, simulated.as_deref()).await?.to_string())
        }
        _ => Ok(measure(bench).await?.to_string()),
    }
}

/// The address of the simulated language model, started if it is to be.
async fn simulated(
    llm: &BenchLlm,
    crew: &mut ClientPool,
    workers: usize,
) -> Result<Option<String>, BenchError> {
    Ok(match llm {
        BenchLlm::Simulated { latency, slots } => {
            Some(crew.simulate_llm(*latency, slots.unwrap_or(workers)).await?)
        }
        BenchLlm::Running(url) => Some(url.clone()),
        BenchLlm::Configured => None,
    })
}

async fn measure(bench: &Bench) -> Result<BenchReport, BenchError> {
    let workers = bench.workers as usize;
    let llm = bench.llm.clone().with_slots(workers);
    let mut crew = ClientPool::default();
    let simulated = simulated(&llm, &mut crew, workers).await?;
    say(&format!("language model: {llm}"));
    let client = client()?;
    // One after the other: each measures the machine while it starts.
    let mut services = Vec::new();
    for mode in Mode::BOTH {
        say(&format!("starting the {mode} service"));
        let url = crew.serve(mode, workers, simulated.as_deref()).await?;
        services.push(Service::new(mode, url, client.clone()));
    }
    say("both services are ready");
    let witness = Witness::new(client, simulated);
    let run: String = uuid::Uuid::new_v4().simple().to_string().chars().take(8).collect();
    for service in &services {
        service.warm_up(&run).await?;
    }
    let mut measured = Vec::new();
    for round in 1..=bench.rounds {
        for service in &services {
            let mode = service.mode();
            let result = round::run(service, &witness, &run, round).await;
            // A service that has died has said why.
            let result =
                result.map_err(|error| crew.obituary(mode).map_or(error.into(), BenchError::Child))?;
            let seconds = result.client.as_secs_f64();
            say(&format!("round {round} of {}, {mode}: {seconds:.2} s", bench.rounds));
            measured.push(Measured { mode, round, result });
        }
    }
    Ok(BenchReport { llm, workers, measured })
}
