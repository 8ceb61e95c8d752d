//! The generated text: it depends on the prompt alone, follows the schema, and has tokens of four characters.
//!
//! It works with any schema.

use super::fault::Fault;
use super::request::{Format, GenerateRequest, Property};
use serde::Serialize;
use serde_json::{Value, json};

/// The number of characters of a token.
const TOKEN: usize = 4;

/// A generated text with its end state, before it is written as a response body.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    pub text: String,
    pub done: bool,
    /// `done_reason`; `None` if `done` is false.
    pub reason: Option<&'static str>,
}

/// Generates the text for a request, changed by `fault`.
pub fn complete(request: &GenerateRequest, fault: Option<Fault>) -> Completion {
    let text = match &request.format {
        Format::Schema(properties) => object(request.prompt(), properties, fault),
        Format::Prose if fault != Some(Fault::HalfJson) => prose(request.prompt()),
        _ => json!({ "answer": prose(request.prompt()) }).to_string(),
    };
    let half = text.chars().count() / 2;
    match fault {
        Some(Fault::HalfJson) => Completion { text: start(&text, half), done: true, reason: Some("stop") },
        Some(Fault::Cut) => Completion { text: start(&text, half), done: true, reason: Some("length") },
        Some(Fault::Unfinished) => Completion { text, done: false, reason: None },
        _ => match request.limit() {
            Some(limit) if tokens(&text) > limit => {
                Completion { text: start(&text, limit * TOKEN), done: true, reason: Some("length") }
            }
            _ => Completion { text, done: true, reason: Some("stop") },
        },
    }
}

/// The number of tokens of a text.
pub fn tokens(text: &str) -> usize {
    text.chars().count().div_ceil(TOKEN)
}

/// The tokens of a text; their concatenation is the text.
pub fn pieces(text: &str) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    characters.chunks(TOKEN).map(|piece| piece.iter().collect()).collect()
}

/// A token with its log probability, as in Ollama's responses.
#[derive(Debug, Clone, Serialize)]
pub struct Logprob {
    token: String,
    logprob: f64,
    bytes: Vec<u8>,
}

/// The log probability of each token of a text, between -0.7 and 0; equal for equal prompts.
pub fn logprobs(prompt: &str, text: &str) -> Vec<Logprob> {
    let mut random = hash(prompt, "logprobs").finalize_xof();
    let measured = pieces(text).into_iter().map(|token| {
        let mut bytes = [0; 4];
        random.fill(&mut bytes);
        let share = (f64::from(u32::from_le_bytes(bytes)) + 0.5) / 2_f64.powi(32);
        Logprob { logprob: -0.7 * share, bytes: token.clone().into_bytes(), token }
    });
    measured.collect()
}

/// Formatted by hand, because serde_json's map does not keep the order of the schema.
fn object(prompt: &str, properties: &[(String, Property)], fault: Option<Fault>) -> String {
    let members = properties.iter().map(|(name, property)| {
        let value = value(prompt, name, property, fault);
        format!("{}: {value}", Value::from(name.as_str()))
    });
    format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
}

fn value(prompt: &str, name: &str, property: &Property, fault: Option<Fault>) -> Value {
    let number = number(prompt, name);
    let place = |count: usize| (number % count.max(1) as u64) as usize;
    if let Some(values) = &property.values {
        let place = place(values.len());
        let chosen = values.get(place).cloned().unwrap_or_default();
        return match fault {
            Some(Fault::WrongName) => wrong(&chosen, values),
            Some(Fault::Numbers) => json!(place),
            _ => chosen,
        };
    }
    match property.kind.as_ref().and_then(Value::as_str) {
        Some("integer") => json!(number % 100),
        Some("number") => json!((number % 1000) as f64 / 1000.0),
        Some("boolean") => json!(number.is_multiple_of(2)),
        Some("array") => json!([]),
        Some("object") => json!({}),
        Some("null") => Value::Null,
        _ => json!(prose(prompt)),
    }
}

/// A name that resembles `chosen` but is not one of `values`.
fn wrong(chosen: &Value, values: &[Value]) -> Value {
    let mut name = chosen.as_str().map_or_else(|| chosen.to_string(), str::to_owned);
    while values.iter().any(|value| value.as_str() == Some(&name)) {
        name.push_str("-like");
    }
    name.into()
}

/// A sentence that contains two words of the prompt.
fn prose(prompt: &str) -> String {
    let words: Vec<&str> =
        prompt.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let word = |name: &str| {
        let place = number(prompt, name) % words.len().max(1) as u64;
        words.get(place as usize).copied().unwrap_or("nothing")
    };
    format!("This is about {} and, in passing, about {}.", word("first"), word("second"))
}

