//! The handlers of the router's calls.

use super::answer::{ConceptCodes, Routed, SelectedLane, Unrouted};
use super::request::{WireLane, WireRoute, WireRouteBatch};
use crate::chunk::{FoundCodes, TmdSource};
use crate::http::body::RequestBodyGuard;
use crate::http::error::ApiError;
use crate::http::limits::{AdmissionRequest, Permit};
use crate::http::parameters;
use crate::http::request::{
    MAX_BODY_BYTES, check_text, is_large, json_body, read_body, read_document, rejection_error, run_blocking,
};
use crate::http::settings::Settings;
use crate::http::state::State;
use crate::llm::Wanted;
use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::{StreamExt, stream};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;

/// What to send instead of a body that is too large.
const INSTEAD: &str = "send fewer concepts at a time";

/// Handles `POST /route`.
pub async fn route(
    request: HttpRequest,
    guard: RequestBodyGuard,
    state: web::Data<State>,
    settings: web::Data<Settings>,
) -> Result<HttpResponse, ApiError> {
    let (body, _permit) = read::<WireRoute>(&request, guard, &state, &settings).await?;
    let concept: Arc<str> = body.concept(&state)?.into();
    let known = is_known(&state, &concept).await;
    let found = tag(&state, &concept).await?;
    let lane = state.lanes.choose(found.tmd, true).await;
    Ok(HttpResponse::Ok().json(Routed::new(&concept, &found, lane, known && is_by_llm(&found))))
}

/// Handles `POST /extract-tmd`.
pub async fn extract(
    request: HttpRequest,
    guard: RequestBodyGuard,
    state: web::Data<State>,
    settings: web::Data<Settings>,
) -> Result<HttpResponse, ApiError> {
    let (body, _permit) = read::<WireRoute>(&request, guard, &state, &settings).await?;
    let concept: Arc<str> = body.concept(&state)?.into();
    let found = tag(&state, &concept).await?;
    Ok(HttpResponse::Ok().json(ConceptCodes::new(&concept, &found)))
}

/// Handles `POST /route/batch`: as many concepts at once as there are workers. A concept that gets no codes has its
/// error in the place of them, and fails no other.
pub async fn route_batch(
    request: HttpRequest,
    guard: RequestBodyGuard,
    state: web::Data<State>,
    settings: web::Data<Settings>,
) -> Result<HttpResponse, ApiError> {
    let (body, _permit) = read::<WireRouteBatch>(&request, guard, &state, &settings).await?;
    let concepts = body.concepts(&state)?;
    let at_once = if state.info.parallel { state.info.max_workers } else { 1 };
    let routed =
        stream::iter(concepts).map(|concept| routed(&state, concept.into())).buffered(at_once.max(1));
    let results: Vec<Value> = routed.collect().await;
    Ok(HttpResponse::Ok().json(json!({ "count": results.len(), "results": results })))
}

/// Handles `POST /select-lane`.
pub async fn select_lane(
    request: HttpRequest,
    guard: RequestBodyGuard,
    state: web::Data<State>,
    settings: web::Data<Settings>,
) -> Result<HttpResponse, ApiError> {
    let (body, _permit) = read::<WireLane>(&request, guard, &state, &settings).await?;
    let (tmd, allow_fallback) = body.triple()?;
    let lane = state.lanes.choose(tmd, allow_fallback).await;
    Ok(HttpResponse::Ok().json(SelectedLane::new(tmd, lane)))
}

/// The answer to one concept of a batch.
async fn routed(state: &State, concept: Arc<str>) -> Value {
    let known = is_known(state, &concept).await;
    let tagged = match check_text("concepts", &concept) {
        Ok(()) => tag(state, &concept).await,
        Err(error) => Err(error),
    };
    match tagged {
        Ok(found) => {
            let lane = state.lanes.choose(found.tmd, true).await;
            json!(Routed::new(&concept, &found, lane, known && is_by_llm(&found)))
        }
        Err(error) => json!(Unrouted::new(&concept, &error)),
    }
}

/// Whether the language model need not be asked about this text again.
async fn is_known(state: &State, concept: &str) -> bool {
    match &state.llm {
        Some(llm) if state.router.is_none() => llm.knows(concept, Wanted::Codes).await,
        _ => false,
    }
}

fn is_by_llm(found: &FoundCodes) -> bool {
    matches!(found.source, TmdSource::Llm { .. })
}

async fn tag(state: &State, concept: &Arc<str>) -> Result<FoundCodes, ApiError> {
    state.tagger.tag_text(concept.clone(), state.tagger.begin_wait()).await.map_err(rejection_error)
}

/// Reads the body of a call. The permit counts its bytes until the answer is made.
async fn read<T: DeserializeOwned + Send + 'static>(
    request: &HttpRequest,
    guard: RequestBodyGuard,
    state: &State,
    settings: &Settings,
) -> Result<(T, Permit), ApiError> {
    parameters::none(request)?;
    let (body, announced) = json_body(request.headers(), guard, settings, MAX_BODY_BYTES, INSTEAD)?;
    let mut permit = state.admit_standalone(AdmissionRequest::Request(announced)).await?;
    let slots = (state.admission.requests(), &mut permit);
    let body = read_body(body, state, slots, MAX_BODY_BYTES, INSTEAD).await?;
    let large = is_large(&body);
    let document = run_blocking(large, move || read_document(&body)).await??;
    Ok((document, permit))
}
