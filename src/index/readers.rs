//! The threads that answer searches, for callers that must not block.

use super::keyword_search::{HybridQuery, KeywordQuery};
use super::shared::Shared;
use super::{Effort, IndexError, NearestItems, NearestQuery};
use crate::filter::Filter;
use crate::keyword::TextWords;
use crate::threads::{Lane, Progress, Worker, WorkerError, lower_priority};
use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::sync::Arc;

/// Searches that may wait for a thread. Further ones wait for a place in the queue.
const QUEUE: usize = 64;
/// A search for more items than this is large: it takes tens of milliseconds.
const LARGE: usize = 256;

/// A filter of more values and conditions than this makes a search large, too.
const LARGE_FILTER: usize = 64;
/// So does a query of more different words.
const LARGE_QUERY: usize = 64;

/// Large searches have one thread of their own, of a low priority: however many come, other searches and ingest keep
/// their processors.
pub(super) struct Readers {
    small: Worker<Arc<Shared>>,
    large: Worker<Arc<Shared>>,
    progress: Vec<Progress>,
}

impl Readers {
    pub(super) fn start(shared: &Arc<Shared>) -> Readers {
        let threads = NonZeroUsize::new(shared.options.read_threads).unwrap_or(NonZeroUsize::MIN);
        let small = shared.clone();
        let Ok(small) =
            Worker::spawn("lnsp-search", threads, QUEUE, move || Ok::<_, Infallible>(small.clone()));
        let large = shared.clone();
        // The factory runs on the thread.
        let Ok(large) = Worker::spawn("lnsp-search-large", NonZeroUsize::MIN, QUEUE, move || {
            lower_priority();
            Ok::<_, Infallible>(large.clone())
        });
        let progress = small.progress().iter().chain(large.progress()).cloned().collect();
        Readers { small, large, progress }
    }

    pub(super) fn progress(&self) -> &[Progress] {
        &self.progress
    }

    pub(super) async fn search(
        &self,
        vector: Arc<[f32]>,
        filter: Arc<Filter>,
        k: usize,
        effort: Effort,
    ) -> Result<NearestItems, IndexError> {
        let threads = self.threads(k, &filter, effort != Effort::Normal);
        let search = move |shared: &mut Arc<Shared>| {
            shared.search(&NearestQuery { vector: &vector, filter: &filter, k, effort })
        };
        threads.run(Lane::Express, search).await.unwrap_or_else(failed)
    }

    pub(super) async fn keyword(
        &self,
        words: Arc<TextWords>,
        filter: Arc<Filter>,
        k: usize,
    ) -> Result<NearestItems, IndexError> {
        let threads = self.threads(k, &filter, words.words().len() > LARGE_QUERY);
        let search = move |shared: &mut Arc<Shared>| {
            shared.by_keyword(KeywordQuery { words: &words, filter: &filter, k })
        };
        threads.run(Lane::Express, search).await.unwrap_or_else(failed)
    }

    pub(super) async fn hybrid(
        &self,
        vector: Arc<[f32]>,
        (words, keyword_weight): (Arc<TextWords>, f32),
        filter: Arc<Filter>,
        k: usize,
    ) -> Result<NearestItems, IndexError> {
        let threads = self.threads(k, &filter, words.words().len() > LARGE_QUERY);
        let search = move |shared: &mut Arc<Shared>| {
            let keyword = KeywordQuery { words: &words, filter: &filter, k };
            shared.by_both(HybridQuery { keyword, vector: &vector, keyword_weight })
        };
        threads.run(Lane::Express, search).await.unwrap_or_else(failed)
    }

    /// The threads for a search of this size, which may be large for another reason.
    fn threads(&self, k: usize, filter: &Filter, otherwise: bool) -> &Worker<Arc<Shared>> {
        let large = k > LARGE || filter.size() > LARGE_FILTER || otherwise;
        if large { &self.large } else { &self.small }
    }

    pub(super) async fn vectors(&self, items: Vec<u32>) -> Result<Vec<(u32, Vec<f32>)>, IndexError> {
        let read = move |shared: &mut Arc<Shared>| {
            let found = items
                .iter()
                .filter_map(|item| shared.vector(*item).map(|vector| Some((*item, vector?))).transpose());
            found.collect()
        };
        self.small.run(Lane::Express, read).await.unwrap_or_else(failed)
    }
}

/// What a thread that did not answer means to a caller.
fn failed<T>(error: WorkerError) -> Result<T, IndexError> {
    match error {
        WorkerError::Panicked(message) => Err(IndexError::Panicked(message)),
        WorkerError::Unavailable(_) | WorkerError::Gone => Err(IndexError::Closed),
    }
}
