//! What can go wrong with a language model, each as the end of a sentence that begins with "the LLM at ...".

use super::answer::AnswerError;
use crate::endpoint::beginning;
use crate::tmd::Axis;
use std::time::Duration;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LlmError {
    /// No connection, or it broke.
    #[error(
        "cannot be reached ({problem}): start it (scripts/start_ollama_parallel.sh), or set LNSP_LLM_ENDPOINT"
    )]
    Connect {
        /// What the system said.
        problem: String,
    },
    /// Nothing in time.
    #[error("did not answer within {} s: give it more time with LNSP_LLM_TIMEOUT_S, or fewer calls at once with LNSP_MAX_PARALLEL_WORKERS", limit.as_secs_f64())]
    Timeout {
        /// The deadline of the call.
        limit: Duration,
    },
    /// The server does not have the model.
    #[error("has no model '{model}' ({}): run `ollama pull {model}` there, or set LNSP_TMD_LLM_MODEL", if has.is_empty() { "it has none".to_owned() } else { format!("it has {}", has.join(", ")) })]
    NoModel {
        /// The one that was asked for.
        model: String,
        /// The first ones it has.
        has: Vec<String>,
    },
    /// An HTTP status that is no answer.
    #[error("answered {status}: {said}")]
    Status {
        /// The status.
        status: u16,
        /// The beginning of what came with it.
        said: String,
    },
    /// Something else listens there.
    #[error(
        "does not speak Ollama's API ({path} gave {status} and \"{said}\"): LNSP_LLM_ENDPOINT is a base address, like http://localhost:11434"
    )]
    NotOllama {
        /// What was asked.
        path: &'static str,
        /// The status of the answer.
        status: u16,
        /// The beginning of what came with it.
        said: String,
    },
    /// More than any answer has.
    #[error("sent more than {limit} bytes for one answer")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// The model did not come to its end.
    #[error("stopped before its answer was complete (done: {done}, done_reason: \"{reason}\")")]
    Incomplete {
        /// The field of that name.
        done: bool,
        /// The field of that name.
        reason: String,
    },
    /// The answer is complete, and no answer to the question.
    #[error("gave no usable answer: {0}")]
    Answer(#[from] AnswerError),
    /// It failed so often that it is left alone for a while.
    #[error("has failed many times in a row and is asked again in a while")]
    Resting,
    /// Our own side.
    #[error("cannot be asked: the HTTP client failed: {problem}")]
    Client {
        /// What the client said.
        problem: String,
    },
}

impl LlmError {
    /// The closed set of names used in rows and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            LlmError::Connect { .. } => "connect",
            LlmError::Timeout { .. } => "timeout",
            LlmError::NoModel { .. } => "no_model",
            LlmError::Status { status: 429, .. } => "http_429",
            LlmError::Status { status: 500.., .. } => "http_5xx",
            LlmError::Status { status: 400.., .. } => "http_4xx",
            LlmError::Status { .. } | LlmError::NotOllama { .. } => "not_ollama",
            LlmError::TooLong { .. } => "too_long",
            LlmError::Incomplete { .. } => "incomplete",
            LlmError::Answer(_) => "invalid",
            LlmError::Resting => "resting",
            LlmError::Client { .. } => "client",
        }
    }

    /// The same question can fare better a moment later. Not so after a time-out: a server that is too slow is not
    /// helped by a second call.
    pub fn may_pass(&self) -> bool {
        match self {
            LlmError::Connect { .. } | LlmError::Incomplete { .. } | LlmError::Answer(_) => true,
            LlmError::Status { status, .. } => *status == 429 || *status >= 500,
            LlmError::Timeout { .. }
            | LlmError::NoModel { .. }
            | LlmError::NotOllama { .. }
            | LlmError::TooLong { .. }
            | LlmError::Resting
            | LlmError::Client { .. } => false,
        }
    }
}

/// A name that is none of the axis.
pub(super) fn unknown(axis: Axis, received: &str) -> AnswerError {
    AnswerError::UnknownName { axis, received: beginning(received) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sentence_says_what_to_do() {
        let model = LlmError::NoModel { model: "a:1".into(), has: vec!["b".into(), "c".into()] };
        assert_eq!(
            model.to_string(),
            "has no model 'a:1' (it has b, c): run `ollama pull a:1` there, or set LNSP_TMD_LLM_MODEL"
        );
        let late = LlmError::Timeout { limit: Duration::from_secs(20) };
        assert!(late.to_string().starts_with("did not answer within 20 s"));
    }
}
