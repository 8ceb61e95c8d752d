//! The local TMD classifier: domain, task and modifier of a text from its words alone, in microseconds.
//!
//! It serves where no LLM answers and where none is worth asking. Its artefact (built by
//! `scripts/build_classifier.py` from `prototypes.toml` beside this file) says for each known token how strongly
//! it speaks for each label; a text is the sum of its tokens' rows, and the highest label of each axis wins.
//! Integer sums make the codes the same on every machine. There is no model to run and nothing to wait for, so
//! this port has one implementation and no trait.

mod artefact;
mod tokens;

use crate::tmd::{Axis, AxisConfidence, Tmd};
pub use artefact::ArtefactError;
use artefact::{Artefact, LABELS};

/// What a text without a single known word is said to be: Science, Fact Retrieval, Descriptive. The first two are
/// as good as any, and the third keeps it apart from 0.0.0, which in old data means a failed classification.
const UNKNOWN: [u8; 3] = [0, 0, 27];

/// Added to the count of words before votes become a confidence: one lone word proves little, however clear.
const CAUTION: f32 = 4.0;

/// A triple and how sure the classifier is of each part of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Classification {
    /// The codes, always in range.
    pub tmd: Tmd,
    /// For the domain about the probability of being right; for task and modifier, which have no ground truth,
    /// the share of the votes after a softmax. Uniform (1/16, 1/32, 1/64) when no word was known.
    pub confidence: AxisConfidence,
}

/// The classifier: immutable once read, so it is shared freely between threads.
#[derive(Debug)]
pub struct LocalClassifier {
    artefact: Artefact,
    unknown: Tmd,
}

impl LocalClassifier {
    /// Reads an artefact; whatever is wrong with it is an error here, never later.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ArtefactError> {
        let [domain, task, modifier] = UNKNOWN;
        Ok(Self { artefact: Artefact::read(bytes)?, unknown: Tmd::new(domain, task, modifier)? })
    }

    /// The classifier that was built into this program.
    pub fn embedded() -> Result<Self, ArtefactError> {
        Self::from_bytes(include_bytes!(env!("LNSP_CLASSIFIER")))
    }

    /// Names format, prototypes and word table; it is stored with each row as the source of its codes.
    pub fn version(&self) -> &str {
        &self.artefact.version
    }

    /// Always answers: see [`Classification::confidence`] for how much that is worth. Of a long text the first
    /// 512 words are looked up, which bounds the time and says enough.
    pub fn classify(&self, text: &str) -> Classification {
        let mut votes = [0_i32; LABELS];
        let words = self.artefact.vocabulary.walk(text, |row, weight| {
            for (sum, vote) in votes.iter_mut().zip(self.artefact.row(row)) {
                *sum += i32::from(*vote) * weight;
            }
        });
        let mut rest = votes.as_slice();
        let [domain, task, modifier] = Axis::ALL.map(|axis| {
            let (own, others) = rest.split_at(axis.len());
            rest = others;
            winner(own, self.artefact.units[axis as usize] / (words as f32 + CAUTION).sqrt())
        });
        let tmd = match words {
            0 => self.unknown,
            // Never out of range: reading the artefact compared its labels with the axes.
            _ => Tmd::new(domain.0, task.0, modifier.0).unwrap_or(self.unknown),
        };
        let confidence = AxisConfidence { domain: domain.1, task: task.1, modifier: modifier.1 };
        Classification { tmd, confidence }
    }
}

/// The code with the most votes, the lowest among equals, and its share in a softmax.
fn winner(votes: &[i32], logit: f32) -> (u8, f32) {
    let mut best = (0, i32::MIN);
    for (code, &sum) in (0..).zip(votes) {
        if sum > best.1 {
            best = (code, sum);
        }
    }
    // The winner's own term is 1, so the share is in (0, 1] whatever the others are.
    let others: f32 = votes.iter().map(|&sum| ((sum - best.1) as f32 * logit).exp()).sum();
    (best.0, 1.0 / others)
}

#[cfg(test)]
mod tests;
