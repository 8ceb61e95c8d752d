//! A heap of the best `k`.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// An item with its score, ordered by score; of equal scores the lower item is greater.
#[derive(Debug, Clone, Copy, PartialEq)]
struct ScoredItem {
    score: f32,
    item: u32,
}

impl Eq for ScoredItem {}

impl Ord for ScoredItem {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.item.cmp(&self.item))
    }
}

impl PartialOrd for ScoredItem {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The best `k` of the offered items.
pub(super) struct Nearest {
    k: usize,
    /// A heap with the worst item on top.
    heap: BinaryHeap<Reverse<ScoredItem>>,
}

impl Nearest {
    pub(super) fn new(k: usize) -> Self {
        Nearest { k, heap: BinaryHeap::with_capacity(k.min(1024) + 1) }
    }

    /// Keeps a candidate if its score is among the best `k`.
    pub(super) fn offer(&mut self, item: u32, score: f32) {
        let candidate = ScoredItem { score: score.clamp(-1.0, 1.0), item };
        if self.heap.len() >= self.k && self.heap.peek().is_none_or(|worst| candidate <= worst.0) {
            return;
        }
        self.heap.push(Reverse(candidate));
        if self.heap.len() > self.k {
            self.heap.pop();
        }
    }

    /// Items with their scores, best first.
    pub(super) fn into_hits(self) -> Vec<(u32, f32)> {
        let sorted = self.heap.into_sorted_vec();
        sorted.into_iter().map(|Reverse(scored)| (scored.item, scored.score)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_come_first_and_ties_by_item() {
        let mut nearest = Nearest::new(3);
        for (item, score) in [(5, 0.1), (9, 0.5), (1, 0.5), (2, 7.0), (8, -1.0)] {
            nearest.offer(item, score);
        }
        assert_eq!(nearest.into_hits(), vec![(2, 1.0), (1, 0.5), (9, 0.5)]);
        assert!(Nearest::new(0).into_hits().is_empty());
    }

    #[test]
    fn nothing_is_kept_when_nothing_is_wanted() {
        let mut nearest = Nearest::new(0);
        nearest.offer(1, 0.5);
        assert!(nearest.into_hits().is_empty());
    }
}
