//! The way into the pipeline. Known chunks are answered from one batched look-up, before any work is spent on them.
//! Chunks whose key is in flight wait for its outcome. The others wait here for a slot.
//!
//! The keys are claimed first and looked up second: a chunk that finds its key free then finds the row of the chunk
//! that had the key before.

use super::generation::{EnterAt, Generation};
use super::in_flight::{Arrival, Claim, Follower, InFlightKeys};
use super::settings::PipelineSettings;
use crate::chunk::{Chunk, ChunkKey, ConceptVector, EmbeddedChunk, Embedding, Extraction, TaggedChunk};
use crate::error_code::ErrorCode;
use crate::flow::{Backoff, Verdict, bisect, retry};
use crate::metrics;
use crate::outcome::Outcome;
use crate::output::throttled;
use crate::rejection::Rejection;
use crate::stages::{Delivery, KnownVerdict, RedeliveryQueue, compare};
use crate::store::{KnownChunk, Store, StoreError, StoredVectors};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// The pauses between look-ups while the database is away.
const LOOK_UP_PAUSES: Backoff = Backoff { first: Duration::from_millis(50), ceiling: Duration::from_secs(2) };

/// What follows for a chunk from the look-up of its key.
enum Fate {
    /// It needs no work.
    Answered(Outcome),
    /// It enters the stages.
    Enters(EnterAt),
}

/// The way into the pipeline; cheap to clone.
#[derive(Clone)]
pub struct Entrance {
    store: Store,
    in_flight: Arc<InFlightKeys>,
    redelivery_queue: Arc<RedeliveryQueue>,
    generation: watch::Receiver<Option<Generation>>,
    patience: Duration,
    one_at_a_time: Option<Arc<Mutex<()>>>,
    draining: CancellationToken,
    waiting: Arc<AtomicUsize>,
}

/// Counts the chunks that the entrance itself holds: accepted, and neither settled, in a stage, nor a follower.
struct HeldChunks<'a>(&'a AtomicUsize, usize);

impl<'a> HeldChunks<'a> {
    fn begin(count: &'a AtomicUsize, chunks: usize) -> Self {
        count.fetch_add(chunks, Ordering::Relaxed);
        HeldChunks(count, chunks)
    }

    fn less(&mut self, chunks: usize) {
        self.1 -= chunks;
        self.0.fetch_sub(chunks, Ordering::Relaxed);
    }
}

impl Drop for HeldChunks<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Entrance {
    pub(super) fn new(
        store: Store,
        redelivery_queue: Arc<RedeliveryQueue>,
        generation: watch::Receiver<Option<Generation>>,
        settings: &PipelineSettings,
    ) -> (Self, mpsc::Receiver<Follower>) {
        let (in_flight, promoted) = InFlightKeys::new(settings.followers);
        let entrance = Entrance {
            store,
            in_flight,
            redelivery_queue,
            generation,
            patience: settings.patience,
            one_at_a_time: settings.one_at_a_time.then(Arc::default),
            draining: CancellationToken::new(),
            waiting: Arc::default(),
        };
        (entrance, promoted)
    }

    /// Admits some chunks of one upload, at best a few hundred: the look-up is one query for all. Returns when each is
    /// settled, in a stage, or waiting for the outcome of another chunk with its key, so it is as slow as the pipeline
    /// is full.
    pub async fn admit(&self, mut arrivals: Vec<Arrival>) {
        let mut waiting = HeldChunks::begin(&self.waiting, arrivals.len());
        while !arrivals.is_empty() {
            let (leaders, full) = self.claim(arrivals, &mut waiting);
            let full = self.admit_claimed(leaders, full, &mut waiting).await;
            arrivals = Vec::new();
            // It is safe to wait for the keys of others only now: no claim is held whose chunk is not admitted.
            for arrival in full {
                match self.in_flight.follow(arrival).await {
                    Some(free) => arrivals.push(free),
                    None => waiting.less(1),
                }
            }
        }
    }

