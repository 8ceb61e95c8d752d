//! Whether a language model server works on several requests at the same time: one small request, then as many at once
//! as it has slots.
//!
//! A server that works on them one after the other answers them at equal distances; one that works on all at once
//! answers all at about the same time, even if each then takes longer than one alone. So what counts is how many answers
//! come with the first one, or, where the requests do not delay each other, how many times the rate of one they have.

use crate::llm::{Llm, LlmError, Wanted};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::time::{Duration, Instant};

/// An answer within so many times of the first one's time came from a request that was worked on beside it.
const WITH_THE_FIRST: f64 = 1.5;
/// The lone requests; the fastest counts.
const LONE: usize = 2;
/// Measured again before a server is blamed: another client may have had its slots.
const ROUNDS: usize = 2;
/// The share of the requests that must be worked on at once.
const ENOUGH: f64 = 0.7;

/// How a server worked on several requests at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ServerParallelism {
    /// The requests that were sent at once.
    pub sent: usize,
    /// How many of them it worked on at the same time.
    pub at_once: usize,
    /// The time of one request alone.
    pub alone: Duration,
    /// The time until the last answer.
    pub together: Duration,
}

impl ServerParallelism {
    /// How many times as long all requests took as one alone: 1 where they do not delay each other, the number of
    /// requests where each waits for the one before.
    pub fn factor(&self) -> f64 {
        self.together.as_secs_f64() / self.alone.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Whether it works on about as many as were sent.
    pub fn is_enough(&self) -> bool {
        self.at_once as f64 >= self.sent as f64 * ENOUGH
    }

    fn of(alone: Duration, answered: &[Duration]) -> ServerParallelism {
        let first = answered.iter().min().copied().unwrap_or_default();
        let with_first = answered.iter().filter(|time| **time <= first.mul_f64(WITH_THE_FIRST)).count();
        let together = answered.iter().max().copied().unwrap_or_default();
        let mut found = ServerParallelism { sent: answered.len(), at_once: with_first, alone, together };
        // Answers of a few milliseconds are spread by more than they take.
        let by_rate = (found.sent as f64 / found.factor().max(1.0)).round() as usize;
        found.at_once = with_first.max(by_rate);
        found
    }
}

/// Asks the one server of `llm` about small texts: a first time, which may load the model, then alone, then `slots` at
/// once.
///
/// # Errors
/// The first error of a call.
pub async fn measure(llm: &Llm, slots: usize) -> Result<ServerParallelism, LlmError> {
    let mut texts = 0..;
    let mut ask = || {
        // Each text is another one, so no cache answers.
        let text =
            format!("Check {}: water boils at a lower temperature on a mountain.", texts.next().unwrap_or(0));
        async move { llm.classify(&text, Wanted::Codes).await }
    };
    ask().await?;
    let mut alone = Duration::MAX;
    for _ in 0..LONE {
        let started = Instant::now();
        ask().await?;
        alone = alone.min(started.elapsed());
    }
    let mut best: Option<ServerParallelism> = None;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let mut calls: FuturesUnordered<_> = (0..slots).map(|_| ask()).collect();
        let mut answered = Vec::new();
        while let Some(answer) = calls.next().await {
            answer?;
            answered.push(started.elapsed());
        }
        let round = ServerParallelism::of(alone, &answered);
        best = Some(best.filter(|best| best.at_once >= round.at_once).unwrap_or(round));
        if round.is_enough() {
            break;
        }
    }
    Ok(best.unwrap_or_else(|| ServerParallelism::of(alone, &[])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(answered: &[u64]) -> ServerParallelism {
        let answered: Vec<Duration> = answered.iter().map(|ms| Duration::from_millis(*ms)).collect();
        ServerParallelism::of(Duration::from_millis(100), &answered)
    }

    #[test]
    fn answers_at_equal_distances_come_from_one_at_a_time() {
        let serial = of(&[100, 200, 300, 400]);
        assert_eq!((serial.at_once, serial.is_enough()), (1, false));
        assert!((serial.factor() - 4.0).abs() < 1e-9);
    }

    #[test]
    fn answers_in_groups_come_from_that_many_slots() {
        let four = of(&[102, 101, 103, 100, 201, 203, 202, 205, 301, 302]);
        assert_eq!((four.at_once, four.is_enough()), (4, false));
    }

    #[test]
    fn a_spread_that_costs_nothing_is_no_queue() {
        let quick = of(&[20, 60, 80, 95, 105]);
        assert_eq!((quick.at_once, quick.is_enough()), (5, true));
    }

    #[test]
    fn slower_together_is_still_at_once() {
        let shared = of(&[410, 400, 420, 415, 405]);
        assert_eq!((shared.at_once, shared.is_enough()), (5, true));
        assert!(shared.factor() > 4.0);
    }
}
