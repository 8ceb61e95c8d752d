//! A chunk before it is checked, and the checks of its content.

use super::blank::is_blank;
use super::cpesh::Cpesh;
use super::extraction::RestoredExtraction;
use super::metadata::Metadata;
use super::provenance::Provenance;
use super::tagging::{LabelChoice, TmdSource};
use super::vector::VectorSource;
use crate::error_code::ErrorCode;
use crate::rejection::Rejection;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use std::sync::Arc;

/// The longest text, in bytes of UTF-8.
pub const MAX_TEXT_BYTES: usize = 64 * 1024;
/// The longest id, dataset or document name, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 512;
/// The most explicit links to parents, and to children.
pub const MAX_LINKS: usize = 64;

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

/// What happens to a chunk whose id is stored with other content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnConflict {
    /// It is rejected with `id_conflict`.
    #[default]
    Error,
    /// The stored chunk stays, and the answer is `duplicate`.
    Keep,
    /// It takes the place of the stored chunk.
    Replace,
}

/// The id of the batch that a chunk was sent in. Not part of its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchId {
    /// The client named it.
    Named(Arc<str>),
    /// The client named none: it was made for the answer, and says nothing about the chunk.
    Generated(Arc<str>),
}

impl BatchId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        match self {
            BatchId::Named(id) | BatchId::Generated(id) => id,
        }
    }
}

/// A chunk as the client sent it, not yet checked.
#[derive(Debug, Clone, Default)]
pub struct Draft {
    /// The client's id. Without one, the id is derived from the content.
    pub id: Option<String>,
    /// The dataset of the id.
    pub dataset: Arc<str>,
    /// The batch that the chunk was sent in.
    pub batch: Option<BatchId>,
    /// The text to classify, embed and store.
    pub text: String,
    /// Its position in its source.
    pub placement: Placement,
    /// Any other JSON object to store with the chunk, unchanged.
    pub metadata: Option<Metadata>,
    /// What the client extracted from the text.
    pub cpesh: Cpesh,
    /// The language model that made the CPESH parts, if the client says that one did; else they are the client's.
    pub restored: Option<RestoredExtraction>,
    /// No language model is to extract CPESH parts.
    pub skip_cpesh: bool,
    /// Which codes it is to have.
    pub labels: LabelChoice,
    /// Domain, task and modifier code; used only when all three are present.
    pub codes: [Option<i64>; 3],
    /// Where the codes come from, if the client says so: together with all three, or why there are none.
    pub provenance: Option<Provenance>,
    /// Where its vector comes from.
    pub vector: VectorSource,
    /// What the request wants when the id is stored with other content.
    pub on_conflict: OnConflict,
    /// When the chunk arrived. Becomes `created_at`.
    pub received_at: DateTime<Utc>,
}

impl Draft {
    /// Checks text, CPESH parts and names; codes are checked by [`crate::tmd::Tmd::new`].
    pub(super) fn check(&self) -> Result<(), Rejection> {
        check_text(&self.text)?;
        self.cpesh.check()?;
        self.restored.as_ref().map_or(Ok(()), |restored| restored.check(&self.cpesh))?;
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
    if is_blank(text) {
        let message = "text is empty or has only invisible characters";
        return Err(Rejection::new(ErrorCode::TextEmpty, message).param("text"));
    }
    Ok(())
}

fn check_names(draft: &Draft) -> Result<(), Rejection> {
    let placement = &draft.placement;
    for (field, links) in
        [("parent_cpe_ids", &placement.parent_cpe_ids), ("child_cpe_ids", &placement.child_cpe_ids)]
    {
        check_count(field, links.len())?;
    }
    let source = draft.provenance.as_ref().map(Provenance::source);
    let named = [
        ("id", draft.id.as_deref()),
        ("dataset_source", Some(&*draft.dataset)),
        ("batch_id", draft.batch.as_ref().map(BatchId::as_str)),
        ("document_id", placement.document_id.as_deref()),
        ("source_document", placement.source_document.as_deref()),
        ("article_title", placement.article_title.as_deref()),
        ("tmd_model", source.and_then(TmdSource::model)),
        ("tmd_failure", source.and_then(TmdSource::failure)),
    ];
    let named = named.into_iter().chain(draft.restored.iter().flat_map(RestoredExtraction::names));
    let links = placement.parent_cpe_ids.iter().map(|id| ("parent_cpe_ids", Some(id.as_str())));
    let links = links.chain(placement.child_cpe_ids.iter().map(|id| ("child_cpe_ids", Some(id.as_str()))));
    for (field, value) in named.chain(links) {
        value.map_or(Ok(()), |value| check_name(field, value))?;
    }
    for (field, value) in [("id", draft.id.as_deref()), ("dataset_source", Some(&*draft.dataset))] {
        value.map_or(Ok(()), |value| check_not_blank(field, value))?;
    }
    Ok(())
}

/// Checks a list of links, of which `field` received `count`.
///
/// # Errors
/// More than [`MAX_LINKS`].
pub fn check_count(field: &'static str, count: usize) -> Result<(), Rejection> {
    if count <= MAX_LINKS {
        return Ok(());
    }
    let message = format!("{field}: expected at most {MAX_LINKS} links, received {count}");
    Err(Rejection::new(ErrorCode::TooManyLinks, message).param(field))
}

/// Checks a name. Its length first, so that a long one costs nothing.
///
/// # Errors
/// More than [`MAX_NAME_BYTES`], or a NUL character.
pub fn check_name(field: &'static str, name: &str) -> Result<(), Rejection> {
    if name.len() > MAX_NAME_BYTES {
        let message =
            format!("{field} too long: expected at most {MAX_NAME_BYTES} bytes, received {}", name.len());
        return Err(Rejection::new(ErrorCode::InvalidName, message).param(field));
    }
    if name.contains('\0') {
        let message = format!("{field} contains a NUL character; remove it");
        return Err(Rejection::new(ErrorCode::NulCharacter, message).param(field));
    }
    Ok(())
}

/// Checks a name that must say something.
///
/// # Errors
/// A name that is empty, or has only white space and invisible characters.
pub fn check_not_blank(field: &'static str, name: &str) -> Result<(), Rejection> {
    if !is_blank(name) {
        return Ok(());
    }
    let message = format!("{field} is blank; give a name or leave the field out");
    Err(Rejection::new(ErrorCode::InvalidName, message).param(field))
}
