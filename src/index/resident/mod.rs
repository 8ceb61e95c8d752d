//! The rows of an index in memory: their vectors in fewer bits, and the fields that filters name.
//!
//! A search looks at all of them. At 384 dimensions a row is six words of signs, of which a core compares hundreds of
//! millions a second; the few that are near are compared by their eight-bit numbers, and the best of those as they were
//! committed. Rows that are not in the volume yet are among them, so there is one order of all rows, and a filter costs
//! no more than a look at its terms. The words of the texts are here, too, each with its rows.

mod block;
mod kernel;
mod keywords;
mod postings;
mod quantized;

pub(super) use block::RowFacts;
pub use kernel::dot;
pub(super) use kernel::{dot_stored, norm};
pub(super) use keywords::KeywordRow;

use crate::filter::{Filter, FilterFields};
use block::{Block, Places};
use kernel::{count_within, differing_bits, places_within};
use postings::BLOCK_ITEMS;
use quantized::Quantized;
use roaring::RoaringBitmap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The rows at which the center is found for the first time, and again each time they are twice as many, up to
/// [`LAST_CENTER`].
const FIRST_CENTER: usize = 256;
const LAST_CENTER: usize = 1 << 17;

/// All rows of an index. A snapshot of it shares its blocks.
#[derive(Debug, Clone)]
pub(super) struct Resident {
    dims: usize,
    /// By their number. Copied only while a search holds them.
    blocks: Arc<BTreeMap<u32, Arc<Block>>>,
    rows: usize,
    /// The words of all their texts, with each repetition.
    words: u64,
    /// The mean of the vectors at unit length, or of those that were there when it was found.
    center: Arc<[f32]>,
    /// The number of rows at which it is found again.
    next_center: usize,
}

/// A row that may be among the nearest.
#[derive(Debug, Clone, Copy)]
pub(super) struct NearRow<'a> {
    pub(super) facts: &'a RowFacts,
    /// About its cosine.
    pub(super) cosine: f32,
}

/// The result of a look at all rows.
pub(super) struct NearRows<'a> {
    /// The best of them, without order.
    pub(super) rows: Vec<NearRow<'a>>,
    /// The number of rows that match the filter.
    pub(super) matching: usize,
}

/// How many rows a search goes on with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Width {
    /// Those that are compared by their bytes.
    pub(super) by_bytes: usize,
    /// Those of them that are returned.
    pub(super) kept: usize,
}

impl Resident {
    pub(super) fn new(dims: usize) -> Resident {
        Resident {
            dims,
            blocks: Arc::default(),
            rows: 0,
            words: 0,
            center: vec![0.0; dims].into(),
            next_center: FIRST_CENTER,
        }
    }

    pub(super) fn dims(&self) -> usize {
        self.dims
    }

    pub(super) fn len(&self) -> usize {
        self.rows
    }

    /// The bytes that it takes, without what the allocator adds.
    pub(super) fn memory(&self) -> usize {
        self.blocks.values().map(|block| block.memory()).sum()
    }

    pub(super) fn get(&self, item: u32) -> Option<&RowFacts> {
        self.blocks.get(&(item / BLOCK_ITEMS))?.get(item)
    }

    /// The number of words of a row.
    fn length(&self, item: u32) -> u64 {
        self.get(item).map_or(0, |facts| u64::from(facts.length))
    }

    pub(super) fn items(&self) -> RoaringBitmap {
        self.facts().map(|facts| facts.item).collect()
    }

    pub(super) fn facts(&self) -> impl Iterator<Item = &RowFacts> {
        self.blocks.values().flat_map(|block| block.facts())
    }

    /// Rows whose vectors are not in the volume yet.
    pub(super) fn unbuilt(&self) -> impl Iterator<Item = &RowFacts> {
        let blocks = self.blocks.values().filter(|block| block.unbuilt() > 0);
        blocks.flat_map(|block| block.facts()).filter(|facts| facts.unbuilt.is_some())
    }

    /// Puts a row with this usable vector, in place of one with its number.
    pub(super) fn put(&mut self, facts: RowFacts, vector: &[f32], norm: f32, fields: &FilterFields) {
        self.words = self.words - self.length(facts.item) + u64::from(facts.length);
        let quantized = Quantized::new(vector, norm, &self.center);
        let blocks = Arc::make_mut(&mut self.blocks);
        let block = blocks.entry(facts.item / BLOCK_ITEMS).or_insert_with(|| Arc::new(Block::new(self.dims)));
        let before = block.len();
        let changed = Arc::make_mut(block);
        changed.put(facts, &quantized, fields);
        self.rows = self.rows + changed.len() - before;
        if self.rows >= self.next_center {
            self.find_center();
        }
    }

