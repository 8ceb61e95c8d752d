//! A JSON schema as the simulated model uses it: the keywords that determine a value, members in the order of the text.

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::{Value, json};
use std::fmt;
use std::marker::PhantomData;

/// A schema, reduced to the keywords that language model servers enforce. Other keywords are ignored.
#[derive(Debug, Default, Clone, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Schema {
    /// The permitted values.
    #[serde(rename = "enum")]
    pub values: Option<Vec<Value>>,
    /// The only permitted value.
    #[serde(rename = "const")]
    pub constant: Option<Value>,
    /// The name of the type, or a list of names.
    #[serde(rename = "type")]
    pub kind: Option<Value>,
    /// The members of an object, in order; all of them are generated.
    pub properties: Ordered<Schema>,
    /// The schema of the items of an array after those of `prefix_items`.
    pub items: SchemaOrBool,
    /// The schemas of the first items of an array.
    pub prefix_items: Vec<Schema>,
    /// The fewest items of an array.
    pub min_items: Option<usize>,
    /// The most items of an array.
    pub max_items: Option<usize>,
    /// The fewest characters of a string.
    pub min_length: Option<usize>,
    /// The most characters of a string.
    pub max_length: Option<usize>,
    /// The smallest number.
    pub minimum: Option<i64>,
    /// The largest number.
    pub maximum: Option<i64>,
    /// Alternatives; the first is generated.
    #[serde(alias = "oneOf")]
    pub any_of: Vec<Schema>,
}

/// A schema where JSON Schema also permits `true` (anything) and `false` (nothing).
#[derive(Debug, Default, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum SchemaOrBool {
    /// Values of this schema.
    Schema(Box<Schema>),
    /// Whether any value is permitted.
    Bool(bool),
    /// The keyword is absent.
    #[default]
    Absent,
}

/// The members of an object in the order of the text, which a map would not keep.
#[derive(Debug, Clone, PartialEq)]
pub struct Ordered<V>(pub Vec<(String, V)>);

impl<V> Default for Ordered<V> {
    fn default() -> Self {
        Ordered(Vec::new())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Ordered<V> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(OrderedVisitor(PhantomData))
    }
}

struct OrderedVisitor<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for OrderedVisitor<V> {
    type Value = Ordered<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Ordered<V>, A::Error> {
        let mut ordered = Vec::new();
        while let Some(member) = members.next_entry()? {
            ordered.push(member);
        }
        Ok(Ordered(ordered))
    }
}

/// How the values of a schema are spoilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoilt {
    /// Values that resemble the permitted ones but are not among them.
    Wrong,
    /// Numbers in place of names.
    Numbers,
}

impl Schema {
    /// A value of the schema as JSON text. It depends on the prompt and on the path of the value alone.
    ///
    /// Formatted by hand, because serde_json's map does not keep the order of the schema.
    pub fn generate(&self, prompt: &str, spoilt: Option<Spoilt>) -> String {
        self.value(prompt, "", spoilt)
    }

    fn value(&self, prompt: &str, path: &str, spoilt: Option<Spoilt>) -> String {
        let number = number(prompt, path);
        let place = |count: usize| (number % count.max(1) as u64) as usize;
        let values = self.values.clone().or_else(|| self.constant.clone().map(|value| vec![value]));
        if let Some(values) = values {
            let place = place(values.len());
            let chosen = values.get(place).cloned().unwrap_or_default();
            return match spoilt {
                Some(Spoilt::Wrong) => wrong(&chosen, &values).to_string(),
                Some(Spoilt::Numbers) => json!(place).to_string(),
                None => chosen.to_string(),
            };
        }
        if let Some(first) = self.any_of.first() {
            return first.value(prompt, path, spoilt);
        }
        match self.kind() {
            Some("object") => self.object(prompt, path, spoilt),
            Some("array") => self.array(prompt, path, spoilt),
            Some("integer") => json!(self.integer(number, spoilt)).to_string(),
            Some("number") => json!((number % 1000) as f64 / 1000.0).to_string(),
            Some("boolean") => json!(number.is_multiple_of(2)).to_string(),
            Some("null") => "null".to_owned(),
            _ => json!(self.text(prompt, path)).to_string(),
        }
    }

