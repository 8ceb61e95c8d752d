//! Gives the index the changes that this process has not made: by SQL, or by another node on the same database.

use crate::index::{ChangedRow, Commit, Index};
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

/// Follows the clock of a store with its index.
pub(super) struct Follower {
    pub store: Store,
    pub model: ModelId,
    pub index: Index,
}

impl Follower {
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

    /// Reads what the index did not know at the look before, and returns the clock. A commit of this process is in the
    /// index a moment after the clock shows it; it is not read.
    async fn look(&self, clock_before: i64) -> Result<i64, StoreError> {
        let clock = self.store.clock().await?;
        loop {
            let known = self.index.status().applied_seq;
            if known >= clock_before.min(clock) {
                return Ok(clock);
            }
            let missing = clock_before - known;
            let slots = match missing {
                ..=MOST_READ => self.index.reserve(usize::try_from(PAGE).unwrap_or_default()).await,
                _ => Default::default(),
            };
            if slots.is_empty() {
                self.index.poll_source();
                return Ok(clock);
            }
            let changes = self.store.changes_after(known, PAGE, self.model).await?;
            let rows = changes.rows.into_iter();
            let rows = rows.map(|row| ChangedRow { seq: row.seq, item: row.item, vector: row.vector.into() });
            let (rows, tombstones) = (rows.collect(), changes.tombstones);
            self.index
                .apply_committed(slots, Commit { after: known, upto: changes.through, rows, tombstones });
        }
    }
}
