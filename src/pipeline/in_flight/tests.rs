use super::*;
use crate::chunk::{Draft, Extraction, Tagging};
use crate::error_code::ErrorCode;
use crate::flow::{ReceiptIssuer, ReceiptStream, receipt_channel};
use crate::outcome::{ChunkTimings, StoredRow};
use crate::rejection::Rejection;
use crate::tmd::Tmd;
use futures_executor::block_on;
use proptest::prelude::*;
use std::collections::BTreeMap;

const ROOM: usize = 3;

/// One step of a script.
#[derive(Debug, Clone)]
enum Event {
    /// A chunk with one of two keys and one of three contents arrives.
    Comes(u8, u8),
    /// One of the leaders, if there are any, gets its answer.
    Ends(prop::sample::Index, End),
    /// A chunk that found no slot tries again.
    TriesAgain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Stored,
    Known,
    Poison,
    LlmFailed,
    Conflict,
    Dropped,
}

/// The status or the error code of an answer.
fn kind(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Stored(_) => "stored",
        Outcome::Replaced(_) => "replaced",
        Outcome::Duplicate(_) => "duplicate",
        Outcome::Rejected(rejection) => rejection.code.as_str(),
    }
}

fn chunk(key: u8, content: u8) -> Arc<Chunk> {
    let text = format!("content {content}");
    let draft = Draft { id: Some(key.to_string()), dataset: "d".into(), text, ..Draft::default() };
    Chunk::new(draft).unwrap().into()
}

fn outcome(chunk: &Arc<Chunk>, end: End) -> Option<Outcome> {
    let tagging = Tagging::by_client(Tmd::new(1, 2, 3).unwrap());
    let stored = || {
        let row = StoredRow {
            cpe_id: chunk.cpe_id,
            tagging,
            extraction: Extraction::NotAsked,
            seq: 1,
            created_at: chrono::Utc::now(),
            truncated: false,
            unread: None,
        };
        let (differs, timings) = (Differences::default(), ChunkTimings::default());
        Arc::new(StoredChunk { chunk: chunk.clone(), row, differs, timings })
    };
    let rejected = |cause| Outcome::Rejected(Rejection::new(cause, "no"));
    match end {
        End::Stored => Some(Outcome::Stored(stored())),
        End::Known => Some(Outcome::Duplicate(stored())),
        End::Poison => Some(rejected(ErrorCode::Poison)),
        End::LlmFailed => Some(rejected(ErrorCode::LlmFailed)),
        End::Conflict => Some(rejected(ErrorCode::IdConflict)),
        End::Dropped => None,
    }
}

/// A simple model of the same: a queue for each key, whose first chunk leads.
#[derive(Default)]
struct Model {
    queues: BTreeMap<u8, VecDeque<(u64, u8)>>,
    answers: BTreeMap<u64, &'static str>,
}

impl Model {
    fn following(&self) -> usize {
        self.queues.values().map(|queue| queue.len().saturating_sub(1)).sum()
    }

    fn ends(&mut self, key: u8, tag: u64, content: u8, end: End) {
        let queue = self.queues.get_mut(&key).unwrap();
        assert_eq!(queue.pop_front(), Some((tag, content)), "only the first is in the pipeline");
        let own = match end {
            End::Stored => "stored",
            End::Known => "duplicate",
            End::Poison => "poison",
            End::LlmFailed => "llm_failed",
            End::Conflict => "id_conflict",
            End::Dropped => "lost",
        };
        assert_eq!(self.answers.insert(tag, own), None);
        let answers = &mut self.answers;
        queue.retain(|(tag, other)| {
            let answer = match end {
                End::Stored | End::Known => {
                    if *other == content {
                        "duplicate"
                    } else {
                        "id_conflict"
                    }
                }
                End::Poison | End::Conflict if *other == content => own,
                _ => return true,
            };
            assert_eq!(answers.insert(*tag, answer), None);
            false
        });
    }
}

