//! What follows for a chunk whose key is stored: an answer, or a way through the stages.

use crate::chunk::{Chunk, ChunkKey, Differences, OnConflict};
use crate::outcome::{Outcome, StoredRow};
use crate::store::{KnownChunk, Store, StoreError};
use std::collections::HashMap;
use std::sync::Arc;

/// What follows for a chunk whose key is stored.
#[derive(Debug)]
pub enum KnownVerdict {
    /// It is answered: a duplicate, or a conflict.
    Answer(Outcome),
    /// It replaces the row, of which the same text was embedded, so that its vector can stay.
    Rewrite(KnownChunk),
    /// It passes all stages: it replaces a row with another text or concept, or the row is gone meanwhile.
    Process,
}

/// Compares chunks with the rows that have their keys. Asks the store only for rows that differ, and whose fields have to
/// be named.
///
/// # Errors
/// As any query: transient while the server is away.
pub async fn compare(
    store: &Store,
    chunks: &[(&Arc<Chunk>, &KnownChunk)],
) -> Result<Vec<KnownVerdict>, StoreError> {
    let differ = chunks.iter().filter(|(chunk, known)| known.differences(chunk).is_none());
    let keys: Vec<&ChunkKey> = differ.map(|(chunk, _)| &chunk.key).collect();
    let fields = if keys.is_empty() { HashMap::new() } else { store.stored_fields(&keys).await? };
    let verdict = |(chunk, known): &(&Arc<Chunk>, &KnownChunk)| {
        let differs = known.differences(chunk);
        let differs = differs.or_else(|| fields.get(&chunk.key).map(|fields| Differences::of(chunk, fields)));
        match differs {
            None => KnownVerdict::Process,
            Some(differs) if chunk.on_conflict == OnConflict::Replace && differs.in_row() => {
                if differs.in_embedded_text() {
                    KnownVerdict::Process
                } else {
                    KnownVerdict::Rewrite((*known).clone())
                }
            }
            Some(differs) => {
                KnownVerdict::Answer(Outcome::known((*chunk).clone(), (*known).clone().into(), differs))
            }
        }
    };
    Ok(chunks.iter().map(verdict).collect())
}

impl From<KnownChunk> for StoredRow {
    fn from(known: KnownChunk) -> Self {
        StoredRow {
            cpe_id: known.cpe_id,
            tagging: known.tagging,
            seq: known.seq,
            created_at: known.created_at,
            truncated: known.truncated,
            unread: known.unread,
        }
    }
}
