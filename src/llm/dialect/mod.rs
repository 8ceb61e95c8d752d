//! Dialects: how a server is asked for an answer of a shape, and where its response holds it. Pure.

mod chat;
mod ollama;
mod parameters;
mod request;

pub use ollama::load;
pub use parameters::{Parameters, Thinking, TokenLimit};
pub use request::{Attempt, Generated, ModelRequest};

use super::error::LlmError;
use super::question::Wanted;
use super::shape::{AnswerForm, AnswerShape};
use chat::SchemaBinding;
use std::fmt;
use std::str::FromStr;

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

    /// Whether requests for answers have this path, in any dialect.
    pub fn is_generation(path: &str) -> bool {
        Dialect::ALL.iter().any(|dialect| dialect.path() == path)
    }

    /// The shape of the answer to a question. The root of a `json_schema` is an object at OpenAI.
    pub fn shape(self, wanted: Wanted, form: AnswerForm) -> AnswerShape {
        AnswerShape::new(wanted, form, self != Dialect::JsonSchema)
    }

    /// The body of a request as JSON.
    ///
    /// # Errors
    /// [`LlmError::Client`] when it cannot be written, which no input causes.
    pub fn body(self, request: &ModelRequest<'_>, parameters: Parameters) -> Result<Vec<u8>, LlmError> {
        let binding = match self {
            Dialect::Ollama => None,
            Dialect::JsonSchema => Some(SchemaBinding::JsonSchema),
            Dialect::JsonObject => Some(SchemaBinding::JsonObject),
            Dialect::Text => Some(SchemaBinding::Prompt),
        };
        let written = match binding {
            None => serde_json::to_vec(&ollama::body(request, parameters)),
            Some(binding) => serde_json::to_vec(&chat::body(binding, request, parameters)),
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
