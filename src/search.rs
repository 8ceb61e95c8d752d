//! From a question to rows: text -> vector -> index (built part and delta) -> rows.
//!
//! Works beside the pipeline, on the same vectorizer, index and store. A question overtakes the bulk of ingest.

use crate::classifier::LocalClassifier;
use crate::index::{Effort, Index, IndexError, Mode};
use crate::metrics;
use crate::store::{Hit, SearchFilter, Store, StoreError};
use crate::threads::{Lane, Worker, WorkerError};
use crate::tmd::{Tmd, projection};
use crate::vectorizer::{VectorError, Vectorizer};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most results of one search.
pub const MAX_RESULTS: usize = 1000;
/// How many times the wanted number is fetched where rows are then dropped or re-ordered.
const OVERSAMPLING: usize = 5;

/// What is searched by.
#[derive(Debug, Clone)]
pub enum Target {
    /// Embedded by the model of the store.
    Text(String),
    /// Given by the client; any length, its direction counts.
    Vector(Vec<f32>),
}

/// One search.
#[derive(Debug, Clone)]
pub struct Query {
    /// What is searched by.
    pub target: Target,
    /// 1 to [`MAX_RESULTS`].
    pub top_k: usize,
    /// Rows that do not match are not counted.
    pub filter: SearchFilter,
    /// 0 to 1: how much likeness of codes counts against likeness of vectors. Needs a text.
    pub tmd_weight: f32,
    /// Waits until searches reflect this change.
    pub min_seq: Option<i64>,
}

/// A row with its score.
#[derive(Debug)]
pub struct Scored {
    /// Cosine, or its mixture with the likeness of codes.
    pub score: f32,
    /// The row.
    pub hit: Hit,
}

/// The answer to a search.
#[derive(Debug)]
pub struct Found {
    /// Best first.
    pub results: Vec<Scored>,
    /// Every change up to this number is reflected.
    pub index_seq: i64,
}

/// Why a search has no answer.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The query itself is wrong.
    #[error("{message}")]
    Invalid {
        /// The field to mend.
        param: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// The index does not yet reflect `min_seq`.
    #[error("the index reflects change {reached}, not yet {wanted}; ask again")]
    Behind {
        /// What was asked for.
        wanted: i64,
        /// What there is.
        reached: i64,
    },
    /// The text has no vector.
    #[error(transparent)]
    Vector(#[from] VectorError),
    /// The classifier's thread could not answer.
    #[error("the classifier could not answer: {0}")]
    Classifier(#[from] WorkerError),
    /// The index could not answer.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The database could not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Everything a search needs; cheap to clone.
#[derive(Clone)]
pub struct Search {
    /// Shared with the embedder.
    pub vectorizer: Vectorizer,
    /// Shared with the extractor.
    pub classifier: Worker<LocalClassifier>,
    /// Shared with the writer.
    pub index: Index,
    /// Shared with the writer.
    pub store: Store,
    /// Of the store's model.
    pub dims: usize,
    /// How long `min_seq` is waited for.
    pub patience: Duration,
}

impl Search {
    /// Answers a query.
    ///
    /// # Errors
    /// [`SearchError::Invalid`] for a query to be mended, [`SearchError::Behind`] to be asked again.
    pub async fn find(&self, query: Query) -> Result<Found, SearchError> {
        let started = Instant::now();
        self.check(&query)?;
        if let Some(wanted) = query.min_seq
            && tokio::time::timeout(self.patience, self.index.wait_for(wanted)).await.is_err()
        {
            return Err(SearchError::Behind { wanted, reached: self.index.status().applied_seq });
        }
        let vector: Arc<[f32]> = match &query.target {
            Target::Text(text) => self.vectorizer.vector(text.clone()).await?,
            Target::Vector(vector) => vector.as_slice().into(),
        };
        let codes = match &query.target {
            Target::Text(text) if query.tmd_weight > 0.0 => Some(self.codes(text.clone()).await?),
            _ => None,
        };
        let selective = codes.is_some() || query.filter != SearchFilter::default();
        let mut fetch = if selective { query.top_k * OVERSAMPLING } else { query.top_k };
        loop {
            let found = self.index.search_async(vector.clone(), fetch, Effort::default()).await?;
            let mut results = self.rows(&found.hits, &query.filter).await?;
            // A filter must not empty an answer while there are matching rows: look further until there are
            // enough, or nothing is left.
            if results.len() < query.top_k && found.hits.len() >= fetch {
                fetch *= 8;
                continue;
            }
            if let Some(codes) = codes {
                mix(&mut results, codes, query.tmd_weight);
            }
            results.truncate(query.top_k);
            let mode = if found.mode == Mode::Exact { "exact" } else { "ann" };
            metrics::searched(mode, started.elapsed());
            return Ok(Found { results, index_seq: found.seq });
        }
    }

    fn check(&self, query: &Query) -> Result<(), SearchError> {
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
            Target::Text(text) if text.trim().is_empty() => wrong("query", "query is empty or blank".into()),
            Target::Text(text) if text.len() > crate::chunk::MAX_TEXT_BYTES => wrong(
                "query",
                format!(
                    "query too long: expected at most {} bytes, received {}",
                    crate::chunk::MAX_TEXT_BYTES,
                    text.len()
                ),
            ),
            Target::Vector(_) if query.tmd_weight > 0.0 => wrong(
                "tmd_weight",
                "tmd_weight needs a query text: codes cannot be found for a vector".into(),
            ),
            Target::Vector(vector) if vector.len() != self.dims => {
                wrong("vector", format!("vector: expected {} numbers, received {}", self.dims, vector.len()))
            }
            Target::Vector(vector)
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

    /// The rows behind the hits that pass the filter, in the order of the hits.
    async fn rows(&self, hits: &[(u32, f32)], filter: &SearchFilter) -> Result<Vec<Scored>, SearchError> {
        let items: Vec<u32> = hits.iter().map(|(item, _)| *item).collect();
        let rows = self.store.hits(&items, filter).await?;
        let mut rows: HashMap<u32, Hit> = rows.into_iter().map(|hit| (hit.item, hit)).collect();
        let scored =
            hits.iter().filter_map(|(item, score)| Some(Scored { score: *score, hit: rows.remove(item)? }));
        Ok(scored.collect())
    }
}

/// Re-orders by (1 - weight) cosine + weight likeness of codes: the cosine of their canonical 16-D encodings.
fn mix(results: &mut [Scored], codes: Tmd, weight: f32) {
    let wanted = projection::canonical_16d(codes);
    for scored in results.iter_mut() {
        let likeness: f32 =
            projection::canonical_16d(scored.hit.tmd).iter().zip(wanted).map(|(a, b)| a * b).sum();
        scored.score = (1.0 - weight) * scored.score + weight * likeness;
    }
    results.sort_by(|a, b| b.score.total_cmp(&a.score));
}
