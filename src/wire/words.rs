//! The words of messages about JSON. The parser's own messages speak of the types of this program (`i64`, `struct`,
//! `sequence`); clients read those of JSON: a text, a whole number, an array, an object. Pure text, in one place.

use crate::error_code::ErrorCode;

/// The beginning of the message about a duplicate key.
pub(super) const DUPLICATE_KEY: &str = "duplicate key";
/// The beginning of the message about too many keys.
pub(super) const TOO_MANY_KEYS: &str = "too many keys";
/// The beginning of the message about too many values.
pub(super) const TOO_MANY_VALUES: &str = "too many values";
/// The beginning of the message about a value that is none of a closed list.
pub(super) const UNKNOWN_VALUE: &str = "unknown value";

/// The most characters that a message quotes of a name or a value.
const MAX_QUOTE: usize = 100;

/// What is wrong with a value, in the words of JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueProblem {
    /// The error code for clients.
    pub code: ErrorCode,
    /// One sentence for the client, without the place.
    pub message: String,
    /// The field that is missing, unknown, or there twice.
    pub field: Option<String>,
}

/// Reads what a parser of serde says about a value that is JSON but not the one that is expected. serde has one error
/// type for all of them: only the beginning of the message tells them apart, and that part is stable and never contains
/// what the client sent.
pub fn problem(raw: &str) -> ValueProblem {
    let begins = |words: &str| raw.starts_with(words);
    let code = if begins("unknown field") {
        ErrorCode::UnknownField
    } else if begins("missing field") {
        ErrorCode::MissingField
    } else if begins("duplicate field") || begins(DUPLICATE_KEY) {
        ErrorCode::DuplicateKey
    } else if begins(TOO_MANY_KEYS) {
        ErrorCode::TooManyKeys
    } else if begins(TOO_MANY_VALUES) {
        ErrorCode::MetadataTooLarge
    } else if begins("invalid value") {
        ErrorCode::NumberOutOfRange
    } else if begins(UNKNOWN_VALUE) || begins("unknown variant") {
        ErrorCode::InvalidQuery
    } else {
        ErrorCode::WrongType
    };
    let named = matches!(code, ErrorCode::UnknownField | ErrorCode::MissingField | ErrorCode::DuplicateKey);
    let field = raw.split('`').nth(1).filter(|_| named).map(quoted);
    ValueProblem { code, message: plain(raw), field }
}

/// The message of a parser in the words of JSON.
pub fn plain(raw: &str) -> String {
    let typed = raw.strip_prefix("invalid type: ").or_else(|| raw.strip_prefix("invalid value: "));
    // What is expected never contains these words; what was received may.
    if let Some((received, expected)) = typed.and_then(|rest| rest.rsplit_once(", expected ")) {
        return format!("expected {}, received {}", expected_words(expected), received_words(received));
    }
    let cut = match raw.split_once(" while parsing ") {
        Some(("EOF", what)) => Some(match what {
            "a list" => "the JSON ends in the middle of an array",
            "an object" => "the JSON ends in the middle of an object",
            "a string" => "the JSON ends in the middle of a text",
            _ => "the JSON ends where a value is expected",
        }),
        _ => None,
    };
    match (cut, raw) {
        (Some(cut), _) => cut.to_owned(),
        (None, "expected ident" | "expected value") => "expected a JSON value".to_owned(),
        (None, "lone leading surrogate in hex escape" | "unexpected end of hex escape") => {
            "half of a surrogate pair in an escape: send both halves, or the character itself".to_owned()
        }
        (None, "key must be a string") => "a name in an object must be a text in double quotes".to_owned(),
        (None, "invalid number") => "a number that is not written as JSON writes numbers".to_owned(),
        (None, "trailing characters") => "more follows where it should end".to_owned(),
        (None, other) => match other.strip_prefix("control character (\\u0000-\\u001F) found") {
            Some(_) => {
                "a control character in a text: write it as an escape, for example \\n or \\t".to_owned()
            }
            None => cut_field(other),
        },
    }
}

fn expected_words(expected: &str) -> &str {
    match expected {
        "a string" | "a borrowed string" | "identifier" | "field identifier" => "a text",
        "a boolean" => "true or false",
        "i8" | "i16" | "i32" | "i64" | "u8" | "u16" | "u32" | "u64" | "usize" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a sequence" => "an array",
        "a map" => "an object",
        other if other.starts_with("struct ") => "an object with fields",
        other if other.starts_with("tuple ") => "an array",
        other => other,
    }
}

fn received_words(received: &str) -> String {
    let inside = |kind: &str| received.strip_prefix(kind).map(|value| value.trim_matches('`'));
    match received {
        "sequence" => "an array".to_owned(),
        "map" => "an object".to_owned(),
        "unit value" | "Option value" => "null".to_owned(),
        _ => {
            if let Some(value) = inside("integer ") {
                format!("the whole number {value}")
            } else if let Some(value) = inside("floating point ") {
                format!("the number {value}")
            } else if let Some(value) = inside("boolean ") {
                value.to_owned()
            } else if let Some(text) = received.strip_prefix("string ") {
                format!("the text {}", quoted(text))
            } else {
                quoted(received)
            }
        }
    }
}

/// Cuts a field name that the client made longer than a message should be.
fn cut_field(message: &str) -> String {
    match message.split_once('`').and_then(|(before, rest)| Some((before, rest.split_once('`')?))) {
        Some((before, (name, after))) => format!("{before}`{}`{after}", quoted(name)),
        None => message.to_owned(),
    }
}

/// The beginning of a text that the client sent.
pub(super) fn quoted(text: &str) -> String {
    let mut characters = text.chars();
    let mut cut: String = characters.by_ref().take(MAX_QUOTE).collect();
    if characters.next().is_some() {
        cut.push_str(" ...");
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parsers_words_become_those_of_json() {
        for (raw, message) in [
            (
                "invalid type: sequence, expected struct WireChunk",
                "expected an object with fields, received an array",
            ),
            ("invalid type: map, expected a sequence", "expected an array, received an object"),
            ("invalid type: integer `5`, expected a string", "expected a text, received the whole number 5"),
            (
                "invalid type: floating point `1.5`, expected i64",
                "expected a whole number, received the number 1.5",
            ),
            ("invalid type: boolean `true`, expected f32", "expected a number, received true"),
            ("invalid type: null, expected u8", "expected a whole number, received null"),
            (
                "invalid type: string \"a, expected u8\", expected a boolean",
                "expected true or false, received the text \"a, expected u8\"",
            ),
            ("EOF while parsing an object", "the JSON ends in the middle of an object"),
            ("missing field `text`", "missing field `text`"),
        ] {
            assert_eq!(plain(raw), message);
        }
    }

    #[test]
    fn a_problem_names_its_field_and_quotes_little() {
        let long = "n".repeat(10_000);
        let unknown = problem(&format!("unknown field `{long}`, expected `a` or `b`"));
        assert_eq!(unknown.code, ErrorCode::UnknownField);
        assert!(
            unknown.message.len() < 200 && unknown.message.ends_with("expected `a` or `b`"),
            "{unknown:?}"
        );
        assert_eq!(problem("missing field `text`").field.as_deref(), Some("text"));
        assert_eq!(problem("duplicate field `id`").code, ErrorCode::DuplicateKey);
        assert_eq!(problem("invalid type: `a`, expected b").field, None);
        let typed = problem(&format!("invalid type: string \"{long}\", expected a whole number"));
        assert!(typed.message.len() < 200, "{typed:?}");
    }
}
