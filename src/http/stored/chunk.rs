//! `GET /chunks/{id}`: one chunk, its neighbours in its document, and the chunks that its links lead to.

use super::fields::{add_field, add_links, write_chunk};
use super::names::{not_stored, one_chunk};
use crate::http::error::{ApiError, no_answer};
use crate::http::limits::AdmissionRequest;
use crate::http::pieces::in_pieces;
use crate::http::state::State;
use crate::http::{parameters, path};
use crate::store::Accesses;
use crate::wire::{Name, Truth};
use actix_web::{HttpRequest, HttpResponse, web};
use chrono::SecondsFormat;
use serde::Deserialize;
use serde_json::{Value, json};

/// The bytes that an answer holds. Only numbers in metadata that PostgreSQL writes with hundreds of digits take more.
const CHUNK_BYTES: usize = 1024 * 1024;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireChunkRead {
    dataset_source: Option<Name>,
    vectors: Option<Truth>,
}

/// Handles `GET /chunks/{id}`.
pub async fn chunk(request: HttpRequest, state: web::Data<State>) -> Result<HttpResponse, ApiError> {
    let wire: WireChunkRead = parameters::of_query(&request)?;
    let id = path::name(&request, "id")?;
    let dataset = parameters::optional_name("dataset_source", wire.dataset_source)?;
    let with_vectors = wire.vectors.is_some_and(|Truth(wanted)| wanted);
    let permit = state.admit_standalone(AdmissionRequest::Read(CHUNK_BYTES)).await?;
    let named = one_chunk(&state.store, &id, dataset.as_deref()).await?;
    let found = state.store.chunk(&named, with_vectors).await?;
    let found = found.ok_or_else(|| not_stored("chunk", &id, dataset.as_deref()))?;
    let item = named.item()?;
    // With those of this process that are not written, and without this one.
    let unwritten = state.accesses.as_ref().and_then(|accesses| accesses.unwritten(item));
    let accesses = [found.accesses, unwritten].into_iter().flatten().reduce(Accesses::and);
    state.count_accesses([item]);
    let mut text = Vec::new();
    let written = write_chunk(&mut text, &found.record, with_vectors)
        .and_then(|()| add_links(&mut text, "parents", &found.parents))
        .and_then(|()| add_links(&mut text, "children", &found.children))
        .and_then(|()| match &state.accesses {
            Some(_) => add_field(&mut text, "access", &access(accesses)),
            None => Ok(()),
        });
    written.map_err(|_| no_answer())?;
    Ok(in_pieces(vec![text.into()], permit))
}

fn access(accesses: Option<Accesses>) -> Value {
    let last_at = accesses.map(|accesses| accesses.last_at.to_rfc3339_opts(SecondsFormat::Micros, true));
    json!({ "count": accesses.map_or(0, |accesses| accesses.count), "last_at": last_at })
}
