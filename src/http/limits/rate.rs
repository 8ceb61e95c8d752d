//! Estimates the rate at which chunks are settled, and from it `Retry-After`. Pure.

use std::time::{Duration, Instant};

/// The time constant of the moving average (EWMA).
const RECENT: Duration = Duration::from_secs(10);
/// The maximum of `Retry-After` before jitter, in seconds.
const LONGEST: f64 = 60.0;
/// `Retry-After` while no chunk was settled yet: the rate is known soon.
const GUESS: f64 = 5.0;
/// The jitter of `Retry-After`, as a share: clients that were refused together do not return together.
const JITTER: f64 = 0.2;

/// The measured rate of settled chunks.
#[derive(Debug, Default)]
pub struct RateEstimator {
    rate: f64,
    seen: Option<(Instant, u64)>,
}

impl RateEstimator {
    /// Takes the number of chunks settled since the start. Call it about once a second.
    pub fn observe(&mut self, now: Instant, settled: u64) {
        let Some((then, before)) = self.seen.replace((now, settled)) else { return };
        let passed = now.saturating_duration_since(then).as_secs_f64();
        if passed <= 0.0 {
            self.seen = Some((then, before));
            return;
        }
        let rate = settled.saturating_sub(before) as f64 / passed;
        // After an idle time the first measurement is the rate.
        let weight = if self.rate < 0.01 { 1.0 } else { 1.0 - (-passed / RECENT.as_secs_f64()).exp() };
        self.rate += (rate - self.rate) * weight;
    }

    /// Skips a time in which no chunk was settled for a reason that says nothing about the rate.
    pub fn skip(&mut self, now: Instant, settled: u64) {
        self.seen = Some((now, settled));
    }

    /// The rate, in chunks per second.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// `Retry-After` in whole seconds for this number of chunks ahead. `dice` is between 0 and 1 and gives the jitter.
    pub fn advice(&self, ahead: u64, dice: f64) -> u64 {
        let seconds = if ahead == 0 {
            1.0
        } else if self.rate == 0.0 {
            GUESS
        } else {
            (ahead as f64 / self.rate).min(LONGEST)
        };
        let jittered = seconds * (1.0 - JITTER + 2.0 * JITTER * dice.clamp(0.0, 1.0));
        // At most 72: it fits.
        jittered.round().max(1.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Settles chunks at this rate for some seconds; returns the end.
    fn steady(
        estimator: &mut RateEstimator,
        from: Instant,
        seconds: u64,
        settled: &mut u64,
        per_second: u64,
    ) -> Instant {
        let mut now = from;
        for _ in 0..seconds {
            now += Duration::from_secs(1);
            *settled += per_second;
            estimator.observe(now, *settled);
        }
        now
    }

    #[test]
    fn advice_is_what_is_ahead_at_the_measured_rate() {
        let (mut estimator, mut settled, start) = (RateEstimator::default(), 0, Instant::now());
        assert_eq!(estimator.advice(0, 0.5), 1);
        assert_eq!(estimator.advice(1000, 0.5), 5, "nothing was ever settled");
        estimator.observe(start, 0);
        let now = steady(&mut estimator, start, 1, &mut settled, 100);
        assert_eq!((estimator.rate(), estimator.advice(1200, 0.5)), (100.0, 12));
        assert_eq!(
            (estimator.advice(1200, 0.0), estimator.advice(1200, 1.0)),
            (10, 14),
            "a fifth less or more"
        );
        assert_eq!((estimator.advice(10, 0.0), estimator.advice(1_000_000, 1.0)), (1, 72));
        steady(&mut estimator, now, 10, &mut settled, 300);
        assert!((estimator.rate() - 226.0).abs() < 1.0, "{}", estimator.rate());
    }

    #[test]
    fn standing_still_makes_the_advice_longer_and_time_that_is_skipped_does_not() {
        let (mut estimator, mut settled, start) = (RateEstimator::default(), 0, Instant::now());
        estimator.observe(start, 0);
        let now = steady(&mut estimator, start, 5, &mut settled, 100);
        let later = now + Duration::from_secs(100);
        estimator.skip(later, settled);
        assert_eq!(estimator.advice(1000, 0.5), 10);
        steady(&mut estimator, later, 20, &mut settled, 0);
        assert_eq!(estimator.advice(1000, 0.5), 60);
    }
}
