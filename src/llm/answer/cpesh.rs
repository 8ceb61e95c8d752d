//! The CPESH parts of an answer: what is taken, and what is refused. Pure.
//!
//! Parts are untrusted text. They are put on one line, and control characters and marks that turn the direction of
//! writing are removed. All parts or none are taken: a set with a part missing trains the wrong thing.

use crate::chunk::{Cpesh, is_blank};
use crate::llm::prompt::{PARTS, closing, opening};
use crate::llm::shape::{CONCEPT_CHARS, NEGATIVE_CHARS, NEGATIVES, QUESTION_CHARS};
use serde::Deserialize;
use serde_json::Value;

/// Shorter parts may occur in the prompt by chance.
const ECHO_BYTES: usize = 16;

/// Why an answer with usable codes has no usable CPESH parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CpeshFailure {
    /// A part is absent, or is not of its type.
    Missing,
    /// A part says nothing.
    Blank,
    /// There are not exactly three soft and three hard negatives.
    Negatives,
    /// A part is longer than twice what was asked for.
    TooLong,
    /// A part repeats the prompt.
    Echo,
    /// A negative is the expected answer.
    Contradiction,
}

impl CpeshFailure {
    /// All failures, in the order of the checks.
    pub const ALL: [CpeshFailure; 6] = [
        CpeshFailure::Missing,
        CpeshFailure::Blank,
        CpeshFailure::Negatives,
        CpeshFailure::TooLong,
        CpeshFailure::Echo,
        CpeshFailure::Contradiction,
    ];

    /// The name of the failure in rows and metrics, from a closed set.
    pub fn kind(self) -> &'static str {
        match self {
            CpeshFailure::Missing => "cpesh_missing",
            CpeshFailure::Blank => "cpesh_blank",
            CpeshFailure::Negatives => "cpesh_negatives",
            CpeshFailure::TooLong => "cpesh_too_long",
            CpeshFailure::Echo => "cpesh_echo",
            CpeshFailure::Contradiction => "cpesh_contradiction",
        }
    }
}

/// The members of an answer besides the codes.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct CpeshParts {
    concept: Value,
    probe: Value,
    expected: Value,
    soft_negatives: Value,
    hard_negatives: Value,
}

impl CpeshParts {
    /// Checks the parts. `mark` is that of the text: a part with a line of the prompt repeats it.
    pub fn check(&self, mark: &str) -> Result<Cpesh, CpeshFailure> {
        let repeats_marks = |part: &str| part.contains(&opening(mark)) || part.contains(&closing(mark));
        let one = |part: &Value, longest: usize| -> Result<String, CpeshFailure> {
            let part = plain(part.as_str().ok_or(CpeshFailure::Missing)?);
            if is_placeholder(&part) {
                return Err(CpeshFailure::Blank);
            }
            if part.chars().count() > 2 * longest {
                return Err(CpeshFailure::TooLong);
            }
            if repeats_marks(&part) || (part.len() >= ECHO_BYTES && PARTS.contains(&*part)) {
                return Err(CpeshFailure::Echo);
            }
            Ok(part)
        };
        let three = |parts: &Value| -> Result<Vec<String>, CpeshFailure> {
            let parts = parts.as_array().ok_or(CpeshFailure::Missing)?;
            if parts.len() != NEGATIVES {
                return Err(CpeshFailure::Negatives);
            }
            parts.iter().map(|part| one(part, NEGATIVE_CHARS)).collect()
        };
        let expected = one(&self.expected, QUESTION_CHARS)?;
        let cpesh = Cpesh {
            concept_text: Some(one(&self.concept, CONCEPT_CHARS)?),
            probe_question: Some(one(&self.probe, QUESTION_CHARS)?),
            soft_negatives: three(&self.soft_negatives)?,
            hard_negatives: three(&self.hard_negatives)?,
            expected_answer: None,
        };
        let mut negatives = cpesh.soft_negatives.iter().chain(&cpesh.hard_negatives);
        if negatives.any(|negative| negative.to_lowercase() == expected.to_lowercase()) {
            return Err(CpeshFailure::Contradiction);
        }
        Ok(Cpesh { expected_answer: Some(expected), ..cpesh })
    }
}

