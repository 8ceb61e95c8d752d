//! Reads the metadata of a chunk: any JSON object, kept as it was sent. What cannot be kept is refused by name:
//! duplicate keys (one value would be lost silently), objects with too many keys, and metadata with too many values:
//! the tree that the parser builds takes up to seventy times the bytes of its text.

use crate::chunk::Metadata;
use crate::rejection::Rejection;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::Cell;
use std::fmt;

/// The most keys in one object, at any depth.
pub const MAX_KEYS: usize = 64;
/// The most values, arrays and objects in the metadata of a chunk, at all depths together.
pub const MAX_VALUES: usize = 1024;
/// The beginning of the message about a duplicate key.
pub const DUPLICATE: &str = "duplicate key";
/// The beginning of the message about too many keys.
pub const TOO_MANY: &str = "too many keys";
/// The beginning of the message about too many values.
pub const TOO_LARGE: &str = "too many values";

/// The metadata object of a chunk as it was sent. The tree is gone: its text is kept, or what is wrong with it.
#[derive(Debug)]
pub struct SentMetadata(pub Result<Metadata, Rejection>);

impl<'de> Deserialize<'de> for SentMetadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = deserializer.deserialize_map(ObjectVisitor(&Cell::new(MAX_VALUES)))?;
        Ok(SentMetadata(Metadata::new(fields)))
    }
}

/// Reads an object; the cell has the number of values that may still follow.
struct ObjectVisitor<'a>(&'a Cell<usize>);

impl<'de> Visitor<'de> for ObjectVisitor<'_> {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = object.next_key::<String>()? {
            if fields.contains_key(&key) {
                return Err(A::Error::custom(format_args!("{DUPLICATE} `{key}`")));
            }
            if fields.len() == MAX_KEYS {
                return Err(A::Error::custom(format_args!(
                    "{TOO_MANY}: expected at most {MAX_KEYS} in an object"
                )));
            }
            let value = object.next_value_seed(ValueSeed(self.0))?;
            fields.insert(key, value);
        }
        Ok(fields)
    }
}

/// Reads a value at any depth of the metadata.
#[derive(Clone, Copy)]
struct ValueSeed<'a>(&'a Cell<usize>);

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let left = self.0.get().checked_sub(1).ok_or_else(|| {
            D::Error::custom(format_args!("{TOO_LARGE}: expected at most {MAX_VALUES} in the metadata"))
        })?;
        self.0.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        // Never infinite: the parser refuses numbers that do not fit.
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = array.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Value, A::Error> {
        ObjectVisitor(self.0).visit_map(object).map(Value::Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn object(keys: usize) -> String {
        let fields: Vec<String> = (0..keys).map(|n| format!("\"k{n}\":{n}")).collect();
        format!("{{{}}}", fields.join(","))
    }

    #[test]
    fn what_could_not_be_kept_is_refused_by_name_at_any_depth() {
        let refused = |json: &str| serde_json::from_str::<SentMetadata>(json).unwrap_err().to_string();
        assert!(refused(r#"{"a":1,"b":2,"a":1}"#).starts_with("duplicate key `a`"));
        assert!(refused(r#"{"a":[{"b":{"c":1,"c":2}}]}"#).starts_with("duplicate key `c`"));
        assert!(refused(&object(MAX_KEYS + 1)).starts_with("too many keys: expected at most 64"));
        assert!(refused(&format!("{{\"a\":{}}}", object(MAX_KEYS + 1))).starts_with("too many keys"));
        assert!(serde_json::from_str::<SentMetadata>(&object(MAX_KEYS)).is_ok());
        let values = |count: usize| format!("{{\"a\":[{}]}}", vec!["0"; count - 1].join(","));
        assert!(refused(&values(MAX_VALUES + 1)).starts_with("too many values: expected at most 1024"));
        assert!(serde_json::from_str::<SentMetadata>(&values(MAX_VALUES)).is_ok());
        assert!(refused("[1]").starts_with("invalid type: sequence, expected an object"));
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(".{0,4}", inner, 0..4)
                    .prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn everything_else_is_kept_as_it_is(value in any_value()) {
            let json = serde_json::json!({ "k": value }).to_string();
            let expected: Map<String, Value> = serde_json::from_str(&json).unwrap();
            let SentMetadata(read) = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(read.map(|read| read.fields()), Metadata::new(expected.clone()).map(|_| expected));
        }
    }
}
