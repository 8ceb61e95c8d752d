//! Requests of the commands, repeated while the service says that it has no room.

use reqwest::header::RETRY_AFTER;
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::Value;
use std::time::Duration;

/// Requests while the service says that it is busy.
const TRIES: u32 = 10;
/// Between them, when the service does not say how long.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause that is taken from the service.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

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
