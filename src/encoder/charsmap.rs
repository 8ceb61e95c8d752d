//! Checks the size that a normalizer in a `tokenizer.json` claims for its table, before the library reads it: the library
//! allocates what the file says, 32 GiB at most, whatever the file has.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

/// The part of the file that may hold a table of characters, as SentencePiece compiles it.
#[derive(Deserialize)]
struct NormalizerField {
    normalizer: Option<Value>,
}

/// Refuses a table that is shorter than it says. What is wrong in another way is left to the library.
pub(super) fn check_charsmaps(json: &[u8]) -> Result<(), String> {
    let Ok(NormalizerField { normalizer: Some(normalizer) }) = serde_json::from_slice(json) else {
        return Ok(());
    };
    check_value(&normalizer)
}

fn check_value(value: &Value) -> Result<(), String> {
    match value {
        Value::Object(fields) => fields.iter().try_for_each(|(name, value)| match value {
            Value::String(table) if name == "precompiled_charsmap" => check_table(table),
            value => check_value(value),
        }),
        Value::Array(values) => values.iter().try_for_each(check_value),
        _ => Ok(()),
    }
}

/// The table is base64: the length of its trie in bytes, as 32 bits with the lowest byte first, then the trie, then texts.
fn check_table(table: &str) -> Result<(), String> {
    let Ok(bytes) = STANDARD.decode(table) else { return Ok(()) };
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Ok(()) };
    let length = u32::from_le_bytes(*length) as usize;
    if length <= rest.len() {
        return Ok(());
    }
    Err(format!(
        "the precompiled_charsmap of its normalizer is cut off: expected {length} bytes, received {}",
        rest.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_that_is_shorter_than_it_says_is_refused_wherever_it_is() {
        let table = |length: u32, bytes: usize| {
            STANDARD.encode([length.to_le_bytes().as_slice(), &vec![0; bytes]].concat())
        };
        let file =
            |table: &str| json!({"normalizer": {"precompiled_charsmap": table}, "model": 1}).to_string();
        assert_eq!(check_charsmaps(file(&table(8, 9)).as_bytes()), Ok(()));
        let error = check_charsmaps(file(&table(u32::MAX, 2)).as_bytes()).unwrap_err();
        assert!(error.ends_with("expected 4294967295 bytes, received 2"), "{error}");
        let inside = json!({"normalizer": {"normalizers": [{"precompiled_charsmap": table(4, 3)}]}});
        assert!(check_charsmaps(inside.to_string().as_bytes()).is_err());
        for other in ["{", "{}", r#"{"normalizer":null}"#, &file("no base64!"), &file("")] {
            assert_eq!(check_charsmaps(other.as_bytes()), Ok(()), "{other}");
        }
    }
}
