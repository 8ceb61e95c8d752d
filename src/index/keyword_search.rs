//! Answering a query by words, alone or together with a vector.

use super::error::IndexError;
use super::options::IndexOptions;
use super::resident::KeywordRow;
use super::search::{Effort, NearestItem, NearestItems, SearchMode, View};
use crate::filter::Filter;
use crate::keyword::TextWords;
use std::collections::BTreeMap;

/// What [`super::Index::keyword_async`] looks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeywordQuery<'a> {
    pub(super) words: &'a TextWords,
    pub(super) filter: &'a Filter,
    pub(super) k: usize,
}

/// What [`super::Index::hybrid_async`] looks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct HybridQuery<'a> {
    pub(super) keyword: KeywordQuery<'a>,
    pub(super) vector: &'a [f32],
    /// 0 to 1: the weight of the score by words against the cosine.
    pub(super) keyword_weight: f32,
}

impl View<'_> {
    pub(super) fn by_keyword(&self, query: KeywordQuery<'_>) -> NearestItems {
        let scores = self.resident.keyword_scores(query.words);
        let mut rows = scores.rows(query.filter);
        let matching = rows.len();
        keep_best(&mut rows, query.k);
        let hits = rows.iter().map(|KeywordRow { facts, score }| NearestItem {
            keyword: Some(*score),
            ..NearestItem::new(facts, *score)
        });
        let hits = best(hits.collect(), query.k);
        NearestItems { hits, seq: self.complete_to, mode: SearchMode::Keyword, matching, compared: matching }
    }

    /// The rows that are nearest, and those that have the words: all of them get both scores.
    pub(super) fn by_both(
        &self,
        options: &IndexOptions,
        query: HybridQuery<'_>,
    ) -> Result<NearestItems, IndexError> {
        let HybridQuery { keyword: KeywordQuery { words, filter, k }, vector, keyword_weight } = query;
        let vector = self.unit_length(options, vector)?;
        let txn = self.volume.read()?;
        let meta = self.read_meta(&txn)?;
        let width = self.width(k, Effort::Normal);
        let near = self.resident.candidates(&vector, filter, width);
        let scores = self.resident.keyword_scores(words);
        let mut with_words = scores.rows(filter);
        keep_best(&mut with_words, width.kept);
        let near_rows = near.rows.iter().map(|row| row.facts);
        let rows: BTreeMap<u32, _> = near_rows
            .chain(with_words.iter().map(|row| row.facts))
            .map(|facts| (facts.item, facts))
            .collect();
        let mut hits = Vec::with_capacity(rows.len());
        for (item, facts) in rows {
            if let Some(cosine) = self.cosine(&txn, &meta, &vector, facts)? {
                let keyword = scores.of(item);
                let score = (1.0 - keyword_weight) * cosine + keyword_weight * keyword;
                let parts = NearestItem::new(facts, score);
                hits.push(NearestItem { cosine: Some(cosine), keyword: Some(keyword), ..parts });
            }
        }
        let (compared, matching) = (hits.len(), near.matching);
        let hits = best(hits, k);
        Ok(NearestItems { hits, seq: self.complete_to, mode: SearchMode::Hybrid, matching, compared })
    }
}

/// The best `count` of the rows, without order; of equal ones, those with the lower numbers.
fn keep_best(rows: &mut Vec<KeywordRow<'_>>, count: usize) {
    if rows.len() > count && count > 0 {
        rows.select_nth_unstable_by(count - 1, |a, b| {
            b.score.total_cmp(&a.score).then(a.facts.item.cmp(&b.facts.item))
        });
    }
    rows.truncate(count);
}

/// The best `count`, best first.
fn best(mut hits: Vec<NearestItem>, count: usize) -> Vec<NearestItem> {
    hits.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.item.cmp(&b.item)));
    hits.truncate(count);
    hits
}
