//! What answers mean for the CPESH parts of a chunk.

use super::{Llm, LlmAnswer};
use crate::chunk::{Extraction, ExtractionCall};
use crate::metrics;
use std::sync::Arc;
use std::time::Duration;

/// The reason of a failure when an answer has the codes alone.
const NO_PARTS: &str = "cpesh_missing";

impl Llm {
    /// The CPESH parts of an answer about this text, or why there are none.
    pub fn extraction(&self, answer: LlmAnswer, text: &str) -> Extraction {
        let parts = match answer.cpesh {
            Some(Ok(parts)) => parts.given(text).ok_or(NO_PARTS),
            Some(Err(failure)) => Err(failure.kind()),
            None => Err(NO_PARTS),
        };
        match parts {
            Ok(parts) => {
                metrics::extracted("ok");
                let call = ExtractionCall { model: self.model().clone(), took: Some(answer.took) };
                Extraction::ByLlm { cpesh: Arc::new(parts), call }
            }
            Err(reason) => self.failed_extraction(reason, answer.took),
        }
    }

    /// An extraction that failed for this reason: a name of a closed set.
    pub fn failed_extraction(&self, reason: &'static str, took: Duration) -> Extraction {
        metrics::extracted(reason);
        let call = ExtractionCall { model: self.model().clone(), took: Some(took) };
        Extraction::Failed { reason: reason.into(), call }
    }
}
