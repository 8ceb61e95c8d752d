//! What a file is, by its content: the name says nothing.

use super::elements::{Container, Element, JsonElements};
use super::error::{InputError, listed};
use super::mapping::Mapping;
use super::objects::{fields_of, rejected_line};
use super::record::Record;
use super::table::{Header, looks_like_rows};
use super::value_scan::on_one_line;
use bytes::Bytes;

/// The most records at the beginning of a file whose fields are looked at.
const SAMPLE: usize = 100;

/// In which form a file holds chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// NDJSON: an object a line.
    Lines,
    /// The lines that `--rejects` has written.
    Rejects,
    /// Objects one after another, over any number of lines.
    Objects,
    /// A JSON array of objects.
    Array,
    /// A request to the service: an object with the array `chunks`.
    Request,
    /// CSV, TSV or another table with a line that names its columns.
    Table(Header),
    /// A Parquet file, whose rows are chunks.
    Parquet,
}

impl Kind {
    /// What the numbers of its chunks count.
    pub fn unit(&self) -> &'static str {
        match self {
            Kind::Lines | Kind::Rejects | Kind::Table(_) => "line",
            Kind::Objects => "object",
            Kind::Array | Kind::Request => "element",
            Kind::Parquet => "row",
        }
    }

    /// How JSON values lie in it.
    pub fn container(&self) -> Option<Container> {
        match self {
            Kind::Objects => Some(Container::Sequence),
            Kind::Array => Some(Container::Array),
            Kind::Request => Some(Container::Request),
            _ => None,
        }
    }
}

/// Files that are not read, by their first bytes, and what to do with them.
const FOREIGN: [(&[u8], &str); 14] = [
    (b"PK\x03\x04", "is a zip archive or a workbook: unpack it, or save its table as CSV"),
    (
        b"\xfd7zXZ\x00",
        "is compressed with xz: unpack it (unxz), or send it through a pipe: xzcat FILE | lnsp ingest -",
    ),
    (b"BZh", "is compressed with bzip2: unpack it, or send it through a pipe: bzcat FILE | lnsp ingest -"),
    (b"\x04\x22\x4d\x18", "is compressed with lz4: send it through a pipe: lz4cat FILE | lnsp ingest -"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive: unpack it"),
    (b"%PDF-", "is a PDF file: extract its text, one JSON object with a `text` a line"),
    (
        b"SQLite format 3\0",
        "is an SQLite database: write its table as CSV: sqlite3 -header -csv FILE 'SELECT ..' | lnsp ingest -",
    ),
    (b"ARROW1", "is an Arrow or Feather file: write it as Parquet"),
    (b"Obj\x01", "is an Avro file: write it as NDJSON or Parquet"),
    (b"ORC", "is an ORC file: write it as Parquet"),
    (b"\x89HDF", "is an HDF5 file: write its table as Parquet"),
    (b"\x93NUMPY", "is a NumPy array: it holds no texts with fields; write them as NDJSON or Parquet"),
    (b"\xd0\xcf\x11\xe0", "is a file of an old office program: save its table as CSV"),
    (b"\x80\x04\x95", "is a Python pickle, which is never read: write its data as NDJSON or Parquet"),
];

/// What is wrong with a file that is none of chunks, by its first bytes as they are.
pub fn foreign(begin: &[u8]) -> Option<InputError> {
    let found = FOREIGN.iter().find(|(magic, _)| begin.starts_with(magic)).map(|(_, advice)| *advice);
    let is_tar = begin.get(257..262) == Some(b"ustar");
    let advice = found.or(is_tar.then_some("is a tar archive: unpack it (tar -xf), and send its folder"))?;
    Some(InputError::Unknown(advice.to_owned()))
}

/// What the beginning of a text is; `is_all` when more of it does not help. `None`: more is needed.
///
/// # Errors
/// It is no file of chunks, or its header cannot be used.
pub fn kind_of(
    text: &[u8],
    is_all: bool,
    mapping: &Mapping,
    delimiter: Option<u8>,
) -> Result<Option<Kind>, InputError> {
    let Some(first) = text.iter().position(|byte| !byte.is_ascii_whitespace()) else {
        // Nothing, or nothing but white space: no chunks.
        return Ok(is_all.then_some(Kind::Lines));
    };
    match text[first] {
        b'[' => Ok(Some(Kind::Array)),
        b'{' => Ok(objects(&text[first..], is_all)),
        b'<' => Err(InputError::Unknown(
            "is XML or HTML: extract its texts, one JSON object with a `text` a line".to_owned(),
        )),
        _ if text.iter().any(|byte| matches!(byte, 0..=8 | 14..=26 | 28..=31)) => {
            Err(InputError::Unknown(format!("is a binary file of an unknown kind: {}", expected())))
        }
        _ => table(text, is_all, mapping, delimiter),
    }
}

fn expected() -> &'static str {
    "expected NDJSON, a JSON array, CSV or TSV with a line that names the columns, or Parquet"
}

