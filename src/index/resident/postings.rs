//! The words of the rows of a block, each with the rows that have it: an inverted index of one range of item numbers.

use crate::filter::TERM_BITS;
use crate::keyword::TextWords;
use std::sync::Arc;

/// The item numbers of a block. Their places fit into the bits that a term leaves.
pub(super) const BLOCK_ITEMS: u32 = 1 << (u64::BITS - TERM_BITS);

/// The bits of a posting that count the repetitions of the word; the others are the row.
const COUNT_BITS: u32 = u16::BITS - BLOCK_ITEMS.trailing_zeros();
/// More repetitions count as so many.
const MOST: u8 = (1 << COUNT_BITS) - 1;
/// Postings are sorted when so many are not, or when they are more than one in sixteen.
const RECENT: usize = 1_024;
const RECENT_ONE_IN: usize = 16;

/// Postings of a block. A snapshot shares those that are sorted.
#[derive(Debug, Clone, Default)]
pub(super) struct Postings {
    sorted: Arc<SortedPostings>,
    /// Rows that were removed or replaced since the postings were sorted: of these, the sorted ones do not count. A bit
    /// for each.
    stale: [u64; BLOCK_ITEMS as usize / 64],
    has_stale: bool,
    /// Those of the rows that came last, without order: the hash of a word, and its posting.
    recent: Vec<(u32, u16)>,
}

/// The hashes of words in order, and where the postings of each end.
#[derive(Debug, Clone, Default)]
struct SortedPostings {
    hashes: Vec<u32>,
    ends: Vec<u32>,
    postings: Vec<u16>,
}

/// The rows that have a word.
pub(super) struct RowsWithWord<'a> {
    sorted: &'a [u16],
    recent: Vec<u16>,
    of: &'a Postings,
}

impl Postings {
    /// The bytes that it takes.
    pub(super) fn memory(&self) -> usize {
        let SortedPostings { hashes, ends, postings } = &*self.sorted;
        4 * (hashes.capacity() + ends.capacity()) + 2 * postings.capacity() + 8 * self.recent.capacity()
    }

    /// Adds the words of a row that has none here.
    pub(super) fn put(&mut self, item: u32, words: &TextWords) {
        let row = slot(item);
        let posting = |count: u8| (row as u16) << COUNT_BITS | u16::from(count.min(MOST));
        self.recent.extend(words.words().iter().map(|word| (word.hash, posting(word.count))));
        if self.recent.len() >= RECENT.max(self.sorted.postings.len() / RECENT_ONE_IN) {
            self.sort();
        }
    }

    /// Removes the words of a row.
    pub(super) fn remove(&mut self, item: u32) {
        let row = slot(item);
        self.stale[row / 64] |= 1 << (row % 64);
        self.has_stale = true;
        self.recent.retain(|(_, posting)| row_of(*posting) != row);
    }

    /// The rows that have a word.
    pub(super) fn rows(&self, hash: u32) -> RowsWithWord<'_> {
        let recent = self.recent.iter().filter(|(other, _)| *other == hash).map(|(_, posting)| *posting);
        RowsWithWord { sorted: self.sorted.of(hash), recent: recent.collect(), of: self }
    }

    fn is_stale(&self, posting: u16) -> bool {
        let row = row_of(posting);
        self.has_stale && self.stale[row / 64] >> (row % 64) & 1 == 1
    }

    fn sort(&mut self) {
        let mut recent = std::mem::take(&mut self.recent);
        recent.sort_unstable();
        let mut recent = recent.into_iter().peekable();
        let old = self.sorted.all().filter(|(_, posting)| !self.is_stale(*posting));
        let mut merged = SortedPostings::with_room(self.sorted.postings.len() + recent.len());
        for next in old {
            while let Some(earlier) = recent.next_if(|other| *other < next) {
                merged.push(earlier);
            }
            merged.push(next);
        }
        recent.for_each(|posting| merged.push(posting));
        merged.hashes.shrink_to_fit();
        merged.ends.shrink_to_fit();
        merged.postings.shrink_to_fit();
        self.sorted = Arc::new(merged);
        self.stale = Default::default();
        self.has_stale = false;
    }
}

impl SortedPostings {
    fn with_room(postings: usize) -> SortedPostings {
        SortedPostings { hashes: Vec::new(), ends: Vec::new(), postings: Vec::with_capacity(postings) }
    }

    fn of(&self, hash: u32) -> &[u16] {
        let Ok(place) = self.hashes.binary_search(&hash) else { return &[] };
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.postings[start as usize..self.ends[place] as usize]
    }

    fn all(&self) -> impl Iterator<Item = (u32, u16)> {
        let starts = std::iter::once(&0).chain(&self.ends);
        let ranges = self.hashes.iter().zip(starts.zip(&self.ends));
        ranges.flat_map(|(hash, (start, end))| {
            self.postings[*start as usize..*end as usize].iter().map(|posting| (*hash, *posting))
        })
    }

    /// Appends a posting that is not before any other.
    fn push(&mut self, (hash, posting): (u32, u16)) {
        self.postings.push(posting);
        // A block has 1,024 rows, each of at most some ten thousand words.
        let end = self.postings.len() as u32;
        match (self.hashes.last(), self.ends.last_mut()) {
            (Some(last), Some(last_end)) if *last == hash => *last_end = end,
            _ => {
                self.hashes.push(hash);
                self.ends.push(end);
            }
        }
    }
}

impl RowsWithWord<'_> {
    pub(super) fn len(&self) -> usize {
        if self.of.has_stale { self.iter().count() } else { self.sorted.len() + self.recent.len() }
    }

    /// The place of each row in the range of the block, and how often it has the word.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, u8)> {
        let sorted = self.sorted.iter().filter(|posting| !self.of.is_stale(**posting));
        let counted = |posting: &u16| (row_of(*posting), (posting & u16::from(MOST)) as u8);
        sorted.chain(&self.recent).map(counted)
    }
}

/// The place of an item in the range of its block.
fn slot(item: u32) -> usize {
    (item % BLOCK_ITEMS) as usize
}

fn row_of(posting: u16) -> usize {
    usize::from(posting >> COUNT_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn a_word_has_the_rows_that_have_it(
            changes in prop::collection::vec((0..30u32, prop::option::of("[abc ]{0,12}")), 0..200),
            long in 0..3usize,
        ) {
            let mut postings = Postings::default();
            let mut rows: BTreeMap<u32, TextWords> = BTreeMap::new();
            for (item, text) in changes {
                if rows.remove(&item).is_some() {
                    postings.remove(item);
                }
                if let Some(text) = text {
                    // Sometimes so long that what is recent is sorted.
                    let more: String = (0..long * 200).map(|n| format!(" w{n}")).collect();
                    let words = TextWords::of(&(text + &more));
                    postings.put(item, &words);
                    rows.insert(item, words);
                }
            }
            let mut known: BTreeMap<u32, Vec<(usize, u8)>> = BTreeMap::new();
            for (item, words) in &rows {
                for word in words.words() {
                    known.entry(word.hash).or_default().push((*item as usize, word.count.min(MOST)));
                }
            }
            known.entry(7).or_default();
            for (hash, wanted) in known {
                let rows = postings.rows(hash);
                prop_assert_eq!(rows.len(), wanted.len());
                let mut found: Vec<_> = rows.iter().collect();
                found.sort_unstable();
                prop_assert_eq!(found, wanted);
            }
        }
    }
}
