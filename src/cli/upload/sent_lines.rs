//! The lines of a source on their way to the service.
//!
//! A line that is settled is sent as a blank one: it has no answer, and every other line keeps its number. So the
//! answers to a second attempt speak of the same lines as those to the first. A blank line costs a byte, and a space
//! for every [`SHARE`] bytes that it stands for: the service cuts clients that send next to nothing, and one that reads
//! through gigabytes of settled lines must not look like that.

use super::source::UploadPiece;
use bytes::Bytes;
use memchr::memchr;
use roaring::RoaringTreemap;
use std::collections::BTreeMap;

/// Bytes of a settled line for which a space is sent.
const SHARE: usize = 64;

/// Follows the lines of one attempt: counts them, and replaces those that are settled.
pub struct SentLines {
    settled: RoaringTreemap,
    line: u64,
    chunks: u64,
}

/// What becomes of one piece.
#[derive(Debug, PartialEq, Eq)]
pub struct PassedPiece {
    /// The bytes that are sent for it.
    pub bytes: Bytes,
    /// The chunks of the source up to here: lines that are not blank, settled ones included, and those that the source
    /// refuses.
    pub chunks: u64,
}

impl SentLines {
    /// From the first line on; those of `settled` are not sent again.
    pub fn without(settled: RoaringTreemap) -> Self {
        SentLines { settled, line: 0, chunks: 0 }
    }

    /// Passes the lines of a piece on. If `kept` is there, it gets each line that is sent.
    pub fn pass(&mut self, piece: &UploadPiece, mut kept: Option<&mut BTreeMap<u64, Bytes>>) -> PassedPiece {
        let all = &piece.lines;
        let rewrites = !self.settled.is_empty();
        let mut rewritten = Vec::new();
        let mut start = 0;
        while start < all.len() {
            let end = memchr(b'\n', &all[start..]).map_or(all.len(), |length| start + length);
            let next = (end + 1).min(all.len());
            self.line += 1;
            let content = &all[start..end];
            let blank = content.iter().all(u8::is_ascii_whitespace);
            self.chunks += u64::from(!blank);
            let settled = rewrites && self.settled.contains(self.line);
            if settled {
                rewritten.resize(rewritten.len() + content.len() / SHARE, b' ');
                rewritten.extend_from_slice(&all[end..next]);
            } else {
                if rewrites {
                    rewritten.extend_from_slice(&all[start..next]);
                }
                if let Some(kept) = kept.as_deref_mut().filter(|_| !blank) {
                    kept.insert(self.line, all.slice(start..end));
                }
            }
            start = next;
        }
        self.chunks += piece.refused.len() as u64;
        let bytes = if rewrites { rewritten.into() } else { all.clone() };
        PassedPiece { bytes, chunks: self.chunks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::LineDecoder;
    use proptest::prelude::*;

    fn lines(bytes: &[u8]) -> Vec<(u64, Bytes)> {
        let mut lines = LineDecoder::default();
        lines.feed(bytes);
        let mut found: Vec<_> = std::iter::from_fn(|| lines.next_line()).collect();
        found.extend(lines.last_line());
        found.into_iter().map(|(number, line)| (number, line.unwrap())).collect()
    }

    /// Pieces of whole lines, cut behind the line breaks that `cuts` chooses.
    fn pieces(text: &str, cuts: &[bool]) -> Vec<UploadPiece> {
        let mut pieces = vec![String::new()];
        for (line, cut) in text.split_inclusive('\n').zip(cuts.iter().cycle()) {
            if *cut {
                pieces.push(String::new());
            }
            pieces.last_mut().unwrap().push_str(line);
        }
        pieces.into_iter().map(|lines| UploadPiece::of_lines(lines.into(), 0)).collect()
    }

    proptest! {
        #[test]
        fn the_lines_that_are_left_keep_their_numbers_and_the_others_are_gone(
            text in "[ab \r\n]{0,60}",
            settled in proptest::collection::btree_set(1u64..12, 0..8),
            cuts in proptest::collection::vec(any::<bool>(), 1..9),
        ) {
            let mut sent = SentLines::without(settled.iter().copied().collect());
            let (mut passed, mut kept, mut chunks) = (Vec::new(), BTreeMap::new(), 0);
            for piece in pieces(&text, &cuts) {
                let piece = sent.pass(&piece, Some(&mut kept));
                passed.extend_from_slice(&piece.bytes);
                chunks = piece.chunks;
            }
            let all = lines(text.as_bytes());
            prop_assert_eq!(chunks, all.len() as u64);
            let mut expected = all;
            expected.retain(|(number, _)| !settled.contains(number));
            prop_assert_eq!(lines(&passed), &expected[..]);
            let kept: Vec<u64> = kept.into_keys().collect();
            prop_assert_eq!(kept, expected.into_iter().map(|(number, _)| number).collect::<Vec<_>>());
        }
    }

    #[test]
    fn settled_lines_still_send_a_share_of_their_bytes() {
        let line = "a".repeat(10 * SHARE + 5) + "\n";
        let mut sent = SentLines::without([1, 2].into());
        let piece = UploadPiece::of_lines(format!("{line}{line}left").into(), 0);
        let blank = " ".repeat(10) + "\n";
        let passed = PassedPiece { bytes: format!("{blank}{blank}left").into(), chunks: 3 };
        assert_eq!(sent.pass(&piece, None), passed);
    }

    #[test]
    fn what_needs_no_change_is_not_copied() {
        let piece = UploadPiece::of_lines(Bytes::from_static(b"one\ntwo\n"), 0);
        let passed = SentLines::without(RoaringTreemap::new()).pass(&piece, None);
        assert_eq!(passed.bytes.as_ptr(), piece.lines.as_ptr());
    }
}
