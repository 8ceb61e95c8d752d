//! The two ways to go on after an error: try again, or find the item at fault by halving.

use std::time::Duration;

/// Doubling pauses with a ceiling: `first`, twice that, and so on.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// The first pause.
    pub first: Duration,
    /// The longest pause.
    pub ceiling: Duration,
}

impl Backoff {
    /// The pause before retry `n`, counted from 0.
    pub fn pause(self, n: u32) -> Duration {
        self.first.saturating_mul(2u32.saturating_pow(n)).min(self.ceiling)
    }
}

/// What follows an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The error is returned.
    GiveUp,
    /// A retry after the pause of the [`Backoff`].
    Retry,
    /// As [`Self::Retry`], after this long at least: what a server asks for with `Retry-After`.
    RetryAfter(Duration),
}

impl Verdict {
    /// [`Self::Retry`] if `condition` holds, else [`Self::GiveUp`].
    pub fn retry_if(condition: bool) -> Verdict {
        if condition { Verdict::Retry } else { Verdict::GiveUp }
    }
}

/// Retries that are counted over several operations.
#[derive(Debug)]
pub struct Retries {
    policy: Backoff,
    count: u32,
}

impl Retries {
    /// A count of zero retries.
    pub fn new(policy: Backoff) -> Retries {
        Retries { policy, count: 0 }
    }

    /// Runs `op` until it succeeds, or until `classify` gives up. `classify` sees each error with the number of
    /// retries before it.
    ///
    /// # Errors
    /// The last one.
    pub async fn run<T, E, F: Future<Output = Result<T, E>>>(
        &mut self,
        mut classify: impl FnMut(&E, u32) -> Verdict,
        mut op: impl FnMut() -> F,
    ) -> Result<T, E> {
        loop {
            let error = match op().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let at_least = match classify(&error, self.count) {
                Verdict::GiveUp => return Err(error),
                Verdict::Retry => Duration::ZERO,
                Verdict::RetryAfter(pause) => pause,
            };
            tokio::time::sleep(self.policy.pause(self.count).max(at_least)).await;
            self.count = self.count.saturating_add(1);
        }
    }
}

/// As [`Retries::run`], for one operation.
///
/// # Errors
/// The last one.
pub async fn retry<T, E, F: Future<Output = Result<T, E>>>(
    policy: Backoff,
    classify: impl FnMut(&E, u32) -> Verdict,
    op: impl FnMut() -> F,
) -> Result<T, E> {
    Retries::new(policy).run(classify, op).await
}

/// Runs `op` on all items. When `op` gives items back they are halved, and it is run on the first half and then on the
/// second, down to single items, which are not tried again.
pub async fn bisect<T>(items: Vec<T>, mut op: impl AsyncFnMut(Vec<T>) -> Option<Vec<T>>) {
    let mut parts = vec![items];
    while let Some(part) = parts.pop() {
        if let Some(mut refused) = op(part).await
            && refused.len() > 1
        {
            let later = refused.split_off(refused.len() / 2);
            parts.extend([later, refused]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const POLICY: Backoff = Backoff { first: Duration::from_secs(1), ceiling: Duration::from_secs(60) };

    #[test]
    fn pauses_double_up_to_the_ceiling() {
        let pauses: Vec<u64> = [0, 1, 2, 5, 6, 40, u32::MAX].map(|n| POLICY.pause(n).as_secs()).into();
        assert_eq!(pauses, [1, 2, 4, 32, 60, 60, 60]);
    }

    #[tokio::test]
    async fn an_operation_is_retried_until_it_is_given_up_and_the_count_goes_on() {
        let calls = Cell::new(0);
        let fail = || {
            calls.set(calls.get() + 1);
            std::future::ready(Err::<(), u32>(calls.get()))
        };
        let no_pause = Backoff { first: Duration::ZERO, ceiling: Duration::ZERO };
        let mut retries = Retries::new(no_pause);
        assert_eq!(retries.run(|_, before| Verdict::retry_if(before < 3), fail).await, Err(4));
        let asked = |_: &u32, before| match before {
            3 => Verdict::RetryAfter(Duration::ZERO),
            _ => Verdict::GiveUp,
        };
        assert_eq!(retries.run(asked, fail).await, Err(6));
        assert_eq!(retry(POLICY, |&(), _| Verdict::Retry, || std::future::ready(Ok(1))).await, Ok(1));
    }

    #[tokio::test]
    async fn halving_finds_the_items_at_fault_and_keeps_the_order() {
        let (mut good, mut bad, mut runs) = (Vec::new(), Vec::new(), 0);
        bisect((0..8).collect(), async |part: Vec<u32>| {
            runs += 1;
            match part.iter().any(|item| [2, 7].contains(item)) {
                true if part.len() > 1 => return Some(part),
                true => bad.extend(part),
                false => good.extend(part),
            }
            None
        })
        .await;
        assert_eq!((good, bad, runs), (vec![0, 1, 3, 4, 5, 6], vec![2, 7], 11));
    }
}
