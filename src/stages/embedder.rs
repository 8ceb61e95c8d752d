//! The second stage: gives each chunk its vector. A chunk that brings one goes on with it.
//!
//! Texts are tokenized as they arrive, and wait. Whenever one of the model's encoders is free, the next batch is taken
//! from the waiting texts: texts of similar length around the oldest one, as many as fit the budget of a pass, fewer
//! when other encoders can take a part of them. There is no timer.

use super::context::{StageContext, TaskContext};
use super::stage::{Inlet, Parcel, ROOM, Stage};
use crate::chunk::{Chunk, EmbeddedChunk, Embedding, TaggedChunk, VectorSource};
use crate::encoder::plan::choose;
use crate::error_code::ErrorCode;
use crate::flow::Batch;
use crate::metrics;
use crate::rejection::Rejection;
use crate::threads::Lane;
use crate::vectorizer::{Embedded, Text, VectorError, Vectorizer};
use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, fut};
use std::sync::Arc;

/// A chunk with codes whose text is tokenized.
struct Tokenized {
    tagged: TaggedChunk,
    text: Text,
}

/// The number of waiting texts from which a pass is started beside another one.
const MANY: usize = 16;

/// The actor of the second stage.
pub struct Embedder {
    vectorizer: Vectorizer,
    next: Inlet<EmbeddedChunk>,
    stage_context: StageContext,
    waiting: Batch<Parcel<Tokenized>>,
    passes: usize,
    tokens_in_passes: usize,
}

impl Embedder {
    /// A stage that pushes to `next`.
    pub fn new(vectorizer: Vectorizer, next: Inlet<EmbeddedChunk>, stage_context: StageContext) -> Self {
        Embedder {
            vectorizer,
            next,
            stage_context,
            waiting: Batch::default(),
            passes: 0,
            tokens_in_passes: 0,
        }
    }

    /// Starts forward passes while an encoder is free and texts wait. A pass beside another one needs many waiting
    /// texts, so that the few chunks of a small request keep their order.
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
        let share = |lengths: &[usize]| budget.share(lengths, self.tokens_in_passes, at_once);
        let mut parcels = self.waiting.take(|lengths| choose(lengths, share(lengths)));
        parcels.iter_mut().for_each(|parcel| parcel.begin_work(Stage::Embed.name()));
        let tokens: usize = parcels.iter().map(|parcel| parcel.cargo().text.size()).sum();
        self.passes += 1;
        self.tokens_in_passes += tokens;
        let vectorizer = self.vectorizer.clone();
        let pass = self.stage_context.run_critical(|task| async move {
            task.inject_faults(&parcels).await;
            embed(&vectorizer, parcels, &task).await
        });
        context.spawn(fut::wrap_future::<_, Self>(pass).map(move |ended, stage, context| match ended {
            Ok(embedded) => {
                stage.passes -= 1;
                stage.tokens_in_passes -= tokens;
                stage.push(embedded);
                stage.pull(context);
            }
            Err(_) => context.stop(),
        }));
    }

    /// Sends embedded chunks on, in a task of its own: the encoder is free while they wait for room.
    fn push(&self, embedded: Vec<Parcel<EmbeddedChunk>>) {
        let next = self.next.clone();
        self.stage_context.run_critical(|task| async move {
            for parcel in embedded {
                task.wait_for(ROOM, next.push(parcel)).await;
            }
        });
    }
}

impl Actor for Embedder {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.stage_context.stop_when_retired(context);
    }
}

impl Handler<Parcel<TaggedChunk>> for Embedder {
    type Result = ();

    fn handle(&mut self, mut parcel: Parcel<TaggedChunk>, context: &mut Context<Self>) {
        self.stage_context.begin_work(&mut parcel);
        if let VectorSource::Given { embedding, .. } = &parcel.cargo().chunk.vector {
            let embedding = embedding.clone();
            let given = |TaggedChunk { chunk, tagging }| EmbeddedChunk { chunk, tagging, embedding };
            self.push(vec![parcel.at_rest().map(given)]);
            return;
        }
        let vectorizer = self.vectorizer.clone();
        let reading = self.stage_context.run_critical(|task| async move {
            task.inject_faults(std::slice::from_ref(&parcel)).await;
            read(&vectorizer, parcel, &task).await
        });
        context.spawn(fut::wrap_future::<_, Self>(reading).map(|read, stage, context| match read {
            Ok(Some(mut parcel)) => {
                parcel.rest();
                let length = parcel.cargo().text.size();
                let attempts = parcel.attempts();
                stage.waiting.push(parcel, length, attempts);
                stage.pull(context);
            }
            Ok(None) => {}
            Err(_) => context.stop(),
        }));
    }
}

/// A chunk in the place of the text that is embedded, which is not copied.
struct TextOf(Arc<Chunk>);

impl AsRef<str> for TextOf {
    fn as_ref(&self) -> &str {
        self.0.embedded_text()
    }
}

/// Tokenizes the text; `None` when the chunk had to be rejected.
async fn read(
    vectorizer: &Vectorizer,
    parcel: Parcel<TaggedChunk>,
    task: &TaskContext,
) -> Option<Parcel<Tokenized>> {
    let text = TextOf(parcel.cargo().chunk.clone());
    match task.wait_for("the tokenizer", vectorizer.read(Lane::Bulk, text)).await {
        Ok(text) => Some(parcel.map(|tagged| Tokenized { tagged, text })),
        Err(error) => {
            task.reject(parcel, rejection(&error));
            None
        }
    }
}

/// Gives the vectors of one batch; chunks that get none are rejected.
async fn embed(
    vectorizer: &Vectorizer,
    parcels: Vec<Parcel<Tokenized>>,
    task: &TaskContext,
) -> Vec<Parcel<EmbeddedChunk>> {
    let texts: Vec<Text> = parcels.iter().map(|parcel| parcel.cargo().text.clone()).collect();
    let passed = task.wait_for("the model", vectorizer.embed(Lane::Bulk, &texts)).await;
    metrics::stage_busy(Stage::Embed.name(), passed.busy);
    let pairs = parcels.into_iter().zip(passed.vectors);
    pairs.filter_map(|(parcel, embedded)| finish(parcel, embedded, task)).collect()
}

/// Adds the vector, or rejects the chunk that has none.
fn finish(
    parcel: Parcel<Tokenized>,
    embedded: Result<Embedded, VectorError>,
    task: &TaskContext,
) -> Option<Parcel<EmbeddedChunk>> {
    match embedded {
        Ok(Embedded { vector, took }) => {
            Some(parcel.at_rest().map(|Tokenized { tagged, text }| EmbeddedChunk {
                chunk: tagged.chunk,
                tagging: tagged.tagging,
                embedding: Embedding { vector, truncated: text.truncated(), unread: text.unread(), took },
            }))
        }
        Err(error) => {
            task.reject(parcel, rejection(&error));
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
