//! Exact search: the dot product, and a heap of the best `k`.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Independent sums, so that the compiler can use vector registers: with a single sum it must keep the order of the
/// additions.
const LANES: usize = 16;

/// The dot product of two vectors of the same length.
pub(super) fn dot(left: &[f32], right: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let (left_chunks, left_rest) = left.as_chunks::<LANES>();
    let (right_chunks, right_rest) = right.as_chunks::<LANES>();
    for (l, r) in left_chunks.iter().zip(right_chunks) {
        for lane in 0..LANES {
            sums[lane] += l[lane] * r[lane];
        }
    }
    let rest: f32 = left_rest.iter().zip(right_rest).map(|(l, r)| l * r).sum();
    rest + sums.iter().sum::<f32>()
}

/// The dot product with the bytes of a stored vector: native-endian f32, unaligned.
pub(super) fn dot_bytes(left: &[f32], right: &[u8]) -> f32 {
    let mut sums = [0f32; LANES];
    let (left_chunks, left_rest) = left.as_chunks::<LANES>();
    let (right_chunks, right_rest) = right.as_chunks::<{ LANES * 4 }>();
    for (l, r) in left_chunks.iter().zip(right_chunks) {
        let (r, _) = r.as_chunks::<4>();
        for lane in 0..LANES {
            sums[lane] += l[lane] * f32::from_ne_bytes(r[lane]);
        }
    }
    let (right_rest, _) = right_rest.as_chunks::<4>();
    let rest: f32 = left_rest.iter().zip(right_rest).map(|(l, r)| l * f32::from_ne_bytes(*r)).sum();
    rest + sums.iter().sum::<f32>()
}

/// The Euclidean norm of a vector.
pub(super) fn norm(vector: &[f32]) -> f32 {
    dot(vector, vector).sqrt()
}

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

    /// Keeps a candidate if its score is among the best `k`. Calls `counts` only then, because it costs more than the
    /// score.
    pub(super) fn offer(&mut self, item: u32, score: f32, counts: impl FnOnce() -> bool) {
        let candidate = ScoredItem { score: score.clamp(-1.0, 1.0), item };
        if self.heap.len() >= self.k && self.heap.peek().is_none_or(|worst| candidate <= worst.0) {
            return;
        }
        if !counts() {
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
    fn products_agree_with_the_plain_sum() {
        for dims in [1, 7, 16, 33, 384] {
            let left: Vec<f32> = (0..dims).map(|i| (i as f32 * 0.37).sin()).collect();
            let right: Vec<f32> = (0..dims).map(|i| (i as f32 * 0.11).cos()).collect();
            let plain: f32 = left.iter().zip(&right).map(|(l, r)| l * r).sum();
            let bytes: Vec<u8> = right.iter().flat_map(|x| x.to_ne_bytes()).collect();
            assert!((dot(&left, &right) - plain).abs() < 1e-4, "{dims}");
            assert_eq!(dot(&left, &right), dot_bytes(&left, &bytes), "{dims}");
        }
    }

    #[test]
    fn the_best_come_first_and_ties_by_item() {
        let mut nearest = Nearest::new(3);
        for (item, score) in [(5, 0.1), (4, 0.9), (9, 0.5), (1, 0.5), (2, 7.0), (8, -1.0)] {
            nearest.offer(item, score, || item != 4);
        }
        assert_eq!(nearest.into_hits(), vec![(2, 1.0), (1, 0.5), (9, 0.5)]);
        assert!(Nearest::new(0).into_hits().is_empty());
    }

    #[test]
    fn nothing_is_kept_when_nothing_is_wanted() {
        let mut nearest = Nearest::new(0);
        nearest.offer(1, 0.5, || true);
        assert!(nearest.into_hits().is_empty());
    }
}
