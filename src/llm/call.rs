//! How a call is made.

/// Which calls are made first when there are more than the servers take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallPriority {
    /// For a chunk that a client waits for.
    Ingest,
    /// For a chunk that is stored already: only while no call of ingest waits.
    Background,
}

/// What is done with a text whose answer is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheUse {
    /// The known answer is taken.
    Use,
    /// The model is asked, and the new answer is kept in place of the known one.
    Refresh,
}
