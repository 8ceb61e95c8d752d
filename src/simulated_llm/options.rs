//! The options of a simulated server.

use super::fault::Fault;
use super::fault_schedule::FaultShare;
use super::latency::Latency;
use std::fmt;

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
    /// The seed of the random latencies and faults.
    pub seed: u64,
    /// The names of the models that the server has; for Ollama, a name without a tag means `latest`.
    pub models: Vec<String>,
    /// A fault, and the `n` of "on every n-th generate call"; `None` for no faults.
    pub fault: Option<(Fault, u64)>,
    /// Faults with their shares of the calls; they take effect if `fault` is `None`.
    pub fault_shares: Vec<FaultShare>,
    /// Which server it simulates.
    pub api: ServerApi,
    /// How its models think.
    pub thinking: ThinkingModel,
    /// Whether `/api/tags` says what a model can do, as Ollama does from 0.30 on; `/api/show` always does.
    pub capabilities_in_tags: bool,
    /// The key that calls must bring as `Authorization: Bearer KEY`; `None` if they need none.
    pub api_key: Option<SimulatedKey>,
}

/// The API that a server offers, and how it enforces the form of an answer.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ServerApi {
    /// Ollama: `/api/*` with a schema in `format`, and `/v1` with `json_schema` and `json_object`.
    #[default]
    Ollama,
    /// OpenAI, vLLM, llama-server: `/v1` alone, with `json_schema` and `json_object`.
    JsonSchema,
    /// llama-cpp-python: `/v1` alone; `json_object` with a schema, 500 for `json_schema`; any model name is accepted.
    JsonObject,
    /// `/v1` alone; a `response_format` is ignored, and the answer follows the prompt only.
    Text,
    /// `/v1` alone; a `response_format` is refused with 400.
    TextStrict,
}

/// What models of the server do with thoughts.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ThinkingModel {
    /// They have none; to be asked for thoughts is an error.
    #[default]
    None,
    /// They have the capability and obey `think`; not told, they answer in their thoughts.
    Obedient,
    /// They think although they are told not to, and answer.
    IgnoresFalse,
    /// Their answers stand in the thoughts, whatever they are told.
    AnswersInThoughts,
}

/// A key of the simulated server; hidden in debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct SimulatedKey(pub String);

impl From<String> for SimulatedKey {
    fn from(key: String) -> Self {
        SimulatedKey(key)
    }
}

impl fmt::Debug for SimulatedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
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
            fault_shares: Vec::new(),
            api: ServerApi::default(),
            thinking: ThinkingModel::default(),
            capabilities_in_tags: true,
            api_key: None,
        }
    }
}
