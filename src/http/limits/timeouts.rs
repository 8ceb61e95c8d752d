//! The timeouts of a request body. Pure: the caller says how long it waited.
//!
//! Only waiting for the client counts. While the service does not read for lack of room, or while the client may be
//! waiting for answers, its timeouts are paused: a client that the service slows down is never cut for it.

use crate::http::body::abort::UploadAbort;
use std::time::Duration;

/// The timeouts of a client that sends a body.
#[derive(Debug, Clone, Copy)]
pub struct BodyTimeouts {
    /// The maximum time without a byte.
    pub silence: Duration,
    /// The minimum rate.
    pub bytes_per_second: u64,
    /// The time of waiting over which the rate is measured.
    pub over: Duration,
}

impl Default for BodyTimeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        BodyTimeouts { silence: seconds(30), bytes_per_second: 1024, over: seconds(60) }
    }
}

/// Measures how long one body made the service wait.
#[derive(Debug)]
pub struct SlowClientDetector {
    timeouts: BodyTimeouts,
    silent: Duration,
    waited: Duration,
    received: u64,
}

impl SlowClientDetector {
    /// A detector that has not waited yet.
    pub fn new(timeouts: BodyTimeouts) -> Self {
        SlowClientDetector { timeouts, silent: Duration::ZERO, waited: Duration::ZERO, received: 0 }
    }

    /// The longest wait between two calls of [`Self::waited`]: short enough to notice a change of the reason to wait.
    pub fn step(&self) -> Duration {
        let shortest = self.timeouts.silence.min(self.timeouts.over);
        (shortest / 30).max(Duration::from_millis(1))
    }

    /// Adds time of waiting for the client.
    ///
    /// # Errors
    /// The abort of the upload when a timeout is over.
    pub fn waited(&mut self, time: Duration) -> Result<(), UploadAbort> {
        self.silent += time;
        self.waited += time;
        if self.silent >= self.timeouts.silence {
            return Err(UploadAbort::ClientIdle(self.timeouts.silence));
        }
        if self.waited >= self.timeouts.over {
            let asked = self.timeouts.bytes_per_second as f64 * self.waited.as_secs_f64();
            if (self.received as f64) < asked {
                return Err(UploadAbort::ClientTooSlow(self.timeouts.bytes_per_second));
            }
            (self.waited, self.received) = (Duration::ZERO, 0);
        }
        Ok(())
    }

    /// Adds bytes that the client sent.
    pub fn received(&mut self, bytes: usize) {
        self.silent = Duration::ZERO;
        self.received += bytes as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Waits a second before each number of bytes; returns the second of the abort, and the abort.
    fn seconds_until_cut(bytes: impl Iterator<Item = usize>) -> Option<(usize, UploadAbort)> {
        let mut detector = SlowClientDetector::new(BodyTimeouts::default());
        for (second, bytes) in bytes.enumerate() {
            if let Err(abort) = detector.waited(SECOND) {
                return Some((second + 1, abort));
            }
            if bytes > 0 {
                detector.received(bytes);
            }
        }
        None
    }

    #[test]
    fn silence_is_cut_at_its_limit_and_a_byte_in_time_is_none() {
        let silent = std::iter::repeat_n(0, 100);
        assert_eq!(seconds_until_cut(silent), Some((30, UploadAbort::ClientIdle(30 * SECOND))));
        let just_in_time = (1..60).map(|second| usize::from(second % 29 == 0));
        assert_eq!(seconds_until_cut(just_in_time), None);
    }

    #[test]
    fn a_dribbling_client_is_cut_when_the_rate_is_measured_also_after_a_fast_beginning() {
        assert_eq!(
            seconds_until_cut(std::iter::repeat_n(1023, 100)),
            Some((60, UploadAbort::ClientTooSlow(1024)))
        );
        assert_eq!(seconds_until_cut(std::iter::repeat_n(1060, 100_000)), None);
        let fast_then_slow = std::iter::once(1 << 40).chain(std::iter::repeat_n(10, 1000));
        assert_eq!(seconds_until_cut(fast_then_slow), Some((120, UploadAbort::ClientTooSlow(1024))));
    }

    #[test]
    fn a_client_that_is_not_waited_for_is_never_cut() {
        let mut detector = SlowClientDetector::new(BodyTimeouts::default());
        for _ in 0..1000 {
            detector.received(1);
        }
        assert_eq!(detector.waited(29 * SECOND), Ok(()));
    }
}
