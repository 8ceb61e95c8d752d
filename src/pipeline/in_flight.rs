//! One chunk of a key is inside at a time. Others with that key wait for its fate, without costing anything.
//!
//! The first leads: its [`Receipt`](crate::flow::Receipt) has a witness, so its fate is heard wherever it is decided,
//! in whatever generation, also when it is dropped; nothing else ends a claim. The others follow, each in a slot of
//! their own. They are answered as soon as the leader is: `duplicate`, `id_conflict`, or the same rejection; where the
//! leader's fate says nothing about them, the next of them leads.

use super::Arrival;
use crate::chunk::{Chunk, ChunkKey};
use crate::flow::{Capacity, Slot, Slots};
use crate::outcome::Outcome;
use crate::threads::lock;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{mpsc, watch};

/// The keys of all chunks that are taken and not yet answered.
pub struct InFlightKeys {
    held: Mutex<HashMap<ChunkKey, KeyState>>,
    /// How many keys are held.
    keys: watch::Sender<usize>,
    slots: Arc<Slots>,
    promoted: mpsc::Sender<Follower>,
}

struct KeyState {
    /// The content of the one who leads.
    content: [u8; 32],
    followers: VecDeque<Follower>,
}

/// One who waits for another's fate, or whose turn has come.
pub struct Follower {
    /// The chunk and the answer it is owed.
    pub arrival: Arrival,
    /// Held until it is answered or inside.
    pub slot: Slot,
}

/// How an arrival stands to those who are inside.
pub enum Claim {
    /// Nobody has its key: it is to be let in.
    Leader(Arrival),
    /// Another one has, and it waits.
    Follower,
    /// Another one has, and there is no room to wait in now.
    Full(Arrival),
}

impl InFlightKeys {
    /// Nobody is inside. What is received from the other end is to be let in: its turn has come.
    pub fn new(followers: Capacity) -> (Arc<InFlightKeys>, mpsc::Receiver<Follower>) {
        // Whoever is in the queue has a slot, so it is never full.
        let (promoted, taken) = mpsc::channel(followers.items.max(1));
        let (held, keys) = (Mutex::default(), watch::Sender::new(0));
        let slots = Slots::new("followers", followers);
        (Arc::new(InFlightKeys { held, keys, slots, promoted }), taken)
    }

    /// Takes the key for the arrival, or finds it a place behind who has it. Does not wait.
    pub fn try_claim(self: &Arc<Self>, arrival: Arrival) -> Claim {
        let mut held = self.lock();
        match held.entry(arrival.chunk.key.clone()) {
            Entry::Vacant(vacant) => {
                let (content, followers) = (arrival.chunk.content_hash, VecDeque::new());
                vacant.insert(KeyState { content, followers });
                self.keys.send_modify(|keys| *keys += 1);
                drop(held);
                Claim::Leader(self.witnessed(arrival))
            }
            Entry::Occupied(mut claim) => match self.slots.try_acquire(arrival.chunk.weight()) {
                Some(slot) => {
                    claim.get_mut().followers.push_back(Follower { arrival, slot });
                    Claim::Follower
                }
                None => Claim::Full(arrival),
            },
        }
    }

    /// Waits for room, and then behind who has the key. Gives the arrival back when nobody has it any more. Not to be
    /// called by one who has claimed a key and not let its chunk in: the room may depend on it.
    pub async fn follow(&self, arrival: Arrival) -> Option<Arrival> {
        let Some(slot) = self.slots.acquire(arrival.chunk.weight()).await else { return Some(arrival) };
        match self.lock().get_mut(&arrival.chunk.key) {
            Some(claim) => {
                claim.followers.push_back(Follower { arrival, slot });
                None
            }
            None => Some(arrival),
        }
    }

    /// Chunks that wait for another's fate.
    pub fn following(&self) -> usize {
        self.slots.used()
    }

    /// Keys that are held.
    pub fn keys(&self) -> usize {
        *self.keys.borrow()
    }

    /// Waits until everybody who was taken is answered.
    pub async fn all_answered(&self) {
        // The sender lives in `self`, so the wait can only end with the fact.
        drop(self.keys.subscribe().wait_for(|keys| *keys == 0).await);
    }

    /// From here on its answer decides about the key.
    fn witnessed(self: &Arc<Self>, arrival: Arrival) -> Arrival {
        let (in_flight, key) = (self.clone(), arrival.chunk.key.clone());
        let receipt = arrival.receipt.witnessed(move |outcome| in_flight.decide(&key, outcome));
        Arrival { receipt, ..arrival }
    }

    /// The one who leads has its answer. Runs in drops, perhaps during unwinding: must not panic.
    fn decide(self: &Arc<Self>, key: &ChunkKey, outcome: &Outcome) {
        let (answered, next) = self.part(key, outcome);
        for (Follower { arrival, slot }, answer) in answered {
            arrival.receipt.settle(answer);
            drop(slot);
        }
        let Some(Follower { arrival, slot }) = next else { return };
        let next = Follower { arrival: self.witnessed(arrival), slot };
        if let Err(refused) = self.promoted.try_send(next) {
            // Nobody lets anybody in any more: they all say that they are lost, the one who leads as the last.
            let rest = self.lock().get_mut(key).map(|claim| std::mem::take(&mut claim.followers));
            drop(rest);
            drop(refused);
        }
    }

    /// Parts the followers into those whose fate is decided by this outcome, and the next to lead with the others
    /// behind it. Without a next one the key is free.
    fn part(&self, key: &ChunkKey, outcome: &Outcome) -> (Vec<(Follower, Outcome)>, Option<Follower>) {
        let mut held = self.lock();
        let Some(claim) = held.get_mut(key) else { return (Vec::new(), None) };
        let (mut answered, mut others) = (Vec::new(), VecDeque::new());
        for follower in std::mem::take(&mut claim.followers) {
            match fate(&follower.arrival.chunk, claim.content, outcome) {
                Some(answer) => answered.push((follower, answer)),
                None => others.push_back(follower),
            }
        }
        let next = others.pop_front();
        match &next {
            Some(next) => *claim = KeyState { content: next.arrival.chunk.content_hash, followers: others },
            None => {
                held.remove(key);
                self.keys.send_modify(|keys| *keys -= 1);
            }
        }
        (answered, next)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ChunkKey, KeyState>> {
        lock(&self.held)
    }
}

/// What the outcome of a chunk with this `content` says about another one with its key; `None` when it has to be tried.
fn fate(chunk: &Arc<Chunk>, content: [u8; 32], outcome: &Outcome) -> Option<Outcome> {
    let same = chunk.content_hash == content;
    match outcome {
        Outcome::Stored(filed) | Outcome::Duplicate(filed) if same => {
            Some(Outcome::again(chunk.clone(), filed))
        }
        Outcome::Stored(_) | Outcome::Duplicate(_) => Some(Outcome::conflict(chunk)),
        Outcome::Rejected(rejection) if same && !rejection.code.retryable() => Some(outcome.clone()),
        Outcome::Rejected(_) => None,
    }
}

#[cfg(test)]
mod tests;
