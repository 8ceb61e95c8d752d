//! Chunks on which the service failed are written down before their clients are told, so that nothing that was taken
//! is lost: the table of dead letters.
//!
//! A [`PendingDeadLetter`] holds the answer that is owed, the chunk's slot, and a hand of its stage: while the database is away,
//! rejected chunks stand in the way of others like all chunks do, and nothing grows. The [`DeadLetterWriter`] outlives the
//! generations and writes what has gathered in one statement. A letter that cannot be written after some tries is
//! answered all the same.

use super::{Parcel, Receipt, Redelivery, Stage};
use crate::chunk::Chunk;
use crate::flow::{Backoff, Slot, TaskGuard};
use crate::metrics;
use crate::outcome::Outcome;
use crate::rejection::Rejection;
use crate::store::{DeadLetter, Store};
use chrono::{DateTime, Utc};
use std::sync::Arc;
use tokio::sync::mpsc;

/// DeadLetterQueue in one statement; each is as long as its chunk.
const AT_ONCE: usize = 32;
/// Tries to write one letter while the database is away: with the default pauses, some 25 seconds of refused
/// connections.
const TRIES: u32 = 12;

/// A rejected chunk whose client has not been told yet. However it ends, the client is told.
pub struct PendingDeadLetter {
    stage: Stage,
    chunk: Arc<Chunk>,
    delivery_attempts: u32,
    rejection: Rejection,
    failed_at: DateTime<Utc>,
    owed: Option<Receipt>,
    _inside: Option<(Slot, TaskGuard)>,
}

impl PendingDeadLetter {
    /// Of a chunk that a stage rejects.
    pub(super) fn of_parcel<T>(
        stage: Stage,
        parcel: Parcel<T>,
        rejection: Rejection,
        hand: TaskGuard,
    ) -> PendingDeadLetter {
        let (chunk, delivery_attempts) = (parcel.origin().clone(), parcel.delivery_attempts() + 1);
        let (owed, slot) = parcel.leave();
        PendingDeadLetter {
            stage,
            chunk,
            delivery_attempts,
            rejection,
            failed_at: Utc::now(),
            owed,
            _inside: Some((slot, hand)),
        }
    }

    /// Of a chunk in whose hands a stage has died too often.
    pub fn of_stray(stage: Stage, redelivery: Redelivery, rejection: Rejection) -> PendingDeadLetter {
        let Redelivery { origin: chunk, receipt, delivery_attempts, .. } = redelivery;
        PendingDeadLetter {
            stage,
            chunk,
            delivery_attempts,
            rejection,
            failed_at: Utc::now(),
            owed: Some(receipt),
            _inside: None,
        }
    }

    fn row(&self) -> DeadLetter {
        DeadLetter {
            chunk: self.chunk.clone(),
            stage: self.stage.name(),
            cause: self.rejection.code.as_str(),
            message: self.rejection.message.clone(),
            attempts: self.delivery_attempts,
            failed_at: self.failed_at,
        }
    }

    /// It is written.
    fn answer(mut self) {
        metrics::dead_letter(self.rejection.code.as_str());
        self.tell();
    }

    fn tell(&mut self) -> bool {
        let Some(owed) = self.owed.take() else { return false };
        owed.settle(Outcome::Rejected(self.rejection.clone()));
        true
    }
}

impl Drop for PendingDeadLetter {
    fn drop(&mut self) {
        if self.tell() {
            metrics::dead_letter_unwritten();
            let (cpe_id, cause) = (self.chunk.cpe_id, self.rejection.code.as_str());
            tracing::error!(%cpe_id, cause, "a dead letter could not be written; the chunk is rejected without");
        }
    }
}

/// Where letters are left.
#[derive(Clone)]
pub struct DeadLetterQueue(mpsc::Sender<PendingDeadLetter>);

/// Writes them; see [`letters`].
pub struct DeadLetterWriter {
    queue: mpsc::Receiver<PendingDeadLetter>,
    store: Store,
    pauses: Backoff,
}

/// The two ends of a queue for as many letters as there are slots in the house. `pauses` are between two tries.
pub fn letters(store: Store, slots: usize, pauses: Backoff) -> (DeadLetterQueue, DeadLetterWriter) {
    // Every letter has a slot, but those of poison; for them there is as much room again.
    let (queue, received) = mpsc::channel(2 * slots.max(1));
    (DeadLetterQueue(queue), DeadLetterWriter { queue: received, store, pauses })
}

#[cfg(test)]
impl DeadLetterQueue {
    /// To a clerk who has gone.
    pub fn to_nobody() -> DeadLetterQueue {
        DeadLetterQueue(mpsc::channel(1).0)
    }
}

impl DeadLetterQueue {
    /// Leaves a letter. Does not wait: one for which there is no room is answered unwritten, as is every letter when
    /// the clerk has gone.
    pub fn file(&self, letter: PendingDeadLetter) {
        drop(self.0.try_send(letter));
    }
}

impl DeadLetterWriter {
    /// Writes letters for the life of the process.
    pub async fn work(mut self) {
        let mut letters = Vec::with_capacity(AT_ONCE);
        while self.queue.recv_many(&mut letters, AT_ONCE).await > 0 {
            let batch = std::mem::take(&mut letters);
            // A task of its own: should it panic, these are answered as they are dropped, and the next are written.
            drop(actix::spawn(write(self.store.clone(), self.pauses, batch)).await);
        }
    }
}

/// Brings letters to their end. One that the database refuses for its content is found by halving.
async fn write(store: Store, pauses: Backoff, letters: Vec<PendingDeadLetter>) {
    let mut halves = vec![letters];
    let mut tries = 0;
    while let Some(mut letters) = halves.pop() {
        let rows: Vec<DeadLetter> = letters.iter().map(PendingDeadLetter::row).collect();
        match store.write_dead_letters(&rows).await {
            Ok(()) => letters.into_iter().for_each(PendingDeadLetter::answer),
            Err(error) if error.is_data_error() && letters.len() > 1 => {
                let later = letters.split_off(letters.len() / 2);
                halves.extend([later, letters]);
            }
            Err(error) if error.is_transient() && tries + 1 < TRIES => {
                metrics::store_error(error.sqlstate_class(), true);
                tokio::time::sleep(pauses.pause(tries)).await;
                tries += 1;
                halves.push(letters);
            }
            Err(error) => {
                metrics::store_error(error.sqlstate_class(), error.is_transient());
                tracing::error!(%error, letters = letters.len(), "dead letters cannot be written");
                drop(letters);
            }
        }
    }
    metrics::dead_letters(store.dead_letter_count());
}
