//! `POST /search`: reads the query, searches, and writes the results.
//!
//! A search takes a permit of its own before the first byte of its body, and one for the bytes of its answer before that
//! begins. Both are held until the connection has taken the last piece of the answer.

mod answer;

pub use answer::MAX_ANSWER_BYTES;

use crate::chunk::is_blank;
use crate::error_code::ErrorCode;
use crate::http::body::{Body, RequestBodyGuard};
use crate::http::error::ApiError;
use crate::http::limits::{AdmissionRequest, Permit};
use crate::http::parameters::{self, check_name, quoted};
use crate::http::request::{is_large, json_body, read_body, read_document, run_blocking};
use crate::http::settings::Settings;
use crate::http::state::State;
use crate::search::{MAX_RESULTS, SearchIn, SearchQuery, SearchTarget};
use crate::store::SearchFilter;
use crate::tmd::Axis;
use crate::wire::{AnyNumber, Fields, Name, WholeNumber, one_of};
use actix_web::{HttpRequest, HttpResponse, web};
use answer::Answer;
use serde::{Deserialize, Deserializer};

/// The longest body of a search, inflated: a text of 64 KiB, or a vector, and a filter.
pub const MAX_QUERY_BYTES: usize = 256 * 1024;
/// What to send instead of a body that is too large.
const INSTEAD: &str = "send a query text of at most 64 KiB, or one vector";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireQuery {
    query: Option<String>,
    vector: Option<Vec<AnyNumber>>,
    top_k: Option<WholeNumber>,
    filter: Option<Fields<WireFilter>>,
    tmd_weight: Option<AnyNumber>,
    min_seq: Option<WholeNumber>,
    search_in: Option<SearchInOption>,
}

/// [`SearchIn`] by its name.
#[derive(Debug, Clone, Copy)]
struct SearchInOption(SearchIn);

impl<'de> Deserialize<'de> for SearchInOption {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let words =
            [("concept", SearchIn::Concept), ("question", SearchIn::Question), ("both", SearchIn::Both)];
        one_of(deserializer, &words).map(SearchInOption)
    }
}

/// The number of results without `top_k`.
const USUAL_RESULTS: i64 = 10;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireFilter {
    // A code, or its canonical name.
    domain: Option<Name>,
    task: Option<Name>,
    modifier: Option<Name>,
    dataset_source: Option<Name>,
    document_id: Option<Name>,
}

/// The code that a label names.
fn code(label: Option<Name>, axis: Axis) -> Result<Option<u8>, ApiError> {
    let Some(Name(label)) = label else { return Ok(None) };
    let code = axis.code_of(&label).ok_or_else(|| {
        let (received, last, names) = (quoted(&label), axis.len() - 1, axis.names().join(", "));
        let message = format!(
            "filter.{axis}: expected a code from 0 to {last} or one of these names: {names}; received '{received}'"
        );
        ApiError::new(ErrorCode::InvalidQuery, message).param(format!("filter.{axis}"))
    });
    code.map(Some)
}

/// Handles `POST /search`.
pub async fn search(
    request: HttpRequest,
    guard: RequestBodyGuard,
    state: web::Data<State>,
    settings: web::Data<Settings>,
) -> Result<HttpResponse, ApiError> {
    parameters::none(&request)?;
    let (body, _) = json_body(request.headers(), guard, &settings, MAX_QUERY_BYTES, INSTEAD)?;
    let permit = state.admit_standalone(AdmissionRequest::Search).await?;
    answer(body, permit, &state).await
}

async fn answer(body: Body, mut permit: Permit, state: &web::Data<State>) -> Result<HttpResponse, ApiError> {
    let body =
        read_body(body, state, (state.admission.searches(), &mut permit), MAX_QUERY_BYTES, INSTEAD).await?;
    let large = is_large(&body);
    let wire: WireQuery = run_blocking(large, move || read_document(&body)).await??;
    let ranking = state.searcher.search(query(wire)?).await?;
    Answer::new(ranking, state, permit).await?.into_response(state.clone()).await
}

