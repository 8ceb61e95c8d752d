//! Comparing the volume with the source, block by block, and mending what differs.
//!
//! Both sides make one hash of the rows of a block; only blocks whose hashes differ are read row by row. So it costs the
//! source one pass over its vectors, and it finds what no other check does: a flipped bit, a row that was never built, a
//! row of another history.

use super::builder::RebuildContext;
use super::error::IndexError;
use super::source::{BlockDigest, Change, ChangedRow, DIGEST_ITEMS, usable};
use super::volume::{StoredItem, Volume, VolumeMeta};
use crate::filter::FilterFields;
use roaring::RoaringBitmap;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Blocks that are asked for at a time: about a hundred megabytes of vectors that the source hashes.
const BLOCKS: u32 = 64;
/// The largest difference of a norm from that of its vector.
const NORM_ERROR: f32 = 1e-4;

/// What a comparison of the index with its source found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Rows of the source.
    pub rows: u64,
    /// Rows of the source that the index does not have.
    pub missing: u64,
    /// Items of the index that the source does not have.
    pub extra: u64,
    /// Items that are another version of their row.
    pub stale: u64,
    /// Items whose bytes differ from those of the same version of their row.
    pub damaged: u64,
}

impl VerifyReport {
    /// The rows that differ.
    pub fn differences(&self) -> u64 {
        self.missing + self.extra + self.stale + self.damaged
    }

    pub(super) fn add(&mut self, other: VerifyReport) {
        self.missing += other.missing;
        self.extra += other.extra;
        self.stale += other.stale;
        self.damaged += other.damaged;
    }
}

/// The blocks whose hashes differ.
pub(super) struct DifferingBlocks {
    pub(super) blocks: Vec<u32>,
    /// The number of blocks that either side has.
    pub(super) of: usize,
}

/// Blocks that are compared row by row at a time: both sides of them are in memory.
pub(super) const GROUP: usize = 8;

/// Which rows of the source count as different.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Those that changed after this clock value do not: the volume does not have them yet.
    UpTo(i64),
    /// All: the clock of the volume is that of another history.
    Everything,
}

/// What is in the volume of an item.
struct HeldItem {
    /// `None` when its fields are damaged.
    fields: Option<(i64, FilterFields)>,
    vector: Vec<f32>,
    sound: bool,
}

