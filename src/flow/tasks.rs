//! What a stage has in its hands: pieces of work, each of them at work or waiting for somebody else.
//!
//! [`TaskGuard::wait_for`] marks the waits, for room, for the database, for a thread with a [`Progress`](crate::threads::Progress)
//! of its own. What is left is the stage's own work, which takes no time worth speaking of; a hand that is at it for
//! long stands still, and can be taken away from its task with [`TaskRegistry::abort`].

use crate::threads::lock;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::task::AbortHandle;

/// The hands of one stage, over all its generations.
#[derive(Default)]
pub struct TaskRegistry(Mutex<Table>);

#[derive(Default)]
struct Table {
    /// Counts everything that happens here.
    moves: u64,
    /// By the number of their beginning.
    held: BTreeMap<u64, Held>,
}

struct Held {
    generation: u64,
    began: Instant,
    moved: u64,
    waits_for: Option<&'static str>,
    task: Option<AbortHandle>,
}

/// One piece of work in hand, until it is dropped.
pub struct TaskGuard {
    hands: Arc<TaskRegistry>,
    generation: u64,
    number: u64,
}

/// The oldest piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Oldest {
    /// In hand for so long.
    pub age: Duration,
    /// Absent while it is worked on.
    pub waits_for: Option<&'static str>,
}

impl TaskRegistry {
    /// Takes something in hand, in this generation.
    pub fn take(self: &Arc<Self>, generation: u64) -> TaskGuard {
        self.begin(generation, None)
    }

    fn begin(self: &Arc<Self>, generation: u64, waits_for: Option<&'static str>) -> TaskGuard {
        let mut table = self.table();
        let moved = table.step();
        let held = Held { generation, began: Instant::now(), moved, waits_for, task: None };
        table.held.insert(moved, held);
        drop(table);
        TaskGuard { hands: self.clone(), generation, number: moved }
    }

    /// Says which task does a piece of work, once that has been started.
    pub fn set_task(&self, number: u64, task: AbortHandle) {
        if let Some(held) = self.table().held.get_mut(&number) {
            held.task = Some(task);
        }
    }

    /// The move with which the hand that is longest at work began it. `None` while all are empty or wait.
    pub fn at_work_since(&self) -> Option<u64> {
        let table = self.table();
        let at_work = table.held.values().filter(|held| held.waits_for.is_none());
        at_work.map(|held| held.moved).min()
    }

    /// None of them holds anything.
    pub fn is_empty(&self) -> bool {
        self.table().held.is_empty()
    }

    /// The generation of the hand that has been at work since this move; `None` when it has moved meanwhile.
    pub fn generation_of(&self, moved: u64) -> Option<u64> {
        self.table().find(moved).map(|held| held.generation)
    }

    /// Ends the task of the hand that has been at work since this move: its parcels are dropped, and so go redelivery_queue.
    pub fn abort(&self, moved: u64) {
        let task = self.table().find(moved).and_then(|held| held.task.clone());
        if let Some(task) = task {
            task.abort();
        }
    }

    /// The oldest piece of work.
    pub fn oldest(&self) -> Option<Oldest> {
        let table = self.table();
        let (_, held) = table.held.first_key_value()?;
        Some(Oldest { age: held.began.elapsed(), waits_for: held.waits_for })
    }

    /// Also used in drops during unwinding; nothing is ever half done under it.
    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.0)
    }
}

impl Table {
    fn find(&self, moved: u64) -> Option<&Held> {
        self.held.values().find(|held| held.moved == moved && held.waits_for.is_none())
    }

    fn step(&mut self) -> u64 {
        self.moves += 1;
        self.moves
    }
}

impl TaskGuard {
    /// Its number, for [`TaskRegistry::set_task`].
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Another one of the same stage and generation, which does nothing but wait, until it is dropped.
    pub fn another_that_waits_for(&self, whom: &'static str) -> TaskGuard {
        self.hands.begin(self.generation, Some(whom))
    }

    /// Waits for somebody else, and is not standing still meanwhile.
    pub async fn wait_for<T>(&self, whom: &'static str, answer: impl Future<Output = T>) -> T {
        let _waiting = Waiting::begin(self, whom);
        answer.await
    }

    fn set(&self, waits_for: Option<&'static str>) {
        let mut table = self.hands.table();
        let moved = table.step();
        if let Some(held) = table.held.get_mut(&self.number) {
            (held.moved, held.waits_for) = (moved, waits_for);
        }
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        let mut table = self.hands.table();
        table.step();
        // Its abort handle may be the last of its task: dropped outside of the lock.
        let held = table.held.remove(&self.number);
        drop(table);
        drop(held);
    }
}

/// Ends the wait also when the answer is no longer awaited.
struct Waiting<'a>(&'a TaskGuard);

impl<'a> Waiting<'a> {
    fn begin(hand: &'a TaskGuard, whom: &'static str) -> Self {
        hand.set(Some(whom));
        Waiting(hand)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    #[tokio::test]
    async fn who_waits_is_not_at_work_and_the_one_longest_at_work_is_seen() {
        let hands = Arc::new(TaskRegistry::default());
        assert_eq!((hands.is_empty(), hands.at_work_since()), (true, None));
        let (first, second) = (hands.take(1), hands.take(1));
        let began = hands.at_work_since().unwrap();
        {
            let mut wait = std::pin::pin!(first.wait_for("the LLM", pending::<()>()));
            assert!(futures_util::poll!(&mut wait).is_pending());
            assert!(hands.at_work_since().unwrap() > began, "the second is at work");
            assert_eq!(hands.oldest().unwrap().waits_for, Some("the LLM"));
            let mut wait = std::pin::pin!(second.wait_for("PostgreSQL", pending::<()>()));
            assert!(futures_util::poll!(&mut wait).is_pending());
            assert_eq!((hands.is_empty(), hands.at_work_since()), (false, None));
        }
        assert!(hands.at_work_since().is_some(), "a wait that is given up is over");
        assert_eq!(second.wait_for("nobody", ready(7)).await, 7);
        let letter = first.another_that_waits_for("PostgreSQL");
        drop((first, second));
        assert_eq!((hands.is_empty(), hands.at_work_since()), (false, None), "one only waits");
        drop(letter);
        assert_eq!((hands.is_empty(), hands.oldest()), (true, None));
    }

    #[tokio::test]
    async fn a_hand_that_stands_still_is_taken_from_its_task_and_no_other() {
        let hands = Arc::new(TaskRegistry::default());
        let hold = |hand: TaskGuard| {
            tokio::spawn(async move {
                hand.wait_for("a", ready(())).await;
                pending::<()>().await;
            })
        };
        let start = |generation| {
            let hand = hands.take(generation);
            let number = hand.number();
            let task = hold(hand);
            hands.set_task(number, task.abort_handle());
            task
        };
        let (guilty, innocent) = (start(4), start(5));
        tokio::task::yield_now().await;
        let moved = hands.at_work_since().unwrap();
        assert_eq!((hands.generation_of(moved - 1), hands.generation_of(moved)), (None, Some(4)));
        hands.abort(moved);
        assert!(guilty.await.unwrap_err().is_cancelled());
        assert!(!innocent.is_finished());
        innocent.abort();
    }
}
