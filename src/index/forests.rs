//! The forests of a volume: arroy's part of it, vectors and trees.
//!
//! Every build of arroy looks at all items of its forest, holds a list of them in memory and writes a good part of
//! the trees anew. With one forest for everything, the work of an ingest grows with the square of what is there,
//! and so does what a build holds in memory. So items are divided by their number, [`forest_of`]: numbers ascend
//! with the commits, so new rows go to the youngest forest, the older ones rest until something of theirs changes,
//! and a search asks each.

use super::error::IndexError;
use super::source::{Change, usable};
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

/// The kind "item" in the key of arroy's database, after the forest. Checked by a test.
const ITEM_KIND: u8 = 3;
/// Forest and kind, before the number of the item.
const ITEM_PREFIX: usize = 3;
/// The tag and the norm that come before the vector in the value of an item. Checked by a test.
const ITEM_HEADER: usize = 1 + size_of::<f32>();

/// The forest of an item, when each takes so many. The last one takes all the rest.
pub(super) fn forest_of(item: u32, forest_items: u32) -> u16 {
    u16::try_from(item / forest_items.max(1)).unwrap_or(u16::MAX)
}

/// How a build is done.
pub(super) struct BuildParams<'a> {
    pub(super) trees: usize,
    /// Asked often during a build; `true` ends it at once.
    pub(super) cancelled: &'a (dyn Fn() -> bool + Sync),
    /// Gets the signs of life that a build gives.
    pub(super) progress: &'a Progress,
    /// Any is as good as another; a fixed one makes a failure repeatable.
    pub(super) seed: u64,
}

impl BuildParams<'_> {
    fn asked(&self) -> bool {
        self.progress.beat();
        (self.cancelled)()
    }

    fn moved(&self, progress: WriterProgress) {
        self.progress.beat();
        if let Some(step) = progress.sub {
            self.progress.follow(step.current);
        }
    }
}

/// All forests of one volume. Transactions are the volume's.
pub(super) struct Forests {
    pub(super) vectors: arroy::Database<'static, Cosine>,
    pub(super) dims: usize,
    /// Only for what errors say.
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

    /// The vector of an item, as it was put in.
    pub(super) fn vector(
        &self,
        txn: &RoTxn<'_>,
        forest: u16,
        item: u32,
    ) -> Result<Option<Vec<f32>>, IndexError> {
        self.reader(txn, forest)?.item_vector(txn, item).map_err(|error| self.wrap(error))
    }

    /// The items of some forests.
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

    /// Shows every built item of a forest with its norm and the bytes of its vector. Arroy's own iterator copies
    /// each vector, which takes longer than looking at it.
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

    /// Puts changes in; the forests it names are to be built before they can be read again.
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
        Ok(touched)
    }

    /// Builds a forest if something in it changed. Returns how many items it has.
    pub(super) fn build(
        &self,
        txn: &mut RwTxn<'_>,
        forest: u16,
        path: &Path,
        build_params: &BuildParams<'_>,
    ) -> Result<u64, IndexError> {
        let mut writer = Writer::new(self.vectors, forest, self.dims);
        // Not the system's folder for temporary files, which may be small or lie in memory.
        writer.set_tmpdir(path);
        if writer.need_build(txn).map_err(|error| self.wrap(error))? {
            let mut random = StdRng::seed_from_u64(build_params.seed);
            let mut builder = writer.builder(&mut random);
            builder.n_trees(build_params.trees);
            builder.cancel(|| build_params.asked()).progress(|progress| build_params.moved(progress));
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
