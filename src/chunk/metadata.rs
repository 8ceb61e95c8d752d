//! The metadata of a chunk: a JSON object that is kept as text. A parsed tree takes ten to seventy times the memory of
//! its text, so no tree outlives the reading of its chunk.

use crate::error_code::ErrorCode;
use crate::rejection::Rejection;
use serde_json::{Map, Number, Value};

/// The longest metadata, in bytes of its text.
pub const MAX_METADATA_BYTES: usize = 64 * 1024;
/// The most characters of a name that a message quotes.
const QUOTED_NAME: usize = 40;

/// A JSON object as text, with sorted keys and without white space. Two are equal when their values are: `1` and `1.0`
/// are the same number.
#[derive(Debug, Clone)]
pub struct Metadata {
    text: Box<str>,
    hash: [u8; 32],
}

impl PartialEq for Metadata {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Eq for Metadata {}

impl Metadata {
    /// The metadata with these fields.
    ///
    /// # Errors
    /// A [`Rejection`] for a NUL character in a key or a text, and for more than [`MAX_METADATA_BYTES`].
    pub fn new(fields: Map<String, Value>) -> Result<Metadata, Rejection> {
        let nul = fields.iter().find(|(name, value)| name.contains('\0') || contains_nul(value));
        if let Some((name, _)) = nul {
            let name: String = name.chars().take(QUOTED_NAME).collect();
            let message =
                format!("metadata contains a NUL character in `{}`; remove it", name.escape_debug());
            return Err(Rejection::new(ErrorCode::NulCharacter, message).param("metadata"));
        }
        let fields = Value::Object(fields);
        let text = fields.to_string();
        if text.len() > MAX_METADATA_BYTES {
            let message = format!(
                "metadata too large: expected at most {MAX_METADATA_BYTES} bytes of JSON, received {}",
                text.len()
            );
            return Err(Rejection::new(ErrorCode::MetadataTooLarge, message).param("metadata"));
        }
        Ok(Metadata::unchecked(&fields, text))
    }

    /// The metadata of a stored chunk, of any size. `None` for text that is no JSON object.
    pub fn of_stored(text: String) -> Option<Metadata> {
        let fields: Map<String, Value> = serde_json::from_str(&text).ok()?;
        Some(Metadata::unchecked(&Value::Object(fields), text))
    }

    fn unchecked(fields: &Value, text: String) -> Metadata {
        let mut canonical = Vec::with_capacity(text.len());
        write_canonical(fields, &mut canonical);
        Metadata { text: text.into(), hash: *blake3::hash(&canonical).as_bytes() }
    }

    /// The metadata with one more field, which replaces one of the same name.
    ///
    /// # Errors
    /// As [`Metadata::new`].
    pub fn with(&self, name: &str, value: Value) -> Result<Metadata, Rejection> {
        let mut fields = self.fields();
        fields.insert(name.to_owned(), value);
        Metadata::new(fields)
    }

    /// The object as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// blake3 of the object in a form in which equal objects are equal. `None` for an object without fields: it says as
    /// much as none.
    pub fn hash(&self) -> Option<[u8; 32]> {
        (&*self.text != "{}").then_some(self.hash)
    }

