//! Requests and response bodies of the OpenAI-compatible API.

use super::ask::{Ask, Format};
use super::completion::{self, Completion, CompletionEnd};
use super::options::ServerApi;
use super::schema::Schema;
use bytes::Bytes;
use chrono::Utc;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The body of `/v1/chat/completions`, reduced to the fields that affect the simulation.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct IncomingChat {
    model: String,
    messages: Vec<IncomingMessage>,
    response_format: Option<WantedFormat>,
    #[serde(alias = "max_completion_tokens")]
    max_tokens: Option<i64>,
    logprobs: Option<bool>,
    stream: Option<bool>,
    reasoning_effort: Option<String>,
    chat_template_kwargs: ChatTemplateKwargs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct IncomingMessage {
    role: String,
    content: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WantedFormat {
    #[serde(rename = "type")]
    kind: String,
    schema: Option<Schema>,
    json_schema: Option<WantedSchema>,
}

#[derive(Debug, Deserialize)]
struct WantedSchema {
    schema: Schema,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ChatTemplateKwargs {
    enable_thinking: Option<bool>,
}

/// Why a request is not answered: the status and the body.
pub struct Refused {
    /// The HTTP status.
    pub status: u16,
    /// The error as JSON.
    pub body: Value,
}

impl IncomingChat {
    /// The call for an answer, as a server with this API understands it.
    ///
    /// # Errors
    /// The response to a form of answer that this server does not know.
    pub fn into_ask(self, api: ServerApi) -> Result<Ask, Refused> {
        let joined = |system: bool| {
            let chosen = self.messages.iter().filter(|message| (message.role == "system") == system);
            chosen.map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n")
        };
        let (system, prompt) = (joined(true), joined(false));
        let no_thoughts = self.reasoning_effort.as_deref() == Some("none");
        Ok(Ask {
            model: self.model,
            system,
            prompt,
            format: format(self.response_format.unwrap_or_default(), api)?,
            limit: self.max_tokens.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0),
            logprobs: self.logprobs.unwrap_or(false),
            stream: self.stream.unwrap_or(false),
            think: if no_thoughts { Some(false) } else { self.chat_template_kwargs.enable_thinking },
        })
    }
}

fn format(format: WantedFormat, api: ServerApi) -> Result<Format, Refused> {
    let invalid = |said: &str| Refused { status: 400, body: error(400, said) };
    match (api, format.kind.as_str()) {
        (_, "" | "text") | (ServerApi::Text, _) => Ok(Format::Prose),
        (ServerApi::TextStrict, _) => Err(invalid("Unexpected keys in the request: {'response_format'}")),
        (ServerApi::JsonObject, "json_object") => {
            Ok(format.schema.map_or(Format::Json, |schema| Format::Schema(Box::new(schema))))
        }
        (ServerApi::JsonObject, received) => {
            let said = format!(
                "[{{'type': 'literal_error', 'loc': ('body', 'response_format', 'type'), 'msg': \"Input should be \
                 'text' or 'json_object'\", 'input': '{received}'}}]"
            );
            Err(Refused { status: 500, body: error(500, &said) })
        }
        (_, "json_object") => Ok(Format::Json),
        (_, "json_schema") => match format.json_schema {
            Some(named) => Ok(Format::Schema(Box::new(named.schema))),
            None => Err(invalid("response_format.json_schema is required")),
        },
        (_, received) => Err(invalid(&format!("response_format.type '{received}' is not supported"))),
    }
}

/// The whole response as one object.
pub fn whole(ask: &Ask, answer: &Completion, api: ServerApi) -> Value {
    let mut message = json!({ "role": "assistant", "content": answer.text });
    if let Some(thoughts) = &answer.thinking {
        message[thoughts_field(api)] = json!(thoughts);
    }
    let mut choice = json!({ "index": 0, "message": message, "finish_reason": reason(answer) });
    choice["logprobs"] = match ask.logprobs {
        true => json!({ "content": completion::logprobs(&ask.prompt, &answer.text) }),
        false => Value::Null,
    };
    let mut body = head(ask, "chat.completion");
    body.insert("choices".into(), json!([choice]));
    body.insert("usage".into(), usage(ask, answer));
    Value::Object(body)
}

/// The streamed response: an event per token, one with the reason of the end, and `[DONE]`, unless it is unfinished.
pub fn events(ask: &Ask, answer: &Completion, api: ServerApi) -> Vec<Bytes> {
    let event = |delta: Value, reason: Option<&str>| {
        let mut body = head(ask, "chat.completion.chunk");
        body.insert("choices".into(), json!([{ "index": 0, "delta": delta, "finish_reason": reason }]));
        Bytes::from(format!("data: {}\n\n", Value::Object(body)))
    };
    let thoughts = completion::pieces(answer.thinking.as_deref().unwrap_or_default());
    let thoughts = thoughts.into_iter().map(|piece| event(json!({ thoughts_field(api): piece }), None));
    let said = completion::pieces(&answer.text).into_iter();
    let said = said.map(|piece| event(json!({ "content": piece }), None));
    let mut events: Vec<Bytes> = thoughts.chain(said).collect();
    if let Some(reason) = reason(answer) {
        events.extend([event(json!({}), Some(reason)), Bytes::from_static(b"data: [DONE]\n\n")]);
    }
    events
}

/// The response of `/v1/models`.
pub fn models(models: &[String], api: ServerApi) -> Value {
    let owner = if api == ServerApi::Ollama { "library" } else { "simulated" };
    let model =
        |name: &String| json!({ "id": name, "object": "model", "created": 1_767_225_600, "owned_by": owner });
    json!({ "object": "list", "data": models.iter().map(model).collect::<Vec<_>>() })
}

/// An error response.
pub fn error(status: u16, message: &str) -> Value {
    let (kind, code) = match status {
        401 => ("invalid_request_error", json!("invalid_api_key")),
        404 => ("invalid_request_error", json!("model_not_found")),
        429 => ("rate_limit_error", json!("rate_limit_exceeded")),
        500.. => ("internal_server_error", Value::Null),
        _ => ("invalid_request_error", Value::Null),
    };
    json!({ "error": { "message": message, "type": kind, "param": null, "code": code } })
}

/// Where the servers put thoughts.
fn thoughts_field(api: ServerApi) -> &'static str {
    if api == ServerApi::Ollama { "reasoning" } else { "reasoning_content" }
}

fn reason(answer: &Completion) -> Option<&'static str> {
    match answer.end {
        CompletionEnd::Stop => Some("stop"),
        CompletionEnd::Length => Some("length"),
        CompletionEnd::Unfinished => None,
    }
}

