//! Objects of JSON as rows: those of lines, of arrays, of requests, of rejects.

use super::elements::{Container, Element, JsonElements};
use super::error::damaged;
use super::mapping::{Mapping, RowKind};
use super::piece::{InputPiece, PieceReader, PieceWriter, RefusedRow, RowReader};
use super::record::{Cell, Record};
use super::value_scan::on_one_line;
use crate::wire::Splitter;
use bytes::Bytes;
use std::borrow::Cow;
use std::io::{self, Read};
use std::sync::Arc;

/// The fields of an object. `None` for anything else, which is then for the service to refuse.
pub fn fields_of(json: &[u8]) -> Option<Record<'_>> {
    let mut parts = Splitter::of(json, b'{')?;
    let mut fields = Vec::new();
    while let Some(member) = parts.member() {
        let (key, value) = member.ok()?;
        let name: String = serde_json::from_slice(key).ok()?;
        fields.push((Cow::Owned(name), Cell::Json(Cow::Borrowed(value))));
    }
    parts.rest().is_empty().then_some(Record { fields })
}

/// What is said of all chunks of a request, outside of them.
#[derive(Debug, Clone, Default)]
pub struct RequestOptions {
    /// The dataset that the chunks are sent to, where it is named.
    pub dataset: String,
}

/// The field of a refused line that holds the line as it was sent; see [`rejected_line`].
pub const REJECTED_CHUNK: &str = "chunk";
/// The field of a refused line that says why.
pub const REJECTED_WHY: &str = "rejected";

/// The chunk of a line that `--rejects` has written. `None` for other lines.
pub fn rejected_line(record: &mut Record<'_>) -> Option<Vec<u8>> {
    let is_rejected = record.fields.len() == 2 && record.has(REJECTED_WHY) && record.has(REJECTED_CHUNK);
    if !is_rejected {
        return None;
    }
    let Cell::Json(json) = record.take(REJECTED_CHUNK)? else { return None };
    // What was no JSON is kept as a string of its characters.
    Some(serde_json::from_slice::<String>(&json).map_or_else(|_| json.into_owned(), String::into_bytes))
}

/// Objects as they are read, one a row.
pub struct ObjectRows<R> {
    elements: JsonElements<R>,
    mapping: Arc<Mapping>,
    options: RequestOptions,
    batch: Option<Bytes>,
    row: u64,
}

impl<R: Read + Send> ObjectRows<R> {
    /// The objects of a file in UTF-8, without a byte order mark.
    pub fn new(file: R, container: Container, mapping: Arc<Mapping>, options: RequestOptions) -> Self {
        let elements = JsonElements::new(file, container);
        ObjectRows { elements, mapping, options, batch: None, row: 0 }
    }

    fn value(&mut self, json: &[u8], pieces: &mut PieceWriter) {
        self.row += 1;
        let changes = !self.mapping.is_identity() || self.batch.is_some();
        let mut row = changes.then(|| fields_of(json)).flatten();
        if let (Some(row), Some(batch)) = (&mut row, &self.batch)
            && !row.has("batch_id")
        {
            row.fields.push((Cow::Borrowed("batch_id"), Cell::Json(Cow::Borrowed(batch))));
        }
        pieces.row(self.row, |out| match row {
            Some(row) => self.mapping.write(row, RowKind::Object, out),
            None => out.extend_from_slice(json),
        });
    }

    fn refused(&mut self, code: &'static str, message: &str, content: Bytes) -> RefusedRow {
        self.row += 1;
        RefusedRow { number: self.row, code, message: message.to_owned(), content }
    }

