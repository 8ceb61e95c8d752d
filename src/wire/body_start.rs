//! What a body is, from its first bytes, when it is not what the request says: compressed, in another encoding of
//! characters, a table, or JSON in another shape. It is then refused once, with what to do, instead of line by line.

use super::lines::{LineDecoder, MARK};
use serde::de::IgnoredAny;

/// The bytes that are looked at. Longer beginnings are taken for what the request says.
const MAX_BEGIN: usize = 4096;
/// The most columns of a table that a message names.
const NAMED_COLUMNS: usize = 8;
/// The longest column name, in characters and in words. Longer ones are sentences.
const MAX_COLUMN: (usize, usize) = (40, 3);

/// Why a body is refused as a whole: it is in another format. The sentence says which, and how to send it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WrongFormat(String);

/// What the body should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ExpectedFormat {
    Lines,
    Document,
}

impl ExpectedFormat {
    fn words(self) -> &'static str {
        match self {
            ExpectedFormat::Lines => "one JSON object a line",
            ExpectedFormat::Document => "one JSON object",
        }
    }
}

/// Compressed and packed files, by their first bytes, with the name of their `Content-Encoding` if it is supported.
const FILES: [(&[u8], &str, Option<&str>); 8] = [
    (b"\x1f\x8b", "gzip", Some("gzip")),
    (b"\x28\xb5\x2f\xfd", "zstd", Some("zstd")),
    (b"\xfd7zXZ\x00", "xz", None),
    (b"BZh", "bzip2", None),
    (b"\x04\x22\x4d\x18", "lz4", None),
    (b"PK\x03\x04", "a zip file", None),
    (b"PAR1", "a Parquet file", None),
    (b"%PDF-", "a PDF file", None),
];

/// The JSON document in a body: the bytes after a byte order mark.
///
/// # Errors
/// A body that is something else than JSON in UTF-8.
pub fn document(body: &[u8]) -> Result<&[u8], WrongFormat> {
    let begin = &body[..body.len().min(MAX_BEGIN)];
    let document = body.strip_prefix(MARK).unwrap_or(body);
    match foreign(begin, true, ExpectedFormat::Document) {
        Some(Some(wrong)) => Err(wrong),
        _ => Ok(document),
    }
}

/// The first bytes of a body of lines, held back until it is known that they are lines.
#[derive(Debug)]
pub struct BodyStart {
    begin: Option<Vec<u8>>,
}

impl Default for BodyStart {
    fn default() -> Self {
        BodyStart { begin: Some(Vec::new()) }
    }
}

impl BodyStart {
    /// Passes a piece of the body on to `lines`, or keeps it until more is known.
    ///
    /// # Errors
    /// The body is something else. No line of it was passed on.
    pub fn feed(&mut self, piece: &[u8], lines: &mut LineDecoder) -> Result<(), WrongFormat> {
        let Some(begin) = &mut self.begin else {
            lines.feed(piece);
            return Ok(());
        };
        begin.extend_from_slice(piece);
        self.decide(false, lines)
    }

    /// Passes on what is left when the body has ended.
    ///
    /// # Errors
    /// As [`Self::feed`].
    pub fn finish(&mut self, lines: &mut LineDecoder) -> Result<(), WrongFormat> {
        self.decide(true, lines)
    }

    fn decide(&mut self, is_whole: bool, lines: &mut LineDecoder) -> Result<(), WrongFormat> {
        let Some(begin) = &self.begin else { return Ok(()) };
        let first = &begin[..begin.len().min(MAX_BEGIN)];
        match foreign(first, is_whole || begin.len() >= MAX_BEGIN, ExpectedFormat::Lines) {
            None => Ok(()),
            Some(Some(wrong)) => Err(wrong),
            Some(None) => {
                lines.feed(begin);
                self.begin = None;
                Ok(())
            }
        }
    }
}

/// What the body is if it is not what is expected. `None`: more bytes are needed to know, and there may be more.
fn foreign(begin: &[u8], is_all: bool, expected: ExpectedFormat) -> Option<Option<WrongFormat>> {
    for (magic, name, encoding) in FILES {
        if begin.starts_with(magic) {
            return Some(Some(WrongFormat(packed(name, encoding, expected))));
        }
        if !is_all && magic.starts_with(begin) {
            return None;
        }
    }
    if let Some(found) = wide_characters(begin, is_all)? {
        let message = format!("the body is {found}: encode it as UTF-8, {}", expected.words());
        return Some(Some(WrongFormat(message)));
    }
    if !is_all && MARK.starts_with(begin) {
        return None;
    }
    let begin = begin.strip_prefix(MARK).unwrap_or(begin);
    let Some(first) = begin.iter().position(|byte| !byte.is_ascii_whitespace()) else {
        return is_all.then_some(None);
    };
    let text = &begin[first..];
    match (text[0], expected) {
        (b'{' | b'[', ExpectedFormat::Lines) => several_lines(text, is_all),
        (b'{' | b'[', ExpectedFormat::Document) => Some(None),
        _ => table(text, is_all, expected),
    }
}

