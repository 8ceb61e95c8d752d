//! A chunk as JSON in the field names of `POST /ingest`. Sent again, it gives the same id and content hash.

use super::{Chunk, Cpesh, Draft, Metadata, Placement};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A line of an upload. Absent fields stay absent, except those with a default that is part of the content.
#[derive(Serialize)]
struct ChunkLine<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    document_id: Option<&'a str>,
    chunk_index: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_document: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    article_title: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    article_index: Option<i64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    parent_cpe_ids: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    child_cpe_ids: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    domain_code: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_code: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    modifier_code: Option<i64>,
    #[serde(flatten)]
    cpesh: Option<&'a Cpesh>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    episode_id: Option<Value>,
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
        serde_json::to_vec(&ChunkLine {
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
        })
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
            ..Draft::default()
        }))
    }
}
