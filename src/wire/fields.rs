//! A chunk as clients send it: an object with fields of known names, in the words of the old service, and any others.

use super::bounded::BoundedList;
use super::cpesh::{WireCpesh, WireExtractionOrigin};
use super::metadata::MetadataReader;
use super::options::SharedNames;
use super::restored::{WireProvenance, WireVector};
use super::shape::{ShapeError, read_json};
use super::unknown::UnknownFieldPolicy;
use super::values::{Name, WholeNumber};
use super::words::quoted;
use crate::chunk::{BatchId, Chunk, Draft, MAX_LINKS, Metadata, Placement, check_count, check_not_blank};
use crate::error_code::ErrorCode;
use crate::rejection::Rejection;
use chrono::{DateTime, Utc};
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// The names of the fields of a chunk.
pub const CHUNK_FIELDS: [&str; 36] = [
    "id",
    "dataset_source",
    "text",
    "document_id",
    "chunk_index",
    "sequence_index",
    "source_document",
    "article_title",
    "article_index",
    "batch_id",
    "metadata",
    "parent_cpe_ids",
    "child_cpe_ids",
    "domain_code",
    "task_code",
    "modifier_code",
    "concept_text",
    "probe_question",
    "expected_answer",
    "soft_negatives",
    "hard_negatives",
    "episode_id",
    "concept_vec",
    "cpesh_source",
    "cpesh_model",
    "cpesh_failure",
    "cpesh_took_us",
    "tmd_source",
    "tmd_model",
    "tmd_failure",
    "tmd_confidence",
    "tmd_took_us",
    "vector_model",
    "vector",
    "vector_truncated",
    "vector_unread",
];

/// The fields of a vector that was made before, the last of [`CHUNK_FIELDS`]. A chunk has them only if it has the first
/// two: in any other they are not known, as they are in files that were made for other programs.
const VECTOR_FIELDS: [&str; 4] = ["vector_model", "vector", "vector_truncated", "vector_unread"];

/// A chunk as an element of `chunks` or as an NDJSON line.
#[derive(Debug, Default)]
pub struct WireChunk {
    id: Option<Name>,
    dataset_source: Option<Name>,
    text: String,
    document_id: Option<Name>,
    chunk_index: Option<WholeNumber>,
    source_document: Option<Name>,
    article_title: Option<Name>,
    article_index: Option<WholeNumber>,
    batch_id: Option<Name>,
    metadata: Option<Map<String, Value>>,
    parent_cpe_ids: WireLinks,
    child_cpe_ids: WireLinks,
    codes: [Option<WholeNumber>; 3],
    cpesh: WireCpesh,
    extraction: WireExtractionOrigin,
    provenance: WireProvenance,
    vector: WireVector,
    // Stored in the metadata.
    episode_id: Option<Name>,
    unknown: Vec<String>,
}

/// Explicit links of a chunk. An absent one among them is passed over.
type WireLinks = Option<BoundedList<Option<Name>, MAX_LINKS>>;

impl WireChunk {
    /// Reads a chunk from its JSON.
    ///
    /// # Errors
    /// The bytes are not JSON, or not that of a chunk.
    pub fn read(json: &[u8]) -> Result<WireChunk, Rejection> {
        if memchr::memmem::find(json, b"\"vector_model\"").is_some() {
            let WithVector(chunk) = read_json(json).map_err(rejection)?;
            if chunk.vector.is_whole() || chunk.vector.is_absent() {
                return Ok(chunk);
            }
        }
        read_json(json).map_err(rejection)
    }

    /// The text as it was sent. Answers to rejected chunks quote it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The names of its fields that are not known.
    pub fn unknown_fields(&self) -> &[String] {
        &self.unknown
    }

    /// The chunk as one of this document, in the dataset of the request.
    ///
    /// # Errors
    /// It names another document or dataset.
    pub fn of_document(mut self, document: &str, names: &SharedNames) -> Result<WireChunk, Rejection> {
        let places = [
            ("document_id", document, &self.document_id),
            ("dataset_source", &*names.dataset, &self.dataset_source),
        ];
        for (field, wanted, sent) in places {
            if let Some(Name(sent)) = sent
                && sent != wanted
            {
                let message = format!(
                    "{field}: expected '{}', the one that is replaced, received '{}'; leave the field out",
                    quoted(wanted),
                    quoted(sent)
                );
                return Err(Rejection::new(ErrorCode::OtherDocument, message).param(field));
            }
        }
        self.document_id = Some(Name(document.to_owned()));
        Ok(self)
    }

