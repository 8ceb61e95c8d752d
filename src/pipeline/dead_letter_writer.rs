//! Writes dead letters. It outlives the generations.
//!
//! The letters that have gathered are written in one statement. A letter that cannot be written after some retries is
//! answered all the same.

use crate::flow::{Backoff, Retries, Verdict, bisect};
use crate::metrics;
use crate::output::throttled;
use crate::stages::PendingDeadLetter;
use crate::store::{DeadLetter, Store, StoreError};
use tokio::sync::mpsc;

/// The most letters in one statement; each is as long as its chunk.
const BATCH: usize = 32;
/// Retries of one batch while the database is away: with the default pauses, some 25 seconds of refused connections.
const RETRIES: u32 = 11;

/// The receiving end of the queue of dead letters, and where they are written.
pub(super) struct DeadLetterWriter {
    pub(super) queue: mpsc::Receiver<PendingDeadLetter>,
    pub(super) store: Store,
    pub(super) pauses: Backoff,
}

impl DeadLetterWriter {
    /// Writes letters until the last sender is gone.
    pub(super) async fn run(mut self) {
        let mut letters = Vec::with_capacity(BATCH);
        while self.queue.recv_many(&mut letters, BATCH).await > 0 {
            let batch = std::mem::take(&mut letters);
            // A task of its own: should it panic, these are answered as they are dropped, and the next are written.
            drop(actix::spawn(write(self.store.clone(), self.pauses, batch)).await);
        }
    }
}

/// Writes and answers. A letter whose content the database refuses is found by halving.
async fn write(store: Store, pauses: Backoff, letters: Vec<PendingDeadLetter>) {
    let mut retries = Retries::new(pauses);
    bisect(letters, async |letters: Vec<PendingDeadLetter>| {
        let rows: Vec<DeadLetter> = letters.iter().map(PendingDeadLetter::row).collect();
        let classify = |error: &StoreError, before| {
            let retry = error.is_transient() && before < RETRIES;
            if retry {
                metrics::store_error(error.sqlstate_class(), true);
            }
            Verdict::retry_if(retry)
        };
        match retries.run(classify, || store.write_dead_letters(&rows)).await {
            Ok(()) => letters.into_iter().for_each(PendingDeadLetter::answer),
            Err(error) if error.is_data_error() && letters.len() > 1 => return Some(letters),
            Err(error) => {
                metrics::store_error(error.sqlstate_class(), error.is_transient());
                throttled!(error, %error, letters = letters.len(), "dead letters cannot be written");
            }
        }
        None
    })
    .await;
    metrics::dead_letters(store.dead_letter_count());
}
