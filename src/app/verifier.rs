//! Compares the indexes with the store from time to time, and mends them where they differ.

use crate::index::Indexes;
use crate::metrics;
use crate::output::throttled;
use std::time::Duration;

/// Compares and mends.
pub(super) struct Verifier {
    pub indexes: Indexes,
    pub every: Duration,
}

impl Verifier {
    /// Compares until it is dropped.
    pub async fn run(self) {
        loop {
            tokio::time::sleep(self.every).await;
            for index in [&self.indexes.concepts, &self.indexes.questions] {
                match index.verify(true).await {
                    Ok(report) => {
                        metrics::index_differences(index.identity().kind.name(), report.differences());
                    }
                    Err(error) => {
                        throttled!(warn, %error, "the index could not be compared with the database");
                    }
                }
            }
        }
    }
}