/// A part on one line, without control characters and without marks that turn the direction of writing.
fn plain(part: &str) -> String {
    let turns = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    let kept: String = part.chars().filter(|c| c.is_whitespace() || !(c.is_control() || turns(*c))).collect();
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a part is empty, or stands for one as the dots of the example do.
fn is_placeholder(part: &str) -> bool {
    is_blank(part) || part.chars().all(|c| matches!(c, '.' | '…' | '-' | '_' | ' '))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const MARK: &str = "0123456789abcdef";

    fn good() -> Value {
        json!({
            "concept": "Rivers carry sediment to the sea.", "probe": "What do rivers carry to the sea?",
            "expected": "Sediment", "soft_negatives": ["Ice", "Salt", "Oil"],
            "hard_negatives": ["A sonata", "A statute", "A loan"],
        })
    }

    fn checked(value: Value) -> Result<Cpesh, CpeshFailure> {
        serde_json::from_value::<CpeshParts>(value).unwrap().check(MARK)
    }

    fn with(path: &str, value: Value) -> Result<Cpesh, CpeshFailure> {
        let mut parts = good();
        *parts.pointer_mut(path).unwrap() = value;
        checked(parts)
    }

    #[test]
    fn all_parts_are_taken_on_one_line() {
        let cpesh = with("/concept", json!("Rivers\u{0}\n\tcarry \u{1b}[31m\u{202e}sediment.")).unwrap();
        assert_eq!(cpesh.concept_text.as_deref(), Some("Rivers carry [31msediment."));
        assert_eq!((cpesh.soft_negatives.len(), cpesh.hard_negatives.len()), (3, 3));
        assert_eq!(with("/expected", json!("👩‍🚀")).unwrap().expected_answer.as_deref(), Some("👩‍🚀"));
    }

    #[test]
    fn a_set_with_a_bad_part_is_refused() {
        use CpeshFailure::{Blank, Contradiction, Echo, Missing, Negatives, TooLong};
        for (path, value, failure) in [
            ("/concept", json!(null), Missing),
            ("/probe", json!(7), Missing),
            ("/soft_negatives", json!("Ice, Salt, Oil"), Missing),
            ("/hard_negatives", json!(["a", "b"]), Negatives),
            ("/hard_negatives", json!(["a", "b", "c", "d"]), Negatives),
            ("/hard_negatives", json!(["a", "b", 3]), Missing),
            ("/expected", json!(" \u{200b}\n"), Blank),
            ("/expected", json!("..."), Blank),
            ("/concept", json!("x".repeat(481)), TooLong),
            ("/soft_negatives/1", json!("x".repeat(161)), TooLong),
            ("/probe", json!("a question that this statement answers."), Echo),
            ("/concept", json!(format!("Begin {MARK} Rivers")), Echo),
            ("/soft_negatives/2", json!("sediment"), Contradiction),
        ] {
            assert_eq!(with(path, value.clone()), Err(failure), "{path} {value}");
        }
        assert_eq!(checked(json!({})), Err(Missing));
        assert!(with("/concept", json!("x".repeat(480))).is_ok());
    }

    #[test]
    fn the_names_are_distinct() {
        let names: std::collections::BTreeSet<&str> = CpeshFailure::ALL.map(CpeshFailure::kind).into();
        assert_eq!(names.len(), CpeshFailure::ALL.len());
    }

    proptest! {
        #[test]
        fn what_is_taken_has_no_control_character(concept in any::<String>(), negative in any::<String>()) {
            let mut parts = good();
            parts["concept"] = json!(concept);
            parts["soft_negatives"][0] = json!(negative);
            if let Ok(cpesh) = checked(parts) {
                let all = [cpesh.concept_text.unwrap(), cpesh.soft_negatives[0].clone()];
                prop_assert!(all.iter().all(|part| !part.chars().any(char::is_control) && !is_blank(part)));
            }
        }
    }
}