    /// The fields of the object.
    pub fn fields(&self) -> Map<String, Value> {
        // The text was written from an object, so it is one.
        serde_json::from_str(&self.text).unwrap_or_default()
    }
}

/// A text, number or boolean of the metadata as a text for comparisons, in which equal numbers are equal texts. `None`
/// for other values.
pub fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(canonical_number(number)),
        Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Writes a value as JSON in which equal numbers are written alike, as PostgreSQL's `jsonb` compares them.
fn write_canonical(value: &Value, to: &mut Vec<u8>) {
    match value {
        Value::Number(number) => to.extend_from_slice(canonical_number(number).as_bytes()),
        Value::Array(items) => {
            to.push(b'[');
            for item in items {
                write_canonical(item, to);
                to.push(b',');
            }
            to.push(b']');
        }
        Value::Object(fields) => {
            to.push(b'{');
            for (name, value) in fields {
                to.extend_from_slice(Value::from(name.as_str()).to_string().as_bytes());
                to.push(b':');
                write_canonical(value, to);
                to.push(b',');
            }
            to.push(b'}');
        }
        Value::Null | Value::Bool(_) | Value::String(_) => to.extend_from_slice(value.to_string().as_bytes()),
    }
}

/// A whole number of up to 64 bits as its digits, however it was written; any other number as the shortest text that
/// reads back as the same float.
fn canonical_number(number: &Number) -> String {
    let Some(float) = number.as_f64().filter(|_| number.is_f64()) else { return number.to_string() };
    // Floats of this size and more are compared as floats: not every whole number has one.
    let whole = float.fract() == 0.0 && float.abs() < 2f64.powi(64);
    if whole { format!("{}", float as i128) } else { format!("{float:e}") }
}

fn contains_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(contains_nul),
        Value::Object(fields) => {
            fields.iter().any(|(name, value)| name.contains('\0') || contains_nul(value))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn metadata(value: Value) -> Result<Metadata, Rejection> {
        let Value::Object(fields) = value else { unreachable!() };
        Metadata::new(fields)
    }

    #[test]
    fn equal_objects_have_equal_texts_and_a_field_can_be_added() {
        let one: Map<String, Value> = serde_json::from_str(r#"{ "b": [1, 0.1], "a": "x" }"#).unwrap();
        let one = Metadata::new(one).unwrap();
        assert_eq!(one.as_str(), r#"{"a":"x","b":[1,0.1]}"#);
        let more = one.with("ab", json!(null)).unwrap();
        assert_eq!(more, metadata(json!({"ab": null, "b": [1, 0.1], "a": "x"})).unwrap());
        assert_eq!(more.fields().len(), 3);
    }

    #[test]
    fn numbers_are_equal_when_their_values_are() {
        let of =
            |text: &str| Metadata::new(serde_json::from_str(&format!("{{\"n\":{text}}}")).unwrap()).unwrap();
        for (one, other) in [
            ("1", "1.0"),
            ("1e2", "100"),
            ("0", "-0.0"),
            ("1.5", "15e-1"),
            ("18446744073709551615", "18446744073709551615"),
            ("-9223372036854775808", "-9223372036854775808.0"),
            ("1e300", "10e299"),
            ("[1,{\"k\":2}]", "[1.0,{\"k\":2e0}]"),
        ] {
            assert_eq!(of(one), of(other), "{one} {other}");
        }
        for (one, other) in [
            ("1", "1.0000001"),
            ("1", "\"1\""),
            ("9007199254740993", "9007199254740992.0"),
            ("18446744073709551615", "18446744073709551616.0"),
            ("[1]", "1"),
            ("null", "0"),
        ] {
            assert_ne!(of(one), of(other), "{one} {other}");
        }
        assert_eq!(metadata(json!({})).unwrap().hash(), None);
    }

    #[test]
    fn the_length_of_the_text_is_limited_and_nul_is_refused_at_any_depth() {
        let of = |bytes: usize| metadata(json!({ "k": "x".repeat(bytes - r#"{"k":""}"#.len()) }));
        assert_eq!(of(MAX_METADATA_BYTES).unwrap().as_str().len(), MAX_METADATA_BYTES);
        assert_eq!(of(MAX_METADATA_BYTES + 1).unwrap_err().code, ErrorCode::MetadataTooLarge);
        for bad in [json!({"a\0": 1}), json!({"a": [{"b": "\0"}]}), json!({"a": [{"\0": 1}]})] {
            let error = metadata(bad).unwrap_err();
            assert_eq!(error.code, ErrorCode::NulCharacter);
            assert!(error.message.contains("in `a"), "{}", error.message);
        }
        assert!(metadata(json!({"a": "\\u0000"})).is_ok(), "the text of an escape is no NUL");
    }
}
