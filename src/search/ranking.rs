//! The order of what the indexes found: preferred codes, equal texts, variety.

use super::explanation::Explanation;
use crate::index::{NearestItem, VectorKind, dot};
use crate::tmd::{Tmd, projection};
use std::collections::{HashMap, HashSet};

/// Of which rows only the best is returned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Collapse {
    /// Every row is returned.
    #[default]
    None,
    /// Of rows with equal texts, one.
    Text,
    /// Of the rows of a document, one. Rows without a document stay.
    Document,
}

/// A found item with its score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RankedItem {
    /// Its number in the index and in the store.
    pub item: u32,
    /// The clock value of the change that the vector is of. A row that was changed before that is of another history.
    pub seq: i64,
    /// What decides the order: the score of the index, or its weighted mean with the similarity of codes.
    pub score: f32,
    /// The cosine with the query, -1 to 1, where vectors were compared.
    pub cosine: Option<f32>,
    /// The score by words, where they were compared.
    pub keyword: Option<f32>,
    /// The similarity of its codes with those of the query, where they count.
    pub similarity: Option<f32>,
    /// The vector of the chunk that has this score.
    pub matched: VectorKind,
    /// When the row was stored, in microseconds since 1970. A row with this number and another time is another row.
    pub created_at: i64,
    tmd: Option<Tmd>,
    document: u64,
    text: u64,
}

/// The result of a search.
#[derive(Debug)]
pub struct Ranking {
    /// The items, best first.
    pub items: Vec<RankedItem>,
    /// The results reflect every change up to this clock value.
    pub index_seq: i64,
    /// How they were found.
    pub explanation: Explanation,
}

/// The codes that a search prefers.
pub(super) struct Preference {
    /// Their canonical encoding.
    pub wanted: [f32; 16],
    /// The weight of their similarity, above 0 and at most 1.
    pub weight: f32,
}

/// Orders what was found.
pub(super) struct Ranker {
    preference: Option<Preference>,
    collapse: Collapse,
    diverse: bool,
}

impl RankedItem {
    pub(super) fn new(nearest: NearestItem, matched: VectorKind) -> RankedItem {
        let NearestItem { item, seq, score, cosine, keyword, tmd, created_at, document, text } = nearest;
        let similarity = None;
        RankedItem { item, seq, score, cosine, keyword, similarity, matched, created_at, tmd, document, text }
    }
}

impl Ranker {
    pub(super) fn new(preference: Option<Preference>, collapse: Collapse, diverse: bool) -> Ranker {
        Ranker { preference, collapse, diverse }
    }

    /// Whether more than the wanted results have to be found.
    pub(super) fn drops_or_reorders(&self) -> bool {
        self.preference.is_some() || self.collapse != Collapse::None || self.diverse
    }

    pub(super) fn rank(&self, found: &[RankedItem]) -> Vec<RankedItem> {
        let mut items = found.to_vec();
        if let Some(preference) = &self.preference {
            for found in &mut items {
                let similarity = preference.similarity(found.tmd);
                found.similarity = Some(similarity);
                found.score = (1.0 - preference.weight) * found.score + preference.weight * similarity;
            }
            items.sort_by(|a, b| b.score.total_cmp(&a.score));
        }
        let mut seen = HashSet::new();
        match self.collapse {
            Collapse::None => {}
            Collapse::Text => items.retain(|found| seen.insert(found.text)),
            Collapse::Document => items.retain(|found| found.document == 0 || seen.insert(found.document)),
        }
        items
    }
}

impl Preference {
    /// The dot product of the canonical 16-D encodings of the codes, and 0 to a row without codes.
    fn similarity(&self, codes: Option<Tmd>) -> f32 {
        codes.map_or(0.0, |codes| {
            let encoded = projection::canonical_16d(codes);
            encoded.iter().zip(self.wanted).map(|(a, b)| a * b).sum()
        })
    }
}

