//! A chunk before it is checked, and the checks of its content.

use crate::error_code::ErrorCode;
use crate::rejection::Rejection;
use serde_json::Value;
use std::sync::Arc;

/// The longest text, in bytes of UTF-8.
pub const MAX_TEXT_BYTES: usize = 64 * 1024;
/// The longest id, dataset or document name, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 512;

/// The position of a chunk in its source.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Placement {
    /// Chunks with the same value form a document.
    pub document_id: Option<String>,
    /// The position of the chunk in its document.
    pub chunk_index: i64,
    /// Free text, for example the name of a crawl.
    pub source_document: Option<String>,
    /// Free text: the title of the article.
    pub article_title: Option<String>,
    /// Free number: the position of the article in its source.
    pub article_index: Option<i64>,
    /// Explicit links to parent chunks. Neighbours in document order are computed on reading.
    pub parent_cpe_ids: Vec<String>,
    /// Explicit links to child chunks.
    pub child_cpe_ids: Vec<String>,
}

/// A chunk as the client sent it, not yet checked.
#[derive(Debug, Clone, Default)]
pub struct Draft {
    /// The client's id. Without one, the id is derived from the content.
    pub id: Option<String>,
    /// The dataset of the id.
    pub dataset: Arc<str>,
    /// The batch that the chunk was sent in. Not part of its content.
    pub batch_id: Option<String>,
    /// The text to classify, embed and store.
    pub text: String,
    /// Its position in its source.
    pub placement: Placement,
    /// Any other JSON to store with the chunk, unchanged.
    pub metadata: Option<Value>,
    /// Domain, task and modifier code; used only when all three are present.
    pub codes: [Option<i64>; 3],
}

impl Draft {
    /// Checks text, names and metadata; codes are checked by [`crate::tmd::Tmd::new`].
    pub(super) fn check(&self) -> Result<(), Rejection> {
        check_text(&self.text)?;
        check_names(self)
    }
}

fn check_text(text: &str) -> Result<(), Rejection> {
    if text.len() > MAX_TEXT_BYTES {
        let message =
            format!("text too long: expected at most {MAX_TEXT_BYTES} bytes, received {}", text.len());
        return Err(Rejection::new(ErrorCode::TextTooLong, message).param("text"));
    }
    if text.contains('\0') {
        return Err(
            Rejection::new(ErrorCode::NulCharacter, "text contains a NUL character; remove it").param("text")
        );
    }
    if text.trim().is_empty() {
        return Err(Rejection::new(ErrorCode::TextEmpty, "text is empty or blank").param("text"));
    }
    Ok(())
}

fn check_names(draft: &Draft) -> Result<(), Rejection> {
    let placement = &draft.placement;
    let named = [
        ("id", draft.id.as_deref()),
        ("dataset_source", Some(&*draft.dataset)),
        ("batch_id", draft.batch_id.as_deref()),
        ("document_id", placement.document_id.as_deref()),
        ("source_document", placement.source_document.as_deref()),
        ("article_title", placement.article_title.as_deref()),
    ];
    let links = placement.parent_cpe_ids.iter().map(|id| ("parent_cpe_ids", Some(id.as_str())));
    let links = links.chain(placement.child_cpe_ids.iter().map(|id| ("child_cpe_ids", Some(id.as_str()))));
    for (field, value) in named.into_iter().chain(links) {
        let Some(value) = value else { continue };
        if value.contains('\0') {
            let message = format!("{field} contains a NUL character; remove it");
            return Err(Rejection::new(ErrorCode::NulCharacter, message).param(field));
        }
        if value.len() > MAX_NAME_BYTES {
            let message = format!(
                "{field} too long: expected at most {MAX_NAME_BYTES} bytes, received {}",
                value.len()
            );
            return Err(Rejection::new(ErrorCode::InvalidName, message).param(field));
        }
    }
    for (field, value) in [("id", draft.id.as_deref()), ("dataset_source", Some(&*draft.dataset))] {
        if value.is_some_and(|value| value.trim().is_empty()) {
            let message = format!("{field} is blank; give a name or leave the field out");
            return Err(Rejection::new(ErrorCode::InvalidName, message).param(field));
        }
    }
    if draft.metadata.as_ref().is_some_and(contains_nul) {
        let message = "metadata contains a NUL character; remove it";
        return Err(Rejection::new(ErrorCode::NulCharacter, message).param("metadata"));
    }
    Ok(())
}

fn contains_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(contains_nul),
        Value::Object(fields) => {
            fields.iter().any(|(name, value)| name.contains('\0') || contains_nul(value))
        }
        _ => false,
    }
}
