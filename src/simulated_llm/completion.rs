//! The generated text: it depends on the prompt alone, follows the schema, and has tokens of four characters.
//!
//! It works with any schema.

use super::ask::{Ask, Format};
use super::fault::Fault;
use super::options::ThinkingModel;
use super::schema::{Spoilt, hash, prose};
use serde::Serialize;
use serde_json::json;
use std::time::Duration;

/// The number of characters of a token.
const TOKEN: usize = 4;

/// A generated text with its end state, before it is written as a response body.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// What the model says; empty if all of it are thoughts.
    pub text: String,
    /// What it thought before, where the server keeps thoughts apart.
    pub thinking: Option<String>,
    /// How the generation ended.
    pub end: CompletionEnd,
}

/// How the generation of a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompletionEnd {
    /// The model was done.
    Stop,
    /// The limit of tokens was reached.
    Length,
    /// The model was stopped.
    Unfinished,
}

/// The durations of a call.
pub struct CallTimes {
    /// The time until it got a slot.
    pub waited: Duration,
    /// The time for which it held the slot.
    pub held: Duration,
}

/// Generates the text for a request, changed by `fault`.
pub fn complete(ask: &Ask, fault: Option<Fault>, model: ThinkingModel) -> Completion {
    let said = |text: String| Completion { text, thinking: None, end: CompletionEnd::Stop };
    let answer = answer(ask, fault);
    let half = answer.chars().count() / 2;
    match fault {
        Some(Fault::HalfJson) => said(start(&answer, half)),
        Some(Fault::Cut) => Completion { end: CompletionEnd::Length, ..said(start(&answer, half)) },
        Some(Fault::Unfinished) => Completion { end: CompletionEnd::Unfinished, ..said(answer) },
        Some(Fault::Echo) => said(ask.prompt.clone()),
        Some(Fault::Thinking) => Completion { thinking: Some(answer), ..said(String::new()) },
        Some(Fault::ThinkTag) => {
            said(format!("<think>\n{}\n</think>\n\n{answer}", prose(&ask.prompt, "thoughts")))
        }
        Some(Fault::Fence) => said(format!("```json\n{answer}\n```")),
        Some(Fault::InProse) => said(format!("Here is what I chose: {answer} I hope that this helps.")),
        _ => match ask.limit {
            Some(limit) if tokens(&answer) > limit => {
                Completion { end: CompletionEnd::Length, ..said(start(&answer, limit * TOKEN)) }
            }
            _ => think(ask, said(answer), model),
        },
    }
}

/// What the model says without the faults of its form.
fn answer(ask: &Ask, fault: Option<Fault>) -> String {
    let spoilt = match fault {
        Some(Fault::WrongName) => Some(Spoilt::Wrong),
        Some(Fault::Numbers) => Some(Spoilt::Numbers),
        _ => None,
    };
    match (ask.schema(), &ask.format) {
        (Some(schema), _) => schema.generate(&ask.prompt, spoilt),
        (None, Format::Prose) if fault != Some(Fault::HalfJson) => prose(&ask.prompt, ""),
        _ => json!({ "answer": prose(&ask.prompt, "") }).to_string(),
    }
}

