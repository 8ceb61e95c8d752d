//! The only way into a stage.
//!
//! [`Inlet::push`] waits for a slot of the stage. A full stage makes its sender wait, and with it everything up to the
//! socket, which is then not read. The actor's mailbox is kept larger than its slots: the slots are the bound, because
//! actix does not enforce the capacity of a mailbox.

use super::delivery::Delivery;
use super::parcel::Parcel;
use super::receipt::Unsettled;
use super::slots::Slots;
use actix::Recipient;
use std::sync::Arc;

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
    /// How far a mailbox must exceed the slots: a slot is free a moment before its message has left the mailbox.
    pub const MAILBOX_MARGIN: usize = 64;

    /// The inlet of `stage`, bounded by `slots`. The mailbox must hold the slots and [`Self::MAILBOX_MARGIN`].
    pub fn new(slots: Arc<Slots>, stage: Recipient<Parcel<T, O, R>>) -> Self {
        Inlet { slots, stage }
    }

    /// Waits for a slot of the first stage and sends the delivery there with its cargo.
    ///
    /// # Errors
    /// The delivery, when the stage is gone.
    pub async fn admit(&self, cargo: T, delivery: Delivery<O, R>) -> Result<(), Delivery<O, R>> {
        let Some(slot) = self.slots.acquire(delivery.weight()).await else { return Err(delivery) };
        self.deliver(Parcel::new(cargo, slot, delivery)).map_err(Parcel::into_delivery)
    }

    /// Moves a parcel on. It keeps the slot it has until it holds one here. When this stage is gone the parcel is
    /// dropped, and so delivered again.
    pub async fn push(&self, mut parcel: Parcel<T, O, R>) {
        parcel.rest();
        let Some(slot) = self.slots.acquire(parcel.weight()).await else { return };
        parcel.enter(slot);
        drop(self.deliver(parcel));
    }

    #[expect(clippy::result_large_err, reason = "a refused parcel is given back whole")]
    fn deliver(&self, parcel: Parcel<T, O, R>) -> Result<(), Parcel<T, O, R>> {
        self.stage.try_send(parcel).map_err(actix::prelude::SendError::into_inner)
    }

    /// The slots behind this inlet.
    pub fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }
}
