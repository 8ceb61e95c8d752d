//! What a reader of a file gives: pieces of NDJSON, in which each chunk lies on the line that its number names.

use bytes::Bytes;
use std::io;

/// A piece is given when it has so many bytes.
const PIECE: usize = 64 * 1024;

/// Reads a file from its beginning to its end.
pub trait PieceReader: Send {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// The system's, or a sentence on what is wrong with the file. Nothing more can be read after an error.
    fn next_piece(&mut self) -> io::Result<Option<InputPiece>>;
}

/// Some rows of a file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct InputPiece {
    /// Whole lines of NDJSON. The number of a line, counted over all pieces from 1, is the number of its row; a line
    /// without a row is blank.
    pub lines: Bytes,
    /// The rows of which no chunk can be made.
    pub refused: Vec<RefusedRow>,
}

/// A row of which no chunk can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRow {
    /// The number of the row, from 1.
    pub number: u64,
    /// The code of the error, as the service would name it.
    pub code: &'static str,
    /// One sentence: what was expected, and what was received.
    pub message: String,
    /// The row as it was read, empty if it cannot be shown.
    pub content: Bytes,
}

/// Writes rows into pieces.
#[derive(Debug, Default)]
pub struct PieceWriter {
    lines: Vec<u8>,
    refused: Vec<RefusedRow>,
    /// The number of the last line that was written.
    line: u64,
}

impl PieceWriter {
    /// Adds the row with this number, whose JSON `write` appends. Numbers rise.
    pub fn row(&mut self, number: u64, write: impl FnOnce(&mut Vec<u8>)) {
        self.advance_to(number);
        write(&mut self.lines);
        self.lines.push(b'\n');
    }

    /// Adds a row of which no chunk can be made.
    pub fn refuse(&mut self, row: RefusedRow) {
        self.advance_to(row.number);
        self.lines.push(b'\n');
        self.refused.push(row);
    }

    /// Blank lines up to the one before `number`.
    fn advance_to(&mut self, number: u64) {
        let blank = number.saturating_sub(self.line + 1);
        // A gap as long as memory would come from a counter that is wrong, not from a file.
        self.lines.resize(self.lines.len() + usize::try_from(blank).unwrap_or(0), b'\n');
        self.line = number;
    }

    /// There is enough for a piece.
    pub fn is_full(&self) -> bool {
        self.lines.len() >= PIECE
    }

    /// What was written, if there is something.
    pub fn take(&mut self) -> Option<InputPiece> {
        if self.lines.is_empty() {
            return None;
        }
        let lines = std::mem::replace(&mut self.lines, Vec::with_capacity(PIECE + PIECE / 4));
        Some(InputPiece { lines: lines.into(), refused: std::mem::take(&mut self.refused) })
    }
}

/// Reads a file row by row.
pub trait RowReader: Send {
    /// Reads the next row and writes it. Whether there may be another one.
    ///
    /// # Errors
    /// As those of [`PieceReader`].
    fn read_row(&mut self, pieces: &mut PieceWriter) -> io::Result<bool>;
}

/// The rows of a file in pieces.
pub struct RowPieces<R> {
    rows: R,
    pieces: PieceWriter,
    /// How it ended, once it has.
    end: Option<io::Result<()>>,
}

impl<R: RowReader> RowPieces<R> {
    /// The rows that `rows` reads.
    pub fn new(rows: R) -> Self {
        RowPieces { rows, pieces: PieceWriter::default(), end: None }
    }
}

impl<R: RowReader> PieceReader for RowPieces<R> {
    fn next_piece(&mut self) -> io::Result<Option<InputPiece>> {
        while self.end.is_none() && !self.pieces.is_full() {
            match self.rows.read_row(&mut self.pieces) {
                Ok(true) => {}
                Ok(false) => self.end = Some(Ok(())),
                Err(error) => self.end = Some(Err(error)),
            }
        }
        // The rows before an error come before it.
        match self.pieces.take() {
            Some(piece) => Ok(Some(piece)),
            None => self.end.replace(Ok(())).unwrap_or(Ok(())).map(|()| None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_lies_on_the_line_of_its_number() {
        let mut writer = PieceWriter::default();
        assert_eq!(writer.take(), None);
        let refused =
            RefusedRow { number: 5, code: "wrong_type", message: String::new(), content: Bytes::new() };
        writer.row(2, |out| out.extend_from_slice(b"two"));
        writer.row(3, |out| out.extend_from_slice(b"three"));
        writer.refuse(refused.clone());
        writer.row(6, |out| out.extend_from_slice(b"six"));
        let piece = writer.take().unwrap();
        assert_eq!(
            piece,
            InputPiece { lines: Bytes::from_static(b"\ntwo\nthree\n\n\nsix\n"), refused: vec![refused] }
        );
        writer.row(8, |out| out.push(b'8'));
        assert_eq!(writer.take().unwrap().lines, &b"\n8\n"[..]);
    }
}
