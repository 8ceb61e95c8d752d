//! The three stage actors, in the order of the way: [`TmdExtractor`], [`Embedder`], [`Writer`].
//!
//! A stage knows the message it takes, the inlet it pushes to, and its ports; never another stage. Each holds a
//! [`ExitGuard`], which tells the supervisor when it dies, whatever it dies of.

mod embedder;
mod letters;
mod tmd_extractor;
mod writer;

pub use embedder::Embedder;
pub use letters::{DeadLetterQueue, DeadLetterWriter, PendingDeadLetter, letters};
pub use tmd_extractor::{CodeSource, LlmFallback, NeedsLlm, NeedsNoLlm, TmdExtractor, TmdTools};
pub use writer::{WriteTools, Writer, found};

use crate::chunk::Chunk;
use crate::error_code::ErrorCode;
use crate::flow::{self, TaskGuard, TaskRegistry};
use crate::outcome::Outcome;
use crate::rejection::Rejection;
use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, fut};
use futures_util::future::BoxFuture;
use std::sync::Arc;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A chunk's parcel, carrying the state `T` of the chunk.
pub type Parcel<T> = flow::Parcel<T, Chunk, Outcome>;
/// The way into a stage that takes `T`.
pub type Inlet<T> = flow::Inlet<T, Chunk, Outcome>;
/// A chunk's journey before it has entered a stage.
pub type Delivery = flow::Delivery<Chunk, Outcome>;
/// Where dropped chunks go.
pub type RedeliveryQueue = flow::RedeliveryQueue<Chunk, Outcome>;
/// A chunk that came redelivery_queue.
pub type Redelivery = flow::Redelivery<Chunk, Outcome>;
/// The answer owed for one chunk.
pub type Receipt = flow::Receipt<Outcome>;

/// A receipt that nobody settled says this, so no path can forget to answer.
impl flow::Unsettled for Outcome {
    fn unsettled() -> Self {
        let message = "the service lost this chunk before it was stored; send it again";
        Outcome::Rejected(Rejection::new(ErrorCode::Lost, message))
    }
}

/// A stage's name in metrics, `/health` and among the redeliveries.
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

/// Sees every chunk at the moment a stage takes it in hand, and when it works on it. Tests script faults with it, per
/// service; the service itself looks at nothing.
pub trait FaultHook: Send + Sync {
    /// Called inside the stage: a panic here is a panic of the stage.
    fn in_work_at(&self, stage: Stage, chunk: &Chunk) {
        let _ = (stage, chunk);
    }

    /// Part of the stage's own work on the chunk: one that never ends is work that stands still.
    fn at_work(&self, stage: Stage, chunk: &Chunk) -> Option<BoxFuture<'static, ()>> {
        let _ = (stage, chunk);
        None
    }

    /// Called by the supervisor before it builds a generation: a panic here is a panic of the supervisor.
    fn generation(&self, number: u64) {
        let _ = number;
    }
}

/// Looks at nothing.
pub struct NoFaults;

impl FaultHook for NoFaults {}

/// What work waits for that has its parcels on their way out.
const ROOM: &str = "room in the next stage";

const POSTGRES: &str = "PostgreSQL";

/// A stage has died.
#[derive(Debug, Clone, Copy)]
pub struct Died {
    /// Which one.
    pub stage: Stage,
    /// Of which generation.
    pub generation: u64,
    /// `panic`, `stop` or `stalled`.
    pub cause: &'static str,
}

/// Tells the supervisor, by being dropped, that its stage is gone. Also held by a stage's tasks that work on a
/// whole batch: a panic there takes the stage down.
#[derive(Clone)]
pub struct ExitGuard {
    stage: Stage,
    generation: u64,
    supervisor: mpsc::Sender<Died>,
    retired: CancellationToken,
}

impl ExitGuard {
    /// For one stage of one generation. `retired` is cancelled when the whole generation is dropped on purpose.
    pub fn new(
        stage: Stage,
        generation: u64,
        supervisor: mpsc::Sender<Died>,
        retired: CancellationToken,
    ) -> Self {
        ExitGuard { stage, generation, supervisor, retired }
    }

