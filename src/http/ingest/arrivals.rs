//! The times at which chunks arrive, which become `created_at`: rows sorted by it are in the order in which they were
//! sent, whatever order their transactions had.

use chrono::{DateTime, Utc};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Gives each chunk of this process a later time than the one before it, in microseconds, the resolution of PostgreSQL.
/// Clones share the clock.
#[derive(Debug, Clone, Default)]
pub struct ArrivalClock(Arc<AtomicI64>);

impl ArrivalClock {
    /// The time of a chunk that arrives now. Ahead of the system's clock while that stops or goes back.
    pub fn next(&self) -> DateTime<Utc> {
        let now = Utc::now();
        let after = |last: i64| now.timestamp_micros().max(last.saturating_add(1));
        let last = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(after(last)));
        let (Ok(last) | Err(last)) = last;
        DateTime::from_timestamp_micros(after(last)).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_chunks_have_the_same_time_and_it_is_that_of_the_system() {
        let clock = ArrivalClock::default();
        let before = Utc::now();
        let threads = [clock.clone(), clock.clone()]
            .map(|clock| std::thread::spawn(move || (0..10_000).map(|_| clock.next()).collect::<Vec<_>>()));
        let times = threads.map(|thread| thread.join().unwrap());
        assert!(times.iter().all(|times| times.is_sorted_by(|a, b| a < b)));
        let mut all = times.concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 20_000);
        assert!(all[0].timestamp_micros() >= before.timestamp_micros());
        // At most one microsecond a chunk ahead.
        assert!((clock.next() - Utc::now()).num_microseconds().unwrap() <= 20_001);
    }
}
