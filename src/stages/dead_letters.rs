//! Chunks on which the service failed. They are written to the table of dead letters before their clients are told, so
//! that nothing that was accepted is lost.
//!
//! A [`PendingDeadLetter`] holds the delivery, the chunk's slot and a task of its stage: while the database is away,
//! rejected chunks take up room like all others, and nothing grows without bound.

use super::stage::{Delivery, Parcel, Stage};
use crate::flow::{Slot, TaskGuard};
use crate::metrics;
use crate::outcome::Outcome;
use crate::output::throttled;
use crate::rejection::Rejection;
use crate::store::DeadLetter;
use chrono::{DateTime, Utc};
use tokio::sync::mpsc;

/// A rejected chunk whose client is not told yet. The client is told in any case: at the latest when this is dropped.
pub struct PendingDeadLetter {
    stage: Stage,
    delivery: Delivery,
    attempts: u32,
    rejection: Rejection,
    failed_at: DateTime<Utc>,
    _held: Option<(Slot, TaskGuard)>,
}

impl PendingDeadLetter {
    /// For a chunk that a stage rejects. `guard` is held until the client is told.
    pub(super) fn of_parcel<T>(
        stage: Stage,
        parcel: Parcel<T>,
        rejection: Rejection,
        guard: TaskGuard,
    ) -> PendingDeadLetter {
        let attempts = parcel.attempts() + 1;
        let (delivery, slot) = parcel.leave();
        let _held = Some((slot, guard));
        PendingDeadLetter { stage, delivery, attempts, rejection, failed_at: Utc::now(), _held }
    }

    /// For a delivery from the redelivery queue that is not delivered again: its stage has died too often.
    pub fn of_delivery(stage: Stage, delivery: Delivery, rejection: Rejection) -> PendingDeadLetter {
        let attempts = delivery.attempts();
        PendingDeadLetter { stage, delivery, attempts, rejection, failed_at: Utc::now(), _held: None }
    }

    /// The row to write.
    pub fn row(&self) -> DeadLetter {
        DeadLetter {
            chunk: self.delivery.origin().clone(),
            stage: self.stage.name(),
            cause: self.rejection.code.as_str(),
            message: self.rejection.message.clone(),
            attempts: self.attempts,
            failed_at: self.failed_at,
        }
    }

    /// Tells the client, after the row is written.
    pub fn answer(mut self) {
        metrics::dead_letter(self.rejection.code.as_str());
        self.settle();
    }

    fn settle(&mut self) -> bool {
        self.delivery.settle(Outcome::Rejected(self.rejection.clone()))
    }
}

impl Drop for PendingDeadLetter {
    fn drop(&mut self) {
        if self.settle() {
            metrics::dead_letter_unwritten();
            let (cpe_id, cause) = (self.delivery.origin().cpe_id, self.rejection.code.as_str());
            throttled!(error, %cpe_id, cause, "a dead letter could not be written; the chunk is rejected without");
        }
    }
}

/// The sending end of the queue to the writer of dead letters.
#[derive(Clone)]
pub struct DeadLetterQueue(mpsc::Sender<PendingDeadLetter>);

/// A queue for as many dead letters as there are `slots` in all stages, and as many again for poisonous chunks, which
/// hold no slot.
pub fn dead_letter_queue(slots: usize) -> (DeadLetterQueue, mpsc::Receiver<PendingDeadLetter>) {
    let (queue, received) = mpsc::channel(2 * slots.max(1));
    (DeadLetterQueue(queue), received)
}

impl DeadLetterQueue {
    /// Queues a letter without waiting. Without room, or without a writer, the client is told at once and the letter
    /// is not written.
    pub fn file(&self, letter: PendingDeadLetter) {
        drop(self.0.try_send(letter));
    }
}
