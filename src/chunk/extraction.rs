//! What became of the CPESH parts of a chunk: not asked for, given by the client, made by a language model, or failed.

use super::Chunk;
use super::cpesh::Cpesh;
use crate::error_code::ErrorCode;
use crate::rejection::Rejection;
use std::sync::Arc;
use std::time::Duration;

/// The CPESH parts of a chunk and where they come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Extraction {
    /// There are none: the client gave none, and no language model was asked.
    NotAsked,
    /// The client gave them: they are those of the chunk.
    ByClient,
    /// A language model extracted them from the text.
    ByLlm {
        /// The parts.
        cpesh: Arc<Cpesh>,
        /// The call that gave them.
        call: ExtractionCall,
    },
    /// There are none: a language model was asked and gave no usable ones.
    Failed {
        /// Why: one of a closed set of names.
        reason: Arc<str>,
        /// The call that failed.
        call: ExtractionCall,
    },
}

/// A call to a language model that asked for CPESH parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtractionCall {
    /// The name of the model on its server.
    pub model: Arc<str>,
    /// How long it took, where that is known.
    pub took: Option<Duration>,
}

/// What a language model extracted before, or that it failed, as it is said of CPESH fields that are sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredExtraction {
    call: ExtractionCall,
    failure: Option<Arc<str>>,
}

impl RestoredExtraction {
    /// The columns `source`, `model`, `took_us` and `failure` of `chunk_cpesh`; `None` for parts of a client.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidProvenance`] with the field to correct.
    pub fn new(
        source: &str,
        model: Option<&str>,
        failure: Option<&str>,
        took: Option<Duration>,
    ) -> Result<Option<RestoredExtraction>, Rejection> {
        let wrong =
            |message: String, field| Err(Rejection::new(ErrorCode::InvalidProvenance, message).param(field));
        match (source, model) {
            ("client", None) if failure.is_none() && took.is_none() => Ok(None),
            ("client", _) => {
                wrong("cpesh_source is client: there was no call to a model".to_owned(), "cpesh_source")
            }
            ("llm", Some(model)) => {
                let call = ExtractionCall { model: model.into(), took };
                Ok(Some(RestoredExtraction { call, failure: failure.map(Arc::from) }))
            }
            ("llm", None) => wrong("cpesh_source is llm: cpesh_model is missing".to_owned(), "cpesh_model"),
            _ => {
                let source: String = source.chars().take(40).collect();
                let source = source.escape_debug();
                let message = format!("cpesh_source: expected client or llm, received '{source}'");
                wrong(message, "cpesh_source")
            }
        }
    }

    /// The names in it, with the fields that they come in.
    pub(super) fn names(&self) -> [(&'static str, Option<&str>); 2] {
        [("cpesh_model", Some(&*self.call.model)), ("cpesh_failure", self.failure.as_deref())]
    }

    /// Checks that there are either parts or a failure.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidProvenance`] for both.
    pub(super) fn check(&self, parts: &Cpesh) -> Result<(), Rejection> {
        if self.failure.is_none() || *parts == Cpesh::default() {
            return Ok(());
        }
        let message = "cpesh_failure is given together with CPESH parts: leave out one of them";
        Err(Rejection::new(ErrorCode::InvalidProvenance, message).param("cpesh_failure"))
    }

    /// The extraction with these parts; `None` without parts and without a failure.
    pub(super) fn of_parts(self, parts: Option<Cpesh>) -> Option<Extraction> {
        let RestoredExtraction { call, failure } = self;
        match failure {
            Some(reason) => Some(Extraction::Failed { reason, call }),
            None => Some(Extraction::ByLlm { cpesh: Arc::new(parts?), call }),
        }
    }
}

impl Extraction {
    /// Of a chunk for which no language model is asked.
    pub fn without_llm(chunk: &Chunk) -> Extraction {
        match (&chunk.restored, &chunk.cpesh) {
            (Some(restored), _) => restored.clone(),
            (None, Some(_)) => Extraction::ByClient,
            (None, None) => Extraction::NotAsked,
        }
    }

    /// The parts, if there are any; `chunk` is the one that this belongs to.
    pub fn parts<'a>(&'a self, chunk: &'a Chunk) -> Option<&'a Cpesh> {
        match self {
            Extraction::ByClient => chunk.cpesh.as_ref(),
            Extraction::ByLlm { cpesh, .. } => Some(cpesh),
            Extraction::NotAsked | Extraction::Failed { .. } => None,
        }
    }

    /// The text that is embedded: the concept where there is one.
    pub fn embedded_text<'a>(&'a self, chunk: &'a Chunk) -> &'a str {
        self.parts(chunk).and_then(|parts| parts.concept_text.as_deref()).unwrap_or(&chunk.text)
    }

    /// The question that gets a vector of its own.
    pub fn probe<'a>(&'a self, chunk: &'a Chunk) -> Option<&'a str> {
        self.parts(chunk).and_then(|parts| parts.probe_question.as_deref())
    }

    /// The name in rows: `client` or `llm`; `None` where there is no row.
    pub fn source(&self) -> Option<&'static str> {
        match self {
            Extraction::NotAsked => None,
            Extraction::ByClient => Some("client"),
            Extraction::ByLlm { .. } | Extraction::Failed { .. } => Some("llm"),
        }
    }

    /// The call to a language model, if there was one.
    pub fn call(&self) -> Option<&ExtractionCall> {
        match self {
            Extraction::ByLlm { call, .. } | Extraction::Failed { call, .. } => Some(call),
            Extraction::NotAsked | Extraction::ByClient => None,
        }
    }

    /// Why a language model gave no parts.
    pub fn failure(&self) -> Option<&str> {
        match self {
            Extraction::Failed { reason, .. } => Some(reason),
            Extraction::NotAsked | Extraction::ByClient | Extraction::ByLlm { .. } => None,
        }
    }
}
