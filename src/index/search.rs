//! Answering a query from all rows in memory and the vectors of the volume.
//!
//! The snapshot of the rows is taken first, then the read transaction. A build in between only moves vectors from memory
//! to the volume, so no row is missed. A row that was deleted and built in between is left out.

use super::error::IndexError;
use super::nearest::Nearest;
use super::options::IndexOptions;
use super::resident::{Resident, RowFacts, Width, dot, dot_stored};
use super::source::usable;
use super::volume::{Volume, VolumeMeta};
use crate::filter::Filter;
use crate::tmd::Tmd;
use std::num::NonZeroUsize;

/// Rows whose signs are near are compared by their bytes: so many, and so many more for each wanted hit, and one in
/// so many of all rows. On 100,000 mixed texts of 384 dimensions a tenth of that finds all ten nearest; vectors that lie
/// closer together need more.
const NEAR: usize = 1_000;
const NEAR_PER_HIT: usize = 8;
const NEAR_ONE_IN: usize = 1_000;
/// The best of them are compared as they were committed: two for each wanted hit, and so many more. An eight-bit number
/// is wrong by half a percent of the largest.
const COMPARED: usize = 32;
/// Candidates of a search of the trees: for each tree, and more for each wanted hit. They are divided among the forests
/// by their items, so that the total is the same as in a single forest of all items.
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

/// How the nearest items were found, the most exact way first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SearchMode {
    /// Every row that matches was compared as it was committed.
    Exact,
    /// Every row that matches was compared in fewer bits, and the nearest as they were committed.
    Quantized,
    /// The trees selected the rows that were compared.
    Trees,
    /// Every row that matches was scored by its words, and none by its vector.
    Keyword,
    /// The nearest in fewer bits, and the best by their words, were scored by both.
    Hybrid,
}

impl SearchMode {
    /// The stable name in answers and metrics.
    pub fn name(self) -> &'static str {
        match self {
            SearchMode::Exact => "exact",
            SearchMode::Quantized => "quantized",
            SearchMode::Trees => "trees",
            SearchMode::Keyword => "keyword",
            SearchMode::Hybrid => "hybrid",
        }
    }
}

/// A found item, with what a search needs to order and to show it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NearestItem {
    /// Its number in the index.
    pub item: u32,
    /// The clock value of the change that the vector is of. A row that was changed before that is of another history.
    pub seq: i64,
    /// What decides the order: the cosine, the score by words, or their weighted mean.
    pub score: f32,
    /// The cosine with the query, where vectors were compared.
    pub cosine: Option<f32>,
    /// The score by words, where they were compared; see [`super::Index::keyword_async`].
    pub keyword: Option<f32>,
    /// Its codes, if it has any.
    pub tmd: Option<Tmd>,
    /// When the row was stored, in microseconds since 1970. A row with this number and another time is another row.
    pub created_at: i64,
    /// Equal for the rows of one document; 0 without one.
    pub document: u64,
    /// Equal for equal texts.
    pub text: u64,
}

impl NearestItem {
    /// A row with this score.
    pub(super) fn new(facts: &RowFacts, score: f32) -> NearestItem {
        let RowFacts { item, seq, tmd, created_at, document, text, .. } = *facts;
        NearestItem { item, seq, score, cosine: None, keyword: None, tmd, created_at, document, text }
    }
}

/// The result of [`super::Index::search`].
#[derive(Debug, Clone)]
pub struct NearestItems {
    /// The nearest items, best first.
    pub hits: Vec<NearestItem>,
    /// The result reflects every change up to this clock value.
    pub seq: i64,
    /// How they were found.
    pub mode: SearchMode,
    /// The rows that match the filter.
    pub matching: usize,
    /// The rows whose vectors were compared as they were committed.
    pub compared: usize,
}

/// What [`super::Index::search`] looks for.
#[derive(Debug, Clone)]
pub struct NearestQuery<'a> {
    /// The vector to compare with; its length does not matter.
    pub vector: &'a [f32],
    /// Only matching rows are found.
    pub filter: &'a Filter,
    /// The number of hits.
    pub k: usize,
    /// How hard it looks.
    pub effort: Effort,
}

/// A snapshot of the rows, and the volume, taken in this order.
pub(super) struct View<'a> {
    pub(super) resident: Resident,
    /// Everything up to here is in the snapshot.
    pub(super) complete_to: i64,
    pub(super) volume: &'a Volume,
}

