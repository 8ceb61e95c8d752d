//! Fields of chunks that are not known: they are kept in the metadata and counted, or refused, as the request wants.

use super::values::one_of;
use super::words::quoted;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The most names that are counted on their own.
const MAX_NAMES: usize = 64;
/// Fields of further names are counted together under this one.
pub const OTHER_NAMES: &str = "(others)";

/// What happens to a chunk with a field that is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UnknownFieldPolicy {
    /// The field is kept in the metadata of the chunk and counted in the answer.
    #[default]
    Keep,
    /// The chunk is refused, with the name of the field.
    Refuse,
}

impl<'de> Deserialize<'de> for UnknownFieldPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        one_of(deserializer, &[("keep", UnknownFieldPolicy::Keep), ("refuse", UnknownFieldPolicy::Refuse)])
    }
}

/// How many chunks of a request had which fields that are not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnknownFieldCounts(BTreeMap<String, u64>);

impl UnknownFieldCounts {
    /// Counts the unknown fields of one chunk.
    pub fn add(&mut self, names: &[String]) {
        for name in names {
            let name = quoted(name);
            let is_counted = self.0.len() < MAX_NAMES || self.0.contains_key(&name);
            *self.0.entry(if is_counted { name } else { OTHER_NAMES.to_owned() }).or_insert(0) += 1;
        }
    }

    /// The counts by name, for the answer. `None` when every field was known.
    pub fn object(&self) -> Option<Value> {
        let counts = self.0.iter().map(|(name, count)| (name.clone(), Value::from(*count)));
        (!self.0.is_empty()).then(|| Value::Object(counts.collect::<Map<_, _>>()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_are_counted_by_name_and_the_names_are_bounded() {
        let mut counts = UnknownFieldCounts::default();
        assert_eq!(counts.object(), None);
        counts.add(&["a".to_owned(), "b".to_owned()]);
        counts.add(&["a".to_owned()]);
        assert_eq!(counts.object(), Some(json!({"a": 2, "b": 1})));
        for n in 0..1000 {
            counts.add(&[format!("{n:03}{}", "x".repeat(10_000))]);
        }
        counts.add(&["a".to_owned()]);
        let object = counts.object().unwrap();
        assert_eq!((&object["a"], &object["b"], &object[OTHER_NAMES]), (&json!(3), &json!(1), &json!(938)));
        assert_eq!(object.as_object().unwrap().len(), MAX_NAMES + 1);
        assert!(object.to_string().len() < 64 * 130);
    }

    #[test]
    fn the_policy_is_one_of_two_words() {
        let read = |json: &str| serde_json::from_str::<UnknownFieldPolicy>(json).ok();
        assert_eq!(read("\"keep\""), Some(UnknownFieldPolicy::Keep));
        assert_eq!(read("\"Refuse\""), Some(UnknownFieldPolicy::Refuse));
        assert_eq!([read("\"drop\""), read("true"), read("\"\"")], [None; 3]);
    }
}
