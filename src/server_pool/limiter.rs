//! Finds how many calls at once a server really works on. Pure: round trips are passed in.
//!
//! The limit begins at the configured slots. A server that has fewer lets the others wait in silence: the round trip
//! grows with the calls in flight, and the throughput does not. A server whose round trips are long for another reason
//! loses throughput with every call less. So a long round trip is only a reason to try a lower limit, and the
//! throughput decides: by Little's law it is the mean number of calls in flight divided by the mean round trip.
//! Time-outs and refusals (429, 503) lower the limit at once; it goes up again by one per round trip.

use super::window::{Window, WindowSummary};
use std::time::Duration;

/// The factor of a step down.
const DOWN: f64 = 0.9;
/// The weight of a new round trip in the average of lone ones.
const ALPHA: f64 = 0.4;
/// Deviations above the lone round trip that are evidence of a queue.
const DEVIATIONS: f64 = 2.5;
/// The least deviation, as a share of the round trip.
const LEAST_DEVIATION: f64 = 0.1;
/// The share of the throughput that a lower limit may cost, all steps together.
const TOLERANCE: f64 = 0.04;
/// The most windows (or round trips, after refusals) until the next try.
const LONGEST_WAIT: u32 = 32;

/// What a call says about the capacity of its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallEnding {
    /// It was answered: its round trip counts.
    Answered,
    /// It timed out or was refused: 429, 503.
    Overloaded,
    /// It failed for another reason, or was given up.
    Other,
}

/// What is known when a call starts.
#[derive(Debug, Clone, Copy)]
pub struct CallMark {
    epoch: u64,
    alone: bool,
}

/// What the limiter is doing.
#[derive(Debug, Clone, Copy)]
enum Phase {
    Steady,
    /// A lower limit is tried; `mean` is of the limit before.
    Down {
        from: usize,
        mean: f64,
    },
    /// A higher limit is tried.
    Up {
        from: usize,
        rate: f64,
    },
}

/// The limit of concurrent calls to one server.
#[derive(Debug)]
pub struct Limiter {
    slots: usize,
    limit: usize,
    /// The highest limit that is taken up again without a try.
    ceiling: usize,
    /// Counts changes of the limit.
    epoch: u64,
    /// Mean and mean deviation of calls without company.
    lone: Option<(f64, f64)>,
    /// The shortest round trips: the lowest tenth of the fastest window.
    fastest: Option<f64>,
    /// The mean round trip that was justified by its throughput.
    accepted: Option<f64>,
    /// The limit before the first step down, and its throughput: many small steps are measured by it too.
    reference: Option<(usize, f64)>,
    window: Window,
    phase: Phase,
    /// Steps down may halve the limit until one was too large.
    bold: bool,
    down: Patience,
    up: Patience,
    round: Round,
    raise: Patience,
}

/// The calls of about one round trip.
#[derive(Debug, Default)]
struct Round {
    ended: usize,
    overloaded: usize,
    /// The limit went up just before.
    raised: bool,
}

/// Tries that fail are repeated after 2, 4, 8 .. windows.
#[derive(Debug, Clone, Copy)]
struct Patience {
    wait: u32,
    next: u32,
}

impl Patience {
    const NONE: Patience = Patience { wait: 0, next: 1 };

    /// Whether the wait is over; counts a window.
    fn is_over(&mut self) -> bool {
        self.wait = self.wait.saturating_sub(1);
        self.wait == 0
    }

    fn lengthen(&mut self) {
        self.next = (self.next * 2).min(LONGEST_WAIT);
        self.wait = self.next;
    }
}

impl Limiter {
    /// A limit that begins at `slots`, at least 1.
    pub fn new(slots: usize) -> Limiter {
        let slots = slots.max(1);
        Limiter {
            slots,
            limit: slots,
            ceiling: slots,
            epoch: 0,
            lone: None,
            fastest: None,
            accepted: None,
            reference: None,
            window: Window::new(slots),
            phase: Phase::Steady,
            bold: true,
            down: Patience::NONE,
            up: Patience::NONE,
            round: Round::default(),
            raise: Patience::NONE,
        }
    }

    /// The most calls at once, from 1 to the slots.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Records the start of a call; `in_flight` counts it, `now` is the time since any fixed moment.
    pub fn on_start(&mut self, in_flight: usize, now: Duration) -> CallMark {
        self.window.in_flight(in_flight, now.as_secs_f64());
        CallMark { epoch: self.epoch, alone: in_flight == 1 }
    }

    /// Records the end of a call; `in_flight` still counts it.
    pub fn on_end(
        &mut self,
        mark: CallMark,
        took: Duration,
        ending: CallEnding,
        in_flight: usize,
        now: Duration,
    ) {
        let full = in_flight >= self.limit;
        self.window.in_flight(in_flight.saturating_sub(1), now.as_secs_f64());
        if ending == CallEnding::Answered {
            self.on_answer(mark, took.as_secs_f64());
        }
        if in_flight <= 1 && self.limit > 1 {
            // Idle: the next calls meet no queue. Those of a trial are not enough to judge by.
            self.window.restart(self.limit);
        }
        if mark.epoch == self.epoch {
            self.on_round(ending, full);
        }
    }

