//! The delta: changes that are committed and not yet built.
//!
//! It also tracks which commits the index knows. A commit names the range of the clock it took; while the ranges are
//! adjacent, everything up to `complete_to` is either built or in the delta. A range that is not adjacent leaves a gap,
//! which is closed by reading the source.

use super::source::{Change, ChangedRow, Commit, usable};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// Segments of up to this many rows are merged, so that a snapshot is a few pointers.
const SEGMENT_ROWS: usize = 512;

/// Slots in the delta, reserved before a commit: one a change. Dropping them releases the slots.
#[derive(Debug, Default)]
pub struct DeltaSlots {
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

impl DeltaSlots {
    /// No slots: for a commit without a reservation, or while builds fail.
    pub fn none() -> Self {
        DeltaSlots::default()
    }

    /// The number of reserved slots.
    pub fn len(&self) -> usize {
        self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Whether no slot is reserved.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Releases the slots beyond `count`.
    fn shrink_to(&mut self, count: usize) {
        let Some(permit) = self.permit.as_mut() else { return };
        let surplus = permit.num_permits().saturating_sub(count);
        drop(permit.split(surplus));
    }
}

type Segment = Vec<ChangedRow>;

/// A change that the delta took, because it is newer than what it knew.
pub(super) enum Accepted {
    /// The row, with the norm of its vector.
    Put(ChangedRow, f32),
    Gone(u32),
}

/// Segments with dropped rows, to be freed outside the lock.
pub(super) type Garbage = Vec<Arc<Segment>>;

/// The newest change of an item.
#[derive(Debug, Clone, Copy)]
struct Newest {
    seq: i64,
    gone: bool,
}

/// An immutable view of the delta for a build; cheap to take.
#[derive(Clone)]
pub(super) struct Snapshot {
    segments: Vec<Arc<Segment>>,
    newest: Arc<FxHashMap<u32, Newest>>,
    /// Everything up to here is built or in this snapshot.
    pub(super) complete_to: i64,
    /// The highest clock value of any known commit. Changes beyond `complete_to` may be missing here.
    pub(super) highest_seen_seq: i64,
}

impl Snapshot {
    /// Whether this row is the newest change of its item.
    fn is_newest(&self, row: &ChangedRow) -> bool {
        self.newest.get(&row.item).is_some_and(|newest| newest.seq == row.seq && !newest.gone)
    }

    /// Its newest change of each item, to be applied to a volume.
    pub(super) fn changes(&self) -> Vec<Change> {
        let rows = self.segments.iter().flat_map(|segment| segment.iter()).filter(|row| self.is_newest(row));
        let puts = rows.map(|row| Change::Put(row.clone()));
        let gone = self.newest.iter().filter(|(_, it)| it.gone);
        puts.chain(gone.map(|(item, it)| Change::Gone { seq: it.seq, item: *item })).collect()
    }
}

pub(super) struct Delta {
    dims: usize,
    bound: usize,
    segments: Vec<Arc<Segment>>,
    /// Copied only while a build holds it.
    newest: Arc<FxHashMap<u32, Newest>>,
    /// The watermark: nothing up to here is kept.
    floor: i64,
    complete_to: i64,
    /// The highest clock value of any known commit.
    highest_seen_seq: i64,
    /// Commits beyond a gap, `after` -> `upto`.
    after_gap: BTreeMap<i64, i64>,
    /// Slots in use, each with the highest clock value they are used for.
    slots: Vec<(i64, DeltaSlots)>,
    refused: u64,
}

impl Delta {
    pub(super) fn new(watermark: i64, dims: usize, bound: usize) -> Self {
        Delta {
            dims,
            bound,
            segments: Vec::new(),
            newest: Arc::default(),
            floor: watermark,
            complete_to: watermark,
            highest_seen_seq: watermark,
            after_gap: BTreeMap::new(),
            slots: Vec::new(),
            refused: 0,
        }
    }

    /// An empty delta that knows no commit.
    pub(super) fn restarted(&self) -> Self {
        Delta { refused: self.refused, ..Delta::new(0, self.dims, self.bound) }
    }

    /// Whether there is a change of this item.
    pub(super) fn knows(&self, item: u32) -> bool {
        self.newest.contains_key(&item)
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            segments: self.segments.clone(),
            newest: self.newest.clone(),
            complete_to: self.complete_to,
            highest_seen_seq: self.highest_seen_seq,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.newest.len()
    }

    /// Whether a change of this item after `seq` is known.
    pub(super) fn has_newer(&self, item: u32, seq: i64) -> bool {
        self.newest.get(&item).is_some_and(|newest| newest.seq > seq)
    }

