//! OpenAI's API as servers of language models have it: `/v1/chat/completions`.

use super::parameters::{Parameters, Thinking, TokenLimit};
use super::request::{Generated, ModelRequest};
use crate::llm::answer::TokenLogprob;
use crate::llm::schema::AnswerSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The path of a request.
pub const PATH: &str = "/v1/chat/completions";
/// The name of the schema, which the API demands.
const SCHEMA_NAME: &str = "labels";
/// The reasons to stop that mean a complete answer: OpenAI's, and those of text-generation-inference.
const COMPLETE: [&str; 4] = ["stop", "eos_token", "stop_sequence", "eos"];

/// How the schema of an answer is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaBinding {
    /// A `response_format` of type `json_schema`.
    JsonSchema,
    /// A `response_format` of type `json_object` with the schema beside it.
    JsonObject,
    /// By the prompt alone.
    Prompt,
}

/// A request; fields as in OpenAI's API.
#[derive(Debug, Serialize)]
pub struct ChatRequest<'a> {
    model: &'a str,
    messages: [ChatMessage<'a>; 2],
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<ResponseFormat<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<bool>,
    // llama-cpp-python sends none without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chat_template_kwargs: Option<TemplateArguments>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct ChatMessage<'a> {
    role: &'static str,
    content: &'a str,
}

/// The arguments of the chat template by which vLLM, SGLang and llama-server turn thoughts off.
#[derive(Debug, Serialize)]
struct TemplateArguments {
    enable_thinking: bool,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ResponseFormat<'a> {
    JsonSchema { json_schema: NamedSchema<'a> },
    JsonObject { schema: &'a AnswerSchema },
}

#[derive(Debug, Serialize)]
struct NamedSchema<'a> {
    name: &'static str,
    strict: bool,
    schema: &'a AnswerSchema,
}

#[derive(Deserialize)]
struct ChatResponse {
    #[serde(default)]
    choices: Vec<ChatChoice>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct ChatChoice {
    message: ReceivedMessage,
    #[serde(default)]
    finish_reason: Option<String>,
    #[serde(default)]
    logprobs: Option<ChatLogprobs>,
}

#[derive(Deserialize)]
struct ReceivedMessage {
    #[serde(default)]
    content: Option<Content>,
    #[serde(default)]
    reasoning_content: Option<Value>,
    #[serde(default)]
    reasoning: Option<Value>,
}

/// The content of a message: a text, or a list of pieces.
#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Pieces(Vec<Piece>),
}

#[derive(Deserialize)]
struct Piece {
    #[serde(default)]
    text: Option<String>,
}

#[derive(Deserialize)]
struct ChatLogprobs {
    #[serde(default)]
    content: Option<Vec<TokenLogprob>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
}

/// The body of a request.
pub fn body<'a>(
    binding: SchemaBinding,
    request: &ModelRequest<'a>,
    parameters: Parameters,
) -> ChatRequest<'a> {
    let schema = request.shape.schema();
    let response_format = match binding {
        SchemaBinding::JsonSchema => Some(ResponseFormat::JsonSchema {
            json_schema: NamedSchema { name: SCHEMA_NAME, strict: schema.is_strict(), schema },
        }),
        SchemaBinding::JsonObject => Some(ResponseFormat::JsonObject { schema }),
        SchemaBinding::Prompt => None,
    };
    let limit = Some(request.shape.max_tokens() + parameters.room_for_thoughts());
    let (max_tokens, max_completion_tokens) = match parameters.limit {
        TokenLimit::MaxTokens => (limit, None),
        TokenLimit::MaxCompletionTokens => (None, limit),
    };
    let told = parameters.thinking == Thinking::TurnedOff;
    ChatRequest {
        model: request.model,
        messages: [
            ChatMessage { role: "system", content: request.system },
            ChatMessage { role: "user", content: request.user },
        ],
        stream: false,
        response_format,
        temperature: parameters.temperature.then(|| request.attempt.temperature()),
        seed: parameters.seed.then(|| request.attempt.seed()),
        max_tokens,
        max_completion_tokens,
        logprobs: parameters.logprobs.then_some(true),
        top_logprobs: parameters.logprobs.then_some(1),
        chat_template_kwargs: told.then_some(TemplateArguments { enable_thinking: false }),
        reasoning_effort: told.then_some("none"),
    }
}

/// Reads a response.
pub fn read(body: &[u8]) -> Result<Generated, String> {
    let response: ChatResponse = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let usage = response.usage.unwrap_or_default();
    let Some(choice) = response.choices.into_iter().next() else {
        return Err(response.error.map_or_else(|| "no choices".to_owned(), |error| error.to_string()));
    };
    let text = match choice.message.content {
        None => String::new(),
        Some(Content::Text(text)) => text,
        Some(Content::Pieces(pieces)) => pieces.into_iter().filter_map(|piece| piece.text).collect(),
    };
    let thoughts = [choice.message.reasoning_content, choice.message.reasoning];
    let beside = thoughts.into_iter().flatten().any(|thoughts| match thoughts {
        Value::String(thoughts) => !thoughts.trim().is_empty(),
        Value::Null => false,
        _ => true,
    });
    let reason = choice.finish_reason.unwrap_or_default();
    Ok(Generated {
        // Servers that do not part the thoughts from the answer leave the tags.
        thought: beside || text.contains("<think>") || text.contains("</think>"),
        text,
        done: COMPLETE.contains(&&*reason),
        reason: format!("finish_reason: \"{reason}\""),
        tokens: choice.logprobs.and_then(|logprobs| logprobs.content).unwrap_or_default(),
        prompt_tokens: usage.prompt_tokens,
        answer_tokens: usage.completion_tokens,
    })
}
