//! Where the codes of a chunk come from, as a client says that restores them.

use super::tagging::{Tagging, TmdSource};
use crate::error_code::ErrorCode;
use crate::rejection::Rejection;
use crate::tmd::{AxisConfidence, Tmd};
use std::time::Duration;

/// The origin of a code triple that was made before, and is sent again with the chunk.
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
                "tmd_source: expected client, llm, local or fallback, received '{}'",
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

    /// The error of a chunk that says where its codes come from, and has not all of them.
    pub(super) fn without_codes() -> Rejection {
        let message = "tmd_source is given without the codes: send domain_code, task_code and modifier_code with it, \
                       or leave it out";
        invalid(message.to_owned(), "tmd_source")
    }

    /// These codes, with this origin.
    pub(super) fn tagging(self, tmd: Tmd) -> Tagging {
        let Provenance { source, confidence, took } = self;
        Tagging { tmd, source, confidence, took }
    }
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
        assert_eq!(of("oracle", None, None, None), Some("tmd_source"));
        assert_eq!(of("llm", None, None, None), Some("tmd_model"));
        assert_eq!(of("client", Some("m"), None, None), Some("tmd_model"));
        assert_eq!(of("fallback", Some("m"), None, None), Some("tmd_failure"));
        assert_eq!(of("local", Some("m"), Some("timeout"), None), Some("tmd_failure"));
        assert_eq!(of("local", Some("m"), None, Some(0.0)), Some("tmd_confidence"));
        assert_eq!(of("local", Some("m"), None, Some(f32::NAN)), Some("tmd_confidence"));
    }
}
