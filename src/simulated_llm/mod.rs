//! A simulated language model server. It implements Ollama's HTTP API and the OpenAI-compatible one over TCP, with
//! configurable latency, answers that follow any schema and depend on the prompt, counters, and injected faults.
//!
//! Benchmarks and tests use it when they need a model of known speed. It imports no other module of the service and
//! knows nothing of chunks or codes, so a measurement goes through the same sockets as with a real server.
//! `lnsp simulate-llm` runs it as a program, [`SimulatedLlm`] in this process.

mod ask;
mod call;
mod completion;
mod fault;
mod fault_schedule;
mod instructions;
mod latency;
mod ollama;
mod openai;
mod options;
mod schema;
mod server;
mod state;

pub use fault::{Fault, UnknownFault};
pub use fault_schedule::{FaultShare, InvalidFaultShare};
pub use latency::{InvalidLatency, Latency};
pub use options::{Options, ServerApi, SimulatedKey, ThinkingModel};
pub use state::CallCounts;

use actix_web::dev::ServerHandle;
use fault_schedule::FaultSchedule;
use state::SimulatedState;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// A running simulated server; it stops when dropped.
pub struct SimulatedLlm {
    state: Arc<SimulatedState>,
    url: String,
    server: ServerHandle,
    thread: Option<JoinHandle<()>>,
}

impl SimulatedLlm {
    /// Starts a server on its own threads and actix system, so no runtime is needed. When this returns, connections are
    /// accepted.
    ///
    /// # Errors
    /// The error of the operating system if the thread cannot start or the address cannot be bound.
    pub fn start(options: Options) -> io::Result<SimulatedLlm> {
        let state = Arc::new(SimulatedState::new(&options));
        let (started, result) = sync_channel(1);
        let shared = state.clone();
        let thread = std::thread::Builder::new()
            .name("simulated-llm".to_owned())
            .spawn(move || run(&options, &shared, &started))?;
        let ended = |_| io::Error::other("the simulated LLM ended as soon as it began");
        let (server, address) = result.recv().map_err(ended)??;
        Ok(SimulatedLlm { state, url: format!("http://{address}"), server, thread: Some(thread) })
    }

    /// The base address, `http://address:port`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The current counters.
    pub fn counts(&self) -> CallCounts {
        self.state.counts()
    }

    /// From now on every n-th generate call has this fault; `None` turns faults off.
    pub fn set_fault(&self, fault: Option<(Fault, u64)>) {
        self.state.set_fault(match fault {
            Some((fault, every)) => FaultSchedule::every_nth(fault, every),
            None => FaultSchedule::Never,
        });
    }

    /// From now on each call has one of these faults with its share as the probability, drawn from the seed of the
    /// options; replaces what [`SimulatedLlm::set_fault`] has set.
    pub fn set_fault_shares(&self, shares: &[FaultShare]) {
        self.state.set_fault_shares(shares);
    }

    /// The body of the latest call for an answer, through either API; `null` before the first.
    pub fn last_request(&self) -> serde_json::Value {
        serde_json::from_slice(&self.state.last_request()).unwrap_or_default()
    }

    /// Sets the latency of calls that get their slot from now on.
    pub fn set_latency(&self, latency: Latency) {
        self.state.set_latency(latency);
    }

    /// Closes all connections, including those with calls in progress, and waits for the server to stop.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for SimulatedLlm {
    fn drop(&mut self) {
        // The call requests the stop; the returned future only waits.
        drop(self.server.stop(false));
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed already.
            drop(thread.join());
        }
    }
}

/// The handle and address of the started server, or why it did not start.
type StartResult = io::Result<(ServerHandle, SocketAddr)>;

fn run(options: &Options, state: &Arc<SimulatedState>, started: &SyncSender<StartResult>) {
    let system = actix_web::rt::System::new();
    let served = system.block_on(async {
        match server::listen(options, state) {
            Ok((server, address)) => {
                // Sending fails only if the receiver has been dropped; then the handle is dropped too.
                drop(started.send(Ok((server.handle(), address))));
                server.await
            }
            Err(error) => {
                drop(started.send(Err(error)));
                Ok(())
            }
        }
    });
    if let Err(error) = served {
        tracing::error!(%error, "the simulated LLM has failed");
    }
}
