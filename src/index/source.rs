//! The source of an index: committed changes, in the order of the store's clock.

use super::error::SourceError;
use super::resident::norm;
use crate::filter::FilterFields;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// A row with its vector, as committed.
#[derive(Debug, Clone)]
pub struct ChangedRow {
    /// The clock value of its last change.
    pub seq: i64,
    /// Its number in the index, unique in the store.
    pub item: u32,
    /// Finite, of unit length, as long as the identity's `dims`.
    pub vector: Arc<[f32]>,
    /// What filters, preferences and keywords need of it.
    pub fields: FilterFields,
}

impl ChangedRow {
    /// The row without the words of its text, for an index that is not searched for them.
    #[must_use]
    pub fn without_words(self) -> ChangedRow {
        ChangedRow { fields: self.fields.without_words(), ..self }
    }
}

/// A page of changes from the source, read in one snapshot.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// The clock in the snapshot the lists were read in.
    pub clock: i64,
    /// Rows as they are now, ascending by `seq`.
    pub rows: Vec<ChangedRow>,
    /// Deletions, `(seq, item)`, ascending by `seq`.
    pub tombstones: Vec<(i64, u32)>,
}

/// The clock of a store, and the history that it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreClock {
    /// The number of the last committed change.
    pub seq: i64,
    /// Differs after a failover, and after the tables were made anew from a backup. Only compared.
    pub history: Arc<str>,
}

/// Rows of so many item numbers are compared as one.
pub const DIGEST_ITEMS: u32 = 1024;

/// The rows of a block of [`DIGEST_ITEMS`] item numbers, for a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockDigest {
    /// Its rows have the numbers from `block * DIGEST_ITEMS` on.
    pub block: u32,
    /// Their SHA-256, in the order of the items: of item and `seq` as 64-bit numbers in network order, and of the vector
    /// as little-endian f32.
    pub sha256: [u8; 32],
}

/// Some digests in the order of their blocks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DigestPage {
    /// The digests of the blocks that have rows.
    pub digests: Vec<BlockDigest>,
    /// The first block after the page that has rows.
    pub next: Option<u32>,
}

/// Reads committed changes. [`crate::app`] implements it over PostgreSQL. The calls block, and are made on the index
/// thread.
pub trait ChangeSource: Send + Sync {
    /// The changes with a clock value above `seq`, ascending: at most `limit` rows and at most `limit` tombstones (or
    /// `limit` of both together). Fewer than `limit` in all means that these are all changes up to `clock`. Numbers may
    /// have holes.
    ///
    /// # Errors
    /// The source cannot be read. The index retries, and is degraded when the error persists.
    fn changes_after(&self, seq: i64, limit: usize) -> Result<Changes, SourceError>;

    /// The row whose last change has exactly this clock value. The index uses it to detect a database that was restored
    /// from a backup and has other changes since.
    ///
    /// # Errors
    /// As [`Self::changes_after`].
    fn row_at(&self, seq: i64) -> Result<Option<ChangedRow>, SourceError>;

    /// The clock now.
    ///
    /// # Errors
    /// As [`Self::changes_after`].
    fn clock(&self) -> Result<StoreClock, SourceError>;

    /// The digests of those of `count` blocks that have rows, from this block on.
    ///
    /// # Errors
    /// As [`Self::changes_after`].
    fn digests(&self, from: u32, count: u32) -> Result<DigestPage, SourceError>;

    /// The rows of a block, in the order of the items.
    ///
    /// # Errors
    /// As [`Self::changes_after`].
    fn rows_of(&self, block: u32) -> Result<Vec<ChangedRow>, SourceError>;
}

/// One committed transaction: the range of the clock it took, and its changes.
///
/// `after` is the clock before the transaction, `upto` the clock after it. Two commits are adjacent when the `upto` of
/// one is the `after` of the other. So the index detects missing commits without assumptions about holes or other
/// writers.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// The history that counted it; see [`StoreClock::history`].
    pub history: Arc<str>,
    /// The clock before the transaction.
    pub after: i64,
    /// The clock after the transaction.
    pub upto: i64,
    /// New and changed rows.
    pub rows: Vec<ChangedRow>,
    /// Deleted rows, as `(seq, item)`.
    pub tombstones: Vec<(i64, u32)>,
}

/// The history of a commit is not the one that the index follows: this is its clock after the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherHistory(pub StoreClock);

/// A change as the index applies it.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Put(ChangedRow),
    Gone { seq: i64, item: u32 },
}

impl Change {
    pub(super) fn seq(&self) -> i64 {
        match self {
            Change::Put(row) => row.seq,
            Change::Gone { seq, .. } => *seq,
        }
    }

    pub(super) fn item(&self) -> u32 {
        match self {
            Change::Put(row) => row.item,
            Change::Gone { item, .. } => *item,
        }
    }
}

