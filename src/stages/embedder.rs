//! The second stage: gives each chunk its vector.
//!
//! Texts are tokenized as they arrive, and wait. Whenever one of the model's encoders is free it pulls the next batch
//! from those who wait: texts of like length around the oldest one, as many as fit its budget, fewer when other
//! encoders could take a part of them. No timer.

use super::{Duty, Inlet, Parcel, ROOM, Stage, Work};
use crate::chunk::{EmbeddedChunk, Embedding, TaggedChunk};
use crate::encoder::plan::{Budget, choose};
use crate::encoder::{EncodeError, Encoder, Tokenizer, Tokens, Vector};
use crate::flow::{Batch, Lane, Worker, WorkerError};
use crate::metrics;
use crate::outcome::{Cause, Rejection};
use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, fut};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The model as the service holds it: some encoders, each on its own thread.
pub type Model = Worker<Box<dyn Encoder>>;

/// What the stage works with; outlives its generations.
#[derive(Clone)]
pub struct EmbedTools {
    /// On the model's threads.
    pub model: Model,
    /// On a thread of its own: a long text takes longer to tokenize than the pipeline may stand still.
    pub tokenizer: Worker<Arc<Tokenizer>>,
    /// How much goes into one forward pass.
    pub budget: Budget,
}

/// Finds its way into the actor once its text is tokenized.
struct Readable {
    tagged: TaggedChunk,
    tokens: Arc<Tokens>,
}

/// Texts that have to wait for a pass beside another one.
const MANY: usize = 16;

/// The actor.
pub struct Embedder {
    tools: EmbedTools,
    next: Inlet<EmbeddedChunk>,
    duty: Duty,
    waiting: Batch<Parcel<Readable>>,
    /// Forward passes under way, at most one for each of the model's threads, and the tokens in them.
    passes: usize,
    running: usize,
}

impl Embedder {
    /// A stage that pushes to `next`.
    pub fn new(tools: EmbedTools, next: Inlet<EmbeddedChunk>, duty: Duty) -> Self {
        Embedder { tools, next, duty, waiting: Batch::default(), passes: 0, running: 0 }
    }

    /// Starts forward passes while an encoder is free and somebody waits. Beside another pass only when many wait: the
    /// few chunks of a small request go on in their order.
    fn pull(&mut self, context: &mut Context<Self>) {
        let threads = self.tools.model.threads();
        while !self.waiting.is_empty()
            && (self.passes == 0 || (self.passes < threads && self.waiting.len() >= MANY))
        {
            self.start_pass(context);
        }
    }

