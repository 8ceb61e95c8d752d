//! The probabilities that a model gave the codes of its answer. Pure.

use crate::tmd::AxisConfidence;
use serde::{Deserialize, Deserializer};
use std::ops::Range;

/// One generated token with its log probability, as Ollama and OpenAI's API report them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct TokenLogprob {
    /// The text of the token.
    pub token: String,
    /// Natural logarithm of the probability; 0 or less. Servers send `null` for minus infinity.
    #[serde(deserialize_with = "or_lowest")]
    pub logprob: f32,
}

fn or_lowest<'de, D: Deserializer<'de>>(from: D) -> Result<f32, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f32::NEG_INFINITY))
}

/// The probability of a code is the product of the probabilities of the tokens that overlap its place in the answer, in
/// bytes. `None` unless the concatenated tokens are the answer, up to white space at its end.
pub fn confidence(
    answer: &str,
    tokens: &[TokenLogprob],
    places: &[Range<usize>; 3],
) -> Option<AxisConfidence> {
    let said: usize = tokens.iter().map(|token| token.token.len()).sum();
    let whole = tokens.iter().flat_map(|token| token.token.bytes()).eq(answer.bytes().take(said));
    if tokens.is_empty() || !whole || !answer.get(said..)?.trim().is_empty() {
        return None;
    }
    let sure = |place: &Range<usize>| -> Option<f32> {
        let (mut at, mut sum) = (0, 0.0);
        for token in tokens {
            let end = at + token.token.len();
            if at < place.end && end > place.start {
                sum += token.logprob.min(0.0);
            }
            at = end;
        }
        sum.is_finite().then(|| sum.exp().max(f32::MIN_POSITIVE))
    };
    let [domain, task, modifier] = places;
    Some(AxisConfidence { domain: sure(domain)?, task: sure(task)?, modifier: sure(modifier)? })
}
