//! Single flight: one chunk of a key is in the pipeline at a time. While a key is in flight, later chunks with that key
//! wait for its outcome, and cost no work.
//!
//! The first chunk is the leader. Its [`Receipt`] has a witness, so that its answer is seen wherever it is given, in
//! any generation, also in a drop; nothing else ends a claim. The others are followers, each in a slot. They are
//! answered as soon as the leader is: `duplicate`, `id_conflict`, or the same rejection. Where the leader's outcome
//! says nothing about them, or they replace what is stored, the next of them becomes the leader.

use super::generation::observed_slots;
use crate::chunk::{BatchId, Chunk, ChunkKey, Differences, OnConflict};
use crate::flow::{Capacity, Slot, Slots};
use crate::outcome::{Outcome, StoredChunk};
use crate::stages::Receipt;
use crate::threads::lock;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, watch};

/// A checked chunk and the receipt for its answer.
pub struct Arrival {
    /// The chunk as it was sent.
    pub chunk: Arc<Chunk>,
    /// To be settled with its outcome.
    pub receipt: Receipt,
}

/// The keys of all chunks that are accepted and not yet answered.
pub struct InFlightKeys {
    states: Mutex<HashMap<ChunkKey, KeyState>>,
    /// The number of keys.
    keys: watch::Sender<usize>,
    slots: Arc<Slots>,
    promoted: mpsc::Sender<Follower>,
}

struct KeyState {
    leader: Arc<Chunk>,
    followers: VecDeque<Follower>,
}

/// A chunk that waits for the outcome of another one, or that is promoted to leader.
pub struct Follower {
    /// The chunk and its receipt.
    pub arrival: Arrival,
    /// Held until the chunk is answered or admitted to a stage.
    pub slot: Slot,
}

/// The result of [`InFlightKeys::try_claim`].
pub enum Claim {
    /// The key was free: admit this chunk.
    Leader(Arrival),
    /// The key is in flight, and the chunk waits for its outcome.
    Follower,
    /// The key is in flight, and every slot for followers is in use.
    Full(Arrival),
}

impl InFlightKeys {
    /// No keys. The receiver gets the followers that are promoted to leader: admit them.
    pub fn new(followers: Capacity) -> (Arc<InFlightKeys>, mpsc::Receiver<Follower>) {
        // Every follower in the queue has a slot, so it is never full.
        let (promoted, receiver) = mpsc::channel(followers.items.max(1));
        let (states, keys) = (Mutex::default(), watch::Sender::new(0));
        let slots = observed_slots("followers", followers);
        (Arc::new(InFlightKeys { states, keys, slots, promoted }), receiver)
    }

    /// Claims the key for the chunk, or makes it a follower of the leader. Does not wait.
    pub fn try_claim(self: &Arc<Self>, arrival: Arrival) -> Claim {
        let mut states = lock(&self.states);
        match states.entry(arrival.chunk.key.clone()) {
            Entry::Vacant(vacant) => {
                let (leader, followers) = (arrival.chunk.clone(), VecDeque::new());
                vacant.insert(KeyState { leader, followers });
                self.keys.send_modify(|keys| *keys += 1);
                drop(states);
                Claim::Leader(self.witnessed(arrival))
            }
            Entry::Occupied(mut state) => match self.slots.try_acquire(arrival.chunk.weight()) {
                Ok(slot) => {
                    state.get_mut().followers.push_back(Follower { arrival, slot });
                    Claim::Follower
                }
                Err(_) => Claim::Full(arrival),
            },
        }
    }

    /// Waits for a slot, and then as a follower. Gives the chunk back when its key is free by then. Not to be called
    /// while the caller holds a claim whose chunk is not admitted yet: the slot may depend on it.
    pub async fn follow(&self, arrival: Arrival) -> Option<Arrival> {
        let Some(slot) = self.slots.acquire(arrival.chunk.weight()).await else { return Some(arrival) };
        match lock(&self.states).get_mut(&arrival.chunk.key) {
            Some(state) => {
                state.followers.push_back(Follower { arrival, slot });
                None
            }
            None => Some(arrival),
        }
    }

