//! A stored chunk with everything that its row says, on its way out of the store.

use super::cpesh::Cpesh;
use super::draft::Placement;
use super::extraction::Extraction;
use super::sent::{ChunkLine, VectorField};
use super::tagging::Tagging;
use super::vector::EncodingFormat;
use crate::tmd::Tmd;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

/// Metadata is written as PostgreSQL gives it, up to so many bytes. PostgreSQL writes large numbers with all their
/// digits, and longer texts could exceed the longest line of an upload.
const PLAIN_METADATA: usize = 64 * 1024;

/// A stored chunk.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportRow {
    /// The name of its dataset.
    pub dataset_source: String,
    /// Its id within the dataset.
    pub id: String,
    /// Its public name.
    pub cpe_id: Uuid,
    /// The clock value of its last change.
    pub seq: i64,
    /// When it arrived.
    pub created_at: DateTime<Utc>,
    /// The text of the chunk.
    pub text: String,
    /// Its position in its source.
    pub placement: Placement,
    /// The id of its batch.
    pub batch_id: Option<String>,
    /// What the client extracted from the text.
    pub cpesh: Option<Cpesh>,
    /// What a language model extracted, or that it failed; `None` where none was asked.
    pub extracted: Option<Extraction>,
    /// The metadata, as JSON.
    pub metadata: Option<String>,
    /// The codes and their source.
    pub tagging: Tagging,
    /// The text was longer than the model reads.
    pub truncated: bool,
    /// See [`super::Embedding::unread`].
    pub unread: Option<f32>,
    /// The vector of the store's model, where it was asked for and is there.
    pub vector: Option<Vec<f32>>,
}

/// What the lines of an export have beside the chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineOptions {
    /// How vectors are written.
    pub encoding: EncodingFormat,
    /// The fingerprint of the model of the vectors.
    pub vector_model: Option<String>,
    /// Whether `row` is added: the fields that only the store gives.
    pub row_fields: bool,
}

impl ExportRow {
    /// The CPESH parts, of the client or of a language model.
    pub fn parts(&self) -> Option<&Cpesh> {
        match &self.extracted {
            Some(Extraction::ByLlm { cpesh, .. }) => Some(cpesh),
            _ => self.cpesh.as_ref(),
        }
    }

    /// Appends the chunk as a line for `POST /ingest`, with its line feed. With [`LineOptions::row_fields`], an upload
    /// would keep `row` as an unknown field.
    ///
    /// # Errors
    /// Errors of the serializer; none are known for strings and numbers.
    pub fn write_line(&self, options: &LineOptions, to: &mut Vec<u8>) -> serde_json::Result<()> {
        let placement = &self.placement;
        let code = |code: fn(Tmd) -> u8| self.tagging.tmd.map(|tmd| i64::from(code(tmd)));
        let mut line = ChunkLine {
            id: Some(&*self.id).filter(|id| **id != *self.cpe_id.to_string()),
            dataset_source: Some(&self.dataset_source),
            batch_id: self.batch_id.as_deref(),
            text: &self.text,
            document_id: placement.document_id.as_deref(),
            chunk_index: placement.chunk_index,
            source_document: placement.source_document.as_deref(),
            article_title: placement.article_title.as_deref(),
            article_index: placement.article_index,
            parent_cpe_ids: &placement.parent_cpe_ids,
            child_cpe_ids: &placement.child_cpe_ids,
            domain_code: code(Tmd::domain),
            task_code: code(Tmd::task),
            modifier_code: code(Tmd::modifier),
            cpesh: self.cpesh.as_ref(),
            ..ChunkLine::default()
        }
        .with_provenance(&self.tagging);
        if let Some(extracted) = &self.extracted {
            line = line.with_extraction(extracted);
        }
        if let (Some(vector), Some(model)) = (&self.vector, &options.vector_model) {
            line.vector_model = Some(model);
            line.vector_truncated = self.truncated.then_some(true);
            line.vector_unread = self.unread;
            line.vector = Some(VectorField(vector, options.encoding));
        }
        serde_json::to_writer(&mut *to, &line)?;
        to.pop();
        if let Some(metadata) = &self.metadata {
            to.extend_from_slice(b",\"metadata\":");
            if metadata.len() <= PLAIN_METADATA {
                to.extend_from_slice(metadata.as_bytes());
            } else {
                serde_json::to_writer(&mut *to, &serde_json::from_str::<Value>(metadata)?)?;
            }
        }
        if options.row_fields {
            let created_at = self.created_at.to_rfc3339_opts(SecondsFormat::Micros, true);
            let row = json!({
                "cpe_id": self.cpe_id, "seq": self.seq, "created_at": created_at, "truncated": self.truncated,
                "unread": self.unread,
            });
            to.extend_from_slice(b",\"row\":");
            serde_json::to_writer(&mut *to, &row)?;
        }
        to.extend_from_slice(b"}\n");
        Ok(())
    }
}
