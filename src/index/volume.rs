//! A volume: one LMDB environment with the forests, and one record that says what they are.
//!
//! The record is written in the transaction of the vectors it speaks about, so a volume is always equal to the
//! store at its watermark, whenever the power went.

use super::error::IndexError;
use super::forests::{BuildParams, Forests, forest_of};
use super::options::IndexIdentity;
use super::source::Change;
use heed::types::{SerdeJson, Str};
use heed::{CommitOrAbort, Database, Env, EnvOpenOptions, RoTxn, RwTxn, WithoutTls};
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Changes with the layout of what is stored.
const FORMAT: u32 = 2;
/// The only key beside the vectors.
const RECORD: &str = "record";
/// Searches on all threads of the process, with room for the command line tools.
const MAX_READERS: u32 = 1024;
/// A multiple of every page size we may meet.
const MAP_GRAIN: usize = 64 * 1024;

/// What a volume says about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct VolumeMeta {
    format: u32,
    store_id: uuid::Uuid,
    fingerprint: String,
    dims: usize,
    /// Every change up to here is in, and none beyond.
    pub(super) watermark: i64,
    /// The latest row that is in: by it another history of the same store is recognised.
    pub(super) witness: Option<(i64, u32)>,
    /// How many item numbers a forest takes. Fixed when the volume is made.
    #[serde(default)]
    forest_items: u32,
    /// The forests there are, and how many items each has.
    #[serde(default)]
    pub(super) forests: BTreeMap<u16, u64>,
}

impl VolumeMeta {
    /// Nothing is in yet.
    pub(super) fn empty(identity: &IndexIdentity, forest_items: u32) -> VolumeMeta {
        let IndexIdentity { store_id, fingerprint, dims } = identity.clone();
        let forests = BTreeMap::new();
        VolumeMeta {
            format: FORMAT,
            store_id,
            fingerprint,
            dims,
            watermark: 0,
            witness: None,
            forest_items,
            forests,
        }
    }

    /// How many items are in.
    pub(super) fn items(&self) -> u64 {
        self.forests.values().sum()
    }

    pub(super) fn known_format(&self) -> bool {
        self.format == FORMAT
    }

    pub(super) fn identity(&self) -> IndexIdentity {
        IndexIdentity { store_id: self.store_id, fingerprint: self.fingerprint.clone(), dims: self.dims }
    }

    /// The record after these changes, which are in order and end at `watermark`.
    pub(super) fn after(&self, changes: &[Change], watermark: i64) -> VolumeMeta {
        let touched = |item| changes.iter().any(|change| change.item() == item);
        let mut newest = rustc_hash::FxHashMap::default();
        changes.iter().for_each(|change| {
            newest.insert(change.item(), change.seq());
        });
        let put = changes.iter().rev().find_map(|change| match change {
            Change::Put(row) if newest.get(&row.item) == Some(&row.seq) => Some((row.seq, row.item)),
            _ => None,
        });
        VolumeMeta {
            watermark,
            witness: put.or(self.witness.filter(|(_, item)| !touched(*item))),
            ..self.clone()
        }
    }
}

pub(super) struct Volume {
    env: Env<WithoutTls>,
    pub(super) forests: Forests,
    record: Database<'static, Str, SerdeJson<VolumeMeta>>,
    path: PathBuf,
}

