//! Where parcels go that were dropped on the way, with their receipts unsettled: the client sees nothing.
//!
//! A parcel holds a slot until it is at home, so home never holds more than the slots. The supervisor empties it
//! between two generations.

use super::receipt::{Receipt, Unsettled};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A parcel that came home, or one that was on its way in again.
pub struct Stray<O: Send + Sync + 'static, R: Unsettled> {
    /// What the client sent: it starts again from there.
    pub origin: Arc<O>,
    /// Still owed.
    pub receipt: Receipt<R>,
    /// Times it was in the hands of a stage that died, before this one.
    pub attempts: u32,
    /// The stage that was working on it when it was dropped.
    pub in_hand: Option<&'static str>,
    pub(super) span: tracing::Span,
    pub(super) weight: usize,
    pub(super) started: Instant,
}

#[cfg(test)]
impl<O: Send + Sync + 'static, R: Unsettled> Stray<O, R> {
    /// As if it had been on its way.
    pub fn scripted(
        origin: Arc<O>,
        receipt: Receipt<R>,
        attempts: u32,
        in_hand: Option<&'static str>,
    ) -> Self {
        let (span, started) = (tracing::Span::none(), Instant::now());
        Stray { origin, receipt, attempts, in_hand, span, weight: 1, started }
    }
}

/// Holds strays until the next generation.
pub struct Home<O: Send + Sync + 'static, R: Unsettled>(Mutex<Vec<Stray<O, R>>>);

impl<O: Send + Sync + 'static, R: Unsettled> Default for Home<O, R> {
    fn default() -> Self {
        Home(Mutex::new(Vec::new()))
    }
}

impl<O: Send + Sync + 'static, R: Unsettled> Home<O, R> {
    /// Runs in drops, perhaps during unwinding: must not panic.
    pub(super) fn take_in(&self, stray: Stray<O, R>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(stray);
    }

    /// Everyone who came home, in the order of coming.
    pub fn empty(&self) -> Vec<Stray<O, R>> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