    /// The first type; without the keyword, what the other keywords imply.
    fn kind(&self) -> Option<&str> {
        let kind = self.kind.as_ref();
        let first = kind.and_then(Value::as_array).and_then(|kinds| kinds.first()).or(kind);
        first.and_then(Value::as_str).or_else(|| {
            let array = !self.prefix_items.is_empty() || self.items != SchemaOrBool::Absent;
            if self.properties.0.is_empty() { array.then_some("array") } else { Some("object") }
        })
    }

    fn object(&self, prompt: &str, path: &str, spoilt: Option<Spoilt>) -> String {
        let members = self.properties.0.iter().map(|(name, schema)| {
            let value = schema.value(prompt, &below(path, name), spoilt);
            format!("{}: {value}", Value::from(name.as_str()))
        });
        format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
    }

    fn array(&self, prompt: &str, path: &str, spoilt: Option<Spoilt>) -> String {
        let fewest = self.min_items.unwrap_or(0).max(self.prefix_items.len());
        let most = self.max_items.unwrap_or(fewest);
        let extra = number(prompt, path) % (most.saturating_sub(fewest) as u64 + 1);
        let any = Schema::default();
        let items = (0..fewest + extra as usize).map(|at| {
            let schema = self.prefix_items.get(at).unwrap_or(match &self.items {
                SchemaOrBool::Schema(schema) => schema,
                _ => &any,
            });
            schema.value(prompt, &below(path, &at.to_string()), spoilt)
        });
        format!("[{}]", items.collect::<Vec<_>>().join(", "))
    }

    fn integer(&self, number: u64, spoilt: Option<Spoilt>) -> i64 {
        let low = self.minimum.unwrap_or(0);
        let high = self.maximum.unwrap_or(low.saturating_add(99)).max(low);
        match spoilt {
            Some(Spoilt::Wrong) => high.saturating_add(1),
            _ => low + (number % (high.abs_diff(low) + 1)) as i64,
        }
    }

    fn text(&self, prompt: &str, path: &str) -> String {
        let mut text = prose(prompt, path);
        while text.chars().count() < self.min_length.unwrap_or(0) {
            text.push_str(" And so on.");
        }
        text.chars().take(self.max_length.unwrap_or(usize::MAX)).collect()
    }
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") }
}

/// A name that resembles `chosen` but is not one of `values`; of numbers, one more than the largest.
fn wrong(chosen: &Value, values: &[Value]) -> Value {
    if let Some(largest) =
        values.iter().map(Value::as_i64).collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().max())
    {
        return json!(largest.saturating_add(1));
    }
    let mut name = chosen.as_str().map_or_else(|| chosen.to_string(), str::to_owned);
    while values.iter().any(|value| value.as_str() == Some(&name)) {
        name.push_str("-like");
    }
    name.into()
}

/// A sentence that contains two words of the prompt, which depend on the path, and a number, in which two sentences of
/// a short prompt differ.
pub fn prose(prompt: &str, path: &str) -> String {
    // A mark that delimits the material is no word of it.
    let is_mark = |word: &str| word.len() == 16 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let words: Vec<&str> = prompt
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty() && !is_mark(word))
        .collect();
    let word = |name: &str| {
        let place = number(prompt, &below(path, name)) % words.len().max(1) as u64;
        words.get(place as usize).copied().unwrap_or("nothing")
    };
    let case = number(prompt, &below(path, "case")) % 1_000_000;
    format!("This is about {} and, in passing, about {} (case {case}).", word("first"), word("second"))
}

