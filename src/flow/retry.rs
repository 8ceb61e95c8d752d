//! How long to wait before the next try.

use std::time::Duration;

/// Doubling pauses with a ceiling: `first`, twice that, and so on.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// The first pause.
    pub first: Duration,
    /// No pause is longer.
    pub ceiling: Duration,
}

impl Backoff {
    /// The pause before try `n`, counted from 0.
    pub fn pause(self, n: u32) -> Duration {
        self.first.saturating_mul(2u32.saturating_pow(n)).min(self.ceiling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_ceiling() {
        let backoff = Backoff { first: Duration::from_secs(1), ceiling: Duration::from_secs(60) };
        let pauses: Vec<u64> = [0, 1, 2, 5, 6, 40, u32::MAX].map(|n| backoff.pause(n).as_secs()).into();
        assert_eq!(pauses, [1, 2, 4, 32, 60, 60, 60]);
    }
}
