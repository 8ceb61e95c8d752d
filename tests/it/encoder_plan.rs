//! The selection of texts for a pass of the model.

use lnsp_ingest::encoder::plan::{self, Budget};
use proptest::prelude::*;

const BUDGET: Budget = Budget { tokens: 1024, texts: 64 };

proptest! {
    #[test]
    fn a_batch_has_the_oldest_text_and_keeps_the_budget(
        lengths in prop::collection::vec(0_usize..300, 1..200),
        tokens in 1_usize..5000,
        texts in 1_usize..100,
    ) {
        let chosen = plan::choose(&lengths, Budget { tokens, texts });
        prop_assert!(chosen.contains(&0));
        let longest = chosen.iter().map(|&text| lengths[text]).max().unwrap();
        prop_assert!(chosen.len() == 1 || (chosen.len() <= texts && chosen.len() * longest <= tokens));
        let mut unique = chosen.clone();
        unique.sort_unstable();
        unique.dedup();
        prop_assert_eq!(unique.len(), chosen.len());
        prop_assert!(chosen.is_sorted_by_key(|&text| lengths[text]));
    }

    /// Every text is selected after at most as many batches as there are texts before it.
    #[test]
    fn everything_that_waits_is_served(lengths in prop::collection::vec(1_usize..300, 1..120)) {
        let mut waiting: Vec<(usize, usize)> = lengths.iter().copied().enumerate().collect();
        let mut batches = 0;
        while let Some(&(oldest, _)) = waiting.first() {
            prop_assert!(oldest >= batches);
            let of_waiting: Vec<usize> = waiting.iter().map(|&(_, length)| length).collect();
            let chosen = plan::choose(&of_waiting, BUDGET);
            let mut at = 0;
            waiting.retain(|_| { at += 1; !chosen.contains(&(at - 1)) });
            batches += 1;
        }
    }
}

#[test]
fn nothing_waits_nothing_is_chosen() {
    assert!(plan::choose(&[], Budget { tokens: 1024, texts: 8 }).is_empty());
}

#[test]
fn a_text_over_the_budget_goes_alone() {
    assert_eq!(plan::choose(&[300, 10, 290], Budget { tokens: 256, texts: 8 }), [0]);
}

#[test]
fn like_lengths_go_together() {
    let mut lengths = vec![50; 10];
    lengths.extend([250; 10]);
    let chosen = plan::choose(&lengths, Budget { tokens: 2048, texts: 64 });
    assert_eq!(chosen, (0..10).collect::<Vec<_>>());
}

/// Selects passes for `encoders` that start together until no text waits; returns the number of texts of each.
fn passes(mut lengths: Vec<usize>, encoders: usize, budget: Budget) -> Vec<usize> {
    let (mut running, mut passes) = (0, Vec::new());
    while !lengths.is_empty() {
        let mut chosen = plan::choose(&lengths, budget.share(&lengths, running, encoders));
        passes.push(chosen.len());
        chosen.sort_unstable_by(|a, b| b.cmp(a));
        running += chosen.into_iter().map(|at| lengths.remove(at)).sum::<usize>();
    }
    passes
}

#[test]
fn few_texts_are_shared_out_among_the_encoders() {
    assert_eq!(passes(vec![13; 10], 1, BUDGET), [10]);
    assert_eq!(passes(vec![13; 10], 2, BUDGET), [5, 5]);
    assert_eq!(passes(vec![60; 10], 4, BUDGET), [3, 3, 3, 1]);
    assert_eq!(passes(vec![5; 3], 2, BUDGET), [3], "too few to share");
    assert_eq!(passes(vec![250], 8, BUDGET), [1]);
    assert_eq!(passes(vec![60; 40], 2, BUDGET)[..2], [17, 17], "many fill the budget");
}

#[test]
fn an_encoder_that_is_free_while_others_have_much_to_do_takes_what_there_is() {
    let waiting = vec![13; 10];
    let taken = |running| plan::choose(&waiting, BUDGET.share(&waiting, running, 2)).len();
    assert_eq!((taken(0), taken(1024)), (5, 10));
}

proptest! {
    #[test]
    fn a_share_is_never_more_than_the_budget(
        lengths in prop::collection::vec(1_usize..300, 1..100),
        running in 0_usize..5000,
        encoders in 1_usize..10,
    ) {
        let share = BUDGET.share(&lengths, running, encoders);
        prop_assert!(share.tokens <= BUDGET.tokens && share.texts == BUDGET.texts);
        prop_assert!(share.tokens >= BUDGET.tokens.min(lengths.iter().sum::<usize>() / encoders));
    }
}
