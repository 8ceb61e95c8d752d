//! Search: text -> vector -> index of concepts, of questions, or both (built part and delta) -> the items that match the
//! filter, best first. Their rows are read afterwards, by what writes the answer.
//!
//! Uses the vectorizer, indexes and store of the pipeline. A search has priority over ingest in the vectorizer and the
//! classifier.

use crate::chunk::{MAX_TEXT_BYTES, is_blank};
use crate::classifier::LocalClassifier;
use crate::index::{Effort, Index, IndexError, Indexes, SearchMode, VectorKind};
use crate::metrics;
use crate::store::{SearchFilter, Store, StoreError};
use crate::threads::{Lane, Worker, WorkerError};
use crate::tmd::{Tmd, projection};
use crate::vectorizer::{VectorError, Vectorizer};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The largest `top_k` of one search.
pub const MAX_RESULTS: usize = 1000;
/// The factor by which more hits are fetched where rows are then dropped or re-ordered.
const OVERSAMPLING: usize = 5;
/// The number of items that are looked up with one query.
const LOOK_UP: usize = 10_000;

/// The text or vector that a search compares with.
#[derive(Debug, Clone)]
pub enum SearchTarget {
    /// A text, to be embedded by the model of the store.
    Text(String),
    /// A vector of [`Searcher::dims`] numbers, finite and not zero. Its length does not matter.
    Vector(Vec<f32>),
}

/// The vectors of a chunk that a search compares with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SearchIn {
    /// That of the concept, or of the text: every chunk has one.
    #[default]
    Concept,
    /// That of the question: chunks without one are not found.
    Question,
    /// Both: the better one counts.
    Both,
}

/// The parameters of one search.
#[derive(Debug, Clone)]
pub struct SearchQuery {
    /// The text or vector to compare with.
    pub target: SearchTarget,
    /// What it is compared with.
    pub search_in: SearchIn,
    /// The number of results, 1 to [`MAX_RESULTS`].
    pub top_k: usize,
    /// Only matching rows are returned and counted.
    pub filter: SearchFilter,
    /// 0 to 1: the weight of the similarity of TMD codes against that of vectors. Above 0 it needs a text.
    pub tmd_weight: f32,
    /// Waits until the index reflects this clock value.
    pub min_seq: Option<i64>,
}

/// A found item with its score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RankedItem {
    /// Its number in the index and in the store.
    pub item: u32,
    /// Cosine, -1 to 1, or its weighted mean with the similarity of codes.
    pub score: f32,
    /// The vector of the chunk that has this score.
    pub matched: VectorKind,
}

/// The nearest items of the indexes that were searched.
struct FoundItems {
    /// Best first, each item once.
    items: Vec<RankedItem>,
    /// The clock value that all of them reflect.
    seq: i64,
    /// Every vector was compared.
    exact: bool,
    /// There may be more.
    more: bool,
}

/// The result of a search.
#[derive(Debug)]
pub struct Ranking {
    /// The items, best first.
    pub items: Vec<RankedItem>,
    /// The results reflect every change up to this clock value.
    pub index_seq: i64,
}

/// The codes that a search prefers.
struct Preference {
    /// Their canonical encoding.
    wanted: [f32; 16],
    /// The weight of their similarity, above 0 and at most 1.
    weight: f32,
}

