//! Where chunks come in: known ones are answered from one batched look-up, before any work is spent on them; those
//! whose key is inside already try_claim aside until its fate is decided; the others wait here for a slot.
//!
//! The order is: take the keys, then look them up. So whoever finds a key free finds the row of whoever had it before.

use super::in_flight::{Claim, Follower, InFlightKeys};
use super::{Generation, PipelineSettings};
use crate::chunk::{Chunk, ChunkKey};
use crate::error_code::ErrorCode;
use crate::flow::Backoff;
use crate::metrics;
use crate::outcome::Outcome;
use crate::rejection::Rejection;
use crate::stages::{Delivery, NeedsLlm, NeedsNoLlm, Receipt, RedeliveryQueue, found};
use crate::store::{KnownChunk, Store, StoreError};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// A checked chunk with the answer that is owed for it.
pub struct Arrival {
    /// What was sent.
    pub chunk: Arc<Chunk>,
    /// Where its outcome goes.
    pub receipt: Receipt,
}

/// The way into the pipeline; cheap to clone.
#[derive(Clone)]
pub struct Entrance {
    store: Store,
    in_flight: Arc<InFlightKeys>,
    redelivery_queue: Arc<RedeliveryQueue>,
    gate: watch::Receiver<Option<Generation>>,
    patience: Duration,
    single_file: Option<Arc<Mutex<()>>>,
    draining: CancellationToken,
    waiting: Arc<AtomicUsize>,
}

