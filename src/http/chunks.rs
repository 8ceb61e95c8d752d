//! `DELETE /chunks`: deletes the chunks of a selection, once the caller has said how many they are.
//!
//! The selection comes in the query, or in a JSON body where there are many ids or conditions on metadata. One request
//! deletes for some seconds at most; its answer says how many are left, and the client goes on.

use crate::deletion::{Deletion, DeletionError, MAX_ROWS, SelectionSize};
use crate::error_code::ErrorCode;
use crate::http::body::RequestBodyGuard;
use crate::http::error::{ApiError, status_of};
use crate::http::limits::AdmissionRequest;
use crate::http::parameters::{self, check_name};
use crate::http::request::{content_length, is_large, json_body, read_body, read_document, run_blocking};
use crate::http::settings::Settings;
use crate::http::state::State;
use crate::store::Selection;
use crate::wire::{BoundedList, Fields, Name, WholeNumber};
use actix_web::http::header::{HeaderMap, TRANSFER_ENCODING};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// The most ids in one request.
const MAX_IDS: usize = 10_000;
/// The longest body, inflated: [`MAX_IDS`] of the longest names, and room for the rest.
const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;
/// What to send instead of a body that is too large.
const INSTEAD: &str = "send at most 10000 ids in one request";
/// After this time a request answers with what it has deleted.
pub(super) const WITHIN: Duration = Duration::from_secs(10);
/// What becomes of the space on disk.
const ON_DISK: &str = "the vectors stay in the files of the index until its next build, and the rows in those of \
                       PostgreSQL until it vacuums; neither file shrinks, the space is used again";

