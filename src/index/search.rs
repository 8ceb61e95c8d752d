//! Answering a query from the delta and the built part together.
//!
//! The delta snapshot is taken first, then the read transaction. A build in between only moves rows from the delta to
//! the volume, so no row is missed. Above the watermark inside the transaction, the delta is newer.

use super::delta::Snapshot;
use super::error::IndexError;
use super::options::IndexOptions;
use super::scan::{Nearest, dot, dot_bytes};
use super::source::usable;
use super::volume::{Volume, VolumeMeta};
use roaring::RoaringBitmap;
use std::num::NonZeroUsize;

/// Candidates per tree of any search, plus [`PER_HIT`] for each wanted hit. They are divided among the forests by their
/// items, so that the total is the same as in a single forest of all items.
const PER_TREE: usize = 128;
const PER_HIT: usize = 2;
/// The fewest leaves searched in a forest, whatever its share. An arroy leaf holds as many items as a vector has
/// dimensions.
const LEAVES: usize = 2;

/// How many candidates a search considers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Effort {
    /// The default; the recall figures are measured with it.
    #[default]
    Normal,
    /// This multiple of the default number of candidates.
    Times(NonZeroUsize),
    /// Every item: an exact search.
    Exact,
}

/// How the built part was searched. The delta is always searched exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchMode {
    /// Every item was compared.
    Exact,
    /// In forests of many items, the trees selected the candidates.
    Ann,
}

/// The result of [`super::Index::search`].
#[derive(Debug, Clone)]
pub struct NearestItems {
    /// Items with their cosine, best first.
    pub hits: Vec<(u32, f32)>,
    /// The result reflects every change up to this clock value.
    pub seq: i64,
    /// How the built part was searched.
    pub mode: SearchMode,
}

/// The query to one forest.
struct ForestQuery<'a> {
    query: &'a [f32],
    k: usize,
    effort: Effort,
    /// Its share of the candidates, 0 to 1, in proportion to its items.
    share: f64,
}

/// A snapshot of the delta and the volume, taken in this order.
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
    ) -> Result<NearestItems, IndexError> {
        let dims = options.identity.dims;
        if query.len() != dims {
            return Err(IndexError::WrongDims { expected: dims, received: query.len() });
        }
        let (query, length) = usable(&query.into(), dims).ok_or(IndexError::UnusableQuery)?;
        let query: Vec<f32> = query.iter().map(|x| x / length).collect();

        let txn = self.volume.read()?;
        let meta = self.read_meta(&txn)?;
        let exact = |items: u64| effort == Effort::Exact || items <= options.exact_below;
        let all_exact = meta.forests.values().all(|items| exact(*items));
        let mode = if all_exact { SearchMode::Exact } else { SearchMode::Ann };
        let mut nearest = Nearest::new(k);
        for row in self.delta.rows_above(meta.watermark) {
            let score = dot(&query, &row.row.vector) / row.norm;
            nearest.offer(row.row.item, score, || self.delta.is_newest(&row.row));
        }
        let counts = |item| !self.delta.masks(item, meta.watermark);
        let all = meta.items();
        for (forest, items) in meta.forests.iter().filter(|_| k > 0) {
            let forest_query =
                ForestQuery { query: &query, k, effort, share: *items as f64 / all.max(1) as f64 };
            if exact(*items) {
                self.volume.forests.scan(&txn, *forest, |item, norm, vector| {
                    nearest.offer(item, dot_bytes(&query, vector) / norm, || counts(item));
                })?;
            } else {
                for (item, cosine) in self.walk(&txn, *forest, &forest_query, counts)? {
                    nearest.offer(item, cosine, || true);
                }
            }
        }
        let seq = meta.watermark.max(self.delta.complete_to);
        Ok(NearestItems { hits: nearest.into_hits(), seq, mode })
    }

    /// Searches the trees of a forest. When the delta masks hits, it searches again for more, so that a deletion that
    /// is not built yet does not shorten the result. It passes no list of candidates, because arroy would scan all of
    /// them.
    fn walk(
        &self,
        txn: &heed::RoTxn<'_>,
        forest: u16,
        forest_query: &ForestQuery<'_>,
        counts: impl Fn(u32) -> bool,
    ) -> Result<Vec<(u32, f32)>, IndexError> {
        let ForestQuery { query, k, effort, share } = *forest_query;
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

    /// The set of searchable items.
    pub(super) fn items(&self) -> Result<RoaringBitmap, IndexError> {
        let txn = self.volume.read()?;
        let meta = self.read_meta(&txn)?;
        let mut items = self.volume.items(&txn, &meta)?;
        for (item, gone) in self.delta.changed_above(meta.watermark) {
            if gone {
                items.remove(item);
            } else {
                items.insert(item);
            }
        }
        Ok(items)
    }

    /// The vector of an item as it was committed.
    pub(super) fn vector(&self, item: u32) -> Result<Option<Vec<f32>>, IndexError> {
        let txn = self.volume.read()?;
        let meta = self.read_meta(&txn)?;
        if self.delta.masks(item, meta.watermark) {
            return Ok(self.delta.vector(item, meta.watermark).map(|row| row.vector.to_vec()));
        }
        self.volume.vector(&txn, &meta, item)
    }

    fn read_meta(&self, txn: &heed::RoTxn<'_>) -> Result<VolumeMeta, IndexError> {
        self.volume.meta(txn)?.ok_or_else(|| IndexError::Damaged("its metadata is missing".into()))
    }
}