    /// What a request says of all its chunks.
    fn option(&mut self, name: &str, json: Bytes) -> io::Result<()> {
        match name {
            "batch_id" => self.batch = Some(json).filter(|json| json.as_ref() != b"null"),
            "dataset_source" => {
                let named = serde_json::from_slice::<String>(&json).unwrap_or_default();
                if !named.is_empty() && named != self.options.dataset {
                    let expected = &self.options.dataset;
                    let late =
                        if self.row == 0 { "" } else { " (its chunks before that are in the other one)" };
                    return Err(damaged(format!(
                        "says that its chunks belong to the dataset '{named:.100}', and they are being sent to \
                         '{expected}'{late}: name it with --dataset, or remove `dataset_source`"
                    )));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl<R: Read + Send> RowReader for ObjectRows<R> {
    fn read_row(&mut self, pieces: &mut PieceWriter) -> io::Result<bool> {
        match self.elements.next()? {
            None => return Ok(false),
            Some(Element::Option(name, json)) => self.option(&name, json)?,
            Some(Element::TooLong) => {
                let refused = self.refused("line_too_long", "the object is longer than 16 MiB", Bytes::new());
                pieces.refuse(refused);
            }
            Some(Element::Value(json)) => match on_one_line(json.clone()) {
                Some(line) => self.value(&line, pieces),
                None => {
                    let message = "a line break stands inside of a string, where JSON writes \\n";
                    pieces.refuse(self.refused("invalid_json", message, json));
                }
            },
        }
        Ok(true)
    }
}

/// Lines, each of which is an object that has to be changed.
pub struct MappedLines<L> {
    lines: L,
    mapping: Arc<Mapping>,
    pieces: PieceWriter,
    line: u64,
}

impl<L: PieceReader> MappedLines<L> {
    /// The lines of `lines`, mapped.
    pub fn new(lines: L, mapping: Arc<Mapping>) -> Self {
        MappedLines { lines, mapping, pieces: PieceWriter::default(), line: 0 }
    }

    fn take(&mut self, piece: InputPiece) {
        let mut refused = piece.refused.into_iter().peekable();
        for line in piece.lines.split(|byte| *byte == b'\n').take(line_count(&piece.lines)) {
            self.line += 1;
            let number = self.line;
            if let Some(row) = refused.next_if(|row| row.number == number) {
                self.pieces.refuse(row);
                continue;
            }
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            let mapping = &self.mapping;
            self.pieces.row(number, |out| match fields_of(line) {
                Some(mut row) => match rejected_line(&mut row) {
                    Some(chunk) => out.extend_from_slice(&one_line(chunk)),
                    None => mapping.write(row, RowKind::Object, out),
                },
                None => out.extend_from_slice(line),
            });
        }
    }
}

/// A text of several lines cannot be sent as one; the service then refuses what is left of it.
fn one_line(mut chunk: Vec<u8>) -> Vec<u8> {
    chunk.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    chunk
}

fn line_count(lines: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', lines).count() + usize::from(!lines.is_empty() && !lines.ends_with(b"\n"))
}

impl<L: PieceReader> PieceReader for MappedLines<L> {
    fn next_piece(&mut self) -> io::Result<Option<InputPiece>> {
        while let Some(piece) = self.lines.next_piece()? {
            self.take(piece);
            // Blank lines alone are no piece.
            if let Some(piece) = self.pieces.take() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ndjson::NdjsonLines;
    use super::super::piece::RowPieces;
    use super::*;

    fn read(mut rows: impl PieceReader) -> Result<(String, Vec<u64>), String> {
        let (mut lines, mut refused) = (Vec::new(), Vec::new());
        loop {
            match rows.next_piece() {
                Ok(Some(piece)) => {
                    lines.extend_from_slice(&piece.lines);
                    refused.extend(piece.refused.iter().map(|row| row.number));
                }
                Ok(None) => return Ok((String::from_utf8(lines).unwrap(), refused)),
                Err(error) => return Err(format!("{}{error}", String::from_utf8(lines).unwrap())),
            }
        }
    }

    fn rows(text: &str, container: Container, mapping: &Mapping) -> Result<(String, Vec<u64>), String> {
        let options = RequestOptions { dataset: "mine".to_owned() };
        read(RowPieces::new(ObjectRows::new(text.as_bytes(), container, Arc::new(mapping.clone()), options)))
    }

    #[test]
    fn elements_lie_on_the_lines_of_their_numbers_and_bad_ones_are_bad_alone() {
        let text = "[{\"text\":\n\"a\"},{\"text\":\"b\nc\"},7,{\"text\":\"d\"}]";
        let plain = rows(text, Container::Array, &Mapping::default()).unwrap();
        assert_eq!(plain, ("{\"text\": \"a\"}\n\n7\n{\"text\":\"d\"}\n".to_owned(), vec![2]));
        let mapping = Mapping { constants: vec![("lang".to_owned(), "en".to_owned())], ..Mapping::default() };
        let mapped = rows(text, Container::Array, &mapping).unwrap().0;
        assert_eq!(mapped.lines().last().unwrap(), r#"{"text":"d","metadata":{"lang":"en"}}"#);
        let cut = rows("[{\"text\":\"a\"},{\"te", Container::Array, &Mapping::default()).unwrap_err();
        assert!(cut.starts_with("{\"text\":\"a\"}\nis no JSON after value 1"), "{cut}");
    }

    #[test]
    fn a_request_gives_its_batch_to_its_chunks_and_its_dataset_must_be_the_one_they_are_sent_to() {
        let request = |options: &str| {
            let text = format!(
                "{{{options}\"chunks\":[{{\"text\":\"a\"}},{{\"text\":\"b\",\"batch_id\":\"own\"}}]}}"
            );
            rows(&text, Container::Request, &Mapping::default())
        };
        assert_eq!(request("").unwrap().0, "{\"text\":\"a\"}\n{\"text\":\"b\",\"batch_id\":\"own\"}\n");
        assert_eq!(
            request("\"dataset_source\":\"mine\",\"batch_id\":\"b1\",").unwrap().0,
            "{\"text\":\"a\",\"batch_id\":\"b1\"}\n{\"text\":\"b\",\"batch_id\":\"own\"}\n"
        );
        let other = request("\"dataset_source\":\"other\",").unwrap_err();
        assert!(other.starts_with("says that its chunks belong to the dataset 'other'"), "{other}");
        assert!(other.contains("--dataset"), "{other}");
    }

    #[test]
    fn mapped_lines_keep_their_numbers() {
        let mapping =
            Arc::new(Mapping { fields: vec![("body".to_owned(), "text".to_owned())], ..Mapping::default() });
        let text = "\n{\"body\":\"a\"}\r\n\nno JSON\n{\"body\":\"b\"}";
        let (lines, refused) = read(MappedLines::new(NdjsonLines::new(text.as_bytes()), mapping)).unwrap();
        assert_eq!((lines.as_str(), refused.len()), ("\n{\"text\":\"a\"}\n\nno JSON\n{\"text\":\"b\"}\n", 0));
    }

    #[test]
    fn the_chunk_of_a_refused_line_is_sent_as_it_is_now() {
        let text = concat!(
            r#"{"rejected":{"code":"text_empty","line":3},"chunk":{"text":"mended","id":7}}"#,
            "\n",
            r#"{"rejected":{"code":"invalid_json"},"chunk":"{\"text\": broken"}"#,
            "\n",
            r#"{"text":"t","chunk":"of something else","rejected":1}"#,
            "\n",
        );
        let lines = MappedLines::new(NdjsonLines::new(text.as_bytes()), Arc::default());
        let expected = concat!(
            r#"{"text":"mended","id":7}"#,
            "\n",
            r#"{"text": broken"#,
            "\n",
            r#"{"text":"t","chunk":"of something else","rejected":1}"#,
            "\n",
        );
        assert_eq!(read(lines).unwrap().0, expected);
    }
}