    /// Makes a [`Chunk`] with these names, which arrived at this time.
    ///
    /// # Errors
    /// Those of [`Chunk::new`]; an unknown field where they are refused.
    pub fn check(self, names: &SharedNames, received_at: DateTime<Utc>) -> Result<Chunk, Rejection> {
        if let (UnknownFieldPolicy::Refuse, Some(first)) = (names.unknown_fields, self.unknown.first()) {
            let message =
                format!("unknown field `{}`, expected one of {}", quoted(first), CHUNK_FIELDS.join(", "));
            return Err(Rejection::new(ErrorCode::UnknownField, message));
        }
        let name = |name: Option<Name>| name.map(|Name(name)| name);
        let number = |number: Option<WholeNumber>| number.map(|WholeNumber(number)| number);
        let dataset = match self.dataset_source {
            Some(Name(dataset)) => {
                check_not_blank("dataset_source", &dataset)?;
                dataset.into()
            }
            None => names.dataset.clone(),
        };
        let (mut metadata, mut kept) = (self.metadata, self.unknown);
        if let Some(Name(episode)) = self.episode_id {
            kept.push("episode_id".to_owned());
            metadata.get_or_insert_default().insert("episode_id".to_owned(), Value::String(episode));
        }
        Chunk::new(Draft {
            id: name(self.id),
            dataset,
            batch: name(self.batch_id).map(|id| BatchId::Named(id.into())).or_else(|| names.batch.clone()),
            text: self.text,
            placement: Placement {
                document_id: name(self.document_id),
                chunk_index: number(self.chunk_index).unwrap_or(0),
                source_document: Some(name(self.source_document).unwrap_or_else(|| "web_input".to_owned())),
                article_title: name(self.article_title),
                article_index: number(self.article_index),
                parent_cpe_ids: links("parent_cpe_ids", self.parent_cpe_ids)?,
                child_cpe_ids: links("child_cpe_ids", self.child_cpe_ids)?,
            },
            metadata: metadata
                .map(Metadata::new)
                .transpose()
                .map_err(|rejection| with_names(rejection, &kept))?,
            cpesh: self.cpesh.check()?,
            restored: self.extraction.check()?,
            skip_cpesh: names.skip_cpesh,
            labels: names.labels,
            codes: self.codes.map(number),
            provenance: self.provenance.check()?,
            vector: self.vector.check(&names.model)?,
            on_conflict: names.on_conflict,
            received_at,
        })
    }
}

fn links(field: &'static str, sent: WireLinks) -> Result<Vec<String>, Rejection> {
    let Some(links) = sent else { return Ok(Vec::new()) };
    check_count(field, links.received)?;
    Ok(links.items.into_iter().flatten().map(|Name(name)| name).collect())
}

/// The error of metadata in which other fields are kept: one of them may be the reason.
fn with_names(mut rejection: Rejection, kept: &[String]) -> Rejection {
    if !kept.is_empty() {
        rejection.message.push_str(&format!("; these fields are kept in it: {}", listed(kept)));
    }
    rejection
}

/// The most names that a message lists.
const LISTED_NAMES: usize = 5;

fn listed(names: &[String]) -> String {
    names.iter().take(LISTED_NAMES).map(|name| format!("`{name:.40}`")).collect::<Vec<_>>().join(", ")
}

/// The error of one chunk. It names the field of the chunk, also when the value that is wrong is deep inside it.
fn rejection(error: ShapeError) -> Rejection {
    let path = error.path.clone().unwrap_or_default();
    let outermost = path.split(['.', '[']).next().unwrap_or_default();
    let field = CHUNK_FIELDS.into_iter().find(|field| *field == outermost);
    let rejection = Rejection::from(error);
    match field {
        Some(field) => rejection.param(field),
        None => rejection,
    }
}

impl<'de> Deserialize<'de> for WireChunk {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(WireChunkVisitor { with_vector: false })
    }
}

/// A chunk that may have a vector.
struct WithVector(WireChunk);

impl<'de> Deserialize<'de> for WithVector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(WireChunkVisitor { with_vector: true }).map(WithVector)
    }
}

struct WireChunkVisitor {
    /// Whether [`VECTOR_FIELDS`] are known.
    with_vector: bool,
}

