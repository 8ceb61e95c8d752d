//! The bytes of a source on their way to the service.
//!
//! A line that is settled is sent as a blank one: it has no result, and every other line keeps its number. So the
//! answers to a second upload of a file speak of the same lines as those to the first. A blank line costs a byte, and
//! a space for every [`SHARE`] bytes that it stands for: the service cuts clients that send next to nothing, and one
//! that reads through gigabytes of settled lines must not look like that.

use crate::wire::{ContentEncoding, Inflate};
use bytes::Bytes;
use futures_util::{Stream, stream};
use memchr::memchr;
use roaring::RoaringTreemap;
use std::io;
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncReadExt};

const BUFFER: usize = 64 * 1024;
/// Pieces are at least as large, but for the last.
const PIECE: usize = 16 * 1024;
/// Bytes of a settled line for which a space is sent.
const SHARE: usize = 64;

/// Where bytes come from.
pub type InputSource = Pin<Box<dyn AsyncRead + Send>>;

/// Reads a source from its beginning.
pub struct LineSource {
    source: InputSource,
    inflate: Inflate,
    buffer: Box<[u8]>,
    /// What of `buffer` was read and is not inflated yet.
    unread: std::ops::Range<usize>,
    inflated: Box<[u8]>,
    blanks: Blanks,
    ended: bool,
}

impl LineSource {
    /// All bytes as they are.
    pub fn whole(source: InputSource) -> io::Result<LineSource> {
        LineSource::without(source, ContentEncoding::Identity, RoaringTreemap::new())
    }

    /// Its lines, inflated, with those of `settled` blank.
    pub fn without(
        source: InputSource,
        encoding: ContentEncoding,
        settled: RoaringTreemap,
    ) -> io::Result<LineSource> {
        let inflate = Inflate::new(encoding).map_err(io::Error::other)?;
        let buffer = || vec![0; BUFFER].into_boxed_slice();
        let blanks = Blanks::new(settled);
        Ok(LineSource {
            source,
            inflate,
            buffer: buffer(),
            unread: 0..0,
            inflated: buffer(),
            blanks,
            ended: false,
        })
    }

    /// Piece by piece, up to the end or an error.
    pub fn pieces(self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        stream::unfold(Some(self), |source| async {
            let mut source = source?;
            match source.next().await {
                Ok(piece) => piece.map(|piece| (Ok(piece), Some(source))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let mut piece = Vec::with_capacity(BUFFER + PIECE);
        while piece.len() < PIECE && !self.ended {
            let mut input = &self.buffer[self.unread.clone()];
            let written = self.inflate.step(&mut input, &mut self.inflated).map_err(io::Error::other)?;
            self.unread.start = self.unread.end - input.len();
            self.blanks.pass(&self.inflated[..written], &mut piece);
            if self.unread.is_empty() && written < self.inflated.len() {
                let read = self.source.read(&mut self.buffer).await?;
                self.unread = 0..read;
                if read == 0 {
                    self.inflate.finish().map_err(io::Error::other)?;
                    self.ended = true;
                }
            }
        }
        Ok((!piece.is_empty()).then(|| piece.into()))
    }
}

/// Passes lines on, or only their ends.
struct Blanks {
    settled: RoaringTreemap,
    line: u64,
    /// `None` at the beginning of a line.
    keeping: Option<bool>,
    /// Bytes of this line that were not passed on.
    dropped: usize,
}

impl Blanks {
    fn new(settled: RoaringTreemap) -> Self {
        Blanks { settled, line: 1, keeping: None, dropped: 0 }
    }

    fn pass(&mut self, mut bytes: &[u8], to: &mut Vec<u8>) {
        if self.settled.is_empty() {
            to.extend_from_slice(bytes);
            return;
        }
        while !bytes.is_empty() {
            let keeping = *self.keeping.get_or_insert_with(|| !self.settled.contains(self.line));
            let end = memchr(b'\n', bytes);
            let (content, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
            if keeping {
                to.extend_from_slice(content);
            } else {
                let before = self.dropped / SHARE;
                self.dropped += content.len();
                to.resize(to.len() + self.dropped / SHARE - before, b' ');
            }
            bytes = rest;
            if end.is_some() {
                to.push(b'\n');
                bytes = &rest[1..];
                self.line += 1;
                (self.keeping, self.dropped) = (None, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::LineDecoder;
    use futures_util::TryStreamExt;
    use proptest::prelude::*;

    fn lines(bytes: &[u8]) -> Vec<(u64, Bytes)> {
        let mut lines = LineDecoder::default();
        lines.feed(bytes);
        let mut found: Vec<_> = std::iter::from_fn(|| lines.next_line()).collect();
        found.extend(lines.last_line());
        found.into_iter().map(|(number, line)| (number, line.unwrap())).collect()
    }

    proptest! {
        #[test]
        fn the_lines_that_are_left_keep_their_numbers_and_the_others_are_gone(
            text in "(\u{feff})?[ab \r\n]{0,60}",
            settled in proptest::collection::btree_set(1u64..12, 0..8),
            cut in 0usize..60,
        ) {
            let mut blanks = Blanks::new(settled.iter().copied().collect());
            let (mut passed, cut) = (Vec::new(), cut.min(text.len()));
            blanks.pass(&text.as_bytes()[..cut], &mut passed);
            blanks.pass(&text.as_bytes()[cut..], &mut passed);
            let mut expected = lines(text.as_bytes());
            expected.retain(|(number, _)| !settled.contains(number));
            prop_assert_eq!(lines(&passed), expected);
        }
    }

    #[test]
    fn settled_lines_still_send_a_share_of_their_bytes_however_they_are_cut() {
        let line = [vec![b'a'; 10 * SHARE + 5], b"\n".to_vec()].concat();
        for piece in [1, 7, SHARE, line.len()] {
            let mut blanks = Blanks::new([1, 2].into());
            let mut passed = Vec::new();
            [&line[..], &line, b"left"]
                .concat()
                .chunks(piece)
                .for_each(|bytes| blanks.pass(bytes, &mut passed));
            let blank = " ".repeat(10) + "\n";
            assert_eq!(String::from_utf8(passed).unwrap(), format!("{blank}{blank}left"), "{piece}");
        }
    }

    #[tokio::test]
    async fn a_compressed_source_is_inflated_or_passed_as_it_is() {
        let plain: String = (0..100_000).map(|n| format!("line {n}\n")).collect();
        let packed = zstd::encode_all(plain.as_bytes(), 3).unwrap();
        let source = || -> InputSource { Box::pin(io::Cursor::new(packed.clone())) };
        let all = |source: LineSource| async {
            source.pieces().try_collect::<Vec<Bytes>>().await.unwrap().concat()
        };
        assert_eq!(all(LineSource::whole(source()).unwrap()).await, packed);
        let settled: RoaringTreemap = (1..=99_999).collect();
        let left = all(LineSource::without(source(), ContentEncoding::Zstd, settled).unwrap()).await;
        assert_eq!(left, ["\n".repeat(99_999).as_bytes(), b"line 99999\n"].concat());
    }
}
