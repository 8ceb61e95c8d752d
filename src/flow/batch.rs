//! Items that gather while a stage is busy. There is no timer: the next batch is taken when the stage is free.

/// Items that wait, in order of arrival, each with a size in the unit of the choice: tokens, rows.
pub struct Batch<T> {
    waiting: Vec<WaitingItem<T>>,
}

struct WaitingItem<T> {
    item: T,
    size: usize,
    alone: bool,
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Batch { waiting: Vec::new() }
    }
}

impl<T> Batch<T> {
    /// Adds an item. One with delivery attempts behind it gets a batch of its own: should the stage die again, no other
    /// item becomes a suspect.
    pub fn push(&mut self, item: T, size: usize, attempts: u32) {
        self.waiting.push(WaitingItem { item, size, alone: attempts > 0 });
    }

    /// The number of waiting items.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The sizes of the waiting items together.
    pub fn size(&self) -> usize {
        self.waiting.iter().map(|waiting| waiting.size).sum()
    }

    /// Whether no item waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes the next batch. `choose` sees the sizes of the items that may share one, in order of arrival, and answers
    /// with positions in that list. An item that must be alone is taken when it is the oldest.
    pub fn take(&mut self, choose: impl FnOnce(&[usize]) -> Vec<usize>) -> Vec<T> {
        if self.waiting.first().is_some_and(|oldest| oldest.alone) {
            return vec![self.waiting.remove(0).item];
        }
        let sharing: Vec<usize> = (0..self.waiting.len()).filter(|i| !self.waiting[*i].alone).collect();
        let sizes: Vec<usize> = sharing.iter().map(|i| self.waiting[*i].size).collect();
        let mut chosen = vec![false; self.waiting.len()];
        for position in choose(&sizes) {
            if let Some(index) = sharing.get(position) {
                chosen[*index] = true;
            }
        }
        let mut taken = Vec::new();
        let mut chosen = chosen.into_iter();
        let (mut kept, all) = (Vec::with_capacity(self.waiting.len()), std::mem::take(&mut self.waiting));
        for waiting in all {
            if chosen.next() == Some(true) { taken.push(waiting.item) } else { kept.push(waiting) }
        }
        self.waiting = kept;
        taken
    }

    /// Takes up to `most` of the oldest items.
    pub fn take_oldest(&mut self, most: usize) -> Vec<T> {
        self.take(|sizes| (0..sizes.len().min(most)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_item_that_must_be_alone_shares_no_batch_and_is_not_overtaken_for_ever() {
        let mut batch = Batch::default();
        batch.push('a', 1, 0);
        batch.push('x', 1, 1);
        batch.push('b', 1, 0);
        batch.push('c', 1, 0);
        assert_eq!(batch.take_oldest(2), ['a', 'b']);
        assert_eq!(batch.take_oldest(2), ['x']);
        assert_eq!(batch.take_oldest(2), ['c']);
        assert!(batch.is_empty());
    }

    proptest! {
        #[test]
        fn every_item_is_taken_once_in_order(alone in proptest::collection::vec(any::<bool>(), 0..60), most in 1usize..9) {
            let mut batch = Batch::default();
            for (i, alone) in alone.iter().enumerate() {
                batch.push(i, 1, u32::from(*alone));
            }
            let mut seen = Vec::new();
            while !batch.is_empty() {
                let taken = batch.take_oldest(most);
                prop_assert!(!taken.is_empty() && taken.len() <= most);
                prop_assert!(taken.len() == 1 || taken.iter().all(|i| !alone[*i]));
                seen.extend(taken);
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..alone.len()).collect::<Vec<_>>());
        }
    }
}