/// The parameters of a deletion without a body.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireParameters {
    dataset_source: Option<String>,
    document_id: Option<String>,
    id: Option<String>,
    confirm: Option<WholeNumber>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireDeletion {
    filter: Option<Fields<WireSelection>>,
    confirm: Option<WholeNumber>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireSelection {
    dataset_source: Option<Name>,
    document_id: Option<Name>,
    ids: Option<BoundedList<Name, MAX_IDS>>,
    metadata: Option<Map<String, Value>>,
}

/// Handles `DELETE /chunks`.
pub async fn delete(
    request: HttpRequest,
    guard: RequestBodyGuard,
    state: web::Data<State>,
    settings: web::Data<Settings>,
) -> Result<HttpResponse, ApiError> {
    let headers = request.headers();
    let (selection, confirm, _permit) = if has_body(headers) {
        parameters::none(&request)?;
        let (body, announced) = json_body(headers, guard, &settings, MAX_BODY_BYTES, INSTEAD)?;
        let mut permit = state.admit(AdmissionRequest::Request(announced)).await?;
        let slots = (state.admission.requests(), &mut permit);
        let body = read_body(body, &state, slots, MAX_BODY_BYTES, INSTEAD).await?;
        let wire: WireDeletion = run_blocking(is_large(&body), move || read_document(&body)).await??;
        let Fields(filter) = wire.filter.unwrap_or_default();
        (of_body(filter)?, wire.confirm, permit)
    } else {
        let wire: WireParameters = parameters::of_query(&request)?;
        let permit = state.admit(AdmissionRequest::Request(0)).await?;
        let selection = Selection {
            dataset: wire.dataset_source,
            document: wire.document_id,
            ids: wire.id.map(|id| vec![id]),
            metadata: Vec::new(),
        };
        (selection, wire.confirm, permit)
    };
    check(&selection)?;
    let confirmed = confirmed(confirm);
    match confirmed_deletion(&state, &selection, confirmed).await {
        Ok(deletion) => Ok(answer(deletion)),
        Err(DeletionError::Unconfirmed(size)) => Ok(unconfirmed(size, confirmed)),
        Err(DeletionError::Store(error)) => Err(error.into()),
    }
}

/// The number of chunks that a request says it deletes. A number below zero is none of chunks.
pub(super) fn confirmed(confirm: Option<WholeNumber>) -> Option<u64> {
    confirm.map(|WholeNumber(count)| u64::try_from(count).unwrap_or(u64::MAX))
}

/// Deletes the chunks of a selection that is not everything, if they are so many.
pub(super) async fn confirmed_deletion(
    state: &State,
    selection: &Selection,
    confirmed: Option<u64>,
) -> Result<Deletion, DeletionError> {
    let closed = state.pipeline.entrance().closed();
    state.deleter.delete(selection, confirmed, WITHIN, || closed.is_cancelled()).await
}

fn has_body(headers: &HeaderMap) -> bool {
    content_length(headers).is_some_and(|length| length > 0) || headers.contains_key(TRANSFER_ENCODING)
}

fn of_body(wire: WireSelection) -> Result<Selection, ApiError> {
    let name = |name: Option<Name>| name.map(|Name(name)| name);
    let ids = wire.ids.map(|BoundedList { items, received }| {
        if received > MAX_IDS {
            let message = format!("filter.ids: expected at most {MAX_IDS}, received {received}; {INSTEAD}");
            return Err(ApiError::new(ErrorCode::BodyTooLarge, message).param("filter.ids"));
        }
        Ok(items.into_iter().map(|Name(id)| id).collect())
    });
    let metadata = wire.metadata.unwrap_or_default().into_iter().map(|(name, value)| {
        let value = match value {
            Value::String(text) => text,
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => {
                let message = format!(
                    "filter.metadata: expected a text, a number or a boolean for `{}`",
                    parameters::quoted(&name)
                );
                return Err(ApiError::new(ErrorCode::WrongType, message).param("filter.metadata"));
            }
        };
        Ok((name, value))
    });
    Ok(Selection {
        dataset: name(wire.dataset_source),
        document: name(wire.document_id),
        ids: ids.transpose()?,
        metadata: metadata.collect::<Result<_, _>>()?,
    })
}

/// A selection that cannot delete more than it says.
fn check(selection: &Selection) -> Result<(), ApiError> {
    let Selection { dataset, document, ids, metadata } = selection;
    if selection.is_everything() {
        let message = "the filter is empty, which would delete everything: expected dataset_source, document_id, ids \
                       or metadata; a whole dataset is deleted by its dataset_source";
        return Err(ApiError::new(ErrorCode::MissingField, message).param("filter"));
    }
    if ids.is_some() && dataset.is_none() {
        let message = "ids are those of one dataset: expected dataset_source beside them";
        return Err(ApiError::new(ErrorCode::MissingField, message).param("dataset_source"));
    }
    dataset.as_deref().map_or(Ok(()), |name| check_name("dataset_source", name))?;
    document.as_deref().map_or(Ok(()), |name| check_name("document_id", name))?;
    ids.iter().flatten().try_for_each(|id| check_name("ids", id))?;
    if metadata.iter().any(|(name, value)| name.contains('\0') || value.contains('\0')) {
        let message = "metadata cannot contain a NUL character; remove it";
        return Err(ApiError::new(ErrorCode::NulCharacter, message).param("filter.metadata"));
    }
    Ok(())
}

/// What was deleted, and what is left.
pub(super) fn answer(deletion: Deletion) -> HttpResponse {
    let Deletion { deleted, letters, remaining, index_seq } = deletion;
    HttpResponse::Ok().json(json!({
        "deleted": deleted, "letters": letters, "remaining": remaining, "index_seq": index_seq, "on_disk": ON_DISK,
    }))
}

/// The error object has two more fields than others: what a client asks its user, and sends as `confirm`.
pub(super) fn unconfirmed(size: SelectionSize, confirmed: Option<u64>) -> HttpResponse {
    let SelectionSize { chunks, letters } = size;
    let received = confirmed.map_or_else(|| "none".to_owned(), |count| count.to_string());
    let message = format!(
        "{chunks} chunks and {letters} dead letters are selected: send the request again with confirm={chunks} to delete \
         them, received {received}; one request deletes up to {MAX_ROWS}"
    );
    let code = ErrorCode::ConfirmationNeeded;
    let mut object = ApiError::new(code, message).object();
    object["count"] = json!(chunks);
    object["letters"] = json!(letters);
    HttpResponse::build(status_of(code)).json(json!({ "error": object }))
}
