//! Turns: one request at a time replaces or deletes a document, so that two of them leave no mixture.

use crate::threads::lock;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::OwnedMutexGuard;

/// Dataset and document.
type DocumentKey = (String, String);

/// The documents that are being replaced or deleted by this process. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct DocumentTurns(Arc<Mutex<HashMap<DocumentKey, Arc<tokio::sync::Mutex<()>>>>>);

/// The turn of one request. Dropping it lets the next one go on.
#[derive(Debug)]
pub struct DocumentTurn {
    // Dropped before the place in the queue.
    _guard: OwnedMutexGuard<()>,
    _queued: QueuedTurn,
}

/// A place in the queue of a document, whether it is its turn or not.
#[derive(Debug)]
struct QueuedTurn {
    turns: DocumentTurns,
    key: DocumentKey,
    mutex: Arc<tokio::sync::Mutex<()>>,
}

impl DocumentTurns {
    /// Waits for the turn at a document, in the order of the calls.
    pub async fn wait(&self, dataset: &str, document: &str) -> DocumentTurn {
        let key = (dataset.to_owned(), document.to_owned());
        let mutex = lock(&self.0).entry(key.clone()).or_default().clone();
        let queued = QueuedTurn { turns: self.clone(), key, mutex };
        let guard = queued.mutex.clone().lock_owned().await;
        DocumentTurn { _guard: guard, _queued: queued }
    }
}

impl Drop for QueuedTurn {
    fn drop(&mut self) {
        let mut turns = lock(&self.turns.0);
        // One reference is that of the table, and one is this.
        if Arc::strong_count(&self.mutex) <= 2 {
            turns.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_document_has_one_turn_at_a_time_and_leaves_nothing_behind() {
        let turns = DocumentTurns::default();
        let first = turns.wait("d", "a").await;
        drop(turns.wait("d", "b").await);
        let mut second = Box::pin(turns.wait("d", "a"));
        let mut third = Box::pin(turns.wait("d", "a"));
        assert!(
            futures_util::poll!(&mut second).is_pending() && futures_util::poll!(&mut third).is_pending()
        );
        drop(first);
        assert!(futures_util::poll!(&mut third).is_pending(), "the second is before it");
        drop(second);
        let third = third.await;
        assert_eq!(lock(&turns.0).len(), 1);
        drop(third);
        assert_eq!(lock(&turns.0).len(), 0);
    }
}
