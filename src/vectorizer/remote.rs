//! Another embedding server in the place of a model of our own: `GET /health` says what it is, `POST /embed` gives
//! vectors.
//!
//! What it says of itself at the start is what the store is held to: an answer of another encoder, of other dimensions
//! or of another number of vectors is none. What may pass (no connection, no answer in time, 429, 5xx) is asked for
//! again after growing pauses. Searches have requests of their own and do not wait for those of ingest.

mod error;

pub use error::RemoteError;

use super::VectorError;
use crate::encoder::{EncodeError, Vector};
use crate::endpoint::{self, Endpoint, Unread, beginning, cause};
use crate::flow::Backoff;
use crate::metrics;
use crate::model::ModelIdentity;
use crate::threads::Lane;
use reqwest::{Client, RequestBuilder, header};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// What is done with a text there besides applying the weights, as far as we know.
const RECIPE: &str = "remote, normalised";
/// For what a server answers from memory.
const INTRODUCTION: Duration = Duration::from_secs(5);
/// No word of an answer is longer: a number with all its digits, its comma and white space.
const NUMBER: usize = 32;
/// Everything else in an answer.
const REST: usize = 64 * 1024;
/// A failure this long ago says nothing about now.
const RECENT: Duration = Duration::from_secs(30);
/// A server that asks to be left alone for longer is asked again all the same.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Whom to ask, and how.
#[derive(Debug, Clone)]
pub struct RemoteSettings {
    /// Where the server is.
    pub endpoint: Endpoint,
    /// For one request, from sending it to the end of its answer.
    pub timeout: Duration,
    /// Requests of ingest at once; searches have as many.
    pub calls: usize,
    /// How often a request is repeated that may pass the next time.
    pub repeats: u32,
    /// The pauses before.
    pub backoff: Backoff,
}

impl RemoteSettings {
    /// The usual way to ask: patient for some twelve seconds, in which a server may start again.
    pub fn at(endpoint: Endpoint) -> RemoteSettings {
        let backoff = Backoff { first: Duration::from_millis(250), ceiling: Duration::from_secs(4) };
        RemoteSettings { endpoint, timeout: Duration::from_secs(30), calls: 4, repeats: 6, backoff }
    }
}

/// A server that has said what it is; cheap to clone.
#[derive(Clone)]
pub struct Remote(Arc<Inner>);

struct Inner {
    client: Client,
    settings: RemoteSettings,
    name: Arc<str>,
    identity: ModelIdentity,
    device: String,
    bulk: Semaphore,
    express: Semaphore,
    /// Since the last answer.
    failure: Mutex<Option<(String, Instant)>>,
}

/// `GET /health`: the old service's fields. Another lnsp has an object in the place of the model's name.
#[derive(Deserialize)]
struct Health {
    encoder: String,
    dimension: usize,
    #[serde(default)]
    model: Value,
    #[serde(default)]
    device: Option<String>,
}

#[derive(Serialize)]
struct Question<'a> {
    texts: &'a [&'a str],
    normalize: bool,
}

#[derive(Deserialize)]
struct Answer {
    /// A number that is not finite has no place in JSON; many write null.
    embeddings: Vec<Vec<Option<f32>>>,
    #[serde(default)]
    encoder: Option<String>,
}

impl Remote {
    /// Asks a server what it is.
    ///
    /// # Errors
    /// When there is none, or none that says it.
    pub async fn connect(settings: RemoteSettings) -> Result<Remote, VectorError> {
        let name: Arc<str> = settings.endpoint.to_string().into();
        let failed = |error| VectorError::Server { endpoint: name.clone(), error };
        let client = endpoint::client(2 * settings.calls);
        let client = client.map_err(|error| failed(RemoteError::Client { problem: cause(&error) }))?;
        let at = settings.endpoint.at("/health");
        let ask = || send("/health", client.get(&at), INTRODUCTION, REST);
        let health = patiently(&settings, settings.repeats, ask).await.map_err(failed)?;
        let health: Health = read("/health", &health).map_err(failed)?;
        if health.dimension == 0 || health.encoder.trim().is_empty() {
            let said = format!("dimension {}, encoder '{}'", health.dimension, beginning(&health.encoder));
            return Err(failed(RemoteError::Foreign { path: "/health", said }));
        }
        let permits = || Semaphore::new(settings.calls);
        let (bulk, express, failure) = (permits(), permits(), Mutex::default());
        let device = health.device.as_deref().map_or_else(|| "unknown".to_owned(), beginning);
        let identity = identity(&health);
        Ok(Remote(Arc::new(Inner { client, settings, name, identity, device, bulk, express, failure })))
    }

