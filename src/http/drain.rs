//! The end in order: nobody new, an answer for everybody who is here, then the connections.

use crate::http::state::State;
use actix_web::dev::ServerHandle;
use nix::sys::socket::{Shutdown, shutdown};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// After the last answer the connections get at least this long to take it.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Ends the server behind `handle`, which listens on a copy of `listener`. Uploads are refused, and those under way
/// read no further; accepted chunks are finished. Gives the number of chunks that have no answer at the `deadline`:
/// they are not acknowledged.
pub async fn drain(state: &State, handle: &ServerHandle, listener: TcpListener, deadline: Instant) -> u64 {
    let entrance = state.pipeline.entrance();
    entrance.close();
    handle.pause().await;
    // Whoever connects now is refused and can go elsewhere, instead of waiting in the queue of a socket that nobody
    // looks at. Systems that cannot do that to a listening socket leave them waiting until it is closed.
    if let Err(error) = shutdown(listener.as_raw_fd(), Shutdown::Both) {
        tracing::debug!("the listening socket stays open to the end: {error}");
    }
    drop(listener);
    let answered = async {
        state.admission.all_back().await;
        entrance.all_free().await;
    };
    let in_time = timeout_at(deadline, answered).await.is_ok();
    let left = if in_time { 0 } else { state.counts.unanswered() };
    if left == 0 {
        let last_words = deadline.max(Instant::now() + LAST_WORDS);
        drop(timeout_at(last_words, handle.stop(true)).await);
    }
    left
}
