//! Reads the metadata of a chunk: any JSON object, kept as it was sent, and the fields of the chunk that are not known,
//! which are kept there too. What cannot be kept is refused by name: duplicate keys (one value would be lost silently),
//! objects with too many keys, and metadata with too many values: the tree that the parser builds takes up to seventy
//! times the bytes of its text.

use super::words::{DUPLICATE_KEY, TOO_MANY_KEYS, TOO_MANY_VALUES};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::Cell;
use std::fmt;

/// The most keys in one object, at any depth.
pub const MAX_KEYS: usize = 64;
/// The most values, arrays and objects in the metadata of a chunk, at all depths together.
pub const MAX_VALUES: usize = 1024;
/// The metadata of one chunk while it is read.
#[derive(Debug, Default)]
pub(super) struct MetadataReader {
    /// The object `metadata`.
    pub(super) fields: Option<Map<String, Value>>,
    /// Fields of the chunk that are not known.
    pub(super) unknown: Map<String, Value>,
    /// The number of values that were read.
    values: Cell<usize>,
}

impl MetadataReader {
    /// Reads the value of the chunk's field `metadata`.
    pub(super) fn read_fields<'de, A: MapAccess<'de>>(&mut self, chunk: &mut A) -> Result<(), A::Error> {
        self.fields = chunk.next_value_seed(OptionalObjectSeed(&self.values))?;
        Ok(())
    }

    /// Reads the value of a field that is not known.
    pub(super) fn read_unknown<'de, A: MapAccess<'de>>(
        &mut self,
        name: String,
        chunk: &mut A,
    ) -> Result<(), A::Error> {
        if self.unknown.contains_key(&name) {
            return Err(A::Error::custom(format_args!("{DUPLICATE_KEY} `{name}`")));
        }
        if self.unknown.len() == MAX_KEYS {
            return Err(too_many_keys());
        }
        let value = chunk.next_value_seed(ValueSeed(&self.values))?;
        self.unknown.insert(name, value);
        Ok(())
    }

    /// The metadata with the unknown fields, and their names. A field of the same name that is in the metadata already
    /// stays as it is.
    pub(super) fn finish<E: Error>(self) -> Result<ReadMetadata, E> {
        let names: Vec<String> = self.unknown.keys().cloned().collect();
        if names.is_empty() {
            return Ok(ReadMetadata { fields: self.fields, unknown: names });
        }
        let mut fields = self.fields.unwrap_or_default();
        for (name, value) in self.unknown {
            fields.entry(name).or_insert(value);
        }
        if fields.len() > MAX_KEYS {
            return Err(too_many_keys());
        }
        Ok(ReadMetadata { fields: Some(fields), unknown: names })
    }
}

/// The metadata of one chunk.
#[derive(Debug)]
pub(super) struct ReadMetadata {
    /// Its fields; absent without metadata and unknown fields.
    pub(super) fields: Option<Map<String, Value>>,
    /// The names of the unknown fields.
    pub(super) unknown: Vec<String>,
}

fn too_many_keys<E: Error>() -> E {
    E::custom(format_args!(
        "{TOO_MANY_KEYS}: expected at most {MAX_KEYS} in an object; fields that are not known count as keys of the metadata"
    ))
}

/// Reads an object or `null`; the cell has the number of values so far.
struct OptionalObjectSeed<'a>(&'a Cell<usize>);

impl<'de> DeserializeSeed<'de> for OptionalObjectSeed<'_> {
    type Value = Option<Map<String, Value>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for OptionalObjectSeed<'_> {
    type Value = Option<Map<String, Value>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(self.0)).map(Some)
    }
}