/// Counts the chunks that are in the entrance's hands: taken, but neither settled nor inside nor following.
struct Waiting<'a>(&'a AtomicUsize, usize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize, chunks: usize) -> Self {
        count.fetch_add(chunks, Ordering::Relaxed);
        Waiting(count, chunks)
    }

    fn less(&mut self, chunks: usize) {
        self.1 -= chunks;
        self.0.fetch_sub(chunks, Ordering::Relaxed);
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
        redelivery_queue: Arc<RedeliveryQueue>,
        gate: watch::Receiver<Option<Generation>>,
        settings: &PipelineSettings,
    ) -> (Self, mpsc::Receiver<Follower>) {
        let (in_flight, promoted) = InFlightKeys::new(settings.followers);
        let single_file = settings.one_at_a_time.then(Arc::default);
        let (draining, waiting) = (CancellationToken::new(), Arc::default());
        let patience = settings.patience;
        (
            Entrance { store, in_flight, redelivery_queue, gate, patience, single_file, draining, waiting },
            promoted,
        )
    }

    /// Takes some chunks of one upload. Returns when each is settled, inside the pipeline, or waiting for the fate of
    /// another one that is, and so is as slow as the pipeline is full. Pass what is at hand, up to a few hundred: the
    /// look-up is one query for all.
    pub async fn admit(&self, mut arrivals: Vec<Arrival>) {
        let mut waiting = Waiting::begin(&self.waiting, arrivals.len());
        while !arrivals.is_empty() {
            let (leaders, full) = self.claim(arrivals, &mut waiting);
            let full = self.admit_claimed(leaders, full, &mut waiting).await;
            arrivals = Vec::new();
            // Only now, holding no key whose chunk is not inside, is it safe to wait for those of others.
            for arrival in full {
                match self.in_flight.follow(arrival).await {
                    Some(free) => arrivals.push(free),
                    None => waiting.less(1),
                }
            }
        }
    }

    /// Parts the arrivals into those who have their key now, and those who found no room behind who has it.
    fn claim(&self, arrivals: Vec<Arrival>, waiting: &mut Waiting<'_>) -> (Vec<Arrival>, Vec<Arrival>) {
        let (mut leaders, mut full) = (Vec::with_capacity(arrivals.len()), Vec::new());
        for arrival in arrivals {
            match self.in_flight.try_claim(arrival) {
                Claim::Leader(arrival) => leaders.push(arrival),
                Claim::Full(arrival) => full.push(arrival),
                Claim::Follower => waiting.less(1),
            }
        }
        (leaders, full)
    }

    /// Answers those who are known, and brings the leaders inside. Gives back those of the full who are not known.
    async fn admit_claimed(
        &self,
        leaders: Vec<Arrival>,
        mut full: Vec<Arrival>,
        waiting: &mut Waiting<'_>,
    ) -> Vec<Arrival> {
        let both = leaders.iter().chain(&full);
        let keys: Vec<ChunkKey> = both.map(|arrival| arrival.chunk.key.clone()).collect();
        let known = match self.look_up(&keys, Instant::now() + self.patience).await {
            Ok(known) => known,
            Err(error) => {
                let message = format!("the database could not be asked: {error}; send it again");
                let lost = Outcome::Rejected(Rejection::new(ErrorCode::Lost, message));
                leaders.into_iter().chain(full).for_each(|a| a.receipt.settle(lost.clone()));
                waiting.less(keys.len());
                return Vec::new();
            }
        };
        self.remove_letters(leaders.iter().chain(&full), &known).await;
        for Arrival { chunk, receipt } in leaders {
            match known.get(&chunk.key) {
                Some(row) => receipt.settle(found(chunk, row.clone())),
                None => {
                    let weight = chunk.weight();
                    self.enter(Delivery::new(chunk, weight, receipt, self.redelivery_queue.clone())).await;
                }
            }
            waiting.less(1);
        }
        for Arrival { chunk, receipt } in full.extract_if(.., |a| known.contains_key(&a.chunk.key)) {
            if let Some(row) = known.get(&chunk.key) {
                receipt.settle(found(chunk, row.clone()));
            }
            waiting.less(1);
        }
        full
    }

    /// Lets those in whose turn has come, because what became of another with their key says nothing about them. For
    /// the life of the process; each in a task of its own, so that nobody waits behind another key.
    pub(super) async fn run_promoted_followers(self, mut promoted: mpsc::Receiver<Follower>) {
        while let Some(Follower { arrival, slot }) = promoted.recv().await {
            let entrance = self.clone();
            actix::spawn(async move {
                let mut waiting = Waiting::begin(&entrance.waiting, 1);
                entrance.admit_claimed(vec![arrival], Vec::new(), &mut waiting).await;
                drop(slot);
            });
        }
    }

    /// Duplicates are stored: should one of them have a dead letter, it goes. Costs nothing while there is none.
    async fn remove_letters<'a>(
        &self,
        arrivals: impl Iterator<Item = &'a Arrival>,
        known: &HashMap<ChunkKey, KnownChunk>,
    ) {
        if known.is_empty() || self.store.dead_letter_count() == 0 {
            return;
        }
        let same =
            |chunk: &&Chunk| known.get(&chunk.key).is_some_and(|row| row.content_hash == chunk.content_hash);
        let stored = arrivals.map(|arrival| &*arrival.chunk).filter(same);
        if let Err(error) = self.store.remove_dead_letters(stored).await {
            // They go when the chunk is sent once more.
            tracing::warn!(%error, "dead letters of stored chunks could not be removed");
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

    /// Brings one delivery into the first stage, waiting for room, and for the next generation when this one is gone.
    async fn enter(&self, mut delivery: Delivery) {
        let _turn = match &self.single_file {
            Some(file) => Some(file.lock().await),
            None => None,
        };
        let mut gates = self.gate.clone();
        let mut deadline = Instant::now() + self.patience;
        let mut closed = None;
        loop {
            // Not the gate that has just turned it away and is about to be taken down.
            let open =
                |gate: &Option<Generation>| gate.as_ref().is_some_and(|gate| Some(gate.generation) != closed);
            let gate = tokio::select! {
                biased;
                () = self.draining.cancelled() => return settle_unadmitted(delivery, ErrorCode::Draining),
                gate = timeout_at(deadline, gates.wait_for(open)) => match gate {
                    Ok(Ok(gate)) => gate.clone(),
                    Ok(Err(_)) => return settle_unadmitted(delivery, ErrorCode::Draining),
                    Err(_) => return settle_unadmitted(delivery, ErrorCode::Lost),
                },
            };
            let Some(gate) = gate else { continue };
            match gate.admit(delivery).await {
                Ok(()) => {
                    if self.single_file.is_some() {
                        gate.all_free().await;
                    }
                    return;
                }
                Err(returned) => delivery = returned,
            }
            deadline = Instant::now() + self.patience;
            closed = Some(gate.generation);
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

    /// Chunks that wait for the fate of another one with their key.
    pub fn following(&self) -> usize {
        self.in_flight.following()
    }

    /// Keys of chunks that are taken and not yet answered.
    pub fn keys(&self) -> usize {
        self.in_flight.keys()
    }

    /// Waits until no chunk is inside.
    pub async fn all_free(&self) {
        let gate = self.gate.borrow().clone();
        if let Some(gate) = gate {
            gate.all_free().await;
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

    /// Takes nobody in any more, and waits until everybody who was taken has an answer: those who are inside, on their
    /// way between two generations, or waiting for the fate of another.
    pub(super) async fn drain(&self) {
        self.close();
        self.in_flight.all_answered().await;
        self.all_free().await;
    }
}

impl Generation {
    /// Into the inlet that fits the chunk. Gives the delivery back when the generation is gone.
    pub(super) async fn admit(&self, delivery: Delivery) -> Result<(), Delivery> {
        let chunk = delivery.origin().clone();
        match &self.llm {
            Some(llm) if chunk.client_tmd.is_none() => llm.admit(NeedsLlm(chunk), delivery).await,
            _ => self.local.admit(NeedsNoLlm(chunk), delivery).await,
        }
    }
}

fn settle_unadmitted(delivery: Delivery, code: ErrorCode) {
    let message = match code {
        ErrorCode::Draining => "the service is going down; send it again",
        _ => "the pipeline did not come back in time; send it again",
    };
    delivery.settle(Outcome::Rejected(Rejection::new(code, message)));
}
