//! The rows of one range of item numbers, column by column.

use super::postings::{BLOCK_ITEMS, Postings};
use super::quantized::{Quantized, code_of_bytes, words};
use crate::filter::{Filter, FilterFields, TERM_BITS, Term};
use crate::tmd::Tmd;
use std::sync::Arc;

/// Terms are sorted when so many are not.
const RECENT_TERMS: usize = 512;
/// A place that no item has.
const ABSENT: u16 = u16::MAX;
/// The words of a selection.
const SELECTION_WORDS: usize = BLOCK_ITEMS as usize / 64;

/// What is known of a row beside its vector and its terms.
#[derive(Debug, Clone)]
pub(in crate::index) struct RowFacts {
    /// Its number in the index.
    pub(in crate::index) item: u32,
    /// The clock value of its last change.
    pub(in crate::index) seq: i64,
    /// Its codes, if it has any.
    pub(in crate::index) tmd: Option<Tmd>,
    /// See [`FilterFields::document`].
    pub(in crate::index) document: u64,
    /// See [`FilterFields::text`].
    pub(in crate::index) text: u64,
    /// Its vector and the norm of that, until the volume has them.
    pub(in crate::index) unbuilt: Option<(Arc<[f32]>, f32)>,
    /// When it was stored, in microseconds since 1970.
    pub(in crate::index) created_at: i64,
    /// The number of words of its text.
    pub(in crate::index) length: u32,
}

impl RowFacts {
    /// Of a row whose vector is not in the volume yet.
    pub(in crate::index) fn new(
        (seq, item): (i64, u32),
        fields: &FilterFields,
        unbuilt: Option<(Arc<[f32]>, f32)>,
    ) -> RowFacts {
        let FilterFields { tmd, created_at, document, text, .. } = *fields;
        RowFacts { item, seq, tmd, document, text, unbuilt, created_at, length: fields.words.length() }
    }
}

/// Rows of a block that a filter lets pass, one bit a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Places([u64; SELECTION_WORDS]);

/// Rows without order. Each has a place, and the same place in every column; the last one moves where one is removed.
#[derive(Debug, Clone)]
pub(super) struct Block {
    dims: usize,
    /// The place of each item of the range.
    places: Box<[u16]>,
    facts: Vec<RowFacts>,
    /// A column for each word of a code.
    codes: Vec<Vec<u64>>,
    bytes: Vec<i8>,
    scales: Vec<f32>,
    /// Terms and the places that have them, sorted: the term in the upper bits.
    terms: Vec<u64>,
    /// The same of the rows that came last, without order: to sort after each row would cost more than all the rest.
    recent_terms: Vec<u64>,
    words: Postings,
    /// Rows whose vector is not in the volume yet.
    unbuilt: usize,
}

impl Places {
    const NONE: Places = Places([0; SELECTION_WORDS]);

    /// The first `rows` places.
    fn first(rows: usize) -> Places {
        let mut selection = Places::NONE;
        (0..rows).for_each(|place| selection.insert(place));
        selection
    }

    fn insert(&mut self, place: usize) {
        self.0[place / 64] |= 1 << (place % 64);
    }