    /// Claims the keys: gives the chunks that are leaders now, and those for which there was no slot for a follower.
    fn claim(&self, arrivals: Vec<Arrival>, waiting: &mut HeldChunks<'_>) -> (Vec<Arrival>, Vec<Arrival>) {
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

    /// Answers the known chunks, and admits the other leaders. Gives back the chunks of `full` that are not answered.
    async fn admit_claimed(
        &self,
        leaders: Vec<Arrival>,
        full: Vec<Arrival>,
        waiting: &mut HeldChunks<'_>,
    ) -> Vec<Arrival> {
        let (count, mut left) = (leaders.len(), Vec::new());
        let both: Vec<Arrival> = leaders.into_iter().chain(full).collect();
        let chunks: Vec<&Arc<Chunk>> = both.iter().map(|arrival| &arrival.chunk).collect();
        let fates = match self.look_up(&chunks, Instant::now() + self.patience).await {
            Ok(fates) => fates,
            Err(error) => {
                let message = format!("the database could not be asked: {error}; send it again");
                let lost = Outcome::Rejected(Rejection::new(ErrorCode::Lost, message));
                waiting.less(both.len());
                both.into_iter().for_each(|arrival| arrival.receipt.settle(lost.clone()));
                return left;
            }
        };
        self.remove_letters(&fates).await;
        for (place, (arrival, fate)) in both.into_iter().zip(fates).enumerate() {
            let begin = match fate {
                Fate::Answered(outcome) => {
                    arrival.receipt.settle(outcome);
                    waiting.less(1);
                    continue;
                }
                Fate::Enters(begin) => begin,
            };
            if place >= count {
                left.push(arrival);
                continue;
            }
            let Arrival { chunk, receipt } = arrival;
            let weight = chunk.weight();
            let delivery = Delivery::new(chunk, weight, receipt, self.redelivery_queue.clone());
            self.enter(delivery, &begin).await;
            waiting.less(1);
        }
        left
    }

    /// Admits followers that are promoted to leader, for the life of the process. Each in a task of its own, so that
    /// none waits for another key.
    pub(super) async fn run_promoted_followers(self, mut promoted: mpsc::Receiver<Follower>) {
        while let Some(Follower { arrival, slot }) = promoted.recv().await {
            let entrance = self.clone();
            actix::spawn(async move {
                let mut waiting = HeldChunks::begin(&entrance.waiting, 1);
                entrance.admit_claimed(vec![arrival], Vec::new(), &mut waiting).await;
                drop(slot);
            });
        }
    }

    /// Removes the dead letters of chunks that are stored. Costs nothing while there are none.
    async fn remove_letters(&self, fates: &[Fate]) {
        if self.store.dead_letter_count() == 0 {
            return;
        }
        let stored: Vec<&Chunk> = fates
            .iter()
            .filter_map(|fate| match fate {
                Fate::Answered(Outcome::Duplicate(stored)) if !stored.differs.in_content() => {
                    Some(&*stored.chunk)
                }
                _ => None,
            })
            .collect();
        if !stored.is_empty()
            && let Err(error) = self.store.remove_dead_letters(stored.into_iter()).await
        {
            // They are removed when the chunk is sent once more.
            throttled!(warn, %error, "dead letters of stored chunks could not be removed");
        }
    }

    /// What follows for the chunks, from the rows of their keys; retries until the deadline while the database is away.
    /// A chunk whose key the database refuses is found by halving and fails alone.
    async fn look_up(&self, chunks: &[&Arc<Chunk>], deadline: Instant) -> Result<Vec<Fate>, StoreError> {
        let classify = |error: &StoreError, _| {
            let retry = error.is_transient() && Instant::now() < deadline && !self.draining.is_cancelled();
            if retry {
                metrics::store_error(error.sqlstate_class(), true);
            }
            Verdict::retry_if(retry)
        };
        let (mut fates, mut failed) = (Vec::with_capacity(chunks.len()), None);
        bisect(chunks.to_vec(), async |part: Vec<&Arc<Chunk>>| {
            if failed.is_some() {
                return None;
            }
            match retry(LOOK_UP_PAUSES, classify, || self.fates(&part)).await {
                Ok(found) => fates.extend(found),
                Err(error) if error.is_data_error() && part.len() > 1 => return Some(part),
                Err(error) if error.is_data_error() => fates.push(Fate::Answered(refused_key(&error))),
                Err(error) => failed = Some(error),
            }
            None
        })
        .await;
        failed.map_or(Ok(fates), Err)
    }

    async fn fates(&self, chunks: &[&Arc<Chunk>]) -> Result<Vec<Fate>, StoreError> {
        let keys: Vec<ChunkKey> = chunks.iter().map(|chunk| chunk.key.clone()).collect();
        let rows = self.store.known(&keys).await?;
        let known = chunks.iter().filter_map(|chunk| Some((*chunk, rows.get(&chunk.key)?)));
        let known: Vec<(&Arc<Chunk>, &KnownChunk)> = known.collect();
        let mut verdicts = compare(&self.store, &known).await?;
        let rewritten = verdicts.iter().filter_map(|verdict| match verdict {
            KnownVerdict::Rewrite { known, .. } => Some(known.item),
            _ => None,
        });
        let rewritten: Vec<u32> = rewritten.collect();
        let mut vectors =
            if rewritten.is_empty() { HashMap::new() } else { self.store.vectors(&rewritten).await? };
        let mut verdicts = verdicts.drain(..);
        let mut fate = |chunk: &&Arc<Chunk>| match rows.get(&chunk.key).and_then(|_| verdicts.next()) {
            Some(KnownVerdict::Answer(outcome)) => Fate::Answered(outcome),
            // The vectors are those of the texts which were compared if no other service changed the row meanwhile.
            Some(KnownVerdict::Rewrite { known, extraction, same_question }) => {
                Fate::Enters(match vectors.remove(&known.item) {
                    Some(vectors) if vectors.seq == known.seq => {
                        rewritten_row(chunk, (*known, extraction), vectors, same_question)
                    }
                    _ => EnterAt::Extractor,
                })
            }
            Some(KnownVerdict::Process) | None => Fate::Enters(EnterAt::Extractor),
        };
        Ok(chunks.iter().map(&mut fate).collect())
    }

    /// Brings one delivery into a stage. Waits for a slot, and for the next generation when this one is gone.
    async fn enter(&self, mut delivery: Delivery, begin: &EnterAt) {
        let _turn = match &self.one_at_a_time {
            Some(turns) => Some(turns.lock().await),
            None => None,
        };
        let mut generations = self.generation.clone();
        let mut deadline = Instant::now() + self.patience;
        let mut retired = None;
        loop {
            // Not the generation that has just refused it and is about to be retired.
            let open = |generation: &Option<Generation>| {
                generation.as_ref().is_some_and(|generation| Some(generation.number) != retired)
            };
            let generation = tokio::select! {
                biased;
                () = self.draining.cancelled() => return settle_unadmitted(delivery, ErrorCode::Draining),
                generation = timeout_at(deadline, generations.wait_for(open)) => match generation {
                    Ok(Ok(generation)) => generation.clone(),
                    Ok(Err(_)) => return settle_unadmitted(delivery, ErrorCode::Draining),
                    Err(_) => return settle_unadmitted(delivery, ErrorCode::Lost),
                },
            };
            let Some(generation) = generation else { continue };
            match generation.admit(delivery, begin).await {
                Ok(()) => {
                    if self.one_at_a_time.is_some() {
                        generation.all_free().await;
                    }
                    return;
                }
                Err(returned) => delivery = returned,
            }
            deadline = Instant::now() + self.patience;
            retired = Some(generation.number);
        }
    }

    /// The number of chunks in the stages: those that wait for a language model, then by stage in the order of
    /// [`Stage::ALL`](super::Stage::ALL). `None` while no generation runs.
    pub fn inside(&self) -> Option<[usize; 4]> {
        self.generation.borrow().as_ref().map(Generation::used)
    }

    /// As [`Self::inside`], each with the number of slots that can be used at once.
    pub(super) fn fill(&self) -> Option<[(usize, usize); 4]> {
        let fill = self.generation.borrow().as_ref().map(Generation::fill);
        match self.one_at_a_time {
            Some(_) => fill.map(|slots| slots.map(|(used, _)| (used, 1))),
            None => fill,
        }
    }

    /// The number of chunks that the entrance itself holds: accepted, and waiting for the look-up or for a slot.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// The number of chunks that wait for the outcome of another one with their key.
    pub fn following(&self) -> usize {
        self.in_flight.following()
    }

    /// The number of keys in flight: of chunks that are accepted and not yet answered.
    pub fn keys(&self) -> usize {
        self.in_flight.keys()
    }

    /// Waits until no chunk is in any stage.
    pub async fn all_free(&self) {
        let generation = self.generation.borrow().clone();
        if let Some(generation) = generation {
            generation.all_free().await;
        }
    }

    /// Closes the entrance: chunks that wait here are rejected as `draining`, those in the stages go on.
    pub fn close(&self) {
        self.draining.cancel();
    }

    /// A token that [`Self::close`] cancels.
    pub fn closed(&self) -> &CancellationToken {
        &self.draining
    }

    /// Closes the entrance, and waits until every accepted chunk has its answer: also those between two generations and
    /// those that wait for the outcome of another one.
    pub(super) async fn drain(&self) {
        self.close();
        self.in_flight.all_answered().await;
        self.all_free().await;
    }
}

/// A chunk with the codes and the vectors of the row that it replaces, whose text is the same. Codes that were sent
/// replace those of the row; a chunk without, or that is to have none, keeps them.
fn rewritten_row(
    chunk: &Arc<Chunk>,
    (known, extraction): (KnownChunk, Extraction),
    vectors: StoredVectors,
    same_question: bool,
) -> EnterAt {
    let tagging = chunk.given_tagging.clone().filter(|given| given.tmd.is_some()).unwrap_or(known.tagging);
    let StoredVectors { concept: vector, question, .. } = vectors;
    let (truncated, unread) = (known.truncated, known.unread);
    let embedding = Embedding { vector, truncated, unread, took: Duration::ZERO };
    let chunk = chunk.clone();
    if extraction.probe(&chunk).is_none() {
        return EnterAt::Writer(EmbeddedChunk { chunk, tagging, extraction, embedding, question: None });
    }
    match question.filter(|_| same_question) {
        Some(vector) => {
            let question = Some(vector);
            EnterAt::Writer(EmbeddedChunk { chunk, tagging, extraction, embedding, question })
        }
        None => {
            let concept = ConceptVector::Known(embedding);
            EnterAt::Embedder(TaggedChunk { chunk, tagging, extraction, concept })
        }
    }
}

/// It is not kept as a dead letter: that has the same key.
fn refused_key(error: &StoreError) -> Outcome {
    metrics::store_error(error.sqlstate_class(), false);
    let message = format!("the database refused the id or the dataset of this chunk: {error}");
    Outcome::Rejected(Rejection::new(ErrorCode::StoreFailed, message))
}

fn settle_unadmitted(mut delivery: Delivery, code: ErrorCode) {
    let message = match code {
        ErrorCode::Draining => "the service is going down; send it again",
        _ => "the pipeline did not come back in time; send it again",
    };
    delivery.settle(Outcome::Rejected(Rejection::new(code, message)));
}