impl Volume {
    /// Opens a volume, or makes it when the folder is empty.
    pub(super) fn open(path: &Path, identity: &IndexIdentity, map_size: usize) -> Result<Volume, IndexError> {
        let map_size = (map_size / MAP_GRAIN).max(16) * MAP_GRAIN;
        let wrap = |error: heed::Error| IndexError::storage(error, map_size);
        let env = open_env(path, map_size).map_err(wrap)?;
        if is_cut_off(&env).map_err(wrap)? {
            return Err(IndexError::Damaged("its file is shorter than its page count".into()));
        }
        let txn = env.write_txn().map_err(wrap)?;
        let (vectors, record) = env
            .create_databases_and_commit(txn, |opener, txn| {
                let vectors = opener.create_database(txn, Some("vectors"))?;
                let record = opener.create_database(txn, Some("record"))?;
                heed::Result::Ok(CommitOrAbort::<_, ()>::Commit((vectors, record)))
            })
            .map_err(wrap)?
            .commit()
            .ok_or(IndexError::Closed)?;
        let forests = Forests { vectors, dims: identity.dims, map_size };
        Ok(Volume { env, forests, record, path: path.to_owned() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn map_size(&self) -> usize {
        self.forests.map_size
    }

    /// Bytes of the map that were ever used.
    pub(super) fn map_used(&self) -> u64 {
        used(&self.env)
    }

    /// A read transaction. It keeps the pages of its moment from being reused, so it must be short.
    pub(super) fn read(&self) -> Result<RoTxn<'_, WithoutTls>, IndexError> {
        self.env.read_txn().map_err(|error| self.wrap(error))
    }

    pub(super) fn record(&self, txn: &RoTxn<'_>) -> Result<Option<VolumeMeta>, IndexError> {
        self.record.get(txn, RECORD).map_err(|error| self.wrap(error))
    }

    /// The vector of an item, as it was put in.
    pub(super) fn vector(
        &self,
        txn: &RoTxn<'_>,
        record: &VolumeMeta,
        item: u32,
    ) -> Result<Option<Vec<f32>>, IndexError> {
        let forest = forest_of(item, record.forest_items);
        if !record.forests.contains_key(&forest) {
            return Ok(None);
        }
        self.forests.vector(txn, forest, item)
    }

    /// Every item that is in.
    pub(super) fn items(&self, txn: &RoTxn<'_>, record: &VolumeMeta) -> Result<RoaringBitmap, IndexError> {
        self.forests.items(txn, record.forests.keys().copied())
    }

    /// Puts changes in without building, and returns the forests that wait for it: only for a volume that nobody
    /// reads yet.
    pub(super) fn fill(&self, changes: &[Change], record: &VolumeMeta) -> Result<BTreeSet<u16>, IndexError> {
        let mut txn = self.write()?;
        let touched = self.forests.put(&mut txn, changes, record.forest_items)?;
        txn.commit().map_err(|error| self.wrap(error))?;
        Ok(touched)
    }

    /// Builds what was filled, each forest in its own transaction, and writes the record with the last of them.
    pub(super) fn build(
        &self,
        mut record: VolumeMeta,
        forests: &BTreeSet<u16>,
        build_params: &BuildParams<'_>,
    ) -> Result<VolumeMeta, IndexError> {
        for forest in forests {
            let mut txn = self.write()?;
            let items = self.forests.build(&mut txn, *forest, &self.path, build_params)?;
            txn.commit().map_err(|error| self.wrap(error))?;
            record.forests.insert(*forest, items);
        }
        self.apply(&[], record, build_params)
    }

    /// One transaction: the changes, the trees, the record. Returns the record as written.
    pub(super) fn apply(
        &self,
        changes: &[Change],
        mut record: VolumeMeta,
        build_params: &BuildParams<'_>,
    ) -> Result<VolumeMeta, IndexError> {
        let mut txn = self.write()?;
        for forest in self.forests.put(&mut txn, changes, record.forest_items)? {
            let items = self.forests.build(&mut txn, forest, &self.path, build_params)?;
            record.forests.insert(forest, items);
        }
        self.record.put(&mut txn, RECORD, &record).map_err(|error| self.wrap(error))?;
        txn.commit().map_err(|error| self.wrap(error))?;
        self.fill_up()?;
        Ok(record)
    }

    /// LMDB counts pages that it took and gave up in one transaction, and does not write them when they are the
    /// last; so that [`is_cut_off`] can trust the length, the file is made as long as the count says.
    fn fill_up(&self) -> Result<(), IndexError> {
        if is_cut_off(&self.env).map_err(|error| self.wrap(error))? {
            let path = self.path.join("data.mdb");
            let file = std::fs::OpenOptions::new().write(true).open(&path);
            file.and_then(|file| file.set_len(self.map_used()))
                .map_err(|error| IndexError::io(path, error))?;
        }
        Ok(())
    }

    fn write(&self) -> Result<RwTxn<'_>, IndexError> {
        self.env.write_txn().map_err(|error| self.wrap(error))
    }

    fn wrap(&self, error: impl Into<arroy::Error>) -> IndexError {
        self.forests.wrap(error)
    }
}

/// Bytes up to the last page.
fn used(env: &Env<WithoutTls>) -> u64 {
    (env.info().last_page_number as u64 + 1) * u64::from(env.unnamed_database_stat().page_size)
}

/// A file that is shorter than its own page count was cut off: reading the missing part would kill the process.
fn is_cut_off(env: &Env<WithoutTls>) -> heed::Result<bool> {
    Ok(env.real_disk_size()? < used(env))
}

/// The only unsafe call of the index.
#[allow(unsafe_code)]
fn open_env(path: &Path, map_size: usize) -> heed::Result<Env<WithoutTls>> {
    // Without thread-local storage, because a thread may hold two readers at once and searches come from any thread.
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(map_size).max_readers(MAX_READERS).max_dbs(2);
    // SAFETY: the map is undefined behaviour only if someone else changes the file under it. `Folder` holds a lock
    // on the index folder for as long as the process uses it, so no second process opens a volume; heed refuses a
    // second environment on one path within the process; the map is never resized; no flag weakens locking or
    // syncing; and files are changed through LMDB alone, but for `fill_up`, which only appends while the one
    // writing thread is not in a transaction.
    unsafe { options.open(path) }
}

#[cfg(test)]
mod tests {
    use super::super::source::ChangedRow;
    use super::*;
    use crate::threads::Progress;

