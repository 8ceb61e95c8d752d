//! A call for an answer, whichever API it came through.

use super::instructions;
use super::schema::Schema;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// What the model is asked for.
#[derive(Debug, Default)]
pub struct Ask {
    /// The name of the model, as sent.
    pub model: String,
    /// The system prompt; empty if there is none.
    pub system: String,
    /// The user prompt, on which the answer depends.
    pub prompt: String,
    /// The form of the answer that the server enforces.
    pub format: Format,
    /// The most tokens to generate.
    pub limit: Option<usize>,
    /// Whether the log probability of each token is wanted.
    pub logprobs: bool,
    /// Whether the response is streamed.
    pub stream: bool,
    /// `think`: whether a thinking model should think; `None` leaves it to the model.
    pub think: Option<bool>,
}

impl Ask {
    /// The schema of the answer: the enforced one, or the one that the prompt describes and a good model keeps to.
    pub fn schema(&self) -> Option<Schema> {
        match &self.format {
            Format::Schema(schema) => Some((**schema).clone()),
            _ => instructions::wanted(&self.system).or_else(|| instructions::wanted(&self.prompt)),
        }
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
    /// A value of this schema.
    Schema(Box<Schema>),
    /// Any other value, which the server rejects.
    Invalid,
}

/// `format` of Ollama's API: `"json"`, a schema, or nothing.
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

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Format, A::Error> {
        Ok(Format::Schema(Box::new(Schema::deserialize(MapAccessDeserializer::new(members))?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_those_of_ollama() {
        let format = |text: &str| serde_json::from_str::<Format>(text).unwrap();
        assert_eq!((format("null"), format(r#""""#)), (Format::Prose, Format::Prose));
        assert_eq!(format(r#""json""#), Format::Json);
        for text in [r#""xml""#, "true", "7", "-7", "0.5", "[]", r#"["json",{"a":1}]"#] {
            assert_eq!(format(text), Format::Invalid, "{text}");
        }
        let schema =
            format(r#"{"type":"object","properties":{"zebra":{"enum":["b","a"]},"ant":{"type":"string"}}}"#);
        let Format::Schema(schema) = schema else { panic!("{schema:?}") };
        assert_eq!(
            schema.properties.0.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["zebra", "ant"]
        );
        assert_eq!(schema.properties.0[0].1.values, Some(vec!["b".into(), "a".into()]));
    }
}