/// A pseudo-random number derived from both texts and the boundary between them.
fn number(prompt: &str, path: &str) -> u64 {
    let mut bytes = [0; 8];
    hash(prompt, path).finalize_xof().fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// The state from which pseudo-random values of a prompt are drawn.
pub fn hash(prompt: &str, name: &str) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(prompt.len() as u64).to_le_bytes()).update(prompt.as_bytes()).update(name.as_bytes());
    hasher
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn schema(text: &str) -> Schema {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn members_come_in_the_order_of_the_schema_at_every_depth() {
        let text = r#"{"properties":{"z":{"enum":["1"]},"a \"b\"":{"const":"2"},
            "m":{"type":"object","properties":{"y":{"enum":[3]},"b":{"type":"null"}}}}}"#;
        let made = schema(text).generate("p", None);
        assert_eq!(made, r#"{"z": "1", "a \"b\"": "2", "m": {"y": 3, "b": null}}"#);
    }

    #[test]
    fn every_value_keeps_the_limits_of_its_schema() {
        let text = r#"{"type":"object","properties":{
            "short":{"type":"string","maxLength":12},"long":{"type":"string","minLength":300,"maxLength":310},
            "three":{"type":"array","items":{"type":"string","maxLength":40},"minItems":3,"maxItems":3},
            "some":{"type":"array","items":{"enum":[1,2]},"minItems":1,"maxItems":4},
            "pair":{"type":"array","prefixItems":[{"enum":["a"]},{"type":"integer","minimum":5,"maximum":7}],"items":false},
            "either":{"anyOf":[{"type":"integer","minimum":-3,"maximum":-1},{"type":"null"}]},
            "able":{"type":["boolean","null"]},"share":{"type":"number"}}}"#;
        let schema = schema(text);
        let mut lengths = BTreeSet::new();
        for n in 0..50 {
            let made: Value =
                serde_json::from_str(&schema.generate(&format!("text number {n}"), None)).unwrap();
            assert_eq!(made["short"].as_str().unwrap().chars().count(), 12);
            assert!((300..=310).contains(&made["long"].as_str().unwrap().chars().count()));
            assert_eq!(made["three"].as_array().unwrap().len(), 3);
            lengths.insert(made["some"].as_array().unwrap().len());
            assert_eq!((made["pair"].as_array().unwrap().len(), &made["pair"][0]), (2, &json!("a")));
            assert!((5..=7).contains(&made["pair"][1].as_i64().unwrap()));
            assert!((-3..=-1).contains(&made["either"].as_i64().unwrap()));
            assert!(made["able"].is_boolean() && (0.0..1.0).contains(&made["share"].as_f64().unwrap()));
        }
        assert_eq!(lengths, BTreeSet::from([1, 2, 3, 4]));
    }

    #[test]
    fn texts_of_one_answer_differ_by_their_place() {
        let text = r#"{"type":"array","items":{"type":"string"},"minItems":3,"maxItems":3}"#;
        let prompt = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen";
        let made: Vec<String> = serde_json::from_str(&schema(text).generate(prompt, None)).unwrap();
        assert_eq!(made.iter().collect::<BTreeSet<_>>().len(), 3, "{made:?}");
    }

    #[test]
    fn spoilt_values_are_outside_of_the_schema() {
        let schema = schema(
            r#"{"properties":{"name":{"enum":["a","a-like"]},"code":{"type":"integer","maximum":15},"listed":{"enum":[1,2]}}}"#,
        );
        let made: Value = serde_json::from_str(&schema.generate("p", Some(Spoilt::Wrong))).unwrap();
        assert!(made["name"].as_str().unwrap().starts_with("a-like-like"), "{made}");
        assert_eq!((&made["code"], &made["listed"]), (&json!(16), &json!(3)));
        let made: Value = serde_json::from_str(&schema.generate("p", Some(Spoilt::Numbers))).unwrap();
        assert!(made["name"].is_u64(), "{made}");
    }
}
