//! Where chunks come in: known ones are answered from one batched look-up, before any work is spent on them; the
//! others wait here for a slot.

use super::{Gate, PipelineSettings};
use crate::chunk::{Chunk, ChunkKey};
use crate::flow::Backoff;
use crate::metrics;
use crate::outcome::{Cause, Outcome, Rejection};
use crate::stages::{Home, NeedsLlm, NeedsNoLlm, Receipt, Trip, found};
use crate::store::{KnownChunk, Store, StoreError};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// A checked chunk with the answer that is owed for it.
pub struct Arrival {
    /// What was sent.
    pub chunk: Chunk,
    /// Where its outcome goes.
    pub receipt: Receipt,
}

/// The way into the pipeline; cheap to clone.
#[derive(Clone)]
pub struct Entrance {
    store: Store,
    home: Arc<Home>,
    gate: watch::Receiver<Option<Gate>>,
    patience: Duration,
    single_file: Option<Arc<Mutex<()>>>,
    draining: CancellationToken,
    waiting: Arc<AtomicUsize>,
}

/// Counts the chunks that are in the entrance's hands: taken, but neither settled nor inside.
struct Waiting<'a>(&'a AtomicUsize, usize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize, chunks: usize) -> Self {
        count.fetch_add(chunks, Ordering::Relaxed);
        Waiting(count, chunks)
    }

    fn one_less(&mut self) {
        self.1 -= 1;
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Entrance {
    pub(super) fn new(
        store: Store,
        home: Arc<Home>,
        gate: watch::Receiver<Option<Gate>>,
        settings: &PipelineSettings,
    ) -> Self {
        let single_file = settings.one_at_a_time.then(Arc::default);
        let (draining, waiting) = (CancellationToken::new(), Arc::default());
        Entrance { store, home, gate, patience: settings.patience, single_file, draining, waiting }
    }

    /// Takes some chunks of one upload. Returns when each is settled or inside the pipeline, and so is as slow as
    /// the pipeline is full. Pass what is at hand, up to a few hundred: the look-up is one query for all.
    pub async fn admit(&self, arrivals: Vec<Arrival>) {
        let mut waiting = Waiting::begin(&self.waiting, arrivals.len());
        let deadline = Instant::now() + self.patience;
        let keys: Vec<ChunkKey> = arrivals.iter().map(|arrival| arrival.chunk.key.clone()).collect();
        let mut known = match self.look_up(&keys, deadline).await {
            Ok(known) => known,
            Err(error) => {
                let message = format!("the database could not be asked: {error}; send it again");
                let rejection = Rejection::new(Cause::Lost, message);
                return arrivals
                    .into_iter()
                    .for_each(|a| a.receipt.settle(Outcome::Rejected(rejection.clone())));
            }
        };
        for Arrival { chunk, receipt } in arrivals {
            let chunk = Arc::new(chunk);
            match known.remove(&chunk.key) {
                Some(row) => receipt.settle(found(chunk, row)),
                None => {
                    let weight = chunk.weight();
                    self.enter(Trip::new(chunk, weight, receipt, self.home.clone())).await;
                }
            }
            waiting.one_less();
        }
    }

    /// Asks for the keys, again and again while the database is not there.
    async fn look_up(
        &self,
        keys: &[ChunkKey],
        deadline: Instant,
    ) -> Result<HashMap<ChunkKey, KnownChunk>, StoreError> {
        let pauses = Backoff { first: Duration::from_millis(50), ceiling: Duration::from_secs(2) };
        let mut tries = 0;
        loop {
            match self.store.known(keys).await {
                Err(error)
                    if error.is_transient() && Instant::now() < deadline && !self.draining.is_cancelled() =>
                {
                    metrics::store_error(error.sqlstate_class(), true);
                    tokio::time::sleep(pauses.pause(tries)).await;
                    tries += 1;
                }
                answer => return answer,
            }
        }
    }

    /// Brings one trip into the first stage, waiting for room, and for the next generation when this one is gone.
    async fn enter(&self, mut trip: Trip) {
        let _turn = match &self.single_file {
            Some(file) => Some(file.lock().await),
            None => None,
        };
        let mut gates = self.gate.clone();
        let mut deadline = Instant::now() + self.patience;
        loop {
            let gate = tokio::select! {
                biased;
                () = self.draining.cancelled() => return give_up(trip, Cause::Draining),
                gate = timeout_at(deadline, gates.wait_for(Option::is_some)) => match gate {
                    Ok(Ok(gate)) => gate.clone(),
                    Ok(Err(_)) => return give_up(trip, Cause::Draining),
                    Err(_) => return give_up(trip, Cause::Lost),
                },
            };
            let Some(gate) = gate else { continue };
            match gate.admit(trip).await {
                Ok(()) => {
                    if self.single_file.is_some() {
                        gate.all_home().await;
                    }
                    return;
                }
                Err(returned) => trip = returned,
            }
            // This gate has closed: wait for it to be taken away before looking for the next.
            deadline = Instant::now() + self.patience;
            let closed = gate.generation;
            drop(gates.wait_for(|gate| gate.as_ref().is_none_or(|gate| gate.generation != closed)).await);
        }
    }

    /// Chunks that are inside: waiting for a language model, then by stage in the order of the way; `None` while no
    /// generation runs.
    pub fn inside(&self) -> Option<[usize; 4]> {
        let gate = self.gate.borrow();
        gate.as_ref().map(|gate| gate.slots.each_ref().map(|slots| slots.used()))
    }

    /// Chunks in the entrance's own hands: taken from uploads, and waiting for room.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits until no chunk is inside.
    pub async fn all_home(&self) {
        let gate = self.gate.borrow().clone();
        if let Some(gate) = gate {
            gate.all_home().await;
        }
    }

    /// Takes nobody in any more: whoever waits here is answered `draining`. Who is inside goes on.
    pub fn close(&self) {
        self.draining.cancel();
    }

    /// Cancelled by [`Self::close`].
    pub fn closed(&self) -> &CancellationToken {
        &self.draining
    }

    /// Takes nobody in any more, and waits for those who are inside.
    pub(super) async fn drain(&self) {
        self.close();
        self.all_home().await;
    }
}

impl Gate {
    /// Into the inlet that fits the chunk. Gives the trip back when the generation is gone.
    pub(super) async fn admit(&self, trip: Trip) -> Result<(), Trip> {
        let chunk = trip.origin().clone();
        match &self.llm {
            Some(llm) if chunk.client_tmd.is_none() => llm.admit(NeedsLlm(chunk), trip).await,
            _ => self.local.admit(NeedsNoLlm(chunk), trip).await,
        }
    }
}

fn give_up(trip: Trip, cause: Cause) {
    let message = match cause {
        Cause::Draining => "the service is going down; send it again",
        _ => "the pipeline did not come back in time; send it again",
    };
    trip.settle(Outcome::Rejected(Rejection::new(cause, message)));
}