    /// The number of followers.
    pub fn following(&self) -> usize {
        self.slots.used()
    }

    /// The number of keys in flight.
    pub fn keys(&self) -> usize {
        *self.keys.borrow()
    }

    /// Waits until every accepted chunk is answered.
    pub async fn all_answered(&self) {
        // The sender lives in `self`, so the wait can only end with the fact.
        drop(self.keys.subscribe().wait_for(|keys| *keys == 0).await);
    }

    /// From here on the answer of this chunk decides about the key.
    fn witnessed(self: &Arc<Self>, arrival: Arrival) -> Arrival {
        let (in_flight, key) = (self.clone(), arrival.chunk.key.clone());
        let receipt = arrival.receipt.witnessed(move |outcome| in_flight.decide(&key, outcome));
        Arrival { receipt, ..arrival }
    }

    /// Called with the leader's answer. Runs in drops, perhaps during unwinding: must not panic.
    fn decide(self: &Arc<Self>, key: &ChunkKey, outcome: &Outcome) {
        let (answered, next) = self.split(key, outcome);
        for (Follower { arrival, slot }, answer) in answered {
            arrival.receipt.settle(answer);
            drop(slot);
        }
        let Some(Follower { arrival, slot }) = next else { return };
        let next = Follower { arrival: self.witnessed(arrival), slot };
        if let Err(refused) = self.promoted.try_send(next) {
            // The receiver is gone: all of them answer that they are lost, the new leader as the last.
            let rest = lock(&self.states).get_mut(key).map(|state| std::mem::take(&mut state.followers));
            drop(rest);
            drop(refused);
        }
    }

    /// Splits the followers into those that this outcome answers, and the next leader with the others behind it.
    /// Without a next leader the key is free.
    fn split(&self, key: &ChunkKey, outcome: &Outcome) -> (Vec<(Follower, Outcome)>, Option<Follower>) {
        let mut states = lock(&self.states);
        let Some(state) = states.get_mut(key) else { return (Vec::new(), None) };
        let (mut answered, mut others) = (Vec::new(), VecDeque::new());
        for follower in std::mem::take(&mut state.followers) {
            match implied(&follower.arrival.chunk, &state.leader, outcome) {
                Some(answer) => answered.push((follower, answer)),
                None => others.push_back(follower),
            }
        }
        let next = others.pop_front();
        match &next {
            Some(next) => *state = KeyState { leader: next.arrival.chunk.clone(), followers: others },
            None => {
                states.remove(key);
                self.keys.send_modify(|keys| *keys -= 1);
            }
        }
        (answered, next)
    }
}

/// The outcome of `chunk` that follows from the outcome of the leader of its key; `None` when it has to be tried.
fn implied(chunk: &Arc<Chunk>, leader: &Chunk, outcome: &Outcome) -> Option<Outcome> {
    match outcome {
        Outcome::Stored(stored) | Outcome::Replaced(stored) => repeated(chunk, stored),
        // The row is what the leader sent, unless that differs. Its batch is known only if the leader named it.
        Outcome::Duplicate(stored)
            if stored.differs.fields().is_empty() && (!names_batch(chunk) || names_batch(leader)) =>
        {
            repeated(chunk, stored)
        }
        Outcome::Rejected(rejection) => {
            let same = chunk.content_hash == leader.content_hash && chunk.on_conflict == leader.on_conflict;
            (same && !rejection.code.retryable()).then(|| outcome.clone())
        }
        Outcome::Duplicate(_) => None,
    }
}

fn names_batch(chunk: &Chunk) -> bool {
    matches!(chunk.batch, Some(BatchId::Named(_)))
}

/// The outcome of a chunk whose key is that of a row that was made of another chunk.
fn repeated(chunk: &Arc<Chunk>, stored: &StoredChunk) -> Option<Outcome> {
    let differs = Differences::between(chunk, &stored.chunk, stored.row.tagging.tmd);
    let replaces = chunk.on_conflict == OnConflict::Replace && differs.in_row();
    (!replaces).then(|| Outcome::known(chunk.clone(), stored.row.clone(), differs))
}

#[cfg(test)]
mod tests;