    /// `scan` reads arroy's layout without arroy: this fails when an update changes it.
    #[test]
    fn a_scan_sees_what_arroy_wrote() {
        let home = tempfile::tempdir().unwrap();
        let identity = IndexIdentity { store_id: uuid::Uuid::nil(), fingerprint: "m".into(), dims: 3 };
        let volume = Volume::open(home.path(), &identity, 1 << 24).unwrap();
        let rows =
            [(0, [3.0, 4.0, 0.0]), (255, [0.0, 1.0, 0.0]), (70_000, [1.0, 2.0, 2.0]), (u32::MAX, [1.0; 3])];
        let changes = rows.map(|(item, vector)| {
            Change::Put(ChangedRow { seq: i64::from(item) + 1, item, vector: vector.into() })
        });
        let progress = Progress::new("test");
        let build_params = BuildParams { trees: 3, cancelled: &|| false, progress: &progress, seed: 7 };
        let record = VolumeMeta::empty(&identity, 60_000).after(&changes, 1 << 40);
        volume.apply(&changes, record, &build_params).unwrap();

        let txn = volume.read().unwrap();
        let record = volume.record(&txn).unwrap().unwrap();
        let forests = [(0, 2), (1, 1), (u16::MAX, 1)];
        assert_eq!(record.forests, BTreeMap::from(forests));
        assert_eq!(
            (record.items(), record.watermark, record.witness),
            (4, 1 << 40, Some((1 << 32, u32::MAX)))
        );
        let mut seen = Vec::new();
        for (forest, _) in forests {
            let show = |item, norm, bytes: &[u8]| {
                let floats = bytes.as_chunks::<4>().0.iter().map(|x| f32::from_ne_bytes(*x));
                seen.push((item, norm, floats.collect::<Vec<_>>()));
            };
            volume.forests.scan(&txn, forest, show).unwrap();
        }
        let wanted = rows.map(|(item, vector)| (item, super::super::scan::norm(&vector), vector.to_vec()));
        assert_eq!(seen, wanted);
        for (item, vector) in rows {
            assert_eq!(volume.vector(&txn, &record, item).unwrap().unwrap(), vector);
        }
        assert_eq!(volume.vector(&txn, &record, 200_000).unwrap(), None);
        assert_eq!(
            volume.items(&txn, &record).unwrap().iter().collect::<Vec<_>>(),
            rows.map(|(item, _)| item)
        );
    }
}
