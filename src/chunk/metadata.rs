//! The metadata of a chunk: a JSON object that is kept as text. A parsed tree takes ten to seventy times the memory of
//! its text, so no tree outlives the reading of its chunk.

use crate::error_code::ErrorCode;
use crate::rejection::Rejection;
use serde_json::{Map, Value};

/// The longest metadata, in bytes of its text.
pub const MAX_METADATA_BYTES: usize = 64 * 1024;

/// A JSON object as text, with sorted keys and without white space: equal objects have equal texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata(Box<str>);

impl Metadata {
    /// The metadata with these fields.
    ///
    /// # Errors
    /// A [`Rejection`] for a NUL character in a key or a text, and for more than [`MAX_METADATA_BYTES`].
    pub fn new(fields: Map<String, Value>) -> Result<Metadata, Rejection> {
        let fields = Value::Object(fields);
        if contains_nul(&fields) {
            let message = "metadata contains a NUL character; remove it";
            return Err(Rejection::new(ErrorCode::NulCharacter, message).param("metadata"));
        }
        let text = fields.to_string();
        if text.len() > MAX_METADATA_BYTES {
            let message = format!(
                "metadata too large: expected at most {MAX_METADATA_BYTES} bytes of JSON, received {}",
                text.len()
            );
            return Err(Rejection::new(ErrorCode::MetadataTooLarge, message).param("metadata"));
        }
        Ok(Metadata(text.into()))
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
        &self.0
    }

    /// The fields of the object.
    pub fn fields(&self) -> Map<String, Value> {
        // The text was written from an object, so it is one.
        serde_json::from_str(&self.0).unwrap_or_default()
    }
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
    fn the_length_of_the_text_is_limited_and_nul_is_refused_at_any_depth() {
        let of = |bytes: usize| metadata(json!({ "k": "x".repeat(bytes - r#"{"k":""}"#.len()) }));
        assert_eq!(of(MAX_METADATA_BYTES).unwrap().as_str().len(), MAX_METADATA_BYTES);
        assert_eq!(of(MAX_METADATA_BYTES + 1).unwrap_err().code, ErrorCode::MetadataTooLarge);
        for bad in [json!({"a\0": 1}), json!({"a": [{"b": "\0"}]}), json!({"a": [{"\0": 1}]})] {
            assert_eq!(metadata(bad).unwrap_err().code, ErrorCode::NulCharacter);
        }
        assert!(metadata(json!({"a": "\\u0000"})).is_ok(), "the text of an escape is no NUL");
    }
}