/// The keys in flight, and what surrounds them.
struct World {
    in_flight: Arc<InFlightKeys>,
    promoted: mpsc::Receiver<Follower>,
    issuer: ReceiptIssuer<Outcome>,
    results: ReceiptStream<Outcome>,
    /// The leaders, with the slots of those that were followers before.
    leaders: Vec<(u64, u8, u8, Arrival, Option<Slot>)>,
    full: VecDeque<(u64, u8, u8, Arrival)>,
    tags: Vec<(u8, u8)>,
    model: Model,
}

impl World {
    fn new(places: usize) -> World {
        let (in_flight, promoted) = InFlightKeys::new(Capacity { items: ROOM, bytes: 1 << 20 });
        let (issuer, results) = receipt_channel(places);
        let (leaders, full, tags) = (Vec::new(), VecDeque::new(), Vec::new());
        World { in_flight, promoted, issuer, results, leaders, full, tags, model: Model::default() }
    }

    fn comes(&mut self, key: u8, content: u8) {
        let tag = self.tags.len() as u64;
        self.tags.push((key, content));
        let receipt = block_on(self.issuer.issue(tag)).unwrap();
        self.claim(tag, key, content, Arrival { chunk: chunk(key, content), receipt });
    }

    fn claim(&mut self, tag: u64, key: u8, content: u8, arrival: Arrival) {
        let room = self.model.following() < ROOM;
        let queue = self.model.queues.entry(key).or_default();
        match self.in_flight.try_claim(arrival) {
            Claim::Leader(arrival) => {
                assert!(queue.is_empty());
                queue.push_back((tag, content));
                self.leaders.push((tag, key, content, arrival, None));
            }
            Claim::Follower => {
                assert!(!queue.is_empty() && room);
                queue.push_back((tag, content));
            }
            Claim::Full(arrival) => {
                assert!(!queue.is_empty());
                self.full.push_back((tag, key, content, arrival));
            }
        }
    }

    fn ends(&mut self, which: usize, end: End) {
        let (tag, key, content, arrival, slot) = self.leaders.remove(which);
        self.model.ends(key, tag, content, end);
        match outcome(&arrival.chunk, end) {
            Some(outcome) => arrival.receipt.settle(outcome),
            None => drop(arrival.receipt),
        }
        drop(slot);
        while let Ok(Follower { arrival, slot }) = self.promoted.try_recv() {
            let key: u8 = arrival.chunk.key.id.parse().unwrap();
            let (tag, content) = self.model.queues[&key][0];
            assert_eq!(arrival.chunk.text, format!("content {content}"));
            self.leaders.push((tag, key, content, arrival, Some(slot)));
        }
    }

    /// Answers every chunk that is left, and compares with the model.
    fn finish(mut self) {
        while !self.leaders.is_empty() || !self.full.is_empty() {
            while !self.leaders.is_empty() {
                self.ends(0, End::LlmFailed);
            }
            if let Some((tag, key, content, arrival)) = self.full.pop_front() {
                self.claim(tag, key, content, arrival);
            }
        }
        assert_eq!((self.in_flight.keys(), self.in_flight.following()), (0, 0), "nothing is left behind");
        drop(self.issuer);
        let mut answers = BTreeMap::new();
        while let Some((tag, outcome)) = block_on(self.results.next()) {
            assert_eq!(answers.insert(tag, kind(&outcome)), None, "answered twice");
        }
        assert_eq!(answers, self.model.answers);
        assert_eq!(answers.len(), self.tags.len());
    }
}

fn event() -> impl Strategy<Value = Event> {
    let end = prop::sample::select(vec![
        End::Stored,
        End::Known,
        End::Poison,
        End::LlmFailed,
        End::Conflict,
        End::Dropped,
    ]);
    prop_oneof![
        4 => (0u8..2, 0u8..3).prop_map(|(key, content)| Event::Comes(key, content)),
        2 => (any::<prop::sample::Index>(), end).prop_map(|(which, end)| Event::Ends(which, end)),
        1 => Just(Event::TriesAgain),
    ]
}

