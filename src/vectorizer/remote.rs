//! The client of another embedding server, used instead of a local model: `GET /health` identifies the model,
//! `POST /embed` returns vectors.
//!
//! The identity reported at startup is recorded in the store: a response with another encoder or other dimensions is an
//! error. Transient errors (no connection, time-out, 429, 5xx) are retried with exponential backoff. After an error that
//! a text may cause, [`Remote::still_works`] asks for a vector that the server has computed before: if it fails too, the
//! server is the cause. Searches have their own permits and do not wait for requests of ingest.

use super::error::VectorError;
use super::remote_answer::{EmbedResponse, parse, vectors};
use super::remote_error::RemoteError;
use crate::encoder::Vector;
use crate::endpoint::{self, Endpoint, Unread, beginning, cause};
use crate::flow::{Backoff, Verdict, retry};
use crate::metrics;
use crate::model::ModelIdentity;
use crate::output::throttled;
use crate::threads::Lane;
use crate::threads::lock;
use reqwest::{Client, RequestBuilder, header};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, SemaphorePermit};

/// The recipe in the identity of a remote model: all that is known about its processing.
const RECIPE: &str = "remote, normalised";
/// Time limit of `GET /health`.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
/// An upper bound of the bytes of one number in a response, with comma and white space.
const NUMBER_BYTES: usize = 32;
/// An upper bound of the bytes of a response besides its numbers.
const RESPONSE_OVERHEAD: usize = 64 * 1024;
/// Failures older than this are not reported by `/health`.
const FAILURE_MEMORY: Duration = Duration::from_secs(30);
/// The text that the server is asked about at the start, and again when it may have failed because of another text.
const PROBE: &str = "The quick brown fox jumps over the lazy dog.";
/// A larger `Retry-After` is reduced to this.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(15);

/// Which embedding server is called, and the limits of the calls.
#[derive(Debug, Clone)]
pub struct RemoteSettings {
    /// The base address of the server.
    pub endpoint: Endpoint,
    /// The time limit of one request, from sending it to the end of the response.
    pub timeout: Duration,
    /// The most concurrent requests of ingest; searches may have as many again.
    pub calls: usize,
    /// The most retries of a request after transient errors.
    pub repeats: u32,
    /// The pauses between retries.
    pub backoff: Backoff,
}

impl RemoteSettings {
    /// The defaults: 4 concurrent requests, 30 s each, 6 retries over about twelve seconds, in which a server can
    /// restart.
    pub fn at(endpoint: Endpoint) -> RemoteSettings {
        let backoff = Backoff { first: Duration::from_millis(250), ceiling: Duration::from_secs(4) };
        RemoteSettings { endpoint, timeout: Duration::from_secs(30), calls: 4, repeats: 6, backoff }
    }
}

/// A client of an embedding server whose identity is known; cheap to clone.
#[derive(Clone)]
pub struct Remote(Arc<RemoteInner>);

struct RemoteInner {
    client: Client,
    settings: RemoteSettings,
    name: Arc<str>,
    identity: ModelIdentity,
    /// The name of the encoder in the responses of `/embed`. The old service has another one in those of `/health`.
    encoder: String,
    device: String,
    bulk: Semaphore,
    express: Semaphore,
    /// The last failure since the last success, as a sentence, and when it happened.
    failure: Mutex<Option<(String, Instant)>>,
}

/// The response of `GET /health`, with the fields of the old service. Another lnsp sends an object as `model`.
#[derive(Deserialize)]
struct HealthResponse {
    encoder: String,
    dimension: usize,
    #[serde(default)]
    model: Value,
    #[serde(default)]
    device: Option<String>,
}

#[derive(Serialize)]
struct EmbedRequest<'a> {
    texts: &'a [&'a str],
    normalize: bool,
}

impl Remote {
    /// Requests the identity of a server from `GET /health`, and one vector.
    ///
    /// # Errors
    /// [`VectorError::Server`] if it cannot be reached, its response has no encoder and dimension, or it gives no vector
    /// of that dimension.
    pub async fn connect(settings: RemoteSettings) -> Result<Remote, VectorError> {
        let name: Arc<str> = settings.endpoint.to_string().into();
        let failed = |error| VectorError::Server { endpoint: name.clone(), error };
        let client = endpoint::client(2 * settings.calls, &settings.endpoint);
        let client = client.map_err(|problem| failed(RemoteError::Client { problem }))?;
        let at = settings.endpoint.at("/health");
        let ask = || send("/health", client.get(&at), HEALTH_TIMEOUT, RESPONSE_OVERHEAD);
        let health = with_retries(&settings, settings.repeats, ask).await.map_err(failed)?;
        let health: HealthResponse = parse("/health", &health).map_err(failed)?;
        if health.dimension == 0 || health.encoder.trim().is_empty() {
            let said = format!("dimension {}, encoder '{}'", health.dimension, beginning(&health.encoder));
            return Err(failed(RemoteError::Foreign { path: "/health", said }));
        }
        let ask = || embed(&client, &settings, health.dimension, &[PROBE]);
        let answer = with_retries(&settings, settings.repeats, ask).await.map_err(failed)?;
        let encoder = answer.encoder.clone().unwrap_or_else(|| health.encoder.clone());
        let identity = identity(&health, &encoder);
        let probe = vectors(answer, 1, &identity, &encoder).map_err(|error| {
            failed(match error {
                RemoteError::Dimensions { expected, received } => {
                    RemoteError::Contradiction { expected, received }
                }
                error => error,
            })
        })?;
        for vector in probe {
            vector.map_err(VectorError::Encode)?;
        }
        let permits = || Semaphore::new(settings.calls);
        let (bulk, express, failure) = (permits(), permits(), Mutex::default());
        let device = health.device.as_deref().map_or_else(|| "unknown".to_owned(), beginning);
        Ok(Remote(Arc::new(RemoteInner {
            client,
            settings,
            name,
            identity,
            encoder,
            device,
            bulk,
            express,
            failure,
        })))
    }

