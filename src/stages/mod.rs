//! The three stage actors, in the order of the way: [`TmdExtractor`], [`Embedder`], [`Writer`].
//!
//! A stage knows the message it takes, the inlet it pushes to, and its ports; never another stage. Each holds a
//! [`Lifeline`], which tells the supervisor when it dies, whatever it dies of.

mod embedder;
mod letters;
mod tmd_extractor;
mod writer;

pub use embedder::{EmbedTools, Embedder, Model};
pub use letters::{Clerk, Letter, Letters, letters};
pub use tmd_extractor::{CodeSource, NeedsLlm, NeedsNoLlm, Otherwise, TmdExtractor, TmdTools};
pub use writer::{WriteTools, Writer, found};

use crate::chunk::Chunk;
use crate::flow;
use crate::outcome::{Cause, Outcome, Rejection};
use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, fut};
use std::sync::Arc;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_util::sync::CancellationToken;

/// A chunk's parcel, carrying the state `T` of the chunk.
pub type Parcel<T> = flow::Parcel<T, Chunk, Outcome>;
/// The way into a stage that takes `T`.
pub type Inlet<T> = flow::Inlet<T, Chunk, Outcome>;
/// A chunk's journey before it has entered a stage.
pub type Trip = flow::Trip<Chunk, Outcome>;
/// Where dropped chunks go.
pub type Home = flow::Home<Chunk, Outcome>;
/// A chunk that came home.
pub type Stray = flow::Stray<Chunk, Outcome>;
/// The answer owed for one chunk.
pub type Receipt = flow::Receipt<Outcome>;

/// A receipt that nobody settled says this, so no path can forget to answer.
impl flow::Unsettled for Outcome {
    fn unsettled() -> Self {
        let message = "the service lost this chunk before it was stored; send it again";
        Outcome::Rejected(Rejection::new(Cause::Lost, message))
    }
}

/// A stage's name in metrics, `/health` and among the strays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Gives the codes.
    Tmd,
    /// Gives the vector.
    Embed,
    /// Commits.
    Write,
}

impl Stage {
    /// In the order of the way.
    pub const ALL: [Stage; 3] = [Stage::Tmd, Stage::Embed, Stage::Write];

    /// The label.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Tmd => "tmd",
            Stage::Embed => "embed",
            Stage::Write => "write",
        }
    }
}

/// Sees every chunk at the moment a stage takes it in hand. Tests script faults with it, per service; the
/// service itself looks at nothing.
pub trait Inspect: Send + Sync {
    /// Called inside the stage: a panic here is a panic of the stage.
    fn in_hand(&self, stage: Stage, chunk: &Chunk);
}

/// Looks at nothing.
pub struct NoInspection;

impl Inspect for NoInspection {
    fn in_hand(&self, _: Stage, _: &Chunk) {}
}

/// A stage has died.
#[derive(Debug, Clone, Copy)]
pub struct Died {
    /// Which one.
    pub stage: Stage,
    /// Of which generation.
    pub generation: u64,
    /// `panic` or `stop`.
    pub cause: &'static str,
}

/// Tells the supervisor, by being dropped, that its stage is gone. Also held by a stage's tasks that work on a
/// whole batch: a panic there takes the stage down.
#[derive(Clone)]
pub struct Lifeline {
    stage: Stage,
    generation: u64,
    supervisor: mpsc::Sender<Died>,
    retired: CancellationToken,
}

impl Lifeline {
    /// For one stage of one generation. `retired` is cancelled when the whole generation is dropped on purpose.
    pub fn new(
        stage: Stage,
        generation: u64,
        supervisor: mpsc::Sender<Died>,
        retired: CancellationToken,
    ) -> Self {
        Lifeline { stage, generation, supervisor, retired }
    }

    /// Ends when the generation is to be dropped.
    pub fn retired(&self) -> impl Future<Output = ()> + Send + 'static {
        self.retired.clone().cancelled_owned()
    }

    /// The stage's own work is over, without harm: this copy stays silent.
    pub fn let_go(mut self) {
        self.retired = CancellationToken::new();
        self.retired.cancel();
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        if self.retired.is_cancelled() {
            return;
        }
        let cause = if std::thread::panicking() { "panic" } else { "stop" };
        let died = Died { stage: self.stage, generation: self.generation, cause };
        // A full queue means that the supervisor already has news of this generation's death.
        let _told: Result<(), TrySendError<Died>> = self.supervisor.try_send(died);
    }
}

/// What every stage gets.
#[derive(Clone)]
pub struct Duty {
    /// See [`Lifeline`].
    pub lifeline: Lifeline,
    /// See [`Inspect`].
    pub inspect: Arc<dyn Inspect>,
    /// Where rejected chunks go.
    pub rejects: Rejects,
}

/// How a stage rejects chunks.
#[derive(Clone)]
pub struct Rejects {
    stage: Stage,
    letters: Letters,
}

impl Rejects {
    /// Of one stage.
    pub fn new(stage: Stage, letters: Letters) -> Self {
        Rejects { stage, letters }
    }

    /// Ends a chunk's journey with a rejection: at once, or after it was written down where it has to be.
    fn reject<T>(&self, parcel: Parcel<T>, rejection: Rejection) {
        if rejection.cause.is_kept() {
            self.letters.file(letters::Letter::of_parcel(self.stage, parcel, rejection));
        } else {
            parcel.settle(Outcome::Rejected(rejection));
        }
    }
}

impl Duty {
    /// To be called first thing in a handler: from here on the chunk is a suspect if the stage dies.
    fn take_in_hand<T>(&self, parcel: &mut Parcel<T>) {
        let stage = self.lifeline.stage;
        parcel.begin(stage.name());
        self.inspect.in_hand(stage, parcel.origin());
    }

    /// Stops the actor when its generation is retired.
    fn stop_when_retired<A: Actor<Context = Context<A>>>(&self, context: &mut Context<A>) {
        let retired = fut::wrap_future::<_, A>(self.lifeline.retired());
        context.spawn(retired.map(|(), _, context: &mut Context<A>| context.stop()));
    }

    /// Runs work that holds parcels as a task of its own. Should it panic, the stage is taken down with it, so
    /// that there is one way to recover.
    fn spawn(&self, work: impl Future<Output = ()> + 'static) {
        let lifeline = self.lifeline.clone();
        actix::spawn(async move {
            work.await;
            lifeline.let_go();
        });
    }
}
