//! What became of the CPESH parts of a chunk: not asked for, given by the client, made by a language model, or failed.

use super::Chunk;
use super::cpesh::Cpesh;
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

impl Extraction {
    /// Of a chunk for which no language model is asked.
    pub fn without_llm(chunk: &Chunk) -> Extraction {
        match &chunk.cpesh {
            Some(_) => Extraction::ByClient,
            None => Extraction::NotAsked,
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
