//! The answer to a JSON request, in the old contract's words, as bytes that can be given twice.

use crate::chunk::{Extraction, TmdSource};
use crate::http::error::rejection_object;
use crate::http::ingest::notes::UploadNotes;
use crate::http::ingest::results::{add_notes, timestamp};
use crate::outcome::{Outcome, StoredChunk};
use crate::quality::QualityMetrics;
use crate::wire::IngestOptions;
use actix_web::HttpResponse;
use actix_web::http::{StatusCode, header};
use bytes::Bytes;
use chrono::Utc;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::time::Duration;

/// The answer to a JSON request.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The HTTP status.
    pub status: StatusCode,
    /// The number of chunks that are not stored.
    pub failed: usize,
    /// The body of the answer, in JSON.
    pub body: Bytes,
    /// The same request would get the same answer again: no chunk failed for a transient reason.
    pub is_final: bool,
}

/// What makes vectors and CPESH parts, as the answer names it.
pub struct AnswerBackends {
    /// `inproc:` or `remote:` with the name of the embedding model.
    pub embedding: String,
    /// The dimensions of a vector.
    pub dims: usize,
    /// A language model extracts CPESH parts.
    pub cpesh: bool,
}

impl Reply {
    /// The HTTP response. `retry_after` gives whole seconds.
    pub fn response(self, retry_after: impl FnOnce() -> u64) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.insert_header((header::RETRY_AFTER, retry_after().to_string()));
        }
        response.insert_header(("X-Ingest-Errors", self.failed.to_string()));
        response.content_type("application/json").body(self.body)
    }

    /// The answer with further fields.
    #[must_use]
    pub fn with_fields(mut self, fields: &Value) -> Self {
        let (before, fields) = (self.body.strip_suffix(b"}"), fields.to_string());
        if let (Some(before), Some(fields)) = (before, fields.strip_prefix('{')) {
            self.body = [before, b",", fields.as_bytes()].concat().into();
        }
        self
    }

    /// The answer for the chunks of a request, in their order. `heads` are the beginnings of their texts.
    pub fn new(
        outcomes: &[Outcome],
        heads: &[String],
        options: &IngestOptions,
        notes: &UploadNotes,
        service: &AnswerBackends,
        took: Duration,
    ) -> Self {
        let links = neighbours(outcomes);
        // Written one by one: as JSON values, all results together take ten times their text.
        let mut written = String::from("{\"results\":[");
        for (position, ((outcome, head), links)) in outcomes.iter().zip(heads).zip(links).enumerate() {
            let result = match outcome {
                Outcome::Stored(stored) => good(stored, "stored", links, options, service),
                Outcome::Replaced(stored) => good(stored, "replaced", links, options, service),
                Outcome::Duplicate(stored) => good(stored, "duplicate", links, options, service),
                Outcome::Rejected(rejection) => json!({
                    "global_id": "", "concept_text": head, "tmd_codes": {}, "vector_dimension": 0,
                    "confidence_score": null, "quality_metrics": {"error": rejection.message},
                    "created_at": timestamp(Utc::now()), "parent_cpe_ids": [], "child_cpe_ids": [],
                    "success": false, "error": rejection.message, "timings_ms": timings(None, options), "backends": {},
                    "status": "error", "error_detail": rejection_object(rejection, None),
                }),
            };
            written.push_str(if position > 0 { "," } else { "" });
            written.push_str(&result.to_string());
        }
        let failed = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Rejected(_))).count();
        let mut body = json!({
            "total_chunks": outcomes.len(), "successful": outcomes.len() - failed, "failed": failed,
            "batch_id": options.batch_id, "processing_time_ms": millis(took),
        });
        notes.write(&mut body);
        // The chunks that failed for a transient reason are to be sent again.
        let own = outcomes.iter().any(|o| matches!(o, Outcome::Rejected(r) if r.code.retryable()));
        let mut status = StatusCode::OK;
        if let (true, Some(Outcome::Rejected(first))) = (failed == outcomes.len(), outcomes.first()) {
            status = if own { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::UNPROCESSABLE_ENTITY };
            body["error"] = rejection_object(first, None);
        }
        written.push_str("],");
        written.push_str(body.to_string().trim_start_matches('{'));
        Reply { status, failed, body: Bytes::from(written), is_final: !own }
    }
}

