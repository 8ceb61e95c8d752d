//! Repairs the codes of chunks that came while the language model was away, once it answers again.

use crate::backfill::{Backfilled, Retagger};
use crate::llm::{CacheUse, LlmError};
use crate::output::throttled;
use crate::store::{RetagScope, RetagSource};
use std::time::Duration;
use tokio::time::Instant;

/// How often is looked for such chunks: one look into an index that has no others.
const LOOK: Duration = Duration::from_secs(2);
/// How long one call of the retagger works.
const WITHIN: Duration = Duration::from_secs(10);
/// The pause before chunks are asked about again for which the language model failed once more.
const AGAIN: Duration = Duration::from_secs(600);

/// Retags the chunks of past outages.
pub(super) struct Repairer {
    pub retagger: Retagger,
}

impl Repairer {
    /// Looks and repairs until it is dropped. A chunk for which the language model answers, but gives nothing usable, is
    /// not asked about again until the next start.
    pub async fn run(self) {
        let (mut range, mut repaired) = (RepairRange::default(), 0);
        loop {
            tokio::time::sleep(LOOK).await;
            let scope = RetagScope {
                dataset: None,
                sources: vec![RetagSource::Fallback],
                failures: Some(LlmError::OUTAGES),
                after: range.begin(Instant::now()),
                upto: i64::MAX,
            };
            let done = match self.retagger.bounded(scope).await {
                Ok(scope) => {
                    let done = self.retagger.retag(&scope, CacheUse::Use, WITHIN, || false).await;
                    done.map(|done| (done, scope.upto))
                }
                Err(error) => Err(error),
            };
            match done {
                Ok((done, upto)) => {
                    range.end(&done, upto, Instant::now());
                    repaired += done.updated;
                    if repaired > 0 && done.remaining == 0 {
                        let model = self.retagger.llm().model();
                        tracing::info!(
                            "{repaired} chunks that came while the language model was away have codes from {model}"
                        );
                        repaired = 0;
                    }
                }
                Err(error) => throttled!(debug, %error, "codes cannot be repaired now"),
            }
        }
    }
}

/// Where the next look begins. Chunks that were asked about without success are behind it.
#[derive(Debug, Default)]
struct RepairRange {
    after: i64,
    /// When it begins at the first chunk again, because the language model failed for some.
    again: Option<Instant>,
}

impl RepairRange {
    /// The clock value after which a look begins.
    fn begin(&mut self, now: Instant) -> i64 {
        if self.again.is_some_and(|again| now >= again) {
            *self = RepairRange::default();
        }
        self.after
    }

    /// Notes what a look came to that went up to the clock value `upto`.
    fn end(&mut self, done: &Backfilled, upto: i64, now: Instant) {
        // Rows that fall back later have later numbers, so none is looked at again.
        let all = done.remaining == 0 && done.stopped.is_none();
        self.after = if all { upto } else { done.through };
        // A call that failed says nothing about the text, other than an answer that cannot be used.
        if done.failed.keys().any(|kind| LlmError::OUTAGES.contains(&&**kind)) {
            self.again.get_or_insert(now + AGAIN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(through: i64, remaining: u64, failed: &[&str]) -> Backfilled {
        let failed = failed.iter().map(|kind| ((*kind).into(), 1)).collect();
        Backfilled { through, remaining, failed, ..Backfilled::default() }
    }

    #[test]
    fn a_chunk_is_looked_at_once_unless_the_call_about_it_failed() {
        let (mut range, now) = (RepairRange::default(), Instant::now());
        assert_eq!(range.begin(now), 0);
        range.end(&look(7, 3, &["invalid"]), 20, now);
        assert_eq!(range.begin(now), 7, "there are more");
        range.end(&look(9, 0, &[]), 20, now);
        assert_eq!(range.begin(now + 2 * AGAIN), 20, "an unusable answer is one");

        range.end(&look(22, 0, &["http_5xx", "invalid"]), 25, now);
        range.end(&look(25, 0, &["timeout"]), 30, now + LOOK);
        assert_eq!(range.begin(now + AGAIN - LOOK), 30);
        assert_eq!(range.begin(now + AGAIN), 0, "counted from the first failure");
        range.end(&look(30, 0, &[]), 30, now + AGAIN);
        assert_eq!(range.begin(now + 3 * AGAIN), 30);
    }

    #[test]
    fn a_look_that_was_stopped_goes_on_where_it_was() {
        let (mut range, now) = (RepairRange::default(), Instant::now());
        let stopped = Backfilled { stopped: Some("away".to_owned()), ..look(4, 0, &[]) };
        range.end(&stopped, 9, now);
        assert_eq!(range.begin(now), 4);
    }
}
