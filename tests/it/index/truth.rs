//! A store in memory that counts its clock as the real one does, and the questions every test asks.

use lnsp_ingest::filter::{Filter, FilterFields};
use lnsp_ingest::index::{
    BlockDigest, ChangeSource, ChangedRow, Changes, Commit, DIGEST_ITEMS, DeltaSlots, DigestPage, Effort,
    Index, IndexIdentity, IndexOptions, NearestItems, NearestQuery, SourceError, StoreClock, VectorKind,
};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use uuid::Uuid;

pub const DIMS: usize = 24;

#[derive(Clone, Default)]
pub struct Rows {
    clock: i64,
    next_item: u32,
    by_seq: BTreeMap<i64, ChangedRow>,
    seq_of: BTreeMap<u32, i64>,
    tombstones: BTreeMap<i64, u32>,
    history: u32,
}

/// What the source does when it is asked.
#[derive(Clone, Copy, PartialEq)]
pub enum Mood {
    Answers,
    Fails,
    Panics,
}

pub struct Truth {
    rows: Mutex<Rows>,
    mood: Mutex<Mood>,
}

impl Truth {
    pub fn new() -> Arc<Truth> {
        Truth::from_rows(Rows { next_item: 1, ..Rows::default() })
    }

    pub fn from_rows(rows: Rows) -> Arc<Truth> {
        Arc::new(Truth { rows: Mutex::new(rows), mood: Mutex::new(Mood::Answers) })
    }

    pub fn with(count: usize) -> Arc<Truth> {
        let truth = Truth::new();
        truth.insert(count);
        truth
    }

    pub fn rows(&self) -> Rows {
        self.rows.lock().unwrap().clone()
    }

    /// Removes rows, and gives items another vector, without a new number: nothing can hear of it.
    pub fn forge(&self, removed: &[u32], put: &[u32]) {
        let mut rows = self.rows.lock().unwrap();
        for item in removed {
            let seq = rows.seq_of.remove(item).unwrap();
            rows.by_seq.remove(&seq);
        }
        for item in put {
            let seq = *rows.seq_of.entry(*item).or_insert(-i64::from(*item));
            let row = ChangedRow {
                seq,
                item: *item,
                vector: vector(*item, 12_345, DIMS),
                fields: FilterFields::default(),
            };
            rows.by_seq.insert(seq, row);
        }
    }

    /// From here on it is this earlier state of the store, as after a failover that lost commits.
    pub fn fail_over_to(&self, earlier: Rows) {
        let mut rows = self.rows.lock().unwrap();
        let history = rows.history + 1;
        *rows = Rows { history, ..earlier };
    }

    pub fn mood(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    pub fn clock(&self) -> i64 {
        self.rows.lock().unwrap().clock
    }

    pub fn items(&self) -> Vec<u32> {
        self.rows.lock().unwrap().seq_of.keys().copied().collect()
    }

    /// The items whose last change is at most `seq`.
    pub fn items_upto(&self, seq: i64) -> Vec<u32> {
        self.rows.lock().unwrap().by_seq.range(..=seq).map(|(_, row)| row.item).collect()
    }

    pub fn vector_of(&self, item: u32) -> Arc<[f32]> {
        let rows = self.rows.lock().unwrap();
        rows.by_seq[&rows.seq_of[&item]].vector.clone()
    }

    pub fn insert(&self, count: usize) -> Commit {
        let first = self.rows.lock().unwrap().next_item;
        self.insert_vectors((0..count as u32).map(|n| vector(first + n, 0, DIMS)).collect())
    }

    pub fn insert_vectors(&self, vectors: Vec<Arc<[f32]>>) -> Commit {
        self.insert_rows(vectors.into_iter().map(|vector| (vector, FilterFields::default())).collect())
    }

    pub fn insert_rows(&self, new: Vec<(Arc<[f32]>, FilterFields)>) -> Commit {
        self.commit(|rows, commit| {
            for (vector, fields) in new {
                let item = rows.next_item;
                rows.next_item += 1;
                rows.put(item, vector, fields, commit);
            }
        })
    }

    /// Gives items a new vector, as a retagged or replaced row has.
    pub fn replace(&self, items: &[u32]) -> Commit {
        self.commit(|rows, commit| {
            for item in items {
                let old = rows.seq_of[item];
                rows.by_seq.remove(&old);
                rows.put(*item, vector(*item, old, DIMS), FilterFields::default(), commit);
            }
        })
    }

    pub fn delete(&self, items: &[u32]) -> Commit {
        self.commit(|rows, commit| {
            for item in items {
                let old = rows.seq_of.remove(item).unwrap();
                rows.by_seq.remove(&old);
                rows.clock += 1;
                rows.tombstones.insert(rows.clock, *item);
                commit.tombstones.push((rows.clock, *item));
            }
        })
    }

    /// The clock moves and nothing changes: a hole.
    pub fn hole(&self, width: i64) -> Commit {
        self.commit(|rows, _| rows.clock += width)
    }

    fn commit(&self, change: impl FnOnce(&mut Rows, &mut Commit)) -> Commit {
        let mut rows = self.rows.lock().unwrap();
        let mut commit = Commit { history: rows.history(), after: rows.clock, ..Commit::default() };
        change(&mut rows, &mut commit);
        commit.upto = rows.clock;
        commit
    }

    fn answer<T>(&self, answer: impl FnOnce(&Rows) -> T) -> Result<T, SourceError> {
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Answers => Ok(answer(&self.rows.lock().unwrap())),
            Mood::Fails => Err(SourceError::new("scripted failure")),
            Mood::Panics => panic!("scripted panic"),
        }
    }
}

