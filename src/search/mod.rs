//! Search: text -> vector -> index of concepts, of questions, or both -> the rows that match the filter, best first.
//! Their texts are read afterwards, by what writes the answer: the index knows everything that decides which they are.
//!
//! Uses the vectorizer, indexes and store of the pipeline. A search has priority over ingest in the vectorizer and the
//! classifier.

mod error;
mod explanation;
mod query;
mod ranking;
mod recall_sample;

pub use error::SearchError;
pub use explanation::{Explanation, SearchTimes};
pub use query::{MAX_RESULTS, SearchBy, SearchIn, SearchQuery, SearchTarget};
pub use ranking::{Collapse, RankedItem, Ranking};
pub use recall_sample::RecallSample;

use crate::classifier::LocalClassifier;
use crate::filter::Filter;
use crate::index::{Effort, Index, IndexError, Indexes, NearestItems, SearchMode, VectorKind};
use crate::keyword::TextWords;
use crate::metrics;
use crate::store::Store;
use crate::threads::{Lane, Worker, spawn_computation};
use crate::tmd::{Tmd, projection};
use crate::vectorizer::Vectorizer;
use ranking::{Preference, Ranker};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The factor by which more rows are found where some are then dropped or re-ordered.
const OVERSAMPLING: usize = 5;
/// The same, where those did not suffice.
const SECOND_OVERSAMPLING: usize = 40;
/// The bytes of a query whose words are counted at once.
const SHORT_QUERY: usize = 2 * 1024;

/// The nearest items of the indexes that were searched.
struct FoundItems {
    /// Best first, each item once.
    items: Vec<RankedItem>,
    /// The clock value that all of them reflect.
    seq: i64,
    /// The least exact way in which one was searched.
    mode: SearchMode,
    /// There may be more.
    more: bool,
    matching: usize,
    compared: usize,
}

/// What rows are compared with.
enum IndexQuery {
    Vector(Arc<[f32]>),
    Keyword(Arc<TextWords>),
    Both { vector: Arc<[f32]>, words: Arc<TextWords>, keyword_weight: f32 },
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
    /// Measures how much searches find.
    pub recall_sample: RecallSample,
}

impl Searcher {
    /// Runs one search.
    ///
    /// # Errors
    /// [`SearchError::Invalid`] for an invalid query; [`SearchError::Behind`] when the index does not reflect `min_seq` in
    /// time, to be retried; the errors of the vectorizer, the classifier, the index and the store.
    pub async fn search(&self, query: SearchQuery) -> Result<Ranking, SearchError> {
        let started = Instant::now();
        query.check(self.dims)?;
        if let Some(wanted) = query.min_seq {
            self.reach(wanted, query.search_in).await?;
        }
        let wanted = self.prepare(&query).await?;
        let preference = match &query.target {
            SearchTarget::Text(text) if query.tmd_weight > 0.0 => {
                let wanted = projection::canonical_16d(self.codes(text.clone()).await?);
                Some(Preference { wanted, weight: query.tmd_weight })
            }
            _ => None,
        };
        let embedded = started.elapsed();
        let ranker = Ranker::new(preference, query.collapse, query.diversity > 0.0);
        let filter = Arc::new(query.filter.clone());
        let mut factor = if ranker.drops_or_reorders() { OVERSAMPLING } else { 1 };
        let (found, mut items) = loop {
            let found = self.nearest(&wanted, &filter, query.top_k * factor, query.search_in).await?;
            let items = ranker.rank(&found.items);
            // Equal texts must not shorten the results while further rows match.
            if items.len() >= query.top_k || !found.more || factor >= SECOND_OVERSAMPLING {
                break (found, items);
            }
            factor = SECOND_OVERSAMPLING;
        };
        if query.diversity > 0.0 {
            items = self.diverse(items, &query).await?;
        }
        items.truncate(query.top_k);
        let times = SearchTimes { prepare: embedded, index: started.elapsed() - embedded };
        metrics::searched(found.mode.name(), started.elapsed());
        let explanation =
            Explanation { mode: found.mode, matching: found.matching, compared: found.compared, times };
        Ok(Ranking { items, index_seq: found.seq, explanation })
    }

