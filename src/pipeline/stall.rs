//! What is stalled: decided from readings alone, so that it is tested without waiting.
//!
//! The clock counts the time for which the watchdog itself ran. While a process is suspended, or its machine sleeps,
//! nothing in it can move: that time does not count.

use crate::threads::Reading;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Remembers since when each thread and task has not moved.
pub(super) struct StallDetector {
    deadline: Duration,
    /// Between two checks. Time beyond twice that is taken for a suspension.
    step: Duration,
    ran: Duration,
    last: Instant,
    /// By the id of the record.
    seen: HashMap<u64, Seen>,
}

struct Seen {
    moves: u64,
    since: Duration,
}

/// The result of one check.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct StallReport {
    /// Positions of the stalled ones in the readings, and for how long they have not moved.
    pub(super) stalled: Vec<(usize, Duration)>,
    /// The time since the last check for which this process did not run.
    pub(super) suspended: Duration,
}

impl StallDetector {
    /// A detector whose checks come every `step` from `now` on.
    pub(super) fn new(deadline: Duration, step: Duration, now: Instant) -> Self {
        StallDetector { deadline, step, ran: Duration::ZERO, last: now, seen: HashMap::new() }
    }

    /// Compares the readings with those of the check before.
    pub(super) fn check(&mut self, now: Instant, readings: &[Reading]) -> StallReport {
        let passed = now.saturating_duration_since(self.last);
        let ran = passed.min(self.step * 2);
        self.last = now;
        self.ran += ran;
        let mut seen = HashMap::with_capacity(readings.len());
        let mut stalled = Vec::new();
        for (position, reading) in readings.iter().enumerate() {
            if reading.doing.is_none() {
                continue;
            }
            let before = self.seen.get(&reading.id).filter(|before| before.moves == reading.moves);
            let since = before.map_or(self.ran, |before| before.since);
            let lasted = self.ran - since;
            if lasted >= self.deadline {
                stalled.push((position, lasted));
            }
            seen.insert(reading.id, Seen { moves: reading.moves, since });
        }
        self.seen = seen;
        StallReport { stalled, suspended: passed - ran }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_secs(1);
    const NEVER: [u64; 0] = [];

    /// Checks at given times, in seconds, with a deadline of ten.
    struct Script {
        detector: StallDetector,
        start: Instant,
    }

    impl Script {
        fn new() -> Self {
            let start = Instant::now();
            Script { detector: StallDetector::new(Duration::from_secs(10), STEP, start), start }
        }

        fn at(&mut self, second: u64, readings: &[Reading]) -> StallReport {
            self.detector.check(self.start + Duration::from_secs(second), readings)
        }

        /// The seconds from the first to the last at which something is stalled.
        fn stalled(
            &mut self,
            seconds: std::ops::RangeInclusive<u64>,
            reading: impl Fn(u64) -> Reading,
        ) -> Vec<u64> {
            seconds.filter(|second| !self.at(*second, &[reading(*second)]).stalled.is_empty()).collect()
        }
    }

    fn reading(doing: Option<&'static str>, moves: u64) -> Reading {
        Reading { id: 1, name: "x".into(), moves, doing, gone: false }
    }

    #[test]
    fn work_without_progress_is_stalled_at_the_deadline() {
        let mut script = Script::new();
        assert_eq!(script.stalled(0..=12, |_| reading(Some("a"), 7)), [10, 11, 12]);
        assert_eq!(script.at(13, &[reading(Some("a"), 7)]).stalled, [(0, Duration::from_secs(13))]);
        assert_eq!(script.at(14, &[reading(Some("a"), 8)]), StallReport::default(), "it has moved");
    }

    #[test]
    fn what_moves_is_idle_or_waits_is_never_stalled() {
        assert_eq!(Script::new().stalled(0..=100, |second| reading(Some("a build"), second / 9)), NEVER);
        assert_eq!(Script::new().stalled(0..=100, |_| reading(None, 7)), NEVER);
        // A wait in between starts the count again, even when it was over within one move.
        let mut script = Script::new();
        assert_eq!(script.stalled(0..=9, |_| reading(Some("a"), 7)), NEVER);
        assert_eq!(script.stalled(10..=10, |_| reading(None, 7)), NEVER);
        assert_eq!(script.stalled(11..=21, |_| reading(Some("a"), 7)), [21]);
    }

    #[test]
    fn the_time_of_a_suspended_process_does_not_count() {
        let mut script = Script::new();
        assert_eq!(script.stalled(0..=5, |_| reading(Some("a"), 7)), NEVER);
        // Stopped for 30 s: two of them are counted, because a check may be late by so much on a busy machine.
        let report = script.at(36, &[reading(Some("a"), 7)]);
        assert_eq!((report.stalled, report.suspended), (vec![], Duration::from_secs(29)));
        assert_eq!(script.stalled(37..=40, |_| reading(Some("a"), 7)), [39, 40]);
        // Again and again, each time before the deadline: it still adds up.
        let mut script = Script::new();
        let late: Vec<u64> = (0..10)
            .filter(|check| !script.at(check * 60, &[reading(Some("a"), 7)]).stalled.is_empty())
            .collect();
        assert_eq!(late, [5, 6, 7, 8, 9]);
    }

    #[test]
    fn each_has_its_own_count() {
        let numbered = |id, moves| Reading { id, ..reading(Some("a"), moves) };
        let mut script = Script::new();
        for second in 0..10 {
            assert_eq!(script.at(second, &[numbered(1, 1), numbered(2, second)]), StallReport::default());
        }
        assert_eq!(script.at(10, &[numbered(2, 10), numbered(1, 1)]).stalled, [(1, Duration::from_secs(10))]);
        assert_eq!(script.at(11, &[numbered(2, 11)]), StallReport::default());
        assert_eq!(
            script.at(12, &[numbered(1, 1)]),
            StallReport::default(),
            "one that was away starts again"
        );
    }
}
