//! `POST /retag`: asks the language model again for the codes of stored chunks. One request works for some seconds; its
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
use crate::llm::CacheUse;
use crate::store::{RetagScope, RetagSource};
use crate::wire::{BoundedList, Name, WholeNumber};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;

/// The longest body.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// What to send instead of a body that is too large.
const INSTEAD: &str = "send the fields of POST /retag only";
/// After this time a request answers with what it has done.
const WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireRetag {
    sources: Option<BoundedList<Name, { RetagSource::ALL.len() }>>,
    dataset_source: Option<Name>,
    after: Option<WholeNumber>,
    upto: Option<WholeNumber>,
    #[serde(default)]
    fresh: bool,
}

/// Handles `POST /retag`.
pub async fn retag(
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
    let wire: WireRetag = read_document(&body)?;
    let cache = if wire.fresh { CacheUse::Refresh } else { CacheUse::Use };
    let scope = scope(wire)?;
    let Some(retagger) = &state.retagger else {
        let message = "the codes of this service come from the local classifier, and there is no language model to ask; \
                       start it with LNSP_TMD_BACKEND=llm and LNSP_LLM_ENDPOINT";
        return Err(ApiError::new(ErrorCode::NoLanguageModel, message));
    };
    let scope = retagger.bounded(scope).await?;
    let closed = state.pipeline.entrance().closed();
    let done = retagger.retag(&scope, cache, WITHIN, || closed.is_cancelled()).await?;
    Ok(answer(done, scope.upto, retagger.llm().model()))
}

fn scope(wire: WireRetag) -> Result<RetagScope, ApiError> {
    let number = |number: Option<WholeNumber>, otherwise| number.map_or(otherwise, |WholeNumber(n)| n);
    let dataset = wire.dataset_source.map(|Name(name)| name);
    dataset.as_deref().map_or(Ok(()), |name| check_name("dataset_source", name))?;
    let sources = wire.sources.map_or_else(Vec::new, |list| list.items);
    let sources = sources.into_iter().map(|Name(name)| {
        RetagSource::of_name(&name).ok_or_else(|| {
            let message = format!(
                "sources: expected fallback, local, llm or none, received `{}`; codes of the client are not changed",
                parameters::quoted(&name)
            );
            ApiError::new(ErrorCode::InvalidQuery, message).param("sources")
        })
    });
    let mut sources = sources.collect::<Result<Vec<_>, _>>()?;
    if sources.is_empty() {
        sources.push(RetagSource::Fallback);
    }
    let (after, upto) = (number(wire.after, 0), number(wire.upto, i64::MAX));
    Ok(RetagScope { dataset, sources, failures: None, after, upto })
}

fn answer(done: Backfilled, upto: i64, model: &str) -> HttpResponse {
    let Backfilled { updated, embedded: _, changed_meanwhile, failed, remaining, through, stopped } = done;
    HttpResponse::Ok().json(json!({
        "retagged": updated, "changed_meanwhile": changed_meanwhile, "failed": failed, "remaining": remaining,
        "after": through, "upto": upto, "stopped": stopped, "model": model,
    }))
}
