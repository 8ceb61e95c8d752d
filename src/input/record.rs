//! One row of a file: names and values in the order of the file.

use serde_json::Value;
use std::borrow::Cow;

/// A value of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell<'a> {
    /// JSON, passed on as it was written.
    Json(Cow<'a, [u8]>),
    /// The characters of a cell, whose type is not known.
    Characters(Cow<'a, str>),
}

impl Cell<'_> {
    /// Whether it is the `null` of JSON.
    pub fn is_null(&self) -> bool {
        matches!(self, Cell::Json(json) if json.as_ref() == b"null")
    }
}

/// A row, as it was read.
#[derive(Debug, Default)]
pub struct Record<'a> {
    /// Names and values, in the order of the file.
    pub fields: Vec<(Cow<'a, str>, Cell<'a>)>,
}

impl<'a> Record<'a> {
    /// Takes the value with this name out of the row: that of a field, or, where no field has the name, that behind a
    /// path of names with dots between them.
    pub fn take(&mut self, name: &str) -> Option<Cell<'a>> {
        if let Some(at) = self.fields.iter().position(|(field, _)| field == name) {
            return Some(self.fields.remove(at).1);
        }
        let (at, mut object, path) = self.inside(name)?;
        let leaf = remove(&mut object, path)?;
        match object.as_object() {
            Some(left) if left.is_empty() => drop(self.fields.remove(at)),
            _ => self.fields[at].1 = Cell::Json(object.to_string().into_bytes().into()),
        }
        Some(Cell::Json(leaf.to_string().into_bytes().into()))
    }

    /// Whether [`Self::take`] would find something.
    pub fn has(&self, name: &str) -> bool {
        let mut found = self.fields.iter().any(|(field, _)| field == name);
        if !found && let Some((_, mut object, path)) = self.inside(name) {
            found = remove(&mut object, path).is_some();
        }
        found
    }

    /// The object that the first names of a path lead to, and the rest of the path.
    fn inside<'n>(&self, name: &'n str) -> Option<(usize, Value, &'n str)> {
        for (dot, _) in name.match_indices('.') {
            let (first, rest) = (&name[..dot], &name[dot + 1..]);
            let Some(at) = self.fields.iter().position(|(field, _)| field == first) else { continue };
            if let Cell::Json(json) = &self.fields[at].1
                && json.trim_ascii_start().starts_with(b"{")
                && let Ok(object) = serde_json::from_slice(json)
            {
                return Some((at, object, rest));
            }
        }
        None
    }
}

/// Takes what the path leads to out of an object.
fn remove(object: &mut Value, path: &str) -> Option<Value> {
    let fields = object.as_object_mut()?;
    if let Some(found) = fields.remove(path) {
        return Some(found);
    }
    let (first, rest) = path.split_once('.')?;
    let inner = fields.get_mut(first)?;
    let found = remove(inner, rest)?;
    if inner.as_object().is_some_and(|left| left.is_empty()) {
        fields.remove(first);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(json: &str) -> Record<'static> {
        let object: serde_json::Map<String, Value> = serde_json::from_str(json).unwrap();
        let fields = object
            .into_iter()
            .map(|(name, value)| (name.into(), Cell::Json(value.to_string().into_bytes().into())));
        Record { fields: fields.collect() }
    }

    fn text(record: &Record<'_>) -> String {
        let shown = record.fields.iter().map(|(name, cell)| match cell {
            Cell::Json(json) => format!("{name}={}", String::from_utf8_lossy(json)),
            Cell::Characters(text) => format!("{name}={text:?}"),
        });
        shown.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_name_is_a_field_first_and_a_path_second() {
        let json = r#"{"a.b":1,"a":{"b":{"c":"deep","d":2}},"x":{"y":"only"}}"#;
        for (name, taken, left) in [
            ("a.b", "1", r#"a={"b":{"c":"deep","d":2}} x={"y":"only"}"#),
            ("a.b.c", r#""deep""#, r#"a={"b":{"d":2}} a.b=1 x={"y":"only"}"#),
            ("x.y", r#""only""#, r#"a={"b":{"c":"deep","d":2}} a.b=1"#),
        ] {
            let mut row = record(json);
            assert!(row.has(name));
            assert_eq!(row.take(name), Some(Cell::Json(taken.as_bytes().into())), "{name}");
            assert_eq!(text(&row), left, "{name}");
        }
        for missing in ["b", "a.c", "a.b.c.d", "x.y.z", ".", ""] {
            let mut row = record(json);
            assert!(!row.has(missing));
            assert_eq!((row.take(missing), row.fields.len()), (None, 3), "{missing}");
        }
    }
}