/// Reads an object; the cell has the number of values so far.
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
                return Err(A::Error::custom(format_args!("{DUPLICATE_KEY} `{key}`")));
            }
            if fields.len() == MAX_KEYS {
                return Err(too_many_keys());
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
        if self.0.get() == MAX_VALUES {
            let message = format_args!("{TOO_MANY_VALUES}: expected at most {MAX_VALUES} in the metadata");
            return Err(D::Error::custom(message));
        }
        self.0.set(self.0.get() + 1);
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
    use serde_json::from_str;

    /// What is read of an object whose field `m` is the metadata; all others are unknown.
    struct Read(Option<Map<String, Value>>, Vec<String>);

    impl<'de> serde::Deserialize<'de> for Read {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct ReadVisitor;
            impl<'de> Visitor<'de> for ReadVisitor {
                type Value = Read;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("an object")
                }

                fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Read, A::Error> {
                    let mut reader = MetadataReader::default();
                    while let Some(key) = object.next_key::<String>()? {
                        if key == "m" {
                            reader.read_fields(&mut object)?;
                        } else {
                            reader.read_unknown(key, &mut object)?;
                        }
                    }
                    reader.finish().map(|ReadMetadata { fields, unknown }| Read(fields, unknown))
                }
            }
            deserializer.deserialize_map(ReadVisitor)
        }
    }

    fn object(keys: usize) -> String {
        let fields: Vec<String> = (0..keys).map(|n| format!("\"k{n}\":{n}")).collect();
        format!("{{{}}}", fields.join(","))
    }

    #[test]
    fn what_could_not_be_kept_is_refused_by_name_at_any_depth() {
        let is_read = |json: &str| from_str::<Read>(&format!("{{\"m\":{json}}}")).is_ok();
        let refused = |json: &str| from_str::<Read>(&format!("{{\"m\":{json}}}")).err().unwrap().to_string();
        assert!(refused(r#"{"a":1,"b":2,"a":1}"#).starts_with("duplicate key `a`"));
        assert!(refused(r#"{"a":[{"b":{"c":1,"c":2}}]}"#).starts_with("duplicate key `c`"));
        assert!(refused(&object(MAX_KEYS + 1)).starts_with("too many keys: expected at most 64"));
        assert!(refused(&format!("{{\"a\":{}}}", object(MAX_KEYS + 1))).starts_with("too many keys"));
        assert!(is_read(&object(MAX_KEYS)) && is_read("null"));
        let values = |count: usize| format!("{{\"a\":[{}]}}", vec!["0"; count - 1].join(","));
        assert!(refused(&values(MAX_VALUES + 1)).starts_with("too many values: expected at most 1024"));
        assert!(is_read(&values(MAX_VALUES)));
        assert!(refused("[1]").starts_with("invalid type: sequence, expected an object"));
    }

    #[test]
    fn unknown_fields_are_kept_beside_the_metadata_and_never_in_its_place() {
        let Read(fields, names) =
            from_str(r#"{"b":[1],"m":{"a":"mine","c":1},"a":"other","d":null}"#).unwrap();
        assert_eq!(Value::Object(fields.unwrap()).to_string(), r#"{"a":"mine","b":[1],"c":1,"d":null}"#);
        assert_eq!(names, ["a", "b", "d"]);
        let Read(fields, names) = from_str("{}").unwrap();
        assert!(fields.is_none() && names.is_empty());
        let refused = |json: String| from_str::<Read>(&json).err().unwrap().to_string();
        assert!(refused(r#"{"b":1,"b":1}"#.to_owned()).starts_with("duplicate key `b`"));
        assert!(refused(object(MAX_KEYS + 1)).starts_with("too many keys"));
        let together = |keys: usize| format!("{{\"m\":{},\"x\":1}}", object(keys));
        assert!(from_str::<Read>(&together(MAX_KEYS - 1)).is_ok());
        assert!(refused(together(MAX_KEYS)).starts_with("too many keys"));
        let values = format!("{{\"m\":{{\"a\":[{}]}},\"x\":1}}", vec!["0"; MAX_VALUES - 1].join(","));
        assert!(refused(values).starts_with("too many values"), "both count together");
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
            let json = serde_json::json!({ "m": { "k": value } });
            let Read(fields, names) = from_str(&json.to_string()).unwrap();
            prop_assert_eq!(Value::Object(fields.unwrap()), json["m"].clone());
            prop_assert!(names.is_empty());
        }
    }
}
