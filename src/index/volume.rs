//! A volume: one LMDB environment with the forests and their metadata.
//!
//! The metadata is written in the same transaction as the vectors, so a volume always equals the store at its
//! watermark, also after a power cut.

use super::error::IndexError;
use super::forests::{BuildParams, Forests, forest_of};
use super::options::{IndexIdentity, VectorKind};
use super::source::Change;
use crate::files;
use crate::lmdb;
use heed::types::{SerdeJson, Str};
use heed::{CommitOrAbort, Database, Env, RoTxn, RwTxn, WithoutTls};
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

/// The version of the stored layout.
const FORMAT: u32 = 2;
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
    meta: Database<'static, Str, SerdeJson<VolumeMeta>>,
    path: PathBuf,
}

impl Volume {
    /// Opens a volume, or creates it in an empty folder.
    pub(super) fn open(path: &Path, identity: &IndexIdentity, map_size: usize) -> Result<Volume, IndexError> {
        let map_size = (map_size / MAP_GRAIN).max(16) * MAP_GRAIN;
        let wrap = |error: heed::Error| IndexError::storage(error, map_size);
        // The folder of the index is locked, one thread writes, and `extend_file` appends outside of transactions.
        let env = lmdb::open(path, map_size, 2).map_err(wrap)?;
        if lmdb::is_truncated(&env).map_err(wrap)? {
            return Err(IndexError::Damaged("its file is shorter than its page count".into()));
        }
        let txn = env.write_txn().map_err(wrap)?;
        let (vectors, meta) = env
            .create_databases_and_commit(txn, |opener, txn| {
                let vectors = opener.create_database(txn, Some("vectors"))?;
                let meta = opener.create_database(txn, Some("record"))?;
                heed::Result::Ok(CommitOrAbort::<_, ()>::Commit((vectors, meta)))
            })
            .map_err(wrap)?
            .commit()
            .ok_or(IndexError::Closed)?;
        let forests = Forests { vectors, dims: identity.dims, map_size };
        Ok(Volume { env, forests, meta, path: path.to_owned() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
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
    pub(super) fn vector(
        &self,
        txn: &RoTxn<'_>,
        meta: &VolumeMeta,
        item: u32,
    ) -> Result<Option<Vec<f32>>, IndexError> {
        let forest = forest_of(item, meta.forest_items);
        if !meta.forests.contains_key(&forest) {
            return Ok(None);
        }
        self.forests.vector(txn, forest, item)
    }

    /// The set of items in the volume.
    pub(super) fn items(&self, txn: &RoTxn<'_>, meta: &VolumeMeta) -> Result<RoaringBitmap, IndexError> {
        self.forests.items(txn, meta.forests.keys().copied())
    }

    /// Writes changes without building, and returns the forests to build. Only for a volume that is not searched yet.
    pub(super) fn fill(&self, changes: &[Change], meta: &VolumeMeta) -> Result<BTreeSet<u16>, IndexError> {
        let mut txn = self.write()?;
        let touched = self.forests.put(&mut txn, changes, meta.forest_items)?;
        txn.commit().map_err(|error| self.wrap(error))?;
        Ok(touched)
    }

    /// Builds these forests, each in its own transaction, and then writes the metadata.
    pub(super) fn build(
        &self,
        mut meta: VolumeMeta,
        forests: &BTreeSet<u16>,
        build_params: &BuildParams<'_>,
    ) -> Result<VolumeMeta, IndexError> {
        for forest in forests {
            let mut txn = self.write()?;
            let items = self.forests.build(&mut txn, *forest, &self.path, build_params)?;
            txn.commit().map_err(|error| self.wrap(error))?;
            meta.forests.insert(*forest, items);
        }
        self.apply(&[], meta, build_params)
    }

    /// Writes changes, trees and metadata in one transaction. Returns the metadata as written.
    pub(super) fn apply(
        &self,
        changes: &[Change],
        mut meta: VolumeMeta,
        build_params: &BuildParams<'_>,
    ) -> Result<VolumeMeta, IndexError> {
        let mut txn = self.write()?;
        for forest in self.forests.put(&mut txn, changes, meta.forest_items)? {
            let items = self.forests.build(&mut txn, forest, &self.path, build_params)?;
            meta.forests.insert(forest, items);
        }
        self.meta.put(&mut txn, META_KEY, &meta).map_err(|error| self.wrap(error))?;
        txn.commit().map_err(|error| self.wrap(error))?;
        self.extend_file()?;
        Ok(meta)
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

#[cfg(test)]
mod tests {
    use super::super::source::ChangedRow;
    use super::*;
    use crate::threads::Progress;

    /// `scan` reads arroy's layout without arroy: this fails when an update changes it.
    #[test]
    fn a_scan_sees_what_arroy_wrote() {
        let home = tempfile::tempdir().unwrap();
        let (store_id, kind) = (uuid::Uuid::nil(), VectorKind::default());
        let identity = IndexIdentity { store_id, fingerprint: "m".into(), dims: 3, kind };
        let volume = Volume::open(home.path(), &identity, 1 << 24).unwrap();
        let rows =
            [(0, [3.0, 4.0, 0.0]), (255, [0.0, 1.0, 0.0]), (70_000, [1.0, 2.0, 2.0]), (u32::MAX, [1.0; 3])];
        let changes = rows.map(|(item, vector)| {
            Change::Put(ChangedRow { seq: i64::from(item) + 1, item, vector: vector.into() })
        });
        let progress = Progress::new("test");
        let build_params = BuildParams { trees: 3, cancelled: &|| false, progress: &progress, seed: 7 };
        let meta = VolumeMeta::empty(&identity, 60_000).after(&changes, 1 << 40);
        volume.apply(&changes, meta, &build_params).unwrap();

        let txn = volume.read().unwrap();
        let meta = volume.meta(&txn).unwrap().unwrap();
        let forests = [(0, 2), (1, 1), (u16::MAX, 1)];
        assert_eq!(meta.forests, BTreeMap::from(forests));
        assert_eq!((meta.items(), meta.watermark, meta.witness), (4, 1 << 40, Some((1 << 32, u32::MAX))));
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
            assert_eq!(volume.vector(&txn, &meta, item).unwrap().unwrap(), vector);
        }
        assert_eq!(volume.vector(&txn, &meta, 200_000).unwrap(), None);
        assert_eq!(volume.items(&txn, &meta).unwrap().iter().collect::<Vec<_>>(), rows.map(|(item, _)| item));
    }
}
