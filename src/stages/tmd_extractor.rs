//! The first stage: gives each chunk its Domain, Task and Modifier codes.
//!
//! Codes from the client were checked when the chunk was made and are taken as they are; otherwise the language
//! model is asked, where there is one, or the local classifier, on its own thread. There are two inlets, so that chunks
//! that wait for a language model do not block those that need none.

use super::context::{StageContext, TaskContext};
use super::stage::{Inlet, Parcel, ROOM, Stage};
use crate::chunk::{Chunk, TaggedChunk, Tagging, TmdSource};
use crate::classifier::LocalClassifier;
use crate::error_code::ErrorCode;
use crate::llm::{Llm, LlmError, Wanted};
use crate::metrics;
use crate::rejection::Rejection;
use crate::threads::{Lane, Worker, WorkerError};
use crate::tmd::Axis;
use actix::{Actor, Context, Handler};
use std::sync::Arc;
use std::time::Instant;

/// A chunk whose codes are given or found locally.
pub struct NeedsNoLlm(pub Arc<Chunk>);

/// A chunk whose codes a language model is asked for.
pub struct NeedsLlm(pub Arc<Chunk>);

/// The source of the codes that a client does not send.
#[derive(Clone)]
pub enum CodeSource {
    /// The local classifier.
    Local,
    /// The local classifier, because there was no language model when the service started: the reason.
    LocalInstead(&'static str),
    /// A language model.
    Llm {
        /// The model and its server.
        llm: Llm,
        /// What is done when it has no answer.
        otherwise: LlmFallback,
    },
}

/// What is done with a chunk for which the language model has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LlmFallback {
    /// The local classifier answers, and the row says so.
    AskLocally,
    /// It is rejected, to be sent again.
    Reject,
}

/// What the stage works with; outlives its generations.
#[derive(Clone)]
pub struct TmdTools {
    /// The local classifier, on its own thread.
    pub classifier: Worker<LocalClassifier>,
    /// For chunks without codes.
    pub source: CodeSource,
}

impl TmdTools {
    /// Whether a language model is asked: chunks without codes then take the other inlet.
    pub fn asks_llm(&self) -> bool {
        matches!(self.source, CodeSource::Llm { .. })
    }
}

/// The actor of the first stage.
pub struct TmdExtractor {
    tools: TmdTools,
    next: Inlet<TaggedChunk>,
    stage_context: StageContext,
}

impl TmdExtractor {
    /// A stage that pushes to `next`.
    pub fn new(tools: TmdTools, next: Inlet<TaggedChunk>, stage_context: StageContext) -> Self {
        TmdExtractor { tools, next, stage_context }
    }

    /// Finds the codes in a task of its own, and sends the chunk on with them.
    fn give_codes(&self, parcel: Parcel<Arc<Chunk>>) {
        let (next, tools) = (self.next.clone(), self.tools.clone());
        self.stage_context.run_critical(|task| async move {
            task.inject_faults(std::slice::from_ref(&parcel)).await;
            match tag(&tools, parcel.cargo().clone(), &task).await {
                Ok(tagging) => {
                    metrics::tagged(tagging.tmd.name(Axis::Domain));
                    let parcel = parcel.map(|chunk| TaggedChunk { chunk, tagging });
                    task.wait_for(ROOM, next.push(parcel)).await;
                }
                Err(rejection) => task.reject(parcel, rejection),
            }
        });
    }
}

impl Actor for TmdExtractor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.stage_context.stop_when_retired(context);
    }
}

impl Handler<Parcel<NeedsNoLlm>> for TmdExtractor {
    type Result = ();

    fn handle(&mut self, mut parcel: Parcel<NeedsNoLlm>, _: &mut Context<Self>) {
        self.stage_context.begin_work(&mut parcel);
        self.give_codes(parcel.map(|NeedsNoLlm(chunk)| chunk));
    }
}

impl Handler<Parcel<NeedsLlm>> for TmdExtractor {
    type Result = ();

    fn handle(&mut self, mut parcel: Parcel<NeedsLlm>, _: &mut Context<Self>) {
        self.stage_context.begin_work(&mut parcel);
        self.give_codes(parcel.map(|NeedsLlm(chunk)| chunk));
    }
}

async fn tag(tools: &TmdTools, chunk: Arc<Chunk>, task: &TaskContext) -> Result<Tagging, Rejection> {
    if let Some(tagging) = &chunk.client_tagging {
        return Ok(tagging.clone());
    }
    let started = Instant::now();
    let local = |version| TmdSource::Local { version };
    let classifier = "the classifier";
    let tagging = match &tools.source {
        CodeSource::Local => task.wait_for(classifier, ask_locally(tools, chunk, started, local)).await,
        CodeSource::LocalInstead(reason) => {
            task.wait_for(classifier, fall_back(tools, chunk, started, reason)).await
        }
        CodeSource::Llm { llm, otherwise } => {
            match task.wait_for("the LLM", llm.classify(&chunk.text, Wanted::Codes)).await {
                Ok(answer) => {
                    let source = TmdSource::Llm { model: llm.model().clone() };
                    let (confidence, took) = (answer.confidence, Some(answer.took));
                    Ok(Tagging { tmd: answer.tmd, source, confidence, took })
                }
                Err(error) => match otherwise {
                    LlmFallback::AskLocally => {
                        task.wait_for(classifier, fall_back(tools, chunk, started, error.kind())).await
                    }
                    LlmFallback::Reject => Err(unanswered(llm, &error)),
                },
            }
        }
    }?;
    metrics::stage_busy(Stage::Tmd.name(), tagging.took.unwrap_or_default());
    Ok(tagging)
}

/// Asks the local classifier in place of a language model.
async fn fall_back(
    tools: &TmdTools,
    chunk: Arc<Chunk>,
    started: Instant,
    reason: &'static str,
) -> Result<Tagging, Rejection> {
    metrics::fell_back(reason);
    ask_locally(tools, chunk, started, |version| TmdSource::Fallback { version, reason: reason.into() }).await
}

async fn ask_locally(
    tools: &TmdTools,
    chunk: Arc<Chunk>,
    started: Instant,
    source: impl FnOnce(Arc<str>) -> TmdSource + Send + 'static,
) -> Result<Tagging, Rejection> {
    let waiting = Instant::now();
    let answer = tools.classifier.run(Lane::Bulk, move |classifier| {
        // Waiting for the classifier's thread is not the classifier's time.
        let waited = waiting.elapsed();
        let found = classifier.classify(&chunk.text);
        let source = source(classifier.version().into());
        let took = started.elapsed().saturating_sub(waited);
        Tagging { tmd: found.tmd, source, confidence: Some(found.confidence), took: Some(took) }
    });
    answer.await.map_err(|error| match error {
        WorkerError::Panicked(_) | WorkerError::Unavailable(_) => {
            Rejection::new(ErrorCode::TmdFailed, "the local classifier could not read this text")
        }
        WorkerError::Gone => Rejection::new(ErrorCode::Draining, "the service is going down; send it again"),
    })
}

fn unanswered(llm: &Llm, error: &LlmError) -> Rejection {
    let message = format!("the LLM at {} {error}; send this chunk again", llm.endpoint());
    Rejection::new(ErrorCode::LlmFailed, message)
}
