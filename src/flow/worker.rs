//! A named thread and the one resource that has to stay on it: the model, the classifier.
//!
//! Jobs come through two bounded queues; express jobs overtake bulk ones. A job that panics fails alone: the
//! resource is then built anew by the factory before the next job runs.

use futures_executor::block_on;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use tokio::sync::{mpsc, oneshot};

type Job<R> = Box<dyn FnOnce(&mut R) + Send>;

/// Which queue a job waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// A person waits for it.
    Express,
    /// Throughput work.
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

/// A handle to the thread. The thread ends, and is joined, when the last handle is dropped.
pub struct Worker<R> {
    express: mpsc::Sender<Task<R>>,
    bulk: mpsc::Sender<Task<R>>,
    _thread: Arc<Joined>,
}

impl<R> Clone for Worker<R> {
    fn clone(&self) -> Self {
        Worker { express: self.express.clone(), bulk: self.bulk.clone(), _thread: self._thread.clone() }
    }
}

struct Task<R> {
    job: Job<R>,
    unavailable: Box<dyn FnOnce(WorkerError) + Send>,
}

/// Dropped after the senders (field order), so the thread has seen the end of its queues.
struct Joined(Option<thread::JoinHandle<()>>);

impl Drop for Joined {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take()
            && thread.thread().id() != thread::current().id()
        {
            // A panic outside a job is a bug that was already printed; there is nothing to add in a drop.
            drop(thread.join());
        }
    }
}

