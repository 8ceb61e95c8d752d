//! A window of round trips, long enough to tell a step of the limit from noise. Pure.

/// The least calls of a window, in limits: bursts of calls that begin and end together then weigh little.
const LEAST: usize = 4;
/// The most calls of a window, in limits; and of one of a low limit.
const MOST: usize = 40;
const MOST_CALLS: usize = 400;
/// Standard errors of the mean that a step has to be larger than.
const ERRORS: f64 = 5.0;
/// The share of the limit that has to be in use for a judgement.
const FULL: f64 = 0.9;

/// Round trips under one limit. Times are seconds.
#[derive(Debug)]
pub struct Window {
    took: Vec<f64>,
    /// Calls that are left out first: they met an empty queue, or what the limit before had left in it.
    skip: usize,
    /// When the window began: with the first call that counts.
    began: Option<f64>,
    /// Calls in flight, and since when.
    flight: (usize, f64),
    /// Calls in flight, multiplied by time.
    load: f64,
}

/// What a window says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WindowSummary {
    /// The mean round trip, in seconds.
    pub mean: f64,
    /// The round trip that a tenth of the calls were faster than.
    pub fast: f64,
    /// Calls per second.
    pub rate: f64,
    /// The limit was in use nearly all the time, so that a rate belongs to it.
    pub full: bool,
    /// The calls differ so little that the mean tells a step from noise.
    pub clear: bool,
}

impl Window {
    /// The window of a server that is idle.
    pub fn new(limit: usize) -> Window {
        Window { took: Vec::new(), skip: limit, began: None, flight: (0, 0.0), load: 0.0 }
    }

    /// Begins again after a change to `limit`, or when the server was idle.
    pub fn restart(&mut self, limit: usize) {
        (self.skip, self.began, self.load) = (limit, None, 0.0);
        self.took.clear();
    }

    /// Records that so many calls are in flight from now on.
    pub fn in_flight(&mut self, count: usize, now: f64) {
        let (before, since) = std::mem::replace(&mut self.flight, (count, now));
        match self.began {
            Some(_) => self.load += before as f64 * (now - since).max(0.0),
            None if self.skip == 0 => self.began = Some(now),
            None => {}
        }
    }

    /// Counts a call among those that are left out. Returns the round trip that a tenth of them were faster than, after
    /// the last.
    pub fn leave_out(&mut self) -> Option<f64> {
        if self.skip == 0 || self.took.len() < self.skip {
            return None;
        }
        self.took.sort_unstable_by(f64::total_cmp);
        let fast = self.took.get(self.took.len() / 10).copied();
        self.restart(0);
        fast
    }

    /// Adds a call that ends now. Returns the summary once there are enough of them to see a relative `step` of the
    /// throughput, or that the throughput is below `wanted`.
    pub fn add(&mut self, took: f64, limit: usize, step: f64, wanted: Option<f64>) -> Option<WindowSummary> {
        self.took.push(took);
        if self.skip > 0 {
            return None;
        }
        // Asked once per round trip: the variance is a sum over all of them.
        if self.took.len() < LEAST * limit || !self.took.len().is_multiple_of(limit) {
            return None;
        }
        let count = self.took.len() as f64;
        let mean = self.took.iter().sum::<f64>() / count;
        let variance = self.took.iter().map(|took| (took - mean).powi(2)).sum::<f64>() / count;
        let spread = variance.sqrt() / mean;
        let time = self.flight.1 - self.began?;
        let flight = if time > 0.0 { self.load / time } else { limit as f64 };
        let rate = flight / mean;
        let hopeless = wanted.is_some_and(|wanted| rate * (1.0 + 2.0 * spread / count.sqrt()) < wanted);
        let clear = hopeless || count >= (spread * ERRORS / step.max(0.01)).powi(2);
        if !clear && self.took.len() < (MOST * limit).max(MOST_CALLS) {
            return None;
        }
        self.took.sort_unstable_by(f64::total_cmp);
        let fast = self.took.get(self.took.len() / 10).copied().unwrap_or(mean);
        self.restart(0);
        Some(WindowSummary { mean, fast, rate, full: flight >= FULL * limit as f64, clear })
    }
}
