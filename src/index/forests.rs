//! The forests of a volume: arroy's vectors and trees.
//!
//! Each build of arroy reads all items of its forest, holds a list of them in memory and rewrites a good part of the
//! trees. With a single forest the work of an ingest would grow with the square of the items, and the memory of a
//! build with their number. So items are divided among forests by their number, [`forest_of`]: numbers ascend with the
//! commits, so new rows go to the newest forest, an older one is rebuilt only when one of its items changes, and a
//! search queries each.
//!
//! A volume of few items has no trees: a search looks at all rows in memory, which is faster, and trees that no search
//! uses would take most of the time of an ingest. Its vectors are in arroy's database all the same.

use super::error::IndexError;
use crate::threads::Progress;
use arroy::distances::Cosine;
use arroy::{Writer, WriterProgress};
use heed::types::Bytes;
use heed::{RoTxn, RwTxn};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::path::Path;

/// The key kind "item" of arroy's database, after the forest. Checked by a test.
const ITEM_KIND: u8 = 3;
/// The length of forest and kind, before the item number in a key. One byte that is not used comes after it.
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

/// A vector as it lies in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct StoredVector<'t> {
    pub(super) norm: f32,
    /// Native-endian f32, unaligned.
    pub(super) bytes: &'t [u8],
}

impl StoredVector<'_> {
    pub(super) fn numbers(&self) -> Vec<f32> {
        self.bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_ne_bytes(*bytes)).collect()
    }
}

/// The key of an item in arroy's database. Checked by a test.
fn item_key(forest: u16, item: u32) -> [u8; 8] {
    let ([high, low], [a, b, c, d]) = (forest.to_be_bytes(), item.to_be_bytes());
    [high, low, ITEM_KIND, a, b, c, d, 0]
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

    /// An item of a forest as it was stored; `None` for an unknown one. Arroy's own reader copies each vector, which
    /// takes longer than its dot product, and needs trees.
    pub(super) fn item<'t>(
        &self,
        txn: &'t RoTxn<'_>,
        forest: u16,
        item: u32,
    ) -> Result<Option<StoredVector<'t>>, IndexError> {
        let raw = self.vectors.remap_types::<Bytes, Bytes>();
        let value = raw.get(txn, &item_key(forest, item)).map_err(|error| self.wrap(error))?;
        value.map(|value| self.stored(value)).transpose()
    }

    fn stored<'t>(&self, value: &'t [u8]) -> Result<StoredVector<'t>, IndexError> {
        let length = ITEM_HEADER + self.dims * size_of::<f32>();
        let header = value.split_first_chunk::<ITEM_HEADER>().filter(|_| value.len() == length);
        let Some(([_, norm @ ..], bytes)) = header else {
            return Err(IndexError::Damaged(format!("an item has {} bytes, not {length}", value.len())));
        };
        Ok(StoredVector { norm: f32::from_ne_bytes(*norm), bytes })
    }

    /// Calls `show` with every item of a forest, in the order of their numbers.
    pub(super) fn scan(
        &self,
        txn: &RoTxn<'_>,
        forest: u16,
        mut show: impl FnMut(u32, StoredVector<'_>) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let [high, low] = forest.to_be_bytes();
        let raw = self.vectors.remap_types::<Bytes, Bytes>();
        for entry in raw.prefix_iter(txn, &[high, low, ITEM_KIND]).map_err(|error| self.wrap(error))? {
            let (key, value) = entry.map_err(|error| self.wrap(error))?;
            let item = key.get(ITEM_PREFIX..).and_then(<[u8]>::first_chunk);
            let item = item.ok_or_else(|| IndexError::Damaged(format!("a key has {} bytes", key.len())))?;
            show(u32::from_be_bytes(*item), self.stored(value)?)?;
        }
        Ok(())
    }

    /// Writes the vector of an item, or removes it. Returns whether it was there before. Its forest must be built before
    /// its trees can be searched again.
    pub(super) fn put(
        &self,
        txn: &mut RwTxn<'_>,
        forest: u16,
        item: u32,
        vector: Option<&[f32]>,
    ) -> Result<bool, IndexError> {
        let writer = Writer::new(self.vectors, forest, self.dims);
        let Some(vector) = vector else {
            return writer.del_item(txn, item).map_err(|error| self.wrap(error));
        };
        let known = self.item(txn, forest, item)?.is_some();
        writer.add_item(txn, item, vector).map_err(|error| self.wrap(error))?;
        Ok(known)
    }

    /// Builds the trees of a forest if an item of it changed.
    pub(super) fn build(
        &self,
        txn: &mut RwTxn<'_>,
        forest: u16,
        path: &Path,
        build_params: &BuildParams<'_>,
    ) -> Result<(), IndexError> {
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
        Ok(())
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
