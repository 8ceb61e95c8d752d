//! `POST /cpesh`: gives stored chunks CPESH parts, and vectors of their questions. One request works for some seconds; its
//! answer says how many are left and where to go on.

use crate::backfill::Backfilled;
use crate::error_code::ErrorCode;
use crate::http::body::RequestBodyGuard;
use crate::http::error::ApiError;
use crate::http::limits::AdmissionRequest;
use crate::http::parameters::{self, check_name};
use crate::http::request::{json_body, read_body, read_document};
use crate::http::settings::Settings;
use crate::http::state::State;
use crate::llm::Llm;
use crate::store::{ExtractionRows, ExtractionScope};
use crate::wire::{Name, Truth, WholeNumber};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;

/// The longest body.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// What to send instead of a body that is too large.
const INSTEAD: &str = "send the fields of POST /cpesh only";
/// After this time a request answers with what it has done.
const WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireExtraction {
    dataset_source: Option<Name>,
    retry_failed: Option<Truth>,
    questions_only: Option<Truth>,
    after: Option<WholeNumber>,
    upto: Option<WholeNumber>,
}

/// Handles `POST /cpesh`.
pub async fn cpesh(
    request: HttpRequest,
    guard: RequestBodyGuard,
    state: web::Data<State>,
    settings: web::Data<Settings>,
) -> Result<HttpResponse, ApiError> {
    parameters::none(&request)?;
    let (body, announced) = json_body(request.headers(), guard, &settings, MAX_BODY_BYTES, INSTEAD)?;
    let mut permit = state.admit(AdmissionRequest::Request(announced)).await?;
    let slots = (state.admission.requests(), &mut permit);
    let body = read_body(body, &state, slots, MAX_BODY_BYTES, INSTEAD).await?;
    let scope = scope(read_document(&body)?)?;
    if state.extractor.llm().is_none() && scope.rows != ExtractionRows::Questions {
        let message = "this service uses no language model that could extract CPESH parts; start it with \
                       LNSP_TMD_BACKEND=llm (or LNSP_ENABLE_CPESH=true) and LNSP_LLM_ENDPOINT, or ask with \
                       questions_only for the vectors of questions that are stored";
        return Err(ApiError::new(ErrorCode::NoLanguageModel, message));
    }
    let scope = state.extractor.bounded(scope).await?;
    let closed = state.pipeline.entrance().closed();
    let done = state.extractor.extract(&scope, WITHIN, || closed.is_cancelled()).await?;
    Ok(answer(done, scope.upto, state.extractor.llm()))
}

fn scope(wire: WireExtraction) -> Result<ExtractionScope, ApiError> {
    let number = |number: Option<WholeNumber>, otherwise| number.map_or(otherwise, |WholeNumber(n)| n);
    let set = |truth: Option<Truth>| truth.is_some_and(|Truth(set)| set);
    let dataset = wire.dataset_source.map(|Name(name)| name);
    dataset.as_deref().map_or(Ok(()), |name| check_name("dataset_source", name))?;
    let rows = match (set(wire.questions_only), set(wire.retry_failed)) {
        (true, true) => {
            let message = "questions_only asks no language model, so there is nothing to retry: leave out one of \
                           questions_only and retry_failed";
            return Err(ApiError::new(ErrorCode::InvalidQuery, message).param("retry_failed"));
        }
        (true, false) => ExtractionRows::Questions,
        (false, true) => ExtractionRows::AlsoFailed,
        (false, false) => ExtractionRows::WithoutParts,
    };
    let (after, upto) = (number(wire.after, 0), number(wire.upto, i64::MAX));
    Ok(ExtractionScope { dataset, rows, after, upto })
}

fn answer(done: Backfilled, upto: i64, llm: Option<&Llm>) -> HttpResponse {
    let Backfilled { updated, embedded, changed_meanwhile, failed, remaining, through, stopped } = done;
    let failed: std::collections::BTreeMap<&str, u64> =
        failed.iter().map(|(reason, count)| (&**reason, *count)).collect();
    HttpResponse::Ok().json(json!({
        "extracted": updated, "embedded": embedded, "changed_meanwhile": changed_meanwhile, "failed": failed,
        "remaining": remaining, "after": through, "upto": upto, "stopped": stopped,
        "model": llm.map(Llm::model),
    }))
}
