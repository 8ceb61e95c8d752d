//! The threads that answer searches, for callers that must not block.

use super::shared::Shared;
use super::{Effort, IndexError, NearestItems};
use crate::threads::{Lane, Progress, Worker, WorkerError, lower_priority};
use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::sync::Arc;

/// Searches that may wait for a thread. Further ones wait for a place in the queue.
const QUEUE: usize = 64;
/// A search for more items than this is large: it takes tens of milliseconds.
const LARGE: usize = 256;

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
        k: usize,
        effort: Effort,
    ) -> Result<NearestItems, IndexError> {
        let threads = if k > LARGE || effort != Effort::Normal { &self.large } else { &self.small };
        let found = threads.run(Lane::Express, move |shared| shared.search(&vector, k, effort)).await;
        found.unwrap_or_else(|error| match error {
            WorkerError::Panicked(message) => Err(IndexError::Panicked(message)),
            WorkerError::Unavailable(_) | WorkerError::Gone => Err(IndexError::Closed),
        })
    }
}