impl Rows {
    fn history(&self) -> Arc<str> {
        self.history.to_string().into()
    }

    fn put(&mut self, item: u32, vector: Arc<[f32]>, fields: FilterFields, commit: &mut Commit) {
        self.clock += 1;
        let row = ChangedRow { seq: self.clock, item, vector, fields };
        self.by_seq.insert(self.clock, row.clone());
        self.seq_of.insert(item, self.clock);
        commit.rows.push(row);
    }
}

impl ChangeSource for Truth {
    fn changes_after(&self, seq: i64, limit: usize) -> Result<Changes, SourceError> {
        self.answer(|rows| Changes {
            clock: rows.clock,
            rows: rows.by_seq.range(seq + 1..).take(limit).map(|(_, row)| row.clone()).collect(),
            tombstones: rows
                .tombstones
                .range(seq + 1..)
                .take(limit)
                .map(|(seq, item)| (*seq, *item))
                .collect(),
        })
    }

    fn row_at(&self, seq: i64) -> Result<Option<ChangedRow>, SourceError> {
        self.answer(|rows| rows.by_seq.get(&seq).cloned())
    }

    fn clock(&self) -> Result<StoreClock, SourceError> {
        self.answer(|rows| StoreClock { seq: rows.clock, history: rows.history() })
    }

    fn digests(&self, from: u32, count: u32) -> Result<DigestPage, SourceError> {
        self.answer(|rows| {
            let mut blocks: BTreeMap<u32, Sha256> = BTreeMap::new();
            for (item, seq) in rows.seq_of.iter().filter(|(item, _)| **item / DIGEST_ITEMS >= from) {
                let hash = blocks.entry(*item / DIGEST_ITEMS).or_default();
                hash.update(i64::from(*item).to_be_bytes());
                hash.update(seq.to_be_bytes());
                rows.by_seq[seq].vector.iter().for_each(|x| hash.update(x.to_le_bytes()));
            }
            let next = blocks.split_off(&(from + count)).into_keys().next();
            let digest = |(block, hash): (u32, Sha256)| BlockDigest { block, sha256: hash.finalize().into() };
            DigestPage { digests: blocks.into_iter().map(digest).collect(), next }
        })
    }

    fn rows_of(&self, block: u32) -> Result<Vec<ChangedRow>, SourceError> {
        self.answer(|rows| {
            let items = rows.seq_of.iter().filter(|(item, _)| **item / DIGEST_ITEMS == block);
            items.map(|(_, seq)| rows.by_seq[seq].clone()).collect()
        })
    }
}

/// A unit vector that is a function of its item and version: far from every other.
pub fn vector(item: u32, version: i64, dims: usize) -> Arc<[f32]> {
    let mut state = (u64::from(item) << 32) ^ version as u64 ^ 0x9E37_79B9_7F4A_7C15;
    let raw: Vec<f32> = (0..dims)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1u64 << 24) as f32) - 0.5
        })
        .collect();
    unit(&raw)
}

pub fn unit(raw: &[f32]) -> Arc<[f32]> {
    let norm = raw.iter().map(|x| x * x).sum::<f32>().sqrt();
    raw.iter().map(|x| x / norm).collect()
}

pub fn identity() -> IndexIdentity {
    let (store_id, fingerprint, kind) = (Uuid::from_u128(7), "model-a".into(), VectorKind::Concept);
    IndexIdentity { store_id, fingerprint, dims: DIMS, kind }
}

/// Builds only when told to: nothing happens by the clock or by numbers.
pub fn options(dir: &Path) -> IndexOptions {
    let mut options = IndexOptions::new(dir, identity());
    options.map_size = 1 << 30;
    options.trees = 10;
    // So few that a handful of rows is divided among several.
    options.forest_items = 16;
    options.policy.idle = Duration::from_secs(3600);
    options.policy.at_least = usize::MAX;
    options.policy.at_most = usize::MAX;
    options.policy.page = 100;
    options
}

pub fn open(dir: &Path, truth: &Arc<Truth>) -> Index {
    Index::open(options(dir), truth.clone()).unwrap()
}

/// As the writer does it: room, commit, delta.
pub async fn tell(index: &Index, commit: Commit) {
    let slots = index.reserve(commit.rows.len() + commit.tombstones.len()).await;
    // Of another history, it is read later.
    drop(index.apply_committed(slots, commit));
}

pub fn tell_without_room(index: &Index, commit: Commit) {
    drop(index.apply_committed(DeltaSlots::none(), commit));
}

/// What a search without a filter finds.
pub fn nearest(index: &Index, vector: &[f32], k: usize, effort: Effort) -> NearestItems {
    index.search(&NearestQuery { vector, filter: &Filter::default(), k, effort }).unwrap()
}

/// The index holds exactly the committed items, with their vectors, and finds them.
pub fn assert_equal(index: &Index, truth: &Truth) {
    let items = truth.items();
    assert_eq!(index.items().iter().collect::<Vec<_>>(), items);
    assert_eq!(index.len(), items.len() as u64);
    for item in &items {
        assert_eq!(index.vector(*item).unwrap().as_deref(), Some(&truth.vector_of(*item)[..]), "item {item}");
    }
    for item in items.iter().step_by(items.len() / 20 + 1) {
        let found = nearest(index, &truth.vector_of(*item), 1, Effort::Exact);
        assert_eq!(found.hits[0].item, *item);
        assert!(found.hits[0].score > 0.999);
    }
    let status = index.status();
    assert!(status.applied_seq >= status.built_seq);
}

/// Waits for a fact that another thread makes true.
pub fn until(what: &str, fact: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !fact() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::yield_now();
    }
}

/// A folder with everything in it.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
