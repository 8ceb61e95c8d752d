//! Reads and validates the text that the model generates. Pure; also the entry point of the fuzz target.
//!
//! An answer is read wherever it stands in the text: in a code fence, after thoughts, in prose. It counts when the text
//! holds exactly one valid answer. An answer that the classified text itself contains is not believed: the model repeats
//! the text, or obeys it.

mod confidence;
mod cpesh;
mod excerpt;

pub use confidence::TokenLogprob;
pub use cpesh::CpeshFailure;

use super::prompt::{mark, sent};
use super::shape::AnswerShape;
use crate::chunk::Cpesh;
use crate::endpoint::beginning;
use crate::tmd::{Axis, AxisConfidence, Tmd};
use confidence::confidence;
use cpesh::CpeshParts;
use excerpt::{own_words, values};
use serde::Deserialize;
use std::borrow::Cow;
use std::ops::Range;

/// The codes in an answer, with the probabilities that the model gave them, and the CPESH parts.
#[derive(Debug, Clone, PartialEq)]
pub struct Labels {
    /// One code per axis, each within the range of its axis.
    pub tmd: Tmd,
    /// Probability of each code, in (0, 1]; `None` when the server sent no usable log probabilities.
    pub confidence: Option<AxisConfidence>,
    /// The CPESH parts; `None` when they were not asked for.
    pub cpesh: Option<Result<Cpesh, CpeshFailure>>,
}

/// Why the text of a complete response cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// The text holds no answer with exactly the requested parts.
    #[error("expected {expected}, received \"{received}\" ({problem})")]
    Shape {
        /// What the answer should have been.
        expected: &'static str,
        /// The first characters of the text, shortened by [`beginning`].
        received: String,
        /// The message of the JSON parser.
        problem: String,
    },
    /// A name is not in the list of its axis.
    #[error("expected the name of a {axis}, received \"{received}\"")]
    UnknownName {
        /// The axis whose list was searched.
        axis: Axis,
        /// The name as received, shortened by [`beginning`].
        received: String,
    },
    /// A code is outside the range of its axis.
    #[error("expected a {axis} from 0 to {last}, received {received}")]
    UnknownCode {
        /// The axis of the code.
        axis: Axis,
        /// The largest code of that axis.
        last: usize,
        /// The code as received.
        received: i64,
    },
    /// The text holds several valid answers that differ.
    #[error("expected one answer, received several that differ: \"{received}\"")]
    Several {
        /// The first characters of the text, shortened by [`beginning`].
        received: String,
    },
    /// The answer is one that the classified text contains, or the text itself.
    #[error("expected an answer of the model, received what stands in the text itself: \"{received}\"")]
    Echo {
        /// The first characters of the text, shortened by [`beginning`].
        received: String,
    },
}

