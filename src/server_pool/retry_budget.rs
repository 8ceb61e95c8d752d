//! A budget of retries: a server that fails gets a little more load from them, not twice as much. Pure: the clock is
//! passed in.

use std::time::Duration;
use tokio::time::Instant;

/// Retries that each call allows: one in ten calls.
const PER_CALL: f64 = 0.1;
/// Retries that a second allows, so that a few calls an hour can be repeated too.
const PER_SECOND: f64 = 1.0;
/// Retries that are allowed at once, besides one for each slot.
const RESERVE: f64 = 10.0;

/// A token bucket that calls and time fill and retries empty.
#[derive(Debug)]
pub struct RetryBudget {
    tokens: f64,
    most: f64,
    filled: Instant,
}

impl RetryBudget {
    /// A full budget for a pool with so many slots.
    pub fn new(slots: usize, now: Instant) -> RetryBudget {
        let most = RESERVE + slots as f64;
        RetryBudget { tokens: most, most, filled: now }
    }

    /// Records a first call.
    pub fn on_call(&mut self) {
        self.add(PER_CALL);
    }

    /// Takes a retry out of the budget; false if it is exhausted.
    pub fn try_take(&mut self, now: Instant) -> bool {
        self.add(PER_SECOND * now.saturating_duration_since(self.filled).as_secs_f64());
        self.filled = now;
        let allowed = self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
        }
        allowed
    }

    fn add(&mut self, tokens: f64) {
        self.tokens = (self.tokens + tokens).min(self.most);
    }
}

/// A pause of half to one and a half times `pause`, so that calls that failed together are not repeated together.
pub fn with_jitter(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + rand::random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_tenth_of_the_calls_beyond_the_reserve() {
        let now = Instant::now();
        let mut budget = RetryBudget::new(4, now);
        assert_eq!((0..100).filter(|_| budget.try_take(now)).count(), 14);
        (0..1000).for_each(|_| budget.on_call());
        assert_eq!(
            (0..1000).filter(|_| budget.try_take(now)).count(),
            14,
            "what is not used is not saved up"
        );
        let mut retries = 0;
        for _ in 0..1000 {
            budget.on_call();
            retries += usize::from(budget.try_take(now));
        }
        assert!((99..=101).contains(&retries), "{retries}");
    }

    #[test]
    fn time_fills_it_too() {
        let now = Instant::now();
        let mut budget = RetryBudget::new(1, now);
        while budget.try_take(now) {}
        let later = now + Duration::from_millis(3500);
        assert_eq!((0..10).filter(|_| budget.try_take(later)).count(), 3);
        let pauses: Vec<Duration> = (0..100).map(|_| with_jitter(Duration::from_secs(1))).collect();
        assert!(pauses.iter().all(|pause| (500..1500).contains(&pause.as_millis())));
        assert_ne!(pauses.iter().min(), pauses.iter().max());
    }
}
