//! What a search sees: all rows in memory, and the delta that says which of them are not in the volume yet. Both change
//! together.

use super::delta::{Accepted, Delta, DeltaSlots, Garbage};
use super::error::IndexError;
use super::resident::{Resident, RowFacts};
use super::source::{Change, Commit, StoreClock, usable};
use super::volume::{Volume, VolumeMeta};
use std::sync::Arc;

pub(super) struct Live {
    /// The history that its rows and its delta are of.
    pub(super) history: Arc<str>,
    pub(super) delta: Delta,
    pub(super) resident: Resident,
}

impl Live {
    /// The rows of a volume, without changes after it.
    ///
    /// # Errors
    /// The volume is damaged, or cannot be read.
    pub(super) fn load(volume: &Volume, meta: &VolumeMeta, slots: usize) -> Result<Live, IndexError> {
        let dims = volume.dims();
        let mut resident = Resident::new(dims);
        let txn = volume.read()?;
        volume.scan(&txn, meta, |stored| {
            let damaged =
                || IndexError::Damaged(format!("the fields of item {} cannot be read", stored.item));
            let (seq, fields) = stored.fields.ok_or_else(damaged)?;
            let facts = RowFacts::new((seq, stored.item), &fields, None);
            resident.put(facts, &stored.vector.numbers(), stored.vector.norm, &fields);
            Ok(())
        })?;
        if resident.len() as u64 != meta.items() {
            let (found, said) = (resident.len(), meta.items());
            return Err(IndexError::Damaged(format!("it has {found} items, and its metadata says {said}")));
        }
        let delta = Delta::new(meta.watermark, dims, slots);
        Ok(Live { history: meta.history.clone(), delta, resident })
    }

    /// Of a volume that is not used.
    pub(super) fn empty(dims: usize) -> Live {
        Live { history: Arc::default(), delta: Delta::new(0, dims, 0), resident: Resident::new(dims) }
    }

    pub(super) fn apply_committed(&mut self, commit: Commit, slots: DeltaSlots) {
        for accepted in self.delta.apply_committed(commit, slots) {
            match accepted {
                Accepted::Put(row, norm) => {
                    let unbuilt = Some((row.vector.clone(), norm));
                    let facts = RowFacts::new((row.seq, row.item), &row.fields, unbuilt);
                    self.resident.put(facts, &row.vector, norm, &row.fields);
                }
                Accepted::Gone(item) => self.resident.remove(item),
            }
        }
    }

    /// After these changes were read from the source and built. A commit that came meanwhile is newer.
    pub(super) fn caught_up(&mut self, changes: &[Change]) {
        for change in changes {
            let (item, seq) = (change.item(), change.seq());
            let known = self.resident.get(item).is_some_and(|facts| facts.seq > seq);
            if !known && !self.delta.has_newer(item, seq) {
                self.apply_built(change);
            }
        }
    }

    /// After these repairs of the volume. What is in the delta is newer; everything else counts as it was repaired.
    pub(super) fn repaired(&mut self, changes: &[Change]) {
        for change in changes {
            if !self.delta.knows(change.item()) {
                self.apply_built(change);
            }
        }
    }

    fn apply_built(&mut self, change: &Change) {
        let put = match change {
            Change::Put(row) => usable(&row.vector, self.resident.dims()).map(|held| (row, held)),
            Change::Gone { .. } => None,
        };
        match put {
            Some((row, (vector, norm))) => {
                let facts = RowFacts::new((row.seq, row.item), &row.fields, None);
                self.resident.put(facts, &vector, norm, &row.fields);
            }
            None => self.resident.remove(change.item()),
        }
    }

    /// Everything up to here is reflected.
    pub(super) fn clock(&self) -> StoreClock {
        StoreClock { seq: self.delta.complete_to(), history: self.history.clone() }
    }

    /// The store has another history: the delta is of the one before. Its rows stay in memory until they are compared.
    /// Until then it follows none.
    pub(super) fn forget_delta(&mut self) {
        self.history = Arc::default();
        self.delta = self.delta.restarted();
    }

    /// After a build up to this clock value. Returns what the caller can free outside the lock.
    pub(super) fn built(&mut self, watermark: i64) -> Garbage {
        self.resident.built(watermark);
        self.delta.drop_built(watermark)
    }

    /// Takes the rows of another volume, and the changes after it that are known here.
    pub(super) fn switch_to(&mut self, mut other: Live) {
        for change in self.delta.snapshot().changes() {
            if change.seq() <= other.delta.complete_to() {
                continue;
            }
            match change {
                Change::Put(row) => {
                    let norm = super::resident::norm(&row.vector);
                    let facts =
                        RowFacts::new((row.seq, row.item), &row.fields, Some((row.vector.clone(), norm)));
                    other.resident.put(facts, &row.vector, norm, &row.fields);
                }
                Change::Gone { item, .. } => other.resident.remove(item),
            }
        }
        self.resident = other.resident;
        self.history = other.history;
    }
}
