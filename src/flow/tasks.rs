//! The tasks of a stage, each of them at work or waiting.
//!
//! [`TaskGuard::wait_for`] marks the waits: for room, for the database, for a thread with a record of its own. What is
//! left is the stage's own work, which takes no time worth measuring. A task that runs long without progress is
//! stalled, and can be aborted with [`TaskRegistry::abort`].

use crate::threads::{ActivityGuard, Progress, Reading, lock};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::task::AbortHandle;

/// The tasks of one stage, over all its generations.
pub struct TaskRegistry {
    name: Arc<str>,
    /// By the id of their progress record: in the order of their beginning.
    tasks: Mutex<BTreeMap<u64, TrackedTask>>,
}

struct TrackedTask {
    generation: u64,
    began: Instant,
    progress: Progress,
    abort: Option<AbortHandle>,
}

/// One registered task, until it is dropped.
pub struct TaskGuard {
    registry: Arc<TaskRegistry>,
    generation: u64,
    progress: Progress,
    _activity: ActivityGuard,
}

/// The oldest task of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OldestTask {
    /// The time since it began.
    pub age: Duration,
    /// Absent while it works.
    pub waits_for: Option<&'static str>,
}

impl TaskRegistry {
    /// No tasks, of a stage with this name.
    pub fn new(name: &'static str) -> Arc<TaskRegistry> {
        Arc::new(TaskRegistry { name: name.into(), tasks: Mutex::default() })
    }

    /// Registers a task of this generation.
    pub fn begin(self: &Arc<Self>, generation: u64) -> TaskGuard {
        self.register(generation, |progress| progress.begin("at one piece of work"))
    }

    fn register(
        self: &Arc<Self>,
        generation: u64,
        activity: impl FnOnce(&Progress) -> ActivityGuard,
    ) -> TaskGuard {
        let progress = Progress::new(self.name.clone());
        let _activity = activity(&progress);
        let task = TrackedTask { generation, began: Instant::now(), progress: progress.clone(), abort: None };
        self.tasks().insert(progress.id(), task);
        TaskGuard { registry: self.clone(), generation, progress, _activity }
    }

    /// Gives the task with this id its handle, once it has been spawned.
    pub fn set_handle(&self, id: u64, abort: AbortHandle) {
        if let Some(task) = self.tasks().get_mut(&id) {
            task.abort = Some(abort);
        }
    }

    /// The records of all tasks.
    pub fn readings(&self) -> Vec<Reading> {
        self.tasks().values().map(|task| task.progress.read()).collect()
    }

    /// Whether no task is registered.
    pub fn is_empty(&self) -> bool {
        self.tasks().is_empty()
    }

    /// The generation of a task that has not moved since this reading; `None` when it has, or has ended.
    pub fn generation_of(&self, reading: &Reading) -> Option<u64> {
        find(&self.tasks(), reading).map(|task| task.generation)
    }

    /// Aborts a task that has not moved since this reading. Its parcels are dropped, and so delivered again.
    pub fn abort(&self, reading: &Reading) {
        let handle = find(&self.tasks(), reading).and_then(|task| task.abort.clone());
        if let Some(handle) = handle {
            handle.abort();
        }
    }

    /// The oldest task.
    pub fn oldest(&self) -> Option<OldestTask> {
        let tasks = self.tasks();
        let (_, task) = tasks.first_key_value()?;
        Some(OldestTask { age: task.began.elapsed(), waits_for: task.progress.waits_for() })
    }

    /// Also used in drops during unwinding.
    fn tasks(&self) -> MutexGuard<'_, BTreeMap<u64, TrackedTask>> {
        lock(&self.tasks)
    }
}

fn find<'a>(tasks: &'a BTreeMap<u64, TrackedTask>, reading: &Reading) -> Option<&'a TrackedTask> {
    tasks.get(&reading.id).filter(|task| task.progress.read() == *reading)
}

impl TaskGuard {
    /// For [`TaskRegistry::set_handle`].
    pub fn id(&self) -> u64 {
        self.progress.id()
    }

    /// Registers another task of the same stage and generation that only waits for `what` until it is dropped.
    pub fn another_that_waits_for(&self, what: &'static str) -> TaskGuard {
        self.registry.register(self.generation, |progress| progress.wait(what))
    }

    /// Waits for `what`: no stall, however long it takes.
    pub async fn wait_for<T>(&self, what: &'static str, answer: impl Future<Output = T>) -> T {
        // Dropped, and so ended, also when the answer is no longer awaited.
        let _waiting = self.progress.wait(what);
        answer.await
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        // Its abort handle may be the last of its task: dropped outside of the lock.
        let task = self.registry.tasks().remove(&self.progress.id());
        drop(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    /// The ids of the tasks at work.
    fn at_work(registry: &TaskRegistry) -> Vec<u64> {
        let readings = registry.readings().into_iter();
        readings.filter(|reading| reading.doing.is_some()).map(|reading| reading.id).collect()
    }

    #[tokio::test]
    async fn a_task_that_waits_is_not_at_work() {
        let registry = TaskRegistry::new("test");
        assert!(registry.is_empty() && registry.oldest().is_none());
        let (first, second) = (registry.begin(1), registry.begin(1));
        assert_eq!(at_work(&registry), [first.id(), second.id()]);
        {
            let mut wait = std::pin::pin!(first.wait_for("the LLM", pending::<()>()));
            assert!(futures_util::poll!(&mut wait).is_pending());
            assert_eq!(at_work(&registry), [second.id()]);
            assert_eq!(registry.oldest().unwrap().waits_for, Some("the LLM"));
            let mut wait = std::pin::pin!(second.wait_for("PostgreSQL", pending::<()>()));
            assert!(futures_util::poll!(&mut wait).is_pending());
            assert!(!registry.is_empty() && at_work(&registry).is_empty());
        }
        assert_eq!(at_work(&registry).len(), 2, "a wait that is given up is over");
        assert_eq!(second.wait_for("nothing", ready(7)).await, 7);
        let letter = first.another_that_waits_for("PostgreSQL");
        drop((first, second));
        assert!(!registry.is_empty() && at_work(&registry).is_empty(), "the other one only waits");
        assert_eq!(registry.oldest().unwrap().waits_for, Some("PostgreSQL"));
        drop(letter);
        assert!(registry.is_empty() && registry.oldest().is_none());
    }

    #[tokio::test]
    async fn a_stalled_task_is_aborted_and_no_other() {
        let registry = TaskRegistry::new("test");
        let start = |generation| {
            let guard = registry.begin(generation);
            let id = guard.id();
            let task = tokio::spawn(async move {
                guard.wait_for("a", ready(())).await;
                pending::<()>().await;
            });
            registry.set_handle(id, task.abort_handle());
            task
        };
        let (stalled, other) = (start(4), start(5));
        let early = registry.readings().swap_remove(0);
        tokio::task::yield_now().await;
        let reading = registry.readings().swap_remove(0);
        assert_eq!((registry.generation_of(&early), registry.generation_of(&reading)), (None, Some(4)));
        registry.abort(&early);
        registry.abort(&reading);
        assert!(stalled.await.unwrap_err().is_cancelled());
        assert!(!other.is_finished());
        other.abort();
    }
}
