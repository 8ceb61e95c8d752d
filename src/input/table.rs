//! Tables: CSV and TSV with a line that names the columns.

use super::error::{InputError, damaged, listed};
use super::mapping::{Mapping, RowKind};
use super::piece::{PieceWriter, RefusedRow, RowReader};
use super::record::{Cell, Record};
use bytes::{Buf, Bytes, BytesMut};
use csv::{ByteRecord, ReaderBuilder};
use std::borrow::Cow;
use std::io::{self, Read};
use std::sync::Arc;

/// Between the cells of a table, in the order in which they are preferred.
const DELIMITERS: [u8; 4] = [b',', b'\t', b';', b'|'];
/// The most bytes of a row. More are those of a quotation mark that nothing closes.
const LONGEST: u64 = 16 * 1024 * 1024;
/// The longest name of a column, in characters and in words. Longer ones are sentences.
const LONGEST_NAME: (usize, usize) = (60, 5);

/// The line that names the columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What stands between the cells.
    pub delimiter: u8,
    /// The names of the columns; a column without a name is left out.
    pub columns: Vec<String>,
    /// A line before this one, `sep=;`, names the delimiter, as Excel writes it.
    has_separator_line: bool,
}

impl Header {
    /// Reads the header at the beginning of a text. `None`: no table begins here. The column with the text is most
    /// often the one named `wanted`.
    ///
    /// # Errors
    /// Two columns have the same name.
    pub fn of(text: &[u8], delimiter: Option<u8>, wanted: &str) -> Result<Option<Header>, InputError> {
        let named = separator_line(text);
        let text = named.map_or(text, |(_, rest)| rest);
        let said = delimiter.or(named.map(|(delimiter, _)| delimiter));
        let candidates = said.map_or(DELIMITERS.to_vec(), |one| vec![one]);
        let headers = candidates.into_iter().map(|delimiter| (delimiter, first_record(text, delimiter)));
        // The one that gives the most columns; of equals the first. A name within a name is no column.
        let best = headers
            .rev()
            .max_by_key(|(_, columns)| (columns.iter().any(|name| name == wanted), columns.len()));
        let Some((delimiter, columns)) = best else { return Ok(None) };
        let is_named = |name: &String| {
            let (characters, words) = LONGEST_NAME;
            name.chars().count() <= characters && name.split_whitespace().count() <= words
        };
        if !columns.iter().all(is_named) || columns.iter().all(String::is_empty) {
            return Ok(None);
        }
        let twice = |name: &&String| columns.iter().filter(|other| other == name).count() > 1;
        if let Some(name) = columns.iter().filter(|name| !name.is_empty()).find(twice) {
            return Err(InputError::Unusable(format!(
                "has two columns with the name `{name}`; give each its own name in the first line. Its columns: {}",
                listed(columns.iter().map(String::as_str))
            )));
        }
        Ok(Some(Header { delimiter, columns, has_separator_line: named.is_some() }))
    }

    /// The names, without those that are empty.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(String::as_str).filter(|name| !name.is_empty())
    }
}

/// Whether what is below a header of several columns has as many cells, as the rows of a table have, and as the
/// sentences of a text have not.
pub fn looks_like_rows(text: &[u8], header: &Header) -> bool {
    const LOOKED_AT: usize = 20;
    let text =
        if header.has_separator_line { separator_line(text).map_or(text, |(_, rest)| rest) } else { text };
    let mut reader =
        ReaderBuilder::new().delimiter(header.delimiter).has_headers(false).flexible(true).from_reader(text);
    let lengths: Vec<usize> = reader
        .byte_records()
        .skip(1)
        .take(LOOKED_AT)
        .map_while(Result::ok)
        .map(|record| record.len())
        .collect();
    let fitting = lengths.iter().filter(|length| **length == header.columns.len()).count();
    header.columns.len() > 1 && fitting > lengths.len() / 2
}

/// The delimiter of a first line like `sep=;`, and what is behind the line.
fn separator_line(text: &[u8]) -> Option<(u8, &[u8])> {
    let end = memchr::memchr(b'\n', text)?;
    match text[..end].trim_ascii_end() {
        [b's' | b'S', b'e' | b'E', b'p' | b'P', b'=', delimiter] => Some((*delimiter, &text[end + 1..])),
        // A tab is white space.
        [b's' | b'S', b'e' | b'E', b'p' | b'P', b'='] => Some((b'\t', &text[end + 1..])),
        _ => None,
    }
}

fn first_record(text: &[u8], delimiter: u8) -> Vec<String> {
    let mut reader =
        ReaderBuilder::new().delimiter(delimiter).has_headers(false).flexible(true).from_reader(text);
    let mut record = ByteRecord::new();
    match reader.read_byte_record(&mut record) {
        Ok(true) => record.iter().map(|cell| String::from_utf8_lossy(cell).trim().to_owned()).collect(),
        _ => Vec::new(),
    }
}

