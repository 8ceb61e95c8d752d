//! Threads that own a resource, and records of what a thread or a task is doing. A leaf beside the house.
//!
//! A [`Worker`] owns threads, each with the one resource that has to stay on it. A [`Progress`] says what such a thread
//! is doing, so that a stall can be told from a wait.

mod lock;
mod progress;
mod worker;

pub use lock::lock;
pub use progress::{ActivityGuard, LivenessGuard, Progress, Reading};
pub use worker::{Lane, Worker, WorkerError};
