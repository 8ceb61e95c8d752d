//! Parses and validates the text that the model generates. Pure; also the entry point of the fuzz target.

use super::cpesh::CpeshFailure;
use crate::chunk::Cpesh;
use crate::endpoint::beginning;
use crate::tmd::{Axis, AxisConfidence, Tmd};
use serde::Deserialize;
use std::borrow::Cow;

/// The codes in an answer, with the probabilities that the model gave their names, and the CPESH parts.
#[derive(Debug, Clone, PartialEq)]
pub struct Labels {
    /// One code per axis, each within the range of its axis.
    pub tmd: Tmd,
    /// Probability of each name, in (0, 1]; `None` when the server sent no usable log probabilities.
    pub confidence: Option<AxisConfidence>,
    /// The CPESH parts; `None` when they were not asked for.
    pub cpesh: Option<Result<Cpesh, CpeshFailure>>,
}

/// Why the text of a complete response cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// The text is not a JSON object with exactly the three requested members.
    #[error("expected an object with domain, task and modifier, received \"{received}\" ({problem})")]
    Shape {
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
}

/// One generated token with its log probability, as in the field `logprobs` of Ollama's `/api/generate`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct TokenLogprob {
    /// The text of the token.
    pub token: String,
    /// Natural logarithm of the probability; 0 or less.
    pub logprob: f32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Names<'a> {
    #[serde(borrow)]
    domain: Cow<'a, str>,
    #[serde(borrow)]
    task: Cow<'a, str>,
    #[serde(borrow)]
    modifier: Cow<'a, str>,
}

/// Parses an answer: a JSON object with the members `domain`, `task` and `modifier`, each a name from the list of its
/// axis. Case and surrounding white space are ignored. `tokens` are the generated tokens in order, or empty.
///
/// # Errors
/// [`AnswerError`] when the object has another shape or holds an unknown name.
pub fn read(answer: &str, tokens: &[TokenLogprob]) -> Result<Labels, AnswerError> {
    let shape = |error: serde_json::Error| AnswerError::Shape {
        received: beginning(answer),
        problem: error.to_string(),
    };
    let names: Names<'_> = serde_json::from_str(answer).map_err(shape)?;
    let code = |axis: Axis, name: &str| -> Result<i64, AnswerError> {
        let same = |known: &&str| known.eq_ignore_ascii_case(name.trim());
        let code = axis.names().iter().position(same).ok_or_else(|| unknown(axis, name))?;
        Ok(code as i64)
    };
    let tmd = Tmd::new(
        code(Axis::Domain, &names.domain)?,
        code(Axis::Task, &names.task)?,
        code(Axis::Modifier, &names.modifier)?,
    );
    // Cannot fail: each code is a position in the list of its axis.
    let tmd = tmd.map_err(|error| unknown(error.axis, answer))?;
    let confidence = confidence(answer, tokens, &names);
    Ok(Labels { tmd, confidence, cpesh: None })
}

/// The probability of a name is the product of the probabilities of the tokens that overlap it. `None` unless the
/// concatenated tokens are the answer.
fn confidence(answer: &str, tokens: &[TokenLogprob], names: &Names<'_>) -> Option<AxisConfidence> {
    let said: usize = tokens.iter().map(|token| token.token.len()).sum();
    let whole = tokens.iter().flat_map(|token| token.token.bytes()).eq(answer.bytes().take(said));
    if tokens.is_empty() || !whole || !answer.get(said..)?.trim().is_empty() {
        return None;
    }
    let sure = |name: &Cow<'_, str>| -> Option<f32> {
        // A borrowed name gives its offset in the answer; a name with escapes was copied and does not.
        let Cow::Borrowed(name) = name else { return None };
        let start = name.as_ptr() as usize - answer.as_ptr() as usize;
        let (mut at, mut sum) = (0, 0.0);
        for token in tokens {
            let end = at + token.token.len();
            if at < start + name.len() && end > start {
                sum += token.logprob.min(0.0);
            }
            at = end;
        }
        sum.is_finite().then(|| sum.exp().max(f32::MIN_POSITIVE))
    };
    Some(AxisConfidence {
        domain: sure(&names.domain)?,
        task: sure(&names.task)?,
        modifier: sure(&names.modifier)?,
    })
}

