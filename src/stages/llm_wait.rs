//! The time that a chunk may wait for a language model.

use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long a chunk may still wait for the language model, or for the TMD router: for its turn, for all attempts, and for
/// every question about it, together. A copy counts the same time.
#[derive(Debug, Clone, Copy)]
pub struct LlmWait {
    limit: Duration,
    until: Instant,
}

impl LlmWait {
    /// A wait that begins now and ends after `limit`.
    pub fn begin(limit: Duration) -> LlmWait {
        LlmWait { limit, until: Instant::now() + limit }
    }

    /// Waits for the result of `call`. After the time is over, no call is begun.
    ///
    /// # Errors
    /// That of the call; when the time is over, the one that `late` makes of the limit.
    pub async fn bound<T, E>(
        self,
        call: impl Future<Output = Result<T, E>>,
        late: impl FnOnce(Duration) -> E,
    ) -> Result<T, E> {
        if Instant::now() >= self.until {
            return Err(late(self.limit));
        }
        timeout_at(self.until, call).await.unwrap_or_else(|_| Err(late(self.limit)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    const LONG: Duration = Duration::from_secs(86_400);
    const SHORT: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn a_call_that_ends_in_time_is_not_touched() {
        let wait = LlmWait::begin(LONG);
        assert_eq!(wait.bound(ready(Ok::<_, Duration>(7)), |limit| limit).await, Ok(7));
        assert_eq!(wait.bound(ready(Err::<u32, _>(SHORT)), |limit| limit).await, Err(SHORT));
    }

    #[tokio::test]
    async fn a_call_that_never_ends_is_given_up_and_none_is_begun_after_it() {
        let wait = LlmWait::begin(SHORT);
        assert_eq!(wait.bound(pending::<Result<u32, Duration>>(), |limit| limit).await, Err(SHORT));
        // The time was used up by the first question: the second one is not even asked.
        let never = async { unreachable!("it is too late") };
        assert_eq!(wait.bound::<u32, Duration>(never, |limit| limit).await, Err(SHORT));
    }
}
