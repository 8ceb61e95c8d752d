//! A chunk as JSON in the field names of `POST /ingest`. Sent again, it gives the same id and content hash.

use super::extraction::{Extraction, RestoredExtraction};
use super::vector::{EncodingFormat, VectorSource, base64_of};
use super::{Chunk, Cpesh, Draft, Metadata, Placement, Tagging, TmdSource};
use crate::tmd::AxisConfidence;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};
use std::time::Duration;

/// A line of an upload. Absent fields stay absent, except those with a default that is part of the content.
#[derive(Debug, Default, Serialize)]
pub struct ChunkLine<'a> {
    /// The client's id; absent for a derived one, which is derived again, together with its public name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
    /// See [`Draft::dataset`]; absent where the upload says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset_source: Option<&'a str>,
    /// See [`Draft::batch`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_id: Option<&'a str>,
    /// See [`Draft::text`].
    pub text: &'a str,
    /// See [`Placement::document_id`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document_id: Option<&'a str>,
    /// See [`Placement::chunk_index`].
    pub chunk_index: i64,
    /// See [`Placement::source_document`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_document: Option<&'a str>,
    /// See [`Placement::article_title`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub article_title: Option<&'a str>,
    /// See [`Placement::article_index`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub article_index: Option<i64>,
    /// See [`Placement::parent_cpe_ids`].
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub parent_cpe_ids: &'a [String],
    /// See [`Placement::child_cpe_ids`].
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub child_cpe_ids: &'a [String],
    /// The first of the three codes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain_code: Option<i64>,
    /// The second of the three codes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_code: Option<i64>,
    /// The third of the three codes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modifier_code: Option<i64>,
    /// See [`Draft::cpesh`].
    #[serde(flatten)]
    pub cpesh: Option<&'a Cpesh>,
    /// `llm` where a language model made the CPESH parts, or failed to; absent for parts of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpesh_source: Option<&'a str>,
    /// The language model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpesh_model: Option<&'a str>,
    /// See [`Extraction::failure`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpesh_failure: Option<&'a str>,
    /// How long it took, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpesh_took_us: Option<i64>,
    /// See [`TmdSource::kind`]; absent for codes of the client, and where they are still to be found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmd_source: Option<&'a str>,
    /// See [`TmdSource::model`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmd_model: Option<&'a str>,
    /// See [`TmdSource::failure`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmd_failure: Option<&'a str>,
    /// See [`Tagging::confidence`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmd_confidence: Option<AxisConfidence>,
    /// See [`Tagging::took`], in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmd_took_us: Option<i64>,
    /// See [`Draft::metadata`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
    /// A field of the metadata that was sent as a field of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub episode_id: Option<Value>,
    /// The fingerprint of the model that made the vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vector_model: Option<&'a str>,
    /// The text was longer than the model reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vector_truncated: Option<bool>,
    /// See [`super::Embedding::unread`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vector_unread: Option<f32>,
    /// The vector of the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vector: Option<VectorField<'a>>,
}

/// A vector as a field of a line.
#[derive(Debug, Clone, Copy)]
pub struct VectorField<'a>(pub &'a [f32], pub EncodingFormat);

impl Serialize for VectorField<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.1 {
            EncodingFormat::Float => self.0.serialize(serializer),
            EncodingFormat::Base64 => serializer.serialize_str(&base64_of(self.0)),
        }
    }
}

impl<'a> ChunkLine<'a> {
    /// Adds where codes come from. Nothing for those of the client: that is what a line without says.
    #[must_use]
    pub fn with_provenance(mut self, tagging: &'a Tagging) -> Self {
        if tagging.source != TmdSource::Client || tagging.confidence.is_some() || tagging.took.is_some() {
            self.tmd_source = Some(tagging.source.kind());
            self.tmd_model = tagging.source.model();
            self.tmd_failure = tagging.source.failure();
            self.tmd_confidence = tagging.confidence;
            self.tmd_took_us = tagging.took.map(|took| i64::try_from(took.as_micros()).unwrap_or(i64::MAX));
        }
        self
    }
}

impl<'a> ChunkLine<'a> {
    /// Adds the CPESH parts that a language model extracted, or that it failed.
    #[must_use]
    pub fn with_extraction(mut self, extraction: &'a Extraction) -> Self {
        let Some(call) = extraction.call() else { return self };
        if let Extraction::ByLlm { cpesh, .. } = extraction {
            self.cpesh = Some(cpesh);
        }
        self.cpesh_source = extraction.source();
        self.cpesh_model = Some(&call.model);
        self.cpesh_failure = extraction.failure();
        self.cpesh_took_us = call.took.map(|took| i64::try_from(took.as_micros()).unwrap_or(i64::MAX));
        self
    }
}

