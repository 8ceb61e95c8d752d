//! The first stage: gives each chunk its Domain, Task and Modifier codes.
//!
//! Codes from the client were checked when the chunk was made and are taken as they are; otherwise the local
//! classifier is asked, on its own thread. It has two inlets, so that chunks waiting for a language model never
//! stand in the way of those that need none.

use super::{Duty, Inlet, Parcel, Stage};
use crate::chunk::{Chunk, TaggedChunk, Tagging, TmdSource};
use crate::classifier::LocalClassifier;
use crate::flow::{Lane, Worker, WorkerError};
use crate::metrics;
use crate::outcome::{Cause, Outcome, Rejection};
use crate::tmd::Axis;
use actix::{Actor, Context, Handler};
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::Instant;

/// A chunk whose codes are given or found locally.
pub struct NeedsNoLlm(pub Arc<Chunk>);

/// A chunk whose codes a language model is asked for.
pub struct NeedsLlm(pub Arc<Chunk>);

/// Somebody outside the process who is asked for codes.
pub trait RemoteTagger: Send + Sync {
    /// Asks for one text. The rejection is what the client hears when there is no other source.
    fn tag(&self, chunk: Arc<Chunk>) -> BoxFuture<'static, Result<Tagging, Rejection>>;
}

/// What the stage works with; outlives its generations.
#[derive(Clone)]
pub struct TmdTools {
    /// On its own thread.
    pub classifier: Worker<LocalClassifier>,
    /// Asked for the chunks that come by the other inlet, where there is one to ask.
    pub remote: Option<Arc<dyn RemoteTagger>>,
}

/// The actor.
pub struct TmdExtractor {
    tools: TmdTools,
    next: Inlet<TaggedChunk>,
    duty: Duty,
}

impl TmdExtractor {
    /// A stage that pushes to `next`.
    pub fn new(tools: TmdTools, next: Inlet<TaggedChunk>, duty: Duty) -> Self {
        TmdExtractor { tools, next, duty }
    }
}

impl Actor for TmdExtractor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.duty.stop_when_retired(context);
    }
}

impl Handler<Parcel<NeedsNoLlm>> for TmdExtractor {
    type Result = ();

    fn handle(&mut self, mut parcel: Parcel<NeedsNoLlm>, _: &mut Context<Self>) {
        self.duty.take_in_hand(&mut parcel);
        let tools = self.tools.clone();
        self.give_codes(parcel.map(|NeedsNoLlm(chunk)| chunk), |chunk| async move {
            tag_locally(&tools, chunk).await
        });
    }
}

impl Handler<Parcel<NeedsLlm>> for TmdExtractor {
    type Result = ();

    fn handle(&mut self, mut parcel: Parcel<NeedsLlm>, _: &mut Context<Self>) {
        self.duty.take_in_hand(&mut parcel);
        let tools = self.tools.clone();
        self.give_codes(parcel.map(|NeedsLlm(chunk)| chunk), |chunk| async move {
            match &tools.remote {
                Some(remote) => remote.tag(chunk).await,
                None => tag_locally(&tools, chunk).await,
            }
        });
    }
}

impl TmdExtractor {
    /// Runs one question for codes as a task of its own, and sends the chunk on with the answer.
    fn give_codes<F>(&self, parcel: Parcel<Arc<Chunk>>, ask: impl FnOnce(Arc<Chunk>) -> F)
    where
        F: Future<Output = Result<Tagging, Rejection>> + 'static,
    {
        let (next, answer) = (self.next.clone(), ask(parcel.cargo().clone()));
        self.duty.spawn(async move {
            match answer.await {
                Ok(tagging) => {
                    metrics::tagged(tagging.tmd.name(Axis::Domain));
                    next.push(parcel.map(|chunk| TaggedChunk { chunk, tagging })).await;
                }
                Err(rejection) => parcel.settle(Outcome::Rejected(rejection)),
            }
        });
    }
}

async fn tag_locally(tools: &TmdTools, chunk: Arc<Chunk>) -> Result<Tagging, Rejection> {
    if let Some(tmd) = chunk.client_tmd {
        return Ok(Tagging { tmd, source: TmdSource::Client, confidence: None, took: None });
    }
    let answer = tools.classifier.run(Lane::Bulk, move |classifier| {
        let started = Instant::now();
        let found = classifier.classify(&chunk.text);
        let source = TmdSource::Local { version: classifier.version().into() };
        Tagging { tmd: found.tmd, source, confidence: Some(found.confidence), took: Some(started.elapsed()) }
    });
    let tagging = answer.await.map_err(|error| match error {
        WorkerError::Panicked(_) | WorkerError::Unavailable(_) => {
            Rejection::new(Cause::TmdFailed, "the local classifier could not read this text")
        }
        WorkerError::Gone => Rejection::new(Cause::Draining, "the service is going down; send it again"),
    })?;
    metrics::stage_busy(Stage::Tmd.name(), tagging.took.unwrap_or_default());
    Ok(tagging)
}
