//! Named threads, each with a resource of its own that has to stay on it: the model, the classifier.
//!
//! Jobs come through two bounded queues. Express jobs overtake bulk ones, and the next job goes to the next free
//! thread. A job that panics fails alone: the factory builds the resource of its thread anew before that thread takes
//! the next job. The other threads are not affected. Each thread has a [`Progress`].

use super::lock::lock;
use super::progress::Progress;
use futures_executor::block_on;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread;
use tokio::sync::{mpsc, oneshot};

type Job<R> = Box<dyn FnOnce(&mut R) + Send>;

/// Which queue a job waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// For a request that waits for one answer: overtakes bulk jobs.
    Express,
    /// For ingest, where throughput counts.
    Bulk,
}

/// Why a job gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorkerError {
    /// This job panicked; others are not affected.
    #[error("the work panicked: {0}")]
    Panicked(String),
    /// The resource could not be built again after a panic; the next job tries once more.
    #[error("{0}")]
    Unavailable(String),
    /// The worker has been shut down.
    #[error("the worker is shut down")]
    Gone,
}

/// A handle to the threads. They end, and are joined, when the last handle is dropped.
pub struct Worker<R> {
    express: mpsc::Sender<QueuedJob<R>>,
    bulk: mpsc::Sender<QueuedJob<R>>,
    progress: Arc<[Progress]>,
    threads: Arc<Joined>,
}

impl<R> Clone for Worker<R> {
    fn clone(&self) -> Self {
        let (progress, threads) = (self.progress.clone(), self.threads.clone());
        Worker { express: self.express.clone(), bulk: self.bulk.clone(), progress, threads }
    }
}

struct QueuedJob<R> {
    lane: Lane,
    job: Job<R>,
    unavailable: Box<dyn FnOnce(WorkerError) + Send>,
}

/// Dropped after the senders (field order), so the threads have seen the end of their queues.
#[derive(Default)]
struct Joined(Vec<thread::JoinHandle<()>>);

impl Drop for Joined {
    fn drop(&mut self) {
        for thread in self.0.drain(..) {
            if thread.thread().id() != thread::current().id() {
                // A panic outside a job is a bug that was already printed; there is nothing to add in a drop.
                drop(thread.join());
            }
        }
    }
}

/// The receiving ends. One thread holds the lock and waits for the next job; the others wait for the lock.
struct Queues<R> {
    express: mpsc::Receiver<QueuedJob<R>>,
    bulk: mpsc::Receiver<QueuedJob<R>>,
}

impl<R: 'static> Worker<R> {
    /// Starts the threads, one after the other, and builds a resource on each, now and after every panic there. Each
    /// queue holds `queue` jobs. A single thread has the name as it is; with several, a number is appended.
    ///
    /// # Errors
    /// The first error of the factory, on any of the threads.
    pub fn spawn<E: std::fmt::Display + Send + 'static>(
        name: &str,
        threads: NonZeroUsize,
        queue: usize,
        factory: impl Fn() -> Result<R, E> + Send + Sync + 'static,
    ) -> Result<Worker<R>, E> {
        // Declared before the senders and so dropped after them, also when a factory fails half-way.
        let mut started = Joined::default();
        let (express, express_jobs) = mpsc::channel(queue);
        let (bulk, bulk_jobs) = mpsc::channel(queue);
        let queues = Arc::new(Mutex::new(Queues { express: express_jobs, bulk: bulk_jobs }));
        let factory = Arc::new(factory);
        let mut records = Vec::with_capacity(threads.get());
        for number in 0..threads.get() {
            let name = if threads.get() == 1 { name.to_owned() } else { format!("{name}-{number}") };
            let progress = Progress::of_thread(&name);
            started.0.push(start(name, progress.clone(), queues.clone(), factory.clone())?);
            records.push(progress);
        }
        Ok(Worker { express, bulk, progress: records.into(), threads: Arc::new(started) })
    }

    /// The record of each thread.
    pub fn progress(&self) -> &[Progress] {
        &self.progress
    }

    /// The number of threads, and so of jobs that run at once.
    pub fn threads(&self) -> usize {
        self.threads.0.len()
    }

    /// Runs a job on the next free thread and gives its result. Waits for a place in the queue. A job is skipped when
    /// its caller stopped waiting before it began.
    ///
    /// # Errors
    /// When the job panicked, or was not run.
    pub async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        job: impl FnOnce(&mut R) -> T + Send + 'static,
    ) -> Result<T, WorkerError> {
        let (reply, answer) = oneshot::channel();
        let reply = Arc::new(Mutex::new(Some(reply)));
        let failure = reply.clone();
        let task = QueuedJob {
            lane,
            job: Box::new(move |resource| {
                let Some(reply) = take(&reply).filter(|reply| !reply.is_closed()) else { return };
                // The panic is caught here, where the caller can be told, and resumed, so that the resource, which may
                // be half changed, is built anew.
                let result = catch_unwind(AssertUnwindSafe(|| job(resource)));
                match result {
                    Ok(value) => drop(reply.send(Ok(value))),
                    Err(payload) => {
                        drop(reply.send(Err(WorkerError::Panicked(panic_message(&*payload)))));
                        std::panic::resume_unwind(payload);
                    }
                }
            }),
            unavailable: Box::new(move |error| {
                if let Some(reply) = take(&failure) {
                    drop(reply.send(Err(error)));
                }
            }),
        };
        let queue = match lane {
            Lane::Express => &self.express,
            Lane::Bulk => &self.bulk,
        };
        queue.send(task).await.map_err(|_| WorkerError::Gone)?;
        answer.await.unwrap_or(Err(WorkerError::Gone))
    }
}

