//! Selects the texts of the next batch from those that wait. Pure.
//!
//! A batch is padded to its longest text, so texts of similar length belong together. The oldest text is always in the
//! batch, so no text waits forever.

/// The limits of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// The most tokens, padding included: the number of texts times the length of the longest.
    pub tokens: usize,
    /// The most texts of a batch.
    pub texts: usize,
}

/// The fixed cost of a pass, expressed in tokens: the overhead of its operations. With a fixed cost of 0, passes of one
/// text without padding would be optimal.
pub const PASS_TOKENS: usize = 64;

impl Budget {
    /// The budget, reduced when few texts are left: an even share of all tokens for each of `encoders`, so that none is
    /// idle while others are busy. `lengths` are the token counts of waiting texts, `running` the tokens in progress.
    #[must_use]
    pub fn share(self, lengths: &[usize], running: usize, encoders: usize) -> Budget {
        let waiting: usize = lengths.iter().sum();
        let longest = lengths.iter().copied().max().unwrap_or_default();
        // Rounded up to a whole text, and not below the fixed cost of a pass.
        let even = (waiting + running) / encoders.max(1) + longest.saturating_sub(1);
        if encoders > 1 { Budget { tokens: self.tokens.min(even.max(PASS_TOKENS)), ..self } } else { self }
    }
}

/// Selects the next batch. `lengths` are token counts in arrival order; the result are indices into it, in ascending
/// order of length. Empty only if `lengths` is empty.
///
/// Among the texts sorted by length, it selects the contiguous run that contains the oldest text, fits the budget, and
/// has the highest ratio of real tokens to cost. A text that exceeds the budget has a batch of its own.
pub fn choose(lengths: &[usize], budget: Budget) -> Vec<usize> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    // A stable sort: among texts of equal length, earlier ones come first.
    order.sort_by_key(|&text| lengths[text]);
    let Some(oldest) = order.iter().position(|&text| text == 0) else { return order };
    // `before[i]` is the number of tokens in the `i` shortest texts.
    let before: Vec<usize> = std::iter::once(0)
        .chain(order.iter().scan(0, |sum, &text| {
            *sum += lengths[text];
            Some(*sum)
        }))
        .collect();

    let mut best = oldest..oldest + 1;
    let mut best_yield = tokens_per_cost(lengths[0], lengths[0]);
    for end in oldest + 1..=order.len() {
        let longest = lengths[order[end - 1]].max(1);
        let fitting = (budget.tokens / longest).min(budget.texts);
        if end - oldest > fitting {
            break;
        }
        for start in end.saturating_sub(fitting)..=oldest {
            let found = tokens_per_cost(before[end] - before[start], (end - start) * longest);
            if found > best_yield {
                best = start..end;
                best_yield = found;
            }
        }
    }
    order[best].to_vec()
}

fn tokens_per_cost(real: usize, computed: usize) -> f64 {
    real as f64 / (computed + PASS_TOKENS) as f64
}

/// The ratio of padding to all computed tokens of a batch, 0 to 1. `lengths` are the token counts of its texts.
pub fn padding_ratio(lengths: impl IntoIterator<Item = usize>) -> f64 {
    let (mut texts, mut real, mut longest) = (0_usize, 0_usize, 0_usize);
    for length in lengths {
        texts += 1;
        real += length;
        longest = longest.max(length);
    }
    let computed = texts * longest;
    if computed == 0 { 0.0 } else { (computed - real) as f64 / computed as f64 }
}
