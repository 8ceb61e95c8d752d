//! Opens the indexes of a store. They follow it; neither room knows the other.

use super::start_error::StartError;
use crate::index::{
    ChangeSource, ChangedRow, Changes, Index, IndexIdentity, IndexOptions, Indexes, SourceError, VectorKind,
};
use crate::model::ModelIdentity;
use crate::store::{ChunkChanges, ModelId, Store};
use std::path::Path;
use std::sync::Arc;

/// Opens both, and brings them up to date.
pub(super) fn open_indexes(
    data_dir: &Path,
    store: &Store,
    model: &ModelIdentity,
    model_id: ModelId,
    change: fn(&mut IndexOptions),
) -> Result<Indexes, StartError> {
    let open = |folder, kind| {
        let identity = IndexIdentity {
            store_id: store.store_id(),
            fingerprint: model.fingerprint.clone(),
            dims: model.dims,
            kind,
        };
        let mut options = IndexOptions::new(data_dir.join(folder), identity);
        change(&mut options);
        Index::open(options, Arc::new(Following { store: store.clone(), model: model_id, kind }))
    };
    Ok(Indexes {
        concepts: open("index", VectorKind::Concept)?,
        questions: open("index-questions", VectorKind::Question)?,
    })
}

/// Changes with vectors of one kind.
pub(super) async fn changes_of(
    store: &Store,
    kind: VectorKind,
    after: i64,
    limit: i64,
    model: ModelId,
) -> Result<ChunkChanges, crate::store::StoreError> {
    match kind {
        VectorKind::Concept => store.changes_after(after, limit, model).await,
        VectorKind::Question => store.question_changes_after(after, limit, model).await,
    }
}

/// The rows of a page, as an index takes them.
pub(super) fn changed_rows(changes: &mut ChunkChanges) -> Vec<ChangedRow> {
    let rows = std::mem::take(&mut changes.rows).into_iter();
    rows.map(|row| ChangedRow { seq: row.seq, item: row.item, vector: row.vector.into() }).collect()
}

/// The source of one index.
struct Following {
    store: Store,
    model: ModelId,
    kind: VectorKind,
}

impl Following {
    fn page(&self, after: i64, limit: i64) -> Result<ChunkChanges, SourceError> {
        let changes = changes_of(&self.store, self.kind, after, limit, self.model);
        self.store.block_on(changes).map_err(SourceError::new)
    }
}

impl ChangeSource for Following {
    /// A page of the store may be empty and not the last one: chunks without a vector of the kind count towards its
    /// limit. So pages are read until there is a full one, or no more. What changed between two of them is in a later
    /// one.
    fn changes_after(&self, seq: i64, limit: usize) -> Result<Changes, SourceError> {
        let page_limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let (mut found, mut after) = (Changes::default(), seq);
        loop {
            let mut page = self.page(after, page_limit)?;
            found.rows.extend(changed_rows(&mut page));
            found.tombstones.append(&mut page.tombstones);
            found.clock = page.clock;
            after = page.through;
            if page.through >= page.clock || found.rows.len() + found.tombstones.len() >= limit {
                return Ok(found);
            }
        }
    }

    fn row_at(&self, seq: i64) -> Result<Option<ChangedRow>, SourceError> {
        let mut page = self.page(seq - 1, 1)?;
        Ok(changed_rows(&mut page).into_iter().find(|row| row.seq == seq))
    }
}
