//! `POST /verify`: compares the search indexes with PostgreSQL, and mends them on request.

use crate::error_code::ErrorCode;
use crate::http::body::RequestBodyGuard;
use crate::http::error::ApiError;
use crate::http::limits::AdmissionRequest;
use crate::http::parameters;
use crate::http::request::{json_body, read_body, read_document};
use crate::http::settings::Settings;
use crate::http::state::State;
use crate::index::{Index, VerifyReport};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};

/// The longest body.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// What to send instead of a body that is too large.
const INSTEAD: &str = "send the fields of POST /verify only";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireVerify {
    #[serde(default)]
    repair: bool,
}

/// Handles `POST /verify`.
pub async fn verify(
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
    let WireVerify { repair } = read_document(&body)?;
    let compare = async |index: &Index| {
        let failed =
            |error| ApiError::new(ErrorCode::IndexUnavailable, format!("the index is not compared: {error}"));
        index.verify(repair).await.map(shown).map_err(failed)
    };
    let (concepts, questions) = (compare(&state.index).await?, compare(&state.questions).await?);
    Ok(HttpResponse::Ok().json(json!({ "concept": concepts, "question": questions, "repaired": repair })))
}

fn shown(report: VerifyReport) -> Value {
    let VerifyReport { rows, missing, extra, stale, damaged } = report;
    json!({ "rows": rows, "missing": missing, "extra": extra, "stale": stale, "damaged": damaged })
}
