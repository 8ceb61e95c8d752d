//! Making volumes agree with the source: examining what is there, rebuilding, catching up.
//!
//! Plain functions without threads or locks; [`super::writer`] decides when they run.

use super::error::{IndexError, SourceError};
use super::folder::Folder;
use super::forests::BuildParams;
use super::options::{IndexIdentity, IndexOptions};
use super::source::{Change, ChangeSource, Page};
use super::status::RebuildReason;
use super::volume::{Volume, VolumeMeta};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// A catch-up of more than this many full increments is no catch-up: building once is faster.
const FAR_BEHIND: i64 = 4;

/// What the functions here work with.
pub(super) struct RebuildContext<'a> {
    pub(super) folder: &'a Folder,
    pub(super) options: &'a IndexOptions,
    pub(super) source: &'a dyn ChangeSource,
    pub(super) cancelled: &'a (dyn Fn() -> bool + Sync),
    /// The clock the source must show at least, because commits up to here were heard of.
    pub(super) highest_seen_seq: i64,
}

/// A volume and what it says about itself.
pub(super) struct OpenVolume {
    pub(super) volume: Volume,
    pub(super) record: VolumeMeta,
}

impl RebuildContext<'_> {
    /// The volume to start with: the one that is there, or a rebuilt one and why.
    pub(super) fn establish(&self) -> Result<(OpenVolume, Option<RebuildReason>), IndexError> {
        match self.examine()? {
            Ok(held) => {
                self.folder.remove_others(held.volume.path())?;
                Ok((held, None))
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

    /// Looks at what is there. The inner error is the reason why it cannot be used.
    fn examine(&self) -> Result<Result<OpenVolume, RebuildReason>, IndexError> {
        let Some(path) = self.folder.current()? else { return Ok(Err(RebuildReason::Missing)) };
        let held = match self.inspect(&path) {
            Ok(held) => held,
            Err(error) => return Ok(Err(error)),
        };
        let reason = self.history_of(&held)?;
        Ok(reason.map_or(Ok(held), Err))
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
            let record = volume.record(&txn)?.filter(VolumeMeta::known_format);
            let record =
                record.ok_or_else(|| IndexError::Damaged("it has no record of this format".into()))?;
            if record.identity() == *identity {
                for (forest, items) in &record.forests {
                    if volume.forests.reader(&txn, *forest)?.n_items() != *items {
                        return Err(IndexError::Damaged("its record and its trees count differently".into()));
                    }
                }
            }
            drop(txn);
            Ok(OpenVolume { volume, record })
        };
        // Arroy trusts the bytes it reads, and panics over damaged ones.
        let held = match catch_unwind(AssertUnwindSafe(open)) {
            Ok(Ok(held)) => held,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the index cannot be used");
                return Err(RebuildReason::Corrupt);
            }
            Err(_) => return Err(RebuildReason::Corrupt),
        };
        let IndexIdentity { store_id, fingerprint, dims } = held.record.identity();
        if store_id != identity.store_id {
            Err(RebuildReason::StoreChanged)
        } else if fingerprint != identity.fingerprint || dims != identity.dims {
            Err(RebuildReason::ModelChanged)
        } else {
            Ok(held)
        }
    }

    /// Whether the source still has the history this volume was built from. A store that was set back has a clock
    /// behind the watermark, or has written another row at the number of our witness.
    fn history_of(&self, held: &OpenVolume) -> Result<Option<RebuildReason>, IndexError> {
        let VolumeMeta { watermark, witness, .. } = held.record;
        let items = held.record.items();
        let first = self.ask(|source| source.changes_after(watermark, self.options.policy.page))?;
        let behind = first.clock - watermark;
        if behind < 0 {
            return Ok(Some(RebuildReason::StoreRestored));
        }
        if behind > FAR_BEHIND * self.options.policy.increment as i64 && behind > items as i64 {
            return Ok(Some(RebuildReason::FarBehind));
        }
        let Some((seq, item)) = witness else { return Ok(None) };
        if let Some(row) = self.ask(|source| source.row_at(seq))? {
            let txn = held.volume.read()?;
            let built = held.volume.vector(&txn, &held.record, item)?;
            let same = row.item == item && built.as_deref() == Some(&row.vector[..]);
            return Ok((!same).then_some(RebuildReason::StoreRestored));
        }
        // Gone from its number: in our history it was changed or deleted since, so a later change speaks of it.
        let mut page = Page::new(first, self.options.policy.page);
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

    /// The source may take its time: waiting for it is not hanging.
    fn ask<T>(
        &self,
        question: impl FnOnce(&dyn ChangeSource) -> Result<T, SourceError>,
    ) -> Result<T, SourceError> {
        let _waiting = self.options.progress.wait();
        question(self.source)
    }

    fn page(&self, after: i64) -> Result<Page, IndexError> {
        let limit = self.options.policy.page;
        let page = Page::new(self.ask(|source| source.changes_after(after, limit))?, limit);
        if !page.last && page.upto <= after {
            let message = format!("a full page of changes after {after} has nothing beyond it");
            return Err(SourceError::new(message).into());
        }
        // A lagging copy, or a store set back under our feet. Following it would lose rows that were acknowledged.
        if page.last && page.clock < self.highest_seen_seq.max(after) {
            let message =
                format!("the clock shows {}, commits were seen up to {}", page.clock, self.highest_seen_seq);
            return Err(SourceError::new(message).into());
        }
        Ok(page)
    }

    /// Fills a new volume page by page, builds it forest by forest, and makes it current.
    pub(super) fn rebuild(&self) -> Result<OpenVolume, IndexError> {
        let path = self.folder.next()?;
        let held = self.fill(&path).and_then(|held| {
            self.folder.set_current(&path)?;
            Ok(held)
        });
        match held {
            Ok(held) => {
                self.folder.remove_others(&path)?;
                tracing::info!(
                    items = held.record.items(),
                    watermark = held.record.watermark,
                    "index rebuilt"
                );
                Ok(held)
            }
            Err(error) => {
                // Left over, it would be removed at the next start.
                if let Err(error) = std::fs::remove_dir_all(&path) {
                    tracing::debug!(%error, "an unfinished volume stays for now");
                }
                Err(error)
            }
        }
    }

    fn fill(&self, path: &Path) -> Result<OpenVolume, IndexError> {
        let identity = &self.options.identity;
        let volume = Volume::open(path, identity, self.options.map_size)?;
        let mut record = VolumeMeta::empty(identity, self.options.forest_items);
        let mut forests = BTreeSet::new();
        loop {
            if (self.cancelled)() {
                return Err(IndexError::Closed);
            }
            let page = self.page(record.watermark)?;
            forests.append(&mut volume.fill(&page.changes, &record)?);
            record = record.after(&page.changes, page.upto);
            if page.last {
                break;
            }
        }
        let build_params = self.build_params(&record);
        let record = volume.build(record, &forests, &build_params)?;
        Ok(OpenVolume { volume, record })
    }

    /// One increment from the source. Returns the record, and whether that was everything.
    pub(super) fn catch_up(
        &self,
        volume: &Volume,
        record: &VolumeMeta,
    ) -> Result<(VolumeMeta, bool), IndexError> {
        let mut changes = Vec::new();
        let mut watermark = record.watermark;
        let mut complete = false;
        while !complete && changes.len() < self.options.policy.increment {
            let page = self.page(watermark)?;
            watermark = page.upto;
            complete = page.last;
            changes.extend(page.changes);
        }
        Ok((self.increment(volume, record, &changes, watermark)?, complete))
    }

    /// Applies changes that end at `watermark`.
    pub(super) fn increment(
        &self,
        volume: &Volume,
        record: &VolumeMeta,
        changes: &[Change],
        watermark: i64,
    ) -> Result<VolumeMeta, IndexError> {
        if changes.is_empty() && watermark == record.watermark {
            return Ok(record.clone());
        }
        let record = record.after(changes, watermark);
        let build_params = self.build_params(&record);
        volume.apply(changes, record, &build_params)
    }

    fn build_params(&self, record: &VolumeMeta) -> BuildParams<'_> {
        let IndexOptions { trees, progress, .. } = self.options;
        BuildParams {
            trees: *trees,
            cancelled: self.cancelled,
            progress,
            seed: record.watermark.unsigned_abs(),
        }
    }
}
