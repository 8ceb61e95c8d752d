//! The bodies of the router's calls, and what is refused in them.

use crate::error_code::ErrorCode;
use crate::http::error::ApiError;
use crate::http::parameters::quoted;
use crate::http::request::check_text;
use crate::http::state::State;
use crate::tmd::{Axis, Tmd};
use crate::wire::{BoundedList, Truth, WholeNumber};
use serde::Deserialize;

/// The maximum number of concepts in a batch.
pub const MAX_CONCEPTS: usize = 4096;

/// The model that a caller of the old router could name.
struct WantedModel {
    llm_endpoint: Option<String>,
    llm_model: Option<String>,
}

/// The body of `POST /route`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WireRoute {
    concept_text: Option<String>,
    /// Accepted: it changes no answer.
    #[serde(default, rename = "use_cache")]
    _use_cache: Option<Truth>,
    #[serde(default)]
    llm_endpoint: Option<String>,
    #[serde(default)]
    llm_model: Option<String>,
}

/// The body of `POST /route/batch`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WireRouteBatch {
    concepts: Option<BoundedList<String, MAX_CONCEPTS>>,
    /// Accepted: it changes no answer.
    #[serde(default, rename = "use_cache")]
    _use_cache: Option<Truth>,
    #[serde(default)]
    llm_endpoint: Option<String>,
    #[serde(default)]
    llm_model: Option<String>,
}

/// The body of `POST /select-lane`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WireLane {
    domain_code: Option<WholeNumber>,
    task_code: Option<WholeNumber>,
    modifier_code: Option<WholeNumber>,
    #[serde(default)]
    allow_fallback: Option<Truth>,
}

impl WireRoute {
    /// The concept.
    ///
    /// # Errors
    /// 422 for a text that is missing, empty or too long, and for another model than that of the service.
    pub fn concept(self, state: &State) -> Result<String, ApiError> {
        WantedModel { llm_endpoint: self.llm_endpoint, llm_model: self.llm_model }.check(state)?;
        let text = self.concept_text.ok_or_else(|| missing("concept_text", "a text"))?;
        check_text("concept_text", &text)?;
        Ok(text)
    }
}

impl WireRouteBatch {
    /// The concepts, in order. Their texts are not checked yet: each has an answer of its own.
    ///
    /// # Errors
    /// 422 for a missing list, 413 for one that is too long, 422 for another model than that of the service.
    pub fn concepts(self, state: &State) -> Result<Vec<String>, ApiError> {
        WantedModel { llm_endpoint: self.llm_endpoint, llm_model: self.llm_model }.check(state)?;
        let BoundedList { items, received } =
            self.concepts.ok_or_else(|| missing("concepts", "a list of texts"))?;
        if received > MAX_CONCEPTS {
            let message = format!(
                "expected at most {MAX_CONCEPTS} concepts, received {received}; send fewer concepts at a time"
            );
            return Err(ApiError::new(ErrorCode::BodyTooLarge, message).param("concepts"));
        }
        Ok(items)
    }
}

impl WireLane {
    /// The triple, and whether another model may stand in for that of the lane.
    ///
    /// # Errors
    /// 422 for a code that is missing or outside of its axis.
    pub fn triple(self) -> Result<(Tmd, bool), ApiError> {
        let code = |axis: Axis, code: Option<WholeNumber>| {
            let most = axis.len() - 1;
            let code = code.ok_or_else(|| missing(axis.field(), &format!("a number from 0 to {most}")))?;
            Ok::<_, ApiError>(code.0)
        };
        let tmd = Tmd::new(
            code(Axis::Domain, self.domain_code)?,
            code(Axis::Task, self.task_code)?,
            code(Axis::Modifier, self.modifier_code)?,
        );
        let tmd = tmd.map_err(|error| {
            let param = error.axis.field();
            ApiError::new(ErrorCode::CodeOutOfRange, error.to_string()).param(param)
        })?;
        Ok((tmd, self.allow_fallback.is_none_or(|Truth(allowed)| allowed)))
    }
}

impl WantedModel {
    /// Texts go to the model that the operator has chosen, never to an address from a request.
    fn check(&self, state: &State) -> Result<(), ApiError> {
        let info = &state.info;
        let model = state.llm.as_ref().map(|llm| llm.model().to_string());
        let wanted = [
            ("llm_endpoint", &self.llm_endpoint, info.llm_endpoint.clone(), "LNSP_LLM_ENDPOINT"),
            ("llm_model", &self.llm_model, model, "LNSP_TMD_LLM_MODEL"),
        ];
        for (param, received, ours, setting) in wanted {
            let Some(received) = received.as_ref().filter(|received| ours.as_ref() != Some(*received)) else {
                continue;
            };
            let expected = ours.map_or_else(|| "nothing".to_owned(), |ours| format!("nothing or {ours}"));
            let message = format!(
                "{param}: expected {expected}, received {}: the service asks the model of its configuration \
                 ({setting})",
                quoted(received)
            );
            return Err(ApiError::new(ErrorCode::InvalidQuery, message).param(param));
        }
        Ok(())
    }
}

fn missing(param: &str, expected: &str) -> ApiError {
    ApiError::new(ErrorCode::MissingField, format!("missing field `{param}`: expected {expected}"))
        .param(param)
}
