//! What a prompt asks for in words: the simulated model keeps to it as a good model does, where no server enforces it.
//!
//! Two forms are understood: a JSON schema, and an example object whose members are described on lines of their own
//! (`name - description: first, second, third.`). Other prompts ask for prose.

use super::schema::{Ordered, Schema, SchemaOrBool};
use serde_json::{Value, json};

/// The schema that the first JSON object of a prompt shows; `None` if it shows none.
pub fn wanted(prompt: &str) -> Option<Schema> {
    let braces = prompt.match_indices('{');
    braces.map(|(at, _)| &prompt[at..]).find_map(|rest| {
        let mut objects = serde_json::Deserializer::from_str(rest).into_iter::<Ordered<Value>>();
        let object = objects.next()?.ok()?;
        let text = &rest[..objects.byte_offset()];
        if object.0.iter().any(|(name, value)| name == "properties" && value.is_object()) {
            return serde_json::from_str(text).ok();
        }
        (!object.0.is_empty()).then(|| of_example(prompt, &object.0))
    })
}

/// The schema of an example: its members, with the lists that the prompt gives for them.
fn of_example(prompt: &str, members: &[(String, Value)]) -> Schema {
    let properties = members.iter().map(|(name, value)| (name.clone(), of_value(prompt, name, value)));
    Schema { kind: Some(json!("object")), properties: Ordered(properties.collect()), ..Schema::default() }
}

fn of_value(prompt: &str, name: &str, value: &Value) -> Schema {
    match value {
        Value::Array(items) => Schema {
            kind: Some(json!("array")),
            items: items.first().map_or(SchemaOrBool::Absent, |item| {
                SchemaOrBool::Schema(Box::new(of_value(prompt, name, item)))
            }),
            min_items: Some(items.len()),
            max_items: Some(items.len()),
            ..Schema::default()
        },
        Value::Number(_) => Schema { kind: Some(json!("integer")), ..Schema::default() },
        _ => Schema {
            values: list(prompt, name),
            kind: Some(json!("string")),
            max_length: Some(100),
            ..Schema::default()
        },
    }
}

/// The names on the line that describes a member: what follows its first colon, between commas.
fn list(prompt: &str, name: &str) -> Option<Vec<Value>> {
    let described = |line: &&str| {
        let rest = line.trim_start_matches(['-', '*', ' ']).strip_prefix(name);
        rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric()))
    };
    let (_, names) = prompt.lines().find(described)?.split_once(": ")?;
    let names: Vec<Value> = names.trim().trim_end_matches('.').split(", ").map(Value::from).collect();
    (names.len() > 1).then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTS: &str = "Choose.\ncolour - how it looks: red, light green, blue.\nsize - how large it is: big, small.\n\
                         Reply with {\"size\": \"...\", \"colour\": \"...\", \"notes\": [\"..\", \"..\"], \"n\": 0}.";

    #[test]
    fn an_example_and_its_lists_are_a_schema() {
        let schema = wanted(LISTS).unwrap();
        let made: Value = serde_json::from_str(&schema.generate("p", None)).unwrap();
        assert!(["big", "small"].contains(&made["size"].as_str().unwrap()), "{made}");
        assert!(["red", "light green", "blue"].contains(&made["colour"].as_str().unwrap()), "{made}");
        assert_eq!((made["notes"].as_array().unwrap().len(), made["n"].is_i64()), (2, true));
        assert!(schema.generate("p", None).starts_with("{\"size\""), "in the order of the example");
    }

    #[test]
    fn a_schema_in_the_prompt_is_that_schema() {
        let schema =
            wanted("Reply as in {\"type\":\"object\",\"properties\":{\"a\":{\"enum\":[7]}}}, please.")
                .unwrap();
        assert_eq!(schema.generate("p", None), r#"{"a": 7}"#);
    }

    #[test]
    fn other_prompts_ask_for_prose() {
        for prompt in ["", "The sea is salty.", "fn main() { }", "a { b", "{\"broken\": "] {
            assert_eq!(wanted(prompt), None, "{prompt}");
        }
    }
}
