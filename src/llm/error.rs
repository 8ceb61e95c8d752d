//! The errors of calls to the language model. Each message completes a sentence that begins with "the LLM at ...".

use super::answer::AnswerError;
use std::time::Duration;

/// Why a call gave no labels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LlmError {
    /// The connection could not be opened, or broke.
    #[error(
        "cannot be reached ({problem}): start it (scripts/start_ollama_parallel.sh), or set LNSP_LLM_ENDPOINT"
    )]
    Connect {
        /// The innermost error of the HTTP client.
        problem: String,
    },
    /// No complete response before the deadline.
    #[error(
        "did not answer within {} s: give it more time with LNSP_LLM_TIMEOUT_S, or fewer calls at once with \
         LNSP_MAX_PARALLEL_WORKERS",
        limit.as_secs_f64()
    )]
    Timeout {
        /// The time limit of the call.
        limit: Duration,
    },
    /// The server does not have the model.
    #[error(
        "has no model '{model}' ({}): run `ollama pull {model}` there, or set LNSP_TMD_LLM_MODEL",
        if has.is_empty() { "it has none".to_owned() } else { format!("it has {}", has.join(", ")) }
    )]
    NoModel {
        /// The requested model.
        model: String,
        /// Up to five models that the server has.
        has: Vec<String>,
    },
    /// An HTTP status other than 200.
    #[error("answered {status}: {said}")]
    Status {
        /// The HTTP status code.
        status: u16,
        /// The first characters of the response body.
        said: String,
    },
    /// The server at the address is not Ollama.
    #[error(
        "does not speak Ollama's API ({path} gave {status} and \"{said}\"): LNSP_LLM_ENDPOINT is a base address, like \
         http://localhost:11434"
    )]
    NotOllama {
        /// The path of the request.
        path: &'static str,
        /// The HTTP status code of the response.
        status: u16,
        /// The first characters of the response body.
        said: String,
    },
    /// The response body is longer than any valid one.
    #[error("sent more than {limit} bytes for one answer")]
    TooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The model did not finish its answer.
    #[error("stopped before its answer was complete (done: {done}, done_reason: \"{reason}\")")]
    Incomplete {
        /// The field `done` of the response.
        done: bool,
        /// The field `done_reason` of the response; `stop` means finished.
        reason: String,
    },
    /// The answer is complete but not usable.
    #[error("gave no usable answer: {0}")]
    Answer(#[from] AnswerError),
    /// The circuit breaker is open after many failures in a row; no call was made.
    #[error("has failed many times in a row and is asked again in a while")]
    BreakerOpen,
    /// The HTTP client could not be built.
    #[error("cannot be asked: the HTTP client failed: {problem}")]
    Client {
        /// The error of the HTTP client.
        problem: String,
    },
}

impl LlmError {
    /// The name of the error in rows and metrics, from a closed set.
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
            LlmError::BreakerOpen => "resting",
            LlmError::Client { .. } => "client",
        }
    }

    /// Whether an immediate second call can succeed. False after a time-out: a second call would only add load to a
    /// slow server.
    pub fn is_transient(&self) -> bool {
        match self {
            LlmError::Connect { .. } | LlmError::Incomplete { .. } | LlmError::Answer(_) => true,
            LlmError::Status { status, .. } => *status == 429 || *status >= 500,
            LlmError::Timeout { .. }
            | LlmError::NoModel { .. }
            | LlmError::NotOllama { .. }
            | LlmError::TooLong { .. }
            | LlmError::BreakerOpen
            | LlmError::Client { .. } => false,
        }
    }

    /// Whether the language model is away for every text, as far as this call can tell.
    pub fn is_outage(&self) -> bool {
        match self {
            LlmError::Connect { .. }
            | LlmError::NoModel { .. }
            | LlmError::NotOllama { .. }
            | LlmError::BreakerOpen
            | LlmError::Client { .. } => true,
            LlmError::Timeout { .. }
            | LlmError::Status { .. }
            | LlmError::TooLong { .. }
            | LlmError::Incomplete { .. }
            | LlmError::Answer(_) => false,
        }
    }

    /// The kinds of errors that pass when the language model answers again; the others may lie in the text.
    pub const OUTAGES: &[&str] =
        &["connect", "timeout", "no_model", "not_ollama", "http_429", "http_5xx", "resting", "client"];
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
