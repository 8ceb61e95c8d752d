//! Limits the rate of log events that one client can cause at will.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most events in an [`INTERVAL`].
const BURST: u32 = 10;
/// After this time the next events are let through again.
pub const INTERVAL: Duration = Duration::from_secs(10);

/// Lets ten events through in ten seconds and counts the others.
#[derive(Debug)]
pub struct Throttle {
    state: Mutex<ThrottleState>,
    /// Logs how many events were suppressed, if no event comes that could tell.
    report: fn(u64),
}

#[derive(Debug)]
struct ThrottleState {
    began: Option<Instant>,
    passed: u32,
    suppressed: u64,
}

/// Whether an event may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passage {
    /// It may, and so many were suppressed since the last one.
    Open { suppressed: u64 },
    /// It is the first that is suppressed since one passed.
    Closes,
    /// It is suppressed like the one before.
    Closed,
}

/// The throttles that have suppressed events; each reports for itself, or is asked by [`report_suppressed`].
static SUPPRESSING: Mutex<Vec<&'static Throttle>> = Mutex::new(Vec::new());

/// Which suppressed events are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suppressed {
    /// Those after which no event of their kind has come for an interval. To be reported every [`INTERVAL`].
    Overdue,
    /// All of them; for the end of the process.
    All,
}

/// Logs how many events were suppressed of each kind whose next event has not told it.
pub fn report_suppressed(which: Suppressed) {
    report_at(which, Instant::now());
}

fn report_at(which: Suppressed, now: Instant) {
    let throttles = std::mem::take(&mut *lock(&SUPPRESSING));
    for throttle in throttles {
        match throttle.take(which, now) {
            Some(0) => {}
            Some(suppressed) => (throttle.report)(suppressed),
            None => lock(&SUPPRESSING).push(throttle),
        }
    }
}

impl Throttle {
    /// A throttle that has seen no event; for a static. `report` logs how many events were suppressed.
    pub const fn new(report: fn(u64)) -> Throttle {
        Throttle { state: Mutex::new(ThrottleState { began: None, passed: 0, suppressed: 0 }), report }
    }

    /// Whether an event may pass now: `None` if not, else the number of events that were suppressed since the last one.
    pub fn pass(&'static self) -> Option<u64> {
        match self.pass_at(Instant::now()) {
            Passage::Open { suppressed } => Some(suppressed),
            Passage::Closes => {
                lock(&SUPPRESSING).push(self);
                None
            }
            Passage::Closed => None,
        }
    }

    fn pass_at(&self, now: Instant) -> Passage {
        let mut state = lock(&self.state);
        if state.interval_is_over(now) {
            (state.began, state.passed) = (Some(now), 0);
        }
        if state.passed == BURST {
            state.suppressed += 1;
            return if state.suppressed == 1 { Passage::Closes } else { Passage::Closed };
        }
        state.passed += 1;
        Passage::Open { suppressed: std::mem::take(&mut state.suppressed) }
    }

    /// The suppressed events to be reported, which are then no longer counted; `None` if it is too early.
    fn take(&self, which: Suppressed, now: Instant) -> Option<u64> {
        let mut state = lock(&self.state);
        let due = which == Suppressed::All || state.suppressed == 0 || state.interval_is_over(now);
        due.then(|| std::mem::take(&mut state.suppressed))
    }
}

impl ThrottleState {
    fn interval_is_over(&self, now: Instant) -> bool {
        self.began.is_none_or(|began| now.saturating_duration_since(began) >= INTERVAL)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The message in the tokens of an event: its only string.
pub fn message(event: &'static str) -> &'static str {
    let message = event.split_once('"').and_then(|(_, rest)| rest.rsplit_once('"'));
    message.map_or(event, |(message, _)| message)
}

/// An event of `tracing` behind a [`Throttle`] of its own: `throttled!(warn, %error, "the message")`. The field
/// `suppressed` is the number of events that were left out before it. If none comes any more, a line of the same level
/// tells their number.
macro_rules! throttled {
    ($level:ident, $($event:tt)+) => {{
        static THROTTLE: $crate::output::Throttle = $crate::output::Throttle::new(|suppressed| {
            let message = $crate::output::message(stringify!($($event)+));
            tracing::$level!(suppressed, "more lines like this were left out: {message}");
        });
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
    use std::sync::atomic::{AtomicU64, Ordering};

    fn open(suppressed: u64) -> Passage {
        Passage::Open { suppressed }
    }

    #[test]
    fn a_flood_is_ten_lines_and_the_next_line_says_how_many_were_left_out() {
        let (throttle, start) = (Throttle::new(|_| {}), Instant::now());
        let seen: Vec<Passage> = (0..16_300).map(|_| throttle.pass_at(start)).collect();
        assert_eq!(seen[..10], [open(0); 10]);
        assert_eq!(seen[10], Passage::Closes);
        assert_eq!(seen[11..], [Passage::Closed; 16_289]);
        let later = start + INTERVAL;
        assert_eq!(throttle.pass_at(later), open(16_290));
        assert_eq!(throttle.pass_at(later), open(0));
        assert_eq!((0..20).filter(|_| throttle.pass_at(later) == open(0)).count(), 8);
        assert_eq!(throttle.pass_at(later + INTERVAL), open(12));
    }

    #[test]
    fn what_was_left_out_is_told_also_if_no_further_line_comes() {
        static REPORTED: AtomicU64 = AtomicU64::new(0);
        static THROTTLE: Throttle = Throttle::new(|suppressed| {
            REPORTED.fetch_add(suppressed, Ordering::Relaxed);
        });
        let told = || REPORTED.swap(0, Ordering::Relaxed);
        let passed = (0..25).filter_map(|_| THROTTLE.pass()).count();
        let began = lock(&THROTTLE.state).began.unwrap();
        assert_eq!(passed, 10);
        report_at(Suppressed::Overdue, began + INTERVAL / 2);
        assert_eq!(told(), 0, "the next line may tell it");
        report_at(Suppressed::Overdue, began + INTERVAL);
        assert_eq!(told(), 15);
        report_at(Suppressed::All, began + INTERVAL);
        assert_eq!(told(), 0, "once");
        assert_eq!((0..5).filter_map(|_| THROTTLE.pass()).count(), 0);
        report_at(Suppressed::All, began);
        assert_eq!(told(), 5, "the end cannot wait");
    }

    #[test]
    fn each_place_has_a_throttle_of_its_own() {
        let pass = || {
            static THROTTLE: Throttle = Throttle::new(|_| {});
            THROTTLE.pass()
        };
        assert!((0..20).filter_map(|_| pass()).count() <= 10);
        // It compiles with fields, with none, and with a format.
        let error = "x";
        throttled!(debug, "plain");
        throttled!(debug, %error, rows = 3, "with fields {error}");
        assert_eq!(message(stringify!(%error, rows = 3, "with fields {error}")), "with fields {error}");
    }
}