    pub(super) fn contains(&self, place: usize) -> bool {
        self.0[place / 64] >> (place % 64) & 1 == 1
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    fn combine(self, other: Places, how: fn(u64, u64) -> u64) -> Places {
        Places(std::array::from_fn(|word| how(self.0[word], other.0[word])))
    }
}

impl Block {
    pub(super) fn new(dims: usize) -> Block {
        Block {
            dims,
            places: vec![ABSENT; BLOCK_ITEMS as usize].into(),
            facts: Vec::new(),
            codes: vec![Vec::new(); words(dims)],
            bytes: Vec::new(),
            scales: Vec::new(),
            terms: Vec::new(),
            recent_terms: Vec::new(),
            words: Postings::default(),
            unbuilt: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.facts.len()
    }

    /// The bytes of its columns.
    pub(super) fn memory(&self) -> usize {
        let codes = self.codes.iter().map(Vec::capacity).sum::<usize>();
        let words = codes + self.terms.capacity() + self.recent_terms.capacity();
        let facts = self.facts.capacity() * size_of::<RowFacts>();
        let columns = 8 * words + self.bytes.capacity() + 4 * self.scales.capacity() + facts;
        columns + 2 * self.places.len() + self.words.memory()
    }

    pub(super) fn facts(&self) -> &[RowFacts] {
        &self.facts
    }

    /// The words of its rows.
    pub(super) fn words(&self) -> &Postings {
        &self.words
    }

    /// The number of words of the row at this place of the range.
    pub(super) fn length(&self, slot: usize) -> u32 {
        self.facts.get(usize::from(self.places[slot])).map_or(0, |facts| facts.length)
    }

    pub(super) fn codes(&self) -> &[Vec<u64>] {
        &self.codes
    }

    pub(super) fn unbuilt(&self) -> usize {
        self.unbuilt
    }

    /// The bytes of all rows, one after another, and their scales.
    pub(super) fn vectors(&self) -> (&[i8], &[f32]) {
        (&self.bytes, &self.scales)
    }

    /// The bytes and the scale of a row.
    pub(super) fn vector(&self, place: usize) -> (&[i8], f32) {
        (&self.bytes[place * self.dims..][..self.dims], self.scales[place])
    }

    pub(super) fn get(&self, item: u32) -> Option<&RowFacts> {
        self.facts.get(self.place(item)?)
    }

    pub(super) fn place(&self, item: u32) -> Option<usize> {
        let place = self.places[(item % BLOCK_ITEMS) as usize];
        (place != ABSENT).then_some(usize::from(place))
    }

    pub(super) fn put(&mut self, facts: RowFacts, quantized: &Quantized, fields: &FilterFields) {
        self.remove(facts.item);
        self.words.put(facts.item, &fields.words);
        let place = self.facts.len();
        self.places[(facts.item % BLOCK_ITEMS) as usize] = place as u16;
        self.unbuilt += usize::from(facts.unbuilt.is_some());
        self.facts.push(facts);
        self.codes.iter_mut().zip(&quantized.code).for_each(|(column, word)| column.push(*word));
        self.bytes.extend(&quantized.bytes);
        self.scales.push(quantized.scale);
        self.recent_terms.extend(fields.terms.iter().map(|term| entry(*term, place)));
        if self.recent_terms.len() >= RECENT_TERMS {
            self.terms.append(&mut self.recent_terms);
            self.terms.sort_unstable();
        }
    }

    pub(super) fn remove(&mut self, item: u32) -> bool {
        let Some(place) = self.place(item) else { return false };
        self.places[(item % BLOCK_ITEMS) as usize] = ABSENT;
        self.words.remove(item);
        let last = self.facts.len() - 1;
        self.unbuilt -= usize::from(self.facts[place].unbuilt.is_some());
        self.facts.swap_remove(place);
        self.scales.swap_remove(place);
        for column in &mut self.codes {
            column.swap_remove(place);
        }
        self.bytes.copy_within(last * self.dims.., place * self.dims);
        self.bytes.truncate(last * self.dims);
        for terms in [&mut self.terms, &mut self.recent_terms] {
            terms.retain(|entry| place_of(*entry) != place);
        }
        if let Some(moved) = self.facts.get(place) {
            self.places[(moved.item % BLOCK_ITEMS) as usize] = place as u16;
            for entry in self.terms.iter_mut().chain(&mut self.recent_terms) {
                if place_of(*entry) == last {
                    *entry = *entry - last as u64 + place as u64;
                }
            }
            self.terms.sort_unstable();
        }
        true
    }

    /// Forgets the vectors that a volume with this watermark has.
    pub(super) fn built(&mut self, watermark: i64) {
        for facts in self.facts.iter_mut().filter(|facts| facts.seq <= watermark) {
            self.unbuilt -= usize::from(facts.unbuilt.take().is_some());
        }
    }

    /// Whether a volume with this watermark has a vector that is kept here.
    pub(super) fn has_built(&self, watermark: i64) -> bool {
        self.unbuilt > 0 && self.facts.iter().any(|facts| facts.seq <= watermark && facts.unbuilt.is_some())
    }

    /// Makes the codes anew, around another center.
    pub(super) fn recode(&mut self, center: &[f32]) {
        let mut code = vec![0; words(self.dims)];
        for place in 0..self.len() {
            let bytes = &self.bytes[place * self.dims..][..self.dims];
            code_of_bytes(bytes, self.scales[place], center, &mut code);
            self.codes.iter_mut().zip(&code).for_each(|(column, word)| column[place] = *word);
        }
    }

    /// The rows that match.
    pub(super) fn select(&self, filter: &Filter) -> Places {
        match filter {
            Filter::Has(terms) => {
                let mut found = Places::NONE;
                for term in terms {
                    let is_of = |entry: &&u64| **entry >> PLACE_BITS == term.bits();
                    let from = self.terms.partition_point(|other| *other < entry(*term, 0));
                    let sorted = self.terms[from..].iter().take_while(is_of);
                    let recent = self.recent_terms.iter().filter(is_of);
                    sorted.chain(recent).for_each(|entry| found.insert(place_of(*entry)));
                }
                found
            }
            Filter::Stored { from, until } => {
                let mut found = Places::NONE;
                let times = self.facts.iter().map(|facts| facts.created_at).enumerate();
                times
                    .filter(|(_, time)| (*from..*until).contains(time))
                    .for_each(|(place, _)| found.insert(place));
                found
            }
            Filter::All(conditions) => {
                let every = Places::first(self.len());
                conditions.iter().fold(every, |found, next| found.combine(self.select(next), |a, b| a & b))
            }
            Filter::Any(conditions) => conditions
                .iter()
                .fold(Places::NONE, |found, next| found.combine(self.select(next), |a, b| a | b)),
            Filter::Not(condition) => {
                Places::first(self.len()).combine(self.select(condition), |all, found| all & !found)
            }
        }
    }
}

/// The bits of a place.
const PLACE_BITS: u32 = u64::BITS - TERM_BITS;

fn entry(term: Term, place: usize) -> u64 {
    term.bits() << PLACE_BITS | place as u64
}

fn place_of(entry: u64) -> usize {
    (entry & ((1 << PLACE_BITS) - 1)) as usize
}

#[cfg(test)]
mod tests {
    use super::super::quantized::Quantized;
    use super::*;
    use crate::filter::{FieldValues, TermField};
    use chrono::DateTime;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn fields(color: u8, day: i64) -> FilterFields {
        let created_at = DateTime::from_timestamp_micros(day).unwrap_or_default();
        let color = color.to_string();
        FilterFields::new(FieldValues {
            tmd: None,
            dataset: "d",
            document: Some(&color),
            source_document: None,
            metadata: None,
            created_at,
            text: "",
            content_hash: [0; 32],
        })
    }

