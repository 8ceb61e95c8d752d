//! Counts which chunks are read and found. Counting is an addition in memory; a task writes the sums every few seconds.

use crate::metrics;
use crate::store::{Accesses, Store, StoreError};
use crate::threads::lock;
use chrono::{DateTime, Utc};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The most chunks with accesses that are not written. Those to further ones are not counted.
const MOST_ITEMS: usize = 32_768;

/// Accesses since the last time they were written. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct AccessCounter(Arc<Mutex<HashMap<u32, Accesses>>>);

impl AccessCounter {
    /// Counts an access to each of these items.
    pub fn count(&self, items: impl IntoIterator<Item = u32>, at: DateTime<Utc>) {
        self.add(items.into_iter().map(|item| (item, Accesses { count: 1, last_at: at })));
    }

    /// The accesses to an item that are not written yet.
    pub fn unwritten(&self, item: u32) -> Option<Accesses> {
        lock(&self.0).get(&item).copied()
    }

    /// Writes the sums now and then until it is dropped.
    pub async fn run(self, store: Store, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            if let Err(error) = self.flush(&store).await {
                tracing::debug!(%error, "accesses could not be written now");
            }
        }
    }

    /// Writes the sums, with one statement. Without any it does nothing.
    ///
    /// # Errors
    /// As any query. The sums are kept for the next time; after [`StoreError::Lost`] they may then be counted twice.
    pub async fn flush(&self, store: &Store) -> Result<(), StoreError> {
        let mut seen: Vec<(u32, Accesses)> = std::mem::take(&mut *lock(&self.0)).into_iter().collect();
        if seen.is_empty() {
            return Ok(());
        }
        // In one order, so that two writers cannot wait for each other.
        seen.sort_unstable_by_key(|(item, _)| *item);
        let written = store.add_accesses(&seen).await;
        if written.is_err() {
            self.add(seen.into_iter());
        }
        written
    }

    fn add(&self, seen: impl Iterator<Item = (u32, Accesses)>) {
        let mut uncounted = 0;
        let mut counted = lock(&self.0);
        for (item, accesses) in seen {
            let room = counted.len() < MOST_ITEMS;
            match counted.entry(item) {
                Entry::Occupied(mut known) => {
                    let sum = known.get().and(accesses);
                    known.insert(sum);
                }
                Entry::Vacant(new) if room => {
                    new.insert(accesses);
                }
                Entry::Vacant(_) => uncounted += accesses.count,
            }
        }
        drop(counted);
        if uncounted > 0 {
            metrics::accesses_uncounted(uncounted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_add_up_and_a_full_counter_takes_no_further_items() {
        let counter = AccessCounter::default();
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
        counter.count([1, 2, 1], at(5));
        counter.count([1], at(3));
        assert_eq!(counter.unwritten(1), Some(Accesses { count: 3, last_at: at(5) }));
        assert_eq!((counter.unwritten(2).map(|two| two.count), counter.unwritten(3)), (Some(1), None));
        counter.count(0..MOST_ITEMS as u32 + 10, at(7));
        assert_eq!(lock(&counter.0).len(), MOST_ITEMS);
        assert_eq!(counter.unwritten(1).map(|one| one.count), Some(4));
        assert_eq!(counter.unwritten(MOST_ITEMS as u32 + 9), None);
    }
}
