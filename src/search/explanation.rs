//! How a search came to its results.

use crate::index::SearchMode;
use std::time::Duration;

/// What a client learns with `explain`.
#[derive(Debug, Clone, Copy)]
pub struct Explanation {
    /// How the nearest rows were found.
    pub mode: SearchMode,
    /// The rows that match the filter.
    pub matching: usize,
    /// The rows whose vectors were compared as they were committed.
    pub compared: usize,
    /// The time of each part.
    pub times: SearchTimes,
}

/// The time that the parts of a search took.
#[derive(Debug, Clone, Copy)]
pub struct SearchTimes {
    /// The wait for `min_seq`, the vector of the query text, and its codes.
    pub prepare: Duration,
    /// The indexes and the order of what they found.
    pub index: Duration,
}
