//! `lnsp simulate-llm`: a language model server whose speed and faults are set, for benchmarks and tries.

use super::{CommandResult, block_on, signalled};
use crate::output::print_line;
use crate::simulated_llm::{
    Fault, FaultShare, Latency, Options, ServerApi, SimulatedKey, SimulatedLlm, ThinkingModel,
};
use clap::Args;
use std::io::Read;
use std::process::ExitCode;
use tokio::sync::oneshot;

/// `lnsp simulate-llm`
#[derive(Debug, Args)]
pub struct SimulateLlm {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Calls that are worked on at the same time; the others wait in line.
    #[arg(long, default_value = "10", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    slots: u32,
    /// How long a call holds its slot: 887ms, 500ms..1500ms (uniform), or 887ms~0.2 (log-normal: median and sigma).
    #[arg(long, default_value = "887ms")]
    latency: Latency,
    /// For latencies and faults that are drawn: the same seed draws the same ones.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The models that are there.
    #[arg(long, value_delimiter = ',', default_value = "llama3.1:8b")]
    models: Vec<String>,
    /// Which server it simulates: Ollama with both of its APIs, or one that has the OpenAI-compatible API alone and
    /// enforces the form of answers in this way, or not.
    #[arg(long, value_enum, default_value_t = ServerApi::Ollama)]
    api: ServerApi,
    /// What the models do with thoughts.
    #[arg(long, value_enum, default_value_t = ThinkingModel::None)]
    thinking: ThinkingModel,
    /// Leaves out of /api/tags what a model can do, as Ollama before 0.30.
    #[arg(long)]
    old_tags: bool,
    /// The key that calls must bring (`Authorization: Bearer KEY`); without it they are answered 401.
    #[arg(long)]
    api_key: Option<SimulatedKey>,
    /// What goes wrong: hang, error-500, busy-503, limited-429, html, garbage, half-json, unfinished, cut, wrong-name,
    /// numbers, huge, reset, reset-mid-body, dribble, echo, thinking, think-tag, fence, in-prose, redirect or
    /// model-gone.
    #[arg(long, conflicts_with = "fault_shares")]
    fault: Option<Fault>,
    /// Shares of the calls that go wrong, such as hang=0.02,half-json=0.05.
    #[arg(long, value_delimiter = ',')]
    fault_shares: Vec<FaultShare>,
    /// The fault occurs on every n-th call for an answer.
    #[arg(long, default_value = "1", requires = "fault", value_parser = clap::value_parser!(u64).range(1..))]
    fault_every: u64,
    /// Ends when its standard input does, so that it does not outlive who started it.
    #[arg(long)]
    until_stdin_closes: bool,
}

/// Runs until a signal.
pub fn run(flags: SimulateLlm) -> CommandResult {
    let options = Options {
        host: flags.host,
        port: flags.port,
        slots: flags.slots as usize,
        latency: flags.latency,
        seed: flags.seed,
        models: flags.models,
        fault: flags.fault.map(|fault| (fault, flags.fault_every)),
        fault_shares: flags.fault_shares,
        api: flags.api,
        thinking: flags.thinking,
        capabilities_in_tags: !flags.old_tags,
        api_key: flags.api_key,
    };
    let address = format!("{}:{}", options.host, options.port);
    let llm = SimulatedLlm::start(options).map_err(|error| {
        format!("cannot listen on {address}: {error}; choose another address with --host and --port")
    })?;
    block_on(async {
        let signalled = signalled();
        print_line(format!("simulated LLM ready on {}", llm.url()));
        tokio::select! {
            () = signalled => {}
            () = stdin_closed(), if flags.until_stdin_closes => {}
        }
    })?;
    llm.stop();
    Ok(ExitCode::SUCCESS)
}

/// A thread reads, because a read of the standard input cannot be called off; it ends with the process.
async fn stdin_closed() {
    let (tell, told) = oneshot::channel::<()>();
    let reader = std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let (mut input, mut buffer) = (std::io::stdin().lock(), [0; 1024]);
        while input.read(&mut buffer).is_ok_and(|read| read > 0) {}
        drop(tell);
    });
    // Without the thread the input counts as closed: it must not outlive who started it.
    if reader.is_ok() {
        drop(told.await);
    }
}