proptest! {
    #[test]
    fn every_chunk_is_answered_once_by_the_outcome_of_its_leader_and_no_key_stays_behind(
        events in proptest::collection::vec(event(), 0..80),
    ) {
        let mut world = World::new(events.len() + 1);
        for event in events {
            match event {
                Event::Comes(key, content) => world.comes(key, content),
                Event::Ends(_, _) if world.leaders.is_empty() => {}
                Event::Ends(which, end) => world.ends(which.index(world.leaders.len()), end),
                Event::TriesAgain => {
                    if let Some((tag, key, content, arrival)) = world.full.pop_front() {
                        world.claim(tag, key, content, arrival);
                    }
                }
            }
            prop_assert!(world.in_flight.following() <= ROOM, "every follower has a slot");
            prop_assert_eq!(world.in_flight.keys(), world.model.queues.values().filter(|q| !q.is_empty()).count());
        }
        world.finish();
    }
}

#[test]
fn without_a_receiver_of_promoted_followers_all_are_answered_however_many_wait() {
    const WAITING: usize = 20_000;
    let (in_flight, promoted) = InFlightKeys::new(Capacity { items: WAITING, bytes: 1 << 30 });
    let (issuer, mut results) = receipt_channel(WAITING + 1);
    let mut first = None;
    for tag in 0..=WAITING as u64 {
        let receipt = block_on(issuer.issue(tag)).unwrap();
        match in_flight.try_claim(Arrival { chunk: chunk(0, 0), receipt }) {
            Claim::Leader(arrival) => first = Some(arrival),
            Claim::Follower => {}
            Claim::Full(_) => panic!("there is room"),
        }
    }
    assert_eq!(in_flight.following(), WAITING);
    drop((promoted, first, issuer));
    let mut lost = 0;
    while let Some((_, outcome)) = block_on(results.next()) {
        assert_eq!(kind(&outcome), "lost");
        lost += 1;
    }
    assert_eq!((lost, in_flight.keys(), in_flight.following()), (WAITING + 1, 0, 0));
}

#[tokio::test]
async fn a_chunk_without_a_slot_waits_for_one_and_then_for_the_outcome_of_its_leader() {
    let (in_flight, _promoted) = InFlightKeys::new(Capacity { items: 1, bytes: 1 << 20 });
    let (issuer, mut results) = receipt_channel(4);
    let arrival =
        async |tag, key| Arrival { chunk: chunk(key, 0), receipt: issuer.issue(tag).await.unwrap() };
    let Claim::Leader(one) = in_flight.try_claim(arrival(1, 1).await) else { panic!("it is free") };
    let Claim::Leader(two) = in_flight.try_claim(arrival(2, 2).await) else { panic!("it is free") };
    assert!(matches!(in_flight.try_claim(arrival(3, 1).await), Claim::Follower));
    let Claim::Full(full) = in_flight.try_claim(arrival(4, 2).await) else { panic!("there is no room") };
    let mut waiting = std::pin::pin!(in_flight.follow(full));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    one.receipt.settle(outcome(&chunk(1, 0), End::Stored).unwrap());
    assert!(waiting.await.is_none(), "there is room now");
    two.receipt.settle(outcome(&chunk(2, 0), End::Poison).unwrap());
    drop(issuer);
    let mut answers = BTreeMap::new();
    while let Some((tag, outcome)) = results.next().await {
        answers.insert(tag, kind(&outcome));
    }
    let expected = [(1, "stored"), (2, "poison"), (3, "duplicate"), (4, "poison")];
    assert_eq!(answers, BTreeMap::from(expected));
    let Claim::Leader(free) = in_flight
        .try_claim(Arrival { chunk: chunk(1, 0), receipt: receipt_channel(1).0.issue(0).await.unwrap() })
    else {
        panic!("it is free again")
    };
    drop(free);
    assert_eq!((in_flight.keys(), in_flight.following()), (0, 0));
}
