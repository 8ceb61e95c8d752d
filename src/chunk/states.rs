//! The states of a chunk on its way through the stages, after it was checked.

use super::{Chunk, Embedding, Extraction, Tagging, VectorSource};
use std::sync::Arc;

/// The concept vector of a chunk before the embedder.
#[derive(Debug, Clone)]
pub enum ConceptVector {
    /// The concept, or the text where there is none, is to be embedded.
    ToEmbed,
    /// The vector is known.
    Known(Embedding),
}

/// A chunk with its codes and what is known of its CPESH parts.
#[derive(Debug, Clone)]
pub struct TaggedChunk {
    /// The chunk as sent.
    pub chunk: Arc<Chunk>,
    /// Its codes and their source.
    pub tagging: Tagging,
    /// Its CPESH parts and their source.
    pub extraction: Extraction,
    /// Its concept vector, where nothing has to be embedded for it.
    pub concept: ConceptVector,
}

impl TaggedChunk {
    /// A chunk whose concept vector is the one that was sent with it, if one was.
    pub fn new(chunk: Arc<Chunk>, tagging: Tagging, extraction: Extraction) -> TaggedChunk {
        let concept = match (&chunk.vector, &extraction) {
            // What was sent is the vector of the text, not of a concept that was extracted since.
            (VectorSource::Given { .. }, Extraction::ByLlm { .. }) if chunk.restored.is_none() => {
                ConceptVector::ToEmbed
            }
            (VectorSource::Given { embedding, .. }, _) => ConceptVector::Known(embedding.clone()),
            (VectorSource::Text | VectorSource::OtherModel, _) => ConceptVector::ToEmbed,
        };
        TaggedChunk { chunk, tagging, extraction, concept }
    }
}

/// A chunk with its codes and its vectors, ready to be written.
#[derive(Debug, Clone)]
pub struct EmbeddedChunk {
    /// The chunk as sent.
    pub chunk: Arc<Chunk>,
    /// Its codes and their source.
    pub tagging: Tagging,
    /// Its CPESH parts and their source.
    pub extraction: Extraction,
    /// Its vector and how it was made: of the concept, or of the text where there is none.
    pub embedding: Embedding,
    /// The vector of the question among its CPESH parts. There exactly when it has one.
    pub question: Option<Arc<[f32]>>,
}