    /// The base address of the server.
    pub fn endpoint(&self) -> &str {
        &self.0.name
    }

    /// The identity of its model. The fingerprint hashes the reported names, because the files are not available.
    pub fn identity(&self) -> &ModelIdentity {
        &self.0.identity
    }

    /// The device that it reports, or "unknown".
    pub fn device(&self) -> &str {
        &self.0.device
    }

    /// The most concurrent requests of ingest.
    pub fn calls(&self) -> usize {
        self.0.settings.calls
    }

    /// The last failure within 30 s, unless a request has succeeded since.
    pub fn problem(&self) -> Option<String> {
        let failure = lock(&self.0.failure);
        failure.as_ref().filter(|(_, at)| at.elapsed() < FAILURE_MEMORY).map(|(problem, _)| problem.clone())
    }

    /// One request for the vectors of `texts`; returns them with the duration of the last attempt. Transient errors are
    /// retried if `whole`: not for a part of a pass that has failed.
    pub(super) async fn pass(
        &self,
        lane: Lane,
        texts: &[&str],
        whole: bool,
    ) -> Result<(Vec<Vector>, Duration), VectorError> {
        let inner = &*self.0;
        let repeats = match lane {
            Lane::Bulk => inner.settings.repeats,
            // A client waits and can repeat the search.
            Lane::Express => 1,
        };
        let _permit = self.permit(lane).await;
        let repeats = if whole { repeats } else { 0 };
        let asked = with_retries(&inner.settings, repeats, || self.ask(texts)).await;
        let asked = asked.map_err(|error| VectorError::Server { endpoint: inner.name.clone(), error });
        match &asked {
            Ok(_) => self.note(None),
            // Whose fault it is will be known later.
            Err(error) if error.may_be_a_text() => {}
            Err(error) => self.note(Some(error)),
        }
        asked
    }

    /// Asks once for the vector of a text that the server could embed at the start, after `error` of a request with
    /// other texts. If there is one, those texts are the cause of the error.
    ///
    /// # Errors
    /// The error of the server itself, which fails for every text: `error`, or what shows that it has another model now.
    pub(super) async fn still_works(&self, lane: Lane, error: VectorError) -> Result<(), VectorError> {
        let _permit = self.permit(lane).await;
        let failure = match self.ask(&[PROBE]).await {
            Ok((vectors, _)) if vectors.iter().all(Result::is_ok) => {
                self.note(None);
                return Ok(());
            }
            Ok(_) => error,
            Err(RemoteError::Dimensions { expected, received }) => {
                let (expected, received) = (expected.to_string(), received.to_string());
                let other = RemoteError::OtherModel { what: "dimensions", expected, received };
                VectorError::Server { endpoint: self.0.name.clone(), error: other }
            }
            Err(other @ RemoteError::OtherModel { .. }) => {
                VectorError::Server { endpoint: self.0.name.clone(), error: other }
            }
            Err(_) => error,
        };
        self.note(Some(&failure));
        Err(failure)
    }

    async fn permit(&self, lane: Lane) -> Option<SemaphorePermit<'_>> {
        let permits = match lane {
            Lane::Bulk => &self.0.bulk,
            Lane::Express => &self.0.express,
        };
        // The semaphore is never closed.
        permits.acquire().await.ok()
    }

    async fn ask(&self, texts: &[&str]) -> Result<(Vec<Vector>, Duration), RemoteError> {
        let RemoteInner { client, settings, identity, encoder, .. } = &*self.0;
        let started = Instant::now();
        let answer = embed(client, settings, identity.dims, texts).await;
        let vectors = answer.and_then(|answer| vectors(answer, texts.len(), identity, encoder));
        let took = started.elapsed();
        metrics::embed_request(vectors.as_ref().err().map_or("ok", RemoteError::kind), took);
        let vectors = vectors?;
        metrics::embedded_there(texts.len(), took);
        Ok((vectors, took))
    }

    /// Records the result for `/health`; logs the first failure of a series and the end of the series.
    fn note(&self, error: Option<&VectorError>) {
        let mut failure = lock(&self.0.failure);
        let before = match error {
            Some(error) => failure.replace((error.to_string(), Instant::now())),
            None => failure.take(),
        };
        match (before, error) {
            (None, Some(error)) => throttled!(warn, "{error}"),
            (Some(_), None) => throttled!(info, "the embedding server at {} answers again", self.0.name),
            _ => {}
        }
    }
}

