//! Dialects: how a server is asked for an answer of a shape, and where its response holds it. Pure.

mod chat;
mod ollama;
mod parameters;

pub use ollama::load;
pub use parameters::{Parameters, Thinking, TokenLimit};

use super::answer::TokenLogprob;
use super::error::LlmError;
use super::prompt::Wanted;
use super::settings::LlmSettings;
use super::shape::AnswerShape;
use std::fmt;
use std::str::FromStr;

/// How long a server may think besides its answer, in tokens, when it cannot be told not to.
const THINKING_TOKENS: u32 = 1_024;

/// A way to ask for an answer that a schema binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Ollama's own API: a schema in `format`.
    Ollama,
    /// OpenAI's API: a `response_format` of type `json_schema`. OpenAI, vLLM, llama-server, LM Studio.
    JsonSchema,
    /// OpenAI's API: a `response_format` of type `json_object` with the schema beside it. llama-cpp-python.
    JsonObject,
    /// OpenAI's API without a `response_format`: the prompt alone describes the answer.
    Text,
}

/// The text is no [`Dialect`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("auto, ollama, json_schema, json_object or text")]
pub struct InvalidDialect;

impl FromStr for Dialect {
    type Err = InvalidDialect;

    fn from_str(text: &str) -> Result<Dialect, InvalidDialect> {
        let name = text.trim().to_ascii_lowercase();
        Dialect::ALL.into_iter().find(|dialect| dialect.name() == name).ok_or(InvalidDialect)
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The attempt of a call. The first samples greedily, so equal texts get equal answers. The second follows an unusable
/// answer, so it samples with a temperature and another seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// Temperature 0.
    First,
    /// Some temperature.
    Second,
}

impl Attempt {
    fn temperature(self) -> f32 {
        match self {
            Attempt::First => 0.0,
            Attempt::Second => 0.5,
        }
    }

    fn seed(self) -> u32 {
        match self {
            Attempt::First => 1,
            Attempt::Second => 2,
        }
    }
}

/// One request, before it is written in a dialect.
#[derive(Debug, Clone, Copy)]
pub struct ModelRequest<'a> {
    /// The name of the model on the server.
    pub model: &'a str,
    /// The constant part of the prompt.
    pub system: &'a str,
    /// The part of the prompt with the text.
    pub user: &'a str,
    /// The shape of the answer.
    pub shape: AnswerShape,
    /// The attempt, which decides the sampling.
    pub attempt: Attempt,
}

/// What a server generated.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Generated {
    /// The text of the answer.
    pub text: String,
    /// Whether thoughts came beside the answer.
    pub thought: bool,
    /// Whether the server says that the answer is complete.
    pub done: bool,
    /// Why the server stopped, in its words.
    pub reason: String,
    /// The tokens of the answer, or none.
    pub tokens: Vec<TokenLogprob>,
    /// The number of tokens of the prompt.
    pub prompt_tokens: u64,
    /// The number of generated tokens.
    pub answer_tokens: u64,
}

impl Dialect {
    /// All dialects.
    pub const ALL: [Dialect; 4] = [Dialect::Ollama, Dialect::JsonSchema, Dialect::JsonObject, Dialect::Text];

    /// The name in settings and in `/health`.
    pub fn name(self) -> &'static str {
        match self {
            Dialect::Ollama => "ollama",
            Dialect::JsonSchema => "json_schema",
            Dialect::JsonObject => "json_object",
            Dialect::Text => "text",
        }
    }

    /// The path of the request.
    pub fn path(self) -> &'static str {
        match self {
            Dialect::Ollama => ollama::PATH,
            Dialect::JsonSchema | Dialect::JsonObject | Dialect::Text => chat::PATH,
        }
    }

    /// The shape of the answer to a question. The root of a `json_schema` is an object at OpenAI.
    pub fn shape(self, wanted: Wanted, settings: &LlmSettings) -> AnswerShape {
        AnswerShape::new(wanted, settings.answer, self != Dialect::JsonSchema)
    }

    /// The body of a request as JSON.
    ///
    /// # Errors
    /// [`LlmError::Client`] when it cannot be written, which no input causes.
    pub fn body(self, request: &ModelRequest<'_>, parameters: Parameters) -> Result<Vec<u8>, LlmError> {
        let written = match self {
            Dialect::Ollama => serde_json::to_vec(&ollama::body(request, parameters)),
            Dialect::JsonSchema | Dialect::JsonObject | Dialect::Text => {
                serde_json::to_vec(&chat::body(self, request, parameters))
            }
        };
        written.map_err(|error| LlmError::Client { problem: error.to_string() })
    }

    /// Reads the body of a response with status 200.
    ///
    /// # Errors
    /// The message of the parser, or the error that the server sent in place of an answer.
    pub fn read(self, body: &[u8]) -> Result<Generated, String> {
        match self {
            Dialect::Ollama => ollama::read(body),
            Dialect::JsonSchema | Dialect::JsonObject | Dialect::Text => chat::read(body),
        }
    }
}
