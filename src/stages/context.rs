//! What every stage gets: its exit guard, its tasks, and the queue for the chunks it rejects.

use super::dead_letters::{DeadLetterQueue, PendingDeadLetter};
use super::fault_hook::FaultHook;
use super::stage::{POSTGRES, Parcel, Stage};
use crate::flow::{TaskGuard, TaskRegistry};
use crate::metrics;
use crate::outcome::Outcome;
use crate::rejection::Rejection;
use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, fut};
use std::sync::Arc;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The death of a stage.
#[derive(Debug, Clone, Copy)]
pub struct Died {
    /// The stage that died.
    pub stage: Stage,
    /// The number of its generation.
    pub generation: u64,
    /// `panic`, `stop` or `stalled`.
    pub cause: &'static str,
}

/// Reports the death of its stage to the supervisor when it is dropped. Each critical task of the stage holds another
/// one: a panic there is a death of the stage.
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

    fn of_task(&self) -> ExitGuard {
        ExitGuard::new(self.stage, self.generation, self.supervisor.clone(), self.retired.clone())
    }

    /// Makes this guard report nothing: its task has ended well.
    fn disarm(mut self) {
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
pub struct StageContext {
    /// Reports the stage's death.
    pub exit_guard: ExitGuard,
    /// Called with every chunk.
    pub fault_hook: Arc<dyn FaultHook>,
    /// The stage's tasks.
    pub tasks: Arc<TaskRegistry>,
    /// Takes the chunks that the stage rejects.
    pub dead_letters: DeadLetterQueue,
}

impl StageContext {
    /// To be called first in a message handler: from here on the chunk is a suspect if the stage dies.
    pub(super) fn begin_work<T>(&self, parcel: &mut Parcel<T>) {
        let stage = self.exit_guard.stage;
        parcel.begin_work(stage.name());
        metrics::stage_wait(stage.name(), parcel.waited());
        self.fault_hook.on_begin(stage, parcel.origin());
    }

    /// Stops the actor when its generation is retired.
    pub(super) fn stop_when_retired<A: Actor<Context = Context<A>>>(&self, context: &mut Context<A>) {
        let retired = fut::wrap_future::<_, A>(self.exit_guard.retired.clone().cancelled_owned());
        context.spawn(retired.map(|(), _, context: &mut Context<A>| context.stop()));
    }

    /// Runs work that holds parcels as a task of its own. The watchdog aborts it when it stalls. A panic in it, or its
    /// abort, is a death of the stage: there is one way to recover.
    ///
    /// A stage that waits for the result stops itself when there is none: it should take no more chunks.
    pub(super) fn run_critical<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        work: impl FnOnce(TaskContext) -> F,
    ) -> JoinHandle<T> {
        let exit_guard = self.exit_guard.of_task();
        let ExitGuard { stage, generation, .. } = self.exit_guard;
        let guard = self.tasks.begin(generation);
        let id = guard.id();
        let (fault_hook, dead_letters) = (self.fault_hook.clone(), self.dead_letters.clone());
        let work = work(TaskContext { stage, guard, fault_hook, dead_letters });
        let task = actix::spawn(async move {
            let result = work.await;
            exit_guard.disarm();
            result
        });
        self.tasks.set_handle(id, task.abort_handle());
        task
    }
}

/// What a critical task works with. The task is registered until this is dropped.
pub(super) struct TaskContext {
    stage: Stage,
    guard: TaskGuard,
    fault_hook: Arc<dyn FaultHook>,
    dead_letters: DeadLetterQueue,
}

impl TaskContext {
    /// See [`TaskGuard::wait_for`].
    pub(super) async fn wait_for<T>(&self, what: &'static str, answer: impl Future<Output = T>) -> T {
        self.guard.wait_for(what, answer).await
    }

    /// Runs the faults that are injected into the work on these chunks.
    pub(super) async fn inject_faults<T>(&self, parcels: &[Parcel<T>]) {
        for parcel in parcels {
            if let Some(fault) = self.fault_hook.during_work(self.stage, parcel.origin()) {
                fault.await;
            }
        }
    }

    /// Answers a chunk with a rejection: at once, or, where the cause asks for a dead letter, after that is written.
    /// Until then the chunk keeps its slot, and a task that waits for the database.
    pub(super) fn reject<T>(&self, parcel: Parcel<T>, rejection: Rejection) {
        if rejection.code.is_kept() {
            let guard = self.guard.another_that_waits_for(POSTGRES);
            self.dead_letters.file(PendingDeadLetter::of_parcel(self.stage, parcel, rejection, guard));
        } else {
            parcel.settle(Outcome::Rejected(rejection));
        }
    }
}
