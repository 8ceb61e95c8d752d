//! Computations that would hold up a thread that waits for others.

use tokio::task::JoinHandle;

/// Begins a computation on a thread of tokio's pool. Not for libtorch or LMDB, which keep state for each thread: they have
/// a [`super::Worker`]. The handle gives an error when the computation panics; dropped, it lets the computation go on.
#[expect(clippy::disallowed_methods, reason = "the one place")]
pub fn spawn_computation<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    tokio::task::spawn_blocking(work)
}
