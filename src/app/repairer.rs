//! Repairs the codes of chunks that came while the language model was away, once it answers again.

use crate::backfill::Retagger;
use crate::llm::{CacheUse, LlmError};
use crate::output::throttled;
use crate::store::{RetagScope, RetagSource};
use std::time::Duration;

/// How often is looked for such chunks: one look into an index that has no others.
const LOOK: Duration = Duration::from_secs(2);
/// How long one call of the retagger works.
const WITHIN: Duration = Duration::from_secs(10);

/// Retags the chunks of past outages.
pub(super) struct Repairer {
    pub retagger: Retagger,
}

impl Repairer {
    /// Looks and repairs until it is dropped. A chunk for which the language model answers, but gives nothing usable, is
    /// not asked about again until the next start.
    pub async fn run(self) {
        let (mut after, mut repaired) = (0, 0);
        loop {
            tokio::time::sleep(LOOK).await;
            let scope = RetagScope {
                dataset: None,
                sources: vec![RetagSource::Fallback],
                failures: Some(LlmError::OUTAGES),
                after,
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
                    // Rows that fall back later have later numbers, so none is looked at again.
                    let all = done.remaining == 0 && done.stopped.is_none();
                    after = if all { upto } else { done.through };
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