    pub(super) fn complete_to(&self) -> i64 {
        self.complete_to
    }

    pub(super) fn gap(&self) -> bool {
        self.highest_seen_seq > self.complete_to
    }

    /// The number of vectors that were unusable; their items are not in the index.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// Adds a commit, and returns those of its changes that are newer than what is known. Without slots in a full delta
    /// it only records the range: `complete_to` stays until a build has read the commit from the source.
    pub(super) fn apply_committed(&mut self, commit: Commit, mut slots: DeltaSlots) -> Vec<Accepted> {
        let Commit { after, upto, rows, tombstones, .. } = commit;
        self.highest_seen_seq = self.highest_seen_seq.max(upto);
        let count = rows.len() + tombstones.len();
        let mut accepted = Vec::with_capacity(count);
        if slots.len() < count && self.newest.len() + count > self.bound {
            return accepted;
        }
        let mut segment = Segment::with_capacity(rows.len());
        for row in rows {
            let held = usable(&row.vector, self.dims);
            self.refused += u64::from(held.is_none());
            if self.note(row.item, Newest { seq: row.seq, gone: held.is_none() }) {
                accepted.push(match held {
                    Some((vector, norm)) => {
                        let row = ChangedRow { vector, ..row };
                        segment.push(row.clone());
                        Accepted::Put(row, norm)
                    }
                    None => Accepted::Gone(row.item),
                });
            }
        }
        for (seq, item) in tombstones {
            if self.note(item, Newest { seq, gone: true }) {
                accepted.push(Accepted::Gone(item));
            }
        }
        self.push(segment);
        slots.shrink_to(accepted.len());
        if !slots.is_empty() {
            self.slots.push((upto, slots));
        }
        if upto > self.complete_to {
            // Adjacent ranges are merged, so that a lasting gap does not make a long list.
            match self.after_gap.range_mut(..=after).next_back() {
                Some((_, end)) if *end >= after => *end = upto.max(*end),
                _ => drop(self.after_gap.insert(after, upto)),
            }
            self.advance();
        }
        accepted
    }

    /// Records a change unless it is built already or a newer one is known, and returns whether it did. A build from
    /// the source can overtake the writer that made the commit.
    fn note(&mut self, item: u32, newest: Newest) -> bool {
        let known = self.newest.get(&item).map_or(self.floor, |known| known.seq.max(self.floor));
        if newest.seq <= known {
            return false;
        }
        Arc::make_mut(&mut self.newest).insert(item, newest);
        true
    }

    /// Adds a segment and merges from the end while the last is as large as the one before: each row moves a few times
    /// in all, and single-row commits do not make a long list.
    fn push(&mut self, segment: Segment) {
        if segment.is_empty() {
            return;
        }
        self.segments.push(Arc::new(segment));
        while let [.., before, last] = &self.segments[..]
            && last.len() >= before.len()
            && last.len() + before.len() <= SEGMENT_ROWS
        {
            let merged = before.iter().chain(last.iter()).cloned().collect();
            self.segments.truncate(self.segments.len() - 2);
            self.segments.push(Arc::new(merged));
        }
    }

    /// Advances `complete_to` over every range that is adjacent to it.
    fn advance(&mut self) {
        while let Some(first) = self.after_gap.first_entry()
            && *first.key() <= self.complete_to
        {
            self.complete_to = self.complete_to.max(first.remove());
        }
    }