/// A pseudo-random number derived from both texts and the boundary between them.
fn number(prompt: &str, name: &str) -> u64 {
    let mut bytes = [0; 8];
    hash(prompt, name).finalize_xof().fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

fn hash(prompt: &str, name: &str) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(prompt.len() as u64).to_le_bytes()).update(prompt.as_bytes()).update(name.as_bytes());
    hasher
}

fn start(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const NAMES: [&str; 4] = ["red", "green", "blue", "blue-like"];

    fn ask(prompt: &str, limit: i64) -> GenerateRequest {
        let schema = json!({"type": "object", "properties": {
            "zone": {"enum": NAMES}, "able": {"type": "boolean"}, "colour": {"enum": NAMES}, "free": {"type": "string"},
        }});
        let ask = json!({"prompt": prompt, "format": schema, "options": {"num_predict": limit}});
        serde_json::from_value(ask).unwrap()
    }

    fn read(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_completion_follows_the_schema_and_depends_on_the_prompt_alone() {
        let mut seen = BTreeSet::new();
        for n in 0..200 {
            let prompt = format!("text number {n}");
            let given = complete(&ask(&prompt, -1), None);
            assert_eq!(given, complete(&ask(&prompt, 1000), None));
            assert_eq!((given.done, given.reason), (true, Some("stop")));
            let object = read(&given.text);
            let (zone, colour) = (object["zone"].as_str().unwrap(), object["colour"].as_str().unwrap());
            assert!(NAMES.contains(&zone) && NAMES.contains(&colour) && object["able"].is_boolean());
            seen.insert((zone.to_owned(), colour.to_owned()));
        }
        assert_eq!(seen.len(), 16, "all pairs occur, so the two names are chosen independently");
    }

    #[test]
    fn members_come_in_the_order_of_the_schema() {
        let text = r#"{"prompt":"p","format":{"properties":{"z":{"enum":["1"]},"a \"b\"":{"enum":["2"]},"m":{"enum":[3]}}}}"#;
        let given = complete(&serde_json::from_str(text).unwrap(), None);
        assert_eq!(given.text, r#"{"z": "1", "a \"b\"": "2", "m": 3}"#);
    }

    #[test]
    fn without_a_schema_the_completion_is_prose() {
        let ask: GenerateRequest = serde_json::from_str(r#"{"prompt":"sun"}"#).unwrap();
        assert_eq!(complete(&ask, None).text, "This is about sun and, in passing, about sun.");
        let ask: GenerateRequest = serde_json::from_str(r#"{"prompt":"sun","format":"json"}"#).unwrap();
        assert!(read(&complete(&ask, None).text)["answer"].is_string());
    }

    #[test]
    fn a_limit_truncates_the_completion() {
        let whole = complete(&ask("p", -1), None).text;
        let short = complete(&ask("p", 5), None);
        assert_eq!((short.text.as_str(), short.reason), (&whole[..20], Some("length")));
        let enough = i64::try_from(tokens(&whole)).unwrap();
        assert_eq!(complete(&ask("p", enough), None).reason, Some("stop"));
        assert_eq!(complete(&ask("p", enough - 1), None).reason, Some("length"));
    }

    #[test]
    fn faults_change_the_completion() {
        let whole = complete(&ask("p", -1), None).text;
        let changed = |fault| complete(&ask("p", -1), Some(fault));
        let half = changed(Fault::HalfJson);
        assert!(whole.starts_with(&half.text) && serde_json::from_str::<Value>(&half.text).is_err());
        assert_eq!((half.done, half.reason), (true, Some("stop")));
        assert_eq!(changed(Fault::Cut), Completion { reason: Some("length"), ..half });
        assert_eq!(changed(Fault::Unfinished), Completion { text: whole, done: false, reason: None });
        let wrong = read(&changed(Fault::WrongName).text);
        assert!(wrong["zone"].is_string() && !NAMES.contains(&wrong["zone"].as_str().unwrap()), "{wrong}");
        assert!(read(&changed(Fault::Numbers).text)["colour"].as_u64().unwrap() < 4);
    }

    #[test]
    fn tokens_put_together_are_the_text_and_each_has_its_probability() {
        let text = "Grün ist die Farbe der Hoffnung.";
        assert_eq!(pieces(text).concat(), text);
        assert_eq!(pieces(text).len(), tokens(text));
        let measured = logprobs("p", text);
        assert_eq!(measured.len(), tokens(text));
        assert!(measured.iter().all(|token| token.logprob > -0.7 && token.logprob < 0.0));
        assert!(measured.iter().all(|token| token.bytes == token.token.as_bytes()));
        assert_eq!(json!(measured), json!(logprobs("p", text)));
        assert_ne!(json!(measured), json!(logprobs("q", text)));
    }
}
