//! Deletion: rows out of the store in transactions of bounded size, each of them out of the indexes before the next begins.

use crate::index::{ExpectedChanges, Indexes, StoreCommit};
use crate::metrics;
use crate::store::{DeletedItems, Selection, Store, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Rows of one transaction. Writers wait for it: a thousand take some tens of milliseconds.
const BATCH: usize = 1000;
/// The most rows that one call deletes.
pub const MAX_ROWS: u32 = 100_000;

/// What a selection means at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SelectionSize {
    /// Chunks that are stored.
    pub chunks: u64,
    /// Dead letters: chunks that could not be stored.
    pub letters: u64,
}

/// The result of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deletion {
    /// Chunks that were deleted, with their vectors.
    pub deleted: u64,
    /// Dead letters that were deleted.
    pub letters: u64,
    /// Chunks that are left for the next call.
    pub remaining: u64,
    /// Searches reflect every change up to this clock value.
    pub index_seq: i64,
}

/// Why nothing, or not everything, was deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeletionError {
    /// The selection has another size than the caller says, or the caller says none.
    #[error("{} chunks and {} dead letters are selected", .0.chunks, .0.letters)]
    Unconfirmed(SelectionSize),
    /// The database failed. What was committed before is deleted.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Deletes chunks. Clones share one turn.
#[derive(Clone)]
pub struct Deleter {
    store: Store,
    indexes: Indexes,
    /// One transaction at a time: each holds a connection while it waits for the lock of the clock, and searches need the
    /// others.
    turn: Arc<Mutex<()>>,
}

impl Deleter {
    /// Deletes from this store and its indexes.
    pub fn new(store: Store, indexes: Indexes) -> Self {
        Deleter { store, indexes, turn: Arc::default() }
    }

    /// Deletes the chunks of a selection, and then its dead letters, if there are `confirmed` chunks. Exactly these
    /// chunks are deleted: none that is stored after they were counted. Ends early after [`MAX_ROWS`], after about
    /// `within`, or when `stop` says so; the caller calls again with the number that remains.
    ///
    /// A caller that goes away ends the work after the transaction in progress.
    ///
    /// # Errors
    /// [`DeletionError::Unconfirmed`] and nothing is deleted; or an error of the store.
    pub async fn delete(
        &self,
        selection: &Selection,
        confirmed: Option<u64>,
        within: Duration,
        stop: impl Fn() -> bool,
    ) -> Result<Deletion, DeletionError> {
        let until = Instant::now() + within;
        let selected = self.store.selected_items(selection, MAX_ROWS).await?;
        if confirmed != Some(selected.count) {
            let letters = self.store.selected_letters(selection).await?.len() as u64;
            return Err(DeletionError::Unconfirmed(SelectionSize { chunks: selected.count, letters }));
        }
        let (mut deleted, mut remaining) = (0, selected.count);
        for batch in selected.items.chunks(BATCH) {
            if deleted > 0 && (stop() || Instant::now() >= until) {
                break;
            }
            deleted += self.delete_batch(batch.to_vec(), selection.clone()).await?;
            // What another caller has deleted meanwhile, or has changed so that it does not fit, does not remain.
            remaining -= batch.len() as u64;
        }
        let letters = if remaining == 0 {
            let letters = self.store.selected_letters(selection).await?;
            self.store.delete_letters(&letters).await?
        } else {
            0
        };
        Ok(Deletion { deleted, letters, remaining, index_seq: self.indexes.applied_seq() })
    }

    /// One transaction, and the indexes after it. A task of its own, so that they hear of what is committed also
    /// when the caller goes away.
    async fn delete_batch(&self, items: Vec<u32>, selection: Selection) -> Result<u64, StoreError> {
        let Deleter { store, indexes, turn } = self.clone();
        let work = tokio::spawn(async move {
            let _turn = turn.lock().await;
            let expected = ExpectedChanges { concepts: items.len(), questions: items.len() };
            let slots = indexes.reserve(expected).await;
            let deleted = store.delete_items(&items, &selection).await.inspect_err(|_| {
                // Perhaps it is committed.
                indexes.poll_source();
            })?;
            let DeletedItems { after, upto, tombstones } = deleted;
            let count = tombstones.len() as u64;
            if count > 0 {
                metrics::chunks_deleted(count);
                metrics::store_seq(upto);
                indexes.apply_committed(
                    slots,
                    StoreCommit { after, upto, tombstones, ..StoreCommit::default() },
                );
            }
            Ok(count)
        });
        work.await.unwrap_or(Err(StoreError::Closed))
    }
}
