//! The local TMD classifier: domain, task and modifier of a text from its words, in microseconds.
//!
//! It is used when no LLM is configured or available, or where it is sure. Its artefact has one row of votes per known
//! token, one vote per label; `scripts/build_classifier.py` builds it from `prototypes.toml` and the lists in `words`.
//! What an author quotes weighs nothing (`own_words.rs`). For English, the rows of all tokens are added; for German and
//! Spanish the domain comes from lists of words ([`language`]). To the votes for task and modifier is added what the
//! kind of the text ([`kind`]) and the domain say. The label with the highest sum wins on each axis; the sums are
//! integers, so the codes are equal on all machines. What the votes claim is then calibrated. The classifier needs no
//! I/O, so this port has one implementation and no trait.

mod artefact;
mod artefact_error;
mod kind;
mod language;
mod mail_line;
mod own_words;
mod sections;
mod tokens;

use crate::tmd::{Axis, AxisConfidence, Tmd};
use artefact::{Artefact, LABELS};
pub use artefact_error::ArtefactError;
use kind::{Marker, TextKind};
use language::{MOST_LANGUAGES, Reach, Signs};
use own_words::own_words;

/// The codes of a text without known words: Science, Fact Retrieval, Descriptive. The first two are arbitrary; the
/// third distinguishes them from 0.0.0, which in old data means a failed classification.
const UNKNOWN: [u8; 3] = [0, 0, 27];

/// Added to the number of words in the confidence, so that a text of one word has a low confidence.
const CAUTION: usize = 4;

/// The codes of a text with a confidence per axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Classification {
    /// One code per axis, always in range.
    pub tmd: Tmd,
    /// Approximately the probability that a careful reader accepts the code, calibrated on texts that the classifier
    /// was not built from; see `docs/labels.md`. Low for languages without a table or list. Uniform (1/16, 1/32, 1/64)
    /// if no word is known.
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

    /// Classifies a text; never fails. Only the first 512 words that the author wrote are used, which bounds the time.
    /// See [`Classification::confidence`] for the reliability.
    pub fn classify(&self, text: &str) -> Classification {
        let artefact = &self.artefact;
        let own = own_words(text);
        let (mut votes, mut signs) = ([0_i32; LABELS], Signs::default());
        let counts = artefact.vocabulary.walk(
            &own.text,
            |word| signs.count(artefact.tells(word)),
            |row, weight| {
                for (sum, vote) in votes.iter_mut().zip(artefact.row(row)) {
                    *sum += i32::from(*vote) * weight;
                }
            },
        );
        let reach = signs.reach(&own.text, &counts, &artefact.languages);
        let mut words = counts.known;
        if let Reach::Listed(number) = reach
            && let Some(language) = artefact.languages.get(number)
        {
            votes = [0; LABELS];
            let is_function = |word: &str| artefact.tells(word) >> number & 1 == 1;
            words = language.vote(&own.text, is_function, &mut votes[..Axis::Domain.len()]);
        } else if words == 0 {
            let confidence = AxisConfidence { domain: 1.0 / 16.0, task: 1.0 / 32.0, modifier: 1.0 / 64.0 };
            return Classification { tmd: self.unknown, confidence };
        }

        let greets = greets(&own.text, |word| artefact.tells(word));
        let kind = TextKind::of(&own, &signs.markers, greets);
        let [domain, task, modifier] = Axis::ALL.map(Axis::len);
        let (domains, rest) = votes.split_at(domain);
        let (tasks, modifiers) = rest.split_at(task);
        // Votes add up with their number, what they say with its square root.
        let root = ((words + CAUTION) << 16).isqrt() as i64;
        let winner = |axis: Axis, votes: &[i32], priors: &[i32]| {
            let (code, claim) = winner(votes, priors, root, artefact.units[axis as usize]);
            (code, artefact.calibrated(reach, kind, axis, claim))
        };
        let domain = winner(Axis::Domain, domains, &[0; 16][..domain]);
        let (of_task, of_modifier) = artefact.priors(kind, domain.0);
        let task = winner(Axis::Task, tasks, &of_task);
        let modifier = winner(Axis::Modifier, &modifiers[..modifier], &of_modifier);
        // Never out of range: the labels of the artefact were compared with the axes.
        let tmd = Tmd::new(domain.0, task.0, modifier.0).unwrap_or(self.unknown);
        let confidence = AxisConfidence { domain: domain.1, task: task.1, modifier: modifier.1 };
        Classification { tmd, confidence }
    }
}

/// Whether the first line of a text greets: it begins with such a word, and is short.
fn greets(text: &str, tells: impl Fn(&str) -> u32) -> bool {
    let Some(line) = text.lines().find(|line| !line.trim().is_empty()) else { return false };
    let line = line.trim();
    let first = line.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    let greeting = 1 << (MOST_LANGUAGES + Marker::Greeting as usize);
    line.len() <= 60 && first.len() <= 20 && tells(&tokens::folded(first)) & greeting != 0
}

/// The code with the highest sum, the lowest one among equals, and its softmax. `root` is the square root of the number
/// of words in 256ths, `unit` the logit of one vote of one word.
fn winner(votes: &[i32], priors: &[i32], root: i64, unit: f32) -> (u8, f32) {
    let sums =
        || votes.iter().zip(priors).map(|(&vote, &prior)| i64::from(vote) * 256 + i64::from(prior) * root);
    let mut best = (0, i64::MIN);
    for (code, sum) in (0..).zip(sums()) {
        if sum > best.1 {
            best = (code, sum);
        }
    }
    // The term of the winner is 1, so the softmax is in (0, 1].
    let logit = unit / root as f32;
    let others: f32 = sums().map(|sum| ((sum - best.1) as f32 * logit).exp()).sum();
    (best.0, 1.0 / others)
}

#[cfg(test)]
mod tests;
