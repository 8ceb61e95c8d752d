//! Requests and response bodies in the format of Ollama's own API.

use super::ask::{Ask, Format};
use super::completion::{self, CallTimes, Completion, CompletionEnd};
use bytes::Bytes;
use chrono::{SecondsFormat, Utc};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// The body of a generate call, reduced to the fields that affect the simulation.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct IncomingGenerate {
    model: String,
    prompt: Option<String>,
    system: Option<String>,
    stream: Option<bool>,
    format: Format,
    options: Option<IncomingOptions>,
    logprobs: Option<bool>,
    think: Option<bool>,
}

/// The model options, reduced to the one that affects the simulation.
#[derive(Debug, Default, Deserialize)]
struct IncomingOptions {
    num_predict: Option<i64>,
}

impl From<IncomingGenerate> for Ask {
    fn from(request: IncomingGenerate) -> Ask {
        let limit = request.options.and_then(|options| options.num_predict);
        Ask {
            model: request.model,
            system: request.system.unwrap_or_default(),
            prompt: request.prompt.unwrap_or_default(),
            format: request.format,
            // Absent or not positive: no limit.
            limit: limit.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0),
            logprobs: request.logprobs.unwrap_or(false),
            // The default of Ollama.
            stream: request.stream.unwrap_or(true),
            think: request.think,
        }
    }
}

/// The body of `/api/show`; older clients call the model `name`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct IncomingShow {
    /// The name of the model.
    #[serde(alias = "name")]
    pub model: String,
}

/// The whole response as one object.
pub fn whole(ask: &Ask, answer: &Completion, times: &CallTimes) -> Value {
    let mut body = last(ask, answer, times);
    body.insert("response".into(), json!(answer.text));
    if let Some(thoughts) = &answer.thinking {
        body.insert("thinking".into(), json!(thoughts));
    }
    if ask.logprobs {
        body.insert("logprobs".into(), json!(completion::logprobs(&ask.prompt, &answer.text)));
    }
    Value::Object(body)
}

/// The streamed response: one line per token, then a final line with `done: true`, unless `done` is false.
pub fn lines(ask: &Ask, answer: &Completion, times: &CallTimes) -> Vec<Bytes> {
    let logprobs = if ask.logprobs { completion::logprobs(&ask.prompt, &answer.text) } else { Vec::new() };
    let mut logprobs = logprobs.into_iter();
    let mut lines = Vec::new();
    for piece in completion::pieces(answer.thinking.as_deref().unwrap_or_default()) {
        let mut body = head(&ask.model);
        body.extend([
            ("response".to_owned(), json!("")),
            ("thinking".to_owned(), json!(piece)),
            ("done".to_owned(), json!(false)),
        ]);
        lines.push(line(body));
    }
    for piece in completion::pieces(&answer.text) {
        let mut body = head(&ask.model);
        body.insert("response".into(), json!(piece));
        body.insert("done".into(), json!(false));
        if let Some(logprob) = logprobs.next() {
            body.insert("logprobs".into(), json!([logprob]));
        }
        lines.push(line(body));
    }
    if answer.end != CompletionEnd::Unfinished {
        lines.push(line(last(ask, answer, times)));
    }
    lines
}

/// The response to an empty prompt, which loads the model.
pub fn load(model: &str) -> Value {
    let mut body = head(model);
    body.extend([
        ("response".to_owned(), json!("")),
        ("done".to_owned(), json!(true)),
        ("done_reason".to_owned(), json!("load")),
    ]);
    Value::Object(body)
}

/// The response of `/api/tags`: the models with the fields that clients read, and with what they can do, if Ollama is
/// new enough to say so.
pub fn tags(models: &[String], capabilities: Option<&[&str]>) -> Value {
    let model = |name: &String| {
        let digest = blake3::hash(name.as_bytes()).to_hex().to_string();
        let size = name.rsplit(':').next().filter(|tag| *tag != "latest").unwrap_or("8b").to_uppercase();
        let mut model = json!({
            "name": name, "model": name, "modified_at": "2026-01-01T00:00:00Z", "size": 4_920_753_328_u64, "digest": digest,
            "details": {
                "parent_model": "", "format": "gguf", "family": "simulated", "families": ["simulated"],
                "parameter_size": size, "quantization_level": "Q4_K_M", "context_length": 131_072,
            },
        });
        if let Some(capabilities) = capabilities {
            model["capabilities"] = json!(capabilities);
        }
        model
    };
    json!({ "models": models.iter().map(model).collect::<Vec<_>>() })
}

