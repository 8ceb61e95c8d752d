//! When to try again, and when to give up. Pure: it is told what happened and what time it is.
//!
//! Two bounds. A time: so long without a line being settled, whatever the reason. A number: so many rounds that the
//! service read to their end and took less than half of, which is what chunks do that will never be taken.

use super::attempt::End;
use crate::flow::Backoff;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Between two rounds when the service is away or has cut one off.
const RETURN: Backoff = Backoff { first: Duration::from_millis(250), ceiling: Duration::from_secs(5) };
/// Between two rounds when the service did not take some chunks.
const AGAIN: Backoff = Backoff { first: Duration::from_secs(1), ceiling: Duration::from_secs(60) };
/// The longest time for which the service may put us off.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// When a source is given up.
#[derive(Debug, Clone, Copy)]
pub struct RetryLimits {
    /// The time without a settled line.
    pub patience: Duration,
    /// The number of rounds that settle too little.
    pub tries: u32,
}

/// A length of time in words: `600`, `90s`, `10m`, `2h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetrySpan(pub Duration);

/// A text that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a length of time is '{0}': expected seconds, or a whole number with s, m or h, like 10m")]
pub struct InvalidRetrySpan(String);

impl FromStr for RetrySpan {
    type Err = InvalidRetrySpan;

    fn from_str(text: &str) -> Result<Self, InvalidRetrySpan> {
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let factor = match unit {
            "" | "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(InvalidRetrySpan(text.to_owned())),
        };
        let seconds = number.parse::<u32>().map_err(|_| InvalidRetrySpan(text.to_owned()))?;
        Ok(RetrySpan(Duration::from_secs(u64::from(seconds) * factor)))
    }
}

/// What an attempt brought.
#[derive(Debug)]
pub struct AttemptOutcome {
    /// The result of the attempt.
    pub end: End,
    /// Lines that it settled.
    pub settled: u64,
    /// Lines that are to be sent again.
    pub again: u64,
}

/// See the module.
#[derive(Debug)]
pub struct RetryPolicy {
    limit: Duration,
    tries: u32,
    last_news: Instant,
    breaks: u32,
    tried: u32,
}

impl RetryPolicy {
    /// Gives up after `patience` without a settled line, zero for none at all, or `tries` rounds that take too little.
    pub fn new(limits: RetryLimits, now: Instant) -> Self {
        let RetryLimits { patience, tries } = limits;
        RetryPolicy { limit: patience, tries, last_news: now, breaks: 0, tried: 0 }
    }