/// Orders items that two indexes found, and keeps the better one of each.
pub(super) fn best_of_both(items: &mut Vec<RankedItem>) {
    items.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut seen = HashSet::new();
    items.retain(|found| seen.insert(found.item));
}

/// Maximal marginal relevance (Carbonell and Goldstein, 1998): the next result is the one with the largest
/// `(1 - diversity) * score - diversity * likeness`, where likeness is the largest cosine with a result before it. Of
/// 5,000 items the best 1,000 take about a second, so it does not run on the thread of a connection.
pub(super) fn diverse(
    items: Vec<RankedItem>,
    vectors: Vec<(u32, Vec<f32>)>,
    diversity: f32,
    count: usize,
) -> Vec<RankedItem> {
    let unit = |vector: Vec<f32>| {
        let length = dot(&vector, &vector).sqrt();
        vector.into_iter().map(|x| x / length).collect::<Vec<f32>>()
    };
    let vectors: HashMap<u32, Vec<f32>> =
        vectors.into_iter().map(|(item, vector)| (item, unit(vector))).collect();
    // Without a vector the row was deleted meanwhile.
    let left = items.into_iter().filter_map(|found| Some((found, vectors.get(&found.item)?, 0f32)));
    let mut left: Vec<(RankedItem, &Vec<f32>, f32)> = left.collect();
    let mut chosen = Vec::with_capacity(count);
    while chosen.len() < count {
        let value = |(found, _, likeness): &(RankedItem, &Vec<f32>, f32)| {
            (1.0 - diversity) * found.score - diversity * likeness
        };
        let best =
            (0..left.len()).max_by(|a, b| value(&left[*a]).total_cmp(&value(&left[*b])).then(b.cmp(a)));
        let Some(best) = best else { break };
        let (found, vector, _) = left.remove(best);
        for (_, other, likeness) in &mut left {
            *likeness = likeness.max(dot(vector, other));
        }
        chosen.push(found);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(item: u32, score: f32, document: u64, text: u64) -> RankedItem {
        let (cosine, keyword, tmd) = (Some(score), None, None);
        let (seq, created_at) = (0, 0);
        let nearest = NearestItem { item, seq, score, cosine, keyword, tmd, created_at, document, text };
        RankedItem::new(nearest, VectorKind::Concept)
    }

    fn items(found: &[RankedItem]) -> Vec<u32> {
        found.iter().map(|found| found.item).collect()
    }

    #[test]
    fn the_best_of_those_that_are_alike_stays() {
        let all = [found(1, 0.9, 7, 1), found(2, 0.8, 0, 1), found(3, 0.7, 7, 2), found(4, 0.6, 0, 3)];
        let rank = |collapse| {
            let ranker = Ranker { preference: None, collapse, diverse: false };
            items(&ranker.rank(&all))
        };
        assert_eq!(rank(Collapse::None), [1, 2, 3, 4]);
        assert_eq!(rank(Collapse::Text), [1, 3, 4]);
        assert_eq!(rank(Collapse::Document), [1, 2, 4]);
        let mut both = vec![found(2, 0.8, 0, 0), found(1, 0.9, 0, 0), found(2, 0.95, 0, 0)];
        best_of_both(&mut both);
        assert_eq!(items(&both), [2, 1]);
    }

    #[test]
    fn variety_puts_the_unlike_before_the_alike() {
        let all = vec![found(1, 0.9, 0, 0), found(2, 0.89, 0, 0), found(3, 0.5, 0, 0), found(9, 0.4, 0, 0)];
        let vectors = vec![(1, vec![2.0, 0.0]), (2, vec![1.0, 0.01]), (3, vec![0.0, 1.0])];
        assert_eq!(items(&diverse(all.clone(), vectors.clone(), 0.5, 3)), [1, 3, 2]);
        assert_eq!(items(&diverse(all, vectors, 0.0, 2)), [1, 2]);
    }
}