fn packed(name: &str, encoding: Option<&str>, expected: ExpectedFormat) -> String {
    let format = expected.words();
    match encoding {
        Some(encoding) => format!(
            "the body is {name} where {format} is expected: compress it once, and name it with \
             `Content-Encoding: {encoding}`"
        ),
        None => format!(
            "the body is {name}, which is not read here: send {format}, as it is or as gzip or zstd with the \
             Content-Encoding of that name"
        ),
    }
}

/// UTF-16 and UTF-32, with and without a mark: JSON begins with ASCII characters, whose upper bytes are zero.
fn wide_characters(begin: &[u8], is_all: bool) -> Option<Option<&'static str>> {
    let first: [u8; 4] = match begin.first_chunk() {
        Some(first) => *first,
        None if is_all => [begin, &[1; 4]].concat().first_chunk().copied().unwrap_or([1; 4]),
        // Short lines of ASCII are not kept waiting.
        None => return if begin.iter().all(|byte| (1..0x80).contains(byte)) { Some(None) } else { None },
    };
    Some(match first {
        [0xff, 0xfe, 0, 0] | [0, 0, 0xfe, 0xff] => Some("UTF-32"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("UTF-16"),
        [0x20..0x7f, 0, 0, 0] | [0, 0, 0, 0x20..0x7f] => Some("UTF-32"),
        [0x20..0x7f, 0, 1..=0xff, 0] | [0, 0x20..0x7f, 0, 1..=0xff] => Some("UTF-16"),
        _ => None,
    })
}

/// A JSON array of chunks, or an object that is written over several lines.
fn several_lines(text: &[u8], is_all: bool) -> Option<Option<WrongFormat>> {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r');
    let Some(second) = text[1..].iter().find(|byte| !is_blank(byte)) else { return is_all.then_some(None) };
    let wrong = |message: &str| Some(Some(WrongFormat(message.to_owned())));
    match (text[0], second) {
        (b'[', b'\n' | b'{') => wrong(
            "the body is a JSON array: send one object a line, without brackets around and commas between them; or send it as \
             application/json: {\"chunks\": [..]}",
        ),
        (b'{', b'\n') => match text[1..].iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'"') => wrong(
                "the body is a JSON object over several lines: write each chunk on one line; or send a request with \
                 `chunks` as application/json",
            ),
            Some(_) => Some(None),
            None => is_all.then_some(None),
        },
        _ => Some(None),
    }
}

/// A table whose first line names its columns.
fn table(text: &[u8], is_all: bool, expected: ExpectedFormat) -> Option<Option<WrongFormat>> {
    if !(text[0].is_ascii_alphabetic() || matches!(text[0], b'_' | b'"') || text[0] >= 0x80) {
        return Some(None);
    }
    let end = text.iter().position(|byte| *byte == b'\n');
    let (line, after) = match end {
        Some(end) => (&text[..end], &text[end..]),
        None if is_all => (text, &b""[..]),
        None => return None,
    };
    let Some(columns) = std::str::from_utf8(line).ok().and_then(columns) else { return Some(None) };
    match after.iter().find(|byte| !byte.is_ascii_whitespace()) {
        // The first line is a wrong one of many.
        Some(b'{') => Some(None),
        None if !is_all => None,
        _ => {
            let named = columns.iter().take(NAMED_COLUMNS).copied().collect::<Vec<_>>().join(", ");
            let message =
                format!("the body is a table (CSV) with the columns {named}: send {}", expected.words());
            Some(Some(WrongFormat(message)))
        }
    }
}

