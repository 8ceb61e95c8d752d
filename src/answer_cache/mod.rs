//! Answers that outlive the process: bytes by key, in an LMDB environment of their own, on threads of their own.
//!
//! What is in it can be lost at any time: a bounded number of bytes is kept, the oldest answers go first, and a failure
//! of the environment empties it. Answers of the last second may be lost in a crash.

mod entry;
mod error;
mod ring;

pub use entry::AnswerKey;
pub use error::CacheError;

use crate::output::throttled;
use crate::threads::{Lane, Worker, WorkerError};
use ring::Ring;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Jobs that wait for a thread.
const QUEUE: usize = 256;
/// How long an answer is in memory only.
const UNWRITTEN: Duration = Duration::from_secs(1);

/// A handle to the cache; cheap to clone. What was put is written when the last one is dropped.
#[derive(Clone)]
pub struct AnswerCache(Arc<Threads>);

struct Threads {
    ring: Arc<Ring>,
    reader: Worker<Arc<Ring>>,
    writer: Worker<Arc<Ring>>,
    /// A flush is due within [`UNWRITTEN`].
    flush_due: AtomicBool,
}

impl AnswerCache {
    /// Opens the cache of a data folder, with at most `limit` bytes of answers.
    ///
    /// # Errors
    /// The folder cannot be used, or another process uses it.
    pub fn open(data_dir: &Path, limit: u64) -> Result<AnswerCache, CacheError> {
        let ring = Arc::new(Ring::open(&ring::folder_in(data_dir), limit)?);
        let worker = |name| {
            let ring = ring.clone();
            Worker::spawn(name, NonZeroUsize::MIN, QUEUE, move || Ok::<_, CacheError>(ring.clone()))
        };
        let (reader, writer) = (worker("lnsp-answers")?, worker("lnsp-answers-w")?);
        Ok(AnswerCache(Arc::new(Threads { ring, reader, writer, flush_due: AtomicBool::new(false) })))
    }

    /// The answer under this key.
    pub async fn get(&self, key: AnswerKey) -> Option<Vec<u8>> {
        usable(self.0.reader.run(Lane::Bulk, move |ring| ring.get(&key)).await).flatten()
    }

    /// Keeps an answer, in place of an older one. It is found from now on, and written within a second.
    pub fn put(&self, key: AnswerKey, content: Vec<u8>) {
        let at_once = self.0.ring.put(key, content);
        if at_once || !self.0.flush_due.swap(true, Ordering::AcqRel) {
            // It does not hold the cache open: what is dropped is written.
            let threads = Arc::downgrade(&self.0);
            tokio::spawn(async move {
                if !at_once {
                    tokio::time::sleep(UNWRITTEN).await;
                }
                if let Some(threads) = threads.upgrade() {
                    AnswerCache(threads).flush().await;
                }
            });
        }
    }

    /// Writes what is in memory only.
    pub async fn flush(&self) {
        self.0.flush_due.store(false, Ordering::Release);
        usable(self.0.writer.run(Lane::Bulk, |ring| ring.flush()).await);
    }

    /// The number of answers.
    pub async fn len(&self) -> u64 {
        usable(self.0.reader.run(Lane::Bulk, |ring| ring.len()).await).unwrap_or_default()
    }

    /// Whether there is no answer.
    pub async fn is_empty(&self) -> bool {
        self.len().await == 0
    }
}

fn usable<T>(result: Result<T, WorkerError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(WorkerError::Gone) => None,
        Err(error) => {
            throttled!(warn, %error, "the answer cache does not answer");
            None
        }
    }
}
