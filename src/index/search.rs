//! Answering a query from the delta and the built part together.
//!
//! The delta snapshot is taken first, then the read transaction. A build in between only moves rows from one to
//! the other, so nothing is missed; the watermark inside the transaction says from where on the delta is newer.

use super::delta::Snapshot;
use super::error::IndexError;
use super::options::IndexOptions;
use super::scan::{Nearest, dot, dot_bytes};
use super::source::usable;
use super::volume::{Volume, VolumeMeta};
use roaring::RoaringBitmap;
use std::num::NonZeroUsize;

/// Candidates per tree that any search looks at, and for each wanted hit as many more as [`PER_HIT`] says. The
/// forests share them: where there are twice as many items in twice as many forests, the same number of candidates
/// is as good a choice as it would be in one forest of that size.
const PER_TREE: usize = 128;
const PER_HIT: usize = 2;
/// Leaves that are looked at in any forest, whatever its share. Arroy's leaves hold as many items as a vector has
/// dimensions.
const LEAVES: usize = 2;

/// How hard to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Effort {
    /// What recall was measured with.
    #[default]
    Normal,
    /// This many times as many candidates.
    Times(NonZeroUsize),
    /// Every item.
    Exact,
}

/// How the built part was searched. The delta is always searched exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Every item was looked at.
    Exact,
    /// Where there are many, the trees chose the candidates.
    Ann,
}

/// The answer to a query.
#[derive(Debug, Clone)]
pub struct Found {
    /// Items with their cosine, best first.
    pub hits: Vec<(u32, f32)>,
    /// It reflects every change up to this clock value.
    pub seq: i64,
    /// How the built part was searched.
    pub mode: Mode,
}

/// What is asked of each forest.
struct Asked<'a> {
    query: &'a [f32],
    k: usize,
    effort: Effort,
    /// Of the candidates, by its items.
    share: f64,
}

/// The delta and the volume, taken in this order.
pub(super) struct View<'a> {
    pub(super) delta: Snapshot,
    pub(super) volume: &'a Volume,
}

impl View<'_> {
    pub(super) fn search(
        &self,
        options: &IndexOptions,
        query: &[f32],
        k: usize,
        effort: Effort,
    ) -> Result<Found, IndexError> {
        let dims = options.identity.dims;
        if query.len() != dims {
            return Err(IndexError::WrongDims { expected: dims, received: query.len() });
        }
        let length = usable(query, dims).ok_or(IndexError::UnusableQuery)?;
        let query: Vec<f32> = query.iter().map(|x| x / length).collect();

        let txn = self.volume.read()?;
        let record = self.read_record(&txn)?;
        let exact = |items: u64| effort == Effort::Exact || items <= options.exact_below;
        let all_exact = record.forests.values().all(|items| exact(*items));
        let mode = if all_exact { Mode::Exact } else { Mode::Ann };
        let mut nearest = Nearest::new(k);
        for row in self.delta.rows_above(record.watermark) {
            let score = dot(&query, &row.row.vector) / row.norm;
            nearest.offer(row.row.item, score, || self.delta.is_newest(&row.row));
        }
        let counts = |item| !self.delta.masks(item, record.watermark);
        let all = record.items();
        for (forest, items) in record.forests.iter().filter(|_| k > 0) {
            let asked = Asked { query: &query, k, effort, share: *items as f64 / all.max(1) as f64 };
            if exact(*items) {
                self.volume.forests.scan(&txn, *forest, |item, norm, vector| {
                    nearest.offer(item, dot_bytes(&query, vector) / norm, || counts(item));
                })?;
            } else {
                for (item, cosine) in self.walk(&txn, *forest, &asked, counts)? {
                    nearest.offer(item, cosine, || true);
                }
            }
        }
        let seq = record.watermark.max(self.delta.complete_to);
        Ok(Found { hits: nearest.into_hits(), seq, mode })
    }

    /// Asks the trees of a forest. Hits that the delta masks are replaced by asking for more, so that a deletion
    /// that is not built yet does not shorten the answer. Never with a list of candidates: arroy then scans them
    /// all.
    fn walk(
        &self,
        txn: &heed::RoTxn<'_>,
        forest: u16,
        asked: &Asked<'_>,
        counts: impl Fn(u32) -> bool,
    ) -> Result<Vec<(u32, f32)>, IndexError> {
        let Asked { query, k, effort, share } = *asked;
        let reader = self.volume.forests.reader(txn, forest)?;
        let times = if let Effort::Times(times) = effort { times.get() } else { 1 };
        let most = k.saturating_add(self.delta.len());
        let mut wanted = k;
        loop {
            let per_tree = wanted.saturating_mul(PER_HIT).saturating_add(PER_TREE);
            let shared = (per_tree.saturating_mul(reader.n_trees()) as f64 * share) as usize;
            let candidates = shared.max(LEAVES * query.len()).saturating_mul(times);
            let mut search = reader.nns(wanted);
            if let Some(candidates) = NonZeroUsize::new(candidates) {
                search.search_k(candidates);
            }
            let found = search.by_vector(txn, query);
            let mut found = found.map_err(|error| self.volume.forests.wrap(error))?;
            let exhausted = found.len() < wanted || wanted >= most;
            found.retain(|(item, _)| counts(*item));
            if found.len() >= k || exhausted {
                // Arroy's distance is (1 - cosine) / 2.
                return Ok(found.into_iter().map(|(item, distance)| (item, 1.0 - 2.0 * distance)).collect());
            }
            wanted = wanted.saturating_mul(4).min(most);
        }
    }

    /// The items that are in, each once.
    pub(super) fn items(&self) -> Result<RoaringBitmap, IndexError> {
        let txn = self.volume.read()?;
        let record = self.read_record(&txn)?;
        let mut items = self.volume.items(&txn, &record)?;
        for (item, gone) in self.delta.changed_above(record.watermark) {
            if gone {
                items.remove(item);
            } else {
                items.insert(item);
            }
        }
        Ok(items)
    }

    /// The vector of an item, as it was put in.
    pub(super) fn vector(&self, item: u32) -> Result<Option<Vec<f32>>, IndexError> {
        let txn = self.volume.read()?;
        let record = self.read_record(&txn)?;
        if self.delta.masks(item, record.watermark) {
            return Ok(self.delta.vector(item, record.watermark).map(|row| row.vector.to_vec()));
        }
        self.volume.vector(&txn, &record, item)
    }

    fn read_record(&self, txn: &heed::RoTxn<'_>) -> Result<VolumeMeta, IndexError> {
        self.volume.record(txn)?.ok_or_else(|| IndexError::Damaged("its record is gone".into()))
    }
}
