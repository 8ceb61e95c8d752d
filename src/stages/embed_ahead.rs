//! Embedding ahead: while a language model is asked about a chunk, the model of the next stage has often nothing to do,
//! so the text is embedded meanwhile. Then the answer of the language model is followed by the transaction at once.
//!
//! It is for few chunks, whose client waits: at most [`PLACES`] at a time, one text a pass. Where there are more, the
//! next stage embeds them in larger passes, and their wait is hidden behind the calls of others anyway.

use super::stage::Stage;
use crate::chunk::{Chunk, Embedding};
use crate::metrics;
use crate::threads::Lane;
use crate::vectorizer::{Embedded, Vectorizer};
use futures_util::future::{Either, select};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Semaphore;

/// The most chunks at a time.
const PLACES: usize = 16;

/// Embeds texts beside other work. A handle, cheap to clone; it outlives the generations of the stages.
#[derive(Clone)]
pub struct EmbedAhead {
    vectorizer: Vectorizer,
    places: Arc<Semaphore>,
    /// One pass at a time for each encoder.
    passes: Arc<Semaphore>,
}

/// The text of a chunk, or the concept that its client gave; it is not copied.
struct ChunkText(Arc<Chunk>);

impl AsRef<str> for ChunkText {
    fn as_ref(&self) -> &str {
        let concept = self.0.cpesh.as_ref().and_then(|cpesh| cpesh.concept_text.as_deref());
        concept.unwrap_or(&self.0.text)
    }
}

impl EmbedAhead {
    /// A handle that uses the model of the next stage.
    pub fn new(vectorizer: Vectorizer) -> EmbedAhead {
        let passes = Arc::new(Semaphore::new(vectorizer.concurrency()));
        EmbedAhead { vectorizer, places: Arc::new(Semaphore::new(PLACES)), passes }
    }

    /// Does the work, and embeds the text of the chunk beside it. There is no vector when there is no place, when the work
    /// ends before the pass begins, or when it fails: then it is the next stage that embeds, and that finds the error.
    pub async fn beside<T>(
        &self,
        chunk: &Arc<Chunk>,
        work: impl Future<Output = T>,
    ) -> (T, Option<Embedding>) {
        let Ok(_place) = self.places.try_acquire() else { return (work.await, None) };
        let begun = AtomicBool::new(false);
        let embedding = async {
            let text = self.vectorizer.read(Lane::Bulk, ChunkText(chunk.clone())).await.ok()?;
            let _pass = self.passes.acquire().await.ok()?;
            begun.store(true, Ordering::Relaxed);
            let passed = self.vectorizer.embed(Lane::Bulk, std::slice::from_ref(&text)).await;
            metrics::stage_busy(Stage::Embed.name(), passed.busy);
            let Embedded { vector, took } = passed.vectors.into_iter().next()?.ok()?;
            Some(Embedding { vector, truncated: text.truncated(), unread: text.unread(), took })
        };
        match select(pin!(work), pin!(embedding)).await {
            Either::Left((done, embedding)) if begun.load(Ordering::Relaxed) => (done, embedding.await),
            Either::Left((done, _)) => (done, None),
            Either::Right((embedding, work)) => (work.await, embedding),
        }
    }
}