/// Moves the answer where a thinking model puts it.
fn think(ask: &Ask, completion: Completion, model: ThinkingModel) -> Completion {
    let Completion { text, thinking, end } = completion;
    let thoughts = || Some(prose(&ask.prompt, "thoughts"));
    let (text, thinking) = match model {
        ThinkingModel::IgnoresFalse => (text, thoughts()),
        ThinkingModel::AnswersInThoughts => (String::new(), Some(text)),
        // Not told, it begins with its thoughts, which the schema already binds: they are the answer.
        ThinkingModel::Obedient if ask.think.is_none() => (String::new(), Some(text)),
        ThinkingModel::Obedient if ask.think == Some(true) => (text, thoughts()),
        ThinkingModel::Obedient | ThinkingModel::None => (text, thinking),
    };
    Completion { text, thinking, end }
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

/// A token with its log probability, as in the responses of both APIs.
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

fn start(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::BTreeSet;

    const NAMES: [&str; 4] = ["red", "green", "blue", "blue-like"];

    fn ask(prompt: &str, limit: Option<usize>) -> Ask {
        let schema = json!({"type": "object", "properties": {
            "zone": {"enum": NAMES}, "able": {"type": "boolean"}, "colour": {"enum": NAMES}, "free": {"type": "string"},
        }});
        let format = serde_json::from_value(schema).unwrap();
        Ask { prompt: prompt.to_owned(), format, limit, ..Ask::default() }
    }

    fn plain(ask: &Ask) -> Completion {
        complete(ask, None, ThinkingModel::None)
    }

    fn read(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_completion_follows_the_schema_and_depends_on_the_prompt_alone() {
        let mut seen = BTreeSet::new();
        for n in 0..200 {
            let prompt = format!("text number {n}");
            let given = plain(&ask(&prompt, None));
            assert_eq!(given, plain(&ask(&prompt, Some(1000))));
            assert_eq!((given.end, given.thinking.as_ref()), (CompletionEnd::Stop, None));
            let object = read(&given.text);
            let (zone, colour) = (object["zone"].as_str().unwrap(), object["colour"].as_str().unwrap());
            assert!(NAMES.contains(&zone) && NAMES.contains(&colour) && object["able"].is_boolean());
            seen.insert((zone.to_owned(), colour.to_owned()));
        }
        assert_eq!(seen.len(), 16, "all pairs occur, so the two names are chosen independently");
    }

    #[test]
    fn without_a_schema_the_completion_is_prose() {
        let mut ask = Ask { prompt: "sun".to_owned(), ..Ask::default() };
        let said = plain(&ask).text;
        assert!(said.starts_with("This is about sun and, in passing, about sun (case "), "{said}");
        ask.format = Format::Json;
        assert!(read(&plain(&ask).text)["answer"].is_string());
        ask.system = "Reply with {\"size\": \"...\"}.\nsize - how large: big, small.".to_owned();
        assert!(["big", "small"].contains(&read(&plain(&ask).text)["size"].as_str().unwrap()));
    }

    #[test]
    fn a_limit_truncates_the_completion() {
        let whole = plain(&ask("p", None)).text;
        let short = plain(&ask("p", Some(5)));
        assert_eq!((short.text.as_str(), short.end), (&whole[..20], CompletionEnd::Length));
        let enough = tokens(&whole);
        assert_eq!(plain(&ask("p", Some(enough))).end, CompletionEnd::Stop);
        assert_eq!(plain(&ask("p", Some(enough - 1))).end, CompletionEnd::Length);
    }

    #[test]
    fn faults_change_the_completion() {
        let whole = plain(&ask("p", None)).text;
        let changed = |fault| complete(&ask("p", None), Some(fault), ThinkingModel::None);
        let half = changed(Fault::HalfJson);
        assert!(whole.starts_with(&half.text) && serde_json::from_str::<Value>(&half.text).is_err());
        assert_eq!(half.end, CompletionEnd::Stop);
        assert_eq!(changed(Fault::Cut), Completion { end: CompletionEnd::Length, ..half });
        let unfinished = changed(Fault::Unfinished);
        assert_eq!((unfinished.text.as_str(), unfinished.end), (whole.as_str(), CompletionEnd::Unfinished));
        let wrong = read(&changed(Fault::WrongName).text);
        assert!(wrong["zone"].is_string() && !NAMES.contains(&wrong["zone"].as_str().unwrap()), "{wrong}");
        assert!(read(&changed(Fault::Numbers).text)["colour"].as_u64().unwrap() < 4);
        assert_eq!(changed(Fault::Echo).text, "p");
        assert_eq!(changed(Fault::Fence).text, format!("```json\n{whole}\n```"));
        assert!(changed(Fault::ThinkTag).text.ends_with(&format!("</think>\n\n{whole}")));
        assert!(changed(Fault::InProse).text.contains(&whole));
        let hidden = changed(Fault::Thinking);
        assert_eq!((hidden.text.as_str(), hidden.thinking), ("", Some(whole)));
    }

    #[test]
    fn thinking_models_put_the_answer_where_they_do() {
        let whole = plain(&ask("p", None)).text;
        let given = |think, model| {
            let given = complete(&Ask { think, ..ask("p", None) }, None, model);
            (given.text == whole, given.text.is_empty(), given.thinking.is_some())
        };
        let (answers, hides, thinks) = ((true, false, false), (false, true, true), (true, false, true));
        assert_eq!(given(Some(false), ThinkingModel::Obedient), answers);
        assert_eq!(given(Some(true), ThinkingModel::Obedient), thinks);
        assert_eq!(given(None, ThinkingModel::Obedient), hides);
        assert_eq!(given(Some(false), ThinkingModel::IgnoresFalse), thinks);
        assert_eq!(given(Some(false), ThinkingModel::AnswersInThoughts), hides);
        assert_eq!(given(None, ThinkingModel::None), answers);
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
