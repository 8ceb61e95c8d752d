//! Response bodies in Ollama's format.

use super::completion::{self, Completion};
use super::request::GenerateRequest;
use bytes::Bytes;
use chrono::{SecondsFormat, Utc};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// The size of the body of [`huge`], in bytes: larger than any client should accept.
pub const HUGE: usize = 50_000_000;

/// The durations of a call.
pub struct CallTimes {
    /// The time until it got a slot.
    pub waited: Duration,
    /// The time for which it held the slot.
    pub held: Duration,
}

/// The whole response as one object.
pub fn whole(ask: &GenerateRequest, answer: &Completion, times: &CallTimes) -> Value {
    let mut body = last(ask, answer, times);
    body.insert("response".into(), json!(answer.text));
    if ask.logprobs == Some(true) {
        body.insert("logprobs".into(), json!(completion::logprobs(ask.prompt(), &answer.text)));
    }
    Value::Object(body)
}

/// The streamed response: one line per token, then a final line with `done: true`, unless `done` is false.
pub fn lines(ask: &GenerateRequest, answer: &Completion, times: &CallTimes) -> Vec<Bytes> {
    let mut logprobs = match ask.logprobs {
        Some(true) => completion::logprobs(ask.prompt(), &answer.text),
        _ => Vec::new(),
    }
    .into_iter();
    let mut lines = Vec::new();
    for piece in completion::pieces(&answer.text) {
        let mut body = head(&ask.model);
        body.insert("response".into(), json!(piece));
        body.insert("done".into(), json!(false));
        if let Some(logprob) = logprobs.next() {
            body.insert("logprobs".into(), json!([logprob]));
        }
        lines.push(line(body));
    }
    if answer.done {
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

/// The response of `/api/tags`: the models with the fields that clients read.
pub fn tags(models: &[String]) -> Value {
    let model = |name: &String| {
        let digest = blake3::hash(name.as_bytes()).to_hex().to_string();
        let size = name.rsplit(':').next().filter(|tag| *tag != "latest").unwrap_or("8b").to_uppercase();
        json!({
            "name": name, "model": name, "modified_at": "2026-01-01T00:00:00Z", "size": 4_920_753_328_u64, "digest": digest,
            "details": {
                "parent_model": "", "format": "gguf", "family": "simulated", "families": ["simulated"],
                "parameter_size": size, "quantization_level": "Q4_K_M", "context_length": 131_072,
            },
            "capabilities": ["completion"],
        })
    };
    json!({ "models": models.iter().map(model).collect::<Vec<_>>() })
}

/// A response of [`HUGE`] bytes, in parts that share memory.
pub fn huge(model: &str) -> impl Iterator<Item = Bytes> + use<> {
    let before =
        format!("{{\"model\":{},\"done\":true,\"done_reason\":\"stop\",\"response\":\"", json!(model));
    let after = "\"}";
    let part = Bytes::from(vec![b'x'; 64 * 1024]);
    let filling = HUGE.saturating_sub(before.len() + after.len());
    let rest = part.slice(..filling % part.len());
    let parts = std::iter::repeat_n(part.clone(), filling / part.len());
    std::iter::once(Bytes::from(before)).chain(parts).chain([rest, Bytes::from_static(after.as_bytes())])
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
fn last(ask: &GenerateRequest, answer: &Completion, times: &CallTimes) -> Map<String, Value> {
    let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let reading = times.held / 10;
    let read =
        completion::tokens(ask.prompt()) + completion::tokens(ask.system.as_deref().unwrap_or_default());
    let numbers = [
        ("total_duration", ns(times.waited + times.held)),
        ("load_duration", ns(times.waited)),
        ("prompt_eval_count", read as u64),
        ("prompt_eval_duration", ns(reading)),
        ("eval_count", completion::tokens(&answer.text) as u64),
        ("eval_duration", ns(times.held - reading)),
    ];
    let mut body = head(&ask.model);
    body.insert("response".into(), json!(""));
    body.insert("done".into(), json!(answer.done));
    if let Some(reason) = answer.reason {
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

    #[test]
    fn the_huge_body_is_json_and_has_its_size() {
        let body: Vec<u8> = huge("m\"").fold(Vec::new(), |mut body, part| {
            body.extend_from_slice(&part);
            body
        });
        assert_eq!(body.len(), HUGE);
        let read: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&read["model"], &read["done"]), (&json!("m\""), &json!(true)));
    }

    #[test]
    fn what_is_zero_is_left_out() {
        let answer = Completion { text: "four".into(), done: true, reason: Some("stop") };
        let times = CallTimes { waited: Duration::ZERO, held: Duration::from_millis(10) };
        let body = whole(
            &GenerateRequest { prompt: Some("eight ch".into()), ..GenerateRequest::default() },
            &answer,
            &times,
        );
        assert_eq!(body["total_duration"], 10_000_000);
        assert_eq!(
            body["prompt_eval_duration"].as_u64().unwrap() + body["eval_duration"].as_u64().unwrap(),
            10_000_000
        );
        assert_eq!((&body["prompt_eval_count"], &body["eval_count"]), (&json!(2), &json!(1)));
        assert!(body.get("load_duration").is_none() && body.get("logprobs").is_none());
    }
}