    pub(super) fn remove(&mut self, item: u32) {
        let number = item / BLOCK_ITEMS;
        if self.get(item).is_none() {
            return;
        }
        let words = self.length(item);
        let blocks = Arc::make_mut(&mut self.blocks);
        let Some(block) = blocks.get_mut(&number) else { return };
        let block = Arc::make_mut(block);
        self.words -= words;
        self.rows -= usize::from(block.remove(item));
        if block.len() == 0 {
            blocks.remove(&number);
        }
    }

    /// Forgets the vectors that a volume with this watermark has.
    pub(super) fn built(&mut self, watermark: i64) {
        if self.blocks.values().any(|block| block.has_built(watermark)) {
            let blocks = Arc::make_mut(&mut self.blocks).values_mut();
            for block in blocks.filter(|block| block.has_built(watermark)) {
                Arc::make_mut(block).built(watermark);
            }
        }
    }

    /// Finds the center, and makes all codes anew around it. Each time the rows are twice as many, so the work for one
    /// row stays the same.
    fn find_center(&mut self) {
        self.next_center = if self.rows >= LAST_CENTER { usize::MAX } else { self.rows * 2 };
        let vectors =
            self.blocks.values().flat_map(|block| (0..block.len()).map(|place| block.vector(place)));
        self.center = quantized::center(self.dims, vectors).into();
        for block in Arc::make_mut(&mut self.blocks).values_mut() {
            Arc::make_mut(block).recode(&self.center);
        }
    }

    /// The rows that match a filter and are nearest to a vector of unit length, as far as fewer bits tell. If no more
    /// match than are kept, these are all of them.
    pub(super) fn candidates(&self, query: &[f32], filter: &Filter, width: Width) -> NearRows<'_> {
        let quantized = Quantized::new(query, 1.0, &self.center);
        let mut matching = 0;
        let everything = filter.is_everything();
        let selected = self.blocks.values().filter_map(|block| {
            let selection = (!everything).then(|| block.select(filter));
            let count = selection.as_ref().map_or(block.len(), Places::len);
            matching += count;
            (count > 0).then_some((&**block, selection))
        });
        let selected: Vec<(&Block, Option<Places>)> = selected.collect();
        let near = if matching <= width.by_bytes {
            selected.iter().map(|(block, selection)| places(block, selection.as_ref())).collect()
        } else {
            self.near(&quantized, &selected, width.by_bytes)
        };
        let mut rows = Vec::with_capacity(near.iter().map(Vec::len).sum());
        for ((block, _), places) in selected.iter().zip(near) {
            let (bytes, scales) = block.vectors();
            let cosines = quantized.cosines(bytes, scales, &places);
            let facts = places.iter().map(|place| &block.facts()[*place]);
            rows.extend(facts.zip(cosines).map(|(facts, cosine)| NearRow { facts, cosine }));
        }
        if rows.len() > width.kept && width.kept > 0 {
            rows.select_nth_unstable_by(width.kept - 1, |a, b| b.cosine.total_cmp(&a.cosine));
            rows.truncate(width.kept);
        }
        NearRows { rows, matching }
    }

    /// The places in each block whose signs are near, at least `wanted` in all.
    fn near(
        &self,
        query: &Quantized,
        selected: &[(&Block, Option<Places>)],
        wanted: usize,
    ) -> Vec<Vec<usize>> {
        let mut distances = vec![0u16; selected.iter().map(|(block, _)| block.len()).sum()];
        let mut rest = &mut distances[..];
        for (block, selection) in selected {
            let (of_block, others) = rest.split_at_mut(block.len());
            rest = others;
            differing_bits(&query.code, block.codes(), of_block);
            if let Some(selection) = selection {
                let excluded =
                    of_block.iter_mut().enumerate().filter(|(place, _)| !selection.contains(*place));
                excluded.for_each(|(_, distance)| *distance = EXCLUDED);
            }
        }
        // The distance within which there are enough: a look at all distances takes some microseconds.
        let (mut below, mut furthest) = (0, u16::try_from(self.dims).unwrap_or(EXCLUDED - 1));
        while below < furthest {
            let middle = below.midpoint(furthest);
            if count_within(&distances, middle) >= wanted {
                furthest = middle;
            } else {
                below = middle + 1;
            }
        }
        let mut rest = &distances[..];
        let near = selected.iter().map(|(block, _)| {
            let (of_block, others) = rest.split_at(block.len());
            rest = others;
            let mut near = Vec::new();
            places_within(of_block, furthest, &mut near);
            near
        });
        near.collect()
    }
}

/// The distance of a row that does not match the filter. No two codes differ in so many bits.
const EXCLUDED: u16 = u16::MAX;

/// The selected places of a block.
fn places(block: &Block, selection: Option<&Places>) -> Vec<usize> {
    let all = 0..block.len();
    match selection {
        Some(selection) => all.filter(|place| selection.contains(*place)).collect(),
        None => all.collect(),
    }
}
