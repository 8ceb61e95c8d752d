//! The codes of a chunk and where they come from.

use crate::tmd::{AxisConfidence, Tmd};
use std::sync::Arc;
use std::time::Duration;

/// In rows: the local classifier was sure enough, so that no language model was asked.
const FAST_FIRST: &str = "fast_first";
/// In rows: task and modifier are those of the local classifier; `tmd_source` says who gave the domain.
const HYBRID: &str = "hybrid";

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
    /// The local classifier, before a language model was asked: it was sure enough.
    FastFirst {
        /// Version of the classifier's artefact.
        version: Arc<str>,
    },
    /// The local classifier, in the mode `hybrid`: it was sure enough of the domain.
    HybridLocal {
        /// Version of the classifier's artefact.
        version: Arc<str>,
    },
    /// A language model for the domain, in the mode `hybrid`; the local classifier for task and modifier.
    HybridLlm {
        /// The model's name on its server, and the version of the classifier's artefact.
        models: Arc<str>,
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
    /// The name in rows and answers: `client`, `local`, `llm` or `fallback`. In the mode `hybrid`, who gave the domain.
    pub fn kind(&self) -> &'static str {
        match self {
            TmdSource::Client => "client",
            TmdSource::Local { .. } | TmdSource::FastFirst { .. } | TmdSource::HybridLocal { .. } => "local",
            TmdSource::Llm { .. } | TmdSource::HybridLlm { .. } => "llm",
            TmdSource::Fallback { .. } => "fallback",
        }
    }

    /// The model or artefact version; `None` for codes of the client.
    pub fn model(&self) -> Option<&str> {
        match self {
            TmdSource::Client => None,
            TmdSource::Local { version: name }
            | TmdSource::FastFirst { version: name }
            | TmdSource::HybridLocal { version: name }
            | TmdSource::HybridLlm { models: name }
            | TmdSource::Llm { model: name }
            | TmdSource::Fallback { version: name, .. } => Some(name),
        }
    }

    /// Why the codes are not all those of the first source in the order: why the language model gave no answer, or
    /// `fast_first` or `hybrid`, by which it was not asked or not for all of them. `None` for all others.
    pub fn failure(&self) -> Option<&str> {
        match self {
            TmdSource::Fallback { reason, .. } => Some(reason),
            TmdSource::FastFirst { .. } => Some(FAST_FIRST),
            TmdSource::HybridLocal { .. } | TmdSource::HybridLlm { .. } => Some(HYBRID),
            TmdSource::Client | TmdSource::Local { .. } | TmdSource::Llm { .. } => None,
        }
    }

    /// The inverse of [`Self::kind`], [`Self::model`] and [`Self::failure`]. `None` for a kind that this version does
    /// not know.
    pub fn from_parts(kind: &str, model: Option<&str>, failure: Option<&str>) -> Option<TmdSource> {
        let name = || Arc::from(model.unwrap_or_default());
        match kind {
            "client" => Some(TmdSource::Client),
            "local" if failure == Some(FAST_FIRST) => Some(TmdSource::FastFirst { version: name() }),
            "local" if failure == Some(HYBRID) => Some(TmdSource::HybridLocal { version: name() }),
            "local" => Some(TmdSource::Local { version: name() }),
            "llm" if failure == Some(HYBRID) => Some(TmdSource::HybridLlm { models: name() }),
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
