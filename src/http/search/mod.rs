//! `POST /search`: reads the query, searches, and writes the results.
//!
//! A search takes a permit of its own before the first byte of its body, and one for the bytes of its answer before that
//! begins. Both are held until the connection has taken the last piece of the answer.

mod answer;

pub use answer::MAX_ANSWER_BYTES;

use crate::error_code::ErrorCode;
use crate::http::body::{Body, RequestBodyGuard};
use crate::http::error::ApiError;
use crate::http::limits::{AdmissionRequest, Permit};
use crate::http::parameters::check_name;
use crate::http::request::{is_large, json_body, read_body, run_blocking, shape_error};
use crate::http::settings::Settings;
use crate::http::state::State;
use crate::search::{SearchQuery, SearchTarget};
use crate::store::SearchFilter;
use crate::tmd::Axis;
use crate::wire::read_json;
use actix_web::{HttpRequest, HttpResponse, web};
use answer::Answer;
use serde::Deserialize;

/// The longest body of a search, inflated: a text of 64 KiB, or a vector, and a filter.
pub const MAX_QUERY_BYTES: usize = 256 * 1024;
/// What to send instead of a body that is too large.
const INSTEAD: &str = "send a query text of at most 64 KiB, or one vector";

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

/// Handles `POST /search`.
pub async fn search(
    request: HttpRequest,
    guard: RequestBodyGuard,
    state: web::Data<State>,
    settings: web::Data<Settings>,
) -> Result<HttpResponse, ApiError> {
    let (body, _) = json_body(request.headers(), guard, &settings, MAX_QUERY_BYTES, INSTEAD)?;
    let permit = state.admit_standalone(AdmissionRequest::Search).await?;
    answer(body, permit, &state).await
}

async fn answer(body: Body, mut permit: Permit, state: &web::Data<State>) -> Result<HttpResponse, ApiError> {
    let body =
        read_body(body, state, (state.admission.searches(), &mut permit), MAX_QUERY_BYTES, INSTEAD).await?;
    let large = is_large(&body);
    let wire: WireQuery = run_blocking(large, move || read_json(&body).map_err(shape_error)).await??;
    let ranking = state.searcher.search(query(wire)?).await?;
    Answer::new(ranking, state, permit).await?.into_response(state.clone()).await
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
            dataset_source: name("filter.dataset_source", wire.filter.dataset_source)?,
            document_id: name("filter.document_id", wire.filter.document_id)?,
        },
        tmd_weight: wire.tmd_weight,
        min_seq: wire.min_seq,
    })
}

/// A name of the filter, if the database can hold it.
fn name(param: &'static str, name: Option<String>) -> Result<Option<String>, ApiError> {
    name.as_deref().map_or(Ok(()), |name| check_name(param, name))?;
    Ok(name)
}