    /// Drops the changes up to `watermark`. Returns them, so that the caller can free them outside the lock.
    pub(super) fn drop_built(&mut self, watermark: i64) -> Garbage {
        self.floor = self.floor.max(watermark);
        self.highest_seen_seq = self.highest_seen_seq.max(watermark);
        self.complete_to = self.complete_to.max(watermark);
        self.advance();
        let floor = self.floor;
        let mut garbage = Garbage::new();
        for mut segment in std::mem::take(&mut self.segments) {
            if segment.iter().any(|row| row.seq <= floor) {
                let rest: Segment = segment.iter().filter(|row| row.seq > floor).cloned().collect();
                garbage.push(std::mem::replace(&mut segment, Arc::new(rest)));
            }
            if !segment.is_empty() {
                self.segments.push(segment);
            }
        }
        Arc::make_mut(&mut self.newest).retain(|_, newest| newest.seq > floor);
        self.slots.retain(|(upto, _)| *upto > floor);
        garbage
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::FilterFields;
    use tokio::sync::Semaphore;

    fn delta(bound: usize) -> Delta {
        Delta::new(0, 2, bound)
    }

    /// A commit of one row for each number, whose item is its number.
    fn commit(after: i64, upto: i64) -> Commit {
        let row = |seq| {
            let (vector, fields) = ([0.6, 0.8].into(), FilterFields::default());
            ChangedRow { seq, item: seq as u32, vector, fields }
        };
        let rows = (after + 1..=upto).map(row);
        Commit { after, upto, rows: rows.collect(), ..Commit::default() }
    }

    fn live(delta: &Delta) -> Vec<u32> {
        let changes = delta.snapshot().changes().into_iter();
        let puts = changes.filter(|change| matches!(change, Change::Put(_)));
        let mut items: Vec<u32> = puts.map(|change| change.item()).collect();
        items.sort_unstable();
        items
    }

    #[test]
    fn many_small_commits_make_few_segments() {
        let mut delta = delta(10_000);
        for seq in 0..3_000 {
            delta.apply_committed(commit(seq, seq + 1), DeltaSlots::none());
        }
        assert!(delta.segments.len() <= 3_000 / SEGMENT_ROWS * 2 + 10, "{}", delta.segments.len());
        assert_eq!(live(&delta), (1..=3_000).collect::<Vec<_>>());
        delta.drop_built(2_990);
        assert_eq!(live(&delta), (2_991..=3_000).collect::<Vec<_>>());
        assert_eq!(delta.len(), 10);
    }

    #[test]
    fn completeness_joins_over_commits_that_touch() {
        let mut delta = delta(100);
        for (after, upto) in [(4, 6), (6, 9), (9, 10)] {
            delta.apply_committed(commit(after, upto), DeltaSlots::none());
        }
        assert_eq!((delta.complete_to(), delta.gap(), delta.after_gap.len()), (0, true, 1));
        delta.apply_committed(commit(0, 4), DeltaSlots::none());
        assert_eq!((delta.complete_to(), delta.gap(), delta.after_gap.len()), (10, false, 0));
    }

    #[test]
    fn a_build_from_the_source_can_be_ahead_of_the_commit() {
        let mut delta = delta(100);
        delta.drop_built(5);
        delta.apply_committed(commit(2, 5), DeltaSlots::none());
        assert_eq!((delta.len(), delta.complete_to(), delta.gap()), (0, 5, false));
    }

    #[test]
    fn room_is_held_as_long_as_it_is_used() {
        let room = Arc::new(Semaphore::new(10));
        let reserve = |count| DeltaSlots { permit: room.clone().try_acquire_many_owned(count).ok() };
        let mut delta = delta(10);
        delta.apply_committed(commit(0, 3), reserve(5));
        assert_eq!(room.available_permits(), 7);
        delta.apply_committed(commit(3, 4), reserve(1));
        delta.drop_built(3);
        assert_eq!(room.available_permits(), 9);
        // The same commit again needs no second slot.
        delta.apply_committed(commit(3, 4), reserve(1));
        assert_eq!(room.available_permits(), 9);
        delta.drop_built(4);
        assert_eq!(room.available_permits(), 10);
    }

    #[test]
    fn without_slots_a_full_delta_keeps_only_the_seq() {
        let mut delta = delta(3);
        delta.apply_committed(commit(0, 3), DeltaSlots::none());
        delta.apply_committed(commit(3, 5), DeltaSlots::none());
        assert_eq!((delta.len(), delta.complete_to(), delta.gap()), (3, 3, true));
        // A commit after the missing one is beyond a gap, even with slots.
        delta.drop_built(3);
        delta.apply_committed(commit(5, 6), DeltaSlots::none());
        assert_eq!((live(&delta), delta.complete_to()), (vec![6], 3));
        delta.drop_built(5);
        assert_eq!((delta.complete_to(), delta.gap()), (6, false));
    }

    #[test]
    fn changes_are_the_newest_of_each_item() {
        let mut delta = delta(100);
        delta.apply_committed(commit(0, 3), DeltaSlots::none());
        let gone = Commit { after: 3, upto: 4, tombstones: vec![(4, 2)], ..Commit::default() };
        delta.apply_committed(gone, DeltaSlots::none());
        let mut changes = delta.snapshot().changes();
        changes.sort_by_key(Change::seq);
        let told: Vec<_> = changes
            .iter()
            .map(|change| (change.seq(), change.item(), matches!(change, Change::Put(_))))
            .collect();
        assert_eq!(told, [(1, 1, true), (3, 3, true), (4, 2, false)]);
    }
}
