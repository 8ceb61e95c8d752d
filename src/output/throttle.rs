//! Limits the rate of log events that one client can cause at will.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The most events in an [`INTERVAL`].
const BURST: u32 = 10;
/// After this time the next events are let through again.
const INTERVAL: Duration = Duration::from_secs(10);

/// Lets ten events through in ten seconds and counts the others.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<ThrottleState>);

#[derive(Debug, Default)]
struct ThrottleState {
    began: Option<Instant>,
    passed: u32,
    suppressed: u64,
}

impl Throttle {
    /// A throttle that has seen no event; for a static.
    pub const fn new() -> Throttle {
        Throttle(Mutex::new(ThrottleState { began: None, passed: 0, suppressed: 0 }))
    }

    /// Whether an event may pass now: `None` if not, else the number of events that were suppressed since the last one.
    pub fn pass(&self) -> Option<u64> {
        self.pass_at(Instant::now())
    }

    fn pass_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.began.is_none_or(|began| now.saturating_duration_since(began) >= INTERVAL) {
            (state.began, state.passed) = (Some(now), 0);
        }
        if state.passed == BURST {
            state.suppressed += 1;
            return None;
        }
        state.passed += 1;
        Some(std::mem::take(&mut state.suppressed))
    }
}

/// An event of `tracing` behind a [`Throttle`] of its own: `throttled!(warn, %error, "the message")`. The field
/// `suppressed` is the number of events that were left out before it.
macro_rules! throttled {
    ($level:ident, $($event:tt)+) => {{
        static THROTTLE: $crate::output::Throttle = $crate::output::Throttle::new();
        if let Some(suppressed) = THROTTLE.pass() {
            let suppressed = (suppressed > 0).then_some(suppressed);
            tracing::$level!(suppressed, $($event)+);
        }
    }};
}
pub(crate) use throttled;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_ten_lines_and_the_next_line_says_how_many_were_left_out() {
        let (throttle, start) = (Throttle::new(), Instant::now());
        let passed = (0..16_300).filter(|_| throttle.pass_at(start) == Some(0)).count();
        assert_eq!(passed, 10);
        let later = start + INTERVAL;
        assert_eq!(throttle.pass_at(later), Some(16_290));
        assert_eq!(throttle.pass_at(later), Some(0));
        assert_eq!((0..20).filter(|_| throttle.pass_at(later).is_some()).count(), 8);
        assert_eq!(throttle.pass_at(later + INTERVAL), Some(12));
    }

    #[test]
    fn each_place_has_a_throttle_of_its_own() {
        let pass = || {
            static THROTTLE: Throttle = Throttle::new();
            THROTTLE.pass()
        };
        assert!((0..20).filter_map(|_| pass()).count() <= 10);
        // It compiles with fields, with none, and with a format.
        let error = "x";
        throttled!(debug, "plain");
        throttled!(debug, %error, rows = 3, "with fields {error}");
    }
}
