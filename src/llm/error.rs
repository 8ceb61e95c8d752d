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
        "did not answer within {} s: give it more time with LNSP_LLM_TIMEOUT_S (LNSP_CPESH_TIMEOUT_S where it extracts \
         CPESH parts), or fewer calls at once with LNSP_MAX_PARALLEL_WORKERS",
        limit.as_secs_f64()
    )]
    Timeout {
        /// The time limit of the call.
        limit: Duration,
    },
    /// The time is over that a chunk waits: for its turn, for all attempts, and for what was asked about it before.
    #[error(
        "has not answered in the {} s that a chunk waits for it, its turn and all attempts included: let chunks wait \
         longer with LNSP_CHUNK_DEADLINE_S, or share the calls among more servers with LNSP_LLM_ENDPOINT",
        limit.as_secs_f64()
    )]
    Deadline {
        /// The longest time that a chunk waits.
        limit: Duration,
    },
    /// The server does not have the model.
    #[error(
        "has no model '{model}' ({}): {}set LNSP_TMD_LLM_MODEL",
        if has.is_empty() { "it has none".to_owned() } else { format!("it has {}", has.join(", ")) },
        if *ollama { format!("run `ollama pull {model}` there, or ") } else { String::new() },
    )]
    NoModel {
        /// The requested model.
        model: String,
        /// Up to five models that the server has.
        has: Vec<String>,
        /// The server is Ollama, which can be told to fetch the model.
        ollama: bool,
    },
    /// The server wants an API key, or another one.
    #[error("refuses the call ({status}: {said}): set LNSP_LLM_API_KEY to a key that it accepts")]
    Unauthorized {
        /// The HTTP status code, 401 or 403.
        status: u16,
        /// The message of the server.
        said: String,
    },
    /// The certificate of the server is not trusted.
    #[error(
        "has a certificate that is not trusted ({problem}): set SSL_CERT_FILE to a file with the certificate of its \
         authority"
    )]
    Untrusted {
        /// The error of the TLS library.
        problem: String,
    },
    /// An HTTP status other than 200.
    #[error("answered {status}: {said}")]
    Status {
        /// The HTTP status code.
        status: u16,
        /// The message of the server.
        said: String,
        /// The value of `Retry-After`, if it is a number of seconds.
        retry_after: Option<Duration>,
    },
    /// The text, the instructions and the answer do not fit into the context of the model.
    #[error(
        "has too small a context for this text ({said}): start it with 4096 tokens or more for each call at once \
         (OLLAMA_CONTEXT_LENGTH, --ctx-size, --max-model-len)"
    )]
    ContextTooShort {
        /// The message of the server.
        said: String,
    },
    /// The server at the address is no server of language models.
    #[error(
        "speaks neither Ollama's API nor OpenAI's ({path} gave {status} and \"{said}\"): LNSP_LLM_ENDPOINT is a base \
         address, like http://localhost:11434"
    )]
    Foreign {
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
    #[error("stopped before its answer was complete ({reason})")]
    Incomplete {
        /// Why it stopped, in the words of the server.
        reason: String,
    },
    /// The response has thoughts and no answer.
    #[error(
        "thinks and gives no answer ({reason}): set LNSP_TMD_LLM_MODEL to a model that answers without thinking"
    )]
    ThinkingOnly {
        /// Why it stopped, in the words of the server.
        reason: String,
    },
    /// No way to ask gave a usable answer.
    #[error(
        "gives no usable answer, whichever way it is asked ({tried}): set LNSP_TMD_LLM_MODEL to another model, or \
         update the server"
    )]
    NoDialect {
        /// The dialects, each with what came of it.
        tried: String,
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
            LlmError::Deadline { .. } => "deadline",
            LlmError::NoModel { .. } => "no_model",
            LlmError::Status { status: 429, .. } => "http_429",
            LlmError::Status { status: 500.., .. } => "http_5xx",
            LlmError::Status { status: 400.., .. } => "http_4xx",
            LlmError::Status { .. } | LlmError::Foreign { .. } => "foreign",
            LlmError::Unauthorized { .. } => "unauthorized",
            LlmError::Untrusted { .. } => "untrusted",
            LlmError::ContextTooShort { .. } => "context",
            LlmError::ThinkingOnly { .. } => "thinking_only",
            LlmError::NoDialect { .. } => "no_dialect",
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
            | LlmError::Deadline { .. }
            | LlmError::NoModel { .. }
            | LlmError::Unauthorized { .. }
            | LlmError::Untrusted { .. }
            | LlmError::ContextTooShort { .. }
            | LlmError::ThinkingOnly { .. }
            | LlmError::NoDialect { .. }
            | LlmError::Foreign { .. }
            | LlmError::TooLong { .. }
            | LlmError::BreakerOpen
            | LlmError::Client { .. } => false,
        }
    }

    /// Whether the text of the call is the likely cause, so that the error says little about the server.
    pub fn is_about_the_text(&self) -> bool {
        match self {
            LlmError::Answer(error) => error.is_about_the_text(),
            LlmError::ContextTooShort { .. } => true,
            _ => false,
        }
    }

    /// Whether the language model is away for every text, as far as this call can tell.
    pub fn is_outage(&self) -> bool {
        match self {
            LlmError::Connect { .. }
            | LlmError::NoModel { .. }
            | LlmError::Unauthorized { .. }
            | LlmError::Untrusted { .. }
            | LlmError::Foreign { .. }
            | LlmError::NoDialect { .. }
            | LlmError::ThinkingOnly { .. }
            | LlmError::BreakerOpen
            | LlmError::Client { .. } => true,
            LlmError::Timeout { .. }
            | LlmError::Deadline { .. }
            | LlmError::Status { .. }
            | LlmError::ContextTooShort { .. }
            | LlmError::TooLong { .. }
            | LlmError::Incomplete { .. }
            | LlmError::Answer(_) => false,
        }
    }

    /// The kinds of errors that pass when the language model answers again; the others may lie in the text.
    pub const OUTAGES: &[&str] = &[
        "connect",
        "timeout",
        "deadline",
        "no_model",
        "unauthorized",
        "untrusted",
        "foreign",
        // As earlier versions named it.
        "not_ollama",
        "no_dialect",
        "thinking_only",
        "http_429",
        "http_5xx",
        "resting",
        "client",
    ];

    /// Whether the server may have become another one, or may have forgotten the way in which it is asked.
    pub fn doubts_the_dialect(&self) -> bool {
        match self {
            LlmError::NoModel { .. } | LlmError::Foreign { .. } | LlmError::ThinkingOnly { .. } => true,
            LlmError::Status { status, .. } => matches!(status, 400 | 404 | 405 | 415 | 422 | 500 | 501),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sentence_says_what_to_do() {
        let has = || vec!["b".into(), "c".into()];
        let model = LlmError::NoModel { model: "a:1".into(), has: has(), ollama: true };
        assert_eq!(
            model.to_string(),
            "has no model 'a:1' (it has b, c): run `ollama pull a:1` there, or set LNSP_TMD_LLM_MODEL"
        );
        let model = LlmError::NoModel { model: "a:1".into(), has: has(), ollama: false };
        assert_eq!(model.to_string(), "has no model 'a:1' (it has b, c): set LNSP_TMD_LLM_MODEL");
        let late = LlmError::Timeout { limit: Duration::from_secs(20) };
        assert!(late.to_string().starts_with("did not answer within 20 s"));
        let waited = LlmError::Deadline { limit: Duration::from_secs(120) }.to_string();
        assert!(waited.starts_with("has not answered in the 120 s that a chunk waits"), "{waited}");
        assert!(waited.contains("LNSP_CHUNK_DEADLINE_S"), "{waited}");
    }

    #[test]
    fn a_chunk_that_waited_too_long_is_repaired_like_one_of_an_outage() {
        let waited = LlmError::Deadline { limit: Duration::from_secs(120) };
        assert!(LlmError::OUTAGES.contains(&waited.kind()) && !waited.is_transient());
    }
}
