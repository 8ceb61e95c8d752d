//! NDJSON: lines that are chunks already. They are passed on as they are, only cut into pieces of whole lines.

use super::piece::{InputPiece, PieceReader, RefusedRow};
use crate::wire::MAX_LINE_BYTES;
use bytes::{Bytes, BytesMut};
use memchr::{memchr, memrchr};
use std::io::{self, Read};

/// The bytes that are read at a time.
const READ: usize = 64 * 1024;
/// A line without an end up to here is longer than the service takes.
const LONGEST: usize = MAX_LINE_BYTES + READ;

/// Lines as they are.
pub struct NdjsonLines<R> {
    file: R,
    /// What was read and not given: the beginning of a line, but for the moment before it is cut.
    rest: BytesMut,
    /// Lines that were given.
    lines: u64,
    /// The line that begins in `rest` was refused.
    skipping: bool,
    ended: bool,
}

impl<R: Read> NdjsonLines<R> {
    /// The lines of a file in UTF-8, without a byte order mark.
    pub fn new(file: R) -> Self {
        NdjsonLines { file, rest: BytesMut::new(), lines: 0, skipping: false, ended: false }
    }

    /// Reads more. Whether the end is reached.
    fn fill(&mut self) -> io::Result<bool> {
        let before = self.rest.len();
        self.rest.resize(before + READ, 0);
        let read = self.file.read(&mut self.rest[before..]);
        self.rest.truncate(before + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(read) => Ok(read == 0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Passes over the rest of a line that was refused.
    fn skip(&mut self) {
        match memchr(b'\n', &self.rest) {
            Some(end) => {
                drop(self.rest.split_to(end + 1));
                self.skipping = false;
            }
            None => self.rest.clear(),
        }
    }

    /// Refuses the line that begins in `rest`.
    fn refuse(&mut self) -> InputPiece {
        self.lines += 1;
        self.skipping = true;
        let refused = RefusedRow {
            number: self.lines,
            code: "line_too_long",
            message: format!("line too long: expected at most {MAX_LINE_BYTES} bytes"),
            content: Bytes::new(),
        };
        InputPiece { lines: Bytes::from_static(b"\n"), refused: vec![refused] }
    }
}

impl<R: Read + Send> PieceReader for NdjsonLines<R> {
    fn next_piece(&mut self) -> io::Result<Option<InputPiece>> {
        while !self.ended {
            self.ended = self.fill()?;
            if self.skipping {
                self.skip();
            }
            let end = if self.ended {
                Some(self.rest.len())
            } else {
                memrchr(b'\n', &self.rest).map(|end| end + 1)
            };
            if let Some(end) = end.filter(|end| *end > 0) {
                let lines = self.rest.split_to(end).freeze();
                self.lines += memchr::memchr_iter(b'\n', &lines).count() as u64;
                return Ok(Some(InputPiece { lines, refused: Vec::new() }));
            }
            if self.rest.len() > LONGEST {
                return Ok(Some(self.refuse()));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives the bytes in the portions that the test says.
    struct Portions<'a>(&'a [u8], Vec<usize>);

    impl Read for Portions<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let portion = self.1.pop().unwrap_or(usize::MAX).clamp(1, to.len());
            Read::read(&mut self.0, &mut to[..portion])
        }
    }

    fn read(text: &[u8], portions: Vec<usize>) -> (Vec<u8>, Vec<u64>) {
        let mut lines = NdjsonLines::new(Portions(text, portions));
        let (mut found, mut refused, mut whole) = (Vec::new(), Vec::new(), true);
        while let Some(piece) = lines.next_piece().unwrap() {
            assert!(whole, "only the last piece may end in a line");
            whole = piece.lines.ends_with(b"\n");
            found.extend_from_slice(&piece.lines);
            refused.extend(piece.refused.iter().map(|row| row.number));
        }
        (found, refused)
    }

    proptest! {
        #[test]
        fn the_pieces_are_the_file(text in "[ab\n]{0,80}", portions in proptest::collection::vec(1usize..20, 0..20)) {
            prop_assert_eq!(read(text.as_bytes(), portions), (text.into_bytes(), Vec::new()));
        }
    }

    #[test]
    fn a_line_that_never_ends_is_refused_alone() {
        let long = "x".repeat(3 * LONGEST);
        let text = format!("one\n{long}\nthree\n{long}");
        assert_eq!(read(text.as_bytes(), Vec::new()), (b"one\n\nthree\n\n".to_vec(), vec![2, 4]));
    }
}