fn objects(text: &[u8], is_all: bool) -> Option<Kind> {
    let line = memchr::memchr(b'\n', text).map(|end| text[..end].trim_ascii_end());
    let mut elements = JsonElements::new(text, Container::Sequence);
    let Ok(Some(Element::Value(value))) = elements.next() else {
        // Longer than what is here, or broken. An object that goes on after its first line ends that line openly.
        let is_open = line.is_none_or(|line| {
            line.ends_with(b"{") || line.ends_with(b"[") || line.ends_with(b",") || line.ends_with(b":")
        });
        return match is_open {
            _ if begins_request(text) => Some(Kind::Request),
            false => Some(Kind::Lines),
            true if is_all => Some(if line.is_some() { Kind::Objects } else { Kind::Lines }),
            true => None,
        };
    };
    let behind = &text[value.len()..];
    let next = behind.iter().find(|byte| !matches!(byte, b' ' | b'\t' | b'\r'));
    if let Some(mut record) = fields_of(&value) {
        if record.has("chunks") && !record.has("text") {
            return Some(Kind::Request);
        }
        let is_line = memchr::memchr(b'\n', &value).is_none();
        if is_line && rejected_line(&mut record).is_some() {
            return Some(Kind::Rejects);
        }
    }
    let is_one_line = memchr::memchr2(b'\n', b'\r', &value).is_none();
    match (is_one_line, next) {
        // A break inside of a string: two lines, of which the first is broken.
        (false, _) if on_one_line(value).is_none() => Some(Kind::Lines),
        (false, _) => Some(Kind::Objects),
        (true, Some(b'\n')) => Some(Kind::Lines),
        (true, None) => is_all.then_some(Kind::Lines),
        (true, Some(_)) => Some(Kind::Objects),
    }
}

/// Whether the first object has `chunks`, as far as it is here. It does not end here.
fn begins_request(text: &[u8]) -> bool {
    let mut elements = JsonElements::new(text, Container::Request);
    loop {
        match elements.next() {
            Ok(Some(Element::Option(..))) => {}
            Ok(Some(_)) => return true,
            Ok(None) => return false,
            // The first chunk may be longer than what is here.
            Err(_) => return elements.is_among_chunks(),
        }
    }
}

fn table(
    text: &[u8],
    is_all: bool,
    mapping: &Mapping,
    delimiter: Option<u8>,
) -> Result<Option<Kind>, InputError> {
    if memchr::memchr(b'\n', text).is_none() {
        if !is_all {
            return Ok(None);
        }
        if text.len() > LONGEST_HEADER {
            return Err(InputError::Unknown(format!(
                "has no line break in its first {} bytes: {}",
                text.len(),
                expected()
            )));
        }
    }
    if let Some(header) = Header::of(text, delimiter, mapping.text())? {
        let has_text = header.names().any(|name| name == mapping.text());
        if has_text || looks_like_rows(text, &header) {
            return Ok(Some(Kind::Table(header)));
        }
    }
    Err(InputError::Unknown(format!(
        "is plain text, or a table without a line that names its columns: {}. To send each line of a text as a chunk: \
         jq -Rc '{{text: .}}' FILE | lnsp ingest -",
        expected()
    )))
}

/// The longest line that names columns, if nothing follows it in what is here: it may be cut off.
const LONGEST_HEADER: usize = 64 * 1024;

/// Names under which others keep the text.
const WELL_KNOWN: [&str; 16] = [
    "content",
    "body",
    "page_content",
    "passage",
    "chunk",
    "chunk_text",
    "paragraph",
    "sentence",
    "abstract",
    "document",
    "Text",
    "TEXT",
    "Content",
    "contents",
    "full_text",
    "review",
];

