//! A stored chunk as JSON: the fields of search results and exports under the same names, and those that no other answer
//! has.

use crate::chunk::Extraction;
use crate::store::{ChunkLink, ChunkRecord, NamedChunk};
use crate::tmd::{Axis, Tmd};
use chrono::SecondsFormat;
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

/// A chunk without its metadata, which is JSON already.
#[derive(Serialize)]
struct ChunkFields<'a> {
    id: &'a str,
    cpe_id: Uuid,
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    concept_text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    probe_question: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected_answer: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    soft_negatives: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    hard_negatives: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    cpesh_source: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpesh_model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpesh_failure: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpesh_took_us: Option<u64>,
    tmd: Value,
    names: Value,
    dataset_source: &'a str,
    document_id: Option<&'a str>,
    chunk_index: i64,
    article_title: Option<&'a str>,
    article_index: Option<i64>,
    source_document: Option<&'a str>,
    parent_cpe_ids: &'a [String],
    child_cpe_ids: &'a [String],
    batch_id: Option<&'a str>,
    truncated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    unread: Option<f32>,
    created_at: String,
    seq: i64,
    previous: Option<NameFields<'a>>,
    next: Option<NameFields<'a>>,
}

/// The names of a neighbour.
#[derive(Serialize)]
struct NameFields<'a> {
    id: &'a str,
    cpe_id: Uuid,
}

/// A link, with the public name of the chunk that it leads to.
#[derive(Serialize)]
struct LinkFields<'a> {
    id: &'a str,
    cpe_id: Option<Uuid>,
}

#[derive(Serialize)]
struct VectorFields<'a> {
    model: &'a str,
    kind: &'a str,
    vector: &'a [f32],
}

impl<'a> From<&'a NamedChunk> for NameFields<'a> {
    fn from(named: &'a NamedChunk) -> Self {
        NameFields { id: &named.id, cpe_id: named.cpe_id }
    }
}

/// Appends a chunk as a JSON object.
///
/// # Errors
/// Errors of the serializer; none are known for strings and numbers.
pub fn write_chunk(text: &mut Vec<u8>, record: &ChunkRecord, with_vectors: bool) -> serde_json::Result<()> {
    serde_json::to_writer(&mut *text, &fields_of(record))?;
    text.pop();
    if with_vectors {
        let vectors: Vec<VectorFields<'_>> =
            record.vectors.iter().map(|(model, kind, vector)| VectorFields { model, kind, vector }).collect();
        write_field(text, "vectors", &vectors)?;
    }
    text.extend_from_slice(b",\"metadata\":");
    text.extend_from_slice(record.row.metadata.as_deref().unwrap_or("null").as_bytes());
    text.push(b'}');
    Ok(())
}

/// Adds links to the JSON object of a chunk.
///
/// # Errors
/// As [`write_chunk`].
pub fn add_links(text: &mut Vec<u8>, name: &str, links: &[ChunkLink]) -> serde_json::Result<()> {
    let links: Vec<LinkFields<'_>> =
        links.iter().map(|ChunkLink { id, cpe_id }| LinkFields { id, cpe_id: *cpe_id }).collect();
    add_field(text, name, &links)
}

/// Adds a field to a JSON object that is complete and has others.
///
/// # Errors
/// As [`write_chunk`].
pub fn add_field(text: &mut Vec<u8>, name: &str, value: &impl Serialize) -> serde_json::Result<()> {
    text.pop();
    write_field(text, name, value)?;
    text.push(b'}');
    Ok(())
}

fn write_field(text: &mut Vec<u8>, name: &str, value: &impl Serialize) -> serde_json::Result<()> {
    text.push(b',');
    serde_json::to_writer(&mut *text, name)?;
    text.push(b':');
    serde_json::to_writer(&mut *text, value)
}

fn fields_of(record: &ChunkRecord) -> ChunkFields<'_> {
    let row = &record.row;
    let (placement, tagging, parts) = (&row.placement, &row.tagging, row.parts());
    let micros = |took: Duration| u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let code = |code: fn(Tmd) -> u8| tagging.tmd.map(code);
    let name = |axis| tagging.tmd.map(|tmd| tmd.name(axis));
    let call = row.extracted.as_ref().and_then(Extraction::call);
    let of_client = row.cpesh.is_some().then_some("client");
    ChunkFields {
        id: &row.id,
        cpe_id: row.cpe_id,
        text: &row.text,
        concept_text: parts.and_then(|parts| parts.concept_text.as_deref()),
        probe_question: parts.and_then(|parts| parts.probe_question.as_deref()),
        expected_answer: parts.and_then(|parts| parts.expected_answer.as_deref()),
        soft_negatives: parts.map_or(&[], |parts| &parts.soft_negatives),
        hard_negatives: parts.map_or(&[], |parts| &parts.hard_negatives),
        cpesh_source: row.extracted.as_ref().and_then(Extraction::source).or(of_client),
        cpesh_model: call.map(|call| &*call.model),
        cpesh_failure: row.extracted.as_ref().and_then(Extraction::failure),
        cpesh_took_us: call.and_then(|call| call.took).map(micros),
        tmd: json!({
            "domain": code(Tmd::domain), "task": code(Tmd::task), "modifier": code(Tmd::modifier),
            "source": tagging.source.kind(), "model": tagging.source.model(), "failure": tagging.source.failure(),
            "confidence": tagging.confidence, "took_us": tagging.took.map(micros),
        }),
        names: json!({
            "domain": name(Axis::Domain), "task": name(Axis::Task), "modifier": name(Axis::Modifier),
        }),
        dataset_source: &row.dataset_source,
        document_id: placement.document_id.as_deref(),
        chunk_index: placement.chunk_index,
        article_title: placement.article_title.as_deref(),
        article_index: placement.article_index,
        source_document: placement.source_document.as_deref(),
        parent_cpe_ids: &placement.parent_cpe_ids,
        child_cpe_ids: &placement.child_cpe_ids,
        batch_id: row.batch_id.as_deref(),
        truncated: row.truncated,
        unread: row.unread,
        created_at: row.created_at.to_rfc3339_opts(SecondsFormat::Micros, true),
        seq: row.seq,
        previous: record.previous.as_ref().map(NameFields::from),
        next: record.next.as_ref().map(NameFields::from),
    }
}
