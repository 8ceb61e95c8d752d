//! The timeouts of the server.

use crate::http::limits::BodyTimeouts;
use std::time::Duration;

/// The timeouts of the server. The framework's clock has a resolution of half a second: `head`, `keep_alive` and
/// `linger` are at least one second.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The time that requests in flight get at an orderly stop.
    pub drain: Duration,
    /// The time for the first head on a connection.
    pub head: Duration,
    /// The time that a connection may be idle between two requests. Longer than the defaults of usual proxies.
    pub keep_alive: Duration,
    /// The timeouts of a request body.
    pub body: BodyTimeouts,
    /// The time that a client may leave streamed results unread.
    pub read_timeout: Duration,
    /// The time a connection stays open after an answer to a request that was not read to its end, so that the client
    /// receives the answer.
    pub linger: Duration,
    /// The time after which a client that acknowledges no bytes is disconnected. Longer than `read_timeout`, so that a
    /// client that reads late still receives the reason why the stream ended.
    pub unacknowledged: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Settings {
            drain: seconds(30),
            head: seconds(5),
            keep_alive: seconds(75),
            body: BodyTimeouts::default(),
            read_timeout: seconds(30),
            linger: seconds(5),
            unacknowledged: seconds(90),
        }
    }
}