    fn start_pass(&mut self, context: &mut Context<Self>) {
        let (budget, encoders) = (self.tools.budget, self.tools.model.threads());
        let share = |lengths: &[usize]| budget.share(lengths, self.running, encoders);
        let mut parcels = self.waiting.take(|lengths| choose(lengths, share(lengths)));
        parcels.iter_mut().for_each(|parcel| parcel.take_in_hand(Stage::Embed.name()));
        let tokens: usize = parcels.iter().map(|parcel| parcel.cargo().tokens.len()).sum();
        self.passes += 1;
        self.running += tokens;
        let (tools, next, duty) = (self.tools.clone(), self.next.clone(), self.duty.clone());
        let pass = self.duty.start(|work| async move {
            work.inspect(&parcels).await;
            let embedded = embed(&tools, parcels, &work).await;
            // The encoder is free again while these wait for room in the next stage.
            duty.spawn(|work| async move {
                for parcel in embedded {
                    work.wait_for(ROOM, next.push(parcel)).await;
                }
            });
            duty.lifeline.let_go();
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
        self.duty.stop_when_retired(context);
    }
}

impl Handler<Parcel<TaggedChunk>> for Embedder {
    type Result = ();

    fn handle(&mut self, mut parcel: Parcel<TaggedChunk>, context: &mut Context<Self>) {
        self.duty.take_in_hand(&mut parcel);
        let tokenizer = self.tools.tokenizer.clone();
        let reading = self.duty.start(|work| async move { read(&tokenizer, parcel, &work).await });
        context.spawn(fut::wrap_future::<_, Self>(reading).map(|read, stage, context| match read {
            Ok(Some(mut parcel)) => {
                parcel.rest();
                let length = parcel.cargo().tokens.len();
                if parcel.attempts() > 0 {
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

/// Tokenizes; `None` when the chunk had to be rejected.
async fn read(
    tokenizer: &Worker<Arc<Tokenizer>>,
    parcel: Parcel<TaggedChunk>,
    work: &Work,
) -> Option<Parcel<Readable>> {
    let chunk = parcel.cargo().chunk.clone();
    let tokens = tokenizer.run(Lane::Bulk, move |tokenizer| {
        let started = Instant::now();
        let tokens = tokenizer.tokenize(&chunk.text);
        metrics::tokenized(started.elapsed(), tokens.as_ref().is_ok_and(|tokens| tokens.truncated));
        tokens
    });
    match work.wait_for("the tokenizer", tokens).await {
        Ok(Ok(tokens)) => Some(parcel.map(|tagged| Readable { tagged, tokens: Arc::new(tokens) })),
        Ok(Err(error)) => {
            work.reject(parcel, refused(&error));
            None
        }
        Err(error) => {
            work.reject(parcel, broken(&error));
            None
        }
    }
}

/// Why a forward pass gave nothing, for any of its texts.
enum Failure {
    /// It panicked; the encoder is built anew before the next one.
    Panicked,
    /// libtorch found no room for it.
    OutOfMemory(EncodeError),
    /// Anything else that the encoder reports.
    Refused(EncodeError),
    /// Not one vector for each text.
    Miscounted,
    /// There is no encoder to ask: no text is to blame.
    NoEncoder(Rejection),
}

impl Failure {
    /// The label in metrics.
    fn cause(&self) -> &'static str {
        match self {
            Failure::Panicked => "panic",
            Failure::OutOfMemory(_) => "out_of_memory",
            Failure::Refused(_) | Failure::Miscounted => "error",
            Failure::NoEncoder(_) => "unavailable",
        }
    }

    /// The answer to a text that failed alone.
    fn rejection(self) -> Rejection {
        let message = match self {
            Failure::NoEncoder(rejection) => return rejection,
            Failure::Panicked => "the model broke on this text".to_owned(),
            Failure::OutOfMemory(error) => {
                format!("the model has not enough memory for this text alone: {error}; give it more memory")
            }
            Failure::Refused(error) => error.to_string(),
            Failure::Miscounted => "the model gave no vector".to_owned(),
        };
        Rejection::new(Cause::EmbedFailed, message)
    }
}

impl From<EncodeError> for Failure {
    fn from(error: EncodeError) -> Self {
        let scarce = |reason: &str| {
            let reason = reason.to_ascii_lowercase();
            ["out of memory", "not enough memory", "can't allocate memory"]
                .iter()
                .any(|sign| reason.contains(sign))
        };
        match &error {
            EncodeError::Torch { reason, .. } if scarce(reason) => Failure::OutOfMemory(error),
            _ => Failure::Refused(error),
        }
    }
}

impl From<WorkerError> for Failure {
    fn from(error: WorkerError) -> Self {
        match error {
            WorkerError::Panicked(_) => Failure::Panicked,
            gone => Failure::NoEncoder(broken(&gone)),
        }
    }
}

/// One forward pass. Should it fail as a whole, its halves, and so on: a bad text stands alone after as many steps as
/// the batch can be halved, and the others are no worse for it. The next batch is as large as ever.
async fn embed(
    tools: &EmbedTools,
    parcels: Vec<Parcel<Readable>>,
    work: &Work,
) -> Vec<Parcel<EmbeddedChunk>> {
    let mut embedded = Vec::with_capacity(parcels.len());
    let mut left = vec![parcels];
    while let Some(mut parcels) = left.pop() {
        let texts = parcels.iter().map(|parcel| parcel.cargo().tokens.clone()).collect();
        match work.wait_for("the model", forward(&tools.model, Lane::Bulk, texts)).await {
            Ok((vectors, took)) => {
                let pairs = parcels.into_iter().zip(vectors);
                embedded.extend(pairs.filter_map(|(parcel, vector)| finish(parcel, vector, took, work)));
            }
            Err(failure) => {
                metrics::pass_failed(failure.cause());
                if parcels.len() == 1 || matches!(failure, Failure::NoEncoder(_)) {
                    let rejection = failure.rejection();
                    parcels.into_iter().for_each(|parcel| work.reject(parcel, rejection.clone()));
                } else {
                    let half = parcels.split_off(parcels.len() / 2);
                    left.extend([half, parcels]);
                }
            }
        }
    }
    embedded
}

/// Runs a pass on the next free encoder and measures it there; as many vectors as texts.
async fn forward(
    model: &Model,
    lane: Lane,
    texts: Vec<Arc<Tokens>>,
) -> Result<(Vec<Vector>, Duration), Failure> {
    let expected = texts.len();
    let pass = model.run(lane, move |encoder| {
        let started = Instant::now();
        let texts: Vec<&Tokens> = texts.iter().map(AsRef::as_ref).collect();
        let vectors = encoder.encode(&texts);
        let took = started.elapsed();
        if vectors.is_ok() {
            let longest = texts.iter().map(|tokens| tokens.len()).max().unwrap_or_default();
            metrics::embedded(texts.len(), texts.iter().map(|t| t.len()).sum(), longest * texts.len(), took);
        }
        (vectors, took)
    });
    let (vectors, took) = pass.await?;
    metrics::stage_busy(Stage::Embed.name(), took);
    let vectors = vectors?;
    if vectors.len() == expected { Ok((vectors, took)) } else { Err(Failure::Miscounted) }
}

/// Adds the vector, or rejects the chunk whose vector is not usable.
fn finish(
    parcel: Parcel<Readable>,
    vector: Vector,
    took: Duration,
    work: &Work,
) -> Option<Parcel<EmbeddedChunk>> {
    match vector {
        Ok(vector) => Some(parcel.at_rest().map(|Readable { tagged, tokens }| EmbeddedChunk {
            chunk: tagged.chunk,
            tagging: tagged.tagging,
            embedding: Embedding { vector, truncated: tokens.truncated, took },
        })),
        Err(error) => {
            if matches!(error, EncodeError::UnusableVector { .. }) {
                metrics::nonfinite();
            }
            work.reject(parcel, refused(&error));
            None
        }
    }
}

fn refused(error: &EncodeError) -> Rejection {
    Rejection::new(Cause::EmbedFailed, error.to_string())
}

fn broken(error: &WorkerError) -> Rejection {
    match error {
        WorkerError::Panicked(_) => Rejection::new(Cause::EmbedFailed, "the model broke on this text"),
        WorkerError::Unavailable(_) => {
            Rejection::new(Cause::Lost, "the model is being loaded; send it again")
        }
        WorkerError::Gone => Rejection::new(Cause::Draining, "the service is going down; send it again"),
    }
}
