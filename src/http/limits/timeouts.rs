//! How long a client may keep us waiting while it sends a body. Pure: it is told how long was waited.
//!
//! Only waiting for the client counts. While we do not read, because there is no room, or while the client may be
//! waiting for our answers, its time stands still: whom we slow down is never cut for it.

use crate::http::body::abort::UploadAbort;
use std::time::Duration;

/// What is asked of a client that sends a body.
#[derive(Debug, Clone, Copy)]
pub struct BodyTimeouts {
    /// It may send nothing for this long.
    pub silence: Duration,
    /// It sends at least this much.
    pub bytes_per_second: u64,
    /// Over each such time of waiting for it.
    pub over: Duration,
}

impl Default for BodyTimeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        BodyTimeouts { silence: seconds(30), bytes_per_second: 1024, over: seconds(60) }
    }
}

/// The account of one body.
#[derive(Debug)]
pub struct SlowClientDetector {
    patience: BodyTimeouts,
    silent: Duration,
    waited: Duration,
    received: u64,
}

impl SlowClientDetector {
    /// Nothing was waited for yet.
    pub fn new(patience: BodyTimeouts) -> Self {
        SlowClientDetector { patience, silent: Duration::ZERO, waited: Duration::ZERO, received: 0 }
    }

    /// How long to wait before telling [`Self::waited`]: short enough to notice when the reason to wait changes.
    pub fn step(&self) -> Duration {
        let shortest = self.patience.silence.min(self.patience.over);
        (shortest / 30).max(Duration::from_millis(1))
    }

    /// So much was waited for the client.
    ///
    /// # Errors
    /// It has used up our patience.
    pub fn waited(&mut self, time: Duration) -> Result<(), UploadAbort> {
        self.silent += time;
        self.waited += time;
        if self.silent >= self.patience.silence {
            return Err(UploadAbort::ClientIdle(self.patience.silence));
        }
        if self.waited >= self.patience.over {
            let asked = self.patience.bytes_per_second as f64 * self.waited.as_secs_f64();
            if (self.received as f64) < asked {
                return Err(UploadAbort::ClientTooSlow(self.patience.bytes_per_second));
            }
            (self.waited, self.received) = (Duration::ZERO, 0);
        }
        Ok(())
    }

    /// So much has come from the client.
    pub fn received(&mut self, bytes: usize) {
        self.silent = Duration::ZERO;
        self.received += bytes as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Waits a second before each of these numbers of bytes; how many seconds until the cut, and which.
    fn seconds_until_cut(bytes: impl Iterator<Item = usize>) -> Option<(usize, UploadAbort)> {
        let mut account = SlowClientDetector::new(BodyTimeouts::default());
        for (second, bytes) in bytes.enumerate() {
            if let Err(cut) = account.waited(SECOND) {
                return Some((second + 1, cut));
            }
            if bytes > 0 {
                account.received(bytes);
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
    fn who_dribbles_is_cut_when_the_rate_is_measured_also_after_a_fast_beginning() {
        assert_eq!(
            seconds_until_cut(std::iter::repeat_n(1023, 100)),
            Some((60, UploadAbort::ClientTooSlow(1024)))
        );
        assert_eq!(seconds_until_cut(std::iter::repeat_n(1060, 100_000)), None);
        let fast_then_slow = std::iter::once(1 << 40).chain(std::iter::repeat_n(10, 1000));
        assert_eq!(seconds_until_cut(fast_then_slow), Some((120, UploadAbort::ClientTooSlow(1024))));
    }

    #[test]
    fn who_is_not_waited_for_is_never_cut() {
        let mut account = SlowClientDetector::new(BodyTimeouts::default());
        for _ in 0..1000 {
            account.received(1);
        }
        assert_eq!(account.waited(29 * SECOND), Ok(()));
    }
}
