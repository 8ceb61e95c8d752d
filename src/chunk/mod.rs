//! A chunk, and the three states it passes through: [`Chunk`] -> [`TaggedChunk`] -> [`EmbeddedChunk`].
//!
//! Each stage takes one state and gives the next, so nothing can skip a stage and no field waits to be filled.
//! A [`Chunk`] can only be made by [`Chunk::new`], which checks its content. Pure: no I/O, no runtime.

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
/// The longest id, dataset or document name, in bytes.
pub const MAX_NAME_BYTES: usize = 512;

/// What makes a chunk the same chunk when it is sent again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkKey {
    /// The dataset; ids of different datasets never meet.
    pub dataset: Arc<str>,
    /// The client's own id, or the derived one as a UUID.
    pub id: Arc<str>,
}

/// Where a chunk stands in its source.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Placement {
    /// Groups chunks into a document.
    pub document_id: Option<String>,
    /// Orders the chunks of a document.
    pub chunk_index: i64,
    /// Free text, for example the name of a crawl.
    pub source_document: Option<String>,
    /// Free text.
    pub article_title: Option<String>,
    /// Free number.
    pub article_index: Option<i64>,
    /// Explicit links; neighbours by order are computed when read.
    pub parent_cpe_ids: Vec<String>,
    /// See `parent_cpe_ids`.
    pub child_cpe_ids: Vec<String>,
}

/// A chunk as a client sent it, not yet checked.
#[derive(Debug, Clone, Default)]
pub struct Draft {
    /// The client's own id; derived from the content when absent.
    pub id: Option<String>,
    /// The dataset the id lives in.
    pub dataset: Arc<str>,
    /// The request or document this chunk was sent with. Not part of its content.
    pub batch_id: Option<String>,
    /// The text itself.
    pub text: String,
    /// Where it stands.
    pub placement: Placement,
    /// Anything else the client wants kept; stored as it is.
    pub metadata: Option<Value>,
    /// Domain, task, modifier, used only when all three are present.
    pub codes: [Option<i64>; 3],
}

/// A checked chunk: its text is not blank, not over [`MAX_TEXT_BYTES`], and holds no NUL.
#[derive(Debug, PartialEq)]
pub struct Chunk {
    /// Decides whether a chunk is new.
    pub key: ChunkKey,
    /// The public name it will have if it is new: `cpe_id` and `global_id`.
    pub cpe_id: Uuid,
    /// Of everything the client said, apart from `batch_id`.
    pub content_hash: [u8; 32],
    /// See [`Draft::batch_id`].
    pub batch_id: Option<String>,
    /// The text to classify, embed and keep.
    pub text: String,
    /// Where it stands.
    pub placement: Placement,
    /// See [`Draft::metadata`].
    pub metadata: Option<Value>,
    /// The codes the client gave, all three of them and in range.
    pub client_tmd: Option<Tmd>,
    /// As the client sent them; one or two are content without a use.
    codes: [Option<i64>; 3],
}

impl Chunk {
    /// Checks a draft and gives it its identity.
    ///
    /// # Errors
    /// A permanent [`Rejection`] with the field to mend: blank, too long, NUL, a code out of range, an unusable id.
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
        // A derived id is its own public name. A client's id is hashed with its dataset, because the public name has
        // to be a UUID and unique over all datasets.
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

    /// The bytes a chunk is counted with while it is in flight: its text and a flat sum for the rest.
    pub fn weight(&self) -> usize {
        self.text.len() + 1024
    }
}

/// Where a code triple came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TmdSource {
    /// The client sent all three codes.
    Client,
    /// The local classifier, with the version of its artefact.
    Local {
        /// Version of the artefact.
        version: Arc<str>,
    },
    /// A language model.
    Llm {
        /// As the server names it.
        model: Arc<str>,
    },
    /// The local classifier, because the language model that should have said it had no answer.
    Fallback {
        /// Version of the artefact.
        version: Arc<str>,
        /// Why there was no better answer: one of a closed set of names.
        reason: Arc<str>,
    },
}

impl TmdSource {
    /// The closed set of names used in rows, answers and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            TmdSource::Client => "client",
            TmdSource::Local { .. } => "local",
            TmdSource::Llm { .. } => "llm",
            TmdSource::Fallback { .. } => "fallback",
        }
    }

    /// The model or artefact version, where one was asked.
    pub fn model(&self) -> Option<&str> {
        match self {
            TmdSource::Client => None,
            TmdSource::Local { version: name }
            | TmdSource::Llm { model: name }
            | TmdSource::Fallback { version: name, .. } => Some(name),
        }
    }

    /// Why a better source had no answer, where that is so.
    pub fn failure(&self) -> Option<&str> {
        match self {
            TmdSource::Fallback { reason, .. } => Some(reason),
            TmdSource::Client | TmdSource::Local { .. } | TmdSource::Llm { .. } => None,
        }
    }

    /// Reads back what [`Self::kind`], [`Self::model`] and [`Self::failure`] wrote; `None` for a kind this version
    /// does not know.
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

/// A code triple with its provenance.
#[derive(Debug, Clone, PartialEq)]
pub struct Tagging {
    /// The codes.
    pub tmd: Tmd,
    /// Who said so.
    pub source: TmdSource,
    /// How sure the source was; absent for codes that the client gave.
    pub confidence: Option<AxisConfidence>,
    /// How long the source took; absent where none was asked.
    pub took: Option<Duration>,
}

/// A chunk that has its codes.
#[derive(Debug)]
pub struct TaggedChunk {
    /// What was sent.
    pub chunk: Arc<Chunk>,
    /// Its codes.
    pub tagging: Tagging,
}

/// A vector with its circumstances.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// Unit length, finite.
    pub vector: Arc<[f32]>,
    /// The text was longer than the model reads.
    pub truncated: bool,
    /// How long the forward pass took that made this vector, with all the texts in it.
    pub took: Duration,
}

/// A chunk that has its codes and its vector: ready to be written.
#[derive(Debug)]
pub struct EmbeddedChunk {
    /// What was sent.
    pub chunk: Arc<Chunk>,
    /// Its codes.
    pub tagging: Tagging,
    /// Its vector.
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