type ResultSlot<T> = oneshot::Sender<Result<T, WorkerError>>;

fn take<T>(reply: &Mutex<Option<ResultSlot<T>>>) -> Option<ResultSlot<T>> {
    lock(reply).take()
}

/// Starts one thread; returns when its resource is built.
fn start<R: 'static, E: std::fmt::Display + Send + 'static>(
    name: String,
    progress: Progress,
    queues: Arc<Mutex<Queues<R>>>,
    factory: Arc<impl Fn() -> Result<R, E> + Send + Sync + 'static>,
) -> Result<thread::JoinHandle<()>, E> {
    let (ready, first) = std::sync::mpsc::channel();
    let spawned = thread::Builder::new().name(name).spawn(move || {
        match factory() {
            Ok(resource) => {
                let liveness = progress.live();
                drop(ready.send(Ok(())));
                work(resource, &progress, &*factory, &queues);
                liveness.end();
            }
            Err(error) => drop(ready.send(Err(error))),
        };
    });
    #[expect(clippy::expect_used, reason = "a process that cannot start a thread cannot serve")]
    let thread = spawned.expect("the operating system refused a thread");
    #[expect(
        clippy::expect_used,
        reason = "a factory that panics at the start is a bug and stops the start"
    )]
    first.recv().expect("the factory of a worker panicked")?;
    Ok(thread)
}

fn work<R, E: std::fmt::Display>(
    resource: R,
    progress: &Progress,
    factory: &impl Fn() -> Result<R, E>,
    queues: &Mutex<Queues<R>>,
) {
    let mut resource = Some(resource);
    while let Some(task) = next(queues) {
        let _activity = progress.begin(match task.lane {
            Lane::Express => "at one express job",
            Lane::Bulk => "at one bulk job",
        });
        if resource.is_none() {
            let _activity = progress.begin("building its resource anew");
            match catch_unwind(AssertUnwindSafe(factory)) {
                Ok(Ok(built)) => resource = Some(built),
                Ok(Err(error)) => {
                    (task.unavailable)(WorkerError::Unavailable(error.to_string()));
                    continue;
                }
                Err(payload) => {
                    (task.unavailable)(WorkerError::Unavailable(panic_message(&*payload)));
                    continue;
                }
            }
        }
        if let Some(built) = resource.as_mut()
            && catch_unwind(AssertUnwindSafe(|| (task.job)(built))).is_err()
        {
            resource = None;
        }
    }
}

/// Waits for the next job; `None` when all handles are gone. The queues work without a runtime.
fn next<R>(queues: &Mutex<Queues<R>>) -> Option<QueuedJob<R>> {
    let mut queues = lock(queues);
    let Queues { express, bulk } = &mut *queues;
    block_on(async {
        tokio::select! {
            biased;
            Some(task) = express.recv() => Some(task),
            Some(task) = bulk.recv() => Some(task),
            else => None,
        }
    })
}

/// The message of a panic, from its payload.
pub fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests;
