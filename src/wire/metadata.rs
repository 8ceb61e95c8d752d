//! The metadata of a chunk: any JSON object, kept as it was sent. What cannot be kept is refused by name: duplicate
//! keys (one value would be lost silently), and objects with too many keys.

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// The most keys in one object, at any depth.
pub const MAX_KEYS: usize = 64;
/// The beginning of the message about a duplicate key.
pub const DUPLICATE: &str = "duplicate key";
/// The beginning of the message about too many keys.
pub const TOO_MANY: &str = "too many keys";

/// The fields of a metadata object, keys sorted.
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
            let MetadataValue(value) = object.next_value()?;
            fields.insert(key, value);
        }
        Ok(fields)
    }
}

/// A value at any depth of the metadata.
struct MetadataValue(Value);

impl<'de> Deserialize<'de> for MetadataValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MetadataValueVisitor)
    }
}

struct MetadataValueVisitor;

impl<'de> Visitor<'de> for MetadataValueVisitor {
    type Value = MetadataValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<MetadataValue, E> {
        Ok(MetadataValue(Value::Null))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<MetadataValue, E> {
        Ok(MetadataValue(Value::Bool(value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<MetadataValue, E> {
        Ok(MetadataValue(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<MetadataValue, E> {
        Ok(MetadataValue(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<MetadataValue, E> {
        // Never infinite: the parser refuses numbers that do not fit.
        Ok(MetadataValue(Number::from_f64(value).map_or(Value::Null, Value::Number)))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<MetadataValue, E> {
        Ok(MetadataValue(Value::String(value.to_owned())))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<MetadataValue, E> {
        Ok(MetadataValue(Value::String(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<MetadataValue, A::Error> {
        let mut items = Vec::new();
        while let Some(MetadataValue(item)) = array.next_element()? {
            items.push(item);
        }
        Ok(MetadataValue(Value::Array(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<MetadataValue, A::Error> {
        ObjectVisitor.visit_map(object).map(|fields| MetadataValue(Value::Object(fields)))
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
