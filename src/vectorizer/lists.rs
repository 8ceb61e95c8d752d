//! Vectors for lists of texts: equal texts are embedded once, and each pass holds texts of similar length.

use super::{Text, VectorError, Vectorizer};
use crate::encoder::plan::Budget;
use crate::threads::Lane;
use futures_util::{StreamExt, stream};
use std::collections::HashMap;
use std::sync::Arc;

/// The number of texts of one list that are queued at the tokenizer.
const READ_AHEAD: usize = 16;

/// The vector of one text, or why it has none.
type VectorResult = Result<Arc<[f32]>, VectorError>;

impl Vectorizer {
    /// One vector of unit length, or an error, per text, in the order of `texts`. The module documentation describes
    /// the priority of lists.
    pub async fn vectors(&self, texts: Vec<String>) -> Vec<VectorResult> {
        let mut known: HashMap<Arc<str>, usize> = HashMap::new();
        let mut different: Vec<Arc<str>> = Vec::new();
        let places: Vec<usize> = texts
            .into_iter()
            .map(|text| {
                let text: Arc<str> = text.into();
                *known.entry(text.clone()).or_insert_with(|| {
                    different.push(text);
                    different.len() - 1
                })
            })
            .collect();
        drop(known);
        let answers = self.of_different(different).await;
        places.into_iter().map(|place| answers[place].clone()).collect()
    }

    async fn of_different(&self, texts: Vec<Arc<str>>) -> Vec<VectorResult> {
        let reading = texts.into_iter().map(|text| self.read(Lane::Bulk, text));
        let read: Vec<Result<Text, VectorError>> = stream::iter(reading).buffered(READ_AHEAD).collect().await;
        let mut readable: Vec<usize> = (0..read.len()).filter(|place| read[*place].is_ok()).collect();
        let size = |place: usize| read[place].as_ref().map_or(0, Text::size);
        readable.sort_by_key(|place| size(*place));
        let sizes: Vec<usize> = readable.iter().map(|place| size(*place)).collect();
        let mut left = readable.as_slice();
        let passes: Vec<&[usize]> = pass_lengths(&sizes, self.budget)
            .into_iter()
            .map(|count| {
                let (pass, rest) = left.split_at(count);
                left = rest;
                pass
            })
            .collect();
        let passes = passes.into_iter().map(|places| {
            let texts: Vec<Text> = places.iter().filter_map(|place| read[*place].clone().ok()).collect();
            async move {
                // The semaphore is never closed.
                let _permit = self.permits.acquire().await;
                (places, self.embed(Lane::Bulk, &texts).await.vectors)
            }
        });
        let passed: Vec<_> = stream::iter(passes).buffer_unordered(self.concurrency()).collect().await;
        let missing = VectorError::Count { expected: read.len(), received: 0 };
        let unread = |text: &Result<Text, VectorError>| Err(text.as_ref().err().unwrap_or(&missing).clone());
        let mut answers: Vec<VectorResult> = read.iter().map(unread).collect();
        for (places, vectors) in passed {
            for (place, embedded) in places.iter().zip(vectors) {
                answers[*place] = embedded.map(|embedded| embedded.vector);
            }
        }
        answers
    }
}

/// Divides texts into passes within `budget`; returns the number of texts per pass. `sizes` are token counts in
/// ascending order. A text that exceeds the budget has a pass of its own.
fn pass_lengths(sizes: &[usize], budget: Budget) -> Vec<usize> {
    let mut passes: Vec<usize> = Vec::new();
    let mut count = 0;
    for size in sizes {
        if count > 0 && (count == budget.texts || (count + 1) * size > budget.tokens) {
            passes.push(std::mem::take(&mut count));
        }
        count += 1;
    }
    passes.extend((count > 0).then_some(count));
    passes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_are_as_full_as_the_budget_lets_them_be() {
        let budget = Budget { tokens: 100, texts: 4 };
        assert_eq!(pass_lengths(&[], budget), Vec::<usize>::new());
        assert_eq!(pass_lengths(&[5, 5, 5, 5, 5, 5], budget), [4, 2], "texts");
        assert_eq!(pass_lengths(&[10, 30, 33, 34, 50, 50], budget), [3, 2, 1], "tokens, padding included");
        assert_eq!(
            pass_lengths(&[10, 400, 500], budget),
            [1, 1, 1],
            "a text that is too large has its own pass"
        );
    }
}
