//! Opens the indexes of a store. They follow it; neither room knows the other.

use super::index_folders::{claim, index_folder};
use super::start_error::StartError;
use crate::index::{
    BlockDigest, ChangeSource, ChangedRow, Changes, DIGEST_ITEMS, DigestPage, Index, IndexIdentity,
    IndexOptions, Indexes, SourceError, StoreClock, VectorKind,
};
use crate::model::ModelIdentity;
use crate::store::{
    ChangedChunk, ChunkChanges, ClockReading, ModelId, RowDigests, Store, StoredModel, VectorsOf,
};
use std::path::Path;
use std::sync::Arc;

/// Builds the indexes of a model that may not be in use, or brings them up to date with its vectors; gives the number of
/// rows in both. Blocks until they are on the disk. A service that uses the model has them open itself.
///
/// # Errors
/// As when they are opened; or what the comparison with the rows failed at.
pub async fn build_indexes(
    data_dir: &Path,
    store: &Store,
    model: &StoredModel,
    map_size: usize,
) -> Result<u64, StartError> {
    let of = (&model.identity, model.id, model.in_use);
    let indexes = open_indexes(data_dir, store, of, (map_size, |_| {}))?;
    let mut rows = 0;
    for index in [&indexes.concepts, &indexes.questions] {
        // Vectors that were added to old rows are no changes, so they are found by a comparison.
        rows += index.verify(true).await?.rows;
    }
    indexes.close(true).await?;
    Ok(rows)
}

/// Opens both, and brings them up to date. The model's vectors are those that are searched when it is in use.
pub(super) fn open_indexes(
    data_dir: &Path,
    store: &Store,
    (model, model_id, in_use): (&ModelIdentity, ModelId, bool),
    (map_size, change): (usize, fn(&mut IndexOptions)),
) -> Result<Indexes, StartError> {
    let open = |base, kind| {
        let identity = IndexIdentity {
            store_id: store.store_id(),
            fingerprint: model.fingerprint.clone(),
            dims: model.dims,
            kind,
        };
        let failed = |error| StartError::IndexFolder { folder: data_dir.join(base), error };
        let folder = index_folder(data_dir, base, &model.fingerprint, in_use).map_err(failed)?;
        let mut options = IndexOptions::new(&folder, identity);
        options.map_size = map_size;
        change(&mut options);
        let index =
            Index::open(options, Arc::new(Following { store: store.clone(), model: model_id, kind }))?;
        claim(&folder, &model.fingerprint).map_err(failed)?;
        Ok::<_, StartError>(index)
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

/// The clock of the store, as an index takes it.
pub(super) fn store_clock(ClockReading { seq, history, .. }: ClockReading) -> StoreClock {
    StoreClock { seq, history: history.into() }
}

/// The first item of a block.
fn first_item(block: u32) -> u32 {
    block.saturating_mul(DIGEST_ITEMS)
}

/// Rows of the store, as an index of this kind takes them. Keywords are searched in texts, in the index of concepts.
pub(super) fn changed_rows(kind: VectorKind, rows: &mut Vec<ChangedChunk>) -> Vec<ChangedRow> {
    let rows = std::mem::take(rows).into_iter();
    let row =
        |ChangedChunk { seq, item, vector, fields }| ChangedRow { seq, item, vector: vector.into(), fields };
    let rows = rows.map(row);
    match kind {
        VectorKind::Concept => rows.collect(),
        VectorKind::Question => rows.map(ChangedRow::without_words).collect(),
    }
}

/// The source of one index.
struct Following {
    store: Store,
    model: ModelId,
    kind: VectorKind,
}

impl Following {
    fn vectors(&self) -> VectorsOf {
        VectorsOf { model: self.model, kind: self.kind.name() }
    }

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
            found.rows.extend(changed_rows(self.kind, &mut page.rows));
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
        Ok(changed_rows(self.kind, &mut page.rows).into_iter().find(|row| row.seq == seq))
    }

    fn clock(&self) -> Result<StoreClock, SourceError> {
        self.store.block_on(self.store.clock_reading()).map(store_clock).map_err(SourceError::new)
    }

    fn digests(&self, from: u32, count: u32) -> Result<DigestPage, SourceError> {
        let items = first_item(from)..first_item(from.saturating_add(count));
        let digests = self.store.row_digests(self.vectors(), items, DIGEST_ITEMS);
        let RowDigests { blocks, next_item } = self.store.block_on(digests).map_err(SourceError::new)?;
        let digest = |(block, sha256)| BlockDigest { block, sha256 };
        Ok(DigestPage {
            digests: blocks.into_iter().map(digest).collect(),
            next: next_item.map(|item| item / DIGEST_ITEMS),
        })
    }

    fn rows_of(&self, block: u32) -> Result<Vec<ChangedRow>, SourceError> {
        let items = first_item(block)..first_item(block.saturating_add(1));
        let rows = self.store.rows_of_items(self.vectors(), items);
        Ok(changed_rows(self.kind, &mut self.store.block_on(rows).map_err(SourceError::new)?))
    }
}
