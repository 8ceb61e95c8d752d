//! `DELETE` of one chunk, of a document and of a dataset, by their names in the path. The name of a dataset is not enough:
//! the caller says how many chunks it has.

use super::names::{dataset_of_document, not_stored, one_chunk};
use crate::deletion::{Deletion, DeletionError, SelectionSize};
use crate::error_code::ErrorCode;
use crate::http::chunks::{WITHIN, answer, confirmed, confirmed_deletion, unconfirmed};
use crate::http::error::ApiError;
use crate::http::limits::AdmissionRequest;
use crate::http::state::State;
use crate::http::{parameters, path};
use crate::store::Selection;
use crate::wire::{Name, WholeNumber};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireDataset {
    dataset_source: Option<Name>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireConfirmation {
    confirm: Option<WholeNumber>,
}

/// Handles `DELETE /chunks/{id}`. The dead letter of a chunk goes with it, or alone where only that is there.
pub async fn delete_chunk(request: HttpRequest, state: web::Data<State>) -> Result<HttpResponse, ApiError> {
    let WireDataset { dataset_source } = parameters::of_query(&request)?;
    let id = path::name(&request, "id")?;
    let dataset = parameters::optional_name("dataset_source", dataset_source)?;
    let _permit = state.admit(AdmissionRequest::Request(0)).await?;
    let (item, dataset, id) = match one_chunk(&state.store, &id, dataset.as_deref()).await {
        Ok(named) => (Some(named.item()?), named.dataset_source, named.id),
        Err(error) => match dataset.filter(|_| error.code() == ErrorCode::NotStored) {
            Some(dataset) => (None, dataset, id),
            None => return Err(error),
        },
    };
    let (of_dataset, ids) = (Some(dataset.clone()), Some(vec![id.clone()]));
    let letters = Selection { dataset: of_dataset, ids, ..Selection::default() };
    let deletion = state.deleter.delete_chunk(item, &letters).await?;
    found(deletion, || not_stored("chunk", &id, Some(&dataset)))
}

/// Handles `DELETE /documents/{id}`.
pub async fn delete_document(
    request: HttpRequest,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let WireDataset { dataset_source } = parameters::of_query(&request)?;
    let document = path::name(&request, "id")?;
    let dataset = parameters::optional_name("dataset_source", dataset_source)?;
    let _permit = state.admit(AdmissionRequest::Request(0)).await?;
    let dataset = dataset_of_document(&state.store, &document, dataset).await?;
    // Not while the document is being replaced: then some of its new chunks would be left.
    let _turn = state.document_turns.wait(&dataset, &document).await;
    let (of_dataset, of_document) = (Some(dataset.clone()), Some(document.clone()));
    let selection = Selection { dataset: of_dataset, document: of_document, ..Selection::default() };
    let closed = state.pipeline.entrance().closed();
    let deletion = state.deleter.delete_all(&selection, WITHIN, || closed.is_cancelled()).await?;
    found(deletion, || not_stored("document", &document, Some(&dataset)))
}

/// Handles `DELETE /datasets/{name}`.
pub async fn delete_dataset(request: HttpRequest, state: web::Data<State>) -> Result<HttpResponse, ApiError> {
    let WireConfirmation { confirm } = parameters::of_query(&request)?;
    let name = path::name(&request, "name")?;
    let _permit = state.admit(AdmissionRequest::Request(0)).await?;
    let selection = Selection { dataset: Some(name.clone()), ..Selection::default() };
    let confirmed = confirmed(confirm);
    match confirmed_deletion(&state, &selection, confirmed).await {
        Ok(deletion) => found(deletion, || not_stored("dataset", &name, None)),
        Err(DeletionError::Unconfirmed(SelectionSize { chunks: 0, letters: 0 })) => {
            Err(not_stored("dataset", &name, None))
        }
        Err(DeletionError::Unconfirmed(size)) => Ok(unconfirmed(size, confirmed)),
        Err(DeletionError::Store(error)) => Err(error.into()),
    }
}

/// The answer to a deletion, if there was something to delete.
fn found(deletion: Deletion, none: impl FnOnce() -> ApiError) -> Result<HttpResponse, ApiError> {
    let Deletion { deleted, letters, remaining, .. } = deletion;
    if deleted + letters + remaining == 0 { Err(none()) } else { Ok(answer(deletion)) }
}
