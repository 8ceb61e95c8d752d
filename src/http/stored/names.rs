//! From the name in a request to the one chunk or document that it means, or the error that says why there is none.

use crate::error_code::ErrorCode;
use crate::http::error::ApiError;
use crate::http::parameters::quoted;
use crate::store::{NamedChunk, Store};

/// The chunk with this id: its public name, or its id within the dataset.
///
/// # Errors
/// 404 when there is none, 409 when several datasets have one; the errors of the database.
pub async fn one_chunk(store: &Store, id: &str, dataset: Option<&str>) -> Result<NamedChunk, ApiError> {
    let mut found = store.named_chunks(id, dataset).await?;
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => Err(not_stored("chunk", id, dataset)),
        (Some(last), false) => {
            let datasets = found.into_iter().chain([last]).map(|chunk| chunk.dataset_source);
            Err(ambiguous("chunk", id, datasets, ", or the cpe_id of the chunk in place of the id"))
        }
    }
}

/// The dataset of a document: the one that is given, else the only one that has the document.
///
/// # Errors
/// 404 when no dataset has it, 409 when several do; the errors of the database.
pub async fn dataset_of_document(
    store: &Store,
    document: &str,
    given: Option<String>,
) -> Result<String, ApiError> {
    if let Some(given) = given {
        return Ok(given);
    }
    let mut found = store.datasets_of_document(document).await?;
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => Err(not_stored("document", document, None)),
        (Some(last), false) => Err(ambiguous("document", document, found.into_iter().chain([last]), "")),
    }
}

/// 404: nothing with this name is stored.
pub fn not_stored(what: &str, name: &str, dataset: Option<&str>) -> ApiError {
    let place = dataset.map(|dataset| format!(" in the dataset '{}'", quoted(dataset))).unwrap_or_default();
    let message = format!("no {what} '{}' is stored{place}", quoted(name));
    ApiError::new(ErrorCode::NotStored, message)
}

/// 409: several datasets have one, these among them.
fn ambiguous(what: &str, id: &str, datasets: impl Iterator<Item = String>, or: &str) -> ApiError {
    let datasets: Vec<String> = datasets.map(|dataset| format!("'{}'", quoted(&dataset))).collect();
    let message = format!(
        "more than one dataset has a {what} '{}', {} among them: expected dataset_source{or}",
        quoted(id),
        datasets.join(", ")
    );
    ApiError::new(ErrorCode::AmbiguousId, message).param("dataset_source")
}
