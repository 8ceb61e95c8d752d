//! The model of this process: a tokenizer and encoders, each on its own thread.

use super::error::VectorError;
use crate::encoder::{Encoder, Tokenizer, Tokens, Vector};
use crate::metrics;
use crate::threads::{Lane, Worker};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The threads that run the encoders, one encoder each.
pub type EncoderPool = Worker<Box<dyn Encoder>>;

/// The threads of the local model; cheap to clone.
#[derive(Clone)]
pub struct Local {
    /// Runs the passes.
    pub encoders: EncoderPool,
    /// A separate thread, because tokenizing a long text would block the async runtime for too long.
    pub tokenizer: Worker<Arc<Tokenizer>>,
}

impl Local {
    /// Tokenizes a text on the tokenizer's thread.
    pub(super) async fn read(
        &self,
        lane: Lane,
        text: impl AsRef<str> + Send + 'static,
    ) -> Result<Arc<Tokens>, VectorError> {
        let tokens = self.tokenizer.run(lane, move |tokenizer| {
            let started = Instant::now();
            let tokens = tokenizer.tokenize(text.as_ref());
            metrics::tokenized(started.elapsed());
            if let Ok(tokens) = &tokens {
                if tokens.truncated {
                    metrics::truncated();
                }
                if tokens.unread.is_some() {
                    metrics::unread();
                }
            }
            tokens
        });
        Ok(Arc::new(tokens.await??))
    }

    /// Runs a pass on the next free encoder; returns the vectors and the duration of the computation.
    pub(super) async fn pass(
        &self,
        lane: Lane,
        texts: Vec<Arc<Tokens>>,
    ) -> Result<(Vec<Vector>, Duration), VectorError> {
        let pass = self.encoders.run(lane, move |encoder| {
            let started = Instant::now();
            let texts: Vec<&Tokens> = texts.iter().map(AsRef::as_ref).collect();
            let vectors = encoder.encode(&texts)?;
            let took = started.elapsed();
            let longest = texts.iter().map(|text| text.len()).max().unwrap_or_default();
            let tokens = texts.iter().map(|text| text.len()).sum();
            metrics::embedded(texts.len(), tokens, longest * texts.len(), took);
            Ok::<_, VectorError>((vectors, took))
        });
        pass.await?
    }
}
