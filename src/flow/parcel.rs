//! What travels from stage to stage: the cargo, whose type changes, and the [`Delivery`], which does not.

use super::inlet::Slot;
use super::receipt::{Receipt, Unsettled};
use super::redelivery::{Redelivery, RedeliveryQueue};
use crate::metrics;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The part of a parcel that stays the same all the way. Dropped with its receipt unsettled, it goes [`RedeliveryQueue`] if it was
/// inside; one that never got in has nobody to come back for it, and its receipt says that it is lost.
pub struct Delivery<O: Send + Sync + 'static, R: Unsettled> {
    origin: Arc<O>,
    receipt: Option<Receipt<R>>,
    redelivery_queue: Arc<RedeliveryQueue<O, R>>,
    span: tracing::Span,
    weight: usize,
    started: Instant,
    delivery_attempts: u32,
    in_work_at: Option<&'static str>,
    /// It is a redelivery's.
    again: bool,
    /// A stage has it.
    inside: bool,
}

impl<O: Send + Sync + 'static, R: Unsettled> Delivery<O, R> {
    /// A first delivery. `weight` in bytes.
    pub fn new(
        origin: Arc<O>,
        weight: usize,
        receipt: Receipt<R>,
        redelivery_queue: Arc<RedeliveryQueue<O, R>>,
    ) -> Self {
        let (span, started) = (tracing::Span::current(), Instant::now());
        let (delivery_attempts, in_work_at, again, inside) = (0, None, false, false);
        let receipt = Some(receipt);
        Delivery {
            origin,
            receipt,
            redelivery_queue,
            span,
            weight,
            started,
            delivery_attempts,
            in_work_at,
            again,
            inside,
        }
    }

    /// Sends a redelivery out again.
    pub fn again(redelivery: Redelivery<O, R>, redelivery_queue: Arc<RedeliveryQueue<O, R>>) -> Self {
        Delivery {
            origin: redelivery.origin,
            receipt: Some(redelivery.receipt),
            redelivery_queue,
            span: redelivery.span,
            weight: redelivery.weight,
            started: redelivery.started,
            delivery_attempts: redelivery.delivery_attempts,
            in_work_at: None,
            again: true,
            inside: false,
        }
    }

    /// What the client sent.
    pub fn origin(&self) -> &Arc<O> {
        &self.origin
    }

    /// In bytes.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Ends the delivery.
    pub fn settle(mut self, answer: R) {
        if let Some(receipt) = self.receipt.take() {
            receipt.settle(answer);
        }
    }
}

impl<O: Send + Sync + 'static, R: Unsettled> Drop for Delivery<O, R> {
    fn drop(&mut self) {
        if let Some(receipt) = self.receipt.take()
            && (self.inside || self.again)
        {
            self.redelivery_queue.put(Redelivery {
                origin: self.origin.clone(),
                receipt,
                span: self.span.clone(),
                weight: self.weight,
                started: self.started,
                delivery_attempts: self.delivery_attempts,
                in_work_at: self.in_work_at,
            });
        }
    }
}

/// A delivery with cargo and a slot: it is inside a stage.
pub struct Parcel<T, O: Send + Sync + 'static, R: Unsettled> {
    cargo: T,
    // Declared before `delivery`, so that a dropped parcel is at redelivery_queue no later than its slot: see `Delivery::drop`.
    delivery: Delivery<O, R>,
    slot: Slot,
    entered: Instant,
}

impl<T: 'static, O: Send + Sync + 'static, R: Unsettled> actix::Message for Parcel<T, O, R> {
    type Result = ();
}