    /// What the indexes are asked for.
    async fn prepare(&self, query: &SearchQuery) -> Result<IndexQuery, SearchError> {
        let text = match &query.target {
            SearchTarget::Text(text) => text,
            SearchTarget::Vector(vector) => return Ok(IndexQuery::Vector(unit_length(vector))),
        };
        Ok(match query.by {
            SearchBy::Vector => IndexQuery::Vector(self.vectorizer.vector(text.clone()).await?),
            SearchBy::Keyword => IndexQuery::Keyword(words_of(text).await?),
            SearchBy::Both { keyword_weight } => {
                let vector = self.vectorizer.vector(text.clone()).await?;
                IndexQuery::Both { vector, words: words_of(text).await?, keyword_weight }
            }
        })
    }

    /// The results in the order of maximal marginal relevance: each next one is near the query and unlike those before.
    async fn diverse(
        &self,
        items: Vec<RankedItem>,
        query: &SearchQuery,
    ) -> Result<Vec<RankedItem>, SearchError> {
        let mut vectors = Vec::with_capacity(items.len());
        for kind in [VectorKind::Concept, VectorKind::Question] {
            let index =
                if kind == VectorKind::Concept { &self.indexes.concepts } else { &self.indexes.questions };
            let wanted: Vec<u32> =
                items.iter().filter(|found| found.matched == kind).map(|found| found.item).collect();
            if !wanted.is_empty() {
                vectors.extend(index.vectors_async(wanted).await?);
            }
        }
        let (diversity, top_k) = (query.diversity, query.top_k);
        let ordered = spawn_computation(move || ranking::diverse(items, vectors, diversity, top_k));
        Ok(ordered.await.map_err(|error| IndexError::Panicked(error.to_string()))?)
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
        wanted: &IndexQuery,
        filter: &Arc<Filter>,
        count: usize,
        search_in: SearchIn,
    ) -> Result<FoundItems, SearchError> {
        let searches = self.searched(search_in).map(async |index| {
            let found = self.ask(index, wanted, filter, count).await?;
            Ok::<_, IndexError>((index.identity().kind, found))
        });
        let mut all = FoundItems {
            items: Vec::new(),
            seq: i64::MAX,
            mode: SearchMode::Exact,
            more: false,
            matching: 0,
            compared: 0,
        };
        for (matched, found) in futures_util::future::try_join_all(searches).await? {
            all.seq = all.seq.min(found.seq);
            all.mode = all.mode.max(found.mode);
            all.more |= found.hits.len() >= count;
            all.matching = all.matching.max(found.matching);
            all.compared += found.compared;
            all.items.extend(found.hits.into_iter().map(|nearest| RankedItem::new(nearest, matched)));
        }
        if search_in == SearchIn::Both {
            ranking::best_of_both(&mut all.items);
        }
        Ok(all)
    }

    async fn ask(
        &self,
        index: &Index,
        wanted: &IndexQuery,
        filter: &Arc<Filter>,
        count: usize,
    ) -> Result<NearestItems, IndexError> {
        match wanted {
            IndexQuery::Vector(vector) => {
                let search = index.search_async(vector.clone(), filter.clone(), count, Effort::default());
                let found = search.await?;
                if found.mode != SearchMode::Exact {
                    self.recall_sample.offer(index, vector, filter, &found.hits);
                }
                Ok(found)
            }
            IndexQuery::Keyword(words) => index.keyword_async(words.clone(), filter.clone(), count).await,
            IndexQuery::Both { vector, words, keyword_weight } => {
                let words = (words.clone(), *keyword_weight);
                index.hybrid_async(vector.clone(), words, filter.clone(), count).await
            }
        }
    }

    async fn codes(&self, text: String) -> Result<Tmd, SearchError> {
        Ok(self.classifier.run(Lane::Express, move |classifier| classifier.classify(&text).tmd).await?)
    }
}

/// The words of a query. Those of the longest text take milliseconds, so a long one is not counted on the thread of a
/// connection.
async fn words_of(text: &str) -> Result<Arc<TextWords>, SearchError> {
    if text.len() <= SHORT_QUERY {
        return Ok(Arc::new(TextWords::of(text)));
    }
    let text = text.to_owned();
    let counted = spawn_computation(move || Arc::new(TextWords::of(&text)));
    Ok(counted.await.map_err(|error| IndexError::Panicked(error.to_string()))?)
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
