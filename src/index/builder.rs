//! Brings a volume up to date with the source: checks the existing one, rebuilds, catches up.
//!
//! Plain functions without threads or locks; [`super::writer`] decides when they run.

use super::error::{IndexError, SourceError};
use super::folder::Folder;
use super::forests::BuildParams;
use super::live::Live;
use super::options::{IndexIdentity, IndexOptions};
use super::source::{Change, ChangePage, ChangeSource, usable};
use super::status::RebuildReason;
use super::volume::{Volume, VolumeMeta};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Beyond this many full increments a rebuild is faster than a catch-up.
const FAR_BEHIND: i64 = 4;

/// The folder, the options and the source of an index: what a rebuild or a catch-up needs.
pub(super) struct RebuildContext<'a> {
    pub(super) folder: &'a Folder,
    pub(super) options: &'a IndexOptions,
    pub(super) source: &'a dyn ChangeSource,
    pub(super) cancelled: &'a (dyn Fn() -> bool + Sync),
    /// The lowest clock that the source may show, because commits up to here are known.
    pub(super) highest_seen_seq: i64,
}

/// An open volume with its metadata and its rows in memory.
pub(super) struct OpenVolume {
    pub(super) volume: Volume,
    pub(super) meta: VolumeMeta,
    /// The rows of the volume in memory.
    pub(super) live: Live,
}

/// An increment that was read from the source and applied.
pub(super) struct CatchUp {
    /// The metadata after it.
    pub(super) meta: VolumeMeta,
    pub(super) changes: Vec<Change>,
    /// The volume is up to date.
    pub(super) complete: bool,
}

