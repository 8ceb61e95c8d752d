//! What travels from stage to stage: the cargo, whose type changes, and the [`Delivery`], which does not.

use super::delivery::Delivery;
use super::receipt::Unsettled;
use super::slots::Slot;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A delivery with cargo and a slot: it is inside a stage.
pub struct Parcel<T, O: Send + Sync + 'static, R: Unsettled> {
    cargo: T,
    // Declared before `slot`, so that a dropped parcel is in the redelivery queue before its slot is free.
    delivery: Delivery<O, R>,
    slot: Slot,
    entered: Instant,
}

impl<T: 'static, O: Send + Sync + 'static, R: Unsettled> actix::Message for Parcel<T, O, R> {
    type Result = ();
}

impl<T, O: Send + Sync + 'static, R: Unsettled> Parcel<T, O, R> {
    pub(super) fn new(cargo: T, slot: Slot, mut delivery: Delivery<O, R>) -> Self {
        delivery.set_in_stage(true);
        Parcel { cargo, delivery, slot, entered: Instant::now() }
    }

    pub(super) fn into_delivery(mut self) -> Delivery<O, R> {
        self.delivery.set_in_stage(false);
        self.delivery
    }

    /// Takes the slot of the next stage and releases the one it had.
    pub(super) fn enter(&mut self, slot: Slot) {
        self.slot = slot;
        self.entered = Instant::now();
        self.rest();
    }

    /// Marks the parcel as being worked on: should `stage` die now, this one is a suspect.
    pub fn begin_work(&mut self, stage: &'static str) {
        self.delivery.set_in_work_at(Some(stage));
    }

    /// Marks the parcel as waiting inside the stage.
    pub fn rest(&mut self) {
        self.delivery.set_in_work_at(None);
    }

    /// As [`Self::rest`], by value.
    #[must_use]
    pub fn at_rest(mut self) -> Self {
        self.rest();
        self
    }

    /// The time since it entered the stage.
    pub fn waited(&self) -> Duration {
        self.entered.elapsed()
    }

    /// The cargo of the parcel.
    pub fn cargo(&self) -> &T {
        &self.cargo
    }

    /// Exchanges the cargo for what `change` makes of it.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Parcel<U, O, R> {
        Parcel { cargo: change(self.cargo), delivery: self.delivery, slot: self.slot, entered: self.entered }
    }

    /// What the client sent.
    pub fn origin(&self) -> &Arc<O> {
        self.delivery.origin()
    }

    /// The weight in bytes.
    pub fn weight(&self) -> usize {
        self.delivery.weight()
    }

    /// See [`Delivery::attempts`].
    pub fn attempts(&self) -> u32 {
        self.delivery.attempts()
    }

    /// See [`Delivery::age`].
    pub fn age(&self) -> Duration {
        self.delivery.age()
    }

    /// See [`Delivery::span`].
    pub fn span(&self) -> &tracing::Span {
        self.delivery.span()
    }

    /// Answers, and releases the slot.
    pub fn settle(mut self, answer: R) {
        self.delivery.settle(answer);
    }

    /// Leaves the stages before the answer is given: hold the slot until then. The delivery is not delivered again.
    pub fn leave(self) -> (Delivery<O, R>, Slot) {
        (self.delivery.leave(), self.slot)
    }
}

#[cfg(test)]
mod tests {
    use super::super::delivery::RedeliveryQueue;
    use super::super::receipt::{ReceiptIssuer, receipt_channel};
    use super::super::slots::{Capacity, Slots};
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Lost;

    impl Unsettled for Lost {
        fn unsettled() -> Self {
            Lost
        }
    }

    struct Scene {
        queue: Arc<RedeliveryQueue<u8, Lost>>,
        receipts: ReceiptIssuer<Lost>,
        slots: Arc<Slots>,
    }

    impl Scene {
        async fn delivery(&self, tag: u8) -> Delivery<u8, Lost> {
            Delivery::new(
                Arc::new(tag),
                1,
                self.receipts.issue(tag.into()).await.unwrap(),
                self.queue.clone(),
            )
        }

        async fn parcel(&self, delivery: Delivery<u8, Lost>) -> Parcel<(), u8, Lost> {
            Parcel::new((), self.slots.acquire(1).await.unwrap(), delivery)
        }
    }

    #[tokio::test]
    async fn what_is_dropped_in_a_stage_is_delivered_again_and_what_never_entered_one_is_answered() {
        let (receipts, mut results) = receipt_channel(8);
        let scene = Scene {
            queue: Arc::default(),
            receipts,
            slots: Slots::new(Capacity { items: 8, bytes: 8 }, |_| ()),
        };
        drop(scene.delivery(1).await);
        assert_eq!(results.next().await, Some((1, Lost)), "its client has gone while it waited for room");
        let turned_away = scene.parcel(scene.delivery(2).await).await.into_delivery();
        drop(turned_away);
        assert_eq!(results.next().await, Some((2, Lost)));
        assert!(scene.queue.take_all().is_empty());

        let mut parcel = scene.parcel(scene.delivery(3).await).await;
        parcel.begin_work("test");
        drop(parcel);
        let mut redeliveries = scene.queue.take_all();
        let redelivery = redeliveries.pop().unwrap();
        assert_eq!(
            (**redelivery.origin(), redelivery.in_work_at(), redeliveries.len()),
            (3, Some("test"), 0)
        );

        // A redelivery is delivered again wherever it is dropped.
        drop(redelivery.again(scene.queue.clone()));
        let redelivery = scene.queue.take_all().pop().unwrap();
        assert_eq!(redelivery.in_work_at(), None);
        drop(scene.parcel(redelivery.again(scene.queue.clone())).await.into_delivery());
        let redelivery = scene.queue.take_all().pop().unwrap();
        scene.parcel(redelivery.again(scene.queue.clone())).await.settle(Lost);
        assert_eq!((results.next().await, scene.queue.take_all().len()), (Some((3, Lost)), 0));
        assert_eq!(scene.slots.used(), 0);
    }
}
