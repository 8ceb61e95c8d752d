//! The metadata of a chunk: any JSON object, kept as it was sent. What could not be kept is refused, by name: a key
//! that stands twice (one of the two would be dropped without a word), and more keys than an object may have.

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// Keys of one object.
pub const MAX_KEYS: usize = 64;
/// How the message of a key that stands twice begins.
pub const DUPLICATE: &str = "duplicate key";
/// How the message of too many keys begins.
pub const TOO_MANY: &str = "too many keys";

/// The object.
#[derive(Debug)]
pub struct Metadata(pub Map<String, Value>);

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor).map(Metadata)
    }
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
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
            let Kept(value) = object.next_value()?;
            fields.insert(key, value);
        }
        Ok(fields)
    }
}

/// A value anywhere in the metadata.
struct Kept(Value);

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeptVisitor)
    }
}

struct KeptVisitor;

impl<'de> Visitor<'de> for KeptVisitor {
    type Value = Kept;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Kept, E> {
        Ok(Kept(Value::Null))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Kept, E> {
        Ok(Kept(Value::Bool(value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Kept, E> {
        Ok(Kept(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Kept, E> {
        Ok(Kept(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Kept, E> {
        // The parser makes no infinities: it has refused such a number already.
        Ok(Kept(Number::from_f64(value).map_or(Value::Null, Value::Number)))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Kept, E> {
        Ok(Kept(Value::String(value.to_owned())))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Kept, E> {
        Ok(Kept(Value::String(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Kept, A::Error> {
        let mut items = Vec::new();
        while let Some(Kept(item)) = array.next_element()? {
            items.push(item);
        }
        Ok(Kept(Value::Array(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Kept, A::Error> {
        ObjectVisitor.visit_map(object).map(|fields| Kept(Value::Object(fields)))
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
        let refused = |json: &str| serde_json::from_str::<Metadata>(json).unwrap_err().to_string();
        assert!(refused(r#"{"a":1,"b":2,"a":1}"#).starts_with("duplicate key `a`"));
        assert!(refused(r#"{"a":[{"b":{"c":1,"c":2}}]}"#).starts_with("duplicate key `c`"));
        assert!(refused(&object(MAX_KEYS + 1)).starts_with("too many keys: expected at most 64"));
        assert!(refused(&format!("{{\"a\":{}}}", object(MAX_KEYS + 1))).starts_with("too many keys"));
        assert!(serde_json::from_str::<Metadata>(&object(MAX_KEYS)).is_ok());
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
            let Metadata(read) = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(read, expected);
        }
    }
}
