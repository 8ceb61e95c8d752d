//! `POST /search`: reads the query, searches, and writes the results.
//!
//! A search takes a permit of its own before the first byte of its body, and one for the bytes of its answer before that
//! begins. Both are held until the connection has taken the last piece of the answer.

mod answer;
mod filter;

pub use answer::MAX_ANSWER_BYTES;

use crate::chunk::is_blank;
use crate::error_code::ErrorCode;
use crate::http::body::{Body, RequestBodyGuard};
use crate::http::error::ApiError;
use crate::http::limits::{AdmissionRequest, Permit};
use crate::http::parameters;
use crate::http::request::{is_large, json_body, read_body, read_document, run_blocking};
use crate::http::settings::Settings;
use crate::http::state::State;
use crate::search::{Collapse, MAX_RESULTS, SearchBy, SearchIn, SearchQuery, SearchTarget};
use crate::wire::{AnyNumber, Fields, Truth, WholeNumber, one_of};
use actix_web::{HttpRequest, HttpResponse, web};
use answer::Answer;
use filter::WireFilter;
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
    mode: Option<ModeOption>,
    keyword_weight: Option<AnyNumber>,
    search_in: Option<SearchInOption>,
    collapse: Option<CollapseOption>,
    diversity: Option<AnyNumber>,
    explain: Option<Truth>,
}

/// [`SearchBy`] by its name.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
enum ModeOption {
    #[default]
    Vector,
    Keyword,
    Hybrid,
}

impl<'de> Deserialize<'de> for ModeOption {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let words = [
            ("vector", ModeOption::Vector),
            ("keyword", ModeOption::Keyword),
            ("hybrid", ModeOption::Hybrid),
        ];
        one_of(deserializer, &words)
    }
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

/// [`Collapse`] by its name.
#[derive(Debug, Clone, Copy)]
struct CollapseOption(Collapse);

impl<'de> Deserialize<'de> for CollapseOption {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let words = [("none", Collapse::None), ("text", Collapse::Text), ("document", Collapse::Document)];
        one_of(deserializer, &words).map(CollapseOption)
    }
}

/// The number of results without `top_k`.
const USUAL_RESULTS: i64 = 10;
/// The weight of words in a hybrid search without `keyword_weight`.
const USUAL_KEYWORD_WEIGHT: f64 = 0.5;

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
    let explain = wire.explain.is_some_and(|Truth(explain)| explain);
    let ranking = state.searcher.search(query(wire)?).await?;
    Answer::new(ranking, explain, state, permit).await?.into_response(state.clone()).await
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
    let tmd_weight = weight("tmd_weight", wire.tmd_weight, 0.0)?;
    let diversity = weight("diversity", wire.diversity, 0.0)?;
    let keyword_weight = weight("keyword_weight", wire.keyword_weight, USUAL_KEYWORD_WEIGHT)?;
    let mode = wire.mode.unwrap_or_default();
    if wire.keyword_weight.is_some() && mode != ModeOption::Hybrid {
        let message = "keyword_weight: expected together with mode hybrid";
        return Err(ApiError::new(ErrorCode::InvalidQuery, message).param("keyword_weight"));
    }
    let Fields(filter) = wire.filter.unwrap_or_default();
    Ok(SearchQuery {
        target,
        by: match mode {
            ModeOption::Vector => SearchBy::Vector,
            ModeOption::Keyword => SearchBy::Keyword,
            ModeOption::Hybrid => SearchBy::Both { keyword_weight },
        },
        search_in: wire.search_in.map(|SearchInOption(search_in)| search_in).unwrap_or_default(),
        top_k,
        filter: filter::read_filter(filter)?,
        tmd_weight,
        collapse: wire.collapse.map(|CollapseOption(collapse)| collapse).unwrap_or_default(),
        diversity,
        min_seq: wire.min_seq.map(|WholeNumber(seq)| seq),
    })
}

/// A weight, or the usual one.
fn weight(param: &'static str, received: Option<AnyNumber>, usual: f64) -> Result<f32, ApiError> {
    let AnyNumber(weight) = received.unwrap_or(AnyNumber(usual));
    if (0.0..=1.0).contains(&weight) {
        return Ok(weight as f32);
    }
    let message = format!("{param}: expected 0 to 1, received {weight}");
    Err(ApiError::new(ErrorCode::InvalidQuery, message).param(param))
}

/// A vector of the same direction whose largest number is 1: every finite one that is not zero then fits into the
/// numbers of the index.
fn scaled(vector: &[AnyNumber]) -> Vec<f32> {
    let largest = vector.iter().map(|AnyNumber(x)| x.abs()).fold(0.0, f64::max);
    let scale = |x: f64| if largest > 0.0 { (x / largest) as f32 } else { 0.0 };
    vector.iter().map(|AnyNumber(x)| scale(*x)).collect()
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
}
