//! The part of a parcel that stays the same from stage to stage, and the queue that takes it when it is dropped.

use super::receipt::{Receipt, Unsettled};
use crate::threads::lock;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// One item on its way to its answer.
///
/// Dropped with its receipt unsettled, a delivery that a stage had, or that is delivered again, goes to the
/// [`RedeliveryQueue`]. One that never entered a stage is not delivered again, and its receipt says that it is lost.
pub struct Delivery<O: Send + Sync + 'static, R: Unsettled> {
    origin: Arc<O>,
    receipt: Option<Receipt<R>>,
    /// Absent in the queue itself, and after [`Self::leave`].
    queue: Option<Arc<RedeliveryQueue<O, R>>>,
    span: tracing::Span,
    weight: usize,
    started: Instant,
    attempts: u32,
    in_work_at: Option<&'static str>,
    redelivered: bool,
    in_stage: bool,
}

impl<O: Send + Sync + 'static, R: Unsettled> Delivery<O, R> {
    /// The first delivery of `origin`, whose weight is in bytes, within the current span.
    pub fn new(
        origin: Arc<O>,
        weight: usize,
        receipt: Receipt<R>,
        queue: Arc<RedeliveryQueue<O, R>>,
    ) -> Self {
        Delivery {
            origin,
            receipt: Some(receipt),
            queue: Some(queue),
            span: tracing::Span::current(),
            weight,
            started: Instant::now(),
            attempts: 0,
            in_work_at: None,
            redelivered: false,
            in_stage: false,
        }
    }

    /// Sends a delivery from the queue out again.
    #[must_use]
    pub fn again(mut self, queue: Arc<RedeliveryQueue<O, R>>) -> Self {
        (self.queue, self.in_work_at) = (Some(queue), None);
        self
    }

    /// A stage has it, or not.
    pub(super) fn set_in_stage(&mut self, in_stage: bool) {
        self.in_stage = in_stage;
    }

    /// The stage that works on it; `None` while it waits.
    pub(super) fn set_in_work_at(&mut self, stage: Option<&'static str>) {
        self.in_work_at = stage;
    }

    /// It leaves the stages, and is not delivered again.
    pub(super) fn leave(mut self) -> Self {
        self.queue = None;
        self
    }

    /// What the client sent.
    pub fn origin(&self) -> &Arc<O> {
        &self.origin
    }

    /// The weight in bytes.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// The time since it was created, waiting included.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// The span of the upload it came with.
    pub fn span(&self) -> &tracing::Span {
        &self.span
    }

    /// How often a stage died while it worked on this item.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Counts one more attempt; gives the new number.
    pub fn count_attempt(&mut self) -> u32 {
        self.attempts += 1;
        self.attempts
    }

    /// The stage that works on it, or that did when it was dropped.
    pub fn in_work_at(&self) -> Option<&'static str> {
        self.in_work_at
    }

    /// Answers, unless it is answered already; says whether it did.
    pub fn settle(&mut self, answer: R) -> bool {
        let receipt = self.receipt.take();
        receipt.map(|receipt| receipt.settle(answer)).is_some()
    }
}

#[cfg(test)]
impl<O: Send + Sync + 'static, R: Unsettled> Delivery<O, R> {
    /// A delivery as it is found in the queue.
    pub fn scripted(
        origin: Arc<O>,
        receipt: Receipt<R>,
        attempts: u32,
        in_work_at: Option<&'static str>,
    ) -> Self {
        let mut delivery = Delivery::new(origin, 1, receipt, Arc::default()).leave();
        (delivery.attempts, delivery.in_work_at) = (attempts, in_work_at);
        delivery
    }
}

impl<O: Send + Sync + 'static, R: Unsettled> Drop for Delivery<O, R> {
    fn drop(&mut self) {
        if !self.in_stage && !self.redelivered {
            return;
        }
        if let (Some(receipt), Some(queue)) = (self.receipt.take(), self.queue.take()) {
            queue.put(Delivery {
                origin: self.origin.clone(),
                receipt: Some(receipt),
                queue: None,
                span: self.span.clone(),
                weight: self.weight,
                started: self.started,
                attempts: self.attempts,
                in_work_at: self.in_work_at,
                redelivered: true,
                in_stage: false,
            });
        }
    }
}

/// Deliveries that were dropped on the way with their receipts unsettled: the clients see nothing of it.
///
/// A parcel holds its slot until it is here, so the queue never holds more than there are slots. The supervisor takes
/// them between two generations.
pub struct RedeliveryQueue<O: Send + Sync + 'static, R: Unsettled>(Mutex<Vec<Delivery<O, R>>>);

impl<O: Send + Sync + 'static, R: Unsettled> Default for RedeliveryQueue<O, R> {
    fn default() -> Self {
        RedeliveryQueue(Mutex::new(Vec::new()))
    }
}

impl<O: Send + Sync + 'static, R: Unsettled> RedeliveryQueue<O, R> {
    /// Runs in drops, perhaps during unwinding: must not panic.
    fn put(&self, delivery: Delivery<O, R>) {
        lock(&self.0).push(delivery);
    }

    /// Takes all deliveries, in the order in which they came.
    pub fn take_all(&self) -> Vec<Delivery<O, R>> {
        std::mem::take(&mut *lock(&self.0))
    }
}
