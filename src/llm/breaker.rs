//! A circuit breaker: after [`FAILURES`] failures in a row it opens and rejects calls for a while, then it permits one
//! probe. Pure: the clock is passed in.

use std::time::{Duration, Instant};

/// Failures in a row that open the breaker.
const FAILURES: u32 = 10;
/// The first open interval; it doubles after each failed probe.
const FIRST_OPEN: Duration = Duration::from_secs(5);
/// The longest open interval.
const LONGEST_OPEN: Duration = Duration::from_secs(60);

/// The state of the breaker: closed while `open` is `None`.
#[derive(Debug, Default)]
pub struct Breaker {
    failures: u32,
    open: Option<OpenInterval>,
}

#[derive(Debug)]
struct OpenInterval {
    until: Instant,
    length: Duration,
}

/// Permission for one call.
#[derive(Debug, PartialEq, Eq)]
pub enum CallPermit {
    /// The breaker is closed; any number of calls may run.
    Normal,
    /// The only call after an open interval; its result closes the breaker or opens it again.
    Probe,
}

impl Breaker {
    /// A permit for a call at `now`, or `None` while the breaker is open. A probe that has not reported within
    /// `probe_timeout` is replaced by another.
    pub fn try_acquire(&mut self, now: Instant, probe_timeout: Duration) -> Option<CallPermit> {
        match &mut self.open {
            None => Some(CallPermit::Normal),
            Some(open) if now >= open.until => {
                open.until = now + probe_timeout;
                Some(CallPermit::Probe)
            }
            Some(_) => None,
        }
    }

    /// Records a success and closes the breaker; true if it was open.
    pub fn on_success(&mut self) -> bool {
        std::mem::take(self).open.is_some()
    }

    /// Records a failure; returns the length of the open interval that it starts, if any. Normal calls that end while
    /// the breaker is open change nothing: they were made before it opened.
    pub fn on_failure(&mut self, permit: CallPermit, now: Instant) -> Option<Duration> {
        self.failures = self.failures.saturating_add(1);
        let length = match (&self.open, permit) {
            (None, _) if self.failures >= FAILURES => FIRST_OPEN,
            (Some(open), CallPermit::Probe) => (open.length * 2).min(LONGEST_OPEN),
            _ => return None,
        };
        self.open = Some(OpenInterval { until: now + length, length });
        Some(length)
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether calls are rejected, or limited to one probe.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROBE_TIMEOUT: Duration = Duration::from_secs(40);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn ten_failures_in_a_row_open_the_breaker_and_one_success_closes_it() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        for n in 1..30 {
            assert_eq!(breaker.try_acquire(start, PROBE_TIMEOUT), Some(CallPermit::Normal));
            assert_eq!(breaker.on_failure(CallPermit::Normal, start), None);
            if n % 9 == 0 {
                assert!(!breaker.on_success(), "nine in a row do not open it");
            }
        }
        while breaker.on_failure(CallPermit::Normal, start).is_none() {}
        assert_eq!((breaker.failures(), breaker.is_open()), (10, true));
        assert_eq!(breaker.on_failure(CallPermit::Normal, start), None, "a call from before it opened");
        assert_eq!(breaker.try_acquire(start + seconds(4), PROBE_TIMEOUT), None);
        assert_eq!(breaker.try_acquire(start + seconds(5), PROBE_TIMEOUT), Some(CallPermit::Probe));
        assert_eq!(breaker.try_acquire(start + seconds(6), PROBE_TIMEOUT), None, "one probe at a time");
        assert!(breaker.on_success());
        assert_eq!(breaker.try_acquire(start, PROBE_TIMEOUT), Some(CallPermit::Normal));
    }

    #[test]
    fn open_intervals_double_up_to_a_minute() {
        let (mut breaker, mut now) = (Breaker::default(), Instant::now());
        while breaker.on_failure(CallPermit::Normal, now).is_none() {}
        let mut intervals = Vec::new();
        for _ in 0..6 {
            now += LONGEST_OPEN;
            let permit = breaker.try_acquire(now, PROBE_TIMEOUT).unwrap();
            intervals.push(breaker.on_failure(permit, now).unwrap().as_secs());
        }
        assert_eq!(intervals, [10, 20, 40, 60, 60, 60]);
    }

    #[test]
    fn a_probe_that_never_reports_is_replaced() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        while breaker.on_failure(CallPermit::Normal, start).is_none() {}
        assert_eq!(breaker.try_acquire(start + seconds(5), PROBE_TIMEOUT), Some(CallPermit::Probe));
        assert_eq!(breaker.try_acquire(start + seconds(44), PROBE_TIMEOUT), None);
        assert_eq!(breaker.try_acquire(start + seconds(45), PROBE_TIMEOUT), Some(CallPermit::Probe));
    }
}
