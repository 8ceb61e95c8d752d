//! How many of the nearest rows searches find, measured on some of them while the service runs.

use crate::filter::Filter;
use crate::index::{Effort, Index, NearestItem};
use crate::metrics;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Between two exact searches: one of 100,000 rows takes about a tenth of a second of a core, of low priority.
const PAUSE: Duration = Duration::from_secs(10);
/// More results than this are not compared.
const MOST: usize = 100;

/// Repeats a search now and then by looking at every vector, and counts what it has missed. Clones share one turn.
#[derive(Debug, Clone, Default)]
pub struct RecallSample {
    turn: Arc<SampleTurn>,
}

#[derive(Debug, Default)]
struct SampleTurn {
    began: OnceLock<Instant>,
    /// Milliseconds after the beginning at which the next one may be made.
    next_ms: AtomicU64,
    busy: AtomicBool,
}

impl RecallSample {
    /// Compares what a search found, in the background, if it is time for that.
    pub(super) fn offer(
        &self,
        index: &Index,
        vector: &Arc<[f32]>,
        filter: &Arc<Filter>,
        found: &[NearestItem],
    ) {
        if found.is_empty() || found.len() > MOST || !self.turn.take() {
            return;
        }
        let (index, vector, filter) = (index.clone(), vector.clone(), filter.clone());
        let found: Vec<u32> = found.iter().map(|hit| hit.item).collect();
        let turn = self.turn.clone();
        tokio::spawn(async move {
            // Rows that came meanwhile count as missed; they are few.
            if let Ok(exact) = index.search_async(vector, filter, found.len(), Effort::Exact).await {
                let hits = exact.hits.iter().filter(|hit| found.contains(&hit.item)).count();
                metrics::search_recall(hits as u64, exact.hits.len() as u64);
            }
            turn.end();
        });
    }
}

impl SampleTurn {
    fn now_ms(&self) -> u64 {
        let began = self.began.get_or_init(Instant::now);
        u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn take(&self) -> bool {
        self.now_ms() >= self.next_ms.load(Ordering::Relaxed) && !self.busy.swap(true, Ordering::Relaxed)
    }

    fn end(&self) {
        self.next_ms.store(self.now_ms() + PAUSE.as_millis() as u64, Ordering::Relaxed);
        self.busy.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_not_again_at_once() {
        let turn = SampleTurn::default();
        assert!(turn.take());
        assert!(!turn.take(), "it is under way");
        turn.end();
        assert!(!turn.take(), "it was just made");
    }
}
