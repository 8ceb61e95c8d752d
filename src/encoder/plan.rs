//! Which of the waiting texts make up the next batch. Pure.
//!
//! A batch is computed as a rectangle, as wide as its longest text, so texts of like length belong together. The
//! oldest waiting text is always in it: whoever waits is served, whatever its length.

/// What one batch may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Number of texts times the length of the longest one.
    pub tokens: usize,
    /// Number of texts.
    pub texts: usize,
}

/// What a pass costs besides its tokens, expressed in tokens: the steps of a forward pass have to be set up however
/// little there is to compute. Without it every text would best go alone, without padding.
const PASS_TOKENS: usize = 64;

impl Budget {
    /// This budget, less when few texts are left: then an even share of all tokens, `running` and waiting, for each of
    /// `encoders` side by side, so that none is idle while others have much to do. `lengths` are those that wait.
    #[must_use]
    pub fn share(self, lengths: &[usize], running: usize, encoders: usize) -> Budget {
        let waiting: usize = lengths.iter().sum();
        let longest = lengths.iter().copied().max().unwrap_or_default();
        // Rounded up to a whole text; and so small a pass that setting it up is most of it helps nobody.
        let even = (waiting + running) / encoders.max(1) + longest.saturating_sub(1);
        if encoders > 1 { Budget { tokens: self.tokens.min(even.max(PASS_TOKENS)), ..self } } else { self }
    }
}

/// Chooses the next batch among texts whose token counts are given in arrival order; gives their positions, in
/// ascending order of length. Empty only if nothing waits.
///
/// Of the texts sorted by length it takes the run that holds the oldest one, fits the budget, and gets the most real
/// tokens out of each computed one. A text that alone exceeds the budget goes alone.
pub fn choose(lengths: &[usize], budget: Budget) -> Vec<usize> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    // Stable: of equally long texts those that came first go first.
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

/// The share of a batch that is padding, 0 to 1.
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
