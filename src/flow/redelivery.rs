//! Where parcels go that were dropped on the way, with their receipts unsettled: the client sees nothing.
//!
//! A parcel holds a slot until it is at redelivery_queue, so redelivery_queue never holds more than the slots. The supervisor empties it
//! between two generations.

use super::receipt::{Receipt, Unsettled};
use crate::threads::lock;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// A parcel that came redelivery_queue, or one that was on its way in again.
pub struct Redelivery<O: Send + Sync + 'static, R: Unsettled> {
    /// What the client sent: it starts again from there.
    pub origin: Arc<O>,
    /// Still owed.
    pub receipt: Receipt<R>,
    /// Times it was in the hands of a stage that died, before this one.
    pub delivery_attempts: u32,
    /// The stage that was working on it when it was dropped.
    pub in_work_at: Option<&'static str>,
    pub(super) span: tracing::Span,
    pub(super) weight: usize,
    pub(super) started: Instant,
}

#[cfg(test)]
impl<O: Send + Sync + 'static, R: Unsettled> Redelivery<O, R> {
    /// As if it had been on its way.
    pub fn scripted(
        origin: Arc<O>,
        receipt: Receipt<R>,
        delivery_attempts: u32,
        in_work_at: Option<&'static str>,
    ) -> Self {
        let (span, started) = (tracing::Span::none(), Instant::now());
        Redelivery { origin, receipt, delivery_attempts, in_work_at, span, weight: 1, started }
    }
}

/// Holds redeliveries until the next generation.
pub struct RedeliveryQueue<O: Send + Sync + 'static, R: Unsettled>(Mutex<Vec<Redelivery<O, R>>>);

impl<O: Send + Sync + 'static, R: Unsettled> Default for RedeliveryQueue<O, R> {
    fn default() -> Self {
        RedeliveryQueue(Mutex::new(Vec::new()))
    }
}

impl<O: Send + Sync + 'static, R: Unsettled> RedeliveryQueue<O, R> {
    /// Runs in drops, perhaps during unwinding: must not panic.
    pub(super) fn put(&self, redelivery: Redelivery<O, R>) {
        lock(&self.0).push(redelivery);
    }

    /// Everyone who came redelivery_queue, in the order of coming.
    pub fn empty(&self) -> Vec<Redelivery<O, R>> {
        std::mem::take(&mut *lock(&self.0))
    }
}
