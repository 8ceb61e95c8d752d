//! A bounded number of items and of their bytes.

use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// How much may be held at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// The number of items.
    pub items: usize,
    /// The sum of their weights, in bytes.
    pub bytes: usize,
}

/// A change of some [`Slots`], as their observer sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotEvent {
    /// A slot was acquired for an item of this weight, in bytes and not clipped.
    Acquired(usize),
    /// The slot of an item of this weight was released.
    Released(usize),
    /// The weight of an item changed.
    Resized {
        /// The weight so far, in bytes.
        from: usize,
        /// The weight from now on, in bytes.
        to: usize,
    },
    /// A sender got its slot after waiting this long.
    Waited(Duration),
}

/// Which of the two bounds is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The number of items.
    Items,
    /// The sum of the weights.
    Bytes,
}

/// Slots for items with a weight: those of one stage in one generation, or of another place with a bound.
///
/// A weight above the whole capacity is clipped to it, so that a large item is admitted alone. An item of weight 0
/// takes no bytes.
pub struct Slots {
    total: Capacity,
    items: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    /// Bytes per permit: the smallest number for which the whole capacity is counted in a `u32`.
    unit: usize,
    used: watch::Sender<usize>,
    observer: Box<dyn Fn(SlotEvent) + Send + Sync>,
}

/// One slot. Dropping it releases it.
pub struct Slot {
    slots: Arc<Slots>,
    weight: usize,
    _item: OwnedSemaphorePermit,
    bytes: OwnedSemaphorePermit,
}

impl Slot {
    /// Changes the weight of the item, in bytes, without waiting. A smaller weight always succeeds.
    ///
    /// # Errors
    /// [`Full::Bytes`] when the additional bytes are not free; the weight is as before.
    pub fn try_resize(&mut self, weight: usize) -> Result<(), Full> {
        let (held, wanted) = (self.bytes.num_permits(), self.slots.permits(weight) as usize);
        match u32::try_from(wanted.saturating_sub(held)) {
            Ok(0) => drop(self.bytes.split(held - wanted)),
            Ok(more) => {
                let more = self.slots.bytes.clone().try_acquire_many_owned(more);
                self.bytes.merge(more.map_err(|_| Full::Bytes)?);
            }
            Err(_) => return Err(Full::Bytes),
        }
        let from = std::mem::replace(&mut self.weight, weight);
        (self.slots.observer)(SlotEvent::Resized { from, to: weight });
        Ok(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.used.send_modify(|used| *used -= 1);
        (self.slots.observer)(SlotEvent::Released(self.weight));
    }
}

impl Slots {
    /// All slots are free. `observer` is told of every change; it is called in drops, so it must not panic.
    pub fn new(total: Capacity, observer: impl Fn(SlotEvent) + Send + Sync + 'static) -> Arc<Slots> {
        let unit = total.bytes.div_ceil(u32::MAX as usize).max(1);
        Arc::new(Slots {
            total,
            items: Arc::new(Semaphore::new(total.items)),
            bytes: Arc::new(Semaphore::new(total.bytes.div_ceil(unit))),
            unit,
            used: watch::Sender::new(0),
            observer: Box::new(observer),
        })
    }

    /// Waits in line for a slot for an item of `weight` bytes. `None` once the slots are closed.
    pub async fn acquire(self: &Arc<Self>, weight: usize) -> Option<Slot> {
        if let Ok(slot) = self.try_acquire(weight) {
            return Some(slot);
        }
        // Only a sender that has to wait pays for a clock.
        let waiting = Instant::now();
        let item = self.items.clone().acquire_owned().await.ok()?;
        let bytes = self.bytes.clone().acquire_many_owned(self.permits(weight)).await.ok()?;
        (self.observer)(SlotEvent::Waited(waiting.elapsed()));
        Some(self.slot(weight, item, bytes))
    }

    /// As [`Self::acquire`], without waiting.
    ///
    /// # Errors
    /// The bound that is reached now. Closed slots are [`Full::Items`].
    pub fn try_acquire(self: &Arc<Self>, weight: usize) -> Result<Slot, Full> {
        let item = self.items.clone().try_acquire_owned().map_err(|_| Full::Items)?;
        let bytes = self.bytes.clone().try_acquire_many_owned(self.permits(weight));
        Ok(self.slot(weight, item, bytes.map_err(|_| Full::Bytes)?))
    }

    /// The bound that [`Self::try_acquire`] would meet now, if any.
    pub fn full_for(&self, weight: usize) -> Option<Full> {
        if self.items.available_permits() == 0 {
            return Some(Full::Items);
        }
        (self.bytes.available_permits() < self.permits(weight) as usize).then_some(Full::Bytes)
    }

