//! The number of dead letters, without a query.

use std::sync::atomic::{AtomicI64, Ordering};

/// Dead letters at the last count, adjusted by the calls of this store.
#[derive(Debug, Default)]
pub(super) struct DeadLetterCount(AtomicI64);

impl DeadLetterCount {
    pub fn get(&self) -> i64 {
        AtomicI64::load(&self.0, Ordering::Acquire).max(0)
    }

    pub fn add(&self, change: i64) {
        self.0.fetch_add(change, Ordering::AcqRel);
    }

    pub fn set(&self, count: i64) {
        self.0.store(count, Ordering::Release);
    }
}