impl RebuildContext<'_> {
    /// Opens the current volume, or rebuilds it and returns the reason.
    pub(super) fn open_or_rebuild(&self) -> Result<(OpenVolume, Option<RebuildReason>), IndexError> {
        match self.examine()? {
            Ok(opened) => {
                self.folder.remove_others(opened.volume.path())?;
                Ok((opened, None))
            }
            Err(reason) => {
                tracing::warn!(reason = reason.name(), "rebuilding the index from the database");
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(self.options.rebuild_threads)
                    .thread_name(|n| format!("lnsp-rebuild-{n}"))
                    .build()
                    .map_err(|error| IndexError::io(self.folder.path(), std::io::Error::other(error)))?;
                Ok((pool.install(|| self.rebuild())?, Some(reason)))
            }
        }
    }

    /// Opens and checks the current volume. The inner error is the reason for a rebuild.
    fn examine(&self) -> Result<Result<OpenVolume, RebuildReason>, IndexError> {
        let Some(path) = self.folder.current()? else { return Ok(Err(RebuildReason::Missing)) };
        let opened = match self.inspect(&path) {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error)),
        };
        let reason = self.check_history(&opened)?;
        Ok(reason.map_or(Ok(opened), Err))
    }

    fn inspect(&self, path: &Path) -> Result<OpenVolume, RebuildReason> {
        let identity = &self.options.identity;
        let open = || -> Result<OpenVolume, IndexError> {
            let data = path.join("data.mdb");
            let found = std::fs::metadata(&data).map_err(|error| IndexError::io(&data, error))?;
            if found.len() == 0 {
                return Err(IndexError::Damaged("its file is empty".into()));
            }
            let volume = Volume::open(path, identity, self.options.map_size)?;
            let txn = volume.read()?;
            let meta = volume.meta(&txn)?.filter(VolumeMeta::known_format);
            let meta = meta.ok_or_else(|| IndexError::Damaged("it has no metadata of this format".into()))?;
            drop(txn);
            // The rows of another identity are not needed.
            let live = if meta.identity() == *identity {
                Live::load(&volume, &meta, self.options.policy.slots)?
            } else {
                Live::empty(identity.dims)
            };
            Ok(OpenVolume { volume, meta, live })
        };
        // LMDB does not validate what it reads, and damaged bytes may cause a panic.
        let opened = match catch_unwind(AssertUnwindSafe(open)) {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the index cannot be used");
                return Err(RebuildReason::Corrupt);
            }
            Err(_) => return Err(RebuildReason::Corrupt),
        };
        let IndexIdentity { store_id, fingerprint, dims, kind } = opened.meta.identity();
        if store_id != identity.store_id {
            Err(RebuildReason::StoreChanged)
        } else if fingerprint != identity.fingerprint || dims != identity.dims || kind != identity.kind {
            Err(RebuildReason::ModelChanged)
        } else {
            Ok(opened)
        }
    }

    /// Checks that the source still has the history this volume was built from. A store restored from a backup has a
    /// clock behind the watermark, or another row at the number of the witness. `Some` is the reason for a rebuild.
    fn check_history(&self, opened: &OpenVolume) -> Result<Option<RebuildReason>, IndexError> {
        let VolumeMeta { watermark, witness, .. } = opened.meta;
        let items = opened.meta.items();
        let first = self.query_source(|source| source.changes_after(watermark, self.options.policy.page))?;
        let behind = first.clock - watermark;
        if behind < 0 {
            return Ok(Some(RebuildReason::StoreRestored));
        }
        if behind > FAR_BEHIND * self.options.policy.increment as i64 && behind > items as i64 {
            return Ok(Some(RebuildReason::FarBehind));
        }
        let Some((seq, item)) = witness else { return Ok(None) };
        if let Some(row) = self.query_source(|source| source.row_at(seq))? {
            let txn = opened.volume.read()?;
            let built = opened.volume.vector(&txn, &opened.meta, item)?.map(|stored| stored.numbers());
            let held = usable(&row.vector, self.options.identity.dims).map(|(vector, _)| vector);
            let same = row.item == item && built.as_deref() == held.as_deref();
            return Ok((!same).then_some(RebuildReason::StoreRestored));
        }
        // No row at that number: if the history is the same, a later change updated or deleted the item.
        let mut page = ChangePage::new(first, self.options.policy.page);
        loop {
            if page.changes.iter().any(|change| change.item() == item) {
                return Ok(None);
            }
            if page.last {
                return Ok(Some(RebuildReason::StoreRestored));
            }
            page = self.page(page.upto)?;
        }
    }

    /// Queries the source. The progress meta shows the wait, so that it does not count as a stall.
    pub(super) fn query_source<T>(
        &self,
        query: impl FnOnce(&dyn ChangeSource) -> Result<T, SourceError>,
    ) -> Result<T, SourceError> {
        let _waiting = self.options.progress.wait("the database");
        query(self.source)
    }

    pub(super) fn page(&self, after: i64) -> Result<ChangePage, IndexError> {
        let limit = self.options.policy.page;
        let page = ChangePage::new(self.query_source(|source| source.changes_after(after, limit))?, limit);
        if !page.last && page.upto <= after {
            let message = format!("a full page of changes after {after} has nothing beyond it");
            return Err(SourceError::new(message).into());
        }
        // A lagging replica, or a store restored meanwhile. Reading on would lose acknowledged rows.
        if page.last && page.clock < self.highest_seen_seq.max(after) {
            let message =
                format!("the clock shows {}, commits were seen up to {}", page.clock, self.highest_seen_seq);
            return Err(SourceError::new(message).into());
        }
        Ok(page)
    }

    /// Fills a new volume page by page, builds it forest by forest, and makes it the current one.
    pub(super) fn rebuild(&self) -> Result<OpenVolume, IndexError> {
        let path = self.folder.next()?;
        let opened = self.fill(&path).and_then(|opened| {
            self.folder.set_current(&path)?;
            Ok(opened)
        });
        match opened {
            Ok(opened) => {
                self.folder.remove_others(&path)?;
                tracing::info!(
                    items = opened.meta.items(),
                    watermark = opened.meta.watermark,
                    "index rebuilt"
                );
                Ok(opened)
            }
            Err(error) => {
                // If this fails, the next start removes it.
                if let Err(error) = std::fs::remove_dir_all(&path) {
                    tracing::debug!(%error, "an unfinished volume could not be removed");
                }
                Err(error)
            }
        }
    }

    fn fill(&self, path: &Path) -> Result<OpenVolume, IndexError> {
        let identity = &self.options.identity;
        let volume = Volume::open(path, identity, self.options.map_size)?;
        let history = self.query_source(|source| source.clock())?.history;
        let mut meta = VolumeMeta::empty(identity, self.options.forest_items);
        meta.history = history;
        loop {
            if (self.cancelled)() {
                return Err(IndexError::Closed);
            }
            let page = self.page(meta.watermark)?;
            meta = meta.after(&page.changes, page.upto);
            volume.fill(&page.changes, &mut meta)?;
            if page.last {
                break;
            }
        }
        let meta = volume.apply(&[], meta.clone(), &self.build_params(&meta))?;
        let meta = self.plant(&volume, meta)?;
        let live = Live::load(&volume, &meta, self.options.policy.slots)?;
        Ok(OpenVolume { volume, meta, live })
    }

    /// Builds trees for a volume that has none and is large enough for them.
    pub(super) fn plant(&self, volume: &Volume, meta: VolumeMeta) -> Result<VolumeMeta, IndexError> {
        if meta.has_trees || meta.items() < self.options.trees_from {
            return Ok(meta);
        }
        let build_params = self.build_params(&meta);
        volume.plant(meta, &build_params)
    }

    /// Applies one increment from the source.
    pub(super) fn catch_up(&self, volume: &Volume, meta: &VolumeMeta) -> Result<CatchUp, IndexError> {
        let mut changes = Vec::new();
        let mut watermark = meta.watermark;
        let mut complete = false;
        while !complete && changes.len() < self.options.policy.increment {
            let page = self.page(watermark)?;
            watermark = page.upto;
            complete = page.last;
            changes.extend(page.changes);
        }
        let meta = self.increment(volume, meta, &changes, watermark)?;
        Ok(CatchUp { meta, changes, complete })
    }

    /// Applies changes that end at `watermark`, and returns the new metadata.
    pub(super) fn increment(
        &self,
        volume: &Volume,
        meta: &VolumeMeta,
        changes: &[Change],
        watermark: i64,
    ) -> Result<VolumeMeta, IndexError> {
        if changes.is_empty() && watermark == meta.watermark {
            return Ok(meta.clone());
        }
        let meta = meta.after(changes, watermark);
        let build_params = self.build_params(&meta);
        volume.apply(changes, meta, &build_params)
    }

    pub(super) fn build_params(&self, meta: &VolumeMeta) -> BuildParams<'_> {
        let IndexOptions { trees, progress, .. } = self.options;
        BuildParams {
            trees: *trees,
            cancelled: self.cancelled,
            progress,
            seed: meta.watermark.unsigned_abs(),
        }
    }
}
