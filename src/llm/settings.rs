//! The settings of calls to the language model.

use super::dialect::Dialect;
use super::shape::AnswerForm;
use crate::endpoint::{ApiKey, Endpoint};
use std::time::Duration;

/// Which server and model are called, and the limits of the calls: of one server of the pool.
#[derive(Debug, Clone)]
pub struct LlmSettings {
    /// The base address of the server.
    pub endpoint: Endpoint,
    /// The name of the model on the server, such as `llama3.1:8b`.
    pub model: String,
    /// The most calls in flight: its slots; the server must allow as many (`OLLAMA_NUM_PARALLEL`).
    pub calls: usize,
    /// The time limit of one attempt, from sending the request to the end of the response.
    pub timeout: Duration,
    /// The same for an attempt that asks for CPESH parts, whose answer is longer.
    pub cpesh_timeout: Duration,
    /// The dialect of the server; `None` finds it out.
    pub dialect: Option<Dialect>,
    /// How answers say the codes.
    pub answer: AnswerForm,
    /// The key that the server is sent, if it wants one.
    pub api_key: Option<ApiKey>,
}
