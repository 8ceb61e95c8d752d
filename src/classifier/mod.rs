//! The local TMD classifier: domain, task and modifier of a text from its words, in microseconds.
//!
//! It is used when no LLM is configured or available. Its artefact has one row of votes per known token, one vote per
//! label; `scripts/build_classifier.py` builds it from `prototypes.toml` in this folder. The rows of all tokens of a
//! text are added, and the label with the highest sum wins on each axis. The sums are integers, so the codes are equal
//! on all machines. The classifier needs no I/O, so this port has one implementation and no trait.

mod artefact;
mod tokens;

use crate::tmd::{Axis, AxisConfidence, Tmd};
pub use artefact::ArtefactError;
use artefact::{Artefact, LABELS};

/// The codes of a text without known words: Science, Fact Retrieval, Descriptive. The first two are arbitrary; the
/// third distinguishes them from 0.0.0, which in old data means a failed classification.
const UNKNOWN: [u8; 3] = [0, 0, 27];

/// Added to the number of words in the confidence, so that a text of one word has a low confidence.
const CAUTION: f32 = 4.0;

/// The codes of a text with a confidence per axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Classification {
    /// One code per axis, always in range.
    pub tmd: Tmd,
    /// For the domain, approximately the probability of being correct. For task and modifier, which have no ground
    /// truth, the softmax of the votes. Uniform (1/16, 1/32, 1/64) if no word is known.
    pub confidence: AxisConfidence,
}

/// The classifier; immutable, so threads can share it.
#[derive(Debug)]
pub struct LocalClassifier {
    artefact: Artefact,
    unknown: Tmd,
}

impl LocalClassifier {
    /// Reads and validates an artefact.
    ///
    /// # Errors
    /// [`ArtefactError`] if the artefact is damaged, or has another format or other labels.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ArtefactError> {
        let [domain, task, modifier] = UNKNOWN;
        Ok(Self { artefact: Artefact::read(bytes)?, unknown: Tmd::new(domain, task, modifier)? })
    }

    /// Reads the artefact that is compiled into this program.
    ///
    /// # Errors
    /// As [`Self::from_bytes`].
    pub fn embedded() -> Result<Self, ArtefactError> {
        Self::from_bytes(include_bytes!(env!("LNSP_CLASSIFIER")))
    }

    /// The version of format, prototypes and word table; stored with each row as the source of its codes.
    pub fn version(&self) -> &str {
        &self.artefact.version
    }

    /// Classifies a text; never fails. Only the first 512 words are used, which bounds the time. See
    /// [`Classification::confidence`] for the reliability.
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
            // Never out of range: the labels of the artefact were compared with the axes.
            _ => Tmd::new(domain.0, task.0, modifier.0).unwrap_or(self.unknown),
        };
        let confidence = AxisConfidence { domain: domain.1, task: task.1, modifier: modifier.1 };
        Classification { tmd, confidence }
    }
}

/// The code with the most votes, the lowest one among equals, and its softmax.
fn winner(votes: &[i32], logit: f32) -> (u8, f32) {
    let mut best = (0, i32::MIN);
    for (code, &sum) in (0..).zip(votes) {
        if sum > best.1 {
            best = (code, sum);
        }
    }
    // The term of the winner is 1, so the softmax is in (0, 1].
    let others: f32 = votes.iter().map(|&sum| ((sum - best.1) as f32 * logit).exp()).sum();
    (best.0, 1.0 / others)
}

#[cfg(test)]
mod tests;