/// The error for a name that is not in the list of `axis`.
fn unknown(axis: Axis, received: &str) -> AnswerError {
    AnswerError::UnknownName { axis, received: beginning(received) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = r#"{"domain":"Medicine","task":"Causal Inference","modifier":"Role-based"}"#;

    fn tokens(pieces: &[(&str, f32)]) -> Vec<TokenLogprob> {
        pieces
            .iter()
            .map(|(token, logprob)| TokenLogprob { token: (*token).to_owned(), logprob: *logprob })
            .collect()
    }

    #[test]
    fn names_become_codes() {
        let labels = read(GOOD, &[]).unwrap();
        assert_eq!((labels.tmd.to_string().as_str(), labels.confidence), ("4.3.59", None));
        let loose = "  {\n \"modifier\": \" role-BASED\", \"task\": \"causal inference\", \"domain\": \"medicine\" }\n";
        assert_eq!(read(loose, &[]).unwrap(), labels);
    }

    #[test]
    fn everything_else_is_refused_with_what_was_received() {
        for (answer, said) in [
            ("", "expected an object"),
            ("4,3,59", "received \"4,3,59\""),
            (r#"{"domain":"Medicine","task":"Causal Inf"#, "expected an object"),
            (r#"{"domain":"Medicine","task":"Causal Inference"}"#, "modifier"),
            (r#"{"domain":4,"task":3,"modifier":59}"#, "integer `4`, expected a string"),
            (r#"{"domain":"Cooking","task":"Summarization","modifier":"Legal"}"#, "received \"Cooking\""),
            (r#"{"domain":"Art","task":"Legal","modifier":"Legal"}"#, "name of a task"),
            (r#"{"domain":"Art","task":"Tool Use","modifier":"Legal","why":"x"}"#, "unknown field"),
            (r#"{"domain":"Art","domain":"Law","task":"Tool Use","modifier":"Legal"}"#, "duplicate field"),
            (r#"{"domain":"Art","task":"Tool Use","modifier":"Legal"} and more"#, "trailing"),
        ] {
            let error = read(answer, &[]).unwrap_err().to_string();
            assert!(error.contains(said), "{answer}: {error}");
        }
    }

    #[test]
    fn the_models_own_probabilities_are_the_confidence() {
        let pieces = [
            ("{\"domain\":\"", -9.0),
            ("Medi", -0.5),
            ("cine", -0.25),
            ("\",\"task\":\"Causal Inference\",\"modifier\":", -1.0),
            ("\"Role-based\"}", -2.0),
        ];
        let sure = read(GOOD, &tokens(&pieces)).unwrap().confidence.unwrap();
        let close = |a: f32, b: f32| (a - b.exp()).abs() < 1e-6;
        assert!(
            close(sure.domain, -0.75) && close(sure.task, -1.0) && close(sure.modifier, -2.0),
            "{sure:?}"
        );
        assert_eq!(read(GOOD, &tokens(&pieces[1..])).unwrap().confidence, None, "not the answer's tokens");
        assert_eq!(read(GOOD, &tokens(&pieces[..4])).unwrap().confidence, None, "not all of them");
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(answer in ".{0,200}", pieces in prop::collection::vec((".{0,9}", -9f32..9.0), 0..9)) {
            let tokens: Vec<TokenLogprob> =
                pieces.into_iter().map(|(token, logprob)| TokenLogprob { token, logprob }).collect();
            drop(read(&answer, &tokens));
        }

        #[test]
        fn every_triple_survives_being_said(domain in 0..16usize, task in 0..32usize, modifier in 0..64usize) {
            let [domain, task, modifier] =
                [(Axis::Domain, domain), (Axis::Task, task), (Axis::Modifier, modifier)].map(|(axis, at)| axis.names()[at]);
            let said = serde_json::json!({"domain": domain, "task": task, "modifier": modifier}).to_string();
            let piece = TokenLogprob { token: said.clone(), logprob: -0.5 };
            let labels = read(&said, &[piece]).unwrap();
            prop_assert_eq!(Axis::ALL.map(|axis| labels.tmd.name(axis)), [domain, task, modifier]);
            prop_assert!(labels.confidence.is_some_and(|sure| sure.task > 0.6 && sure.task < 0.61));
        }
    }
}
