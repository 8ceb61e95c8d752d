//! A volume: one LMDB environment with the forests and their metadata.
//!
//! The metadata is written in the same transaction as the vectors, so a volume always equals the store at its
//! watermark, also after a power cut.

use super::error::IndexError;
use super::forests::{BuildParams, Forests, StoredVector, forest_of};
use super::options::{IndexIdentity, VectorKind};
use super::source::{Change, usable};
use crate::files;
use crate::filter::FilterFields;
use crate::lmdb;
use crate::output::throttled;
use heed::byteorder::BigEndian;
use heed::types::{Bytes, SerdeJson, Str, U32};
use heed::{CommitOrAbort, Database, Env, RoTxn, RwTxn, WithoutTls};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The version of the stored layout.
const FORMAT: u32 = 4;
/// The key of the metadata.
const META_KEY: &str = "record";
/// The granularity of the map size: a multiple of every usual page size.
const MAP_GRAIN: usize = 64 * 1024;

/// The metadata of a volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct VolumeMeta {
    format: u32,
    store_id: uuid::Uuid,
    fingerprint: String,
    dims: usize,
    #[serde(default)]
    kind: VectorKind,
    /// The volume contains every change up to here, and no later one.
    pub(super) watermark: i64,
    /// `(seq, item)` of the latest row, to detect another history of the same store.
    pub(super) witness: Option<(i64, u32)>,
    /// Item numbers of a forest. Fixed when the volume is created.
    #[serde(default)]
    forest_items: u32,
    /// The number of items of each forest.
    #[serde(default)]
    pub(super) forests: BTreeMap<u16, u64>,
    /// Every forest has its trees. Once it has, each build keeps them.
    #[serde(default)]
    pub(super) has_trees: bool,
    /// The history of the store that the volume follows.
    #[serde(default)]
    pub(super) history: Arc<str>,
}

/// An item with what is stored of it.
pub(super) struct StoredItem<'t> {
    pub(super) item: u32,
    pub(super) vector: StoredVector<'t>,
    /// The clock value of its last change, and its fields; `None` when their bytes are missing or damaged.
    pub(super) fields: Option<(i64, FilterFields)>,
}

impl VolumeMeta {
    /// The metadata of an empty volume.
    pub(super) fn empty(identity: &IndexIdentity, forest_items: u32) -> VolumeMeta {
        let IndexIdentity { store_id, fingerprint, dims, kind } = identity.clone();
        let forests = BTreeMap::new();
        VolumeMeta {
            format: FORMAT,
            store_id,
            fingerprint,
            dims,
            kind,
            watermark: 0,
            witness: None,
            forest_items,
            forests,
            has_trees: false,
            history: Arc::default(),
        }
    }

    /// The number of items in all forests.
    pub(super) fn items(&self) -> u64 {
        self.forests.values().sum()
    }

    pub(super) fn known_format(&self) -> bool {
        self.format == FORMAT
    }

    pub(super) fn identity(&self) -> IndexIdentity {
        let VolumeMeta { store_id, dims, kind, .. } = *self;
        IndexIdentity { store_id, fingerprint: self.fingerprint.clone(), dims, kind }
    }

    /// The metadata after these changes, which are in order and end at `watermark`.
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
    /// The clock value of the last change of each item, and its fields.
    fields: Database<'static, U32<BigEndian>, Bytes>,
    meta: Database<'static, Str, SerdeJson<VolumeMeta>>,
    path: PathBuf,
}

impl Volume {
    /// Opens a volume, or creates it in an empty folder.
    pub(super) fn open(path: &Path, identity: &IndexIdentity, map_size: usize) -> Result<Volume, IndexError> {
        let map_size = (map_size / MAP_GRAIN).max(16) * MAP_GRAIN;
        let wrap = |error: heed::Error| IndexError::storage(error, map_size);
        // The folder of the index is locked, one thread writes, and `extend_file` appends outside of transactions.
        let env = lmdb::open(path, map_size, 3).map_err(wrap)?;
        if lmdb::is_truncated(&env).map_err(wrap)? {
            return Err(IndexError::Damaged("its file is shorter than its page count".into()));
        }
        let txn = env.write_txn().map_err(wrap)?;
        let (vectors, fields, meta) = env
            .create_databases_and_commit(txn, |opener, txn| {
                let vectors = opener.create_database(txn, Some("vectors"))?;
                let fields = opener.create_database(txn, Some("fields"))?;
                let meta = opener.create_database(txn, Some("record"))?;
                heed::Result::Ok(CommitOrAbort::<_, ()>::Commit((vectors, fields, meta)))
            })
            .map_err(wrap)?
            .commit()
            .ok_or(IndexError::Closed)?;
        let forests = Forests { vectors, dims: identity.dims, map_size };
        Ok(Volume { env, forests, fields, meta, path: path.to_owned() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn dims(&self) -> usize {
        self.forests.dims
    }

    pub(super) fn map_size(&self) -> usize {
        self.forests.map_size
    }

    /// The bytes of the map in use, up to its last page.
    pub(super) fn map_used(&self) -> u64 {
        lmdb::used(&self.env)
    }

    /// Begins a read transaction. It keeps old pages from being reused, so it must be short.
    pub(super) fn read(&self) -> Result<RoTxn<'_, WithoutTls>, IndexError> {
        self.env.read_txn().map_err(|error| self.wrap(error))
    }

    pub(super) fn meta(&self, txn: &RoTxn<'_>) -> Result<Option<VolumeMeta>, IndexError> {
        self.meta.get(txn, META_KEY).map_err(|error| self.wrap(error))
    }

    /// The vector of an item as it was stored.
    pub(super) fn vector<'t>(
        &self,
        txn: &'t RoTxn<'_>,
        meta: &VolumeMeta,
        item: u32,
    ) -> Result<Option<StoredVector<'t>>, IndexError> {
        let forest = forest_of(item, meta.forest_items);
        if !meta.forests.contains_key(&forest) {
            return Ok(None);
        }
        self.forests.item(txn, forest, item)
    }

