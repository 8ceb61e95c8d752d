//! A window of round trips, long enough to tell a step of the limit from noise. Pure.

/// The least calls of a window, in limits: bursts of calls that begin and end together then weigh little.
const LEAST: usize = 4;
/// The most calls of a window, in limits.
const MOST: usize = 40;
/// Standard errors of the mean that a step has to be larger than.
const ERRORS: f64 = 5.0;

/// Round trips under one limit, in seconds.
#[derive(Debug, Default)]
pub struct Window {
    took: Vec<f64>,
    full: usize,
    /// Calls that are left out first: they met what the limit before had left in the queue.
    skip: usize,
}

/// What a window says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// The mean round trip, in seconds.
    pub mean: f64,
    /// The round trip that a tenth of the calls were faster than.
    pub fast: f64,
    /// Nearly all calls ended while the limit was in use, so that the mean tells the throughput.
    pub full: bool,
    /// The calls differ so little that the mean tells a step from noise.
    pub clear: bool,
}

impl Window {
    /// Begins again after a change to `limit`.
    pub fn restart(&mut self, limit: usize) {
        *self = Window { took: std::mem::take(&mut self.took), full: 0, skip: limit };
        self.took.clear();
    }

    /// Adds a call. Returns the summary once there are enough of them to see a relative `step` of the throughput.
    pub fn add(&mut self, took: f64, full: bool, limit: usize, step: f64) -> Option<Summary> {
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.took.push(took);
        self.full += usize::from(full);
        // Asked once per round trip: the variance is a sum over all of them.
        if self.took.len() < LEAST * limit || !self.took.len().is_multiple_of(limit) {
            return None;
        }
        let count = self.took.len() as f64;
        let mean = self.took.iter().sum::<f64>() / count;
        let variance = self.took.iter().map(|took| (took - mean).powi(2)).sum::<f64>() / count;
        let needed = variance / (mean * mean) * (ERRORS / step.max(0.01)).powi(2);
        let clear = count >= needed;
        if !clear && self.took.len() < MOST * limit {
            return None;
        }
        self.took.sort_unstable_by(f64::total_cmp);
        let fast = self.took.get(self.took.len() / 10).copied().unwrap_or(mean);
        let full = self.full * 10 >= self.took.len() * 9;
        self.took.clear();
        self.full = 0;
        Some(Summary { mean, fast, full, clear })
    }
}
