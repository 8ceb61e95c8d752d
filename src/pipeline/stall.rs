//! Who stands still: decided from readings alone, so that it is tested without waiting.
//!
//! Time is what the watchdog itself has run. When a process was suspended, or its machine slept, nobody in it could
//! move: that time counts for nobody.

use crate::threads::Reading;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Remembers since when everybody has not moved.
pub(super) struct StallDetector {
    deadline: Duration,
    /// Between two looks; what is beyond twice that was no time of ours.
    step: Duration,
    ran: Duration,
    last: Instant,
    seen: HashMap<Arc<str>, Seen>,
}

struct Seen {
    moves: u64,
    since: Duration,
}

/// What a look shows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct StallReport {
    /// Positions in the readings of those that try_claim still, and for how long.
    pub(super) still: Vec<(usize, Duration)>,
    /// The time since the last look in which this process did not run.
    pub(super) suspended: Duration,
}

impl StallDetector {
    /// For somebody who looks every `step` from `now` on.
    pub(super) fn new(deadline: Duration, step: Duration, now: Instant) -> Self {
        StallDetector { deadline, step, ran: Duration::ZERO, last: now, seen: HashMap::new() }
    }

    /// Takes note of what is seen at this moment, on a clock that never goes back.
    pub(super) fn look(&mut self, now: Instant, readings: &[Reading]) -> StallReport {
        let passed = now.saturating_duration_since(self.last);
        let ran = passed.min(self.step * 2);
        self.last = now;
        self.ran += ran;
        let mut seen = HashMap::with_capacity(readings.len());
        let mut still = Vec::new();
        for (position, reading) in readings.iter().enumerate() {
            if reading.doing.is_none() {
                continue;
            }
            let before = self.seen.get(&reading.who).filter(|before| before.moves == reading.moves);
            let since = before.map_or(self.ran, |before| before.since);
            let lasted = self.ran - since;
            if lasted >= self.deadline {
                still.push((position, lasted));
            }
            seen.insert(reading.who.clone(), Seen { moves: reading.moves, since });
        }
        self.seen = seen;
        StallReport { still, suspended: passed - ran }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_secs(1);
    const NEVER: [u64; 0] = [];

    /// Looks at given times, in seconds, with a deadline of ten.
    struct Script {
        patience: StallDetector,
        start: Instant,
    }

    impl Script {
        fn new() -> Self {
            let start = Instant::now();
            Script { patience: StallDetector::new(Duration::from_secs(10), STEP, start), start }
        }

        fn at(&mut self, second: u64, readings: &[Reading]) -> StallReport {
            self.patience.look(self.start + Duration::from_secs(second), readings)
        }

        /// The seconds from the first to the last at which somebody stands still.
        fn still(
            &mut self,
            seconds: std::ops::RangeInclusive<u64>,
            reading: impl Fn(u64) -> Reading,
        ) -> Vec<u64> {
            seconds.filter(|second| !self.at(*second, &[reading(*second)]).still.is_empty()).collect()
        }
    }

    fn reading(doing: Option<&'static str>, moves: u64) -> Reading {
        Reading { who: "x".into(), moves, doing, gone: false }
    }

    #[test]
    fn one_that_does_the_same_without_moving_stands_still_at_the_deadline() {
        let mut script = Script::new();
        assert_eq!(script.still(0..=12, |_| reading(Some("a"), 7)), [10, 11, 12]);
        assert_eq!(script.at(13, &[reading(Some("a"), 7)]).still, [(0, Duration::from_secs(13))]);
        assert_eq!(script.at(14, &[reading(Some("a"), 8)]), StallReport::default(), "it has moved");
    }

    #[test]
    fn who_moves_is_idle_or_waits_does_not_stand_still_however_long() {
        assert_eq!(Script::new().still(0..=100, |second| reading(Some("a build"), second / 9)), NEVER);
        assert_eq!(Script::new().still(0..=100, |_| reading(None, 7)), NEVER);
        // A wait in between starts the count again, even when it was over within one move.
        let mut script = Script::new();
        assert_eq!(script.still(0..=9, |_| reading(Some("a"), 7)), NEVER);
        assert_eq!(script.still(10..=10, |_| reading(None, 7)), NEVER);
        assert_eq!(script.still(11..=21, |_| reading(Some("a"), 7)), [21]);
    }

    #[test]
    fn the_time_of_a_suspended_process_counts_for_nobody() {
        let mut script = Script::new();
        assert_eq!(script.still(0..=5, |_| reading(Some("a"), 7)), NEVER);
        // Stopped for 30 s: two of them are counted, because a look may be late by so much on a busy machine.
        let look = script.at(36, &[reading(Some("a"), 7)]);
        assert_eq!((look.still, look.suspended), (vec![], Duration::from_secs(29)));
        assert_eq!(script.still(37..=40, |_| reading(Some("a"), 7)), [39, 40]);
        // Again and again, each time before the deadline: it still adds up.
        let mut script = Script::new();
        let late: Vec<u64> =
            (0..10).filter(|look| !script.at(look * 60, &[reading(Some("a"), 7)]).still.is_empty()).collect();
        assert_eq!(late, [5, 6, 7, 8, 9]);
    }

    #[test]
    fn each_has_its_own_count() {
        let named = |who: &str, moves| Reading { who: who.into(), moves, doing: Some("a"), gone: false };
        let mut script = Script::new();
        for second in 0..10 {
            assert_eq!(script.at(second, &[named("x", 1), named("y", second)]), StallReport::default());
        }
        assert_eq!(script.at(10, &[named("y", 10), named("x", 1)]).still, [(1, Duration::from_secs(10))]);
        assert_eq!(script.at(11, &[named("y", 11)]), StallReport::default());
        assert_eq!(script.at(12, &[named("x", 1)]), StallReport::default(), "one that was away begins anew");
    }
}
