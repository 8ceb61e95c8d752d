//! The HTTP calls of one server: paths, key, time limits, and what a status means.

use super::error::LlmError;
use super::settings::LlmSettings;
use crate::endpoint::{self, ApiKey, Unread, beginning, cause, certificate_problem};
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Method};
use serde::Deserialize;
use serde_json::Value;
use std::time::Duration;

/// The longest response body that is read, in bytes.
pub const MAX_RESPONSE_BYTES: usize = 256 * 1024;

/// The calls of one server.
pub struct Transport {
    http: Client,
    /// The base address without `/v1`, which users of OpenAI's API write at its end.
    base: String,
    model: String,
    key: Option<ApiKey>,
}

/// A body of an error response: Ollama's, OpenAI's, and those of servers built with FastAPI.
#[derive(Deserialize)]
struct ErrorResponse {
    #[serde(default)]
    error: Value,
    #[serde(default)]
    detail: Value,
    #[serde(default)]
    message: Value,
}

impl Transport {
    /// Builds the HTTP client; makes no call.
    pub fn new(settings: &LlmSettings) -> Result<Transport, LlmError> {
        let http = endpoint::client(settings.calls, &settings.endpoint);
        let http = http.map_err(|problem| LlmError::Client { problem })?;
        let address = settings.endpoint.to_string();
        let base = address.strip_suffix("/v1").unwrap_or(&address).to_owned();
        Ok(Transport { http, base, model: settings.model.clone(), key: settings.api_key.clone() })
    }

    /// Sends a request without a body and reads the JSON of its response.
    pub async fn get<T: for<'a> Deserialize<'a>>(
        &self,
        path: &'static str,
        limit: Duration,
    ) -> Result<T, LlmError> {
        let body = within(limit, self.send(Method::GET, path, Vec::new(), MAX_RESPONSE_BYTES)).await?;
        read_json(path, &body)
    }

    /// Sends JSON; returns the body of the response, of at most `longest` bytes, if the status is 200.
    pub async fn post(&self, path: &'static str, body: Vec<u8>, longest: usize) -> Result<Vec<u8>, LlmError> {
        self.send(Method::POST, path, body, longest).await
    }

    async fn send(
        &self,
        method: Method,
        path: &'static str,
        body: Vec<u8>,
        longest: usize,
    ) -> Result<Vec<u8>, LlmError> {
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.base));
        if !body.is_empty() {
            request = request.header(reqwest::header::CONTENT_TYPE, "application/json").body(body);
        }
        if let Some(key) = &self.key {
            request = key.authorize(request);
        }
        let response = request.send().await.map_err(|error| broken(&error))?;
        let status = response.status().as_u16();
        let after = response.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
        let body = endpoint::read_body(response, longest).await.map_err(|unread| match unread {
            Unread::TooLong => LlmError::TooLong { limit: longest },
            Unread::Broken(error) => broken(&error),
        })?;
        if status == 200 {
            return Ok(body);
        }
        // What answers no question about itself speaks another API.
        let generates = method == Method::POST;
        Err(self.refusal(path, status, &body, after.map(Duration::from_secs), generates))
    }

    /// What a status other than 200 means.
    fn refusal(
        &self,
        path: &'static str,
        status: u16,
        body: &[u8],
        retry_after: Option<Duration>,
        generates: bool,
    ) -> LlmError {
        let text = String::from_utf8_lossy(body);
        let Some(message) = message(body) else {
            let said = beginning(&text);
            return match status {
                401 | 403 => LlmError::Unauthorized { status, said },
                429 | 500.. => LlmError::Status { status, said, retry_after },
                _ => LlmError::Foreign { path, status, said },
            };
        };
        let said = beginning(&message);
        let plain = message.to_lowercase();
        let about_context = [
            "context_length_exceeded",
            "context length",
            "context size",
            "context window",
            "maximum context",
        ];
        match status {
            401 | 403 => LlmError::Unauthorized { status, said },
            400..=428 | 430..=499 if !generates => LlmError::Foreign { path, status, said },
            404 if plain.contains("model") => {
                let ollama = path.starts_with("/api/");
                LlmError::NoModel { model: self.model.clone(), has: Vec::new(), ollama }
            }
            400 | 413 | 422 | 500
                if about_context.iter().any(|name| plain.contains(name) || text.contains(name)) =>
            {
                LlmError::ContextTooShort { said }
            }
            _ => LlmError::Status { status, said, retry_after },
        }
    }
}

/// The message in the body of an error response; `None` if it has none of the known forms.
fn message(body: &[u8]) -> Option<String> {
    let ErrorResponse { error, detail, message } = serde_json::from_slice(body).ok()?;
    let first = [error, detail, message].into_iter().find(|value| !value.is_null())?;
    let message = match &first {
        Value::Object(members) => members.get("message").and_then(Value::as_str).map(str::to_owned),
        Value::String(message) => Some(message.clone()),
        _ => None,
    };
    Some(message.unwrap_or_else(|| first.to_string()))
}

fn broken(error: &reqwest::Error) -> LlmError {
    match certificate_problem(error) {
        Some(problem) => LlmError::Untrusted { problem },
        None => LlmError::Connect { problem: cause(error) },
    }
}

/// Ends a call after `limit`.
pub async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, LlmError>>,
) -> Result<T, LlmError> {
    tokio::time::timeout(limit, call).await.unwrap_or(Err(LlmError::Timeout { limit }))
}

/// Reads the JSON of a response with status 200.
pub fn read_json<T: for<'a> Deserialize<'a>>(path: &'static str, body: &[u8]) -> Result<T, LlmError> {
    serde_json::from_slice(body).map_err(|_| foreign(path, body))
}

/// The error for a response with status 200 that is not one of this API.
pub fn foreign(path: &'static str, body: &[u8]) -> LlmError {
    LlmError::Foreign { path, status: 200, said: beginning(&String::from_utf8_lossy(body)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_found_in_the_errors_of_all_servers() {
        for (body, said) in [
            (r#"{"error":"model 'x' not found"}"#, Some("model 'x' not found")),
            (r#"{"error":{"message":"Rate limit","type":"requests","code":null}}"#, Some("Rate limit")),
            (r#"{"detail":"Not Found"}"#, Some("Not Found")),
            (r#"{"detail":[{"msg":"x"}]}"#, Some(r#"[{"msg":"x"}]"#)),
            (r#"{"message":"no"}"#, Some("no")),
            ("<html>", None),
            ("{}", None),
            ("[]", None),
        ] {
            assert_eq!(message(body.as_bytes()).as_deref(), said, "{body}");
        }
    }
}
