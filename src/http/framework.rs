//! What the HTTP framework says about connections: counted, and in the log where that is of use.
//!
//! The framework logs what a client sends wrong as errors, as often as the client sends it. Those events are left out
//! of the log; the same errors come here as values, and are counted, and logged at the level DEBUG at a limited rate.

use crate::metrics;
use crate::output::throttled;
use actix_http::error::{DispatchError, ParseError};
use std::sync::atomic::{AtomicBool, Ordering};
use tracing::{Level, Metadata};

/// The parts of the framework that log what clients do.
const OF_CLIENTS: [&str; 3] =
    ["actix_http::h1::dispatcher", "actix_http::h1::decoder", "actix_http::h1::chunked"];
/// The part that accepts connections.
const ACCEPTING: &str = "actix_server::accept";

/// A server of this process stops, and its listening socket is shut down.
static STOPPING: AtomicBool = AtomicBool::new(false);

/// Whether an event belongs into the log, for the log's filter. Of the framework's parts that log what clients do, only
/// the level TRACE does. The thread that accepts connections takes the end of its socket in an orderly stop for a
/// failure; that is none.
pub fn is_logged(event: &Metadata<'_>) -> bool {
    let target = event.target();
    let of_a_client = OF_CLIENTS.contains(&target) && *event.level() != Level::TRACE;
    let of_the_stop = target == ACCEPTING && STOPPING.load(Ordering::Relaxed);
    !of_a_client && !of_the_stop
}

/// An orderly stop begins.
pub(super) fn stopping() {
    STOPPING.store(true, Ordering::Relaxed);
}

/// Counts and logs the error that ended a connection, and passes it on.
pub(super) fn ended(error: DispatchError) -> DispatchError {
    let cause = cause(&error);
    metrics::connection_error(cause);
    if cause == "internal" {
        throttled!(error, "the HTTP framework failed on a connection: {error}");
    } else {
        throttled!(debug, cause, "a connection ended: {error}");
    }
    error
}

fn cause(error: &DispatchError) -> &'static str {
    match error {
        DispatchError::Parse(ParseError::TooLarge) => "head_too_large",
        DispatchError::Parse(_) => "malformed",
        DispatchError::SlowRequestTimeout => "slow_head",
        DispatchError::DisconnectTimeout => "slow_end",
        DispatchError::HandlerDroppedPayload => "body_not_read",
        DispatchError::Body(_) => "answer_aborted",
        DispatchError::Io(_) => "io",
        DispatchError::InternalError => "internal",
        _ => "other",
    }
}
