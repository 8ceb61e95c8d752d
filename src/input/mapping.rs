//! Which column is what: the fields of a chunk by their names, and everything else to its metadata.

use super::record::{Cell, Record};
use crate::wire::CHUNK_FIELDS;
use serde_json::Value;
use std::borrow::Cow;

/// Fields of a chunk that are arrays or objects: a cell of a table can have their JSON.
const STRUCTURED: [&str; 8] = [
    "metadata",
    "parent_cpe_ids",
    "child_cpe_ids",
    "concept_vec",
    "vector",
    "tmd",
    "soft_negatives",
    "hard_negatives",
];

/// How the columns of a file become the fields of a chunk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapping {
    /// Names of columns, and the fields that they become; later ones win over columns that have the name of a field.
    pub fields: Vec<(String, String)>,
    /// The only columns that go to the metadata, besides a column `metadata`.
    pub metadata: Option<Vec<String>>,
    /// Columns that are left out.
    pub dropped: Vec<String>,
    /// Fields with one value for all chunks, whatever the file says.
    pub constants: Vec<(String, String)>,
    /// A text that is `null` is an empty one, so that it can be skipped as such.
    pub skips_empty: bool,
}

/// What rows are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowKind {
    /// Objects of JSON: what is no field of a chunk stays where it is, for the service to keep and to report.
    Object,
    /// Rows of a table: what is no field of a chunk is metadata, and a text that is not there is empty.
    Table,
}

impl Mapping {
    /// Objects need no change.
    pub fn is_identity(&self) -> bool {
        *self == Mapping::default()
    }

    /// The column that holds the text.
    pub fn text(&self) -> &str {
        self.fields.iter().rev().find(|(_, field)| field == "text").map_or("text", |(column, _)| column)
    }

    /// Columns that must be there.
    pub fn required(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|(column, _)| column.as_str())
    }

    /// Writes the JSON object of a row.
    pub fn write(&self, mut row: Record<'_>, kind: RowKind, out: &mut Vec<u8>) {
        for name in self.dropped.iter().chain(self.constants.iter().map(|(field, _)| field)) {
            row.take(name);
        }
        let mut chunk = ChunkWriter::new(out);
        // Constants first: no column can take their place.
        for (field, value) in &self.constants {
            let cell = Cell::Characters(Cow::Borrowed(value.as_str()));
            if is_field(field) { chunk.field(field, &cell) } else { chunk.metadata(field, &cell) }
        }
        let mut taken: Vec<(&str, Cell<'_>)> = Vec::new();
        for (column, field) in self.fields.iter().rev() {
            if let Some(cell) = row.take(column) {
                taken.push((field, cell));
            }
        }
        for (field, cell) in taken.iter().rev() {
            let cell = if *field == "text" { self.text_cell(cell) } else { Cow::Borrowed(cell) };
            if is_field(field) { chunk.field(field, &cell) } else { chunk.metadata(field, &cell) }
        }
        for (name, cell) in &row.fields {
            let named = self.metadata.as_ref().map(|names| names.iter().any(|wanted| wanted == name));
            match (named, is_field(name), kind) {
                (Some(true), _, _) => chunk.metadata(name, cell),
                (_, true, _) if *name == "metadata" => chunk.whole_metadata(cell),
                (_, true, _) if chunk.has(name) => chunk.metadata(name, cell),
                (_, true, _) if *name == "text" => chunk.field(name, &self.text_cell(cell)),
                (_, true, _) => chunk.field(name, cell),
                (Some(false), false, _) => {}
                (None, false, RowKind::Table) => chunk.metadata(name, cell),
                (None, false, RowKind::Object) => chunk.unknown(name, cell),
            }
        }
        // Paths lead to values inside of objects.
        for name in self.metadata.iter().flatten().filter(|name| name.contains('.')) {
            let is_column = row.fields.iter().any(|(column, _)| column == name);
            if let Some(cell) = row.take(name).filter(|_| !is_column) {
                chunk.metadata(name, &cell);
            }
        }
        if kind == RowKind::Table && !chunk.has("text") {
            chunk.field("text", &Cell::Characters(Cow::Borrowed("")));
        }
        chunk.finish();
    }

    fn text_cell<'c>(&self, cell: &'c Cell<'c>) -> Cow<'c, Cell<'c>> {
        if self.skips_empty && cell.is_null() {
            return Cow::Owned(Cell::Characters(Cow::Borrowed("")));
        }
        Cow::Borrowed(cell)
    }
}

fn is_field(name: &str) -> bool {
    CHUNK_FIELDS.contains(&name)
}

/// Writes one chunk: fields as they come, and its metadata at the end.
struct ChunkWriter<'o> {
    out: &'o mut Vec<u8>,
    written: Vec<String>,
    metadata: Vec<u8>,
}

impl<'o> ChunkWriter<'o> {
    fn new(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        ChunkWriter { out, written: Vec::new(), metadata: Vec::new() }
    }

