//! A language model server that is not one: it speaks Ollama's HTTP API over TCP, takes its time, answers from the
//! text within the schema, counts what it was asked, and fails on request.
//!
//! It is what the benchmarks and the tests call when they need a model whose speed is known. It imports nothing of
//! the house and knows nothing of chunks or codes: a figure measured with it is measured through the same sockets
//! as one with a real server. `lnsp simulate-llm` runs it as a program; [`SimulatedLlm`] as a part of this process.

mod answer;
mod ask;
mod desk;
mod fault;
mod latency;
mod server;
mod wire;

pub use desk::Counts;
pub use fault::{Fault, UnknownFault};
pub use latency::{InvalidLatency, Latency};

use actix_web::dev::ServerHandle;
use desk::Desk;
use fault::Plan;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// How it is and behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Address to listen on.
    pub host: String,
    /// Port to listen on; 0 takes a free one.
    pub port: u16,
    /// Calls that are worked on at the same time (`OLLAMA_NUM_PARALLEL`); the others wait in line.
    pub slots: usize,
    /// How long a call holds its slot.
    pub latency: Latency,
    /// For the latencies that are drawn.
    pub seed: u64,
    /// The models that are there.
    pub models: Vec<String>,
    /// What goes wrong, and with every how manyth call for an answer.
    pub fault: Option<(Fault, u64)>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            host: "127.0.0.1".to_owned(),
            port: 0,
            slots: 10,
            latency: Latency::default(),
            seed: 0,
            models: vec!["llama3.1:8b".to_owned()],
            fault: None,
        }
    }
}

/// A running one. It ends when it is dropped.
pub struct SimulatedLlm {
    desk: Arc<Desk>,
    url: String,
    server: ServerHandle,
    thread: Option<JoinHandle<()>>,
}

impl SimulatedLlm {
    /// Starts one on threads and in a system of its own, so it can be called from anywhere; connections are accepted
    /// when this returns.
    ///
    /// # Errors
    /// The operating system's, for the thread or the address.
    pub fn start(options: Options) -> io::Result<SimulatedLlm> {
        let desk = Arc::new(Desk::new(&options));
        let (tell, told) = sync_channel(1);
        let shared = desk.clone();
        let thread = std::thread::Builder::new()
            .name("simulated-llm".to_owned())
            .spawn(move || run(&options, &shared, &tell))?;
        let ended = |_| io::Error::other("the simulated LLM ended as soon as it began");
        let (server, address) = told.recv().map_err(ended)??;
        Ok(SimulatedLlm { desk, url: format!("http://{address}"), server, thread: Some(thread) })
    }

    /// `http://address:port`
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The numbers now.
    pub fn counts(&self) -> Counts {
        self.desk.counts()
    }

    /// From now on every so manyth call for an answer fails in this way; `None` ends it.
    pub fn set_fault(&self, fault: Option<(Fault, u64)>) {
        self.desk.set_fault(fault.map(|(fault, every)| Plan::new(fault, every)));
    }

    /// How long calls hold a slot that they get from now on.
    pub fn set_latency(&self, latency: Latency) {
        self.desk.set_latency(latency);
    }

    /// Closes all connections, answered or not, and waits for the end.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for SimulatedLlm {
    fn drop(&mut self) {
        // The order is given by the call; what it returns only waits.
        drop(self.server.stop(false));
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed, and there is nothing left to end.
            drop(thread.join());
        }
    }
}

/// The way to a server that runs, or why it does not.
type Started = io::Result<(ServerHandle, SocketAddr)>;

fn run(options: &Options, desk: &Arc<Desk>, tell: &SyncSender<Started>) {
    let system = actix_web::rt::System::new();
    let served = system.block_on(async {
        match server::listen(options, desk) {
            Ok((server, address)) => {
                // Nobody reads when the one who started it is gone; then the handle is gone too.
                drop(tell.send(Ok((server.handle(), address))));
                server.await
            }
            Err(error) => {
                drop(tell.send(Err(error)));
                Ok(())
            }
        }
    });
    if let Err(error) = served {
        tracing::error!(%error, "the simulated LLM has failed");
    }
}
