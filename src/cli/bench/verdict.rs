//! What was to be expected, and what to make of what was measured.

use std::fmt;

/// What the guide measured: a call of this length, ten chunks, ten workers.
const GUIDE_LATENCY_MS: f64 = 887.0;
const GUIDE_CHUNKS: usize = 10;
/// Seconds that it promises for ten chunks.
const GUIDE_SEQUENTIAL: ExpectedRange = ExpectedRange { low: 10.0, high: 12.0 };
const GUIDE_PARALLEL: ExpectedRange = ExpectedRange { low: 1.0, high: 2.0 };
/// What embedding and commits may add to the time of the language model, where the guide has no number.
const ALLOWANCE: f64 = 1.25;

/// From so many seconds to so many.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpectedRange {
    pub low: f64,
    pub high: f64,
}

impl fmt::Display for ExpectedRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.low < 10.0 && self.low.fract() != 0.0 { 2 } else { 0 };
        write!(f, "{:.digits$}-{:.digits$} s", self.low, self.high)
    }
}

/// What is to be expected of both services.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expectation {
    pub sequential: ExpectedRange,
    pub parallel: ExpectedRange,
    /// How many times as fast the parallel one could be at best.
    pub speed_up: f64,
}

/// Whether the guide's own numbers apply.
pub fn is_the_guides(chunks: usize, at_once: usize, latency_ms: f64) -> bool {
    chunks == GUIDE_CHUNKS && at_once == GUIDE_CHUNKS && (latency_ms - GUIDE_LATENCY_MS).abs() < 0.5
}

/// For `chunks` calls of `latency_ms` milliseconds, of which the language model works on `at_once`.
pub fn expectation(chunks: usize, at_once: usize, latency_ms: f64) -> Expectation {
    let turns = chunks.div_ceil(at_once.max(1));
    let speed_up = chunks as f64 / turns.max(1) as f64;
    if is_the_guides(chunks, at_once, latency_ms) {
        return Expectation { sequential: GUIDE_SEQUENTIAL, parallel: GUIDE_PARALLEL, speed_up };
    }
    let span = |calls: usize| {
        let low = calls as f64 * latency_ms / 1e3;
        ExpectedRange { low, high: low * ALLOWANCE }
    };
    Expectation { sequential: span(chunks), parallel: span(turns), speed_up }
}

/// A time beside what was expected.
pub fn compare(seconds: f64, expected: ExpectedRange) -> &'static str {
    if seconds < expected.low {
        "faster than expected"
    } else if seconds <= expected.high {
        "as expected"
    } else {
        "slower than expected"
    }
}

/// One sentence about the speed-up: the guide's "five to ten times" is at least half of what is possible.
pub fn sentence(measured: f64, possible: f64) -> String {
    if possible < 1.5 {
        format!("Nothing to gain: one call at a time; {measured:.1} times as fast.")
    } else if measured >= possible / 2.0 {
        format!(
            "✅ Parallel processing works: {measured:.1} times as fast, of {possible:.1} that are possible."
        )
    } else {
        format!(
            "⚠️  Parallel processing gains too little: {measured:.1} times as fast, of {possible:.1} that are possible. \
             \"Troubleshooting\" (docs/troubleshooting.md) says where to look."
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guides_numbers_stand_where_they_apply() {
        let guide = expectation(10, 10, 887.0);
        assert_eq!(
            (guide.sequential.to_string(), guide.parallel.to_string()),
            ("10-12 s".into(), "1-2 s".into())
        );
        assert_eq!(guide.speed_up, 10.0);
        assert!(
            !is_the_guides(10, 4, 887.0) && !is_the_guides(10, 10, 20.0) && !is_the_guides(20, 10, 887.0)
        );
    }

    #[test]
    fn elsewhere_the_calls_are_counted() {
        let four = expectation(10, 4, 1000.0);
        assert_eq!((four.sequential.low, four.parallel.low), (10.0, 3.0));
        assert!((four.speed_up - 10.0 / 3.0).abs() < 1e-9);
        assert_eq!(expectation(10, 256, 20.0).parallel.to_string(), "0.02-0.03 s");
        assert_eq!(expectation(10, 0, 20.0).speed_up, 1.0);
    }

    #[test]
    fn the_verdict_follows_the_numbers() {
        let span = ExpectedRange { low: 1.0, high: 2.0 };
        let verdicts = [0.93, 1.0, 2.0, 2.1].map(|seconds| compare(seconds, span));
        assert_eq!(verdicts, ["faster than expected", "as expected", "as expected", "slower than expected"]);
        assert!(sentence(9.6, 10.0).starts_with('✅') && sentence(5.0, 10.0).starts_with('✅'));
        assert!(sentence(1.2, 10.0).contains("Troubleshooting"));
        assert!(sentence(1.0, 1.0).starts_with("Nothing to gain"));
    }
}
