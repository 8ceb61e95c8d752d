//! The rows that a backfill changes, and the indexes that hear of it.

use crate::index::{ChangedRow, ExpectedChanges, Indexes, StoreCommit};
use crate::metrics;
use crate::store::{BackfilledRows, ChangedChunk, Store, StoreError};
use std::sync::Arc;
use tokio::sync::Mutex;

/// The store with its indexes. Clones share one turn.
#[derive(Clone)]
pub struct StoredRows {
    pub store: Store,
    indexes: Indexes,
    /// One backfill of a kind at a time: two would ask about the same rows.
    pub turn: Arc<Mutex<()>>,
}

impl StoredRows {
    pub fn new(store: Store, indexes: Indexes) -> StoredRows {
        StoredRows { store, indexes, turn: Arc::default() }
    }

    /// One transaction of up to `rows` changes, and the indexes after it; gives the items that it changed. A task of its
    /// own, so that they hear of what is committed also when the caller goes away.
    pub async fn commit<F>(
        &self,
        rows: usize,
        change: impl FnOnce(Store) -> F + Send + 'static,
    ) -> Result<Vec<u32>, StoreError>
    where
        F: Future<Output = Result<BackfilledRows, StoreError>> + Send,
    {
        let StoredRows { store, indexes, .. } = self.clone();
        let work = tokio::spawn(async move {
            let slots = indexes.reserve(ExpectedChanges { concepts: rows, questions: rows }).await;
            let committed = change(store).await.inspect_err(|_| {
                // Perhaps it is committed.
                indexes.poll_source();
            })?;
            let BackfilledRows { history, after, upto, concepts, questions } = committed;
            let items = concepts.iter().map(|row| row.item).collect();
            if upto > after {
                metrics::store_seq(upto);
                let (concepts, questions) = (changed_rows(concepts), changed_rows(questions));
                let history = history.into();
                let commit =
                    StoreCommit { history, after, upto, concepts, questions, ..StoreCommit::default() };
                // If their history is another one, they compare all rows, these too.
                drop(indexes.apply_committed(slots, commit));
            }
            Ok(items)
        });
        work.await.unwrap_or(Err(StoreError::Closed))
    }
}

fn changed_rows(rows: Vec<ChangedChunk>) -> Vec<ChangedRow> {
    let row =
        |ChangedChunk { seq, item, vector, fields }| ChangedRow { seq, item, vector: vector.into(), fields };
    rows.into_iter().map(row).collect()
}