/// A page in the order of the clock. Complete up to `upto`.
pub(super) struct ChangePage {
    pub(super) changes: Vec<Change>,
    pub(super) upto: i64,
    pub(super) clock: i64,
    pub(super) last: bool,
}

impl ChangePage {
    /// A full list omits the changes after its last number, so the page ends there, even if the other list reaches
    /// further.
    pub(super) fn new(changes: Changes, limit: usize) -> ChangePage {
        let Changes { clock, rows, tombstones } = changes;
        let last = rows.len() + tombstones.len() < limit;
        let row_end = rows.last().map(|row| row.seq);
        let tombstone_end = tombstones.last().map(|(seq, _)| *seq);
        let full_ends =
            [row_end.filter(|_| rows.len() >= limit), tombstone_end.filter(|_| tombstones.len() >= limit)];
        let upto = if last {
            clock
        } else {
            full_ends.into_iter().flatten().min().or(row_end.max(tombstone_end)).unwrap_or(clock)
        };
        let mut changes: Vec<Change> = rows
            .into_iter()
            .map(Change::Put)
            .chain(tombstones.into_iter().map(|(seq, item)| Change::Gone { seq, item }))
            .filter(|change| change.seq() <= upto)
            .collect();
        changes.sort_by_key(Change::seq);
        ChangePage { changes, upto, clock, last }
    }
}

/// Lengths whose squares, and their products with other vectors, single precision can hold.
const PLAIN_LENGTHS: RangeInclusive<f64> = 1e-6..=1e6;

/// A vector as the index holds it, and its norm: the right number of dimensions, finite, not zero. Arroy itself does not
/// check. Only the direction counts, so a vector that is very long or very short is held at unit length.
pub(super) fn usable(vector: &Arc<[f32]>, dims: usize) -> Option<(Arc<[f32]>, f32)> {
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if vector.len() != dims || !length.is_finite() || length == 0.0 {
        return None;
    }
    let held = if PLAIN_LENGTHS.contains(&length) {
        vector.clone()
    } else {
        vector.iter().map(|x| (f64::from(*x) / length) as f32).collect()
    };
    let norm = norm(&held);
    Some((held, norm))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(seq: i64) -> ChangedRow {
        ChangedRow { seq, item: seq as u32, vector: Arc::from([1.0]), fields: FilterFields::default() }
    }

    fn page(rows: &[i64], tombstones: &[i64], limit: usize) -> (Vec<i64>, i64, bool) {
        let changes = Changes {
            clock: 100,
            rows: rows.iter().map(|seq| row(*seq)).collect(),
            tombstones: tombstones.iter().map(|seq| (*seq, 0)).collect(),
        };
        let page = ChangePage::new(changes, limit);
        (page.changes.iter().map(Change::seq).collect(), page.upto, page.last)
    }

    #[test]
    fn every_finite_vector_that_is_not_zero_is_usable() {
        let held =
            |numbers: [f32; 2]| usable(&Arc::from(numbers), 2).map(|(held, norm)| (held.to_vec(), norm));
        assert_eq!(held([3.0, 4.0]), Some((vec![3.0, 4.0], 5.0)), "as it is");
        for length in [f32::MAX, 1e38, 1e-30, f32::from_bits(1)] {
            assert_eq!(held([0.0, -length]), Some((vec![0.0, -1.0], 1.0)), "{length}");
        }
        for bad in [[0.0, 0.0], [f32::NAN, 1.0], [f32::INFINITY, 1.0]] {
            assert_eq!(held(bad), None);
        }
        assert_eq!(usable(&Arc::from([1.0]), 2), None);
    }

    #[test]
    fn a_page_that_is_not_full_reaches_the_clock() {
        assert_eq!(page(&[3, 9], &[5], 4), (vec![3, 5, 9], 100, true));
        assert_eq!(page(&[], &[], 1), (vec![], 100, true));
    }

    #[test]
    fn a_full_list_ends_the_page_for_both() {
        assert_eq!(page(&[3, 9], &[5, 70], 2), (vec![3, 5, 9], 9, false));
        assert_eq!(page(&[3, 90], &[5, 7], 2), (vec![3, 5, 7], 7, false));
        assert_eq!(page(&[3, 9], &[50], 2), (vec![3, 9], 9, false));
    }

    #[test]
    fn a_limit_over_both_lists_together_ends_at_the_last_change() {
        assert_eq!(page(&[3, 9], &[5], 3), (vec![3, 5, 9], 9, false));
    }

    #[test]
    fn unusable_vectors_are_recognised() {
        assert_eq!(usable(&Arc::from([3.0, 4.0]), 2).map(|(_, norm)| norm), Some(5.0));
        for vector in [&[0.0, 0.0][..], &[f32::NAN, 1.0], &[f32::INFINITY, 0.0], &[1.0]] {
            assert_eq!(usable(&Arc::from(vector), 2), None, "{vector:?}");
        }
    }
}