/// The bytes of a table on their way to its reader.
struct TableBytes<R> {
    file: R,
    /// Bytes since the last row began.
    taken: u64,
    /// The bytes from the row on that is being read: the reader does not say on which line a row begins when blank lines
    /// are before it.
    recent: BytesMut,
    /// The place of the first of them in the file.
    start: u64,
}

impl<R: Read> Read for TableBytes<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.taken > LONGEST {
            return Err(damaged("is longer than 16 MiB"));
        }
        let read = self.file.read(to)?;
        self.taken += read as u64;
        self.recent.extend_from_slice(&to[..read]);
        Ok(read)
    }
}

impl<R> TableBytes<R> {
    /// The number of line breaks before the row that was read from here, between it and the row before it.
    fn breaks_before(&mut self, place: u64) -> u64 {
        let passed = usize::try_from(place.saturating_sub(self.start)).unwrap_or(usize::MAX);
        self.recent.advance(passed.min(self.recent.len()));
        self.start = place;
        let breaks = self.recent.iter().take_while(|byte| matches!(byte, b'\n' | b'\r'));
        breaks.filter(|byte| **byte == b'\n').count() as u64
    }
}

/// The rows below a header.
pub struct TableRows<R> {
    rows: csv::Reader<TableBytes<R>>,
    header: Header,
    mapping: Arc<Mapping>,
    record: ByteRecord,
    /// The number of the line before the first one that is read.
    lines_before: u64,
    header_is_read: bool,
}

impl<R: Read + Send> TableRows<R> {
    /// The rows of a file in UTF-8, without a byte order mark.
    ///
    /// # Errors
    /// The system's.
    pub fn new(mut file: R, header: Header, mapping: Arc<Mapping>) -> io::Result<Self> {
        if header.has_separator_line {
            let mut byte = [0];
            while file.read(&mut byte)? == 1 && byte != *b"\n" {}
        }
        let rows = ReaderBuilder::new()
            .delimiter(header.delimiter)
            .has_headers(false)
            .flexible(true)
            .buffer_capacity(64 * 1024)
            .from_reader(TableBytes { file, taken: 0, recent: BytesMut::new(), start: 0 });
        Ok(TableRows {
            rows,
            lines_before: u64::from(header.has_separator_line),
            header,
            mapping,
            record: ByteRecord::new(),
            header_is_read: false,
        })
    }

    /// Reads the next row. Whether there is one.
    fn advance(&mut self) -> io::Result<bool> {
        self.rows.get_mut().taken = 0;
        let before = self.rows.position().line();
        self.rows.read_byte_record(&mut self.record).map_err(|error| {
            let line = before + self.lines_before;
            match error.into_kind() {
                csv::ErrorKind::Io(error) if error.kind() == io::ErrorKind::InvalidData => damaged(format!(
                    "{error}, in the row that begins at line {line}. A quotation mark that nothing closes makes one row \
                     of all that follows"
                )),
                csv::ErrorKind::Io(error) => error,
                other => damaged(format!("cannot be read at line {line}: {other:?}")),
            }
        })
    }

    fn write(&mut self, pieces: &mut PieceWriter) {
        // The line on which the row ends would say less to a person than the one on which it begins.
        let (line, place) =
            self.record.position().map_or((0, 0), |position| (position.line(), position.byte()));
        let number = line + self.rows.get_mut().breaks_before(place) + self.lines_before;
        let (header, mapping, record) = (&self.header, &self.mapping, &self.record);
        let content = || Bytes::from(shown(record, header.delimiter));
        let expected = header.columns.len();
        // Cells behind the last column are harmless while they are empty.
        if record.len() < expected || record.iter().skip(expected).any(|cell| !cell.is_empty()) {
            let message = format!(
                "expected {expected} cells, as many as the header has, received {}; a cell that holds the delimiter or a \
                 line break has to be quoted",
                record.len()
            );
            return pieces.refuse(RefusedRow { number, code: "ragged_row", message, content: content() });
        }
        let mut fields = Vec::with_capacity(expected);
        for (name, cell) in header.columns.iter().zip(record.iter()) {
            if name.is_empty() || cell.is_empty() {
                continue;
            }
            let Ok(text) = std::str::from_utf8(cell) else {
                let message = format!(
                    "the cell of `{name}` is not UTF-8; if the file comes from Excel or an old system, send it again \
                     with --encoding windows-1252"
                );
                return pieces.refuse(RefusedRow {
                    number,
                    code: "invalid_utf8",
                    message,
                    content: content(),
                });
            };
            fields.push((Cow::Borrowed(name.as_str()), Cell::Characters(Cow::Borrowed(text))));
        }
        let row = Record { fields };
        pieces.row(number, |out| mapping.write(row, RowKind::Table, out));
    }
}

/// A row as it was read, as far as it can be shown.
fn shown(record: &ByteRecord, delimiter: u8) -> String {
    let cells: Vec<Cow<'_, str>> = record.iter().map(String::from_utf8_lossy).collect();
    cells.join(&char::from(delimiter).to_string())
}

