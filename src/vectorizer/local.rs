//! The model of this process: a tokenizer and some encoders, each on a thread of its own.

use super::VectorError;
use crate::encoder::{Encoder, Tokenizer, Tokens, Vector};
use crate::metrics;
use crate::threads::{Lane, Worker};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The encoders.
pub type Model = Worker<Box<dyn Encoder>>;

/// Both kinds of threads.
#[derive(Clone)]
pub struct Local {
    /// The encoders.
    pub model: Model,
    /// On a thread of its own: a long text takes longer to tokenize than the pipeline may stand still.
    pub tokenizer: Worker<Arc<Tokenizer>>,
}

impl Local {
    /// Tokenizes.
    pub(super) async fn read(
        &self,
        lane: Lane,
        text: impl AsRef<str> + Send + 'static,
    ) -> Result<Arc<Tokens>, VectorError> {
        let tokens = self.tokenizer.run(lane, move |tokenizer| {
            let started = Instant::now();
            let tokens = tokenizer.tokenize(text.as_ref());
            metrics::tokenized(started.elapsed(), tokens.as_ref().is_ok_and(|tokens| tokens.truncated));
            tokens
        });
        Ok(Arc::new(tokens.await??))
    }

    /// Runs a pass on the next free encoder and measures it there.
    pub(super) async fn pass(
        &self,
        lane: Lane,
        texts: Vec<Arc<Tokens>>,
    ) -> Result<(Vec<Vector>, Duration), VectorError> {
        let pass = self.model.run(lane, move |encoder| {
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
