//! The CPESH parts of a chunk: concept, probe question, expected answer, soft and hard negatives.

use super::blank::is_blank;
use crate::error_code::ErrorCode;
use crate::rejection::Rejection;
use serde::{Deserialize, Serialize};

/// The most soft negatives, and the most hard negatives.
pub const MAX_NEGATIVES: usize = 16;
/// The most bytes of all parts together, as JSON. Like that of the metadata it is a part of the longest line of an upload.
pub const MAX_CPESH_BYTES: usize = 64 * 1024;

/// What is extracted from the text of a chunk, to search by it and to train with it. A part that is absent was not
/// extracted. In a [`Chunk`](super::Chunk) at least one part is present, and none is blank. As JSON it has the fields of
/// `POST /ingest`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpesh {
    /// A short statement of what the text says. It is embedded in place of the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concept_text: Option<String>,
    /// A question that the concept answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe_question: Option<String>,
    /// A short answer to the question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_answer: Option<String>,
    /// Plausible wrong answers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub soft_negatives: Vec<String>,
    /// Answers from unrelated fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hard_negatives: Vec<String>,
}

impl Cpesh {
    /// The parts that say something, as the client gave them. Blank ones are absent, and so is a concept that is the
    /// text itself: clients of the old service write it so. `None` without any part.
    pub fn given(self, text: &str) -> Option<Cpesh> {
        let said = |part: Option<String>| part.filter(|part| !is_blank(part));
        let all_said =
            |parts: Vec<String>| parts.into_iter().filter(|part| !is_blank(part)).collect::<Vec<_>>();
        let parts = Cpesh {
            concept_text: said(self.concept_text).filter(|concept| concept != text),
            probe_question: said(self.probe_question),
            expected_answer: said(self.expected_answer),
            soft_negatives: all_said(self.soft_negatives),
            hard_negatives: all_said(self.hard_negatives),
        };
        (parts != Cpesh::default()).then_some(parts)
    }

    /// Checks the length of the parts, and that none has a NUL character.
    pub(super) fn check(&self) -> Result<(), Rejection> {
        for (field, negatives) in self.named_lists() {
            check_negative_count(field, negatives.len())?;
        }
        let lists = self
            .named_lists()
            .into_iter()
            .flat_map(|(field, list)| list.iter().map(move |text| (field, &**text)));
        let parts = self.named_parts().into_iter().filter_map(|(field, part)| Some((field, part?)));
        let parts: Vec<(&str, &str)> = parts.chain(lists).collect();
        let Some(longest) = parts.iter().max_by_key(|(_, part)| part.len()) else { return Ok(()) };
        // What is too long already is not written.
        let bytes = parts.iter().map(|(_, part)| part.len()).sum::<usize>();
        let bytes = if bytes > MAX_CPESH_BYTES {
            bytes
        } else {
            serde_json::to_vec(self).map_or(bytes, |json| json.len())
        };
        if bytes > MAX_CPESH_BYTES {
            let message = format!(
                "CPESH fields too long: expected at most {MAX_CPESH_BYTES} bytes of JSON together, received {bytes}, most of \
                 them in {}",
                longest.0
            );
            return Err(Rejection::new(ErrorCode::CpeshTooLarge, message).param(longest.0));
        }
        match parts.iter().find(|(_, part)| part.contains('\0')) {
            Some((field, _)) => {
                let message = format!("{field} contains a NUL character; remove it");
                Err(Rejection::new(ErrorCode::NulCharacter, message).param(field))
            }
            None => Ok(()),
        }
    }

    /// The single parts, with the names of their fields.
    pub(super) fn named_parts(&self) -> [(&'static str, Option<&str>); 3] {
        [
            ("concept_text", self.concept_text.as_deref()),
            ("probe_question", self.probe_question.as_deref()),
            ("expected_answer", self.expected_answer.as_deref()),
        ]
    }

    /// The lists, with the names of their fields.
    pub(super) fn named_lists(&self) -> [(&'static str, &[String]); 2] {
        [("soft_negatives", &self.soft_negatives), ("hard_negatives", &self.hard_negatives)]
    }

    /// The bytes that it counts while its chunk is in flight.
    pub(super) fn weight(&self) -> usize {
        let parts = self.named_parts().into_iter().filter_map(|(_, part)| part).map(str::len);
        let lists = self.named_lists().into_iter().flat_map(|(_, list)| list);
        parts.chain(lists.map(|negative| negative.len() + size_of::<String>())).sum()
    }
}

/// Checks a list of negatives, of which `field` received `count`.
///
/// # Errors
/// More than [`MAX_NEGATIVES`].
pub fn check_negative_count(field: &'static str, count: usize) -> Result<(), Rejection> {
    if count <= MAX_NEGATIVES {
        return Ok(());
    }
    let message = format!("{field}: expected at most {MAX_NEGATIVES} texts, received {count}");
    Err(Rejection::new(ErrorCode::CpeshTooLarge, message).param(field))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(concept: &str, probe: &str, soft: &[&str]) -> Cpesh {
        Cpesh {
            concept_text: Some(concept.to_owned()),
            probe_question: Some(probe.to_owned()),
            soft_negatives: soft.iter().map(|&text| text.to_owned()).collect(),
            ..Cpesh::default()
        }
    }

    #[test]
    fn what_says_nothing_is_absent() {
        assert_eq!(parts("", " \u{200b}", &["", "\n"]).given("The text."), None);
        assert_eq!(parts("The text.", "", &[]).given("The text."), None, "the text is its own concept");
        let given = parts("A concept.", "", &["", "no"]).given("The text.").unwrap();
        assert_eq!(
            (given.concept_text.as_deref(), given.probe_question, given.soft_negatives),
            (Some("A concept."), None, vec!["no".to_owned()])
        );
    }

    #[test]
    fn lengths_and_nul_are_refused_by_the_name_of_the_field() {
        let refused = |parts: Cpesh| {
            let rejection = parts.check().unwrap_err();
            (rejection.code, rejection.param)
        };
        let long = "x".repeat(MAX_CPESH_BYTES);
        assert_eq!(refused(parts(&long, "", &[])), (ErrorCode::CpeshTooLarge, Some("concept_text")));
        assert_eq!(refused(parts("", "a\0", &[])), (ErrorCode::NulCharacter, Some("probe_question")));
        assert_eq!(refused(parts("", "", &["n", &long])), (ErrorCode::CpeshTooLarge, Some("soft_negatives")));
        assert_eq!(
            refused(parts("", "", &["n"; MAX_NEGATIVES + 1])),
            (ErrorCode::CpeshTooLarge, Some("soft_negatives"))
        );
        let bare = serde_json::to_vec(&parts("", "?", &["n"; MAX_NEGATIVES])).unwrap().len();
        let whole = "x".repeat(MAX_CPESH_BYTES - bare);
        assert!(parts(&whole, "?", &["n"; MAX_NEGATIVES]).check().is_ok());
        assert!(parts(&(whole + "x"), "?", &["n"; MAX_NEGATIVES]).check().is_err());
        // A control character takes six bytes.
        assert!(parts(&"\u{1}".repeat(MAX_CPESH_BYTES / 6), "", &[]).check().is_err());
    }
}