fn query(wire: WireQuery) -> Result<SearchQuery, ApiError> {
    let target = match (wire.query, wire.vector) {
        (Some(text), None) if is_blank(&text) => {
            let message = "query is empty or has only invisible characters";
            return Err(ApiError::new(ErrorCode::TextEmpty, message).param("query"));
        }
        (Some(text), None) => SearchTarget::Text(text),
        (None, Some(vector)) => SearchTarget::Vector(scaled(&vector)),
        (query, _) => {
            let received = if query.is_some() { "both" } else { "none" };
            let message = format!("expected either query or vector, received {received}");
            return Err(ApiError::new(ErrorCode::MissingField, message).param("query"));
        }
    };
    let WholeNumber(top_k) = wire.top_k.unwrap_or(WholeNumber(USUAL_RESULTS));
    let Some(top_k) = usize::try_from(top_k).ok().filter(|top_k| (1..=MAX_RESULTS).contains(top_k)) else {
        let message = format!("top_k: expected 1 to {MAX_RESULTS}, received {top_k}");
        return Err(ApiError::new(ErrorCode::InvalidQuery, message).param("top_k"));
    };
    let AnyNumber(tmd_weight) = wire.tmd_weight.unwrap_or(AnyNumber(0.0));
    if !(0.0..=1.0).contains(&tmd_weight) {
        let message = format!("tmd_weight: expected 0 to 1, received {tmd_weight}");
        return Err(ApiError::new(ErrorCode::InvalidQuery, message).param("tmd_weight"));
    }
    let Fields(filter) = wire.filter.unwrap_or_default();
    Ok(SearchQuery {
        target,
        search_in: wire.search_in.map(|SearchInOption(search_in)| search_in).unwrap_or_default(),
        top_k,
        filter: SearchFilter {
            domain: code(filter.domain, Axis::Domain)?,
            task: code(filter.task, Axis::Task)?,
            modifier: code(filter.modifier, Axis::Modifier)?,
            dataset_source: name("filter.dataset_source", filter.dataset_source)?,
            document_id: name("filter.document_id", filter.document_id)?,
        },
        tmd_weight: tmd_weight as f32,
        min_seq: wire.min_seq.map(|WholeNumber(seq)| seq),
    })
}

/// A vector of the same direction whose largest number is 1: every finite one that is not zero then fits into the
/// numbers of the index.
fn scaled(vector: &[AnyNumber]) -> Vec<f32> {
    let largest = vector.iter().map(|AnyNumber(x)| x.abs()).fold(0.0, f64::max);
    let scale = |x: f64| if largest > 0.0 { (x / largest) as f32 } else { 0.0 };
    vector.iter().map(|AnyNumber(x)| scale(*x)).collect()
}

/// A name of the filter, if the database can hold it.
fn name(param: &'static str, name: Option<Name>) -> Result<Option<String>, ApiError> {
    let name = name.map(|Name(name)| name);
    name.as_deref().map_or(Ok(()), |name| check_name(param, name))?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finite_vector_is_scaled_to_its_direction() {
        for length in [f64::MAX, 1e300, 1e38, 1.0, 1e-3, 1e-30, 1e-300, f64::from_bits(1)] {
            let vector = scaled(&[AnyNumber(length), AnyNumber(-length), AnyNumber(0.0)]);
            assert_eq!(vector, [1.0, -1.0, 0.0], "{length}");
        }
        assert_eq!(scaled(&[AnyNumber(0.0), AnyNumber(-0.0)]), [0.0, 0.0]);
    }

    #[test]
    fn a_label_is_a_code_or_a_name() {
        let code = |label: &str| code(Some(Name(label.to_owned())), Axis::Domain).ok().flatten();
        assert_eq!(
            [code("3"), code(" 003 "), code("15"), code("16"), code("-1")],
            [Some(3), Some(3), Some(15), None, None]
        );
        let name = Axis::Domain.names()[2];
        assert_eq!([code(name), code(&name.to_uppercase()), code("no such label")], [Some(2), Some(2), None]);
    }
}
