//! A volume: one LMDB environment with the vectors, their trees, and one record that says what they are.
//!
//! The record is written in the transaction of the vectors it speaks about, so a volume is always equal to the
//! store at its watermark, whenever the power went.

use super::error::IndexError;
use super::options::IndexIdentity;
use super::source::{Change, usable};
use crate::pulse::Pulse;
use arroy::distances::Cosine;
use arroy::{Writer, WriterProgress};
use heed::types::{Bytes, SerdeJson, Str};
use heed::{CommitOrAbort, Database, Env, EnvOpenOptions, RoTxn, RwTxn, WithoutTls};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Changes with the layout of what is stored.
const FORMAT: u32 = 1;
/// Arroy can keep several forests in one database; we have one.
const FOREST: u16 = 0;
/// The only key beside the vectors.
const RECORD: &str = "record";
/// The start of the key of every item in arroy's database: the forest, and the kind "item". Checked by a test.
const ITEM_PREFIX: [u8; 3] = [0, 0, 3];
/// The tag and the norm that come before the vector in the value of an item. Checked by a test.
const ITEM_HEADER: usize = 1 + size_of::<f32>();
/// Searches on all threads of the process, with room for the command line tools.
const MAX_READERS: u32 = 1024;
/// A multiple of every page size we may meet.
const MAP_GRAIN: usize = 64 * 1024;

/// What a volume says about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    format: u32,
    store_id: uuid::Uuid,
    fingerprint: String,
    dims: usize,
    /// Every change up to here is in, and none beyond.
    pub(super) watermark: i64,
    /// The latest row that is in: by it another history of the same store is recognised.
    pub(super) witness: Option<(i64, u32)>,
    pub(super) items: u64,
}

impl Record {
    /// Nothing is in yet.
    pub(super) fn empty(identity: &IndexIdentity) -> Record {
        let IndexIdentity { store_id, fingerprint, dims } = identity.clone();
        Record { format: FORMAT, store_id, fingerprint, dims, watermark: 0, witness: None, items: 0 }
    }

    pub(super) fn known_format(&self) -> bool {
        self.format == FORMAT
    }

    pub(super) fn identity(&self) -> IndexIdentity {
        IndexIdentity { store_id: self.store_id, fingerprint: self.fingerprint.clone(), dims: self.dims }
    }

    /// The record after these changes, which are in order and end at `watermark`.
    pub(super) fn after(&self, changes: &[Change], watermark: i64) -> Record {
        let touched = |item| changes.iter().any(|change| change.item() == item);
        let mut newest = rustc_hash::FxHashMap::default();
        changes.iter().for_each(|change| {
            newest.insert(change.item(), change.seq());
        });
        let put = changes.iter().rev().find_map(|change| match change {
            Change::Put(row) if newest.get(&row.item) == Some(&row.seq) => Some((row.seq, row.item)),
            _ => None,
        });
        Record {
            watermark,
            witness: put.or(self.witness.filter(|(_, item)| !touched(*item))),
            ..self.clone()
        }
    }
}

/// How a build is done.
pub(super) struct Forestry<'a> {
    pub(super) trees: usize,
    /// Asked often during a build; `true` ends it at once.
    pub(super) cancelled: &'a (dyn Fn() -> bool + Sync),
    /// Gets the signs of life that a build gives.
    pub(super) pulse: &'a Pulse,
}

impl Forestry<'_> {
    fn asked(&self) -> bool {
        self.pulse.beat();
        (self.cancelled)()
    }

    fn moved(&self, progress: WriterProgress) {
        self.pulse.beat();
        if let Some(step) = progress.sub {
            self.pulse.follow(step.current);
        }
    }
}

pub(super) struct Volume {
    env: Env<WithoutTls>,
    vectors: arroy::Database<'static, Cosine>,
    record: Database<'static, Str, SerdeJson<Record>>,
    path: PathBuf,
    dims: usize,
    map_size: usize,
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
        Ok(Volume { env, vectors, record, path: path.to_owned(), dims: identity.dims, map_size })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn map_size(&self) -> usize {
        self.map_size
    }

    /// Bytes of the map that were ever used.
    pub(super) fn map_used(&self) -> u64 {
        used(&self.env)
    }

