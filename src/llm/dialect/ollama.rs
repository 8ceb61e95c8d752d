//! Ollama's own API: `/api/generate`.
//!
//! Ollama omits fields that are zero or empty, so all fields are read with defaults.

use super::parameters::{Parameters, Thinking};
use super::request::{Generated, ModelRequest};
use crate::llm::answer::TokenLogprob;
use crate::llm::prompt::CONTEXT_TOKENS;
use crate::llm::schema::AnswerSchema;
use serde::{Deserialize, Serialize};

/// The path of a request.
pub const PATH: &str = "/api/generate";
/// How long the server keeps the model loaded after a call.
const KEEP_ALIVE: &str = "30m";

/// A request; fields as in Ollama's API.
#[derive(Debug, Serialize)]
pub struct OllamaRequest<'a> {
    model: &'a str,
    system: &'a str,
    prompt: &'a str,
    format: &'a AnswerSchema,
    stream: bool,
    truncate: bool,
    keep_alive: &'static str,
    logprobs: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    think: Option<bool>,
    options: ModelOptions,
}

/// The model options. All calls have the same `num_ctx`, including the one that loads the model: Ollama reloads a model
/// when it changes.
#[derive(Debug, Serialize)]
struct ModelOptions {
    temperature: f32,
    seed: u32,
    num_predict: u32,
    num_ctx: u32,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct OllamaResponse {
    response: String,
    thinking: String,
    done: bool,
    done_reason: String,
    prompt_eval_count: u64,
    eval_count: u64,
    logprobs: Vec<TokenLogprob>,
}

/// The body of a request.
pub fn body<'a>(request: &ModelRequest<'a>, parameters: Parameters) -> OllamaRequest<'a> {
    // Models without the capability reject the field.
    let think = (parameters.thinking != Thinking::None).then_some(false);
    OllamaRequest {
        model: request.model,
        system: request.system,
        prompt: request.user,
        format: request.shape.schema(),
        stream: false,
        truncate: false,
        keep_alive: KEEP_ALIVE,
        logprobs: parameters.logprobs,
        think,
        options: ModelOptions {
            temperature: request.attempt.temperature(),
            seed: request.attempt.seed(),
            num_predict: request.shape.max_tokens() + parameters.room_for_thoughts(),
            num_ctx: CONTEXT_TOKENS,
        },
    }
}

/// The request that loads the model: one without a prompt.
pub fn load<'a>(request: &ModelRequest<'a>) -> OllamaRequest<'a> {
    body(&ModelRequest { user: "", ..*request }, Parameters::default())
}

/// Reads a response.
pub fn read(body: &[u8]) -> Result<Generated, String> {
    let response: OllamaResponse = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    Ok(Generated {
        text: response.response,
        thought: !response.thinking.trim().is_empty(),
        done: response.done && response.done_reason == "stop",
        reason: format!("done: {}, done_reason: \"{}\"", response.done, response.done_reason),
        tokens: response.logprobs,
        prompt_tokens: response.prompt_eval_count,
        answer_tokens: response.eval_count,
    })
}