impl<'de> Visitor<'de> for WireChunkVisitor {
    type Value = WireChunk;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<WireChunk, A::Error> {
        let mut chunk = WireChunk::default();
        let mut metadata = MetadataReader::default();
        let mut text = None;
        let mut sequence_index = None;
        let mut seen = [false; CHUNK_FIELDS.len()];
        while let Some(name) = object.next_key::<String>()? {
            let is_known = self.with_vector || !VECTOR_FIELDS.contains(&name.as_str());
            let known = CHUNK_FIELDS.iter().position(|known| is_known && *known == name);
            if let Some(place) = known
                && std::mem::replace(&mut seen[place], true)
            {
                return Err(A::Error::duplicate_field(CHUNK_FIELDS[place]));
            }
            match name.as_str() {
                "id" => chunk.id = object.next_value()?,
                "dataset_source" => chunk.dataset_source = object.next_value()?,
                "text" => text = object.next_value::<Option<String>>()?,
                "document_id" => chunk.document_id = object.next_value()?,
                "chunk_index" => chunk.chunk_index = object.next_value()?,
                "sequence_index" => sequence_index = object.next_value()?,
                "source_document" => chunk.source_document = object.next_value()?,
                "article_title" => chunk.article_title = object.next_value()?,
                "article_index" => chunk.article_index = object.next_value()?,
                "batch_id" => chunk.batch_id = object.next_value()?,
                "metadata" => metadata.read_fields(&mut object)?,
                "parent_cpe_ids" => chunk.parent_cpe_ids = object.next_value()?,
                "child_cpe_ids" => chunk.child_cpe_ids = object.next_value()?,
                "domain_code" => chunk.codes[0] = object.next_value()?,
                "task_code" => chunk.codes[1] = object.next_value()?,
                "modifier_code" => chunk.codes[2] = object.next_value()?,
                "concept_text" => chunk.cpesh.concept_text = object.next_value()?,
                "probe_question" => chunk.cpesh.probe_question = object.next_value()?,
                "expected_answer" => chunk.cpesh.expected_answer = object.next_value()?,
                "soft_negatives" => chunk.cpesh.soft_negatives = object.next_value()?,
                "hard_negatives" => chunk.cpesh.hard_negatives = object.next_value()?,
                "episode_id" => chunk.episode_id = object.next_value()?,
                // Old clients send their own vector. It is ignored: all vectors of a store come from one model.
                "concept_vec" => drop(object.next_value::<IgnoredAny>()?),
                "cpesh_source" => chunk.extraction.source = object.next_value()?,
                "cpesh_model" => chunk.extraction.model = object.next_value()?,
                "cpesh_failure" => chunk.extraction.failure = object.next_value()?,
                "cpesh_took_us" => chunk.extraction.took_us = object.next_value()?,
                "tmd_source" => chunk.provenance.source = object.next_value()?,
                "tmd_model" => chunk.provenance.model = object.next_value()?,
                "tmd_failure" => chunk.provenance.failure = object.next_value()?,
                "tmd_confidence" => chunk.provenance.confidence = object.next_value()?,
                "tmd_took_us" => chunk.provenance.took_us = object.next_value()?,
                "vector_model" if is_known => chunk.vector.model = object.next_value()?,
                "vector" if is_known => chunk.vector.values = object.next_value()?,
                "vector_truncated" if is_known => chunk.vector.truncated = object.next_value()?,
                "vector_unread" if is_known => chunk.vector.unread = object.next_value()?,
                _ => metadata.read_unknown(name, &mut object)?,
            }
        }
        if chunk.chunk_index.is_some() && sequence_index.is_some() {
            return Err(A::Error::custom(
                "duplicate field `chunk_index`: `sequence_index` is another name of it; send one of them",
            ));
        }
        chunk.chunk_index = chunk.chunk_index.or(sequence_index);
        let metadata = metadata.finish()?;
        (chunk.metadata, chunk.unknown) = (metadata.fields, metadata.unknown);
        chunk.text = text.ok_or_else(|| missing_text(&chunk.unknown))?;
        Ok(chunk)
    }
}

/// The text is missing. It may be there under a name that is not known.
fn missing_text<E: Error>(unknown: &[String]) -> E {
    match unknown {
        [] => E::missing_field("text"),
        [only] if only == "chunks" => E::custom(
            "missing field `text`: this is a request with `chunks`; send it as application/json, or its chunks one a line",
        ),
        _ => E::custom(format_args!(
            "missing field `text`: expected the text of the chunk under this name, received the unknown {}",
            listed(unknown)
        )),
    }
}

#[cfg(test)]
mod tests;
