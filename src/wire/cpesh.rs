//! The CPESH fields of a chunk, as clients send them.

use super::bounded::BoundedList;
use super::values::{Name, WholeNumber};
use crate::chunk::{Cpesh, MAX_NEGATIVES, RestoredExtraction, check_negative_count};
use crate::error_code::ErrorCode;
use crate::rejection::Rejection;
use std::time::Duration;

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

/// The fields that say which language model made the CPESH parts, as far as they were sent.
#[derive(Debug, Default)]
pub(super) struct WireExtractionOrigin {
    pub(super) source: Option<String>,
    pub(super) model: Option<Name>,
    pub(super) failure: Option<Name>,
    pub(super) took_us: Option<WholeNumber>,
}

impl WireExtractionOrigin {
    /// The origin, if it is a language model.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidProvenance`].
    pub(super) fn check(self) -> Result<Option<RestoredExtraction>, Rejection> {
        let wrong = |message, field| Err(Rejection::new(ErrorCode::InvalidProvenance, message).param(field));
        let Some(source) = self.source else {
            let others = [
                ("cpesh_model", self.model.is_some()),
                ("cpesh_failure", self.failure.is_some()),
                ("cpesh_took_us", self.took_us.is_some()),
            ];
            return match others.into_iter().find(|(_, there)| *there) {
                Some((field, _)) => wrong(format!("{field} is given without cpesh_source"), field),
                None => Ok(None),
            };
        };
        let took = match self.took_us.map(|WholeNumber(us)| (us, u64::try_from(us))) {
            Some((us, Err(_))) => {
                return wrong(format!("cpesh_took_us: expected 0 or more, received {us}"), "cpesh_took_us");
            }
            Some((_, Ok(us))) => Some(Duration::from_micros(us)),
            None => None,
        };
        let name = |name: &Option<Name>| name.as_ref().map(|Name(name)| name.clone());
        let (model, failure) = (name(&self.model), name(&self.failure));
        RestoredExtraction::new(&source, model.as_deref(), failure.as_deref(), took)
    }
}

fn negatives(field: &'static str, sent: WireNegatives) -> Result<Vec<String>, Rejection> {
    let Some(list) = sent else { return Ok(Vec::new()) };
    check_negative_count(field, list.received)?;
    Ok(list.items.into_iter().flatten().collect())
}
