//! The client of one embedding server: `GET /health` identifies its model, `POST /embed` returns vectors.

use super::remote_answer::{EmbedResponse, parse, vectors};
use super::remote_error::RemoteError;
use crate::encoder::Vector;
use crate::endpoint::{self, Endpoint, Unread, beginning, cause};
use crate::metrics;
use crate::model::ModelIdentity;
use crate::server_pool::PooledClient;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use reqwest::{Client, RequestBuilder, header};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The recipe in the identity of a remote model: all that is known about its processing.
const RECIPE: &str = "remote, normalised";
/// Time limit of `GET /health`.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
/// An upper bound of the bytes of one number in a response, with comma and white space.
const NUMBER_BYTES: usize = 32;
/// An upper bound of the bytes of a response besides its numbers.
const RESPONSE_OVERHEAD: usize = 64 * 1024;
/// The text that a server is asked about at the start, and again when it may have failed because of another text.
const PROBE: &str = "The quick brown fox jumps over the lazy dog.";

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteFacts {
    /// The identity of its model. The fingerprint hashes the reported names, because the files are not available.
    pub identity: ModelIdentity,
    /// The name of the encoder in the responses of `/embed`. The old service has another one in those of `/health`.
    pub encoder: String,
    /// The device, or "unknown".
    pub device: String,
}

/// The connection to one server, whatever its model.
#[derive(Clone)]
pub(super) struct RemoteClient {
    http: Client,
    endpoint: Endpoint,
    name: Arc<str>,
    timeout: Duration,
}

/// One server of the pool, which has to have the model `wanted`.
pub(super) struct RemoteServer {
    pub client: RemoteClient,
    pub wanted: Arc<RemoteFacts>,
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

impl RemoteClient {
    /// Builds the HTTP client; makes no call.
    pub fn new(endpoint: &Endpoint, slots: usize, timeout: Duration) -> Result<RemoteClient, RemoteError> {
        let http = endpoint::client(2 * slots, endpoint);
        let http = http.map_err(|problem| RemoteError::Client { problem })?;
        Ok(RemoteClient { http, endpoint: endpoint.clone(), name: endpoint.name().into(), timeout })
    }

    /// The base address.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Asks for the identity of the model, and for one vector.
    pub async fn facts(&self) -> Result<RemoteFacts, RemoteError> {
        let at = self.endpoint.at("/health");
        let health = send("/health", self.http.get(&at), HEALTH_TIMEOUT, RESPONSE_OVERHEAD).await?;
        let health: HealthResponse = parse("/health", &health)?;
        if health.dimension == 0 || health.encoder.trim().is_empty() {
            let said = format!("dimension {}, encoder '{}'", health.dimension, beginning(&health.encoder));
            return Err(RemoteError::Foreign { path: "/health", said });
        }
        let answer = self.embed(health.dimension, &[PROBE]).await?;
        let encoder = answer.encoder.clone().unwrap_or_else(|| health.encoder.clone());
        let identity = identity(&health, &encoder);
        let probe = vectors(answer, 1, &identity, &encoder).map_err(|error| match error {
            RemoteError::Dimensions { expected, received } => {
                RemoteError::Contradiction { expected, received }
            }
            error => error,
        })?;
        for vector in probe {
            vector.map_err(|error| RemoteError::NoVector { problem: error.to_string() })?;
        }
        let device = health.device.as_deref().map_or_else(|| "unknown".to_owned(), beginning);
        Ok(RemoteFacts { identity, encoder, device })
    }

    /// One request for the vectors of `texts`.
    async fn embed(&self, dims: usize, texts: &[&str]) -> Result<EmbedResponse, RemoteError> {
        let request = self.http.post(self.endpoint.at("/embed"));
        let request = request.json(&EmbedRequest { texts, normalize: true });
        let limit = texts.len() * dims * NUMBER_BYTES + RESPONSE_OVERHEAD;
        parse("/embed", &send("/embed", request, self.timeout, limit).await?)
    }
}

impl RemoteServer {
    /// One request for the vectors of `texts`, with its duration.
    pub async fn ask(&self, texts: &[&str]) -> Result<(Vec<Vector>, Duration), RemoteError> {
        let RemoteFacts { identity, encoder, .. } = &*self.wanted;
        let started = Instant::now();
        let answer = self.client.embed(identity.dims, texts).await;
        let vectors = answer.and_then(|answer| vectors(answer, texts.len(), identity, encoder));
        let took = started.elapsed();
        metrics::embed_request(
            &self.client.name,
            vectors.as_ref().err().map_or("ok", RemoteError::kind),
            took,
        );
        let vectors = vectors?;
        metrics::embedded_there(texts.len(), took);
        Ok((vectors, took))
    }

    /// Asks once for the vector of a text that the server could embed before, after `error` of a request with other
    /// texts. If there is one, those texts are the cause of the error.
    ///
    /// # Errors
    /// The error of the server itself, which fails for every text: `error`, or what shows that it has another model now.
    pub async fn still_works(&self, error: RemoteError) -> Result<(), RemoteError> {
        match self.ask(&[PROBE]).await {
            Ok((vectors, _)) if vectors.iter().all(Result::is_ok) => Ok(()),
            Err(RemoteError::Dimensions { expected, received }) => {
                let (expected, received) = (expected.to_string(), received.to_string());
                Err(RemoteError::OtherModel { what: "dimensions", expected, received })
            }
            Err(other @ RemoteError::OtherModel { .. }) => Err(other),
            Ok(_) | Err(_) => Err(RemoteError::Broken(Box::new(error))),
        }
    }
}

impl PooledClient for RemoteServer {
    type Error = RemoteError;

    fn probe(&self) -> BoxFuture<'_, Result<(), RemoteError>> {
        async move { self.client.facts().await?.check(&self.wanted) }.boxed()
    }
}

impl RemoteFacts {
    /// Whether this is the model of `wanted`.
    ///
    /// # Errors
    /// [`RemoteError::OtherModel`] with the first property that differs.
    pub fn check(&self, wanted: &RemoteFacts) -> Result<(), RemoteError> {
        let (expected, received) = (&wanted.identity, &self.identity);
        let properties = [
            ("encoder", expected.name.clone(), received.name.clone()),
            ("encoder", wanted.encoder.clone(), self.encoder.clone()),
            ("dimensions", expected.dims.to_string(), received.dims.to_string()),
            ("fingerprint", expected.fingerprint.clone(), received.fingerprint.clone()),
        ];
        match properties.into_iter().find(|(_, expected, received)| expected != received) {
            None => Ok(()),
            Some((what, expected, received)) => {
                let (expected, received) = (beginning(&expected), beginning(&received));
                Err(RemoteError::OtherModel { what, expected, received })
            }
        }
    }
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
