//! The second stage: gives each chunk its vector.
//!
//! Texts are tokenized as they arrive, and wait. Whenever one of the model's encoders is free it pulls the next batch
//! from those who wait: texts of like length around the oldest one, as many as fit its budget, fewer when other
//! encoders could take a part of them. No timer.

use super::{Inlet, Parcel, ROOM, Stage, StageContext, TaskContext};
use crate::chunk::{Chunk, EmbeddedChunk, Embedding, TaggedChunk};
use crate::encoder::plan::choose;
use crate::error_code::ErrorCode;
use crate::flow::Batch;
use crate::metrics;
use crate::rejection::Rejection;
use crate::threads::Lane;
use crate::vectorizer::{Embedded, Text, VectorError, Vectorizer};
use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, fut};
use std::sync::Arc;

/// Finds its way into the actor once its text is read.
struct Readable {
    tagged: TaggedChunk,
    text: Text,
}

/// Texts that have to wait for a pass beside another one.
const MANY: usize = 16;

/// The actor.
pub struct Embedder {
    vectorizer: Vectorizer,
    next: Inlet<EmbeddedChunk>,
    context_: StageContext,
    waiting: Batch<Parcel<Readable>>,
    /// Passes under way, no more than are worth starting side by side, and the tokens in them.
    passes: usize,
    running: usize,
}

impl Embedder {
    /// A stage that pushes to `next`.
    pub fn new(vectorizer: Vectorizer, next: Inlet<EmbeddedChunk>, context_: StageContext) -> Self {
        Embedder { vectorizer, next, context_, waiting: Batch::default(), passes: 0, running: 0 }
    }

    /// Starts forward passes while an encoder is free and somebody waits. Beside another pass only when many wait: the
    /// few chunks of a small request go on in their order.
    fn pull(&mut self, context: &mut Context<Self>) {
        let at_once = self.vectorizer.concurrency();
        while !self.waiting.is_empty()
            && (self.passes == 0 || (self.passes < at_once && self.waiting.len() >= MANY))
        {
            self.start_pass(context);
        }
    }

    fn start_pass(&mut self, context: &mut Context<Self>) {
        let (budget, at_once) = (self.vectorizer.budget(), self.vectorizer.concurrency());
        let share = |lengths: &[usize]| budget.share(lengths, self.running, at_once);
        let mut parcels = self.waiting.take(|lengths| choose(lengths, share(lengths)));
        parcels.iter_mut().for_each(|parcel| parcel.begin_work(Stage::Embed.name()));
        let tokens: usize = parcels.iter().map(|parcel| parcel.cargo().text.size()).sum();
        self.passes += 1;
        self.running += tokens;
        let (vectorizer, next, context_) =
            (self.vectorizer.clone(), self.next.clone(), self.context_.clone());
        let pass = self.context_.start(|work| async move {
            work.inspect(&parcels).await;
            let embedded = embed(&vectorizer, parcels, &work).await;
            // The encoder is free again while these wait for room in the next stage.
            context_.spawn(|work| async move {
                for parcel in embedded {
                    work.wait_for(ROOM, next.push(parcel)).await;
                }
            });
            context_.exit_guard.disarm();
        });
        context.spawn(fut::wrap_future::<_, Self>(pass).map(move |ended, stage, context| match ended {
            Ok(()) => {
                stage.passes -= 1;
                stage.running -= tokens;
                stage.pull(context);
            }
            Err(_panicked) => context.stop(),
        }));
    }
}

impl Actor for Embedder {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.context_.stop_when_retired(context);
    }
}

impl Handler<Parcel<TaggedChunk>> for Embedder {
    type Result = ();

    fn handle(&mut self, mut parcel: Parcel<TaggedChunk>, context: &mut Context<Self>) {
        self.context_.begin_work(&mut parcel);
        let vectorizer = self.vectorizer.clone();
        let reading = self.context_.start(|work| async move { read(&vectorizer, parcel, &work).await });
        context.spawn(fut::wrap_future::<_, Self>(reading).map(|read, stage, context| match read {
            Ok(Some(mut parcel)) => {
                parcel.rest();
                let length = parcel.cargo().text.size();
                if parcel.delivery_attempts() > 0 {
                    stage.waiting.push_alone(parcel, length);
                } else {
                    stage.waiting.push(parcel, length);
                }
                stage.pull(context);
            }
            Ok(None) => {}
            Err(_panicked) => context.stop(),
        }));
    }
}

/// A chunk as what its text is read from.
struct Of(Arc<Chunk>);

impl AsRef<str> for Of {
    fn as_ref(&self) -> &str {
        &self.0.text
    }
}

/// Makes the text ready; `None` when the chunk had to be rejected.
async fn read(
    vectorizer: &Vectorizer,
    parcel: Parcel<TaggedChunk>,
    work: &TaskContext,
) -> Option<Parcel<Readable>> {
    let text = Of(parcel.cargo().chunk.clone());
    match work.wait_for("the tokenizer", vectorizer.read(Lane::Bulk, text)).await {
        Ok(text) => Some(parcel.map(|tagged| Readable { tagged, text })),
        Err(error) => {
            work.reject(parcel, rejection(&error));
            None
        }
    }
}

/// Gives the vectors of one batch; chunks that get none are rejected.
async fn embed(
    vectorizer: &Vectorizer,
    parcels: Vec<Parcel<Readable>>,
    work: &TaskContext,
) -> Vec<Parcel<EmbeddedChunk>> {
    let texts: Vec<Text> = parcels.iter().map(|parcel| parcel.cargo().text.clone()).collect();
    let passed = work.wait_for("the model", vectorizer.embed(Lane::Bulk, &texts)).await;
    metrics::stage_busy(Stage::Embed.name(), passed.busy);
    let pairs = parcels.into_iter().zip(passed.vectors);
    pairs.filter_map(|(parcel, embedded)| finish(parcel, embedded, work)).collect()
}

/// Adds the vector, or rejects the chunk that has none.
fn finish(
    parcel: Parcel<Readable>,
    embedded: Result<Embedded, VectorError>,
    work: &TaskContext,
) -> Option<Parcel<EmbeddedChunk>> {
    match embedded {
        Ok(Embedded { vector, took }) => {
            Some(parcel.at_rest().map(|Readable { tagged, text }| EmbeddedChunk {
                chunk: tagged.chunk,
                tagging: tagged.tagging,
                embedding: Embedding { vector, truncated: text.truncated(), took },
            }))
        }
        Err(error) => {
            work.reject(parcel, rejection(&error));
            None
        }
    }
}

fn rejection(error: &VectorError) -> Rejection {
    let code = match error {
        VectorError::Gone => ErrorCode::Draining,
        VectorError::Loading => ErrorCode::Lost,
        error if error.retryable() => ErrorCode::EmbedUnavailable,
        _ => ErrorCode::EmbedFailed,
    };
    Rejection::new(code, error.to_string())
}
