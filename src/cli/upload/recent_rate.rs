//! How fast chunks are settled now, and how long the rest takes at that speed. Pure: it is told what time it is.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The span of time that counts as now.
const WINDOW: Duration = Duration::from_secs(12);
/// The least time between two samples.
const STEP: Duration = Duration::from_millis(250);

/// The number of settled chunks at the times of a sliding window.
#[derive(Debug, Default)]
pub struct RecentRate {
    samples: VecDeque<(Instant, u64)>,
}

impl RecentRate {
    /// Takes the number of chunks that are settled now.
    pub fn observe(&mut self, now: Instant, settled: u64) {
        if self.samples.back().is_some_and(|(last, _)| now.saturating_duration_since(*last) < STEP) {
            return;
        }
        self.samples.push_back((now, settled));
        // One sample stays that is older than the window, so that the window is covered as a whole.
        while self.samples.get(1).is_some_and(|(time, _)| now.saturating_duration_since(*time) >= WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Chunks a second within the window.
    pub fn per_second(&self) -> f64 {
        match (self.samples.front(), self.samples.back()) {
            (Some((start, before)), Some((end, after))) if end > start => {
                after.saturating_sub(*before) as f64 / end.saturating_duration_since(*start).as_secs_f64()
            }
            _ => 0.0,
        }
    }

    /// How long `left` chunks take at this speed. `None` while nothing moves.
    pub fn time_for(&self, left: u64) -> Option<Duration> {
        let seconds = left as f64 / self.per_second();
        // A time beyond that says nothing.
        (seconds.is_finite() && seconds < 1e7).then(|| Duration::from_secs_f64(seconds))
    }
}

/// A length of time in two units at most: `9 s`, `3 min 5 s`, `2 h 10 min`.
pub fn in_words(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_seconds_and_so_is_the_time_to_go() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut rate = RecentRate::default();
        assert_eq!((rate.per_second(), rate.time_for(10)), (0.0, None));
        (0..=100).for_each(|second| rate.observe(at(second), second * 1000));
        assert_eq!(rate.per_second(), 1000.0);
        // From now on a tenth as fast: after the window nothing remembers the speed before.
        (101..=120).for_each(|second| rate.observe(at(second), 100_000 + (second - 100) * 100));
        assert_eq!(rate.per_second(), 100.0);
        assert_eq!(rate.time_for(6000), Some(Duration::from_secs(60)));
        (121..=140).for_each(|second| rate.observe(at(second), 102_000));
        assert_eq!(rate.time_for(6000), None, "nothing moves");
    }

    #[test]
    fn lengths_of_time_are_said_in_two_units() {
        let words = |seconds: f64| in_words(Duration::from_secs_f64(seconds));
        assert_eq!(
            [words(0.4), words(59.0), words(185.0), words(7800.0)],
            ["0 s", "59 s", "3 min 5 s", "2 h 10 min"]
        );
    }
}
