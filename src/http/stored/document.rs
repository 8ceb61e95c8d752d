//! `GET /documents/{id}/chunks`: the chunks of a document in order, page by page.

use super::cursor::CursorOf;
use super::fields::write_chunk;
use super::names::not_stored;
use crate::http::error::{ApiError, no_answer};
use crate::http::limits::AdmissionRequest;
use crate::http::pieces::in_pieces;
use crate::http::request::run_blocking;
use crate::http::state::State;
use crate::http::{parameters, path};
use crate::store::{ChunkPlace, PageOfDocument};
use crate::wire::{Name, Truth, WholeNumber};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

/// The default number of chunks in a page.
const USUAL_PAGE: u32 = 100;
/// The maximum number of chunks in a page.
const MAX_PAGE: u32 = 1000;
/// The bytes of stored fields above which a page ends early.
const PAGE_BYTES: usize = 2 * 1024 * 1024;
/// The bytes that a page holds: rows, and the same again as JSON, where escaped characters and names come on top.
const HELD_BYTES: usize = 5 * 1024 * 1024;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireDocumentPage {
    dataset_source: Option<Name>,
    limit: Option<WholeNumber>,
    after: Option<String>,
    vectors: Option<Truth>,
}

/// Handles `GET /documents/{id}/chunks`.
pub async fn document_chunks(
    request: HttpRequest,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let wire: WireDocumentPage = parameters::of_query(&request)?;
    let document = path::name(&request, "id")?;
    let dataset = parameters::optional_name("dataset_source", wire.dataset_source)?;
    let limit = parameters::page_length(wire.limit, USUAL_PAGE, MAX_PAGE)?;
    let after = wire.after.as_deref().map(|after| CursorOf::Chunks.read(after)).transpose()?;
    let after = after.map(|(dataset_source, chunk_index, id)| ChunkPlace { dataset_source, chunk_index, id });
    let with_vectors = wire.vectors.is_some_and(|Truth(wanted)| wanted);
    let permit = state.admit_standalone(AdmissionRequest::Read(HELD_BYTES)).await?;
    let page = PageOfDocument {
        document: &document,
        dataset: dataset.as_deref(),
        after: after.as_ref(),
        limit,
        bytes: PAGE_BYTES,
        with_vectors,
    };
    let page = state.store.document_page(&page).await?;
    if page.chunks.is_empty() && after.is_none() {
        return Err(not_stored("document", &document, dataset.as_deref()));
    }
    let next = page.next.map(|ChunkPlace { dataset_source, chunk_index, id }| {
        CursorOf::Chunks.write(&(dataset_source, chunk_index, id))
    });
    let next = next.transpose()?;
    let chunks = page.chunks;
    let write = move || {
        let mut pieces = vec![Bytes::from_static(b"{\"chunks\":[")];
        // Each is freed when it is written.
        for (place, record) in chunks.into_iter().enumerate() {
            let mut text = if place > 0 { vec![b','] } else { Vec::new() };
            write_chunk(&mut text, &record, with_vectors)?;
            pieces.push(text.into());
        }
        pieces.push(format!("],\"next\":{}}}", json!(next)).into());
        Ok::<_, serde_json::Error>(pieces)
    };
    let pieces = run_blocking(true, write).await?.map_err(|_| no_answer())?;
    Ok(in_pieces(pieces, permit))
}
