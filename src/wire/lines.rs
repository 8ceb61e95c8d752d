//! Splits a stream of bytes into lines. A bad line is an item like any other, so it never ends a stream.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;

/// The longest line in bytes, without its line ending.
pub const MAX_LINE_BYTES: usize = 1024 * 1024;

/// The UTF-8 byte order mark, which some editors write at the start of a file.
pub(super) const MARK: &[u8] = b"\xef\xbb\xbf";

/// A line that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// Longer than the limit; the rest of the line is skipped.
    #[error("line too long: expected at most {expected} bytes")]
    TooLong {
        /// The limit in bytes.
        expected: usize,
    },
}

/// Splits bytes into lines. Holds at most one line and the bytes of the last [`Self::feed`].
#[derive(Debug)]
pub struct LineDecoder {
    buffer: BytesMut,
    searched: usize,
    number: u64,
    skipping: bool,
    limit: usize,
}

impl Default for LineDecoder {
    fn default() -> Self {
        LineDecoder::with_limit(MAX_LINE_BYTES)
    }
}

impl LineDecoder {
    /// A decoder for lines of at most `limit` bytes; the default is [`MAX_LINE_BYTES`].
    pub fn with_limit(limit: usize) -> Self {
        LineDecoder { buffer: BytesMut::new(), searched: 0, number: 0, skipping: false, limit }
    }

    /// Appends bytes of the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete line that is not blank, with its number. Numbers start at 1 and count blank lines too.
    /// `None`: more bytes are needed.
    pub fn next_line(&mut self) -> Option<(u64, Result<Bytes, LineError>)> {
        loop {
            let Some(end) = memchr(b'\n', &self.buffer[self.searched..]) else {
                return self.wait_for_more();
            };
            let line = self.buffer.split_to(self.searched + end);
            self.buffer.advance(1);
            self.searched = 0;
            if let Some(found) = self.complete(line) {
                return Some(found);
            }
        }
    }

    /// The last line when it has no line ending. Call once, after the stream has ended.
    pub fn last_line(&mut self) -> Option<(u64, Result<Bytes, LineError>)> {
        let rest = self.buffer.split();
        self.searched = 0;
        if rest.is_empty() { None } else { self.complete(rest) }
    }

    /// The buffer holds no line ending. A line that is already too long is reported at once, then skipped.
    fn wait_for_more(&mut self) -> Option<(u64, Result<Bytes, LineError>)> {
        if self.skipping {
            self.buffer.clear();
        }
        self.searched = self.buffer.len();
        // A line of exactly `limit` bytes may have a byte order mark before it and a CR after it.
        let mark = if self.number == 0 { MARK.len() } else { 0 };
        if self.searched > mark + self.limit + 1 {
            self.buffer.clear();
            self.searched = 0;
            self.skipping = true;
            return Some((self.number + 1, Err(LineError::TooLong { expected: self.limit })));
        }
        None
    }

    fn complete(&mut self, mut line: BytesMut) -> Option<(u64, Result<Bytes, LineError>)> {
        self.number += 1;
        if std::mem::take(&mut self.skipping) {
            // Reported when it became too long.
            return None;
        }
        if line.last() == Some(&b'\r') {
            line.truncate(line.len() - 1);
        }
        if self.number == 1 && line.starts_with(MARK) {
            line.advance(MARK.len());
        }
        if line.len() > self.limit {
            return Some((self.number, Err(LineError::TooLong { expected: self.limit })));
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            return None;
        }
        Some((self.number, Ok(line.freeze())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type NumberedLine = (u64, Result<Bytes, LineError>);

    fn cut(limit: usize, pieces: &[&[u8]]) -> Vec<NumberedLine> {
        let mut lines = LineDecoder::with_limit(limit);
        let mut found = Vec::new();
        for piece in pieces {
            lines.feed(piece);
            found.extend(std::iter::from_fn(|| lines.next_line()));
        }
        found.extend(lines.last_line());
        found
    }

    fn good(number: u64, line: &'static str) -> NumberedLine {
        (number, Ok(Bytes::from_static(line.as_bytes())))
    }

    #[test]
    fn ends_of_lines_byte_order_marks_and_blank_lines_are_no_content() {
        let found = cut(100, &[b"\xef\xbb\xbfone\r\n\n  \r\ntw", b"o\nthree"]);
        assert_eq!(found, [good(1, "one"), good(4, "two"), good(5, "three")]);
    }

    #[test]
    fn a_line_that_is_too_long_is_reported_once_and_its_neighbours_stand() {
        let found = cut(5, &[b"a\n123456789", b"0123456789", b"0\nb\n12345\r\n123456\nc"]);
        let long = || Err(LineError::TooLong { expected: 5 });
        let expected = [good(1, "a"), (2, long()), good(3, "b"), good(4, "12345"), (5, long()), good(6, "c")];
        assert_eq!(found, expected);
    }

    /// A plain implementation for a whole body in memory.
    fn reference(bytes: &[u8], limit: usize) -> Vec<NumberedLine> {
        let bytes = bytes.strip_prefix(MARK).unwrap_or(bytes);
        let lines = (1..).zip(bytes.split(|byte| *byte == b'\n'));
        let trimmed = lines.map(|(number, line)| (number, line.strip_suffix(b"\r").unwrap_or(line)));
        let found = trimmed.filter(|(_, line)| line.len() > limit || !line.trim_ascii().is_empty());
        let long = || LineError::TooLong { expected: limit };
        found
            .map(|(number, line)| {
                let fits = line.len() <= limit;
                (number, if fits { Ok(Bytes::copy_from_slice(line)) } else { Err(long()) })
            })
            .collect()
    }

    proptest! {
        #[test]
        fn where_the_network_cuts_makes_no_difference(
            marked in any::<bool>(),
            text in "[ab \r\n]{0,60}",
            cuts in proptest::collection::vec(0usize..64, 0..6),
        ) {
            let bytes = [if marked { MARK } else { b"" }, text.as_bytes()].concat();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            prop_assert_eq!(cut(8, &pieces), cut(8, &[&bytes]));
            prop_assert_eq!(cut(8, &pieces), reference(&bytes, 8));
        }

        #[test]
        fn every_line_that_is_not_blank_is_an_item_exactly_once(bytes in any::<Vec<u8>>()) {
            let found = cut(1 << 20, &[&bytes]);
            prop_assert_eq!(found, reference(&bytes, 1 << 20));
        }
    }
}
