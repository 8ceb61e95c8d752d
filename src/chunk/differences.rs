//! What differs between a chunk and the stored one with its key.

use super::cpesh::Cpesh;
use super::draft::{BatchId, Placement};
use super::{Chunk, identity};
use crate::tmd::{Axis, Tmd};
use std::sync::Arc;

/// The fields of a stored chunk that a repetition is compared with.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredFields {
    /// SHA-256 of the text in UTF-8.
    pub text_sha256: [u8; 32],
    /// See [`Chunk::placement`].
    pub placement: Placement,
    /// The hash of the metadata, see [`super::Metadata::hash`]; `None` without metadata.
    pub metadata_hash: Option<[u8; 32]>,
    /// The CPESH parts that a client gave.
    pub cpesh: Option<Cpesh>,
    /// The id of its batch.
    pub batch_id: Option<Arc<str>>,
    /// The codes of the row, if it has any.
    pub tmd: Option<Tmd>,
}

/// What a stored chunk is labelled with: it is compared by itself, and is in no hash.
#[derive(Debug, Clone, Copy)]
pub struct StoredLabels<'a> {
    /// The id of its batch.
    pub batch_id: Option<&'a str>,
    /// The codes of the row, if it has any.
    pub tmd: Option<Tmd>,
}

/// The fields in which a chunk differs from the stored one with its key, by their names in JSON. A field that the client
/// left to the service (codes, a generated batch id) does not differ; codes that it sends differ
/// from a row without codes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences(Vec<&'static str>);

impl Differences {
    /// Of `sent` to what is stored.
    pub fn of(sent: &Chunk, stored: &StoredFields) -> Differences {
        let (ours, theirs) = (&sent.placement, &stored.placement);
        let mut fields = Vec::new();
        let mut compare = |name, differs: bool| fields.extend(differs.then_some(name));
        compare("text", identity::text_sha256(&sent.text) != stored.text_sha256);
        compare("document_id", ours.document_id != theirs.document_id);
        compare("chunk_index", ours.chunk_index != theirs.chunk_index);
        compare("source_document", ours.source_document != theirs.source_document);
        compare("article_title", ours.article_title != theirs.article_title);
        compare("article_index", ours.article_index != theirs.article_index);
        compare("metadata", sent.metadata_hash() != stored.metadata_hash);
        compare("parent_cpe_ids", ours.parent_cpe_ids != theirs.parent_cpe_ids);
        compare("child_cpe_ids", ours.child_cpe_ids != theirs.child_cpe_ids);
        let (none_sent, none_stored) = (Cpesh::default(), Cpesh::default());
        let (ours, theirs) =
            (sent.cpesh.as_ref().unwrap_or(&none_sent), stored.cpesh.as_ref().unwrap_or(&none_stored));
        for ((name, ours), (_, theirs)) in ours.named_parts().into_iter().zip(theirs.named_parts()) {
            compare(name, ours != theirs);
        }
        for ((name, ours), (_, theirs)) in ours.named_lists().into_iter().zip(theirs.named_lists()) {
            compare(name, ours != theirs);
        }
        let labels = StoredLabels { batch_id: stored.batch_id.as_deref(), tmd: stored.tmd };
        fields.extend(Differences::in_labels(sent, labels).0);
        Differences(fields)
    }

    /// Of `sent` to a row that was made of another chunk and has these codes.
    pub fn between(sent: &Chunk, made_of: &Chunk, tmd: Option<Tmd>) -> Differences {
        let batch_id = made_of.batch.as_ref().map(|batch| batch.as_str().into());
        let stored = StoredFields {
            text_sha256: identity::text_sha256(&made_of.text),
            placement: made_of.placement.clone(),
            metadata_hash: made_of.metadata_hash(),
            cpesh: made_of.cpesh.clone(),
            batch_id,
            tmd,
        };
        Differences::of(sent, &stored)
    }

    /// Of a chunk to a stored one with the same content and details.
    pub fn in_labels(sent: &Chunk, stored: StoredLabels<'_>) -> Differences {
        let mut fields = Vec::new();
        let mut compare = |name, differs: bool| fields.extend(differs.then_some(name));
        if let Some(tmd) = sent.client_tmd() {
            for axis in Axis::ALL {
                compare(axis.field(), stored.tmd.is_none_or(|stored| stored.code(axis) != tmd.code(axis)));
            }
        }
        let other_batch = matches!(&sent.batch, Some(BatchId::Named(id)) if Some(&**id) != stored.batch_id);
        compare("batch_id", other_batch);
        Differences(fields)
    }

    /// The names of the fields.
    pub fn fields(&self) -> &[&'static str] {
        &self.0
    }

    /// Whether the text or the concept differs, so that the stored vector is not that of the chunk.
    pub fn in_embedded_text(&self) -> bool {
        self.0.iter().any(|field| matches!(*field, "text" | "concept_text"))
    }

    /// Whether a field differs that says what the chunk is or where it comes from. Two such chunks cannot have one id.
    pub fn in_content(&self) -> bool {
        self.0.iter().any(|field| {
            matches!(
                *field,
                "text"
                    | "document_id"
                    | "chunk_index"
                    | "source_document"
                    | "article_title"
                    | "article_index"
            )
        })
    }

    /// Whether the row would change if the chunk replaced the stored one. The batch alone is no reason: it is the one
    /// that the row first came with.
    pub fn in_row(&self) -> bool {
        self.0.iter().any(|field| *field != "batch_id")
    }
}
