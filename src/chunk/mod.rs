//! A chunk and its states in the pipeline: [`Chunk`] -> [`TaggedChunk`] -> [`EmbeddedChunk`].
//!
//! Each stage takes one state and returns the next, so no chunk can skip a stage and no field is empty until later.
//! [`Chunk::new`] is the only constructor and checks the content. Pure: no I/O, no runtime.

mod blank;
mod cpesh;
mod differences;
mod draft;
mod identity;
mod metadata;
mod sent;

pub use blank::is_blank;
pub use cpesh::{Cpesh, MAX_CPESH_BYTES, MAX_NEGATIVES, check_negative_count};
pub use differences::{Differences, StoredFields, StoredLabels};
pub use draft::{
    BatchId, Draft, MAX_LINKS, MAX_NAME_BYTES, MAX_TEXT_BYTES, OnConflict, Placement, check_count,
    check_name, check_not_blank,
};
pub use identity::IDENTITY_VERSION;
pub use metadata::{MAX_METADATA_BYTES, Metadata};

use crate::error_code::ErrorCode;
use crate::rejection::Rejection;
use crate::tmd::{AxisConfidence, Tmd};
use chrono::{DateTime, Utc};
use identity::{content_hash, derived_id, details_hash, public_name};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Identifies a chunk when it is sent again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkKey {
    /// The dataset. Ids are unique within a dataset.
    pub dataset: Arc<str>,
    /// The client's id, or the derived id as a UUID.
    pub id: Arc<str>,
}

/// A checked chunk: its text is not blank, has at most [`MAX_TEXT_BYTES`] bytes, and contains no NUL.
#[derive(Debug, PartialEq)]
pub struct Chunk {
    /// Decides whether the chunk is new.
    pub key: ChunkKey,
    /// Its public name if it is new: `cpe_id` in rows, `global_id` in answers.
    pub cpe_id: Uuid,
    /// blake3 hash of the text and of everything that says where it comes from.
    pub content_hash: [u8; 32],
    /// blake3 hash of metadata, links and CPESH parts, which can differ without a conflict.
    pub details_hash: [u8; 32],
    /// See [`Draft::batch`].
    pub batch: Option<BatchId>,
    /// The text to classify, embed and store.
    pub text: String,
    /// Its position in its source.
    pub placement: Placement,
    /// See [`Draft::metadata`].
    pub metadata: Option<Metadata>,
    /// See [`Draft::cpesh`]; `None` when the client extracted nothing.
    pub cpesh: Option<Cpesh>,
    /// The client's codes, when all three are present.
    pub client_tmd: Option<Tmd>,
    /// The client's codes as sent. One or two of them are part of the content but not used.
    codes: [Option<i64>; 3],
    /// See [`Draft::on_conflict`].
    pub on_conflict: OnConflict,
    /// See [`Draft::received_at`].
    pub received_at: DateTime<Utc>,
}

impl Chunk {
    /// Checks a draft and computes its identity.
    ///
    /// # Errors
    /// A permanent [`Rejection`] with the field to correct: blank or too long text, NUL, a code out of range, an
    /// invalid id.
    pub fn new(mut draft: Draft) -> Result<Chunk, Rejection> {
        draft.cpesh = draft.cpesh.given(&draft.text).unwrap_or_default();
        draft.check()?;
        let client_tmd = match draft.codes {
            [Some(domain), Some(task), Some(modifier)] => Some(Tmd::new(domain, task, modifier)),
            _ => None,
        }
        .transpose()
        .map_err(|error| {
            Rejection::new(ErrorCode::CodeOutOfRange, error.to_string()).param(error.axis.field())
        })?;
        Ok(Chunk::identified(draft, client_tmd))
    }

    /// The chunk of a stored row, or of a stored dead letter: it was checked when it came.
    pub fn of_stored(draft: Draft) -> Chunk {
        Chunk::identified(draft, None)
    }

    fn identified(draft: Draft, client_tmd: Option<Tmd>) -> Chunk {
        let content_hash = content_hash(&draft.text, &draft.placement);
        let cpesh = draft.cpesh.given(&draft.text);
        let metadata_hash = draft.metadata.as_ref().and_then(Metadata::hash);
        let details_hash = details_hash(metadata_hash, &draft.placement, cpesh.as_ref());
        // A derived id is also the public name. A client's id is hashed with its dataset, because the public name must
        // be a UUID that is unique over all datasets.
        let (id, cpe_id) = match &draft.id {
            Some(id) => (id.as_str().into(), public_name(&draft.dataset, id)),
            None => {
                let id = derived_id(&draft.dataset, &draft.text, &draft.placement);
                (id.to_string().into(), id)
            }
        };
        let key = ChunkKey { id, dataset: draft.dataset };
        Chunk {
            cpe_id,
            key,
            content_hash,
            details_hash,
            batch: draft.batch,
            text: draft.text,
            placement: draft.placement,
            metadata: draft.metadata,
            cpesh,
            client_tmd,
            codes: draft.codes,
            on_conflict: draft.on_conflict,
            received_at: draft.received_at,
        }
    }

