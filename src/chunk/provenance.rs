//! Where the codes of a chunk come from, as a client says that restores them.

use super::tagging::{Tagging, TmdSource};
use crate::error_code::ErrorCode;
use crate::rejection::Rejection;
use crate::tmd::{AxisConfidence, Tmd};
use std::time::Duration;

/// The origin of a code triple that was made before, and is sent again with the chunk; or why there is none.
#[derive(Debug, Clone, PartialEq)]
pub struct Provenance {
    source: TmdSource,
    confidence: Option<AxisConfidence>,
    took: Option<Duration>,
}

impl Provenance {
    /// Checks that the parts fit together, as the columns `tmd_source`, `tmd_model`, `tmd_failure`, the confidences and
    /// `tmd_took_us` of a row do.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidProvenance`] with the field to correct.
    pub fn new(
        kind: &str,
        model: Option<&str>,
        failure: Option<&str>,
        confidence: Option<AxisConfidence>,
        took: Option<Duration>,
    ) -> Result<Provenance, Rejection> {
        let Some(source) = TmdSource::from_parts(kind, model, failure) else {
            let kind: String = kind.chars().take(40).collect();
            let message = format!(
                "tmd_source: expected client, llm, local, fallback or none, received '{}'",
                kind.escape_debug()
            );
            return Err(invalid(message, "tmd_source"));
        };
        let wrong = |field, expected: bool| {
            let what = if expected { "is missing" } else { "has no meaning here" };
            let message = format!("tmd_source is {}: {field} {what}", source.kind());
            Err(invalid(message, field))
        };
        if model.is_some() != source.model().is_some() {
            return wrong("tmd_model", source.model().is_some());
        }
        if failure.is_some() != source.failure().is_some() {
            return wrong("tmd_failure", source.failure().is_some());
        }
        if source == TmdSource::NotAsked {
            if confidence.is_some() {
                return wrong("tmd_confidence", false);
            }
            if took.is_some() {
                return wrong("tmd_took_us", false);
            }
        }
        if let Some(AxisConfidence { domain, task, modifier }) = confidence {
            let outside = |value: &f32| !(*value > 0.0 && *value <= 1.0);
            if let Some(value) = [domain, task, modifier].iter().find(|value| outside(value)) {
                let message = format!("tmd_confidence: expected above 0 and at most 1, received {value}");
                return Err(invalid(message, "tmd_confidence"));
            }
        }
        Ok(Provenance { source, confidence, took })
    }

    /// Where the codes come from.
    pub(super) fn source(&self) -> &TmdSource {
        &self.source
    }

    /// These codes, with this origin.
    ///
    /// # Errors
    /// The origin says that there are no codes.
    pub(super) fn tagging(self, tmd: Tmd) -> Result<Tagging, Rejection> {
        let Provenance { source, confidence, took } = self;
        if source == TmdSource::NotAsked {
            return Err(codes_of_none());
        }
        Ok(Tagging { tmd: Some(tmd), source, confidence, took })
    }

    /// No codes, with this origin: no source was asked, or the local classifier was not sure, and says how sure it was.
    /// `sent` are those codes that the client sends all the same.
    ///
    /// # Errors
    /// Codes are missing, or there are some where the origin says that there are none.
    pub(super) fn without_codes(self, sent: [Option<i64>; 3]) -> Result<Tagging, Rejection> {
        let Provenance { source, confidence, took } = self;
        let some = sent.iter().any(Option::is_some);
        match source {
            TmdSource::NotAsked if some => return Err(codes_of_none()),
            TmdSource::NotAsked => {}
            ref source if source.may_be_unsure() && confidence.is_some() && !some => {}
            _ => {
                let message = "tmd_source is given without the codes: send domain_code, task_code and modifier_code with \
                               it, or leave it out. Only none needs no codes, and local or fallback with tmd_confidence";
                return Err(invalid(message.to_owned(), "tmd_source"));
            }
        }
        Ok(Tagging { tmd: None, source, confidence, took })
    }
}

/// The error of a chunk with codes of which it says that there are none.
fn codes_of_none() -> Rejection {
    let message = "tmd_source is none: domain_code, task_code and modifier_code have no meaning here";
    invalid(message.to_owned(), "tmd_source")
}

fn invalid(message: String, field: &'static str) -> Rejection {
    Rejection::new(ErrorCode::InvalidProvenance, message).param(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_fit_together_or_the_wrong_one_is_named() {
        let of = |kind, model, failure, confidence: Option<f32>| {
            let confidence = confidence.map(|c| AxisConfidence { domain: c, task: 1.0, modifier: 0.5 });
            Provenance::new(kind, model, failure, confidence, None)
                .map_err(|error| error.param.unwrap())
                .err()
        };
        assert_eq!(of("client", None, None, None), None);
        assert_eq!(of("llm", Some("m"), None, Some(0.25)), None);
        assert_eq!(of("fallback", Some("m"), Some("timeout"), Some(1.0)), None);
        assert_eq!(of("none", None, None, None), None);
        assert_eq!(of("none", Some("m"), None, None), Some("tmd_model"));
        assert_eq!(of("none", None, Some("timeout"), None), Some("tmd_failure"));
        assert_eq!(of("none", None, None, Some(0.5)), Some("tmd_confidence"));
        assert_eq!(of("oracle", None, None, None), Some("tmd_source"));
        assert_eq!(of("llm", None, None, None), Some("tmd_model"));
        assert_eq!(of("client", Some("m"), None, None), Some("tmd_model"));
        assert_eq!(of("fallback", Some("m"), None, None), Some("tmd_failure"));
        assert_eq!(of("local", Some("m"), Some("timeout"), None), Some("tmd_failure"));
        assert_eq!(of("local", Some("m"), None, Some(0.0)), Some("tmd_confidence"));
        assert_eq!(of("local", Some("m"), None, Some(f32::NAN)), Some("tmd_confidence"));
    }
    #[test]
    fn codes_are_missing_only_where_a_row_can_lack_them() {
        let confidence = Some(AxisConfidence { domain: 0.1, task: 0.2, modifier: 0.3 });
        let lacks = |kind, model, failure, confidence, sent| {
            let provenance = Provenance::new(kind, model, failure, confidence, None).unwrap();
            provenance.without_codes(sent).map(|tagging| tagging.tmd).is_ok_and(|tmd| tmd.is_none())
        };
        let nothing = [None; 3];
        assert!(lacks("none", None, None, None, nothing));
        assert!(lacks("local", Some("m"), None, confidence, nothing));
        assert!(lacks("fallback", Some("m"), Some("timeout"), confidence, nothing));
        assert!(!lacks("none", None, None, None, [Some(1), None, None]));
        assert!(!lacks("local", Some("m"), None, None, nothing), "how sure it was is missing");
        assert!(!lacks("local", Some("m"), None, confidence, [None, Some(1), None]));
        assert!(!lacks("local", Some("m"), Some("fast_first"), confidence, nothing));
        assert!(!lacks("llm", Some("m"), None, confidence, nothing));
        assert!(!lacks("client", None, None, None, nothing));
        let none = Provenance::new("none", None, None, None, None).unwrap();
        assert!(none.tagging(Tmd::new(1, 2, 3).unwrap()).is_err());
    }
}