    /// A read transaction. It keeps the pages of its moment from being reused, so it must be short.
    pub(super) fn read(&self) -> Result<RoTxn<'_, WithoutTls>, IndexError> {
        self.env.read_txn().map_err(|error| self.wrap(error))
    }

    pub(super) fn record(&self, txn: &RoTxn<'_>) -> Result<Option<Record>, IndexError> {
        self.record.get(txn, RECORD).map_err(|error| self.wrap(error))
    }

    pub(super) fn reader<'t>(&self, txn: &'t RoTxn<'_>) -> Result<arroy::Reader<'t, Cosine>, IndexError> {
        arroy::Reader::open(txn, FOREST, self.vectors).map_err(|error| self.wrap(error))
    }

    /// Shows every built item with its norm and the bytes of its vector. Arroy's own iterator copies each vector,
    /// which takes longer than looking at it.
    pub(super) fn scan(
        &self,
        txn: &RoTxn<'_>,
        mut show: impl FnMut(u32, f32, &[u8]),
    ) -> Result<(), IndexError> {
        let length = ITEM_HEADER + self.dims * size_of::<f32>();
        let raw = self.vectors.remap_types::<Bytes, Bytes>();
        for entry in raw.prefix_iter(txn, &ITEM_PREFIX).map_err(|error| self.wrap(error))? {
            let (key, value) = entry.map_err(|error| self.wrap(error))?;
            let item = key.get(ITEM_PREFIX.len()..).and_then(<[u8]>::first_chunk);
            let header = value.split_first_chunk::<ITEM_HEADER>().filter(|_| value.len() == length);
            let (Some(item), Some(([_, norm @ ..], vector))) = (item, header) else {
                return Err(IndexError::Damaged(format!("an item has {} bytes, not {length}", value.len())));
            };
            show(u32::from_be_bytes(*item), f32::from_ne_bytes(*norm), vector);
        }
        Ok(())
    }

    /// Puts changes in without building: only for a volume that nobody reads yet.
    pub(super) fn fill(&self, changes: &[Change]) -> Result<(), IndexError> {
        let mut txn = self.write()?;
        self.put(&mut txn, changes)?;
        txn.commit().map_err(|error| self.wrap(error))
    }

    /// One transaction: the changes, the trees, the record. Returns the record as written.
    pub(super) fn apply(
        &self,
        changes: &[Change],
        record: Record,
        forestry: &Forestry<'_>,
    ) -> Result<Record, IndexError> {
        let mut txn = self.write()?;
        self.put(&mut txn, changes)?;
        let mut writer = Writer::new(self.vectors, FOREST, self.dims);
        // Not the system's folder for temporary files, which may be small or lie in memory.
        writer.set_tmpdir(&self.path);
        if writer.need_build(&txn).map_err(|error| self.wrap(error))? {
            // Any seed is as good as another; a fixed one makes a failure repeatable.
            let mut random = StdRng::seed_from_u64(record.watermark.unsigned_abs());
            let mut builder = writer.builder(&mut random);
            builder.n_trees(forestry.trees);
            builder.cancel(|| forestry.asked()).progress(|progress| forestry.moved(progress));
            builder.build(&mut txn).map_err(|error| self.wrap(error))?;
        }
        let items = self.reader(&txn)?.n_items();
        let record = Record { items, ..record };
        self.record.put(&mut txn, RECORD, &record).map_err(|error| self.wrap(error))?;
        txn.commit().map_err(|error| self.wrap(error))?;
        self.fill_up()?;
        Ok(record)
    }

    fn put(&self, txn: &mut RwTxn<'_>, changes: &[Change]) -> Result<(), IndexError> {
        let writer = Writer::new(self.vectors, FOREST, self.dims);
        for change in changes {
            match change {
                Change::Put(row) if usable(&row.vector, self.dims).is_some() => {
                    writer.add_item(txn, row.item, &row.vector).map_err(|error| self.wrap(error))?;
                }
                Change::Put(row) => {
                    tracing::error!(
                        item = row.item,
                        seq = row.seq,
                        "vector is not usable; left out of the index"
                    );
                    writer.del_item(txn, row.item).map_err(|error| self.wrap(error))?;
                }
                Change::Gone { item, .. } => {
                    writer.del_item(txn, *item).map_err(|error| self.wrap(error))?;
                }
            }
        }
        Ok(())
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
        IndexError::storage(error, self.map_size)
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
        let pulse = Pulse::new("test");
        let forestry = Forestry { trees: 3, cancelled: &|| false, pulse: &pulse };
        volume.apply(&changes, Record::empty(&identity).after(&changes, 1 << 40), &forestry).unwrap();

        let txn = volume.read().unwrap();
        let mut seen = Vec::new();
        volume
            .scan(&txn, |item, norm, bytes| {
                let floats = bytes.as_chunks::<4>().0.iter().map(|x| f32::from_ne_bytes(*x));
                seen.push((item, norm, floats.collect::<Vec<_>>()));
            })
            .unwrap();
        let wanted = rows.map(|(item, vector)| (item, super::super::scan::norm(&vector), vector.to_vec()));
        assert_eq!(seen, wanted);
        let record = volume.record(&txn).unwrap().unwrap();
        assert_eq!((record.items, record.watermark, record.witness), (4, 1 << 40, Some((1 << 32, u32::MAX))));
    }
}