impl RebuildContext<'_> {
    /// Compares by hashes, and returns the blocks that differ.
    pub(super) fn differing_blocks(
        &self,
        volume: &Volume,
        meta: &VolumeMeta,
    ) -> Result<DifferingBlocks, IndexError> {
        let ours = self.own_digests(volume, meta)?;
        let mut theirs = BTreeMap::new();
        let mut next = Some(0);
        while let Some(from) = next {
            let page = self.query_source(|source| source.digests(from, BLOCKS))?;
            theirs.extend(page.digests.into_iter().map(|BlockDigest { block, sha256 }| (block, sha256)));
            next = page.next;
            if (self.cancelled)() {
                return Err(IndexError::Closed);
            }
        }
        let all: BTreeSet<u32> = ours.keys().chain(theirs.keys()).copied().collect();
        let of = all.len();
        let blocks = all.into_iter().filter(|block| ours.get(block) != theirs.get(block)).collect();
        Ok(DifferingBlocks { blocks, of })
    }

    /// Compares some blocks row by row, and returns the changes that mend the volume.
    pub(super) fn compare(
        &self,
        (volume, meta): (&Volume, &VolumeMeta),
        blocks: &[u32],
        scope: Scope,
    ) -> Result<(VerifyReport, Vec<Change>), IndexError> {
        let (mut report, mut changes) = (VerifyReport::default(), Vec::new());
        for block in blocks {
            let rows = self.query_source(|source| source.rows_of(*block))?;
            let held = held_items(volume, meta, *block)?;
            compare_block(self.options.identity.dims, rows, held, scope, &mut report, &mut changes);
        }
        if let Scope::UpTo(watermark) = scope
            && report.extra > 0
        {
            // Rows that were deleted meanwhile are not extra.
            let deleted = self.deleted_after(watermark)?;
            changes.retain(|change| {
                let expected = matches!(change, Change::Gone { item, .. } if deleted.contains(*item));
                report.extra -= u64::from(expected);
                !expected
            });
        }
        Ok((report, changes))
    }

    fn deleted_after(&self, mut watermark: i64) -> Result<RoaringBitmap, IndexError> {
        let mut deleted = RoaringBitmap::new();
        loop {
            let page = self.page(watermark)?;
            let gone = page.changes.iter().filter(|change| matches!(change, Change::Gone { .. }));
            deleted.extend(gone.map(Change::item));
            if page.last {
                return Ok(deleted);
            }
            watermark = page.upto;
        }
    }

    fn own_digests(&self, volume: &Volume, meta: &VolumeMeta) -> Result<BTreeMap<u32, [u8; 32]>, IndexError> {
        let txn = volume.read()?;
        let mut hashes: BTreeMap<u32, Sha256> = BTreeMap::new();
        volume.scan(&txn, meta, |StoredItem { item, vector, fields }| {
            self.options.progress.beat();
            let hash = hashes.entry(item / DIGEST_ITEMS).or_default();
            hash.update(i64::from(item).to_be_bytes());
            let numbers = vector.numbers();
            match fields {
                Some((seq, _)) if is_sound(&numbers, vector.norm) => {
                    hash.update(seq.to_be_bytes());
                    hash.update(numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
                }
                // Equal to no row.
                _ => hash.update([0]),
            }
            Ok(())
        })?;
        Ok(hashes.into_iter().map(|(block, hash)| (block, hash.finalize().into())).collect())
    }
}

/// What the volume has of a block.
fn held_items(volume: &Volume, meta: &VolumeMeta, block: u32) -> Result<BTreeMap<u32, HeldItem>, IndexError> {
    let txn = volume.read()?;
    let first = block * DIGEST_ITEMS;
    let held = (first..=first + (DIGEST_ITEMS - 1)).filter_map(|item| {
        let stored = volume.stored(&txn, meta, item).transpose()?;
        Some(stored.map(|StoredItem { vector, fields, .. }| {
            let numbers = vector.numbers();
            let sound = is_sound(&numbers, vector.norm);
            (item, HeldItem { fields, vector: numbers, sound })
        }))
    });
    held.collect()
}

/// Whether a stored norm is that of its vector.
fn is_sound(vector: &[f32], norm: f32) -> bool {
    let expected = super::resident::norm(vector);
    (expected - norm).abs() <= NORM_ERROR * expected
}

fn compare_block(
    dims: usize,
    rows: Vec<ChangedRow>,
    mut held: BTreeMap<u32, HeldItem>,
    scope: Scope,
    report: &mut VerifyReport,
    changes: &mut Vec<Change>,
) {
    for row in rows {
        let held = held.remove(&row.item);
        if let Scope::UpTo(watermark) = scope
            && row.seq > watermark
        {
            continue;
        }
        let usable = usable(&row.vector, dims);
        let counter = match (&held, &usable) {
            (None, None) => continue,
            (None, Some(_)) => &mut report.missing,
            (Some(HeldItem { fields: Some((seq, _)), .. }), _) if *seq != row.seq => &mut report.stale,
            (Some(HeldItem { fields: Some((_, fields)), vector, sound: true }), Some((wanted, _)))
                if *fields == row.fields && **vector == **wanted =>
            {
                continue;
            }
            (Some(_), _) => &mut report.damaged,
        };
        *counter += 1;
        changes.push(Change::Put(row));
    }
    for (item, held) in held {
        let seq = held.fields.map_or(0, |(seq, _)| seq);
        report.extra += 1;
        changes.push(Change::Gone { seq, item });
    }
}
