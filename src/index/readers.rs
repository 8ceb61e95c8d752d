//! The threads that answer searches, for callers that must not block.

use super::shared::Shared;
use super::{Effort, IndexError, NearestItems};
use crate::threads::{Lane, Progress, Worker, WorkerError};
use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::sync::Arc;

/// Searches that may wait for a thread. Further ones wait for a place in the queue.
const QUEUE: usize = 64;

pub(super) struct Readers(Worker<Arc<Shared>>);

impl Readers {
    pub(super) fn start(shared: &Arc<Shared>) -> Readers {
        let threads = NonZeroUsize::new(shared.options.read_threads).unwrap_or(NonZeroUsize::MIN);
        let shared = shared.clone();
        let factory = move || Ok::<_, Infallible>(shared.clone());
        let Ok(worker) = Worker::spawn("lnsp-search", threads, QUEUE, factory);
        Readers(worker)
    }

    pub(super) fn progress(&self) -> &[Progress] {
        self.0.progress()
    }

    pub(super) async fn search(
        &self,
        vector: Arc<[f32]>,
        k: usize,
        effort: Effort,
    ) -> Result<NearestItems, IndexError> {
        let found = self.0.run(Lane::Express, move |shared| shared.search(&vector, k, effort)).await;
        found.unwrap_or_else(|error| match error {
            WorkerError::Panicked(message) => Err(IndexError::Panicked(message)),
            WorkerError::Unavailable(_) | WorkerError::Gone => Err(IndexError::Closed),
        })
    }
}
