//! The orderly stop: refuse new requests, answer those in flight, then close the connections.

use crate::http::framework;
use crate::http::state::State;
use actix_web::dev::ServerHandle;
use nix::sys::socket::{Shutdown, shutdown};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// The minimum time for connections to take the last answers.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Stops the server behind `handle`, which listens on a copy of `listener`. New uploads are refused, active ones are
/// read no further, and accepted chunks are finished. Returns the number of chunks without an answer at the `deadline`;
/// they are not acknowledged.
pub async fn drain(state: &State, handle: &ServerHandle, listener: TcpListener, deadline: Instant) -> u64 {
    let entrance = state.pipeline.entrance();
    entrance.close();
    framework::stopping();
    handle.pause().await;
    // New connections are refused, so that clients go elsewhere instead of waiting in the backlog. Systems that cannot
    // shut down a listening socket leave them waiting until it is closed.
    if let Err(error) = shutdown(listener.as_raw_fd(), Shutdown::Both) {
        tracing::debug!("the listening socket stays open to the end: {error}");
    }
    drop(listener);
    finish(state, handle, deadline).await
}

/// As [`drain`], but the listening socket stays open: new connections wait in its backlog for the next server on it.
pub async fn drain_connections(state: &State, handle: &ServerHandle, deadline: Instant) -> u64 {
    state.pipeline.entrance().close();
    handle.pause().await;
    finish(state, handle, deadline).await
}

async fn finish(state: &State, handle: &ServerHandle, deadline: Instant) -> u64 {
    let entrance = state.pipeline.entrance();
    let answered = async {
        state.admission.all_free().await;
        entrance.all_free().await;
    };
    let in_time = timeout_at(deadline, answered).await.is_ok();
    let left = if in_time { 0 } else { state.counts.unanswered() };
    if left == 0 {
        let flushed_by = deadline.max(Instant::now() + FLUSH_TIMEOUT);
        drop(timeout_at(flushed_by, handle.stop(true)).await);
    }
    left
}
