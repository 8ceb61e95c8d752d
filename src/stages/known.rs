//! What follows for a chunk whose key is stored: an answer, or a way through the stages.

use crate::chunk::{Chunk, ChunkKey, Differences, Extraction, OnConflict};
use crate::outcome::{Outcome, StoredRow};
use crate::store::{KnownChunk, Store, StoreError};
use std::collections::HashMap;
use std::sync::Arc;

/// What follows for a chunk whose key is stored.
#[derive(Debug)]
pub enum KnownVerdict {
    /// It is answered: a duplicate, or a conflict.
    Answer(Outcome),
    /// It replaces the row, of which the same text was embedded, so that its concept vector can stay.
    Rewrite {
        /// The row that is stored.
        known: Box<KnownChunk>,
        /// What the new row has of CPESH parts: those of the chunk, else what a model extracted from the same text.
        extraction: Extraction,
        /// The question is that of the row too, so that its vector can stay.
        same_question: bool,
    },
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
                rewrite(chunk, known, &differs).unwrap_or(KnownVerdict::Process)
            }
            Some(differs) => {
                let row = stored_row((*known).clone(), chunk);
                KnownVerdict::Answer(Outcome::known((*chunk).clone(), row, differs))
            }
        }
    };
    Ok(chunks.iter().map(verdict).collect())
}

/// How the chunk replaces a row that was made of the same text; `None` when another text is embedded.
fn rewrite(chunk: &Chunk, known: &KnownChunk, differs: &Differences) -> Option<KnownVerdict> {
    let extracted = matches!(&known.extracted, Some(Extraction::ByLlm { .. }));
    // With parts of the client, a concept that a model extracted is no longer what is embedded; and with parts of a model
    // that the row has not, it was not yet.
    let other_concept = (chunk.cpesh.is_some() && extracted) || (chunk.restored.is_some() && !extracted);
    if differs.in_embedded_text() || other_concept {
        return None;
    }
    let of_row = known.extracted.clone().filter(|_| chunk.cpesh.is_none());
    let extraction = of_row.unwrap_or_else(|| Extraction::without_llm(chunk));
    let same_question = !differs.fields().contains(&"probe_question") || extracted;
    Some(KnownVerdict::Rewrite { known: Box::new((*known).clone()), extraction, same_question })
}

/// The row as answers to this chunk tell of it.
fn stored_row(known: KnownChunk, chunk: &Chunk) -> StoredRow {
    StoredRow {
        cpe_id: known.cpe_id,
        tagging: known.tagging,
        extraction: known.extracted.unwrap_or_else(|| Extraction::without_llm(chunk)),
        seq: known.seq,
        created_at: known.created_at,
        truncated: known.truncated,
        unread: known.unread,
    }
}
