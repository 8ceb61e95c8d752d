//! A chunk and its states in the pipeline: [`Chunk`] -> [`TaggedChunk`] -> [`EmbeddedChunk`].
//!
//! Each stage takes one state and returns the next, so no chunk can skip a stage and no field is empty until later.
//! [`Chunk::new`] is the only constructor and checks the content. Pure: no I/O, no runtime.

mod blank;
mod cpesh;
mod differences;
mod draft;
mod export_row;
mod extraction;
mod identity;
mod metadata;
mod provenance;
mod sent;
mod states;
mod tagging;
mod vector;

pub use blank::is_blank;
pub use cpesh::{Cpesh, MAX_CPESH_BYTES, MAX_NEGATIVES, check_negative_count};
pub use differences::{Differences, StoredFields, StoredLabels};
pub use draft::{
    BatchId, Draft, MAX_LINKS, MAX_NAME_BYTES, MAX_TEXT_BYTES, OnConflict, Placement, check_count,
    check_name, check_not_blank,
};
pub use export_row::{ExportRow, LineOptions};
pub use extraction::{Extraction, ExtractionCall, RestoredExtraction};
pub use identity::IDENTITY_VERSION;
pub use metadata::{MAX_METADATA_BYTES, Metadata, scalar_text};
pub use provenance::Provenance;
pub use sent::{ChunkLine, VectorField};
pub use states::{ConceptVector, EmbeddedChunk, TaggedChunk};
pub use tagging::{FoundCodes, LabelChoice, Tagging, TmdSource, UnknownChoice};
pub use vector::{Embedding, EncodingFormat, VectorSource, base64_of, floats_of_base64};

use crate::error_code::ErrorCode;
use crate::rejection::Rejection;
use crate::tmd::Tmd;
use chrono::{DateTime, Utc};
use identity::{content_hash, derived_id, details_hash, public_name};
use std::sync::Arc;
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
    /// What a language model extracted before, if the chunk is sent again with it. It is in no hash.
    pub restored: Option<Extraction>,
    /// See [`Draft::skip_cpesh`].
    pub skip_cpesh: bool,
    /// Its codes where no source is to be asked for them: those of the client, with the source that the client names,
    /// else the client itself; or that it is to have none.
    pub given_tagging: Option<Tagging>,
    /// See [`Draft::vector`].
    pub vector: VectorSource,
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
    /// invalid id, a source of codes without the three codes, or codes where the client says that there are none.
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
        let sent = match (client_tmd, draft.provenance.take()) {
            (Some(tmd), Some(provenance)) => Some(provenance.tagging(tmd)?),
            (Some(tmd), None) => Some(Tagging::by_client(tmd)),
            (None, Some(provenance)) => Some(provenance.without_codes(draft.codes)?),
            (None, None) => None,
        };
        let given_tagging = match draft.labels {
            LabelChoice::All => sent,
            LabelChoice::Client => Some(sent.unwrap_or_else(Tagging::not_asked)),
            LabelChoice::None => Some(Tagging::not_asked()),
        };
        if given_tagging.as_ref().is_some_and(|given| given.tmd.is_none()) {
            // What is sent again has to say the same.
            draft.codes = [None; 3];
        }
        Ok(Chunk::identified(draft, given_tagging))
    }

    /// The chunk of a stored row, or of a stored dead letter: it was checked when it came.
    pub fn of_stored(draft: Draft) -> Chunk {
        Chunk::identified(draft, None)
    }

    fn identified(draft: Draft, given_tagging: Option<Tagging>) -> Chunk {
        let content_hash = content_hash(&draft.text, &draft.placement);
        let parts = draft.cpesh.given(&draft.text);
        let (cpesh, restored) = match draft.restored {
            Some(origin) => (None, origin.of_parts(parts)),
            None => (parts, None),
        };
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
            restored,
            skip_cpesh: draft.skip_cpesh,
            given_tagging,
            vector: draft.vector,
            codes: draft.codes,
            on_conflict: draft.on_conflict,
            received_at: draft.received_at,
        }
    }

    /// The client's codes, when all three are present and kept.
    pub fn client_tmd(&self) -> Option<Tmd> {
        self.given_tagging.as_ref().and_then(|tagging| tagging.tmd)
    }

    fn metadata_hash(&self) -> Option<[u8; 32]> {
        self.metadata.as_ref().and_then(Metadata::hash)
    }

    /// Bytes that the chunk counts while it is in flight: its text, CPESH parts, metadata, vector, names and links, and
    /// 1024 for the rest.
    pub fn weight(&self) -> usize {
        let placement = &self.placement;
        let names = [&placement.document_id, &placement.source_document, &placement.article_title];
        let names: usize = names.into_iter().flatten().map(String::len).sum();
        let links = placement.parent_cpe_ids.iter().chain(&placement.child_cpe_ids);
        let links: usize = links.map(|link| link.len() + size_of::<String>()).sum();
        let metadata = self.metadata.as_ref().map_or(0, |metadata| metadata.as_str().len());
        let restored = self.restored.as_ref().and_then(|restored| restored.parts(self));
        let cpesh = self.cpesh.as_ref().or(restored).map_or(0, Cpesh::weight);
        self.text.len() + cpesh + metadata + self.vector.bytes() + names + links + self.key.id.len() + 1024
    }
}

/// The text of the chunk.
impl AsRef<str> for Chunk {
    fn as_ref(&self) -> &str {
        &self.text
    }
}