    /// Where it is.
    pub fn endpoint(&self) -> &str {
        &self.0.name
    }

    /// Which vectors it makes, as far as it can be known from outside: there are no files to hash.
    pub fn identity(&self) -> &ModelIdentity {
        &self.0.identity
    }

    /// What it says it computes on.
    pub fn device(&self) -> &str {
        &self.0.device
    }

    /// Requests of ingest at once.
    pub fn calls(&self) -> usize {
        self.0.settings.calls
    }

    /// What went wrong of late, when nothing has gone well since.
    pub fn problem(&self) -> Option<String> {
        let failure = self.0.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.as_ref().filter(|(_, at)| at.elapsed() < RECENT).map(|(problem, _)| problem.clone())
    }

    /// One request, repeated while that may help if it is a `whole` one, and not a part of one that has failed.
    pub(super) async fn pass(
        &self,
        lane: Lane,
        texts: &[&str],
        whole: bool,
    ) -> Result<(Vec<Vector>, Duration), VectorError> {
        let inner = &*self.0;
        let (turns, repeats) = match lane {
            Lane::Bulk => (&inner.bulk, inner.settings.repeats),
            // Somebody waits, and can ask again.
            Lane::Express => (&inner.express, 1),
        };
        // Never closed.
        let _turn = turns.acquire().await;
        let repeats = if whole { repeats } else { 0 };
        let asked = patiently(&inner.settings, repeats, || self.ask(texts)).await;
        let asked = asked.map_err(|error| VectorError::Server { endpoint: inner.name.clone(), error });
        self.note(asked.as_ref().err().filter(|error| error.retryable()));
        asked
    }

    async fn ask(&self, texts: &[&str]) -> Result<(Vec<Vector>, Duration), RemoteError> {
        let Inner { client, settings, identity, .. } = &*self.0;
        let started = Instant::now();
        let request = client.post(settings.endpoint.at("/embed")).json(&Question { texts, normalize: true });
        let limit = texts.len() * identity.dims * NUMBER + REST;
        let vectors = async {
            let body = send("/embed", request, settings.timeout, limit).await?;
            vectors(read("/embed", &body)?, texts.len(), identity)
        };
        let vectors = vectors.await;
        let took = started.elapsed();
        metrics::embed_request(vectors.as_ref().err().map_or("ok", RemoteError::kind), took);
        let vectors = vectors?;
        metrics::embedded_there(texts.len(), took);
        Ok((vectors, took))
    }

    /// Keeps how it went, for `/health`; the log hears of the first failure and of the end of the last.
    fn note(&self, error: Option<&VectorError>) {
        let mut failure = self.0.failure.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match error {
            Some(error) => failure.replace((error.to_string(), Instant::now())),
            None => failure.take(),
        };
        match (before, error) {
            (None, Some(error)) => tracing::warn!("{error}"),
            (Some(_), None) => tracing::info!("the embedding server at {} answers again", self.0.name),
            _ => {}
        }
    }
}

/// Asks, and again after a pause while it may pass; after a time-out once, for a server that is too slow is not helped
/// by more.
async fn patiently<T, F: Future<Output = Result<T, RemoteError>>>(
    settings: &RemoteSettings,
    mut repeats: u32,
    ask: impl Fn() -> F,
) -> Result<T, RemoteError> {
    let mut repeat = 0;
    loop {
        match ask().await {
            Err(error) if repeat < repeats && error.may_pass() => {
                metrics::embed_repeat(error.kind());
                if matches!(error, RemoteError::Timeout { .. }) {
                    repeats = repeat + 1;
                }
                let asked_for = error.retry_after().unwrap_or_default().min(LONGEST_PAUSE);
                tokio::time::sleep(settings.backoff.pause(repeat).max(asked_for)).await;
                repeat += 1;
            }
            answer => return answer,
        }
    }
}