/// The response of `/api/show`.
pub fn show(capabilities: &[&str]) -> Value {
    json!({
        "modelfile": "", "parameters": "", "template": "{{ .Prompt }}", "capabilities": capabilities,
        "details": { "format": "gguf", "family": "simulated", "families": ["simulated"] },
        "model_info": { "general.architecture": "simulated", "simulated.context_length": 131_072 },
    })
}

/// An error response.
pub fn error(message: impl Into<String>) -> Value {
    json!({ "error": message.into() })
}

fn head(model: &str) -> Map<String, Value> {
    let now = Utc::now().to_rfc3339_opts(SecondsFormat::Nanos, true);
    Map::from_iter([("model".to_owned(), json!(model)), ("created_at".to_owned(), json!(now))])
}

/// The members of the final line. Members that are zero are omitted, as in Ollama.
fn last(ask: &Ask, answer: &Completion, times: &CallTimes) -> Map<String, Value> {
    let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let reading = times.held / 10;
    let read = completion::tokens(&ask.prompt) + completion::tokens(&ask.system);
    let said =
        completion::tokens(&answer.text) + completion::tokens(answer.thinking.as_deref().unwrap_or_default());
    let numbers = [
        ("total_duration", ns(times.waited + times.held)),
        ("load_duration", ns(times.waited)),
        ("prompt_eval_count", read as u64),
        ("prompt_eval_duration", ns(reading)),
        ("eval_count", said as u64),
        ("eval_duration", ns(times.held - reading)),
    ];
    let mut body = head(&ask.model);
    body.insert("response".into(), json!(""));
    let reason = match answer.end {
        CompletionEnd::Stop => Some("stop"),
        CompletionEnd::Length => Some("length"),
        CompletionEnd::Unfinished => None,
    };
    body.insert("done".into(), json!(reason.is_some()));
    if let Some(reason) = reason {
        body.insert("done_reason".into(), json!(reason));
        let numbers = numbers.into_iter().filter(|(_, number)| *number > 0);
        body.extend(numbers.map(|(name, number)| (name.to_owned(), json!(number))));
    }
    body
}

fn line(body: Map<String, Value>) -> Bytes {
    Bytes::from(format!("{}\n", Value::Object(body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Ask {
        serde_json::from_str::<IncomingGenerate>(text).unwrap().into()
    }

    #[test]
    fn limits_and_defaults_are_those_of_ollama() {
        let limit = |n: i64| read(&format!(r#"{{"options":{{"num_predict":{n},"seed":1}}}}"#)).limit;
        assert_eq!((limit(160), limit(-1), limit(0), read("{}").limit), (Some(160), None, None, None));
        assert!(read("{}").stream && !read(r#"{"stream":false}"#).stream);
        assert_eq!(read(r#"{"prompt":null}"#).prompt, "");
        assert_eq!((read("{}").format, read("{}").think), (Format::Prose, None));
    }

    #[test]
    fn what_is_zero_is_left_out() {
        let answer = Completion { text: "four".into(), thinking: None, end: CompletionEnd::Stop };
        let times = CallTimes { waited: Duration::ZERO, held: Duration::from_millis(10) };
        let body = whole(&Ask { prompt: "eight ch".into(), ..Ask::default() }, &answer, &times);
        assert_eq!(body["total_duration"], 10_000_000);
        assert_eq!(
            body["prompt_eval_duration"].as_u64().unwrap() + body["eval_duration"].as_u64().unwrap(),
            10_000_000
        );
        assert_eq!((&body["prompt_eval_count"], &body["eval_count"]), (&json!(2), &json!(1)));
        assert!(body.get("load_duration").is_none() && body.get("logprobs").is_none());
    }
}
