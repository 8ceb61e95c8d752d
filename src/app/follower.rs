//! Gives the indexes the changes that this process has not made: by SQL, or by another node on the same database.

use super::indexes::{changed_rows, changes_of, store_clock};
use crate::http::ModelSwitch;
use crate::index::{Commit, Index, Indexes, StoreClock};
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
    pub fingerprint: String,
    pub indexes: Indexes,
    pub switch: ModelSwitch,
}

/// What the look before has seen.
struct LastLook {
    clock: i64,
    history: Option<String>,
}

impl ClockFollower {
    /// Follows until it is dropped. While the database does not answer, or the index has no room, it tries again.
    pub async fn run(self) {
        let mut before = LastLook { clock: 0, history: None };
        loop {
            tokio::time::sleep(LOOK).await;
            if let Err(error) = self.look(&mut before).await {
                throttled!(debug, %error, "the clock of the database cannot be read");
            }
        }
    }

    /// Reads what the indexes did not know at the look before. A commit of this process is in them a moment after the clock
    /// shows it; it is not read.
    async fn look(&self, before: &mut LastLook) -> Result<(), StoreError> {
        let Indexes { concepts, questions } = &self.indexes;
        let applied_before = [concepts, questions].map(|index| index.status().applied_seq);
        let reading = self.store.clock_reading().await?;
        let is_ours =
            |(id, fingerprint): &(ModelId, String)| *id == self.model && *fingerprint == self.fingerprint;
        if reading.store_id != self.store.store_id() || !reading.model.as_ref().is_none_or(is_ours) {
            // The indexes stay as they are: searches go on with the vectors of before.
            self.switch.notice();
            return Ok(());
        }
        self.switch.withdraw();
        if before.history.as_ref().is_some_and(|history| *history != reading.history) {
            // After a restore there are others.
            self.store.count_dead_letters().await?;
        }
        before.history = Some(reading.history.clone());
        let reading = store_clock(reading);
        for (index, applied) in [concepts, questions].into_iter().zip(applied_before) {
            if index.observe(&reading, applied) {
                let history = reading.history.clone();
                self.follow(index, StoreClock { seq: before.clock.min(reading.seq), history }).await?;
            }
        }
        before.clock = reading.seq;
        Ok(())
    }

    /// Brings an index to this change, or has it do so by itself when that is far away.
    async fn follow(&self, index: &Index, wanted: StoreClock) -> Result<(), StoreError> {
        loop {
            let known = index.status().applied_seq;
            if known >= wanted.seq {
                return Ok(());
            }
            let slots = match wanted.seq - known {
                ..=MOST_READ => index.reserve(usize::try_from(PAGE).unwrap_or_default()).await,
                _ => Default::default(),
            };
            if slots.is_empty() {
                index.poll_source();
                return Ok(());
            }
            let kind = index.identity().kind;
            let mut changes = changes_of(&self.store, kind, known, PAGE, self.model).await?;
            let rows = changed_rows(kind, &mut changes.rows);
            let (upto, tombstones) = (changes.through, changes.tombstones);
            let history = wanted.history.clone();
            let commit = Commit { history, after: known, upto, rows, tombstones };
            if index.apply_committed(slots, commit).is_err() {
                // It compares all rows.
                return Ok(());
            }
        }
    }
}
