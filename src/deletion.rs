//! Deletion: rows out of the store in transactions of bounded size, each of them out of the indexes before the next begins.

use crate::index::{ExpectedChanges, Indexes, StoreCommit};
use crate::metrics;
use crate::store::{DeletedItems, SelectedItems, Selection, Store, StoreError};
use std::collections::HashSet;
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
        let selected = self.store.selected_items(selection, MAX_ROWS).await?;
        if confirmed != Some(selected.count) {
            let letters = self.store.selected_letters(selection).await?.len() as u64;
            return Err(DeletionError::Unconfirmed(SelectionSize { chunks: selected.count, letters }));
        }
        Ok(self.delete_selected(selected, selection, within, stop).await?)
    }

    /// As [`Self::delete`], without a number that confirms it.
    ///
    /// # Errors
    /// An error of the store. What was committed before is deleted.
    pub async fn delete_all(
        &self,
        selection: &Selection,
        within: Duration,
        stop: impl Fn() -> bool,
    ) -> Result<Deletion, StoreError> {
        let selected = self.store.selected_items(selection, MAX_ROWS).await?;
        self.delete_selected(selected, selection, within, stop).await
    }

    /// Deletes one chunk, if it is there, and then the dead letters of a selection.
    ///
    /// # Errors
    /// An error of the store.
    pub async fn delete_chunk(&self, item: Option<u32>, letters: &Selection) -> Result<Deletion, StoreError> {
        self.delete_at_once(item.into_iter().collect(), letters).await
    }

    /// Deletes the chunks of a document whose ids are not `kept`, in one transaction, and then the dead letters of the
    /// document. Other writers wait meanwhile.
    ///
    /// # Errors
    /// An error of the store.
    pub async fn delete_others(
        &self,
        (dataset, document): (&str, &str),
        kept: &HashSet<&str>,
    ) -> Result<Deletion, StoreError> {
        let stored = self.store.ids_of_document(dataset, document).await?;
        let others = stored.into_iter().filter(|(_, id)| !kept.contains(&**id)).map(|(item, _)| item);
        let (dataset, document) = (Some(dataset.to_owned()), Some(document.to_owned()));
        self.delete_at_once(others.collect(), &Selection { dataset, document, ..Selection::default() }).await
    }

    /// Deletes those of these items that are of the document of a selection, in one transaction, and its letters.
    async fn delete_at_once(&self, items: Vec<u32>, selection: &Selection) -> Result<Deletion, StoreError> {
        let deleted = if items.is_empty() { 0 } else { self.delete_batch(items, selection.clone()).await? };
        let letters = self.delete_letters(selection).await?;
        Ok(Deletion { deleted, letters, remaining: 0, index_seq: self.indexes.applied_seq() })
    }

    async fn delete_letters(&self, selection: &Selection) -> Result<u64, StoreError> {
        let letters = self.store.selected_letters(selection).await?;
        if letters.is_empty() { Ok(0) } else { self.store.delete_letters(&letters).await }
    }

    async fn delete_selected(
        &self,
        selected: SelectedItems,
        selection: &Selection,
        within: Duration,
        stop: impl Fn() -> bool,
    ) -> Result<Deletion, StoreError> {
        let until = Instant::now() + within;
        let (mut deleted, mut remaining) = (0, selected.count);
        for batch in selected.items.chunks(BATCH) {
            if deleted > 0 && (stop() || Instant::now() >= until) {
                break;
            }
            deleted += self.delete_batch(batch.to_vec(), selection.clone()).await?;
            // What another caller has deleted meanwhile, or has changed so that it does not fit, does not remain.
            remaining -= batch.len() as u64;
        }
        let letters = if remaining == 0 { self.delete_letters(selection).await? } else { 0 };
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
            let DeletedItems { history, after, upto, tombstones } = deleted;
            let count = tombstones.len() as u64;
            if count > 0 {
                metrics::chunks_deleted(count);
                metrics::store_seq(upto);
                let history = history.into();
                let commit = StoreCommit { history, after, upto, tombstones, ..StoreCommit::default() };
                // If their history is another one, they compare all rows, and these are gone.
                drop(indexes.apply_committed(slots, commit));
            }
            Ok(count)
        });
        work.await.unwrap_or(Err(StoreError::Closed))
    }
}
