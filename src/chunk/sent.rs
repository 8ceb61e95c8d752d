//! A chunk as JSON, in the names of `POST /ingest`: sent again it is the same chunk, of the same id and content.

use super::Chunk;
use serde::Serialize;
use serde_json::{Map, Value};

/// As a line of an upload. What was absent is absent, but for values that are content and have a default.
#[derive(Serialize)]
struct Sent<'a> {
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
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    episode_id: Option<Value>,
}

impl Chunk {
    /// The JSON object that makes this chunk again, in its dataset. `batch_id` is no content and not in it.
    ///
    /// # Errors
    /// The serializer's; strings and numbers give it no reason.
    pub fn as_sent(&self) -> serde_json::Result<Vec<u8>> {
        let placement = &self.placement;
        let (metadata, episode_id) = self.split_metadata();
        let [domain_code, task_code, modifier_code] = self.codes;
        serde_json::to_vec(&Sent {
            // A derived id comes out again, with the public name that only a derived id has.
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
            metadata,
            episode_id,
        })
    }

    /// The episode came beside the metadata, where it may be one key more than metadata may have.
    fn split_metadata(&self) -> (Option<Value>, Option<Value>) {
        let Some(Value::Object(fields)) = &self.metadata else { return (self.metadata.clone(), None) };
        let Some(episode @ Value::String(_)) = fields.get("episode_id") else {
            return (self.metadata.clone(), None);
        };
        let rest = fields.iter().filter(|(name, _)| *name != "episode_id");
        let rest: Map<String, Value> = rest.map(|(name, value)| (name.clone(), value.clone())).collect();
        (Some(Value::Object(rest)).filter(|_| fields.len() > 1), Some(episode.clone()))
    }
}
