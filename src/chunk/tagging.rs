//! The codes of a chunk and where they come from.

use crate::tmd::{AxisConfidence, Tmd};
use std::sync::Arc;
use std::time::Duration;

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

    /// The inverse of [`Self::kind`], [`Self::model`] and [`Self::failure`]. `None` for a kind that this version does
    /// not know.
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

impl Tagging {
    /// Codes that the client gave by itself.
    pub fn by_client(tmd: Tmd) -> Tagging {
        Tagging { tmd, source: TmdSource::Client, confidence: None, took: None }
    }
}
