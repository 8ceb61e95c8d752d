//! A chunk and its states in the pipeline: [`Chunk`] -> [`TaggedChunk`] -> [`EmbeddedChunk`].
//!
//! Each stage takes one state and returns the next, so no chunk can skip a stage and no field is empty until later.
//! [`Chunk::new`] is the only constructor and checks the content. Pure: no I/O, no runtime.

mod identity;
mod sent;

use crate::error_code::ErrorCode;
use crate::rejection::Rejection;
use crate::tmd::{AxisConfidence, Tmd};
use identity::{content_hash, derived_id, public_name};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// The longest text, in bytes of UTF-8.
pub const MAX_TEXT_BYTES: usize = 64 * 1024;
/// The longest id, dataset or document name, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 512;

/// Identifies a chunk when it is sent again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkKey {
    /// The dataset. Ids are unique within a dataset.
    pub dataset: Arc<str>,
    /// The client's id, or the derived id as a UUID.
    pub id: Arc<str>,
}

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

/// A checked chunk: its text is not blank, has at most [`MAX_TEXT_BYTES`] bytes, and contains no NUL.
#[derive(Debug, PartialEq)]
pub struct Chunk {
    /// Decides whether the chunk is new.
    pub key: ChunkKey,
    /// Its public name if it is new: `cpe_id` in rows, `global_id` in answers.
    pub cpe_id: Uuid,
    /// blake3 hash of everything the client sent except id, dataset and `batch_id`.
    pub content_hash: [u8; 32],
    /// See [`Draft::batch_id`].
    pub batch_id: Option<String>,
    /// The text to classify, embed and store.
    pub text: String,
    /// Its position in its source.
    pub placement: Placement,
    /// See [`Draft::metadata`].
    pub metadata: Option<Value>,
    /// The client's codes, when all three are present.
    pub client_tmd: Option<Tmd>,
    /// The client's codes as sent. One or two of them are part of the content but not used.
    codes: [Option<i64>; 3],
}

impl Chunk {
    /// Checks a draft and computes its identity.
    ///
    /// # Errors
    /// A permanent [`Rejection`] with the field to correct: blank or too long text, NUL, a code out of range, an invalid
    /// id.
    pub fn new(draft: Draft) -> Result<Chunk, Rejection> {
        check_text(&draft.text)?;
        check_names(&draft)?;
        let client_tmd = match draft.codes {
            [Some(domain), Some(task), Some(modifier)] => Some(Tmd::new(domain, task, modifier)),
            _ => None,
        }
        .transpose()
        .map_err(|error| {
            Rejection::new(ErrorCode::CodeOutOfRange, error.to_string()).param(error.axis.field())
        })?;
        let content_hash = content_hash(&draft);
        // A derived id is also the public name. A client's id is hashed with its dataset, because the public name must
        // be a UUID that is unique over all datasets.
        let (id, cpe_id) = match &draft.id {
            Some(id) => (id.as_str().into(), public_name(&draft.dataset, id)),
            None => {
                let id = derived_id(&draft);
                (id.to_string().into(), id)
            }
        };
        let key = ChunkKey { id, dataset: draft.dataset };
        Ok(Chunk {
            cpe_id,
            key,
            content_hash,
            batch_id: draft.batch_id,
            text: draft.text,
            placement: draft.placement,
            metadata: draft.metadata,
            client_tmd,
            codes: draft.codes,
        })
    }

    /// Bytes that the chunk counts while it is in flight: its text, and 1024 for the rest.
    pub fn weight(&self) -> usize {
        self.text.len() + 1024
    }
}

/// The source of a code triple.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TmdSource {
    /// The client sent the three codes.
    Client,
    /// The local classifier.
    Local {
        /// Version of the classifier's artefact.
        version: Arc<str>,
    },
    /// The language model.
    Llm {
        /// The model's name on its server.
        model: Arc<str>,
    },
    /// The local classifier, because the language model gave no answer.
    Fallback {
        /// Version of the classifier's artefact.
        version: Arc<str>,
        /// Why the language model gave no answer: one of a closed set of names.
        reason: Arc<str>,
    },
}

impl TmdSource {
    /// The name in rows, answers and metric labels: `client`, `local`, `llm` or `fallback`.
    pub fn kind(&self) -> &'static str {
        match self {
            TmdSource::Client => "client",
            TmdSource::Local { .. } => "local",
            TmdSource::Llm { .. } => "llm",
            TmdSource::Fallback { .. } => "fallback",
        }
    }

    /// The model or artefact version; `None` for codes of the client.
    pub fn model(&self) -> Option<&str> {
        match self {
            TmdSource::Client => None,
            TmdSource::Local { version: name }
            | TmdSource::Llm { model: name }
            | TmdSource::Fallback { version: name, .. } => Some(name),
        }
    }

    /// Why the language model gave no answer; `None` unless this is a fallback.
    pub fn failure(&self) -> Option<&str> {
        match self {
            TmdSource::Fallback { reason, .. } => Some(reason),
            TmdSource::Client | TmdSource::Local { .. } | TmdSource::Llm { .. } => None,
        }
    }

    /// The inverse of [`Self::kind`], [`Self::model`] and [`Self::failure`]. `None` for a kind that this version does not
    /// know.
    pub fn from_parts(kind: &str, model: Option<&str>, failure: Option<&str>) -> Option<TmdSource> {
        let name = || Arc::from(model.unwrap_or_default());
        match kind {
            "client" => Some(TmdSource::Client),
            "local" => Some(TmdSource::Local { version: name() }),
            "llm" => Some(TmdSource::Llm { model: name() }),
            "fallback" => {
                let reason = failure.unwrap_or_default().into();
                Some(TmdSource::Fallback { version: name(), reason })
            }
            _ => None,
        }
    }
}

/// A code triple with its source.
#[derive(Debug, Clone, PartialEq)]
pub struct Tagging {
    /// The three codes.
    pub tmd: Tmd,
    /// Where the codes came from.
    pub source: TmdSource,
    /// The confidence of the source; absent for codes of the client.
    pub confidence: Option<AxisConfidence>,
    /// How long the source took; absent for codes of the client.
    pub took: Option<Duration>,
}

/// A chunk with its codes.
#[derive(Debug)]
pub struct TaggedChunk {
    /// The chunk as sent.
    pub chunk: Arc<Chunk>,
    /// Its codes and their source.
    pub tagging: Tagging,
}

/// A vector and how it was made.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// The vector: unit length, all values finite.
    pub vector: Arc<[f32]>,
    /// The text was longer than the model reads, so the vector is that of its beginning.
    pub truncated: bool,
    /// Duration of the forward pass, which other texts shared.
    pub took: Duration,
}

/// A chunk with its codes and its vector, ready to be written.
#[derive(Debug)]
pub struct EmbeddedChunk {
    /// The chunk as sent.
    pub chunk: Arc<Chunk>,
    /// Its codes and their source.
    pub tagging: Tagging,
    /// Its vector and how it was made.
    pub embedding: Embedding,
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