impl<R: 'static> Worker<R> {
    /// Starts the thread and builds the resource on it, now and after every panic. Each queue holds `queue` jobs.
    ///
    /// # Errors
    /// What the factory said the first time.
    pub fn spawn<E: std::fmt::Display + Send + 'static>(
        name: &str,
        queue: usize,
        factory: impl Fn() -> Result<R, E> + Send + 'static,
    ) -> Result<Worker<R>, E> {
        let (express, express_jobs) = mpsc::channel(queue);
        let (bulk, bulk_jobs) = mpsc::channel(queue);
        let (ready, first) = std::sync::mpsc::channel();
        let spawned = thread::Builder::new().name(name.to_owned()).spawn(move || {
            match factory() {
                Ok(resource) => {
                    drop(ready.send(Ok(())));
                    work(resource, &factory, express_jobs, bulk_jobs);
                }
                Err(error) => drop(ready.send(Err(error))),
            };
        });
        #[expect(clippy::expect_used, reason = "a process that cannot start a thread cannot serve")]
        let thread = Joined(Some(spawned.expect("the operating system refused a thread")));
        #[expect(
            clippy::expect_used,
            reason = "a factory that panics at the start is a bug and stops the start"
        )]
        first.recv().expect("the factory of a worker panicked")?;
        Ok(Worker { express, bulk, _thread: Arc::new(thread) })
    }

    /// Runs a job on the thread and gives its answer. Waits for a place in the queue. A job whose caller went
    /// away before it began is skipped.
    pub async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        job: impl FnOnce(&mut R) -> T + Send + 'static,
    ) -> Result<T, WorkerError> {
        let (reply, answer) = oneshot::channel();
        let reply = Arc::new(std::sync::Mutex::new(Some(reply)));
        let failure = reply.clone();
        let task = Task {
            job: Box::new(move |resource| {
                let Some(reply) = take(&reply).filter(|reply| !reply.is_closed()) else { return };
                // The panic is caught here, where the caller can be told, and handed on so that the resource,
                // which may be half-changed, is built anew.
                let result = catch_unwind(AssertUnwindSafe(|| job(resource)));
                match result {
                    Ok(value) => drop(reply.send(Ok(value))),
                    Err(payload) => {
                        drop(reply.send(Err(WorkerError::Panicked(message_of(&*payload)))));
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

type Reply<T> = oneshot::Sender<Result<T, WorkerError>>;

fn take<T>(reply: &std::sync::Mutex<Option<Reply<T>>>) -> Option<Reply<T>> {
    reply.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
}

fn work<R, E: std::fmt::Display>(
    resource: R,
    factory: &impl Fn() -> Result<R, E>,
    mut express: mpsc::Receiver<Task<R>>,
    mut bulk: mpsc::Receiver<Task<R>>,
) {
    let mut resource = Some(resource);
    // The queues need no runtime, only somebody who waits.
    while let Some(task) = block_on(next(&mut express, &mut bulk)) {
        if resource.is_none() {
            match catch_unwind(AssertUnwindSafe(factory)) {
                Ok(Ok(built)) => resource = Some(built),
                Ok(Err(error)) => {
                    (task.unavailable)(WorkerError::Unavailable(error.to_string()));
                    continue;
                }
                Err(payload) => {
                    (task.unavailable)(WorkerError::Unavailable(message_of(&*payload)));
                    continue;
                }
            }
        }
        if let Some(tool) = resource.as_mut()
            && catch_unwind(AssertUnwindSafe(|| (task.job)(tool))).is_err()
        {
            resource = None;
        }
    }
}

async fn next<R>(
    express: &mut mpsc::Receiver<Task<R>>,
    bulk: &mut mpsc::Receiver<Task<R>>,
) -> Option<Task<R>> {
    tokio::select! {
        biased;
        Some(task) = express.recv() => Some(task),
        Some(task) = bulk.recv() => Some(task),
        else => None,
    }
}

/// The text of a panic.
fn message_of(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn counter() -> (Worker<usize>, Arc<AtomicUsize>) {
        let built = Arc::new(AtomicUsize::new(0));
        let count = built.clone();
        let build = move || Ok::<_, String>(count.fetch_add(1, Ordering::SeqCst) * 100);
        (Worker::spawn("counter", 8, build).unwrap(), built)
    }

    #[tokio::test]
    async fn the_resource_stays_and_a_panic_costs_that_job_alone() {
        let (worker, built) = counter();
        let next = |n: &mut usize| {
            *n += 1;
            *n
        };
        assert_eq!(worker.run(Lane::Bulk, next).await, Ok(1));
        assert_eq!(worker.run(Lane::Bulk, next).await, Ok(2));
        let broken = worker.run(Lane::Bulk, |_: &mut usize| -> usize { panic!("half done") }).await;
        assert_eq!(broken, Err(WorkerError::Panicked("half done".into())));
        assert_eq!(worker.run(Lane::Bulk, next).await, Ok(101), "what may be half-changed was built anew");
        assert_eq!(built.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn express_overtakes_bulk() {
        let (worker, _) = counter();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let note = |name: &'static str| {
            let order = order.clone();
            move |_: &mut usize| order.lock().unwrap().push(name)
        };
        let mut first = std::pin::pin!(worker.run(Lane::Bulk, move |_: &mut usize| held.recv().unwrap()));
        assert!(futures_util::poll!(&mut first).is_pending());
        let mut bulk = std::pin::pin!(worker.run(Lane::Bulk, note("bulk")));
        assert!(futures_util::poll!(&mut bulk).is_pending());
        let mut express = std::pin::pin!(worker.run(Lane::Express, note("express")));
        assert!(futures_util::poll!(&mut express).is_pending());
        release.send(()).unwrap();
        assert!(first.await.is_ok() && bulk.await.is_ok() && express.await.is_ok());
        assert_eq!(*order.lock().unwrap(), ["express", "bulk"]);
    }

    #[tokio::test]
    async fn a_job_whose_caller_is_gone_is_skipped() {
        let (worker, _) = counter();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let mut first = std::pin::pin!(worker.run(Lane::Bulk, move |_: &mut usize| held.recv().unwrap()));
        assert!(futures_util::poll!(&mut first).is_pending());
        {
            let mut gone = std::pin::pin!(worker.run(Lane::Bulk, |n: &mut usize| *n = 7));
            assert!(futures_util::poll!(&mut gone).is_pending());
        }
        release.send(()).unwrap();
        first.await.unwrap();
        assert_eq!(worker.run(Lane::Bulk, |n: &mut usize| *n).await, Ok(0));
    }

    #[tokio::test]
    async fn a_factory_that_fails_later_fails_jobs_until_it_works_again() {
        let tries = Arc::new(AtomicUsize::new(0));
        let build = move || match tries.fetch_add(1, Ordering::SeqCst) {
            1 => Err("not now".to_owned()),
            _ => Ok(0),
        };
        let worker: Worker<usize> = Worker::spawn("moody", 8, build).unwrap();
        assert!(worker.run(Lane::Bulk, |_: &mut usize| panic!("x")).await.is_err());
        let answer = worker.run(Lane::Bulk, |n: &mut usize| *n).await;
        assert_eq!(answer, Err(WorkerError::Unavailable("not now".into())));
        assert_eq!(worker.run(Lane::Bulk, |n: &mut usize| *n).await, Ok(0));
        let first = Worker::<usize>::spawn("never", 8, || Err("no".to_owned()));
        assert_eq!(first.err(), Some("no".to_owned()));
    }
}
