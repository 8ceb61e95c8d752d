//! Reads one JSON value from bytes, with bounds, and says in one sentence what is wrong with it.

use super::json_guard;
use super::words::{plain, problem};
use crate::error_code::ErrorCode;
use crate::rejection::Rejection;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::error::Category;
use std::fmt;
use std::marker::PhantomData;

/// Bytes that are not the expected JSON: the reason and the place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeError {
    /// The error code for clients.
    pub code: ErrorCode,
    /// One sentence for the client.
    pub message: String,
    /// The path to the value, as `filter.domain`.
    pub path: Option<String>,
}

impl ShapeError {
    /// An error that is not at one place.
    pub(super) fn plain(code: ErrorCode, message: impl Into<String>) -> Self {
        ShapeError { code, message: message.into(), path: None }
    }

    /// The same error in the value of `field`.
    #[must_use]
    pub(super) fn within(mut self, field: &str) -> Self {
        self.path = Some(match self.path {
            Some(path) if path.starts_with('[') => format!("{field}{path}"),
            Some(path) => format!("{field}.{path}"),
            None => field.to_owned(),
        });
        self
    }
}

/// The deepest nesting of arrays and objects in a chunk, the chunk itself included.
pub const MAX_NESTING: usize = 32;
/// The longest message and path in bytes. Both quote what the client sent.
pub(super) const MAX_QUOTE: usize = 300;

/// Reads a chunk, a query or another object. An array in its place is refused: the parser would take its items for the
/// fields, by their position.
///
/// # Errors
/// The first problem, in this order: not UTF-8, nested too deep, not JSON, wrong fields or types.
pub fn read_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ShapeError> {
    read_value::<Fields<T>>(bytes).map(|Fields(value)| value)
}

/// Reads a JSON value of any kind.
///
/// # Errors
/// As [`read_json`].
pub(super) fn read_value<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ShapeError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let message = format!("not UTF-8 at byte {}", error.valid_up_to());
        ShapeError::plain(ErrorCode::InvalidUtf8, message)
    })?;
    if text.trim_ascii().is_empty() {
        return Err(ShapeError::plain(ErrorCode::InvalidJson, "expected a JSON value, received nothing"));
    }
    json_guard::check(text.as_bytes(), MAX_NESTING)
        .map_err(|(code, message)| ShapeError::plain(code, message))?;
    let mut json = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = Some(error.path().to_string()).filter(|path| path != ".");
        shape_error(path, &error.into_inner())
    })?;
    json.end().map_err(|error| {
        let message = format!("something follows the JSON value{}", place_of(&error));
        ShapeError::plain(ErrorCode::InvalidJson, message)
    })?;
    Ok(value)
}

fn shape_error(path: Option<String>, error: &serde_json::Error) -> ShapeError {
    let text = error.to_string();
    // The parser adds the place to its message.
    let raw = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    if error.classify() != Category::Data {
        let code = match raw {
            "number out of range" => ErrorCode::NumberOutOfRange,
            _ => ErrorCode::InvalidJson,
        };
        let message = short(format!("{}{}", plain(raw), place_of(error)));
        return ShapeError { code, message, path: path.map(short) };
    }
    let problem = problem(raw);
    let path = match (path, problem.field) {
        (path, None) => path,
        (None, Some(field)) => Some(field),
        (Some(path), Some(field)) if path == field || path.ends_with(&format!(".{field}")) => Some(path),
        (Some(path), Some(field)) => Some(format!("{path}.{field}")),
    };
    ShapeError { code: problem.code, message: short(problem.message), path: path.map(short) }
}

/// Where the parser stopped. Most texts are one line, of which only the column says something.
fn place_of(error: &serde_json::Error) -> String {
    match (error.line(), error.column()) {
        (0, _) => String::new(),
        (1, column) => format!(" at column {column}"),
        (line, column) => format!(" at line {line} column {column}"),
    }
}

/// Cuts a text that quotes the client to [`MAX_QUOTE`] bytes.
fn short(mut text: String) -> String {
    if text.len() > MAX_QUOTE {
        text.truncate(text.floor_char_boundary(MAX_QUOTE));
        text.push_str(" ...");
    }
    text
}

/// An object with the fields of `T`, and never an array of their values.
#[derive(Debug, Default)]
pub struct Fields<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Fields<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor(PhantomData)).map(Fields)
    }
}

struct FieldsVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for FieldsVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(object))
    }
}

impl From<ShapeError> for Rejection {
    fn from(error: ShapeError) -> Self {
        let message = match &error.path {
            // The message of a missing, unknown or doubled field names it already.
            Some(path) if !error.message.contains(&format!("`{path}`")) => {
                format!("{path}: {}", error.message)
            }
            _ => error.message,
        };
        Rejection::new(error.code, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read from JSON")]
    struct Inner {
        number: Option<u8>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read from JSON")]
    struct Outer {
        text: String,
        inner: Option<Fields<Inner>>,
        list: Option<Vec<bool>>,
    }

    fn refused(json: &str) -> (ErrorCode, String, String) {
        let error = read_json::<Outer>(json.as_bytes()).unwrap_err();
        (error.code, error.path.unwrap_or_default(), error.message)
    }

    #[test]
    fn an_error_has_a_code_a_path_and_words_of_json() {
        for (json, code, path, message) in [
            ("{}", ErrorCode::MissingField, "text", "missing field `text`"),
            ("[\"a\"]", ErrorCode::WrongType, "", "expected an object with fields, received an array"),
            ("7", ErrorCode::WrongType, "", "expected an object with fields, received the whole number 7"),
            ("null", ErrorCode::WrongType, "", "expected an object with fields, received null"),
            (r#"{"text":1}"#, ErrorCode::WrongType, "text", "expected a text, received the whole number 1"),
            (
                r#"{"text":"","inner":[1]}"#,
                ErrorCode::WrongType,
                "inner",
                "expected an object with fields, received an array",
            ),
            (
                r#"{"text":"","inner":{"number":"a"}}"#,
                ErrorCode::WrongType,
                "inner.number",
                "expected a whole number, received the text \"a\"",
            ),
            (
                r#"{"text":"","list":[true,{}]}"#,
                ErrorCode::WrongType,
                "list[1]",
                "expected true or false, received an object",
            ),
            (r#"{"text":"","text":""}"#, ErrorCode::DuplicateKey, "text", "duplicate field `text`"),
            ("", ErrorCode::InvalidJson, "", "expected a JSON value, received nothing"),
            ("{\"text\":\"\\ud83d\"}", ErrorCode::InvalidJson, "text", "half of a surrogate pair"),
        ] {
            let received = refused(json);
            assert_eq!((received.0, received.1.as_str()), (code, path), "{json}: {}", received.2);
            assert!(received.2.starts_with(message), "{json}: {}", received.2);
        }
        let unknown = refused(r#"{"text":"","inner":{"colour":1}}"#);
        assert_eq!((unknown.0, unknown.1.as_str()), (ErrorCode::UnknownField, "inner.colour"));
    }
}
