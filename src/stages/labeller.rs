//! Gives a chunk its codes and, where they are to be extracted, its CPESH parts, in one call to the language model.
//!
//! A [`Tagger`] decides on the codes of all other chunks, and of those for which that call fails: a text that is too much
//! for one answer still gets its codes.

use super::tagger::Tagger;
use crate::chunk::{Chunk, Extraction, Tagging, VectorSource};
use crate::llm::{Llm, LlmError, Wanted};
use crate::rejection::Rejection;
use crate::threads::Progress;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Gives codes and CPESH parts. A handle, cheap to clone; it outlives the generations of the stages.
#[derive(Clone)]
pub struct Labeller {
    tagger: Tagger,
    /// Asked for CPESH parts; `None` when none are to be extracted.
    extractor: Option<Llm>,
}

/// The result of labelling a chunk.
#[derive(Debug, Clone, PartialEq)]
pub struct Labelled {
    /// Its codes, if it gets any, and their source.
    pub tagging: Tagging,
    /// Its CPESH parts and their source.
    pub extraction: Extraction,
}

impl Labelled {
    /// How long the sources of this process took.
    pub fn took(&self) -> Duration {
        let extraction = self.extraction.call().and_then(|call| call.took);
        self.tagging.took.max(extraction).unwrap_or_default()
    }
}

impl Labeller {
    /// A handle that asks `extractor` for CPESH parts, if there is one, and `tagger` for codes.
    pub fn new(tagger: Tagger, extractor: Option<Llm>) -> Labeller {
        Labeller { tagger, extractor }
    }

    /// The records of the threads that it relies on.
    pub fn progress(&self) -> &[Progress] {
        self.tagger.progress()
    }

    /// Whether a language model may be asked, now or later.
    pub fn may_ask_llm(&self) -> bool {
        self.extractor.is_some() || self.tagger.may_ask_llm()
    }

    /// Whether a language model is asked about this chunk now. It then takes the other inlet of the first stage.
    pub async fn needs_llm(&self, chunk: &Arc<Chunk>) -> bool {
        self.extractor_for(chunk).is_some() || self.tagger.needs_llm(chunk).await
    }

    /// Whether the text that is embedded is known before the chunk is labelled, and its vector is not.
    pub fn keeps_text(&self, chunk: &Chunk) -> bool {
        self.extractor_for(chunk).is_none() && !matches!(chunk.vector, VectorSource::Given { .. })
    }

    /// Codes and CPESH parts of a chunk. Those that the client gave are taken as they are; a chunk that is to have no codes
    /// can get parts all the same. Both calls together, for the parts and for the codes alone, have the time that a chunk
    /// waits for a language model.
    ///
    /// # Errors
    /// As [`Tagger::tag`]. A failed extraction is no error.
    pub async fn label(&self, chunk: &Arc<Chunk>) -> Result<Labelled, Rejection> {
        let wait = self.tagger.begin_wait();
        let Some(llm) = self.extractor_for(chunk) else {
            let extraction = Extraction::without_llm(chunk);
            return Ok(Labelled { tagging: self.tagger.tag(chunk, wait).await?, extraction });
        };
        let started = Instant::now();
        let asked = llm.classify(&chunk.text, Wanted::CodesAndCpesh);
        match wait.bound(asked, |limit| LlmError::Deadline { limit }).await {
            Ok(answer) => {
                let tagging = match &chunk.given_tagging {
                    Some(tagging) => tagging.clone(),
                    None if self.tagger.takes_llm_codes() => {
                        self.tagger.tag_by(llm, &answer, chunk).await.into()
                    }
                    None => self.tagger.tag(chunk, wait).await?,
                };
                Ok(Labelled { tagging, extraction: llm.extraction(answer, &chunk.text) })
            }
            Err(error) => {
                let extraction = llm.failed_extraction(error.kind(), started.elapsed());
                Ok(Labelled { tagging: self.tagger.tag(chunk, wait).await?, extraction })
            }
        }
    }

    /// The language model that is asked for the CPESH parts of this chunk. A chunk that comes with the vector of its text
    /// is restored as it was.
    fn extractor_for(&self, chunk: &Chunk) -> Option<&Llm> {
        let wanted =
            !chunk.skip_cpesh && chunk.cpesh.is_none() && !matches!(chunk.vector, VectorSource::Given { .. });
        self.extractor.as_ref().filter(|llm| wanted && llm.available())
    }
}