impl View<'_> {
    pub(super) fn search(
        &self,
        options: &IndexOptions,
        wanted: &NearestQuery<'_>,
    ) -> Result<NearestItems, IndexError> {
        let NearestQuery { vector, filter, k, effort } = *wanted;
        let query = self.unit_length(options, vector)?;
        let txn = self.volume.read()?;
        let meta = self.read_meta(&txn)?;
        let many = self.resident.len() as u64 >= options.trees_from;
        if many && meta.has_trees && k > 0 && filter.is_everything() && effort != Effort::Exact {
            return self.walk(&txn, &meta, &query, k, effort);
        }
        let candidates = self.resident.candidates(&query, filter, self.width(k, effort));
        let mut nearest = Nearest::new(k);
        for candidate in &candidates.rows {
            if let Some(cosine) = self.cosine(&txn, &meta, &query, candidate.facts)? {
                nearest.offer(candidate.facts.item, cosine);
            }
        }
        let compared = candidates.rows.len();
        let exact = compared == candidates.matching;
        let mode = if exact { SearchMode::Exact } else { SearchMode::Quantized };
        Ok(self.found(nearest, mode, candidates.matching, compared))
    }

    /// A query vector as it is compared.
    pub(super) fn unit_length(&self, options: &IndexOptions, vector: &[f32]) -> Result<Vec<f32>, IndexError> {
        let dims = options.identity.dims;
        if vector.len() != dims {
            return Err(IndexError::WrongDims { expected: dims, received: vector.len() });
        }
        let (vector, length) = usable(&vector.into(), dims).ok_or(IndexError::UnusableQuery)?;
        Ok(vector.iter().map(|x| x / length).collect())
    }

    pub(super) fn width(&self, k: usize, effort: Effort) -> Width {
        let times = match effort {
            Effort::Normal => 1,
            Effort::Times(times) => times.get(),
            Effort::Exact => return Width { by_bytes: usize::MAX, kept: usize::MAX },
        };
        let near = NEAR + k.saturating_mul(NEAR_PER_HIT) + self.resident.len() / NEAR_ONE_IN;
        let kept = k.saturating_mul(2) + COMPARED;
        Width { by_bytes: near.saturating_mul(times), kept: kept.saturating_mul(times) }
    }

    fn found(&self, nearest: Nearest, mode: SearchMode, matching: usize, compared: usize) -> NearestItems {
        let hits = nearest.into_hits().into_iter().filter_map(|(item, cosine)| {
            let facts = self.resident.get(item)?;
            Some(NearestItem { cosine: Some(cosine), ..NearestItem::new(facts, cosine) })
        });
        NearestItems { hits: hits.collect(), seq: self.complete_to, mode, matching, compared }
    }

    /// The cosine with the vector of a row as it was committed; `None` when it was deleted meanwhile.
    pub(super) fn cosine(
        &self,
        txn: &heed::RoTxn<'_>,
        meta: &VolumeMeta,
        query: &[f32],
        facts: &RowFacts,
    ) -> Result<Option<f32>, IndexError> {
        if let Some((vector, norm)) = &facts.unbuilt {
            return Ok(Some(dot(query, vector) / norm));
        }
        let stored = self.volume.vector(txn, meta, facts.item)?;
        Ok(stored.map(|stored| dot_stored(query, stored.bytes) / stored.norm))
    }

    /// Searches the trees of all forests, and the rows that are not in them. It passes no list of candidates to arroy,
    /// which would look at all of them.
    fn walk(
        &self,
        txn: &heed::RoTxn<'_>,
        meta: &VolumeMeta,
        query: &[f32],
        k: usize,
        effort: Effort,
    ) -> Result<NearestItems, IndexError> {
        let mut nearest = Nearest::new(k);
        let mut compared = 0;
        for facts in self.resident.unbuilt() {
            if let Some((vector, norm)) = &facts.unbuilt {
                nearest.offer(facts.item, dot(query, vector) / norm);
                compared += 1;
            }
        }
        let times = if let Effort::Times(times) = effort { times.get() } else { 1 };
        // Rows of the volume that were deleted or replaced since.
        let valid = self.resident.len().saturating_sub(compared);
        let stale = usize::try_from(meta.items()).unwrap_or(usize::MAX).saturating_sub(valid);
        for (forest, items) in &meta.forests {
            let reader = self.volume.forests.reader(txn, *forest)?;
            let share = *items as f64 / meta.items().max(1) as f64;
            let mut wanted = k;
            loop {
                let per_tree = wanted.saturating_mul(PER_HIT).saturating_add(PER_TREE);
                let shared = (per_tree.saturating_mul(reader.n_trees()) as f64 * share) as usize;
                let candidates = shared.max(LEAVES * query.len()).saturating_mul(times);
                let mut search = reader.nns(wanted);
                if let Some(candidates) = NonZeroUsize::new(candidates) {
                    search.search_k(candidates);
                }
                let found = search.by_vector(txn, query).map_err(|error| self.volume.forests.wrap(error))?;
                compared += candidates;
                let all = found.len() < wanted || wanted >= k.saturating_add(stale);
                let is_built = |item| self.resident.get(item).is_some_and(|facts| facts.unbuilt.is_none());
                let valid: Vec<_> = found.into_iter().filter(|(item, _)| is_built(*item)).collect();
                if valid.len() >= k || all {
                    // Arroy's distance is (1 - cosine) / 2.
                    valid.into_iter().for_each(|(item, distance)| nearest.offer(item, 1.0 - 2.0 * distance));
                    break;
                }
                wanted = wanted.saturating_mul(4).min(k.saturating_add(stale));
            }
        }
        Ok(self.found(nearest, SearchMode::Trees, self.resident.len(), compared))
    }

    /// The vector of an item as it was committed.
    pub(super) fn vector(&self, item: u32) -> Result<Option<Vec<f32>>, IndexError> {
        match self.resident.get(item) {
            None => Ok(None),
            Some(RowFacts { unbuilt: Some((vector, _)), .. }) => Ok(Some(vector.to_vec())),
            Some(_) => {
                let txn = self.volume.read()?;
                let meta = self.read_meta(&txn)?;
                Ok(self.volume.vector(&txn, &meta, item)?.map(|stored| stored.numbers()))
            }
        }
    }

    pub(super) fn read_meta(&self, txn: &heed::RoTxn<'_>) -> Result<VolumeMeta, IndexError> {
        self.volume.meta(txn)?.ok_or_else(|| IndexError::Damaged("its metadata is missing".into()))
    }
}
