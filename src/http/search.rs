//! `POST /search`: parses the query and writes the results.

use crate::error_code::ErrorCode;
use crate::http::error::ApiError;
use crate::http::request::shape_error;
use crate::http::state::State;
use crate::search::{ScoredHit, SearchQuery, SearchTarget};
use crate::store::SearchFilter;
use crate::tmd::Axis;
use crate::wire::read_json;
use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireQuery {
    query: Option<String>,
    vector: Option<Vec<f32>>,
    #[serde(default = "ten")]
    top_k: usize,
    #[serde(default)]
    filter: WireFilter,
    #[serde(default)]
    tmd_weight: f32,
    min_seq: Option<i64>,
}

fn ten() -> usize {
    10
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireFilter {
    domain: Option<Label>,
    task: Option<Label>,
    modifier: Option<Label>,
    dataset_source: Option<String>,
    document_id: Option<String>,
}

/// A code, or its canonical name.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Label {
    Code(i64),
    Name(String),
}

impl Label {
    fn code(&self, axis: Axis) -> Result<u8, ApiError> {
        let names = axis.names();
        let code = match self {
            Label::Code(code) => usize::try_from(*code).ok().filter(|code| *code < names.len()),
            Label::Name(name) => names.iter().position(|known| known.eq_ignore_ascii_case(name)),
        };
        code.and_then(|code| u8::try_from(code).ok()).ok_or_else(|| {
            let message = format!("filter.{axis}: expected a code from 0 to {} or its name", names.len() - 1);
            let error = ApiError::new(ErrorCode::InvalidQuery, message);
            error.param(format!("filter.{axis}"))
        })
    }
}

/// Handles `POST /search`. The body is small: the limit of the framework for `Bytes` (256 KiB) bounds it.
pub async fn search(body: web::Bytes, state: web::Data<State>) -> Result<HttpResponse, ApiError> {
    let wire: WireQuery = read_json(&body).map_err(shape_error)?;
    let found = state.searcher.search(query(wire)?).await?;
    let results: Vec<Value> = found.results.iter().map(result).collect();
    Ok(HttpResponse::Ok().json(json!({ "results": results, "index_seq": found.index_seq })))
}

fn query(wire: WireQuery) -> Result<SearchQuery, ApiError> {
    let target = match (wire.query, wire.vector) {
        (Some(text), None) => SearchTarget::Text(text),
        (None, Some(vector)) => SearchTarget::Vector(vector),
        _ => {
            return Err(
                ApiError::new(ErrorCode::MissingField, "expected either query or vector").param("query")
            );
        }
    };
    let code = |label: &Option<Label>, axis| label.as_ref().map(|label| label.code(axis)).transpose();
    Ok(SearchQuery {
        target,
        top_k: wire.top_k,
        filter: SearchFilter {
            domain: code(&wire.filter.domain, Axis::Domain)?,
            task: code(&wire.filter.task, Axis::Task)?,
            modifier: code(&wire.filter.modifier, Axis::Modifier)?,
            dataset_source: wire.filter.dataset_source,
            document_id: wire.filter.document_id,
        },
        tmd_weight: wire.tmd_weight,
        min_seq: wire.min_seq,
    })
}

fn result(scored: &ScoredHit) -> Value {
    let hit = &scored.hit;
    json!({
        "id": hit.id, "cpe_id": hit.cpe_id, "text": hit.text, "score": scored.score,
        "tmd": {"domain": hit.tmd.domain(), "task": hit.tmd.task(), "modifier": hit.tmd.modifier(),
                "source": hit.tmd_source.kind()},
        "names": {"domain": hit.tmd.name(Axis::Domain), "task": hit.tmd.name(Axis::Task),
                  "modifier": hit.tmd.name(Axis::Modifier)},
        "dataset_source": hit.dataset_source, "document_id": hit.document_id, "chunk_index": hit.chunk_index,
        "article_title": hit.article_title, "source_document": hit.source_document, "metadata": hit.metadata,
        "created_at": hit.created_at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true), "seq": hit.seq,
    })
}