/// The names of the columns, if the line is the head of a table.
fn columns(line: &str) -> Option<Vec<&str>> {
    let line = line.trim();
    if serde_json::from_str::<IgnoredAny>(line).is_ok() {
        return None;
    }
    let separator = [',', ';', '\t', '|'].into_iter().find(|separator| line.contains(*separator));
    let columns: Vec<&str> = match separator {
        Some(separator) => line.split(separator).map(|name| name.trim().trim_matches('"')).collect(),
        None => vec![line.trim_matches('"')],
    };
    let is_name = |name: &str| {
        let (characters, words) = MAX_COLUMN;
        name.chars().next().is_some_and(|first| first.is_alphabetic() || first == '_')
            && name.chars().count() <= characters
            && name.split_whitespace().count() <= words
            && name
                .chars()
                .all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ' ' | '#' | '/' | '(' | ')'))
    };
    let is_head = match columns.as_slice() {
        [only] => only.eq_ignore_ascii_case("text"),
        several => several.iter().all(|name| is_name(name)),
    };
    is_head.then_some(columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said about a body of lines that comes in pieces of `size` bytes, and the lines that were passed on.
    fn sent(body: &[u8], size: usize) -> Result<usize, String> {
        let (mut start, mut lines) = (BodyStart::default(), LineDecoder::default());
        for piece in body.chunks(size) {
            start.feed(piece, &mut lines).map_err(|wrong| wrong.to_string())?;
        }
        start.finish(&mut lines).map_err(|wrong| wrong.to_string())?;
        Ok(std::iter::from_fn(|| lines.next_line()).count() + lines.last_line().iter().count())
    }

    fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    }

    #[test]
    fn other_formats_are_recognised_wherever_the_network_cuts() {
        let lines = "{\"text\":\"wide\"}\n{\"text\":\"wide too\"}\n";
        let wide = |mark: &str, bytes| utf16(&format!("{mark}{lines}"), bytes);
        let utf32: Vec<u8> = lines.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
        for (body, word) in [
            (wide("\u{feff}", u16::to_le_bytes), "UTF-16"),
            (wide("\u{feff}", u16::to_be_bytes), "UTF-16"),
            (wide("", u16::to_le_bytes), "UTF-16"),
            (wide("", u16::to_be_bytes), "UTF-16"),
            (utf32, "UTF-32"),
            (b"\x1f\x8b\x08\x00rest".to_vec(), "Content-Encoding: gzip"),
            (b"\x28\xb5\x2f\xfdrest".to_vec(), "Content-Encoding: zstd"),
            (b"\xfd7zXZ\x00rest".to_vec(), "is xz"),
            (b"PK\x03\x04rest".to_vec(), "zip"),
            (b"id,text\n1,Some text.\n".to_vec(), "columns id, text"),
            (b"\xef\xbb\xbfid;text\r\n1;Some text.\r\n".to_vec(), "columns id, text"),
            (b"\"id\"\t\"text\"\n1\tx".to_vec(), "columns id, text"),
            (b"text\nSome text.\n".to_vec(), "columns text"),
            (b"Titel,\xc3\x9cberschrift\na,b\n".to_vec(), "CSV"),
            (b"id,text".to_vec(), "CSV"),
            (b"[\n{\"text\":\"a\"},\n{\"text\":\"b\"}\n]\n".to_vec(), "array"),
            (b"  [{\"text\":\"a\"},{\"text\":\"b\"}]".to_vec(), "array"),
            (b"\n[\r\n  \"a\",\r\n  \"b\"\r\n]".to_vec(), "array"),
            (b"{\n  \"chunks\": [\n".to_vec(), "several lines"),
        ] {
            for size in [1, 2, 3, 7, 1000] {
                let said = sent(&body, size).unwrap_err();
                assert!(said.contains(word), "{word} is not in \"{said}\"");
            }
            let is_json = matches!(body.trim_ascii_start()[0], b'[' | b'{') && !body.contains(&0);
            if !is_json {
                assert!(document(&body).unwrap_err().to_string().contains(word), "{word}");
            }
        }
    }

    #[test]
    fn lines_are_passed_on_also_wrong_ones() {
        for (body, lines) in [
            (&b"{\"text\":\"a\"}\n{\"text\":\"b\"}\n"[..], 2),
            (b"\xef\xbb\xbf{\"text\":\"a\"}", 1),
            (b"hello\n{}\n", 2),
            (b"hello, world\n{\"text\":\"a\"}\n", 2),
            (b"This is a sentence, which is not a table.\nAnd so on.\n", 2),
            (b"[\"pos\",\"by position\",null]\n{}\n", 2),
            (b"[]\n{}\n", 2),
            (b"{\n{\"text\":\"a\"}\n", 2),
            (b"\0\0\0\n{}\n", 2),
            (b"7\n", 1),
            (b"\"a text\"\n", 1),
            (b"", 0),
            (b"\n\n", 0),
            (b"\xff\n", 1),
            (b"\x1f", 1),
            (b"\xef\xbb", 1),
        ] {
            for size in [1, 2, 1000] {
                assert_eq!(sent(body, size), Ok(lines), "{}", body.escape_ascii());
            }
        }
        let long = "x,".repeat(1 << 20);
        assert_eq!(sent(long.as_bytes(), 1000), Ok(1), "a beginning that does not end is passed on");
    }

    #[test]
    fn a_line_that_is_complete_is_not_kept_waiting() {
        for line in ["{}\n", "{\"text\":\"a\"}\n", "[1]\n", "7\n"] {
            let (mut start, mut lines) = (BodyStart::default(), LineDecoder::default());
            start.feed(line.as_bytes(), &mut lines).unwrap();
            assert!(lines.next_line().is_some(), "{line}");
        }
    }

    #[test]
    fn a_document_begins_after_its_mark() {
        assert_eq!(document(b"\xef\xbb\xbf{}"), Ok(&b"{}"[..]));
        for body in [&b"{}"[..], b"[1]", b"", b"this is no JSON", b"7", b"\"a, b\"", b"{\n\"a\":1}"] {
            assert_eq!(document(body), Ok(body));
        }
    }
}