    /// Refusals and time-outs of about one round trip: a few of many calls are no evidence.
    fn on_round(&mut self, ending: CallEnding, full: bool) {
        self.round.ended += 1;
        self.round.overloaded += usize::from(ending == CallEnding::Overloaded);
        if self.round.overloaded > self.limit / 10 {
            if self.limit > 1 {
                self.set_limit(lower(self.limit));
            }
            self.phase = Phase::Steady;
            self.raise.lengthen();
            self.round = Round::default();
        } else if self.round.ended >= self.limit {
            let Round { overloaded, raised, .. } = std::mem::take(&mut self.round);
            if overloaded > 0 || !full || !matches!(self.phase, Phase::Steady) {
                return;
            }
            if raised {
                // The server took one more without a refusal: the next one may follow at once.
                self.raise = Patience::NONE;
            }
            if self.limit < self.ceiling && self.raise.is_over() {
                self.set_limit(self.limit + 1);
                self.round.raised = true;
            }
        }
    }

    fn on_answer(&mut self, mark: CallMark, took: f64) {
        if mark.alone {
            let (mean, deviation) = self.lone.unwrap_or((took, 0.0));
            let deviation = deviation + ALPHA * ((took - mean).abs() - deviation);
            self.lone = Some((mean + ALPHA * (took - mean), deviation));
        }
        // A call that began before the limit changed met the queue of the old limit.
        if mark.epoch != self.epoch {
            return;
        }
        let step = match self.phase {
            Phase::Steady | Phase::Down { .. } => 1.0 - DOWN,
            Phase::Up { from, .. } => self.limit as f64 / from as f64 - 1.0,
        };
        let wanted = match self.phase {
            Phase::Down { .. } => self.wanted(),
            Phase::Steady | Phase::Up { .. } => None,
        };
        let window = self.window.add(took, self.limit, step, wanted);
        let fast = window.map(|window| window.fast).or_else(|| self.window.leave_out());
        if let Some(fast) = fast {
            self.fastest = Some(self.fastest.map_or(fast, |fastest| fastest.min(fast)));
        }
        if let Some(window) = window {
            self.judge(&window, step);
        }
    }

    fn judge(&mut self, window: &WindowSummary, step: f64) {
        match self.phase {
            // There were not enough calls to judge by.
            Phase::Down { from, .. } | Phase::Up { from, .. } if !window.full => self.go_back(from),
            Phase::Steady if !window.full => {}
            Phase::Down { .. } if self.wanted().is_none_or(|wanted| window.rate >= wanted) => {
                self.ceiling = self.limit;
                self.down = Patience::NONE;
                self.phase = Phase::Steady;
                self.consider(window);
            }
            Phase::Down { from, mean } => {
                let large = self.limit < lower(from);
                self.go_back(from);
                if large {
                    self.bold = false;
                } else {
                    self.accepted = Some(mean);
                    self.down.lengthen();
                }
            }
            Phase::Up { rate: before, .. } if window.rate >= before * (1.0 + step / 2.0) => {
                self.ceiling = self.limit;
                self.reference = None;
                self.up = Patience::NONE;
                self.phase = Phase::Steady;
                self.consider(window);
            }
            Phase::Up { from, .. } => {
                self.go_back(from);
                self.up.lengthen();
            }
            Phase::Steady => self.consider(window),
        }
    }

    /// The throughput that a lower limit has to have.
    fn wanted(&self) -> Option<f64> {
        self.reference.map(|(_, rate)| rate * (1.0 - TOLERANCE))
    }

    /// Decides what is tried next.
    fn consider(&mut self, window: &WindowSummary) {
        let WindowSummary { mean, rate, .. } = *window;
        if self.accepted.is_some_and(|accepted| mean > accepted * (1.0 + DEVIATIONS * LEAST_DEVIATION)) {
            (self.accepted, self.reference, self.down) = (None, None, Patience::NONE);
        }
        if self.reference.is_none_or(|(limit, _)| self.limit >= limit) {
            self.reference = Some((self.limit, rate));
        }
        let (down, up) = (self.down.is_over(), self.up.is_over());
        let (base, deviation) = self.base();
        let queues = mean > base + DEVIATIONS * deviation;
        // Where a small step cannot be told from noise, only a large one is tried.
        if queues && down && self.limit > 1 && (window.clear || self.bold) {
            let working = (self.limit as f64 * base / mean).ceil() as usize;
            let lowest = if self.bold { self.limit.div_ceil(2) } else { lower(self.limit) };
            let from = self.limit;
            self.set_limit(working.max(lowest).min(lower(self.limit)).max(1));
            self.phase = Phase::Down { from, mean };
        } else if self.limit == self.ceiling && self.limit < self.slots && up {
            let from = self.limit;
            self.set_limit((self.limit + (self.limit / 10).max(1)).min(self.slots));
            self.phase = Phase::Up { from, rate };
        }
    }

    /// Mean and deviation of a round trip without a queue.
    fn base(&self) -> (f64, f64) {
        let (lone, deviation) = self.lone.unwrap_or((f64::INFINITY, 0.0));
        let mean = lone.min(self.fastest.unwrap_or(f64::INFINITY));
        (mean, deviation.min(mean).max(mean * LEAST_DEVIATION))
    }

    fn go_back(&mut self, to: usize) {
        self.set_limit(to);
        self.phase = Phase::Steady;
    }

    fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        self.epoch += 1;
        self.window.restart(limit);
        self.round = Round::default();
    }
}

/// The limit one step below.
fn lower(limit: usize) -> usize {
    ((limit as f64 * DOWN) as usize).clamp(1, limit.saturating_sub(1).max(1))
}

#[cfg(test)]
mod tests;