fn usage(ask: &Ask, answer: &Completion) -> Value {
    let read = completion::tokens(&ask.prompt) + completion::tokens(&ask.system);
    let thoughts = completion::tokens(answer.thinking.as_deref().unwrap_or_default());
    let said = completion::tokens(&answer.text) + thoughts;
    json!({ "prompt_tokens": read, "completion_tokens": said, "total_tokens": read + said })
}

fn head(ask: &Ask, object: &str) -> Map<String, Value> {
    let id = blake3::hash(ask.prompt.as_bytes()).to_hex();
    Map::from_iter([
        ("id".to_owned(), json!(format!("chatcmpl-{}", &id[..24]))),
        ("object".to_owned(), json!(object)),
        ("created".to_owned(), json!(Utc::now().timestamp())),
        ("model".to_owned(), json!(ask.model)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(text: &str, api: ServerApi) -> Result<Ask, (u16, String)> {
        let request: IncomingChat = serde_json::from_str(text).unwrap();
        request.into_ask(api).map_err(|refused| (refused.status, refused.body.to_string()))
    }

    #[test]
    fn messages_are_prompts_by_their_role() {
        let text = r#"{"model":"m","messages":[{"role":"system","content":"a"},{"role":"user","content":"b"},
            {"role":"assistant","content":"c"}],"max_tokens":7,"logprobs":true,"reasoning_effort":"none"}"#;
        let ask = ask(text, ServerApi::JsonSchema).unwrap();
        assert_eq!((ask.system.as_str(), ask.prompt.as_str(), ask.limit), ("a", "b\nc", Some(7)));
        assert!(ask.logprobs && !ask.stream && ask.think == Some(false) && ask.format == Format::Prose);
    }

    #[test]
    fn each_server_has_its_own_forms_of_answers() {
        let schema =
            r#"{"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"enum":[1]}}}}"#;
        let object = r#"{"response_format":{"type":"json_object","schema":{"enum":[1]}}}"#;
        let enforced = |text, api| matches!(ask(text, api), Ok(Ask { format: Format::Schema(_), .. }));
        for api in [ServerApi::Ollama, ServerApi::JsonSchema] {
            assert!(enforced(schema, api) && ask(object, api).unwrap().format == Format::Json);
        }
        assert!(enforced(object, ServerApi::JsonObject));
        let (status, said) = ask(schema, ServerApi::JsonObject).unwrap_err();
        assert!(status == 500 && said.contains("literal_error"), "{said}");
        assert_eq!(ask(schema, ServerApi::Text).unwrap().format, Format::Prose);
        assert_eq!(ask(object, ServerApi::TextStrict).unwrap_err().0, 400);
        assert_eq!(
            ask(r#"{"response_format":{"type":"json_schema"}}"#, ServerApi::JsonSchema).unwrap_err().0,
            400
        );
        assert_eq!(ask(r#"{"response_format":{"type":"xml"}}"#, ServerApi::Ollama).unwrap_err().0, 400);
    }
}