fn good(
    stored: &StoredChunk,
    status: &str,
    links: NeighbourLinks,
    options: &IngestOptions,
    service: &AnswerBackends,
) -> Value {
    let chunk = &stored.chunk;
    let extraction = &stored.row.extraction;
    let quality = QualityMetrics::new(&chunk.text, extraction.parts(chunk), service.dims);
    let codes = stored
        .row
        .tagging
        .tmd
        .map(|tmd| json!({"domain": tmd.domain(), "task": tmd.task(), "modifier": tmd.modifier()}));
    let mut result = json!({
        "global_id": stored.row.cpe_id, "concept_text": extraction.embedded_text(chunk),
        "tmd_codes": codes,
        "vector_dimension": service.dims + 16,
        "confidence_score": quality.confidence(), "quality_metrics": quality,
        "created_at": timestamp(stored.row.created_at),
        "parent_cpe_ids": links.parents, "child_cpe_ids": links.children,
        "success": true, "error": null,
        "timings_ms": timings(Some(stored), options), "backends": backends(stored, options, service),
        "status": status, "id": chunk.key.id, "seq": stored.row.seq, "truncated": stored.row.truncated,
        "tmd_source": stored.row.tagging.source.kind(), "tmd_confidence": stored.row.tagging.confidence,
    });
    add_notes(&mut result, stored);
    result
}

/// The times that were measured for this chunk.
fn timings(stored: Option<&StoredChunk>, options: &IngestOptions) -> Value {
    let mut map = Map::new();
    let measured = stored.map(|stored| stored.timings).unwrap_or_default();
    let named = [
        ("cpesh_ms", measured.cpesh),
        ("tmd_ms", measured.tmd),
        ("embedding_ms", measured.embedding),
        ("postgres_ms", measured.postgres),
        ("total_ms", measured.total),
    ];
    for (name, time) in named {
        if let Some(time) = time {
            map.insert(name.to_owned(), json!(millis(time)));
        }
    }
    if let Some(time) = options.chunking_time_ms {
        map.insert("chunking_ms".to_owned(), json!(time));
    }
    Value::Object(map)
}

fn backends(stored: &StoredChunk, options: &IngestOptions, service: &AnswerBackends) -> Value {
    let tagging = &stored.row.tagging;
    let tmd = match &tagging.source {
        TmdSource::NotAsked => "none (not asked)".to_owned(),
        TmdSource::Fallback { version, reason } if tagging.tmd.is_none() => {
            format!("none (local:{version} was not sure; llm: {reason})")
        }
        source if tagging.tmd.is_none() => {
            format!("none (local:{} was not sure)", source.model().unwrap_or_default())
        }
        TmdSource::Client => "client-provided".to_owned(),
        TmdSource::Local { version } => format!("local:{version}"),
        TmdSource::FastFirst { version } => format!("fast_first:{version}"),
        TmdSource::HybridLocal { version } => format!("hybrid:{version}"),
        TmdSource::HybridLlm { models } => format!("hybrid:{models}"),
        TmdSource::Llm { model } => format!("llm:{model}"),
        TmdSource::Fallback { version, reason } => format!("local:{version} (llm: {reason})"),
    };
    let cpesh = match &stored.row.extraction {
        Extraction::ByClient => "client-provided".to_owned(),
        Extraction::ByLlm { call, .. } => format!("llm:{}", call.model),
        Extraction::Failed { reason, call } => format!("none (llm:{}: {reason})", call.model),
        Extraction::NotAsked if options.skip_cpesh => "disabled".to_owned(),
        Extraction::NotAsked if !service.cpesh => "env-disabled".to_owned(),
        Extraction::NotAsked => "none".to_owned(),
    };
    json!({"cpesh": cpesh, "tmd": tmd, "embedding": service.embedding, "index": "inproc:arroy"})
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// The public names of the neighbours of a chunk.
#[derive(Debug, Clone, Default, PartialEq)]
struct NeighbourLinks {
    parents: Vec<String>,
    children: Vec<String>,
}

/// Explicit links as they were sent; else the good neighbours of the same document within the request.
fn neighbours(outcomes: &[Outcome]) -> Vec<NeighbourLinks> {
    let mut links = vec![NeighbourLinks::default(); outcomes.len()];
    let mut previous = HashMap::<Option<&str>, (usize, &StoredChunk)>::new();
    for (position, outcome) in outcomes.iter().enumerate() {
        let (Outcome::Stored(stored) | Outcome::Replaced(stored) | Outcome::Duplicate(stored)) = outcome
        else {
            continue;
        };
        let placement = &stored.chunk.placement;
        if is_linked(stored) {
            links[position].parents.clone_from(&placement.parent_cpe_ids);
            links[position].children.clone_from(&placement.child_cpe_ids);
        }
        let before = previous.insert(placement.document_id.as_deref(), (position, stored));
        let Some((at, before)) = before else { continue };
        if !is_linked(stored) {
            links[position].parents = vec![before.row.cpe_id.to_string()];
        }
        if !is_linked(before) {
            links[at].children = vec![stored.row.cpe_id.to_string()];
        }
    }
    links
}

fn is_linked(stored: &StoredChunk) -> bool {
    let placement = &stored.chunk.placement;
    !placement.parent_cpe_ids.is_empty() || !placement.child_cpe_ids.is_empty()
}