    fn permits(&self, weight: usize) -> u32 {
        let permits = weight.min(self.total.bytes.max(1)).div_ceil(self.unit);
        u32::try_from(permits).unwrap_or(u32::MAX)
    }

    fn slot(
        self: &Arc<Self>,
        weight: usize,
        item: OwnedSemaphorePermit,
        bytes: OwnedSemaphorePermit,
    ) -> Slot {
        self.used.send_modify(|used| *used += 1);
        (self.observer)(SlotEvent::Acquired(weight));
        Slot { slots: self.clone(), weight, _item: item, bytes }
    }

    /// Gives out no more slots: waiting senders are turned away. Slots in use are released as before.
    pub fn close(&self) {
        self.items.close();
        self.bytes.close();
    }

    /// Waits until every slot is free.
    pub async fn all_free(&self) {
        // The sender lives in `self`, so the wait can only end with the fact.
        drop(self.used.subscribe().wait_for(|used| *used == 0).await);
    }

    /// Follows the number of slots in use.
    pub fn watch_used(&self) -> watch::Receiver<usize> {
        self.used.subscribe()
    }

    /// The number of slots in use.
    pub fn used(&self) -> usize {
        *self.used.borrow()
    }

    /// The bounds it was made with.
    pub fn total(&self) -> Capacity {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::lock;
    use std::sync::Mutex;

    fn slots(items: usize, bytes: usize) -> Arc<Slots> {
        Slots::new(Capacity { items, bytes }, |_| ())
    }

    #[test]
    fn items_and_bytes_are_bounded_and_an_item_that_is_too_large_is_admitted_alone() {
        let slots = slots(2, 10);
        let large = slots.try_acquire(1 << 40).ok().unwrap();
        assert_eq!((slots.try_acquire(1).err(), slots.full_for(1)), (Some(Full::Bytes), Some(Full::Bytes)));
        let weightless = slots.try_acquire(0).ok().unwrap();
        assert_eq!((slots.try_acquire(0).err(), slots.full_for(0)), (Some(Full::Items), Some(Full::Items)));
        assert_eq!(slots.used(), 2);
        drop((large, weightless));
        assert_eq!((slots.used(), slots.full_for(10)), (0, None));
        slots.close();
        assert!(slots.try_acquire(1).is_err());
    }

    #[test]
    fn a_slot_can_grow_into_free_bytes_and_shrink() {
        let slots = slots(2, 10);
        let (mut one, mut two) = (slots.try_acquire(0).ok().unwrap(), slots.try_acquire(4).ok().unwrap());
        assert_eq!(one.try_resize(6), Ok(()));
        assert_eq!((one.try_resize(7), slots.full_for(0)), (Err(Full::Bytes), Some(Full::Items)));
        assert_eq!((two.try_resize(1), one.try_resize(9)), (Ok(()), Ok(())));
        drop(two);
        assert_eq!(one.try_resize(1 << 40), Ok(()), "alone it may have all");
        assert_eq!(slots.full_for(1), Some(Full::Bytes));
        drop(one);
        assert_eq!((slots.full_for(10), slots.used()), (None, 0));
    }

    #[test]
    fn a_capacity_beyond_32_bits_is_counted_in_larger_units() {
        let total = 1 << 40;
        let slots = slots(9, total);
        let half = slots.try_acquire(total / 2).ok().unwrap();
        assert!(slots.try_acquire(total / 2 + 1024).is_err());
        let other = slots.try_acquire(total / 2 - 1024).ok().unwrap();
        drop((half, other));
        assert!(slots.try_acquire(usize::MAX).is_ok());
    }

    #[tokio::test]
    async fn an_observer_sees_every_change() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (told, mut wait) = (seen.clone(), None);
        let slots = Slots::new(Capacity { items: 1, bytes: 5 }, move |event| lock(&told).push(event));
        let first = slots.acquire(7).await;
        let mut second = std::pin::pin!(slots.acquire(2));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        drop(second.await);
        let mut events = std::mem::take(&mut *lock(&seen));
        events.retain(|event| match event {
            SlotEvent::Waited(waited) => wait.replace(*waited).is_some(),
            _ => true,
        });
        let expected = [(7, true), (7, false), (2, true), (2, false)];
        let expected = expected.map(|(weight, acquired)| match acquired {
            true => SlotEvent::Acquired(weight),
            false => SlotEvent::Released(weight),
        });
        assert_eq!((events.as_slice(), wait.is_some()), (&expected[..], true));
    }
}
