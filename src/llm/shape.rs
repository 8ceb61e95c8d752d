//! The shapes of an answer: what it consists of, its JSON schema, and its length.

use super::question::Wanted;
use super::schema::AnswerSchema;
use crate::tmd::Axis;
use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

/// How an answer says the three codes: `LNSP_TMD_ANSWER`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum AnswerForm {
    /// By name, as in the lists. Small models are best at it.
    #[default]
    Names,
    /// By number: a third of the tokens and less, so a third of the time of a call that waits for tokens.
    Short,
}

/// The text is no [`AnswerForm`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("names or short")]
pub struct InvalidAnswerForm;

impl FromStr for AnswerForm {
    type Err = InvalidAnswerForm;

    fn from_str(text: &str) -> Result<AnswerForm, InvalidAnswerForm> {
        match text.trim().to_ascii_lowercase().as_str() {
            "names" => Ok(AnswerForm::Names),
            "short" => Ok(AnswerForm::Short),
            _ => Err(InvalidAnswerForm),
        }
    }
}

impl fmt::Display for AnswerForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AnswerForm::Names => "names",
            AnswerForm::Short => "short",
        })
    }
}

/// The shape of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AnswerShape {
    /// `{"domain": "Medicine", "task": .., "modifier": ..}`
    Names,
    /// The names, and the CPESH parts in the same object.
    NamesAndCpesh,
    /// `[4, 3, 59]`: domain, task, modifier.
    CodeList,
    /// `{"domain": 4, "task": 3, "modifier": 59}`, for servers that want an object.
    CodeObject,
    /// The numbers, and the CPESH parts in the same object.
    CodesAndCpesh,
}

/// The most characters of a part in the schema, and twice as many in an answer: a model that no schema binds counts
/// badly.
pub const CONCEPT_CHARS: usize = 240;
/// See [`CONCEPT_CHARS`]; of the question and of the expected answer.
pub const QUESTION_CHARS: usize = 160;
/// See [`CONCEPT_CHARS`]; of each negative.
pub const NEGATIVE_CHARS: usize = 80;
/// The number of soft negatives, and of hard negatives.
pub const NEGATIVES: usize = 3;

impl AnswerShape {
    /// All shapes, in the order of their discriminants.
    pub const ALL: [AnswerShape; 5] = [
        AnswerShape::Names,
        AnswerShape::NamesAndCpesh,
        AnswerShape::CodeList,
        AnswerShape::CodeObject,
        AnswerShape::CodesAndCpesh,
    ];

    /// The shape of an answer. `lists` says whether the server can be asked for a JSON array.
    pub fn new(wanted: Wanted, form: AnswerForm, lists: bool) -> AnswerShape {
        match (wanted, form) {
            (Wanted::Codes, AnswerForm::Names) => AnswerShape::Names,
            (Wanted::CodesAndCpesh, AnswerForm::Names) => AnswerShape::NamesAndCpesh,
            (Wanted::Codes, AnswerForm::Short) if lists => AnswerShape::CodeList,
            (Wanted::Codes, AnswerForm::Short) => AnswerShape::CodeObject,
            (Wanted::CodesAndCpesh, AnswerForm::Short) => AnswerShape::CodesAndCpesh,
        }
    }

    /// Whether the codes are said by name.
    pub fn has_names(self) -> bool {
        matches!(self, AnswerShape::Names | AnswerShape::NamesAndCpesh)
    }

    /// Whether the CPESH parts are in it.
    pub fn has_cpesh(self) -> bool {
        matches!(self, AnswerShape::NamesAndCpesh | AnswerShape::CodesAndCpesh)
    }

    /// The longest answer, in tokens. Three names have at most 92 characters, and a vocabulary may have single bytes
    /// only; a model may put white space between the parts. An answer ends with its last brace, so a high limit costs
    /// nothing.
    pub fn max_tokens(self) -> u32 {
        match self {
            AnswerShape::Names => 160,
            AnswerShape::CodeList => 48,
            AnswerShape::CodeObject => 96,
            AnswerShape::NamesAndCpesh | AnswerShape::CodesAndCpesh => 1_500,
        }
    }

    /// The JSON schema. It has enumerations rather than ranges: servers enforce the former and ignore the latter.
    pub fn schema(self) -> &'static AnswerSchema {
        static ALL: LazyLock<[AnswerSchema; 5]> = LazyLock::new(|| AnswerShape::ALL.map(schema));
        &ALL[self as usize]
    }
}

fn schema(shape: AnswerShape) -> AnswerSchema {
    let codes = |axis: Axis| AnswerSchema::Codes(axis.len());
    if shape == AnswerShape::CodeList {
        return AnswerSchema::List(Axis::ALL.map(codes).into());
    }
    let axes = [(Axis::Domain, "domain"), (Axis::Task, "task"), (Axis::Modifier, "modifier")];
    let value = |axis: Axis| if shape.has_names() { AnswerSchema::Names(axis.names()) } else { codes(axis) };
    let mut members: Vec<(&'static str, AnswerSchema)> =
        axes.into_iter().map(|(axis, name)| (name, value(axis))).collect();
    if shape.has_cpesh() {
        let negatives = || AnswerSchema::Texts { count: NEGATIVES, longest: NEGATIVE_CHARS };
        members.extend([
            ("concept", AnswerSchema::Text { longest: CONCEPT_CHARS }),
            ("probe", AnswerSchema::Text { longest: QUESTION_CHARS }),
            ("expected", AnswerSchema::Text { longest: QUESTION_CHARS }),
            ("soft_negatives", negatives()),
            ("hard_negatives", negatives()),
        ]);
    }
    AnswerSchema::Object(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_come_first_and_the_negatives_last() {
        let text = serde_json::to_string(AnswerShape::NamesAndCpesh.schema()).unwrap();
        let members = ["domain", "task", "modifier", "concept", "probe", "expected", "soft_", "hard_"];
        let places: Vec<usize> =
            members.iter().map(|name| text.find(&format!("\"{name}")).unwrap()).collect();
        assert!(places.is_sorted(), "{text}");
    }

    #[test]
    fn every_question_has_its_shape() {
        for wanted in [Wanted::Codes, Wanted::CodesAndCpesh] {
            for form in [AnswerForm::Names, AnswerForm::Short] {
                for lists in [true, false] {
                    let shape = AnswerShape::new(wanted, form, lists);
                    assert_eq!(shape.has_cpesh(), wanted == Wanted::CodesAndCpesh);
                    assert_eq!(shape.has_names(), form == AnswerForm::Names);
                    assert_eq!(AnswerShape::ALL[shape as usize], shape);
                    assert!(lists || shape != AnswerShape::CodeList);
                }
            }
        }
        assert_eq!(" Short".parse(), Ok(AnswerForm::Short));
        assert_eq!("codes".parse::<AnswerForm>().unwrap_err().to_string(), "names or short");
    }
}