    fn filters() -> impl Strategy<Value = Filter> {
        let has = |color: u8| Filter::Has(vec![Term::new(TermField::Document, color)]);
        let leaf = prop_oneof![
            (0..4u8).prop_map(has),
            (0..6i64, 0..6i64).prop_map(|(from, until)| Filter::Stored { from, until }),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Filter::All),
                prop::collection::vec(inner.clone(), 0..3).prop_map(Filter::Any),
                inner.prop_map(|inner| Filter::Not(Box::new(inner))),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_block_selects_the_rows_that_match(
            changes in prop::collection::vec((0..40u32, prop::option::of((0..4u8, 0..6i64))), 0..120),
            filter in filters(),
        ) {
            let mut block = Block::new(2);
            let mut rows = BTreeMap::new();
            for (seq, (item, change)) in changes.into_iter().enumerate() {
                match change {
                    Some((color, day)) => {
                        let fields = fields(color, day);
                        let vector = [item as f32 + 1.0, seq as f32];
                        let quantized = Quantized::new(&vector, 1.0, &[0.0; 2]);
                        let facts = RowFacts::new((seq as i64, item), &fields, None);
                        block.put(facts, &quantized, &fields);
                        rows.insert(item, (seq as i64, fields, quantized));
                    }
                    None => {
                        prop_assert_eq!(block.remove(item), rows.remove(&item).is_some());
                    }
                }
            }
            prop_assert_eq!(block.len(), rows.len());
            let selection = block.select(&filter);
            let mut found: Vec<u32> = (0..block.len())
                .filter(|place| selection.contains(*place))
                .map(|place| block.facts()[place].item)
                .collect();
            found.sort_unstable();
            let wanted: Vec<u32> =
                rows.iter().filter(|(_, (_, fields, _))| filter.matches(fields)).map(|(item, _)| *item).collect();
            prop_assert_eq!(selection.len(), wanted.len());
            prop_assert_eq!(found, wanted);
            for (item, (seq, _, quantized)) in rows {
                let facts = block.get(item).unwrap();
                prop_assert_eq!(facts.seq, seq);
                let place = block.place(item).unwrap();
                prop_assert_eq!(block.vector(place), (&quantized.bytes[..], quantized.scale));
                prop_assert_eq!(block.codes()[0][place], quantized.code[0]);
            }
        }
    }
}