    fn has(&self, name: &str) -> bool {
        self.written.iter().any(|written| written == name)
    }

    /// A field of a chunk. `null` is absence, but for a text, of which the service says that it is missing.
    fn field(&mut self, name: &str, cell: &Cell<'_>) {
        if (cell.is_null() && name != "text") || self.has(name) {
            return;
        }
        if name == "metadata" {
            return self.whole_metadata(cell);
        }
        self.key(name);
        match cell {
            Cell::Json(json) => self.out.extend_from_slice(json),
            Cell::Characters(text) if STRUCTURED.contains(&name) && is_json(text) => {
                self.out.extend_from_slice(text.as_bytes());
            }
            Cell::Characters(text) => write_string(text, self.out),
        }
    }

    /// A field that is none of a chunk: the service keeps it in the metadata, and reports it.
    fn unknown(&mut self, name: &str, cell: &Cell<'_>) {
        self.key(name);
        match cell {
            Cell::Json(json) => self.out.extend_from_slice(json),
            Cell::Characters(text) => write_typed(text, self.out),
        }
    }

    fn key(&mut self, name: &str) {
        if !self.written.is_empty() {
            self.out.push(b',');
        }
        self.written.push(name.to_owned());
        write_string(name, self.out);
        self.out.push(b':');
    }

    /// A value of the metadata; `null` is absence.
    fn metadata(&mut self, name: &str, cell: &Cell<'_>) {
        if cell.is_null() {
            return;
        }
        self.separate_metadata();
        write_string(name, &mut self.metadata);
        self.metadata.push(b':');
        match cell {
            Cell::Json(json) => self.metadata.extend_from_slice(json),
            Cell::Characters(text) => write_typed(text, &mut self.metadata),
        }
    }

    /// Metadata that the file has as one object. What is no object is for the service to judge, or, as a cell of a
    /// table, a value like others.
    fn whole_metadata(&mut self, cell: &Cell<'_>) {
        let json = match cell {
            _ if cell.is_null() => return,
            Cell::Json(json) => json.trim_ascii(),
            Cell::Characters(text) if is_json(text) => text.trim().as_bytes(),
            Cell::Characters(_) => return self.metadata("metadata", cell),
        };
        match json.strip_prefix(b"{").and_then(|rest| rest.strip_suffix(b"}")) {
            Some(members) if members.trim_ascii().is_empty() => {}
            Some(members) => {
                self.separate_metadata();
                self.metadata.extend_from_slice(members);
            }
            // A JSON text in a string, as tables keep it.
            None => match serde_json::from_slice::<String>(json) {
                Ok(text) if is_json(&text) && text.trim_start().starts_with('{') => {
                    self.whole_metadata(&Cell::Characters(text.into()));
                }
                _ => {
                    self.key("metadata");
                    self.out.extend_from_slice(json);
                }
            },
        }
    }

    fn separate_metadata(&mut self) {
        if !self.metadata.is_empty() {
            self.metadata.push(b',');
        }
    }

    fn finish(mut self) {
        if !self.metadata.is_empty() {
            let metadata = std::mem::take(&mut self.metadata);
            self.key("metadata");
            self.out.push(b'{');
            self.out.extend_from_slice(&metadata);
            self.out.push(b'}');
        }
        self.out.push(b'}');
    }
}

fn is_json(text: &str) -> bool {
    text.trim_start().starts_with(['{', '[']) && serde_json::from_str::<Value>(text).is_ok()
}

/// A number where the characters are exactly how it is written, else a string: `007`, `1.10` and `1e3` stay as they
/// are, and so does everything that a number of 64 bits cannot hold.
fn write_typed(text: &str, out: &mut Vec<u8>) {
    let whole = text.parse::<i64>().is_ok_and(|number| number.to_string() == text);
    let fraction =
        || text.parse::<f64>().is_ok_and(|number| number.is_finite() && format!("{number:?}") == text);
    if whole || (text.contains('.') && !text.contains(['e', 'E']) && fraction()) {
        out.extend_from_slice(text.as_bytes());
    } else {
        write_string(text, out);
    }
}

