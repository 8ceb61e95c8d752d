//! Slots for requests whose bodies are read into memory: the bytes are counted as they arrive, and when slots or bytes
//! are short, the body of the slowest client is cut.

use crate::flow::{Capacity, Full, Slot, SlotEvent, Slots};
use crate::http::limits::reading::{ReadingBodies, ReadingBody};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// The time for a body that is cut to give its slot back: its worker has to run once.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);

/// Slots, and the bodies that are being read.
pub struct BodySlots {
    slots: Arc<Slots>,
    reading: ReadingBodies,
    cut_after: Duration,
}

impl BodySlots {
    /// All slots are free. A client that made the service wait for `cut_after` may be cut.
    pub fn new(
        total: Capacity,
        cut_after: Duration,
        observer: impl Fn(SlotEvent) + Send + Sync + 'static,
    ) -> BodySlots {
        BodySlots { slots: Slots::new(total, observer), reading: ReadingBodies::default(), cut_after }
    }

    /// The slots of the requests.
    pub fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    /// Takes a slot that holds no bytes yet, if the bytes that the client announces are free now.
    ///
    /// # Errors
    /// The bound that is reached.
    pub async fn acquire(&self, announced: usize) -> Result<Slot, Full> {
        loop {
            let slot = match self.slots.full_for(announced) {
                Some(full) => Err(full),
                None => self.slots.try_acquire(0),
            };
            match slot {
                Err(_) if self.cut_slowest(self.cut_after).await => {}
                slot => return slot,
            }
        }
    }

    /// The bound that [`Self::acquire`] would meet now, if any.
    pub fn full_for(&self, announced: usize) -> Option<Full> {
        self.slots.full_for(announced).filter(|_| !self.reading.has_slower(self.cut_after))
    }

    /// Sets the bytes that a request holds. When they are not free, bodies of slower clients are cut: those that made
    /// the service wait longer than this one, which made it wait for `waited`. A request that is larger than all bytes
    /// may hold them alone.
    ///
    /// # Errors
    /// [`Full::Bytes`].
    pub async fn resize(&self, slot: &mut Slot, bytes: usize, waited: Duration) -> Result<(), Full> {
        loop {
            match slot.try_resize(bytes) {
                Err(_) if self.cut_slowest(waited.max(self.cut_after)).await => {}
                result => return result,
            }
        }
    }

    /// Begins to read a body, which is cut when others need its room.
    pub fn read_body(&self) -> ReadingBody<'_> {
        self.reading.begin()
    }

    /// Cuts the slowest body and waits for its slot. Returns whether there was one.
    async fn cut_slowest(&self, than: Duration) -> bool {
        let mut used = self.slots.watch_used();
        if !self.reading.cut_slowest(than) {
            return false;
        }
        drop(timeout(CUT_TIMEOUT, used.changed()).await);
        true
    }
}
