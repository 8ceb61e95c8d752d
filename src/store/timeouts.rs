//! How long the calls of the store wait.

use std::time::Duration;

/// How long a call waits for a connection, and a connection for its server.
#[derive(Debug, Clone, Copy)]
pub struct StoreTimeouts {
    /// For a connection of the pool. Shorter than any deadline of a chunk.
    pub wait: Duration,
    /// For the next byte of the answer to a statement that finds its rows by index. Longer than the server lets a
    /// statement wait for a lock.
    pub answer: Duration,
    /// The same for a statement that may read a whole table.
    pub scan: Duration,
}

impl Default for StoreTimeouts {
    fn default() -> Self {
        StoreTimeouts {
            wait: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            scan: Duration::from_secs(15 * 60),
        }
    }
}
