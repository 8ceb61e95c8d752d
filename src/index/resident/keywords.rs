//! Scoring all rows by the words of a query: BM25 (Robertson and others, 1994), as Lucene computes it.

use super::block::RowFacts;
use super::postings::{BLOCK_ITEMS, RowsWithWord};
use super::{Block, Resident};
use crate::filter::Filter;
use crate::keyword::TextWords;
use std::sync::Arc;

/// How soon further repetitions of a word add little; the value of Lucene.
const K1: f32 = 1.2;
/// How much a long row is held against it; the value of Lucene.
const B: f32 = 0.75;

/// The scores of all rows that have a word of a query.
pub(in crate::index) struct KeywordScores<'a> {
    /// In the order of their numbers.
    blocks: Vec<ScoredBlock<'a>>,
}

struct ScoredBlock<'a> {
    number: u32,
    block: &'a Block,
    /// By the place of an item in its range; 0 for one without a word of the query.
    scores: Box<[f32]>,
}

/// A row with a word of the query.
#[derive(Debug, Clone, Copy)]
pub(in crate::index) struct KeywordRow<'a> {
    pub(in crate::index) facts: &'a RowFacts,
    pub(in crate::index) score: f32,
}

impl KeywordScores<'_> {
    /// The score of a row; 0 for one that has no word of the query.
    pub(in crate::index) fn of(&self, item: u32) -> f32 {
        let Ok(place) = self.blocks.binary_search_by_key(&(item / BLOCK_ITEMS), |block| block.number) else {
            return 0.0;
        };
        self.blocks[place].scores[(item % BLOCK_ITEMS) as usize]
    }

    /// The rows that match and have a word of the query, without order.
    pub(in crate::index) fn rows(&self, filter: &Filter) -> Vec<KeywordRow<'_>> {
        let mut rows = Vec::new();
        for ScoredBlock { number, block, scores } in &self.blocks {
            let selection = (!filter.is_everything()).then(|| block.select(filter));
            for (slot, score) in scores.iter().enumerate().filter(|(_, score)| **score > 0.0) {
                let item = number * BLOCK_ITEMS + slot as u32;
                let Some(place) = block.place(item) else { continue };
                if selection.as_ref().is_none_or(|selection| selection.contains(place)) {
                    rows.push(KeywordRow { facts: &block.facts()[place], score: *score });
                }
            }
        }
        rows
    }
}

impl Resident {
    /// Scores all rows by their words. A score of 1 is that of a row of average length that has every word of the query
    /// once; words that no row has count among them, so a row that has only "the" of a query stays near 0.
    pub(in crate::index) fn keyword_scores(&self, query: &TextWords) -> KeywordScores<'_> {
        let rows = self.rows as f32;
        let average = (self.words as f32 / rows.max(1.0)).max(1.0);
        let mut best = 0.0;
        let mut found: Vec<Vec<(f32, RowsWithWord<'_>)>> = self.blocks.iter().map(|_| Vec::new()).collect();
        for word in query.words() {
            let in_blocks: Vec<RowsWithWord<'_>> =
                self.blocks.values().map(|block| block.words().rows(word.hash)).collect();
            let with_word = in_blocks.iter().map(RowsWithWord::len).sum::<usize>() as f32;
            let rarity = (1.0 + (rows - with_word + 0.5) / (with_word + 0.5)).ln();
            let weight = rarity * f32::from(word.count);
            best += weight;
            let some = in_blocks.into_iter().enumerate().filter(|(_, rows)| rows.len() > 0);
            some.for_each(|(block, rows)| found[block].push((weight, rows)));
        }
        let score = |(number, block, found): (u32, &'_ Arc<Block>, Vec<(f32, RowsWithWord<'_>)>)| {
            let mut scores = vec![0f32; BLOCK_ITEMS as usize].into_boxed_slice();
            for (weight, rows) in found {
                for (slot, count) in rows.iter() {
                    let length = block.length(slot) as f32 / average;
                    let count = f32::from(count);
                    scores[slot] +=
                        weight / best * (count * (K1 + 1.0) / (count + K1 * (1.0 - B + B * length)));
                }
            }
            (number, scores)
        };
        let blocks = self.blocks.iter().zip(found).filter(|(_, found)| !found.is_empty());
        let blocks = blocks.map(|((number, block), found)| {
            let (number, scores) = score((*number, block, found));
            ScoredBlock { number, block, scores }
        });
        KeywordScores { blocks: blocks.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::FilterFields;
    use std::collections::BTreeMap;

    fn put(resident: &mut Resident, seq: i64, item: u32, text: &str) {
        let fields = FilterFields { words: TextWords::of(text), ..FilterFields::default() };
        resident.put(RowFacts::new((seq, item), &fields, None), &[1.0, 0.0], 1.0, &fields);
    }

    /// The scores by the formula, straight from the texts.
    fn bm25(texts: &BTreeMap<u32, String>, query: &str) -> BTreeMap<u32, f32> {
        let texts: BTreeMap<u32, Vec<&str>> =
            texts.iter().map(|(item, text)| (*item, text.split(' ').collect())).collect();
        let average = texts.values().map(Vec::len).sum::<usize>() as f32 / texts.len() as f32;
        let words = query.split(' ').map(|word| {
            let with_word = texts.values().filter(|text| text.contains(&word)).count() as f32;
            (word, (1.0 + (texts.len() as f32 - with_word + 0.5) / (with_word + 0.5)).ln())
        });
        let words: Vec<(&str, f32)> = words.collect();
        let best: f32 = words.iter().map(|(_, rarity)| rarity).sum();
        let score = |text: &Vec<&str>| {
            let length = text.len() as f32 / average;
            let parts = words.iter().map(|(word, rarity)| {
                let count = text.iter().filter(|other| *other == word).count() as f32;
                rarity * count * (K1 + 1.0) / (count + K1 * (1.0 - B + B * length))
            });
            parts.sum::<f32>() / best
        };
        texts.iter().map(|(item, text)| (*item, score(text))).collect()
    }

    #[test]
    fn scores_are_those_of_the_formula_also_after_changes() {
        let mut resident = Resident::new(2);
        let mut texts = BTreeMap::new();
        let text = |n: u32| {
            let words = (0..1 + n % 9).map(|place| format!("w{}", (n * 7 + place * place) % 23));
            words.collect::<Vec<_>>().join(" ")
        };
        for n in 0..3_000u32 {
            // Over several blocks; some rows are replaced, and some are removed.
            let item = n * 13 % 2_500;
            put(&mut resident, i64::from(n), item, &text(n));
            texts.insert(item, text(n));
            if n % 11 == 0 {
                resident.remove(item / 2);
                texts.remove(&(item / 2));
            }
        }
        for query in ["w3", "w5 w9 w22", "w1 w1 w2 missing"] {
            let scores = resident.keyword_scores(&TextWords::of(query));
            let expected = bm25(&texts, query);
            for (item, wanted) in &expected {
                let found = scores.of(*item);
                assert!((found - wanted).abs() < 1e-4, "{query}, {item}: {found} {wanted}");
            }
            let with_word = expected.values().filter(|score| **score > 0.0).count();
            let rows = scores.rows(&Filter::default());
            assert_eq!(rows.len(), with_word, "{query}");
            assert!(rows.iter().all(|row| texts.contains_key(&row.facts.item)));
        }
        assert_eq!(Resident::new(2).keyword_scores(&TextWords::of("w1")).of(0), 0.0);
    }
}