impl<R: Read + Send> RowReader for TableRows<R> {
    fn read_row(&mut self, pieces: &mut PieceWriter) -> io::Result<bool> {
        if !std::mem::replace(&mut self.header_is_read, true) && !self.advance()? {
            return Ok(false);
        }
        let more = self.advance()?;
        if more {
            self.write(pieces);
        }
        Ok(more)
    }
}

#[cfg(test)]
mod tests {
    use super::super::piece::{PieceReader, RowPieces};
    use super::*;

    /// The rows with their lines, those that were refused, and how it ended.
    type TableRead = (Vec<(usize, String)>, Vec<RefusedRow>, Result<(), String>);

    fn read(text: &[u8]) -> TableRead {
        let header = Header::of(text, None, "text").unwrap().unwrap();
        let mut rows = RowPieces::new(TableRows::new(text, header, Arc::default()).unwrap());
        let (mut lines, mut refused) = (String::new(), Vec::new());
        let end = loop {
            match rows.next_piece() {
                Ok(Some(piece)) => {
                    lines.push_str(std::str::from_utf8(&piece.lines).unwrap());
                    refused.extend(piece.refused);
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error.to_string()),
            }
        };
        let numbered = lines.lines().enumerate().filter(|(_, line)| !line.is_empty());
        (numbered.map(|(at, line)| (at + 1, line.to_owned())).collect(), refused, end)
    }

    fn header(text: &str) -> Option<(char, Vec<String>)> {
        let header = Header::of(text.as_bytes(), None, "text").unwrap()?;
        Some((header.delimiter.into(), header.columns))
    }

    #[test]
    fn the_delimiter_is_the_one_that_gives_a_text_and_the_most_columns() {
        for (text, delimiter, columns) in [
            ("text,id\n1;2;3,4\n", ',', &["text", "id"][..]),
            ("text\tid, or so\n", '\t', &["text", "id, or so"]),
            ("text;id;\"a,b,c,d\"\r\n", ';', &["text", "id", "a,b,c,d"]),
            ("text|id\n", '|', &["text", "id"]),
            ("text\n1\n", ',', &["text"]),
            ("sep=;\r\ntext;a,b,c\n", ';', &["text", "a,b,c"]),
            ("sep=\t\ntext\tid\n", '\t', &["text", "id"]),
            (",text\n0,a\n", ',', &["", "text"]),
        ] {
            let columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(header(text), Some((delimiter, columns)), "{text:?}");
        }
        let prose = "It was a dark and stormy night, and the rain fell in torrents.\nThen, silence.\n";
        assert_eq!(header(prose), None);
        assert_eq!(header(""), None);
        let twice = Header::of(b"text,id,text\n", None, "text").unwrap_err().to_string();
        assert!(twice.contains("two columns with the name `text`"), "{twice}");
    }

    #[test]
    fn a_row_has_the_number_of_the_line_on_which_it_begins() {
        for end in ["\n", "\r\n"] {
            let text = ["text,id", "a,1", "\"b", "", "b\",2", "", "c,3"].join(end);
            let (rows, refused, ended) = read(text.as_bytes());
            let numbers: Vec<usize> = rows.iter().map(|(number, _)| *number).collect();
            assert_eq!((numbers, refused.len(), ended), (vec![2, 3, 7], 0, Ok(())), "{end:?}");
            let json: serde_json::Value = serde_json::from_str(&rows[1].1).unwrap();
            assert_eq!(json["text"], format!("b{end}{end}b"));
            let excel = read(format!("sep=,{end}{text}").as_bytes()).0;
            assert_eq!(excel.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [3, 4, 8], "{end:?}");
        }
    }

    #[test]
    fn rows_that_do_not_fit_are_refused_alone_with_what_is_wrong() {
        let text = b"text,id,x\na,1,\nb,2\nc,3,4,5\nd,4,,\n,5,y\ncaf\xe9,6,\nlast,7,z";
        let (rows, refused, ended) = read(text);
        assert_eq!(rows.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2, 5, 6, 8]);
        assert_eq!(rows[2].1, r#"{"id":"5","text":"","metadata":{"x":"y"}}"#);
        let said: Vec<_> = refused.iter().map(|row| (row.number, row.code)).collect();
        assert_eq!(said, [(3, "ragged_row"), (4, "ragged_row"), (7, "invalid_utf8")]);
        assert_eq!(refused[1].content, &b"c,3,4,5"[..]);
        assert!(refused[1].message.contains("expected 3 cells") && refused[1].message.contains("received 4"));
        assert!(refused[2].message.contains("--encoding windows-1252"));
        assert_eq!(ended, Ok(()));
    }

    #[test]
    fn a_quotation_mark_that_nothing_closes_ends_the_file_and_not_the_memory() {
        let text = format!("text,id\na,1\n\"b,2\n{}", "c,3\n".repeat(5 << 20));
        let (rows, _, ended) = read(text.as_bytes());
        assert_eq!(rows.len(), 1, "what is before it is there");
        let error = ended.unwrap_err();
        assert!(
            error.contains("the row that begins at line 3") && error.contains("quotation mark"),
            "{error}"
        );
    }
}