    fn metadata_hash(&self) -> Option<[u8; 32]> {
        self.metadata.as_ref().and_then(Metadata::hash)
    }

    /// The text that is embedded: the concept where there is one.
    pub fn embedded_text(&self) -> &str {
        self.cpesh.as_ref().and_then(|cpesh| cpesh.concept_text.as_deref()).unwrap_or(&self.text)
    }

    /// Bytes that the chunk counts while it is in flight: its text, CPESH parts, metadata, names and links, and 1024 for
    /// the rest.
    pub fn weight(&self) -> usize {
        let placement = &self.placement;
        let names = [&placement.document_id, &placement.source_document, &placement.article_title];
        let names: usize = names.into_iter().flatten().map(String::len).sum();
        let links = placement.parent_cpe_ids.iter().chain(&placement.child_cpe_ids);
        let links: usize = links.map(|link| link.len() + size_of::<String>()).sum();
        let metadata = self.metadata.as_ref().map_or(0, |metadata| metadata.as_str().len());
        let cpesh = self.cpesh.as_ref().map_or(0, Cpesh::weight);
        self.text.len() + cpesh + metadata + names + links + self.key.id.len() + 1024
    }
}

/// The source of a code triple.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TmdSource {
    /// The client sent the three codes.
    Client,
    /// The local classifier.
    Local {
        /// Version of the classifier's artefact.
        version: Arc<str>,
    },
    /// The language model.
    Llm {
        /// The model's name on its server.
        model: Arc<str>,
    },
    /// The local classifier, because the language model gave no answer.
    Fallback {
        /// Version of the classifier's artefact.
        version: Arc<str>,
        /// Why the language model gave no answer: one of a closed set of names.
        reason: Arc<str>,
    },
}

impl TmdSource {
    /// The name in rows, answers and metric labels: `client`, `local`, `llm` or `fallback`.
    pub fn kind(&self) -> &'static str {
        match self {
            TmdSource::Client => "client",
            TmdSource::Local { .. } => "local",
            TmdSource::Llm { .. } => "llm",
            TmdSource::Fallback { .. } => "fallback",
        }
    }

    /// The model or artefact version; `None` for codes of the client.
    pub fn model(&self) -> Option<&str> {
        match self {
            TmdSource::Client => None,
            TmdSource::Local { version: name }
            | TmdSource::Llm { model: name }
            | TmdSource::Fallback { version: name, .. } => Some(name),
        }
    }

    /// Why the language model gave no answer; `None` unless this is a fallback.
    pub fn failure(&self) -> Option<&str> {
        match self {
            TmdSource::Fallback { reason, .. } => Some(reason),
            TmdSource::Client | TmdSource::Local { .. } | TmdSource::Llm { .. } => None,
        }
    }

    /// The inverse of [`Self::kind`], [`Self::model`] and [`Self::failure`]. `None` for a kind that this version does
    /// not know.
    pub fn from_parts(kind: &str, model: Option<&str>, failure: Option<&str>) -> Option<TmdSource> {
        let name = || Arc::from(model.unwrap_or_default());
        match kind {
            "client" => Some(TmdSource::Client),
            "local" => Some(TmdSource::Local { version: name() }),
            "llm" => Some(TmdSource::Llm { model: name() }),
            "fallback" => {
                let reason = failure.unwrap_or_default().into();
                Some(TmdSource::Fallback { version: name(), reason })
            }
            _ => None,
        }
    }
}

/// A code triple with its source.
#[derive(Debug, Clone, PartialEq)]
pub struct Tagging {
    /// The three codes.
    pub tmd: Tmd,
    /// Where the codes came from.
    pub source: TmdSource,
    /// The confidence of the source; absent for codes of the client.
    pub confidence: Option<AxisConfidence>,
    /// How long the source took; absent for codes of the client.
    pub took: Option<Duration>,
}

/// A chunk with its codes.
#[derive(Debug)]
pub struct TaggedChunk {
    /// The chunk as sent.
    pub chunk: Arc<Chunk>,
    /// Its codes and their source.
    pub tagging: Tagging,
}

/// A vector and how it was made.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// The vector: unit length, all values finite.
    pub vector: Arc<[f32]>,
    /// The text was longer than the model reads, so the vector is that of its beginning.
    pub truncated: bool,
    /// The share of characters that the model does not know, if it is above one half, so that the vector says little
    /// about the text. `None` also for an embedding server, which does not tell.
    pub unread: Option<f32>,
    /// Duration of the forward pass, which other texts shared.
    pub took: Duration,
}

/// A chunk with its codes and its vector, ready to be written.
#[derive(Debug, Clone)]
pub struct EmbeddedChunk {
    /// The chunk as sent.
    pub chunk: Arc<Chunk>,
    /// Its codes and their source.
    pub tagging: Tagging,
    /// Its vector and how it was made.
    pub embedding: Embedding,
}