impl<T, O: Send + Sync + 'static, R: Unsettled> Parcel<T, O, R> {
    pub(super) fn new(cargo: T, slot: Slot, mut delivery: Delivery<O, R>) -> Self {
        delivery.inside = true;
        Parcel { cargo, delivery, slot, entered: Instant::now() }
    }

    pub(super) fn into_delivery(mut self) -> Delivery<O, R> {
        self.delivery.inside = false;
        self.delivery
    }

    /// Takes the slot of the next stage; the one it had goes redelivery_queue.
    pub(super) fn enter(&mut self, slot: Slot) {
        self.slot = slot;
        self.entered = Instant::now();
        self.delivery.in_work_at = None;
    }

    /// Marks the parcel as being worked on: should `stage` die now, this one is a suspect.
    pub fn begin_work(&mut self, stage: &'static str) {
        self.delivery.in_work_at = Some(stage);
    }

    /// Marks the parcel as waiting inside the stage: nobody works on it.
    pub fn rest(&mut self) {
        self.delivery.in_work_at = None;
    }

    /// As [`Self::rest`], in passing.
    #[must_use]
    pub fn at_rest(mut self) -> Self {
        self.rest();
        self
    }

    /// The work begins: records how long it waited in `stage` since it entered.
    pub fn begin(&mut self, stage: &'static str) {
        self.begin_work(stage);
        metrics::stage_wait(stage, self.entered.elapsed());
    }

    /// The cargo.
    pub fn cargo(&self) -> &T {
        &self.cargo
    }

    /// Exchanges the cargo for what became of it.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Parcel<U, O, R> {
        Parcel { cargo: change(self.cargo), delivery: self.delivery, slot: self.slot, entered: self.entered }
    }

    /// What the client sent.
    pub fn origin(&self) -> &Arc<O> {
        &self.delivery.origin
    }

    /// In bytes.
    pub fn weight(&self) -> usize {
        self.delivery.weight
    }

    /// How often it was in the hands of a stage that died.
    pub fn delivery_attempts(&self) -> u32 {
        self.delivery.delivery_attempts
    }

    /// Since the entrance took it, waiting included.
    pub fn age(&self) -> Duration {
        self.delivery.started.elapsed()
    }

    /// The span of the upload it came with.
    pub fn span(&self) -> &tracing::Span {
        &self.delivery.span
    }

    /// Ends the journey.
    pub fn settle(self, answer: R) {
        self.delivery.settle(answer);
    }

    /// Ends the journey before the answer is given: what is left is the answer that is owed, and the slot, to be held
    /// until then.
    pub fn leave(self) -> (Option<Receipt<R>>, Slot) {
        let Parcel { mut delivery, slot, .. } = self;
        (delivery.receipt.take(), slot)
    }
}

#[cfg(test)]
mod tests {
    use super::super::inlet::{Capacity, Slots};
    use super::super::receipt::{ReceiptIssuer, receipt_channel};
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Lost;

    impl Unsettled for Lost {
        fn unsettled() -> Self {
            Lost
        }
    }

    struct Scene {
        redelivery_queue: Arc<RedeliveryQueue<u8, Lost>>,
        book: ReceiptIssuer<Lost>,
        slots: Arc<Slots>,
    }

    impl Scene {
        async fn delivery(&self, tag: u8) -> Delivery<u8, Lost> {
            Delivery::new(
                Arc::new(tag),
                1,
                self.book.issue(tag.into()).await.unwrap(),
                self.redelivery_queue.clone(),
            )
        }

        async fn parcel(&self, delivery: Delivery<u8, Lost>) -> Parcel<(), u8, Lost> {
            Parcel::new((), self.slots.acquire(1).await.unwrap(), delivery)
        }
    }

    #[tokio::test]
    async fn what_is_dropped_inside_comes_home_and_what_was_never_inside_is_answered() {
        let (book, mut results) = receipt_channel(8);
        let scene = Scene {
            redelivery_queue: Arc::default(),
            book,
            slots: Slots::new("test", Capacity { items: 8, bytes: 8 }),
        };
        drop(scene.delivery(1).await);
        assert_eq!(results.next().await, Some((1, Lost)), "its client has gone while it waited for room");
        let turned_away = scene.parcel(scene.delivery(2).await).await.into_delivery();
        drop(turned_away);
        assert_eq!(results.next().await, Some((2, Lost)));
        assert!(scene.redelivery_queue.empty().is_empty());

        let mut parcel = scene.parcel(scene.delivery(3).await).await;
        parcel.begin_work("test");
        drop(parcel);
        let mut redeliveries = scene.redelivery_queue.empty();
        let redelivery = redeliveries.pop().unwrap();
        assert_eq!((*redelivery.origin, redelivery.in_work_at, redeliveries.len()), (3, Some("test"), 0));

        // From redelivery_queue it comes redelivery_queue again, wherever it is dropped.
        drop(Delivery::again(redelivery, scene.redelivery_queue.clone()));
        let redelivery = scene.redelivery_queue.empty().pop().unwrap();
        assert_eq!(redelivery.in_work_at, None);
        drop(scene.parcel(Delivery::again(redelivery, scene.redelivery_queue.clone())).await.into_delivery());
        let redelivery = scene.redelivery_queue.empty().pop().unwrap();
        scene.parcel(Delivery::again(redelivery, scene.redelivery_queue.clone())).await.settle(Lost);
        assert_eq!((results.next().await, scene.redelivery_queue.empty().len()), (Some((3, Lost)), 0));
        assert_eq!(scene.slots.used(), 0);
    }
}
