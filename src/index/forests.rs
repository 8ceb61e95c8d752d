//! The forests of a volume: arroy's vectors and trees.
//!
//! Each build of arroy reads all items of its forest, holds a list of them in memory and rewrites a good part of the
//! trees. With a single forest the work of an ingest would grow with the square of the items, and the memory of a
//! build with their number. So items are divided among forests by their number, [`forest_of`]: numbers ascend with the
//! commits, so new rows go to the newest forest, an older one is rebuilt only when one of its items changes, and a
//! search queries each.

use super::error::IndexError;
use super::source::{Change, usable};
use crate::output::throttled;
use crate::threads::Progress;
use arroy::distances::Cosine;
use arroy::{Writer, WriterProgress};
use heed::types::Bytes;
use heed::{RoTxn, RwTxn};
use rand::SeedableRng;
use rand::rngs::StdRng;
use roaring::RoaringBitmap;
use std::collections::BTreeSet;
use std::path::Path;

/// The key kind "item" of arroy's database, after the forest. Checked by a test.
const ITEM_KIND: u8 = 3;
/// The length of forest and kind, before the item number in a key.
const ITEM_PREFIX: usize = 3;
/// The length of the tag and the norm, before the vector in a value. Checked by a test.
const ITEM_HEADER: usize = 1 + size_of::<f32>();

/// The forest of an item, at `forest_items` item numbers a forest. The last forest takes all further items.
pub(super) fn forest_of(item: u32, forest_items: u32) -> u16 {
    u16::try_from(item / forest_items.max(1)).unwrap_or(u16::MAX)
}

/// The parameters of one build.
pub(super) struct BuildParams<'a> {
    pub(super) trees: usize,
    /// Called often during a build; `true` cancels it.
    pub(super) cancelled: &'a (dyn Fn() -> bool + Sync),
    /// Updated by the build, for the stall detector.
    pub(super) progress: &'a Progress,
    /// The seed of the tree splits. Fixed for a watermark, so that a failure is reproducible.
    pub(super) seed: u64,
}

impl BuildParams<'_> {
    fn is_cancelled(&self) -> bool {
        self.progress.beat();
        (self.cancelled)()
    }

    fn report(&self, progress: WriterProgress) {
        self.progress.beat();
        if let Some(step) = progress.sub {
            self.progress.follow(step.current);
        }
    }
}

/// All forests of one volume. The volume begins and commits the transactions.
pub(super) struct Forests {
    pub(super) vectors: arroy::Database<'static, Cosine>,
    pub(super) dims: usize,
    /// In bytes; only for error messages.
    pub(super) map_size: usize,
}

impl Forests {
    pub(super) fn reader<'t>(
        &self,
        txn: &'t RoTxn<'_>,
        forest: u16,
    ) -> Result<arroy::Reader<'t, Cosine>, IndexError> {
        arroy::Reader::open(txn, forest, self.vectors).map_err(|error| self.wrap(error))
    }

    /// The vector of an item as it was stored.
    pub(super) fn vector(
        &self,
        txn: &RoTxn<'_>,
        forest: u16,
        item: u32,
    ) -> Result<Option<Vec<f32>>, IndexError> {
        self.reader(txn, forest)?.item_vector(txn, item).map_err(|error| self.wrap(error))
    }

    /// The items of these forests.
    pub(super) fn items(
        &self,
        txn: &RoTxn<'_>,
        forests: impl IntoIterator<Item = u16>,
    ) -> Result<RoaringBitmap, IndexError> {
        let mut items = RoaringBitmap::new();
        for forest in forests {
            items |= self.reader(txn, forest)?.item_ids();
        }
        Ok(items)
    }

    /// Calls `show` with every built item of a forest, its norm and the bytes of its vector (native-endian f32).
    /// Arroy's own iterator copies each vector, which takes longer than its dot product.
    pub(super) fn scan(
        &self,
        txn: &RoTxn<'_>,
        forest: u16,
        mut show: impl FnMut(u32, f32, &[u8]),
    ) -> Result<(), IndexError> {
        let length = ITEM_HEADER + self.dims * size_of::<f32>();
        let [high, low] = forest.to_be_bytes();
        let raw = self.vectors.remap_types::<Bytes, Bytes>();
        for entry in raw.prefix_iter(txn, &[high, low, ITEM_KIND]).map_err(|error| self.wrap(error))? {
            let (key, value) = entry.map_err(|error| self.wrap(error))?;
            let item = key.get(ITEM_PREFIX..).and_then(<[u8]>::first_chunk);
            let header = value.split_first_chunk::<ITEM_HEADER>().filter(|_| value.len() == length);
            let (Some(item), Some(([_, norm @ ..], vector))) = (item, header) else {
                return Err(IndexError::Damaged(format!("an item has {} bytes, not {length}", value.len())));
            };
            show(u32::from_be_bytes(*item), f32::from_ne_bytes(*norm), vector);
        }
        Ok(())
    }

    /// Writes changes. The returned forests must be built before they can be read again.
    pub(super) fn put(
        &self,
        txn: &mut RwTxn<'_>,
        changes: &[Change],
        forest_items: u32,
    ) -> Result<BTreeSet<u16>, IndexError> {
        let mut touched = BTreeSet::new();
        for change in changes {
            let forest = forest_of(change.item(), forest_items);
            touched.insert(forest);
            let writer = Writer::new(self.vectors, forest, self.dims);
            match change {
                Change::Put(row) => match usable(&row.vector, self.dims) {
                    Some((vector, _)) => {
                        writer.add_item(txn, row.item, &vector).map_err(|error| self.wrap(error))?;
                    }
                    None => {
                        throttled!(
                            error,
                            item = row.item,
                            seq = row.seq,
                            "vector is not usable; left out of the index"
                        );
                        writer.del_item(txn, row.item).map_err(|error| self.wrap(error))?;
                    }
                },
                Change::Gone { item, .. } => {
                    writer.del_item(txn, *item).map_err(|error| self.wrap(error))?;
                }
            }
        }
        Ok(touched)
    }

    /// Builds a forest if an item of it changed. Returns its number of items.
    pub(super) fn build(
        &self,
        txn: &mut RwTxn<'_>,
        forest: u16,
        path: &Path,
        build_params: &BuildParams<'_>,
    ) -> Result<u64, IndexError> {
        let mut writer = Writer::new(self.vectors, forest, self.dims);
        // Not the system's temporary folder, which may be small or a RAM disk.
        writer.set_tmpdir(path);
        if writer.need_build(txn).map_err(|error| self.wrap(error))? {
            let mut random = StdRng::seed_from_u64(build_params.seed);
            let mut builder = writer.builder(&mut random);
            builder.n_trees(build_params.trees);
            builder.cancel(|| build_params.is_cancelled()).progress(|progress| build_params.report(progress));
            builder.build(txn).map_err(|error| self.wrap(error))?;
        }
        Ok(self.reader(txn, forest)?.n_items())
    }

    pub(super) fn wrap(&self, error: impl Into<arroy::Error>) -> IndexError {
        IndexError::storage(error, self.map_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_has_a_forest() {
        let forests = [0, 9, 10, u32::MAX].map(|item| forest_of(item, 10));
        assert_eq!(forests, [0, 0, 1, u16::MAX]);
        assert_eq!(forest_of(u32::MAX, 1 << 18), (1 << 14) - 1);
        assert_eq!(forest_of(7, 0), 7);
    }
}
