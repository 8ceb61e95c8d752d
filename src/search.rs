//! Search: text -> vector -> index (built part and delta) -> rows.
//!
//! Uses the vectorizer, index and store of the pipeline. A search has priority over ingest in the vectorizer and the
//! classifier.

use crate::classifier::LocalClassifier;
use crate::index::{Effort, Index, IndexError, SearchMode};
use crate::metrics;
use crate::store::{Hit, SearchFilter, Store, StoreError};
use crate::threads::{Lane, Worker, WorkerError};
use crate::tmd::{Tmd, projection};
use crate::vectorizer::{VectorError, Vectorizer};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The largest `top_k` of one search.
pub const MAX_RESULTS: usize = 1000;
/// The factor by which more hits are fetched where rows are then dropped or re-ordered.
const OVERSAMPLING: usize = 5;

/// The text or vector that a search compares with.
#[derive(Debug, Clone)]
pub enum SearchTarget {
    /// A text, to be embedded by the model of the store.
    Text(String),
    /// A vector of [`Searcher::dims`] numbers, finite and not zero. Its length does not matter.
    Vector(Vec<f32>),
}

/// The parameters of one search.
#[derive(Debug, Clone)]
pub struct SearchQuery {
    /// The text or vector to compare with.
    pub target: SearchTarget,
    /// The number of results, 1 to [`MAX_RESULTS`].
    pub top_k: usize,
    /// Only matching rows are returned and counted.
    pub filter: SearchFilter,
    /// 0 to 1: the weight of the similarity of TMD codes against that of vectors. Above 0 it needs a text.
    pub tmd_weight: f32,
    /// Waits until the index reflects this clock value.
    pub min_seq: Option<i64>,
}

/// A found row with its score.
#[derive(Debug)]
pub struct ScoredHit {
    /// Cosine, -1 to 1, or its weighted mean with the similarity of codes.
    pub score: f32,
    /// The stored row.
    pub hit: Hit,
}

/// The result of a search.
#[derive(Debug)]
pub struct SearchResults {
    /// The rows, best first.
    pub results: Vec<ScoredHit>,
    /// The results reflect every change up to this clock value.
    pub index_seq: i64,
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
    /// Finds the nearest items; shared with the writer stage.
    pub index: Index,
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
    /// [`SearchError::Invalid`] for an invalid query; [`SearchError::Behind`] when the index does not reflect `min_seq`
    /// in time, to be retried; the errors of the vectorizer, the classifier, the index and the store.
    pub async fn search(&self, query: SearchQuery) -> Result<SearchResults, SearchError> {
        let started = Instant::now();
        self.check(&query)?;
        if let Some(wanted) = query.min_seq
            && tokio::time::timeout(self.min_seq_timeout, self.index.wait_for(wanted)).await.is_err()
        {
            return Err(SearchError::Behind { wanted, reached: self.index.status().applied_seq });
        }
        let vector: Arc<[f32]> = match &query.target {
            SearchTarget::Text(text) => self.vectorizer.vector(text.clone()).await?,
            SearchTarget::Vector(vector) => vector.as_slice().into(),
        };
        let codes = match &query.target {
            SearchTarget::Text(text) if query.tmd_weight > 0.0 => Some(self.codes(text.clone()).await?),
            _ => None,
        };
        let selective = codes.is_some() || query.filter != SearchFilter::default();
        let mut fetch = if selective { query.top_k * OVERSAMPLING } else { query.top_k };
        loop {
            let found = self.index.search_async(vector.clone(), fetch, Effort::default()).await?;
            let mut results = self.rows(&found.hits, &query.filter).await?;
            // A filter must not shorten the results while further rows match: fetch more until there are enough, or no
            // hits are left.
            if results.len() < query.top_k && found.hits.len() >= fetch {
                fetch *= 8;
                continue;
            }
            if let Some(codes) = codes {
                mix(&mut results, codes, query.tmd_weight);
            }
            results.truncate(query.top_k);
            let mode = if found.mode == SearchMode::Exact { "exact" } else { "ann" };
            metrics::searched(mode, started.elapsed());
            return Ok(SearchResults { results, index_seq: found.seq });
        }
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
            SearchTarget::Text(text) if text.trim().is_empty() => {
                wrong("query", "query is empty or blank".into())
            }
            SearchTarget::Text(text) if text.len() > crate::chunk::MAX_TEXT_BYTES => wrong(
                "query",
                format!(
                    "query too long: expected at most {} bytes, received {}",
                    crate::chunk::MAX_TEXT_BYTES,
                    text.len()
                ),
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

    /// The rows of the hits that match the filter, in the order of the hits.
    async fn rows(&self, hits: &[(u32, f32)], filter: &SearchFilter) -> Result<Vec<ScoredHit>, SearchError> {
        let items: Vec<u32> = hits.iter().map(|(item, _)| *item).collect();
        let rows = self.store.hits(&items, filter).await?;
        let mut rows: HashMap<u32, Hit> = rows.into_iter().map(|hit| (hit.item, hit)).collect();
        let scored = hits
            .iter()
            .filter_map(|(item, score)| Some(ScoredHit { score: *score, hit: rows.remove(item)? }));
        Ok(scored.collect())
    }
}

/// Re-orders by `(1 - weight) * cosine + weight * similarity`, where the similarity of codes is the dot product of
/// their canonical 16-D encodings.
fn mix(results: &mut [ScoredHit], codes: Tmd, weight: f32) {
    let wanted = projection::canonical_16d(codes);
    for scored in results.iter_mut() {
        let similarity: f32 =
            projection::canonical_16d(scored.hit.tmd).iter().zip(wanted).map(|(a, b)| a * b).sum();
        scored.score = (1.0 - weight) * scored.score + weight * similarity;
    }
    results.sort_by(|a, b| b.score.total_cmp(&a.score));
}