/// Whether the columns that are needed are there, by their names.
///
/// # Errors
/// One is missing; the message lists those that are there.
pub fn check_columns(names: &[String], mapping: &Mapping) -> Result<(), InputError> {
    check(
        names,
        &|wanted| names.iter().any(|name| name == wanted) || is_path_into(names, wanted),
        mapping,
        "columns",
    )
}

/// A value inside of a column of objects.
fn is_path_into(names: &[String], wanted: &str) -> bool {
    names.iter().any(|name| wanted.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('.')))
}

/// Whether the fields that are needed are in one of the first objects of a text.
///
/// # Errors
/// As [`check_columns`].
pub fn check_objects(text: &[u8], kind: &Kind, mapping: &Mapping) -> Result<(), InputError> {
    let values = first_values(text, kind);
    let records: Vec<Record<'_>> = values.iter().filter_map(|value| fields_of(value)).collect();
    if records.is_empty() {
        return Ok(());
    }
    let mut names: Vec<String> = Vec::new();
    for (name, _) in records.iter().flat_map(|record| &record.fields) {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_string());
        }
    }
    check(&names, &|wanted| records.iter().any(|record| record.has(wanted)), mapping, "fields")
}

fn first_values(text: &[u8], kind: &Kind) -> Vec<Bytes> {
    let Some(container) = kind.container() else {
        let mut lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').take(SAMPLE + 1).collect();
        // The last one may be only the beginning of a line; as the only one it is looked at all the same.
        if lines.len() > 1 {
            lines.pop();
        }
        return lines.into_iter().map(|line| Bytes::copy_from_slice(line.trim_ascii())).collect();
    };
    let mut elements = JsonElements::new(text, container);
    let mut values = Vec::new();
    while values.len() < SAMPLE
        && let Ok(Some(element)) = elements.next()
    {
        if let Element::Value(value) = element {
            values.push(value);
        }
    }
    values
}

