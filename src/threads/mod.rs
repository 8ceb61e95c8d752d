//! Threads that own a resource, and records of what a thread or a task is doing. A leaf: it imports no other room.
//!
//! A [`Worker`] owns threads, each with the one resource that has to stay on it. A [`Progress`] records what a thread
//! or a task is doing, so that a stall can be told from a wait. [`lock`] is for mutexes whose poison does not matter,
//! [`catch_panic`] for libraries that panic on some inputs, [`lower_priority`] for work that may wait,
//! [`spawn_computation`] for work that has no resource and would hold others up.

mod computation;
mod lock;
mod panics;
mod priority;
mod progress;
mod worker;

pub use computation::spawn_computation;
pub use lock::lock;
pub use panics::{catch_panic, report_panics};
pub use priority::lower_priority;
pub use progress::{ActivityGuard, LivenessGuard, Progress, Reading};
pub use worker::{Lane, Worker, WorkerError, panic_message};