/// Sends, and reads the whole answer of a good status.
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

fn read<T: for<'a> Deserialize<'a>>(path: &'static str, body: &[u8]) -> Result<T, RemoteError> {
    let foreign = |_| RemoteError::Foreign {
        path,
        said: beginning(&String::from_utf8_lossy(&body[..body.len().min(1024)])),
    };
    serde_json::from_slice(body).map_err(foreign)
}

/// The checked vectors of an answer.
fn vectors(answer: Answer, expected: usize, identity: &ModelIdentity) -> Result<Vec<Vector>, RemoteError> {
    if let Some(received) = answer.encoder.filter(|encoder| *encoder != identity.name) {
        let (expected, received) = (identity.name.clone(), beginning(&received));
        return Err(RemoteError::OtherModel { what: "encoder", expected, received });
    }
    let received = answer.embeddings.len();
    if received != expected {
        return Err(RemoteError::Count { expected, received });
    }
    if let Some(other) = answer.embeddings.iter().find(|vector| vector.len() != identity.dims) {
        let (expected, received) = (identity.dims.to_string(), other.len().to_string());
        return Err(RemoteError::OtherModel { what: "dimensions", expected, received });
    }
    Ok(answer.embeddings.into_iter().map(unit).collect())
}

/// The vector with length one: as it came where it is so nearly, for it was asked to be.
fn unit(numbers: Vec<Option<f32>>) -> Vector {
    const NEARLY: f64 = 1e-3;
    let unusable = |received| Err(EncodeError::UnusableVector { received });
    let numbers: Option<Vec<f32>> = numbers.into_iter().collect();
    let Some(numbers) = numbers else { return unusable("values that are not finite") };
    let length = numbers.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    if !length.is_finite() {
        return unusable("values that are not finite");
    }
    if length < f64::from(f32::MIN_POSITIVE) {
        return unusable("zeros");
    }
    if (length - 1.0).abs() <= NEARLY {
        return Ok(numbers.into());
    }
    Ok(numbers.into_iter().map(|x| (f64::from(x) / length) as f32).collect())
}

/// A name of what makes its vectors. The fingerprint is one of names; only another lnsp has one of its files in it.
fn identity(health: &Health) -> ModelIdentity {
    let model = health.model.as_str().or_else(|| health.model["name"].as_str()).unwrap_or_default();
    let files = health.model["fingerprint"].as_str().unwrap_or_default();
    let dims = health.dimension;
    let mut hash = blake3::Hasher::new();
    for part in [RECIPE, &health.encoder, model, files, &dims.to_string()] {
        hash.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    let fingerprint = hash.finalize().to_hex().to_string();
    ModelIdentity { name: health.encoder.clone(), recipe: RECIPE.to_owned(), fingerprint, dims }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(text: &str) -> Health {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_server_is_known_by_its_names_and_by_nothing_that_changes_from_start_to_start() {
        let plain = health(r#"{"encoder":"e","model":"m","dimension":3,"device":"cpu","status":"healthy"}"#);
        let moved = health(r#"{"encoder":"e","model":"m","dimension":3,"device":"cuda:0"}"#);
        assert_eq!(identity(&plain), identity(&moved));
        for other in [
            r#"{"encoder":"f","model":"m","dimension":3}"#,
            r#"{"encoder":"e","model":"n","dimension":3}"#,
            r#"{"encoder":"e","model":"m","dimension":4}"#,
            r#"{"encoder":"e","model":{"name":"m","fingerprint":"f"},"dimension":3}"#,
        ] {
            assert_ne!(identity(&plain).fingerprint, identity(&health(other)).fingerprint, "{other}");
        }
    }

    #[test]
    fn vectors_are_brought_to_unit_length_and_those_without_a_direction_refused() {
        let exact = [0.6, 0.8];
        assert_eq!(*unit(exact.map(Some).into()).unwrap(), exact, "not touched");
        assert_eq!(*unit(vec![Some(3.0), Some(4.0)]).unwrap(), exact);
        for bad in [[Some(1.0), None], [Some(f32::INFINITY), Some(0.0)], [Some(0.0), Some(0.0)]] {
            assert!(matches!(unit(bad.into()), Err(EncodeError::UnusableVector { .. })), "{bad:?}");
        }
    }
}