impl Chunk {
    /// The JSON object that gives this chunk again when it is sent to the same dataset. The batch is left out: it is
    /// not part of the content.
    ///
    /// # Errors
    /// Errors of the serializer; none are known for strings and numbers.
    pub fn as_sent(&self) -> serde_json::Result<Vec<u8>> {
        let placement = &self.placement;
        let (metadata, episode_id) = self.split_metadata();
        let [domain_code, task_code, modifier_code] = self.codes;
        let mut line = ChunkLine {
            // A derived id is left out: it is derived again, together with its public name.
            id: Some(&*self.key.id).filter(|id| **id != *self.cpe_id.to_string()),
            text: &self.text,
            document_id: placement.document_id.as_deref(),
            chunk_index: placement.chunk_index,
            source_document: placement.source_document.as_deref(),
            article_title: placement.article_title.as_deref(),
            article_index: placement.article_index,
            parent_cpe_ids: &placement.parent_cpe_ids,
            child_cpe_ids: &placement.child_cpe_ids,
            domain_code,
            task_code,
            modifier_code,
            cpesh: self.cpesh.as_ref(),
            metadata,
            episode_id,
            ..ChunkLine::default()
        };
        if let Some(tagging) = &self.given_tagging {
            line = line.with_provenance(tagging);
        }
        if let Some(restored) = &self.restored {
            line = line.with_extraction(restored);
        }
        if let VectorSource::Given { model, embedding } = &self.vector {
            line.vector_model = Some(model);
            line.vector_truncated = Some(embedding.truncated);
            line.vector_unread = embedding.unread;
            line.vector = Some(VectorField(&embedding.vector, EncodingFormat::Base64));
        }
        serde_json::to_vec(&line)
    }

    /// Metadata and `episode_id`, which was sent as a field of its own. Within the metadata it may be one key too many.
    fn split_metadata(&self) -> (Option<Value>, Option<Value>) {
        let Some(metadata) = &self.metadata else { return (None, None) };
        let mut fields = metadata.fields();
        let episode = match fields.get("episode_id") {
            Some(Value::String(_)) => fields.remove("episode_id"),
            _ => None,
        };
        let only_episode = fields.is_empty() && episode.is_some();
        (Some(Value::Object(fields)).filter(|_| !only_episode), episode)
    }
}

/// A [`ChunkLine`] that was stored, read back. Other fields do not occur.
#[derive(Deserialize)]
struct StoredLine {
    id: Option<String>,
    text: String,
    document_id: Option<String>,
    #[serde(default)]
    chunk_index: i64,
    source_document: Option<String>,
    article_title: Option<String>,
    article_index: Option<i64>,
    #[serde(default)]
    parent_cpe_ids: Vec<String>,
    #[serde(default)]
    child_cpe_ids: Vec<String>,
    #[serde(flatten)]
    cpesh: Cpesh,
    cpesh_source: Option<String>,
    cpesh_model: Option<String>,
    cpesh_failure: Option<String>,
    cpesh_took_us: Option<u64>,
    metadata: Option<Map<String, Value>>,
    episode_id: Option<String>,
}

impl Chunk {
    /// The chunk of a line that [`Self::as_sent`] wrote, without its codes. `None` for anything else.
    pub fn of_sent(dataset: &str, line: &[u8]) -> Option<Chunk> {
        let line: StoredLine = serde_json::from_slice(line).ok()?;
        let mut fields = line.metadata;
        if let Some(episode) = line.episode_id {
            fields.get_or_insert_default().insert("episode_id".to_owned(), Value::String(episode));
        }
        let metadata = match fields {
            Some(fields) => Some(Metadata::of_stored(Value::Object(fields).to_string())?),
            None => None,
        };
        let took = line.cpesh_took_us.map(Duration::from_micros);
        let (model, failure) = (line.cpesh_model.as_deref(), line.cpesh_failure.as_deref());
        let restored = match line.cpesh_source {
            Some(source) => RestoredExtraction::new(&source, model, failure, took).ok()?,
            None => None,
        };
        Some(Chunk::of_stored(Draft {
            id: line.id,
            dataset: dataset.into(),
            text: line.text,
            placement: Placement {
                document_id: line.document_id,
                chunk_index: line.chunk_index,
                source_document: line.source_document,
                article_title: line.article_title,
                article_index: line.article_index,
                parent_cpe_ids: line.parent_cpe_ids,
                child_cpe_ids: line.child_cpe_ids,
            },
            metadata,
            cpesh: line.cpesh,
            restored,
            ..Draft::default()
        }))
    }
}