/// Why a search failed.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The query is invalid.
    #[error("{message}")]
    Invalid {
        /// The name of the invalid field.
        param: &'static str,
        /// What the field must be, and what it is.
        message: String,
    },
    /// The index does not yet reflect `min_seq`.
    #[error("the index reflects change {reached}, not yet {wanted}; ask again")]
    Behind {
        /// The requested clock value.
        wanted: i64,
        /// The clock value that the index reflects.
        reached: i64,
    },
    /// The text could not be embedded.
    #[error(transparent)]
    Vector(#[from] VectorError),
    /// The classifier's thread failed.
    #[error("the classifier could not answer: {0}")]
    Classifier(#[from] WorkerError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Runs searches. Cheap to clone.
#[derive(Clone)]
pub struct Searcher {
    /// Embeds the text; shared with the embedder stage.
    pub vectorizer: Vectorizer,
    /// Finds the text's codes; shared with the extractor stage.
    pub classifier: Worker<LocalClassifier>,
    /// Find the nearest items; shared with the writer stage.
    pub indexes: Indexes,
    /// Reads the rows; shared with the writer stage.
    pub store: Store,
    /// The dimensions of the store's model.
    pub dims: usize,
    /// The timeout of the wait for `min_seq`.
    pub min_seq_timeout: Duration,
}

impl Searcher {
    /// Runs one search.
    ///
    /// # Errors
    /// [`SearchError::Invalid`] for an invalid query; [`SearchError::Behind`] when the index does not reflect `min_seq` in
    /// time, to be retried; the errors of the vectorizer, the classifier, the index and the store.
    pub async fn search(&self, query: SearchQuery) -> Result<Ranking, SearchError> {
        let started = Instant::now();
        self.check(&query)?;
        if let Some(wanted) = query.min_seq {
            self.reach(wanted, query.search_in).await?;
        }
        let vector: Arc<[f32]> = match &query.target {
            SearchTarget::Text(text) => self.vectorizer.vector(text.clone()).await?,
            SearchTarget::Vector(vector) => unit_length(vector),
        };
        let preference = match &query.target {
            SearchTarget::Text(text) if query.tmd_weight > 0.0 => {
                let wanted = projection::canonical_16d(self.codes(text.clone()).await?);
                Some(Preference { wanted, weight: query.tmd_weight })
            }
            _ => None,
        };
        let selective = preference.is_some() || query.filter != SearchFilter::default();
        let mut fetch = if selective { query.top_k * OVERSAMPLING } else { query.top_k };
        loop {
            let found = self.nearest(&vector, fetch, query.search_in).await?;
            let mut items = self.matching(&found.items, &query, preference.as_ref()).await?;
            // A filter must not shorten the results while further rows match: fetch more until there are enough, or no
            // hits are left.
            if items.len() < query.top_k && found.more {
                fetch *= 8;
                continue;
            }
            items.truncate(query.top_k);
            let mode = if found.exact { "exact" } else { "ann" };
            metrics::searched(mode, started.elapsed());
            return Ok(Ranking { items, index_seq: found.seq });
        }
    }

    /// Waits until the index reflects the change `wanted`. A number above the clock belongs to no change, and waiting
    /// for it would blame the index.
    async fn reach(&self, wanted: i64, search_in: SearchIn) -> Result<(), SearchError> {
        let searched = self.searched(search_in);
        let reached = || searched.clone().map(|index| index.status().applied_seq).min().unwrap_or_default();
        if reached() >= wanted {
            return Ok(());
        }
        let last = self.store.clock().await?;
        if wanted > last {
            let message =
                format!("min_seq: expected the number of a stored change, at most {last}, received {wanted}");
            return Err(SearchError::Invalid { param: "min_seq", message });
        }
        let all = futures_util::future::try_join_all(searched.clone().map(|index| index.wait_for(wanted)));
        match tokio::time::timeout(self.min_seq_timeout, all).await {
            Ok(reached) => Ok(reached.map(drop)?),
            Err(_) => Err(SearchError::Behind { wanted, reached: reached() }),
        }
    }

    /// The indexes that such a search compares with.
    fn searched(&self, search_in: SearchIn) -> impl Iterator<Item = &Index> + Clone {
        let Indexes { concepts, questions } = &self.indexes;
        let concepts = Some(concepts).filter(|_| search_in != SearchIn::Question);
        let questions = Some(questions).filter(|_| search_in != SearchIn::Concept);
        concepts.into_iter().chain(questions)
    }

    /// The `count` nearest items of each index that is searched, together.
    async fn nearest(
        &self,
        vector: &Arc<[f32]>,
        count: usize,
        search_in: SearchIn,
    ) -> Result<FoundItems, SearchError> {
        let searches = self.searched(search_in).map(async |index| {
            let found = index.search_async(vector.clone(), count, Effort::default()).await?;
            Ok::<_, IndexError>((index.identity().kind, found))
        });
        let mut all = FoundItems { items: Vec::new(), seq: i64::MAX, exact: true, more: false };
        for (matched, found) in futures_util::future::try_join_all(searches).await? {
            all.seq = all.seq.min(found.seq);
            all.exact &= found.mode == SearchMode::Exact;
            all.more |= found.hits.len() >= count;
            all.items.extend(found.hits.iter().map(|&(item, score)| RankedItem { item, score, matched }));
        }
        if search_in == SearchIn::Both {
            all.items.sort_by(|a, b| b.score.total_cmp(&a.score));
            let mut seen = HashSet::new();
            all.items.retain(|found| seen.insert(found.item));
        }
        Ok(all)
    }

    fn check(&self, query: &SearchQuery) -> Result<(), SearchError> {
        let wrong = |param, message| Err(SearchError::Invalid { param, message });
        if !(1..=MAX_RESULTS).contains(&query.top_k) {
            return wrong("top_k", format!("top_k: expected 1 to {MAX_RESULTS}, received {}", query.top_k));
        }
        if !(0.0..=1.0).contains(&query.tmd_weight) {
            return wrong(
                "tmd_weight",
                format!("tmd_weight: expected 0 to 1, received {}", query.tmd_weight),
            );
        }
        match &query.target {
            SearchTarget::Text(text) if is_blank(text) => {
                wrong("query", "query is empty or has only invisible characters".into())
            }
            SearchTarget::Text(text) if text.len() > MAX_TEXT_BYTES => wrong(
                "query",
                format!("query too long: expected at most {MAX_TEXT_BYTES} bytes, received {}", text.len()),
            ),
            SearchTarget::Vector(_) if query.tmd_weight > 0.0 => wrong(
                "tmd_weight",
                "tmd_weight needs a query text: codes cannot be found for a vector".into(),
            ),
            SearchTarget::Vector(vector) if vector.len() != self.dims => {
                wrong("vector", format!("vector: expected {} numbers, received {}", self.dims, vector.len()))
            }
            SearchTarget::Vector(vector)
                if !vector.iter().all(|x| x.is_finite()) || vector.iter().all(|x| *x == 0.0) =>
            {
                wrong("vector", "vector: expected finite numbers, not all zero".into())
            }
            _ => Ok(()),
        }
    }

    async fn codes(&self, text: String) -> Result<Tmd, SearchError> {
        Ok(self.classifier.run(Lane::Express, move |classifier| classifier.classify(&text).tmd).await?)
    }

    /// The hits that match the filter, best first: all of them where codes are preferred, else the first `top_k`.
    async fn matching(
        &self,
        hits: &[RankedItem],
        query: &SearchQuery,
        preference: Option<&Preference>,
    ) -> Result<Vec<RankedItem>, SearchError> {
        let enough = if preference.is_some() { usize::MAX } else { query.top_k };
        let mut ranked = Vec::new();
        for hits in hits.chunks(LOOK_UP) {
            if ranked.len() >= enough {
                break;
            }
            let items: Vec<u32> = hits.iter().map(|hit| hit.item).collect();
            let codes: HashMap<u32, Option<Tmd>> =
                self.store.matching(&items, &query.filter).await?.into_iter().collect();
            ranked.extend(hits.iter().filter_map(|hit| {
                let codes = *codes.get(&hit.item)?;
                let score = preference.map_or(hit.score, |preference| preference.mixed(hit.score, codes));
                Some(RankedItem { score, ..*hit })
            }));
        }
        if preference.is_some() {
            ranked.sort_by(|a, b| b.score.total_cmp(&a.score));
        }
        Ok(ranked)
    }
}

impl Preference {
    /// `(1 - weight) * cosine + weight * similarity`, where the similarity of codes is the dot product of their
    /// canonical 16-D encodings, and 0 to a row without codes.
    fn mixed(&self, cosine: f32, codes: Option<Tmd>) -> f32 {
        let similarity = codes.map_or(0.0, |codes| {
            let encoded = projection::canonical_16d(codes);
            encoded.iter().zip(self.wanted).map(|(a, b)| a * b).sum::<f32>()
        });
        (1.0 - self.weight) * cosine + self.weight * similarity
    }
}

/// The direction of a vector of finite numbers that are not all zero. In double precision, because the squares of
/// single-precision numbers can be too large, or vanish.
fn unit_length(vector: &[f32]) -> Arc<[f32]> {
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    vector.iter().map(|x| (f64::from(*x) / length) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finite_vector_has_a_direction() {
        for scale in [f32::MAX, 3e38, 1.0, 1e-30, f32::from_bits(1)] {
            assert_eq!(*unit_length(&[scale, 0.0]), [1.0, 0.0], "{scale}");
            let both = unit_length(&[scale, -scale]);
            assert!(both.iter().all(|x| (x.abs() - 0.5_f32.sqrt()).abs() < 1e-6), "{scale}: {both:?}");
        }
    }
}