/// Writes a text as a JSON string.
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    // Writing into memory does not fail.
    drop(serde_json::to_writer(out, text));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(mapping: &Mapping, cells: &[(&str, &str)]) -> String {
        let fields =
            cells.iter().map(|(name, text)| ((*name).into(), Cell::Characters((*text).into()))).collect();
        written(mapping, Record { fields }, RowKind::Table)
    }

    fn object(mapping: &Mapping, cells: &[(&str, &str)]) -> String {
        let fields =
            cells.iter().map(|(name, json)| ((*name).into(), Cell::Json(json.as_bytes().into()))).collect();
        written(mapping, Record { fields }, RowKind::Object)
    }

    fn written(mapping: &Mapping, row: Record<'_>, kind: RowKind) -> String {
        let mut out = Vec::new();
        mapping.write(row, kind, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn names(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(one, other)| ((*one).to_owned(), (*other).to_owned())).collect()
    }

    #[test]
    fn columns_of_a_table_are_fields_by_their_names_and_metadata_otherwise() {
        let plain = Mapping::default();
        assert_eq!(
            table(
                &plain,
                &[("text", "a \"b\""), ("year", "1999"), ("id", "007"), ("zip", "01067"), ("v", "2.5")]
            ),
            r#"{"text":"a \"b\"","id":"007","metadata":{"year":1999,"zip":"01067","v":2.5}}"#
        );
        assert_eq!(
            table(&plain, &[("id", "1")]),
            r#"{"id":"1","text":""}"#,
            "a cell that is empty is no cell"
        );
        let cells =
            [("text", "t"), ("metadata", r#"{"a":[1]}"#), ("b", "1e3"), ("parent_cpe_ids", r#"["x"]"#)];
        assert_eq!(
            table(&plain, &cells),
            r#"{"text":"t","parent_cpe_ids":["x"],"metadata":{"a":[1],"b":"1e3"}}"#
        );
        let odd = [("text", "[1]"), ("metadata", "{"), ("parent_cpe_ids", "x")];
        assert_eq!(table(&plain, &odd), r#"{"text":"[1]","parent_cpe_ids":"x","metadata":{"metadata":"{"}}"#);
    }

    #[test]
    fn numbers_are_numbers_only_where_nothing_is_lost() {
        let typed = |text: &str| {
            let mut out = Vec::new();
            write_typed(text, &mut out);
            String::from_utf8(out).unwrap()
        };
        for number in ["0", "-5", "9223372036854775807", "0.5", "-12.25", "3.0", "0.1"] {
            assert_eq!(typed(number), number);
        }
        for text in [
            "",
            "007",
            "+1",
            "1.10",
            ".5",
            "1.",
            "1e3",
            "-0",
            "NaN",
            "inf",
            "0.1000000000000000055",
            "1,5",
            " 1",
        ] {
            assert_eq!(typed(text), format!("\"{text}\""));
        }
    }

    #[test]
    fn named_columns_take_the_place_of_fields_and_what_they_displace_is_metadata() {
        let mapping = Mapping {
            fields: names(&[("body", "text"), ("key", "id"), ("n", "number")]),
            ..Mapping::default()
        };
        assert_eq!(
            object(
                &mapping,
                &[("text", r#""old""#), ("body", r#""new""#), ("key", "7"), ("n", "null"), ("x", "[1]")]
            ),
            r#"{"text":"new","id":7,"x":[1],"metadata":{"text":"old"}}"#
        );
        let nested = Mapping { fields: names(&[("body.content", "text")]), ..Mapping::default() };
        assert_eq!(
            object(&nested, &[("body", r#"{"content":"deep","lang":"en"}"#)]),
            r#"{"text":"deep","body":{"lang":"en"}}"#
        );
    }

    #[test]
    fn constants_win_dropped_columns_are_gone_and_only_named_ones_are_metadata() {
        let mapping = Mapping {
            metadata: Some(vec!["year".to_owned(), "article_title".to_owned(), "a.b".to_owned()]),
            dropped: vec!["secret".to_owned()],
            constants: names(&[("source_document", "here"), ("lang", "en")]),
            ..Mapping::default()
        };
        assert_eq!(
            table(
                &mapping,
                &[
                    ("text", "t"),
                    ("secret", "s"),
                    ("source_document", "there"),
                    ("year", "1"),
                    ("article_title", "T"),
                    ("x", "y")
                ]
            ),
            r#"{"source_document":"here","text":"t","metadata":{"lang":"en","year":1,"article_title":"T"}}"#
        );
        assert_eq!(
            object(
                &mapping,
                &[("text", r#""t""#), ("a", r#"{"b":1,"c":2}"#), ("metadata", r#"{"m":true}"#), ("x", "1")]
            ),
            r#"{"source_document":"here","text":"t","metadata":{"lang":"en","m":true,"a.b":1}}"#
        );
    }

    #[test]
    fn a_column_with_a_dot_in_its_name_is_no_path() {
        let mapping = Mapping { metadata: Some(vec!["a.b".to_owned()]), ..Mapping::default() };
        let cells = [("text", "t"), ("a.b", "1"), ("a", "2")];
        assert_eq!(table(&mapping, &cells), r#"{"text":"t","metadata":{"a.b":1}}"#);
    }

    #[test]
    fn a_text_that_is_null_is_missing_or_empty_as_is_wanted() {
        assert_eq!(object(&Mapping::default(), &[("text", "null")]), r#"{"text":null}"#);
        let skipping = Mapping { skips_empty: true, ..Mapping::default() };
        assert_eq!(object(&skipping, &[("text", "null")]), r#"{"text":""}"#);
        let json = r#""{\"a\":1}""#;
        assert_eq!(object(&skipping, &[("metadata", json)]), r#"{"metadata":{"a":1}}"#, "JSON in a string");
    }
}
