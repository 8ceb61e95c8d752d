//! The options of a simulated server.

use super::fault::Fault;
use super::latency::Latency;

/// Where the simulated server listens and how it behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// The address or host name to listen on.
    pub host: String,
    /// The port to listen on; 0 takes a free one.
    pub port: u16,
    /// The number of calls processed at the same time (`OLLAMA_NUM_PARALLEL`); further calls wait in a queue.
    pub slots: usize,
    /// The distribution of the time for which a call holds its slot.
    pub latency: Latency,
    /// The seed of the random latencies.
    pub seed: u64,
    /// The names of the models that the server has; a name without a tag means `latest`.
    pub models: Vec<String>,
    /// A fault, and the `n` of "on every n-th generate call"; `None` for no faults.
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
