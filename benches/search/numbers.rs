//! Times in order, and what they say.

use std::time::Duration;

/// Times of equal pieces of work.
#[derive(Default)]
pub struct Times(Vec<Duration>);

impl Times {
    pub fn add(&mut self, took: Duration) {
        self.0.push(took);
    }

    /// The time below which this share of them is, in milliseconds.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let place = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
        sorted.get(place).map_or(0.0, Duration::as_secs_f64) * 1e3
    }

    pub fn mean(&self) -> f64 {
        let sum: Duration = self.0.iter().sum();
        sum.as_secs_f64() * 1e3 / self.0.len().max(1) as f64
    }
}

/// The share of the wanted items that were found.
pub fn recall(found: &[Vec<u32>], wanted: &[Vec<u32>]) -> f64 {
    let (mut hits, mut all) = (0, 0);
    for (found, wanted) in found.iter().zip(wanted) {
        hits += wanted.iter().filter(|item| found.contains(item)).count();
        all += wanted.len();
    }
    hits as f64 / all.max(1) as f64
}
