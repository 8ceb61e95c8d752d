//! The CPESH fields of a chunk, as clients send them.

use super::bounded::BoundedList;
use crate::chunk::{Cpesh, MAX_NEGATIVES, check_negative_count};
use crate::rejection::Rejection;

/// A list of negatives. An absent one among them is passed over.
type WireNegatives = Option<BoundedList<Option<String>, MAX_NEGATIVES>>;

/// The CPESH fields, as far as they were sent.
#[derive(Debug, Default)]
pub(super) struct WireCpesh {
    pub(super) concept_text: Option<String>,
    pub(super) probe_question: Option<String>,
    pub(super) expected_answer: Option<String>,
    pub(super) soft_negatives: WireNegatives,
    pub(super) hard_negatives: WireNegatives,
}

impl WireCpesh {
    /// The parts; their lengths are checked with the chunk.
    ///
    /// # Errors
    /// Too many negatives in a list.
    pub(super) fn check(self) -> Result<Cpesh, Rejection> {
        Ok(Cpesh {
            concept_text: self.concept_text,
            probe_question: self.probe_question,
            expected_answer: self.expected_answer,
            soft_negatives: negatives("soft_negatives", self.soft_negatives)?,
            hard_negatives: negatives("hard_negatives", self.hard_negatives)?,
        })
    }
}

fn negatives(field: &'static str, sent: WireNegatives) -> Result<Vec<String>, Rejection> {
    let Some(list) = sent else { return Ok(Vec::new()) };
    check_negative_count(field, list.received)?;
    Ok(list.items.into_iter().flatten().collect())
}
