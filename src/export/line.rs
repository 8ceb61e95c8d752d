//! Reads the lines of a service back into rows.

use crate::chunk::{
    Cpesh, ExportRow, Extraction, ExtractionCall, Placement, Tagging, TmdSource, floats_of_base64,
};
use crate::tmd::{AxisConfidence, Tmd};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// A line of `GET /export` with `row_fields=true` and `encoding_format=base64`.
#[derive(Deserialize)]
struct ExportedLine {
    id: Option<String>,
    dataset_source: String,
    batch_id: Option<String>,
    text: String,
    document_id: Option<String>,
    chunk_index: i64,
    source_document: Option<String>,
    article_title: Option<String>,
    article_index: Option<i64>,
    #[serde(default)]
    parent_cpe_ids: Vec<String>,
    #[serde(default)]
    child_cpe_ids: Vec<String>,
    domain_code: Option<i64>,
    task_code: Option<i64>,
    modifier_code: Option<i64>,
    concept_text: Option<String>,
    probe_question: Option<String>,
    expected_answer: Option<String>,
    #[serde(default)]
    soft_negatives: Vec<String>,
    #[serde(default)]
    hard_negatives: Vec<String>,
    cpesh_source: Option<String>,
    cpesh_model: Option<String>,
    cpesh_failure: Option<String>,
    cpesh_took_us: Option<u64>,
    tmd_source: Option<String>,
    tmd_model: Option<String>,
    tmd_failure: Option<String>,
    tmd_confidence: Option<ExportedConfidence>,
    tmd_took_us: Option<u64>,
    metadata: Option<Map<String, Value>>,
    vector: Option<String>,
    row: RowFields,
}

#[derive(Deserialize)]
struct ExportedConfidence {
    domain: f32,
    task: f32,
    modifier: f32,
}

#[derive(Deserialize)]
struct RowFields {
    cpe_id: Uuid,
    seq: i64,
    created_at: String,
    truncated: bool,
    unread: Option<f32>,
}

/// The row of a line of `GET /export` with `row_fields=true` and `encoding_format=base64`.
///
/// # Errors
/// What is wrong with the line, in the words of the parser.
pub fn row_of_line(line: &[u8]) -> Result<ExportRow, String> {
    let line: ExportedLine = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let tmd = match (line.domain_code, line.task_code, line.modifier_code) {
        (Some(domain), Some(task), Some(modifier)) => Some(Tmd::new(domain, task, modifier)),
        (None, None, None) if line.tmd_source.is_some() => None,
        _ => return Err("codes are missing, and it is not said why".to_owned()),
    };
    let tmd = tmd.transpose().map_err(|error| error.to_string())?;
    let source = match line.tmd_source {
        Some(kind) => TmdSource::from_parts(&kind, line.tmd_model.as_deref(), line.tmd_failure.as_deref())
            .ok_or_else(|| format!("the source of codes '{kind}' is not known"))?,
        None => TmdSource::Client,
    };
    let confidence = line
        .tmd_confidence
        .map(|ExportedConfidence { domain, task, modifier }| AxisConfidence { domain, task, modifier });
    let vector = match line.vector {
        Some(text) => Some(floats_of_base64(&text).ok_or("the vector is no base64 of 32-bit floats")?),
        None => None,
    };
    let cpesh = Cpesh {
        concept_text: line.concept_text,
        probe_question: line.probe_question,
        expected_answer: line.expected_answer,
        soft_negatives: line.soft_negatives,
        hard_negatives: line.hard_negatives,
    };
    let parts = Some(cpesh).filter(|cpesh| *cpesh != Cpesh::default());
    let (cpesh, extracted) = match (line.cpesh_source.as_deref(), line.cpesh_model) {
        (Some("llm"), model) => {
            let took = line.cpesh_took_us.map(Duration::from_micros);
            let call = ExtractionCall { model: model.unwrap_or_default().into(), took };
            let extracted = match line.cpesh_failure {
                Some(reason) => Extraction::Failed { reason: reason.into(), call },
                None => Extraction::ByLlm { cpesh: Arc::new(parts.unwrap_or_default()), call },
            };
            (None, Some(extracted))
        }
        _ => (parts, None),
    };
    let RowFields { cpe_id, seq, created_at, truncated, unread } = line.row;
    let created_at = DateTime::parse_from_rfc3339(&created_at).map_err(|error| error.to_string())?;
    Ok(ExportRow {
        dataset_source: line.dataset_source,
        id: line.id.unwrap_or_else(|| cpe_id.to_string()),
        cpe_id,
        seq,
        created_at: created_at.with_timezone(&Utc),
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
        batch_id: line.batch_id,
        cpesh,
        extracted,
        metadata: line.metadata.map(|fields| Value::Object(fields).to_string()),
        tagging: Tagging { tmd, source, confidence, took: line.tmd_took_us.map(Duration::from_micros) },
        truncated,
        unread,
        vector,
    })
}