/// One request for the vectors of `texts`.
async fn embed(
    client: &Client,
    settings: &RemoteSettings,
    dims: usize,
    texts: &[&str],
) -> Result<EmbedResponse, RemoteError> {
    let request = client.post(settings.endpoint.at("/embed")).json(&EmbedRequest { texts, normalize: true });
    let limit = texts.len() * dims * NUMBER_BYTES + RESPONSE_OVERHEAD;
    parse("/embed", &send("/embed", request, settings.timeout, limit).await?)
}

/// Calls `ask` until it succeeds, fails permanently, or the retries are used up. A time-out is retried once: more
/// requests would only add load to a slow server.
async fn with_retries<T, F: Future<Output = Result<T, RemoteError>>>(
    settings: &RemoteSettings,
    mut repeats: u32,
    ask: impl Fn() -> F,
) -> Result<T, RemoteError> {
    let classify = |error: &RemoteError, before| {
        if before >= repeats || !error.is_transient() {
            return Verdict::GiveUp;
        }
        metrics::embed_repeat(error.kind());
        if matches!(error, RemoteError::Timeout { .. }) {
            repeats = before + 1;
        }
        Verdict::RetryAfter(error.retry_after().unwrap_or_default().min(MAX_RETRY_AFTER))
    };
    retry(settings.backoff, classify, ask).await
}

/// Sends the request; returns the body if the status is 200.
async fn send(
    path: &'static str,
    request: RequestBuilder,
    time: Duration,
    limit: usize,
) -> Result<Vec<u8>, RemoteError> {
    let broken = |error: reqwest::Error| RemoteError::Connect { problem: cause(&error) };
    let call = async {
        let response = request.send().await.map_err(broken)?;
        let status = response.status().as_u16();
        let after = response.headers().get(header::RETRY_AFTER).and_then(|after| after.to_str().ok());
        let retry_after = after.and_then(|after| after.parse().ok()).map(Duration::from_secs);
        let body = endpoint::read_body(response, limit).await.map_err(|unread| match unread {
            Unread::TooLong => RemoteError::TooLong { limit },
            Unread::Broken(error) => broken(error),
        })?;
        if status == 200 {
            return Ok(body);
        }
        let said = beginning(&String::from_utf8_lossy(&body));
        Err(RemoteError::Status { path, status, said, retry_after })
    };
    tokio::time::timeout(time, call).await.unwrap_or(Err(RemoteError::Timeout { limit: time }))
}

/// The identity of the model behind a server. The fingerprint hashes the reported names; only another lnsp reports a
/// fingerprint of its files, which then is part of the hash. So is `encoder`, the name in responses with vectors, if it
/// differs from the one in `health`.
fn identity(health: &HealthResponse, encoder: &str) -> ModelIdentity {
    let model = health.model.as_str().or_else(|| health.model["name"].as_str()).unwrap_or_default();
    let files = health.model["fingerprint"].as_str().unwrap_or_default();
    let dims = health.dimension;
    let mut hash = blake3::Hasher::new();
    let other = (encoder != health.encoder).then_some(encoder);
    for part in [RECIPE, &health.encoder, model, files, &dims.to_string()].into_iter().chain(other) {
        hash.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    let fingerprint = hash.finalize().to_hex().to_string();
    ModelIdentity { name: health.encoder.clone(), recipe: RECIPE.to_owned(), fingerprint, dims }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(text: &str) -> HealthResponse {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_identity_depends_on_names_and_not_on_what_changes_between_starts() {
        let plain = health(r#"{"encoder":"e","model":"m","dimension":3,"device":"cpu","status":"healthy"}"#);
        let moved = health(r#"{"encoder":"e","model":"m","dimension":3,"device":"cuda:0"}"#);
        assert_eq!(identity(&plain, "e"), identity(&moved, "e"));
        assert_ne!(identity(&plain, "e").fingerprint, identity(&plain, "other").fingerprint);
        for other in [
            r#"{"encoder":"f","model":"m","dimension":3}"#,
            r#"{"encoder":"e","model":"n","dimension":3}"#,
            r#"{"encoder":"e","model":"m","dimension":4}"#,
            r#"{"encoder":"e","model":{"name":"m","fingerprint":"f"},"dimension":3}"#,
        ] {
            assert_ne!(
                identity(&plain, "e").fingerprint,
                identity(&health(other), "e").fingerprint,
                "{other}"
            );
        }
    }
}
