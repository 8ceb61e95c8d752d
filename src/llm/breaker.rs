//! Leaves a server alone that only fails: after [`FAILURES`] failures in a row nobody asks for a while, then one
//! call tries. Pure: the clock is passed in.

use std::time::{Duration, Instant};

/// Failures in a row after which the server is left alone.
const FAILURES: u32 = 10;
/// The first rest; each that follows without an answer between them is twice as long.
const REST: Duration = Duration::from_secs(5);
/// No rest is longer.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// The state.
#[derive(Debug, Default)]
pub struct Breaker {
    failures: u32,
    rest: Option<BreakerOpen>,
}

#[derive(Debug)]
struct BreakerOpen {
    until: Instant,
    length: Duration,
}

/// CallPermit to make a call.
#[derive(Debug, PartialEq, Eq)]
pub enum CallPermit {
    /// One of many.
    Usual,
    /// The one that finds out, after a rest, whether there is an answer again.
    Trial,
}

impl Breaker {
    /// CallPermit to call now, or none. Should a trial never come back, there is another `trial` later.
    pub fn ask(&mut self, now: Instant, trial: Duration) -> Option<CallPermit> {
        match &mut self.rest {
            None => Some(CallPermit::Usual),
            Some(rest) if now >= rest.until => {
                rest.until = now + trial;
                Some(CallPermit::Trial)
            }
            Some(_) => None,
        }
    }

    /// A call was answered; says whether that ends a rest.
    pub fn answered(&mut self) -> bool {
        std::mem::take(self).rest.is_some()
    }

    /// A call failed; says how long a rest begins with it. Usual calls that end during a rest change nothing: they
    /// were made before it.
    pub fn failed(&mut self, permit: CallPermit, now: Instant) -> Option<Duration> {
        self.failures = self.failures.saturating_add(1);
        let length = match (&self.rest, permit) {
            (None, _) if self.failures >= FAILURES => REST,
            (Some(rest), CallPermit::Trial) => (rest.length * 2).min(LONGEST_REST),
            _ => return None,
        };
        self.rest = Some(BreakerOpen { until: now + length, length });
        Some(length)
    }

    /// Failures since the last answer.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The server is left alone.
    pub fn resting(&self) -> bool {
        self.rest.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIAL: Duration = Duration::from_secs(40);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn ten_failures_in_a_row_begin_a_rest_and_one_answer_ends_it() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        for n in 1..30 {
            assert_eq!(breaker.ask(start, TRIAL), Some(CallPermit::Usual));
            assert_eq!(breaker.failed(CallPermit::Usual, start), None);
            if n % 9 == 0 {
                assert!(!breaker.answered(), "nine in a row are no rest");
            }
        }
        while breaker.failed(CallPermit::Usual, start).is_none() {}
        assert_eq!((breaker.failures(), breaker.resting()), (10, true));
        assert_eq!(breaker.failed(CallPermit::Usual, start), None, "a call from before the rest");
        assert_eq!(breaker.ask(start + seconds(4), TRIAL), None);
        assert_eq!(breaker.ask(start + seconds(5), TRIAL), Some(CallPermit::Trial));
        assert_eq!(breaker.ask(start + seconds(6), TRIAL), None, "one tries, the others do not");
        assert!(breaker.answered());
        assert_eq!(breaker.ask(start, TRIAL), Some(CallPermit::Usual));
    }

    #[test]
    fn rests_double_up_to_a_minute() {
        let (mut breaker, mut now) = (Breaker::default(), Instant::now());
        while breaker.failed(CallPermit::Usual, now).is_none() {}
        let mut rests = Vec::new();
        for _ in 0..6 {
            now += LONGEST_REST;
            let permit = breaker.ask(now, TRIAL).unwrap();
            rests.push(breaker.failed(permit, now).unwrap().as_secs());
        }
        assert_eq!(rests, [10, 20, 40, 60, 60, 60]);
    }

    #[test]
    fn a_trial_that_never_comes_back_is_not_the_last() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        while breaker.failed(CallPermit::Usual, start).is_none() {}
        assert_eq!(breaker.ask(start + seconds(5), TRIAL), Some(CallPermit::Trial));
        assert_eq!(breaker.ask(start + seconds(44), TRIAL), None);
        assert_eq!(breaker.ask(start + seconds(45), TRIAL), Some(CallPermit::Trial));
    }
}