    /// How long to wait before the next attempt; `None`: give up.
    pub fn pause(&mut self, outcome: &AttemptOutcome, now: Instant) -> Option<Duration> {
        if outcome.settled > 0 {
            (self.last_news, self.breaks) = (now, 0);
        }
        let pause = match outcome.end {
            End::Complete => {
                let mostly = outcome.settled > 0 && outcome.settled >= outcome.again;
                self.tried = if mostly { 1 } else { self.tried + 1 };
                if self.tried >= self.tries {
                    return None;
                }
                AGAIN.pause(self.tried - 1)
            }
            End::PutOff { wait: Some(wait), .. } => wait.clamp(RETURN.first, LONGEST_WAIT),
            End::PutOff { wait: None, .. } | End::Cut(_) | End::Unreachable(_) => {
                self.breaks += 1;
                RETURN.pause(self.breaks - 1)
            }
            End::Partly(_) | End::Refused { .. } | End::InputSource(_) => return None,
        };
        let left = (self.last_news + self.limit).saturating_duration_since(now);
        (!left.is_zero()).then_some(pause.min(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn policy(patience: Duration, tries: u32, now: Instant) -> RetryPolicy {
        RetryPolicy::new(RetryLimits { patience, tries }, now)
    }

    fn cut(settled: u64) -> AttemptOutcome {
        AttemptOutcome { end: End::Cut(String::new()), settled, again: 0 }
    }

    fn put_off(wait: Option<u64>) -> AttemptOutcome {
        let end = End::PutOff { message: String::new(), wait: wait.map(seconds) };
        AttemptOutcome { end, settled: 0, again: 0 }
    }

    fn complete(settled: u64, again: u64) -> AttemptOutcome {
        AttemptOutcome { end: End::Complete, settled, again }
    }

    #[test]
    fn lengths_of_time_are_read() {
        let of = |text: &str| text.parse().map(|RetrySpan(time)| time.as_secs());
        assert_eq!([of("0"), of("90"), of("90s"), of("10m"), of("2h")], [0, 90, 90, 600, 7200].map(Ok));
        for text in ["", "m", "-1", "1.5m", "10 m", "10d", "99999999999"] {
            assert_eq!(of(text), Err(InvalidRetrySpan(text.to_owned())));
        }
    }

    #[test]
    fn a_service_that_is_away_is_waited_for_with_growing_pauses_until_patience_ends() {
        let start = Instant::now();
        let mut retry_policy = policy(seconds(30), 8, start);
        let (mut now, mut pauses) = (start, Vec::new());
        while let Some(pause) = retry_policy.pause(&cut(0), now) {
            now += pause;
            pauses.push(pause.as_millis());
        }
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 5000, 5000, 5000, 5000, 2250]);
        assert_eq!(now - start, seconds(30), "and asked once more at the very end");
    }

    #[test]
    fn a_settled_line_is_news_from_which_both_pauses_and_patience_begin_anew() {
        let start = Instant::now();
        let mut retry_policy = policy(seconds(10), 8, start);
        assert_eq!(retry_policy.pause(&cut(0), start + seconds(9)), Some(Duration::from_millis(250)));
        assert_eq!(retry_policy.pause(&cut(1), start + seconds(19)), Some(Duration::from_millis(250)));
        assert_eq!(retry_policy.pause(&cut(0), start + seconds(28)), Some(Duration::from_millis(500)));
        assert_eq!(retry_policy.pause(&cut(0), start + seconds(29)), None);
    }

    #[test]
    fn the_service_says_how_long_to_wait_within_reason() {
        let now = Instant::now();
        let mut retry_policy = policy(seconds(600), 8, now);
        assert_eq!(retry_policy.pause(&put_off(Some(7)), now), Some(seconds(7)));
        assert_eq!(retry_policy.pause(&put_off(Some(100_000)), now), Some(LONGEST_WAIT));
        assert_eq!(retry_policy.pause(&put_off(None), now), Some(Duration::from_millis(250)));
        assert_eq!(policy(Duration::ZERO, 8, now).pause(&put_off(Some(7)), now), None);
    }

    #[test]
    fn chunks_that_are_never_taken_are_given_up_after_some_tries() {
        let now = Instant::now();
        let mut retry_policy = policy(seconds(600), 4, now);
        // Most of an attempt is progress, however many are left.
        for _ in 0..100 {
            assert_eq!(retry_policy.pause(&complete(500, 500), now), Some(seconds(1)));
        }
        assert_eq!(retry_policy.pause(&complete(1, 2), now), Some(seconds(2)));
        assert_eq!(retry_policy.pause(&complete(0, 2), now), Some(seconds(4)));
        assert_eq!(retry_policy.pause(&complete(0, 2), now), None);
        assert_eq!(policy(seconds(600), 1, now).pause(&complete(9, 1), now), None, "one try is one");
    }

    #[test]
    fn what_would_end_the_same_way_again_is_not_tried_again() {
        let now = Instant::now();
        let ends = [
            End::Partly(String::new()),
            End::Refused { status: 415, message: String::new() },
            End::InputSource(std::io::Error::other("gone")),
        ];
        for end in ends {
            let outcome = AttemptOutcome { end, settled: 5, again: 0 };
            assert_eq!(policy(seconds(600), 8, now).pause(&outcome, now), None);
        }
    }
}