    /// Ends when the generation is to be dropped.
    pub fn retired(&self) -> impl Future<Output = ()> + Send + 'static {
        self.retired.clone().cancelled_owned()
    }

    /// The stage's own work is over, without harm: this copy stays silent.
    pub fn disarm(mut self) {
        self.retired = CancellationToken::new();
        self.retired.cancel();
    }
}

impl Drop for ExitGuard {
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
pub struct StageContext {
    /// See [`ExitGuard`].
    pub exit_guard: ExitGuard,
    /// See [`FaultHook`].
    pub inspect: Arc<dyn FaultHook>,
    /// What the stage has in hand.
    pub hands: Arc<TaskRegistry>,
    /// Where chunks are written down that it rejects.
    pub letters: DeadLetterQueue,
}

impl StageContext {
    /// To be called first thing in a handler: from here on the chunk is a suspect if the stage dies.
    fn begin_work<T>(&self, parcel: &mut Parcel<T>) {
        let stage = self.exit_guard.stage;
        parcel.begin(stage.name());
        self.inspect.in_work_at(stage, parcel.origin());
    }

    /// Stops the actor when its generation is retired.
    fn stop_when_retired<A: Actor<Context = Context<A>>>(&self, context: &mut Context<A>) {
        let retired = fut::wrap_future::<_, A>(self.exit_guard.retired());
        context.spawn(retired.map(|(), _, context: &mut Context<A>| context.stop()));
    }

    /// Starts work that holds parcels as a task of its own, as one thing in the stage's hands: should it stand still,
    /// it is ended. Whoever starts it sees to it that its end by force or by panic takes the stage down.
    fn start<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        work: impl FnOnce(TaskContext) -> F,
    ) -> JoinHandle<T> {
        let ExitGuard { stage, generation, .. } = self.exit_guard;
        let hand = self.hands.take(generation);
        let number = hand.number();
        let (inspect, letters) = (self.inspect.clone(), self.letters.clone());
        let task = actix::spawn(work(TaskContext { stage, hand, inspect, letters }));
        self.hands.set_task(number, task.abort_handle());
        task
    }

    /// As [`Self::start`], for work that nobody waits for: with its end by force or by panic the stage is taken down,
    /// so that there is one way to recover.
    fn spawn<F: Future<Output = ()> + 'static>(&self, work: impl FnOnce(TaskContext) -> F) {
        let exit_guard = self.exit_guard.clone();
        self.start(|begun| {
            let work = work(begun);
            async move {
                work.await;
                exit_guard.disarm();
            }
        });
    }
}

/// One piece of a stage's work: it is in hand until this is dropped.
struct TaskContext {
    stage: Stage,
    hand: TaskGuard,
    inspect: Arc<dyn FaultHook>,
    letters: DeadLetterQueue,
}

impl TaskContext {
    /// Waits for somebody else, which is not standing still.
    async fn wait_for<T>(&self, whom: &'static str, answer: impl Future<Output = T>) -> T {
        self.hand.wait_for(whom, answer).await
    }

    /// The place in the work on these chunks where faults strike.
    async fn inspect<T>(&self, parcels: &[Parcel<T>]) {
        for parcel in parcels {
            if let Some(fault) = self.inspect.at_work(self.stage, parcel.origin()) {
                fault.await;
            }
        }
    }

    /// Ends a chunk's journey with a rejection: at once, or after it was written down where it has to be. Until then
    /// it stays in a hand that waits for the database.
    fn reject<T>(&self, parcel: Parcel<T>, rejection: Rejection) {
        if rejection.code.is_kept() {
            let hand = self.hand.another_that_waits_for(POSTGRES);
            self.letters.file(PendingDeadLetter::of_parcel(self.stage, parcel, rejection, hand));
        } else {
            parcel.settle(Outcome::Rejected(rejection));
        }
    }
}
