//! The body of `/api/generate`, reduced to the fields that affect the simulation.

use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::fmt;

/// The body of a generate call; fields as in Ollama's API.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct GenerateRequest {
    pub model: String,
    pub prompt: Option<String>,
    pub system: Option<String>,
    pub stream: Option<bool>,
    pub format: Format,
    pub options: Option<ModelOptions>,
    pub logprobs: Option<bool>,
}

/// The model options, reduced to the one that affects the simulation.
#[derive(Debug, Default, Deserialize)]
pub struct ModelOptions {
    pub num_predict: Option<i64>,
}

impl GenerateRequest {
    pub fn prompt(&self) -> &str {
        self.prompt.as_deref().unwrap_or_default()
    }

    /// The most tokens to generate; `None` if `num_predict` is absent or not positive.
    pub fn limit(&self) -> Option<usize> {
        let limit = self.options.as_ref()?.num_predict?;
        usize::try_from(limit).ok().filter(|limit| *limit > 0)
    }

    /// Whether the response is streamed as lines; the default of Ollama is true.
    pub fn stream(&self) -> bool {
        self.stream.unwrap_or(true)
    }
}

/// The required form of the generated text.
#[derive(Debug, Default, PartialEq)]
pub enum Format {
    /// The output is free text.
    #[default]
    Prose,
    /// Any JSON object.
    Json,
    /// A JSON object with these properties, in this order.
    Schema(Vec<(String, Property)>),
    /// Any other value, which the server rejects.
    Invalid,
}

/// A property of a schema: an enumeration, or a type.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Property {
    #[serde(rename = "enum")]
    pub values: Option<Vec<Value>>,
    #[serde(rename = "type")]
    pub kind: Option<Value>,
}

impl<'de> Deserialize<'de> for Format {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(FormatVisitor)
    }
}

struct FormatVisitor;

impl<'de> Visitor<'de> for FormatVisitor {
    type Value = Format;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a format")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Format, E> {
        Ok(Format::Prose)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Format, E> {
        Ok(match text {
            "" => Format::Prose,
            "json" => Format::Json,
            _ => Format::Invalid,
        })
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Format, E> {
        Ok(Format::Invalid)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Format, E> {
        Ok(Format::Invalid)
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Format, E> {
        Ok(Format::Invalid)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Format, E> {
        Ok(Format::Invalid)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Format, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Format::Invalid)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Format, A::Error> {
        let mut properties = Vec::new();
        while let Some(name) = members.next_key::<String>()? {
            if name == "properties" {
                properties = members.next_value::<OrderedProperties>()?.0;
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Format::Schema(properties))
    }
}

/// The members of an object in the order of the text, which a map would not keep.
struct OrderedProperties(Vec<(String, Property)>);

impl<'de> Deserialize<'de> for OrderedProperties {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(OrderedPropertiesVisitor)
    }
}

struct OrderedPropertiesVisitor;

impl<'de> Visitor<'de> for OrderedPropertiesVisitor {
    type Value = OrderedProperties;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the properties of a schema")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<OrderedProperties, A::Error> {
        let mut properties = Vec::new();
        while let Some(property) = members.next_entry()? {
            properties.push(property);
        }
        Ok(OrderedProperties(properties))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> GenerateRequest {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_schema_keeps_its_order() {
        let ask = read(
            r#"{"model":"m","prompt":"p","format":{"type":"object","properties":{
                "zebra":{"enum":["b","a"]},"ant":{"type":"string","description":"x"}},"required":["ant"]}}"#,
        );
        let Format::Schema(properties) = ask.format else { panic!("{:?}", ask.format) };
        assert_eq!(properties.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["zebra", "ant"]);
        assert_eq!(properties[0].1.values, Some(vec!["b".into(), "a".into()]));
        assert_eq!(properties[1].1.kind, Some("string".into()));
    }

    #[test]
    fn formats_and_limits_are_those_of_ollama() {
        let format = |text: &str| read(&format!(r#"{{"format":{text}}}"#)).format;
        assert_eq!((format("null"), format(r#""""#)), (Format::Prose, Format::Prose));
        assert_eq!(read("{}").format, Format::Prose);
        assert_eq!(format(r#""json""#), Format::Json);
        for text in [r#""xml""#, "true", "7", "-7", "0.5", r#"["json",{"a":1}]"#] {
            assert_eq!(format(text), Format::Invalid, "{text}");
        }
        let limit = |n: i64| read(&format!(r#"{{"options":{{"num_predict":{n},"seed":1}}}}"#)).limit();
        assert_eq!((limit(160), limit(-1), limit(0), read("{}").limit()), (Some(160), None, None, None));
        assert!(read("{}").stream() && !read(r#"{"stream":false}"#).stream());
        assert_eq!(read(r#"{"prompt":null}"#).prompt(), "");
    }
}
