//! JSON schemas of answers. A type of its own, because the order of the members is the order in which a bound model
//! writes them, and serde_json's maps do not keep it.

use serde::ser::{Serialize, SerializeMap, Serializer};

/// A part of a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnswerSchema {
    /// One of these names.
    Names(&'static [&'static str]),
    /// A whole number from 0, below this one.
    Codes(usize),
    /// A text that is not empty, of at most so many characters.
    Text {
        /// The most characters.
        longest: usize,
    },
    /// An array of exactly so many texts.
    Texts {
        /// The number of texts.
        count: usize,
        /// The most characters of each.
        longest: usize,
    },
    /// An array of exactly these items.
    List(Vec<AnswerSchema>),
    /// An object with exactly these members, in this order.
    Object(Vec<(&'static str, AnswerSchema)>),
}

impl AnswerSchema {
    /// Whether the strict mode of OpenAI's API has all keywords of it. It has none for the length of a text, and its
    /// root is an object.
    pub fn is_strict(&self) -> bool {
        match self {
            AnswerSchema::Names(_) | AnswerSchema::Codes(_) => true,
            AnswerSchema::Text { .. } | AnswerSchema::Texts { .. } | AnswerSchema::List(_) => false,
            AnswerSchema::Object(members) => members.iter().all(|(_, schema)| schema.is_strict()),
        }
    }
}

impl Serialize for AnswerSchema {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            AnswerSchema::Names(names) => {
                map.serialize_entry("type", "string")?;
                map.serialize_entry("enum", names)?;
            }
            AnswerSchema::Codes(count) => {
                map.serialize_entry("type", "integer")?;
                map.serialize_entry("enum", &(0..*count).collect::<Vec<usize>>())?;
            }
            AnswerSchema::Text { longest } => {
                map.serialize_entry("type", "string")?;
                map.serialize_entry("minLength", &1)?;
                map.serialize_entry("maxLength", longest)?;
            }
            AnswerSchema::Texts { count, longest } => {
                map.serialize_entry("type", "array")?;
                map.serialize_entry("items", &AnswerSchema::Text { longest: *longest })?;
                map.serialize_entry("minItems", count)?;
                map.serialize_entry("maxItems", count)?;
            }
            AnswerSchema::List(items) => {
                map.serialize_entry("type", "array")?;
                map.serialize_entry("prefixItems", items)?;
                map.serialize_entry("minItems", &items.len())?;
                map.serialize_entry("maxItems", &items.len())?;
            }
            AnswerSchema::Object(members) => {
                map.serialize_entry("type", "object")?;
                map.serialize_entry("properties", &SchemaMembers(members))?;
                map.serialize_entry("required", &members.iter().map(|(name, _)| *name).collect::<Vec<_>>())?;
                map.serialize_entry("additionalProperties", &false)?;
            }
        }
        map.end()
    }
}

/// The members of an object as a map in their order.
struct SchemaMembers<'a>(&'a [(&'static str, AnswerSchema)]);

impl Serialize for SchemaMembers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, schema)| (*name, schema)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_written_in_their_order() {
        let schema = AnswerSchema::Object(vec![
            ("z", AnswerSchema::Names(&["b", "a"])),
            ("a", AnswerSchema::Codes(2)),
            ("m", AnswerSchema::Texts { count: 3, longest: 9 }),
        ]);
        let text = r#"{"type":"object","properties":{"z":{"type":"string","enum":["b","a"]},"a":{"type":"integer","enum":[0,1]},"m":{"type":"array","items":{"type":"string","minLength":1,"maxLength":9},"minItems":3,"maxItems":3}},"required":["z","a","m"],"additionalProperties":false}"#;
        assert_eq!(serde_json::to_string(&schema).unwrap(), text);
        assert!(!schema.is_strict());
        let list = serde_json::to_string(&AnswerSchema::List(vec![AnswerSchema::Codes(1)])).unwrap();
        assert_eq!(
            list,
            r#"{"type":"array","prefixItems":[{"type":"integer","enum":[0]}],"minItems":1,"maxItems":1}"#
        );
    }
}