impl AnswerError {
    /// Whether the text is the likely cause rather than the server or its model.
    pub fn is_about_the_text(&self) -> bool {
        matches!(self, AnswerError::Echo { .. })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Triple<T> {
    domain: T,
    task: T,
    modifier: T,
}

/// A JSON string that is borrowed where it has no escapes, so that its place in the answer is known.
#[derive(Deserialize)]
struct SaidName<'a>(#[serde(borrow)] Cow<'a, str>);

/// The codes beside the CPESH parts. Members that were not asked for are ignored, as the parts are worth it.
#[derive(Deserialize)]
struct WithParts<T> {
    domain: T,
    task: T,
    modifier: T,
    #[serde(flatten)]
    parts: CpeshParts,
}

/// One valid answer in a text, before the probabilities.
struct ReadAnswer {
    tmd: Tmd,
    cpesh: Option<Result<Cpesh, CpeshFailure>>,
    places: Option<[Range<usize>; 3]>,
}

/// Reads the answer about `text` in the generated `answer`. Case and surrounding white space of names are ignored.
/// `tokens` are the generated tokens in order, or empty.
///
/// # Errors
/// [`AnswerError`] when the answer does not hold exactly one valid answer of this shape.
pub fn read(
    answer: &str,
    tokens: &[TokenLogprob],
    shape: AnswerShape,
    text: &str,
) -> Result<Labels, AnswerError> {
    let mark = mark(text);
    let (labels, places) = match labels(answer, shape, sent(text), &mark) {
        // Some servers let a model write control characters into a string, where JSON has none. They are one byte each,
        // so a blank in their place moves nothing. The text is read in the same way: what it says is no answer.
        Err(AnswerError::Shape { .. }) if answer.contains(is_bare_control) => {
            let bare = |text: &str| text.replace(is_bare_control, " ");
            labels(&bare(answer), shape, &bare(sent(text)), &mark)?
        }
        read => read?,
    };
    let confidence = places.and_then(|places| confidence(answer, tokens, &places));
    Ok(Labels { confidence, ..labels })
}

fn is_bare_control(c: char) -> bool {
    c < ' '
}

/// Where an answer has domain, task and modifier, in bytes.
type CodePlaces = [Range<usize>; 3];

/// The labels without confidence, and the places of the codes in the answer.
fn labels(
    answer: &str,
    shape: AnswerShape,
    sent: &str,
    mark: &str,
) -> Result<(Labels, Option<CodePlaces>), AnswerError> {
    let own = own_words(answer, mark);
    let (found, problem) = all_in(own, shape, mark);
    let told: Vec<Tmd> = all_in(sent, shape, mark).0.iter().map(|answer| answer.tmd).collect();
    let repeats = !found.is_empty()
        || own.is_empty() && answer.contains(mark)
        || !own.trim().is_empty() && sent.contains(own.trim());
    let mut usable = found.into_iter().filter(|answer| !told.contains(&answer.tmd));
    let Some(first) = usable.next() else {
        return Err(match problem {
            _ if repeats => AnswerError::Echo { received: beginning(answer) },
            Some(problem) => problem,
            None => one(own.trim(), shape, mark).err().unwrap_or_else(|| no_answer(own, shape)),
        });
    };
    if usable.any(|other| (other.tmd, &other.cpesh) != (first.tmd, &first.cpesh)) {
        return Err(AnswerError::Several { received: beginning(own) });
    }
    // The places are those in the model's own words, which are the end of the answer.
    let offset = answer.len() - own.len();
    let places = first.places.map(|places| places.map(|place| place.start + offset..place.end + offset));
    Ok((Labels { tmd: first.tmd, confidence: None, cpesh: first.cpesh }, places))
}

/// All valid answers in a text, and what is wrong with the last one that is not valid. Places are those in the text.
fn all_in(text: &str, shape: AnswerShape, mark: &str) -> (Vec<ReadAnswer>, Option<AnswerError>) {
    let (mut found, mut problem) = (Vec::new(), None);
    for value in values(text, if shape == AnswerShape::CodeList { '[' } else { '{' }) {
        match one(value, shape, mark) {
            Ok(mut answer) => {
                let offset = value.as_ptr() as usize - text.as_ptr() as usize;
                answer.places =
                    answer.places.map(|places| places.map(|at| at.start + offset..at.end + offset));
                found.push(answer);
            }
            Err(error) => problem = Some(error),
        }
    }
    (found, problem)
}

/// Reads one JSON value as an answer.
fn one(value: &str, shape: AnswerShape, mark: &str) -> Result<ReadAnswer, AnswerError> {
    let shaped = |error: serde_json::Error| AnswerError::Shape {
        expected: expected(shape),
        received: beginning(value),
        problem: error.to_string(),
    };
    match shape {
        AnswerShape::Names => {
            let Triple { domain, task, modifier } = serde_json::from_str(value).map_err(shaped)?;
            by_name(value, &[domain, task, modifier])
        }
        AnswerShape::NamesAndCpesh => {
            let WithParts { domain, task, modifier, parts } =
                serde_json::from_str::<WithParts<String>>(value).map_err(shaped)?;
            let names = [domain, task, modifier].map(|name| SaidName(Cow::Owned(name)));
            let answer = by_name(value, &names)?;
            let places = places_of(value, |rest| {
                let name = rest.strip_prefix('"')?;
                Some((1, name.find('"')?))
            });
            Ok(ReadAnswer { cpesh: Some(parts.check(mark)), places, ..answer })
        }
        AnswerShape::CodeList => {
            let codes: [i64; 3] = serde_json::from_str(value).map_err(shaped)?;
            let mut at = 0;
            let places = [(); 3].map(|()| {
                let start = value[at..].find(|c: char| c.is_ascii_digit()).map_or(at, |start| at + start);
                let digits = value[start..].bytes().take_while(u8::is_ascii_digit).count();
                at = start + digits;
                // With the character after it: before it, the number may go on.
                start..at + 1
            });
            Ok(ReadAnswer { tmd: by_code(codes)?, cpesh: None, places: Some(places) })
        }
        AnswerShape::CodeObject => {
            let Triple { domain, task, modifier } = serde_json::from_str(value).map_err(shaped)?;
            let places = places_of(value, number_at);
            Ok(ReadAnswer { tmd: by_code([domain, task, modifier])?, cpesh: None, places })
        }
        AnswerShape::CodesAndCpesh => {
            let WithParts { domain, task, modifier, parts } = serde_json::from_str(value).map_err(shaped)?;
            let tmd = by_code([domain, task, modifier])?;
            let places = places_of(value, number_at);
            Ok(ReadAnswer { tmd, cpesh: Some(parts.check(mark)), places })
        }
    }
}

fn number_at(rest: &str) -> Option<(usize, usize)> {
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    (digits > 0).then_some((0, digits + 1))
}

/// The places of the values of the three axes in an object: `"domain"`, a colon, and what `value` finds there, as the
/// distance to its start and its length. Inside a JSON string the key cannot occur so: its second quotation mark would
/// have a backslash before it.
fn places_of(object: &str, value: impl Fn(&str) -> Option<(usize, usize)>) -> Option<[Range<usize>; 3]> {
    let place = |key: &str| -> Option<Range<usize>> {
        let mut at = 0;
        loop {
            at += object[at..].find(key)? + key.len();
            let rest = object[at..].trim_start().strip_prefix(':').map(str::trim_start);
            if let Some((start, length)) = rest.and_then(&value) {
                let start = object.len() - rest?.len() + start;
                return Some(start..start + length);
            }
        }
    };
    Some([place("\"domain\"")?, place("\"task\"")?, place("\"modifier\"")?])
}

fn by_name(value: &str, names: &[SaidName<'_>; 3]) -> Result<ReadAnswer, AnswerError> {
    let code = |axis: Axis, SaidName(name): &SaidName<'_>| -> Result<i64, AnswerError> {
        let same = |known: &&str| known.eq_ignore_ascii_case(name.trim());
        let code = axis.names().iter().position(same);
        let code = code.ok_or_else(|| AnswerError::UnknownName { axis, received: beginning(name) })?;
        Ok(code as i64)
    };
    let [domain, task, modifier] = names;
    let codes = [code(Axis::Domain, domain)?, code(Axis::Task, task)?, code(Axis::Modifier, modifier)?];
    let place = |SaidName(name): &SaidName<'_>| match name {
        Cow::Borrowed(name) => {
            let start = name.as_ptr() as usize - value.as_ptr() as usize;
            Some(start..start + name.len())
        }
        Cow::Owned(_) => None,
    };
    let places = match [place(domain), place(task), place(modifier)] {
        [Some(domain), Some(task), Some(modifier)] => Some([domain, task, modifier]),
        _ => None,
    };
    Ok(ReadAnswer { tmd: by_code(codes)?, cpesh: None, places })
}

fn by_code([domain, task, modifier]: [i64; 3]) -> Result<Tmd, AnswerError> {
    Tmd::new(domain, task, modifier).map_err(|error| AnswerError::UnknownCode {
        axis: error.axis,
        last: error.axis.len() - 1,
        received: error.received,
    })
}

fn expected(shape: AnswerShape) -> &'static str {
    match shape {
        AnswerShape::CodeList => "an array of three numbers for domain, task and modifier",
        AnswerShape::CodeObject => "an object with the numbers of domain, task and modifier",
        AnswerShape::Names => "an object with domain, task and modifier",
        AnswerShape::NamesAndCpesh | AnswerShape::CodesAndCpesh => {
            "an object with domain, task, modifier and the CPESH parts"
        }
    }
}

fn no_answer(own: &str, shape: AnswerShape) -> AnswerError {
    let problem = "the text as a whole is none".to_owned();
    AnswerError::Shape { expected: expected(shape), received: beginning(own), problem }
}

#[cfg(test)]
mod tests;
