//! Gives the indexes the changes that this process has not made: by SQL, or by another node on the same database.

use super::indexes::{changed_rows, changes_of};
use crate::index::{Commit, Index, Indexes};
use crate::output::throttled;
use crate::store::{ModelId, Store, StoreError};
use std::time::Duration;

/// Between two looks at the clock, a query of one row. A change that is not in the index at the second look is read, so
/// searches know it within about a second.
const LOOK: Duration = Duration::from_millis(400);
/// Changes that are read at once.
const PAGE: i64 = 512;
/// Up to so many changes are read into the delta, where they wait for the next build like all others. The index builds
/// more than that from the source at once.
const MOST_READ: i64 = 8 * PAGE;

/// Follows the clock of a store with its indexes.
pub(super) struct ClockFollower {
    pub store: Store,
    pub model: ModelId,
    pub indexes: Indexes,
}

impl ClockFollower {
    /// Follows until it is dropped. While the database does not answer, or the index has no room, it tries again.
    pub async fn run(self) {
        let mut clock_before = 0;
        loop {
            tokio::time::sleep(LOOK).await;
            match self.look(clock_before).await {
                Ok(clock) => clock_before = clock,
                Err(error) => throttled!(debug, %error, "the clock of the database cannot be read"),
            }
        }
    }

    /// Reads what the indexes did not know at the look before, and returns the clock. A commit of this process is in
    /// them a moment after the clock shows it; it is not read.
    async fn look(&self, clock_before: i64) -> Result<i64, StoreError> {
        let clock = self.store.clock().await?;
        let Indexes { concepts, questions } = &self.indexes;
        self.follow(concepts, clock_before.min(clock)).await?;
        self.follow(questions, clock_before.min(clock)).await?;
        Ok(clock)
    }

    /// Brings an index to this change, or has it do so by itself when that is far away.
    async fn follow(&self, index: &Index, wanted: i64) -> Result<(), StoreError> {
        loop {
            let known = index.status().applied_seq;
            if known >= wanted {
                return Ok(());
            }
            let slots = match wanted - known {
                ..=MOST_READ => index.reserve(usize::try_from(PAGE).unwrap_or_default()).await,
                _ => Default::default(),
            };
            if slots.is_empty() {
                index.poll_source();
                return Ok(());
            }
            let kind = index.identity().kind;
            let mut changes = changes_of(&self.store, kind, known, PAGE, self.model).await?;
            let rows = changed_rows(&mut changes);
            let (upto, tombstones) = (changes.through, changes.tombstones);
            index.apply_committed(slots, Commit { after: known, upto, rows, tombstones });
        }
    }
}
