//! Requests of the commands, repeated while the service says that it has no room.

use super::service_url::ServiceUrl;
use reqwest::header::RETRY_AFTER;
use reqwest::{RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;

/// Requests while the service says that it is busy.
const TRIES: u32 = 10;
/// Between them, when the service does not say how long.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause that is taken from the service.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Why a request has no usable answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("no answer from {url}; is the service running? (lnsp serve)")]
    Unreachable {
        url: ServiceUrl,
        #[source]
        error: reqwest::Error,
    },
    #[error("the service refused: {status} {message}")]
    Refused { status: u16, message: String },
    #[error("the answer of the service cannot be read: {0}; are both of one version?")]
    Unreadable(serde_json::Error),
}

impl RequestError {
    /// Of a service that does not answer.
    pub fn unreachable(url: &ServiceUrl) -> impl Fn(reqwest::Error) -> RequestError {
        move |error| RequestError::Unreachable { url: url.clone(), error }
    }

    /// Of a service that answers with an error.
    pub fn refused(status: StatusCode, answer: &Value) -> RequestError {
        RequestError::Refused { status: status.as_u16(), message: error_message(answer) }
    }
}

/// Reads an answer, or a part of one.
///
/// # Errors
/// [`RequestError::Unreadable`].
pub(super) fn read<T: DeserializeOwned>(answer: Value) -> Result<T, RequestError> {
    serde_json::from_value(answer).map_err(RequestError::Unreadable)
}

/// Sends what `request` makes as [`send_until_admitted`] does, and gives the answer, if it is no error.
///
/// # Errors
/// [`RequestError`].
pub(super) async fn answer_of(
    url: &ServiceUrl,
    request: impl Fn() -> RequestBuilder,
) -> Result<Value, RequestError> {
    let (status, answer) = status_and_answer(url, request).await?;
    if status.is_success() { Ok(answer) } else { Err(RequestError::refused(status, &answer)) }
}

/// As [`answer_of`], also of an answer that is an error.
///
/// # Errors
/// [`RequestError::Unreachable`].
pub(super) async fn status_and_answer(
    url: &ServiceUrl,
    request: impl Fn() -> RequestBuilder,
) -> Result<(StatusCode, Value), RequestError> {
    let response = send_until_admitted(request).await.map_err(RequestError::unreachable(url))?;
    let status = response.status();
    Ok((status, response.json().await.map_err(RequestError::unreachable(url))?))
}

/// Sends what `request` makes until the answer is another one than 429 or 503, ten times at most, with the pauses that
/// the service asks for.
///
/// # Errors
/// The service does not answer.
pub(super) async fn send_until_admitted(request: impl Fn() -> RequestBuilder) -> reqwest::Result<Response> {
    let mut tries = 1;
    loop {
        let response = request().send().await?;
        let busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        if !busy.contains(&response.status()) || tries == TRIES {
            return Ok(response);
        }
        let wait = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        tries += 1;
        tokio::time::sleep(wait.map_or(PAUSE, Duration::from_secs).min(LONGEST_PAUSE)).await;
    }
}

/// The sentence of an answer that is an error.
pub(super) fn error_message(answer: &Value) -> String {
    answer["error"]["message"].as_str().unwrap_or("without a reason").to_owned()
}