fn check(
    names: &[String],
    has: &dyn Fn(&str) -> bool,
    mapping: &Mapping,
    called: &str,
) -> Result<(), InputError> {
    let there = || listed(names.iter().map(String::as_str));
    let is_constant = mapping.constants.iter().any(|(field, _)| field == "text");
    let text = mapping.text();
    if !has(text) && !is_constant {
        if text != "text" {
            return Err(InputError::Unusable(format!(
                "has no `{text}` for the text; its {called}: {}",
                there()
            )));
        }
        let likely: Vec<&str> = WELL_KNOWN.into_iter().filter(|name| has(name)).collect();
        let example = if let [one] = likely[..] { one } else { "NAME" };
        return Err(InputError::Unusable(format!(
            "has no `text`; its {called}: {}. Say which one is the text: --text {example}",
            there()
        )));
    }
    match mapping.required().find(|name| !has(name)) {
        Some(missing) => Err(InputError::Unusable(format!(
            "has no `{missing}`, which a flag names; its {called}: {}",
            there()
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> String {
        match kind_of(text.as_bytes(), true, &Mapping::default(), None) {
            Ok(kind) => match kind.unwrap() {
                Kind::Table(header) => format!("table {}", char::from(header.delimiter)),
                kind => format!("{kind:?}").to_lowercase(),
            },
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_first_line_that_does_not_end_is_no_header() {
        let names: String = (0..20_000).map(|n| format!("c{n},")).collect();
        assert!(kind(&names).starts_with("has no line break in its first"), "{}", kind(&names));
        assert_eq!(kind("text,id"), "table ,");
    }

    #[test]
    fn kinds_are_recognised_by_what_is_inside() {
        for (text, expected) in [
            ("{\"text\":\"a\"}\n{\"text\":\"b\"}\n", "lines"),
            ("{\"text\":\"a\"}", "lines"),
            ("\n\r\n  {\"text\":\"a\"}\r\n", "lines"),
            ("{\"text\": \"a\n{\"text\":\"b\"}\n", "lines"),
            ("{\"text\": \"a\"\n{\"text\":\"b\"}\n", "lines"),
            ("{\"text\":\"a\"} {\"text\":\"b\"}", "objects"),
            ("{\"text\":\"a\"},\n{\"text\":\"b\"}", "objects"),
            ("{\n  \"text\": \"a\"\n}\n{\n  \"text\": \"b\"\n}\n", "objects"),
            ("{\"text\": \"a\",\n \"id\": 1}\n", "objects"),
            ("{\"text\": \"a\",\n \"id\": 1", "objects"),
            ("[{\"text\":\"a\"}]", "array"),
            ("[\n  {\"text\":\"a\"}\n]", "array"),
            ("[]", "array"),
            ("{\"chunks\":[{\"text\":\"a\"}]}", "request"),
            ("{\"chunks\": [\n{\"text\":\"a\"},\n{\"te", "request"),
            ("{\"dataset_source\":\"d\",\"chunks\":[{\"text\":\"aaaa", "request"),
            ("{\"text\":\"t\",\"chunks\":[]}\n", "lines"),
            ("{\"rejected\":{\"code\":\"x\"},\"chunk\":{\"text\":\"\"}}\n", "rejects"),
            ("text,id\na,1\n", "table ,"),
            ("id;text\r\n1;a\r\n", "table ;"),
            ("a\ttext\n", "table \t"),
            ("text\na\nb\n", "table ,"),
            ("title,body\na,b\nc,d\n", "table ,"),
            ("", "lines"),
            (" \n\n", "lines"),
        ] {
            assert_eq!(kind(text), expected, "{text:?}");
        }
        for text in [
            "Once upon a time.\nThe end.\n",
            "Well, then\nthis is\nnot, really, a table\n",
            "# Title\n\nWords.\n",
        ] {
            assert!(kind(text).contains("jq -Rc"), "{text}: {}", kind(text));
        }
        assert!(kind("<html>").contains("HTML") && kind("a\0b").contains("binary"));
        for (magic, _) in FOREIGN {
            assert!(matches!(foreign(magic), Some(InputError::Unknown(_))));
        }
        assert!(foreign(b"text,id").is_none());
    }

    #[test]
    fn a_stream_is_decided_as_soon_as_it_can_be() {
        let decided = |text: &str| kind_of(text.as_bytes(), false, &Mapping::default(), None).unwrap();
        assert_eq!(decided("{\"text\":\"a\"}\n"), Some(Kind::Lines));
        assert_eq!(decided("{\"text\":\"a\n"), Some(Kind::Lines), "a broken line is no reason to wait");
        for undecided in ["", " ", "{", "{\"text\":\"a\"}", "{\n", "{\"chunks\": [\n"[..3].trim(), "text,id"]
        {
            assert_eq!(decided(undecided), None, "{undecided:?}");
        }
        assert_eq!(decided("{\"chunks\":["), Some(Kind::Request));
    }

    #[test]
    fn a_text_under_another_name_is_asked_for_and_not_guessed() {
        let said = |text: &str, mapping: &Mapping| {
            check_objects(text.as_bytes(), &Kind::Lines, mapping).map_err(|e| e.to_string())
        };
        let plain = Mapping::default();
        assert_eq!(said("{\"x\":1}\n{\"text\":\"a\"}\n", &plain), Ok(()), "one of the first is enough");
        assert_eq!(said("no JSON\n", &plain), Ok(()), "the service says it");
        let error = said("{\"id\":1,\"content\":\"a\"}\n", &plain).unwrap_err();
        assert_eq!(
            error,
            "has no `text`; its fields: `id`, `content`. Say which one is the text: --text content"
        );
        let error = said("{\"body\":1,\"content\":\"a\"}\n", &plain).unwrap_err();
        assert!(error.ends_with("--text NAME"), "two could be meant: {error}");
        let named = |column: &str, field: &str| Mapping {
            fields: vec![(column.to_owned(), field.to_owned())],
            ..Mapping::default()
        };
        assert_eq!(said("{\"a\":{\"b\":\"t\"}}\n", &named("a.b", "text")), Ok(()));
        assert!(
            said("{\"a\":1}\n", &named("a.b", "text")).unwrap_err().contains("has no `a.b` for the text")
        );
        let error = said("{\"text\":\"a\"}\n", &named("uuid", "id")).unwrap_err();
        assert_eq!(error, "has no `uuid`, which a flag names; its fields: `text`");
        let columns = ["title".to_owned(), "body".to_owned()];
        assert!(check_columns(&columns, &plain).unwrap_err().to_string().contains("--text body"));
        assert!(check_columns(&columns, &named("body", "text")).is_ok());
    }
}
