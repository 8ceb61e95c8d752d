//! `GET /documents` and `GET /datasets`: what there is, with counts, page by page.

use super::cursor::CursorOf;
use crate::http::error::ApiError;
use crate::http::limits::AdmissionRequest;
use crate::http::parameters;
use crate::http::pieces::in_pieces;
use crate::http::state::State;
use crate::store::{ListedDataset, ListedDocument};
use crate::wire::{Name, WholeNumber};
use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

/// The default length of a page.
const USUAL_PAGE: u32 = 100;
/// The greatest length of a page.
const MAX_PAGE: u32 = 1000;
/// The bytes that a page holds, with names of usual lengths.
const HELD_BYTES: usize = 2 * 1024 * 1024;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireDocumentList {
    dataset_source: Option<Name>,
    limit: Option<WholeNumber>,
    after: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireDatasetList {
    limit: Option<WholeNumber>,
    after: Option<String>,
}

/// Handles `GET /documents`.
pub async fn documents(request: HttpRequest, state: web::Data<State>) -> Result<HttpResponse, ApiError> {
    let wire: WireDocumentList = parameters::of_query(&request)?;
    let dataset = parameters::optional_name("dataset_source", wire.dataset_source)?;
    let limit = parameters::page_length(wire.limit, USUAL_PAGE, MAX_PAGE)?;
    let after = wire.after.as_deref().map(|after| CursorOf::Documents.read::<(String, String)>(after));
    let after = after.transpose()?;
    let permit = state.admit_standalone(AdmissionRequest::Read(HELD_BYTES)).await?;
    let after = after.as_ref().map(|(document, dataset)| (document.as_str(), dataset.as_str()));
    // One more says whether there are others.
    let mut found = state.store.documents(dataset.as_deref(), after, limit + 1).await?;
    let is_last = found.len() <= limit as usize;
    found.truncate(limit as usize);
    let last = found.last().filter(|_| !is_last);
    let next =
        last.map(|last| CursorOf::Documents.write(&(&last.document_id, &last.dataset_source))).transpose()?;
    let documents: Vec<Value> = found.iter().map(document).collect();
    let page = json!({ "documents": documents, "next": next });
    Ok(in_pieces(vec![page.to_string().into()], permit))
}

/// Handles `GET /datasets`.
pub async fn datasets(request: HttpRequest, state: web::Data<State>) -> Result<HttpResponse, ApiError> {
    let wire: WireDatasetList = parameters::of_query(&request)?;
    let limit = parameters::page_length(wire.limit, USUAL_PAGE, MAX_PAGE)?;
    let after = wire.after.as_deref().map(|after| CursorOf::Datasets.read::<String>(after)).transpose()?;
    let permit = state.admit_standalone(AdmissionRequest::Read(HELD_BYTES)).await?;
    let mut found = state.store.datasets(after.as_deref(), limit + 1).await?;
    let is_last = found.len() <= limit as usize;
    found.truncate(limit as usize);
    let last = found.last().filter(|_| !is_last);
    let next = last.map(|last| CursorOf::Datasets.write(&last.dataset_source)).transpose()?;
    let datasets: Vec<Value> = found.iter().map(dataset).collect();
    let page = json!({ "datasets": datasets, "next": next });
    Ok(in_pieces(vec![page.to_string().into()], permit))
}

fn document(listed: &ListedDocument) -> Value {
    let time = |time: &DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Micros, true);
    let ListedDocument { document_id, dataset_source, chunks, first_created_at, last_created_at } = listed;
    json!({
        "document_id": document_id, "dataset_source": dataset_source, "chunks": chunks,
        "first_created_at": time(first_created_at), "last_created_at": time(last_created_at),
    })
}

fn dataset(listed: &ListedDataset) -> Value {
    let ListedDataset { dataset_source, chunks, documents } = listed;
    json!({ "dataset_source": dataset_source, "chunks": chunks, "documents": documents })
}