    /// What is stored of an item.
    pub(super) fn stored<'t>(
        &self,
        txn: &'t RoTxn<'_>,
        meta: &VolumeMeta,
        item: u32,
    ) -> Result<Option<StoredItem<'t>>, IndexError> {
        let Some(vector) = self.vector(txn, meta, item)? else { return Ok(None) };
        let bytes = self.fields.get(txn, &item).map_err(|error| self.wrap(error))?;
        Ok(Some(StoredItem { item, vector, fields: bytes.and_then(fields_of) }))
    }

    /// Calls `show` with every item, in the order of their numbers.
    pub(super) fn scan(
        &self,
        txn: &RoTxn<'_>,
        meta: &VolumeMeta,
        mut show: impl FnMut(StoredItem<'_>) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        for forest in meta.forests.keys() {
            self.forests.scan(txn, *forest, |item, vector| {
                let bytes = self.fields.get(txn, &item).map_err(|error| self.wrap(error))?;
                show(StoredItem { item, vector, fields: bytes.and_then(fields_of) })
            })?;
        }
        Ok(())
    }

    /// Writes changes, without trees and without metadata: only for a volume that is not searched yet.
    pub(super) fn fill(&self, changes: &[Change], meta: &mut VolumeMeta) -> Result<(), IndexError> {
        let mut txn = self.write()?;
        self.put(&mut txn, changes, meta)?;
        txn.commit().map_err(|error| self.wrap(error))
    }

    /// Builds the trees of every forest, each in its own transaction, and then writes the metadata.
    pub(super) fn plant(
        &self,
        meta: VolumeMeta,
        build_params: &BuildParams<'_>,
    ) -> Result<VolumeMeta, IndexError> {
        for forest in meta.forests.keys() {
            let mut txn = self.write()?;
            self.forests.build(&mut txn, *forest, &self.path, build_params)?;
            txn.commit().map_err(|error| self.wrap(error))?;
        }
        self.apply(&[], VolumeMeta { has_trees: true, ..meta }, build_params)
    }

    /// Writes changes and metadata in one transaction, and the trees of the changed forests where the volume has trees.
    /// Returns the metadata as written.
    pub(super) fn apply(
        &self,
        changes: &[Change],
        mut meta: VolumeMeta,
        build_params: &BuildParams<'_>,
    ) -> Result<VolumeMeta, IndexError> {
        let mut txn = self.write()?;
        let touched = self.put(&mut txn, changes, &mut meta)?;
        for forest in touched.into_iter().filter(|_| meta.has_trees) {
            self.forests.build(&mut txn, forest, &self.path, build_params)?;
        }
        self.meta.put(&mut txn, META_KEY, &meta).map_err(|error| self.wrap(error))?;
        txn.commit().map_err(|error| self.wrap(error))?;
        self.extend_file()?;
        Ok(meta)
    }

    /// Writes changes, counts their items in the metadata, and returns their forests.
    fn put(
        &self,
        txn: &mut RwTxn<'_>,
        changes: &[Change],
        meta: &mut VolumeMeta,
    ) -> Result<BTreeSet<u16>, IndexError> {
        let mut touched = BTreeSet::new();
        for change in changes {
            let item = change.item();
            let forest = forest_of(item, meta.forest_items);
            touched.insert(forest);
            let items = meta.forests.entry(forest).or_default();
            let put = match change {
                Change::Put(row) => {
                    let held = usable(&row.vector, self.forests.dims);
                    if held.is_none() {
                        throttled!(error, item, seq = row.seq, "vector is not usable; left out of the index");
                    }
                    held.map(|(vector, _)| (row, vector))
                }
                Change::Gone { .. } => None,
            };
            let vector = put.as_ref().map(|(_, vector)| &**vector);
            let known = self.forests.put(txn, forest, item, vector)?;
            *items = *items + u64::from(put.is_some()) - u64::from(known);
            match put {
                Some((row, _)) => {
                    let stored = stored_fields(row.seq, &row.fields);
                    self.fields.put(txn, &item, &stored).map_err(|error| self.wrap(error))?;
                }
                None => drop(self.fields.delete(txn, &item).map_err(|error| self.wrap(error))?),
            }
        }
        Ok(touched)
    }

    /// Extends the file to its page count, so that [`lmdb::is_truncated`] can rely on the length: LMDB counts pages that it
    /// allocates and frees in one transaction, and does not write them when they are the last.
    fn extend_file(&self) -> Result<(), IndexError> {
        if lmdb::is_truncated(&self.env).map_err(|error| self.wrap(error))? {
            let path = self.path.join("data.mdb");
            let file = files::open(&path, OpenOptions::new().write(true), None);
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

/// The stored bytes of the fields of a row: `seq`, the fields, and the CRC of both.
fn stored_fields(seq: i64, fields: &FilterFields) -> Vec<u8> {
    let mut bytes = [&seq.to_le_bytes(), &fields.to_bytes()[..]].concat();
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

fn fields_of(bytes: &[u8]) -> Option<(i64, FilterFields)> {
    let (content, crc) = bytes.split_last_chunk()?;
    let (seq, fields) = content.split_first_chunk()?;
    let sound = crc32fast::hash(content) == u32::from_le_bytes(*crc);
    sound.then(|| Some((i64::from_le_bytes(*seq), FilterFields::from_bytes(fields)?)))?
}

#[cfg(test)]
mod tests {
    use super::super::source::ChangedRow;
    use super::*;
    use crate::threads::Progress;

    /// `scan` and `item` read arroy's layout without arroy: this fails when an update changes it.
    #[test]
    fn what_arroy_wrote_is_read_without_it() {
        let home = tempfile::tempdir().unwrap();
        let (store_id, kind) = (uuid::Uuid::nil(), VectorKind::default());
        let identity = IndexIdentity { store_id, fingerprint: "m".into(), dims: 3, kind };
        let volume = Volume::open(home.path(), &identity, 1 << 24).unwrap();
        let rows =
            [(0, [3.0, 4.0, 0.0]), (255, [0.0, 1.0, 0.0]), (70_000, [1.0, 2.0, 2.0]), (u32::MAX, [1.0; 3])];
        let fields = FilterFields::default();
        let changes = rows.map(|(item, vector)| {
            let (vector, fields) = (vector.into(), fields.clone());
            Change::Put(ChangedRow { seq: i64::from(item) + 1, item, vector, fields })
        });
        let progress = Progress::new("test");
        let build_params = BuildParams { trees: 3, cancelled: &|| false, progress: &progress, seed: 7 };
        let meta = VolumeMeta::empty(&identity, 60_000).after(&changes, 1 << 40);
        let meta = volume.apply(&changes, meta, &build_params).unwrap();
        let meta = volume.plant(meta, &build_params).unwrap();

        let txn = volume.read().unwrap();
        assert_eq!(volume.meta(&txn).unwrap().as_ref(), Some(&meta));
        let forests = [(0, 2), (1, 1), (u16::MAX, 1)];
        assert_eq!((&meta.forests, meta.has_trees), (&BTreeMap::from(forests), true));
        assert_eq!((meta.items(), meta.watermark, meta.witness), (4, 1 << 40, Some((1 << 32, u32::MAX))));
        let mut seen = Vec::new();
        volume
            .scan(&txn, &meta, |stored| {
                assert_eq!(stored.fields, Some((i64::from(stored.item) + 1, fields.clone())));
                seen.push((stored.item, stored.vector.norm, stored.vector.numbers()));
                Ok(())
            })
            .unwrap();
        let wanted =
            rows.map(|(item, vector)| (item, super::super::resident::norm(&vector), vector.to_vec()));
        assert_eq!(seen, wanted);
        for (item, vector) in rows {
            let forest = forest_of(item, 60_000);
            let arroys = volume.forests.reader(&txn, forest).unwrap().item_vector(&txn, item).unwrap();
            let stored = volume.vector(&txn, &meta, item).unwrap().unwrap().numbers();
            assert_eq!((Some(&stored), &stored[..]), (arroys.as_ref(), &vector[..]));
        }
        assert!(volume.vector(&txn, &meta, 200_000).unwrap().is_none());
    }
}
