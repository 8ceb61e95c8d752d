//! The only way into a stage.
//!
//! A stage has [`Slots`]: so many items, so many bytes. [`Inlet::push`] waits for a slot, so a full stage makes
//! the sender wait, and with it everything up to the socket that is then not read. The actor's mailbox is kept
//! larger than its slots: slots are the bound, because actix's own capacity is not one.

use super::parcel::{Delivery, Parcel};
use super::receipt::Unsettled;
use crate::metrics;
use actix::Recipient;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// What a stage may hold at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Parcels.
    pub items: usize,
    /// The sum of their weights.
    pub bytes: usize,
}

/// The slots of one stage in one generation, or of another place that holds a bounded number of chunks.
pub struct Slots {
    stage: &'static str,
    total: Capacity,
    items: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    used: watch::Sender<usize>,
}

/// A place in a stage, given back when it is dropped.
pub struct Slot {
    slots: Arc<Slots>,
    _item: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.used.send_modify(|used| *used -= 1);
        metrics::stage_queue(self.slots.stage, -1.0);
    }
}

impl Slots {
    /// All free. `stage` is the name in metrics.
    pub fn new(stage: &'static str, total: Capacity) -> Arc<Slots> {
        metrics::stage_capacity(stage, total.items);
        Arc::new(Slots {
            stage,
            total,
            items: Arc::new(Semaphore::new(total.items)),
            bytes: Arc::new(Semaphore::new(total.bytes)),
            used: watch::Sender::new(0),
        })
    }

    /// Waits in line. A weight above the total is clipped to it, so that one large item travels alone instead of
    /// never. `None` once the slots are closed.
    pub async fn acquire(self: &Arc<Self>, weight: usize) -> Option<Slot> {
        if let Some(slot) = self.try_acquire(weight) {
            return Some(slot);
        }
        // Only a sender that has to wait pays for a clock.
        let waiting = Instant::now();
        let item = self.items.clone().acquire_owned().await.ok()?;
        let bytes = self.bytes.clone().acquire_many_owned(self.permits(weight)).await.ok()?;
        metrics::backpressure(self.stage, waiting.elapsed());
        Some(self.taken(item, bytes))
    }

    /// As [`Self::acquire`], but `None` also when there is no room now.
    pub fn try_acquire(self: &Arc<Self>, weight: usize) -> Option<Slot> {
        let item = self.items.clone().try_acquire_owned().ok()?;
        let bytes = self.bytes.clone().try_acquire_many_owned(self.permits(weight)).ok()?;
        Some(self.taken(item, bytes))
    }

    fn permits(&self, weight: usize) -> u32 {
        u32::try_from(weight.clamp(1, self.total.bytes.max(1))).unwrap_or(u32::MAX)
    }

    fn taken(self: &Arc<Self>, item: OwnedSemaphorePermit, bytes: OwnedSemaphorePermit) -> Slot {
        self.used.send_modify(|used| *used += 1);
        metrics::stage_queue(self.stage, 1.0);
        Slot { slots: self.clone(), _item: item, _bytes: bytes }
    }

    /// Nobody gets a slot any more; those who wait are turned away. Slots that are out come redelivery_queue as before.
    pub fn close(&self) {
        self.items.close();
        self.bytes.close();
    }

    /// Waits until every slot is redelivery_queue: the stage is empty.
    pub async fn all_free(&self) {
        // The sender lives in `self`, so the wait can only end with the fact.
        drop(self.used.subscribe().wait_for(|used| *used == 0).await);
    }

    /// How many are out.
    pub fn used(&self) -> usize {
        *self.used.borrow()
    }

    /// What the stage may hold.
    pub fn total(&self) -> Capacity {
        self.total
    }
}

/// The sending side of a stage that takes `T`.
pub struct Inlet<T: Send + 'static, O: Send + Sync + 'static, R: Unsettled> {
    slots: Arc<Slots>,
    stage: Recipient<Parcel<T, O, R>>,
}

impl<T: Send + 'static, O: Send + Sync + 'static, R: Unsettled> Clone for Inlet<T, O, R> {
    fn clone(&self) -> Self {
        Inlet { slots: self.slots.clone(), stage: self.stage.clone() }
    }
}

impl<T: Send + 'static, O: Send + Sync + 'static, R: Unsettled> Inlet<T, O, R> {
    /// How far a mailbox must exceed the slots: parcels are counted by slots, and a slot is free a moment before
    /// its message has left the mailbox.
    pub const MAILBOX_MARGIN: usize = 64;

    /// Joins slots and stage. The stage's mailbox must hold the slots and [`Self::MAILBOX_MARGIN`].
    pub fn new(slots: Arc<Slots>, stage: Recipient<Parcel<T, O, R>>) -> Self {
        Inlet { slots, stage }
    }

    /// Takes a delivery into its first stage. Gives it back when the stage is gone.
    pub async fn admit(&self, cargo: T, delivery: Delivery<O, R>) -> Result<(), Delivery<O, R>> {
        let Some(slot) = self.slots.acquire(delivery.weight()).await else { return Err(delivery) };
        self.deliver(Parcel::new(cargo, slot, delivery)).map_err(Parcel::into_delivery)
    }

    /// Moves a parcel on. It keeps the slot it has until it holds one here. When this stage is gone the parcel
    /// is dropped, and so goes redelivery_queue.
    pub async fn push(&self, mut parcel: Parcel<T, O, R>) {
        parcel.rest();
        let Some(slot) = self.slots.acquire(parcel.weight()).await else { return };
        parcel.enter(slot);
        drop(self.deliver(parcel));
    }

    /// The one place that puts a message into a mailbox.
    #[expect(clippy::result_large_err, reason = "what is refused is given back whole")]
    fn deliver(&self, parcel: Parcel<T, O, R>) -> Result<(), Parcel<T, O, R>> {
        self.stage.try_send(parcel).map_err(actix::prelude::SendError::into_inner)
    }

    /// The slots behind this inlet.
    pub fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }
}
