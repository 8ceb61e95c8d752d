//! The client of one TMD router: `POST /extract-tmd`.

use super::error::RouterError;
use crate::endpoint::{self, Endpoint, Unread, beginning, cause};
use crate::metrics;
use crate::server_pool::PooledClient;
use crate::tmd::Tmd;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use reqwest::{Client, RequestBuilder};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Uncached: the old router's cache of `/route` keeps failures as codes.
const EXTRACT: &str = "/extract-tmd";
const HEALTH: &str = "/health";
/// The time limit of calls that a server answers from memory.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest response body that is read, in bytes: it repeats the text.
const MAX_RESPONSE_BYTES: usize = 256 * 1024;
/// The longest prefix of a text that is sent, in bytes. The old router puts all of it into its prompt, and the subject of
/// a text shows in less.
const TEXT_BYTES: usize = 3_000;

/// Which router is called, and the limits of the calls.
#[derive(Debug, Clone)]
pub struct RouterSettings {
    /// The base address of the router.
    pub endpoint: Endpoint,
    /// The most calls in flight.
    pub calls: usize,
    /// The time limit of one attempt.
    pub timeout: Duration,
}

/// The client of one router.
pub struct RouterClient {
    client: Client,
    settings: RouterSettings,
    name: Arc<str>,
}

/// What is read of an answer. A router that is this service says where its codes come from.
#[derive(Deserialize)]
struct Extracted {
    domain_code: i64,
    task_code: i64,
    modifier_code: i64,
    #[serde(default)]
    tmd_source: Option<String>,
}

impl RouterClient {
    /// Builds the HTTP client; makes no call.
    ///
    /// # Errors
    /// [`RouterError::Client`] with the error of the HTTP client.
    pub fn new(settings: &RouterSettings) -> Result<RouterClient, RouterError> {
        let client = endpoint::client(settings.calls, &settings.endpoint);
        let client = client.map_err(|problem| RouterError::Client { problem })?;
        let name = settings.endpoint.name().into();
        Ok(RouterClient { client, settings: settings.clone(), name })
    }

    /// The codes of a text, within the time limit.
    ///
    /// # Errors
    /// A [`RouterError`]; also for 0, 0, 0 from an old router, which says so when its model has failed.
    pub async fn extract(&self, text: &str) -> Result<Tmd, RouterError> {
        let started = Instant::now();
        let codes = within(self.settings.timeout, self.ask(text)).await;
        let outcome = codes.as_ref().err().map_or("ok", RouterError::kind);
        metrics::llm_request(&self.name, outcome, started.elapsed());
        codes
    }

    async fn ask(&self, text: &str) -> Result<Tmd, RouterError> {
        let text = &text[..text.floor_char_boundary(TEXT_BYTES)];
        let call = self.client.post(self.settings.endpoint.at(EXTRACT));
        let (status, body) = self.send(EXTRACT, call.json(&json!({ "concept_text": text }))).await?;
        let found: Extracted =
            serde_json::from_slice(&body).map_err(|_| not_router(EXTRACT, status, &body))?;
        let tmd = Tmd::new(found.domain_code, found.task_code, found.modifier_code)?;
        match found.tmd_source.as_deref() {
            Some("fallback") => Err(RouterError::NoCodes { why: "it fell back to another source" }),
            None if found.domain_code == 0 && found.task_code == 0 && found.modifier_code == 0 => {
                Err(RouterError::NoCodes { why: "0, 0, 0 is what it says when its model has failed" })
            }
            _ => Ok(tmd),
        }
    }

    /// Sends the request; returns status and body if the status is 200.
    async fn send(&self, path: &'static str, request: RequestBuilder) -> Result<(u16, Vec<u8>), RouterError> {
        let broken = |error: reqwest::Error| RouterError::Connect { problem: cause(&error) };
        let response = request.send().await.map_err(broken)?;
        let status = response.status().as_u16();
        let body =
            endpoint::read_body(response, MAX_RESPONSE_BYTES).await.map_err(|unread| match unread {
                Unread::TooLong => RouterError::TooLong { limit: MAX_RESPONSE_BYTES },
                Unread::Broken(error) => broken(error),
            })?;
        match status {
            200 => Ok((status, body)),
            // FastAPI's errors of a request: this one is of the router's shape, so the server is another one.
            404 | 405 | 422 | 300..400 => Err(not_router(path, status, &body)),
            _ => Err(RouterError::Status { status, said: beginning(&String::from_utf8_lossy(&body)) }),
        }
    }
}

impl PooledClient for RouterClient {
    type Error = RouterError;

    /// `/health` of the router. Its model is not asked: that takes seconds.
    fn probe(&self) -> BoxFuture<'_, Result<(), RouterError>> {
        let call = self.client.get(self.settings.endpoint.at(HEALTH));
        within(HEALTH_TIMEOUT, async move {
            let (status, body) = self.send(HEALTH, call).await?;
            let health: serde_json::Value =
                serde_json::from_slice(&body).map_err(|_| not_router(HEALTH, status, &body))?;
            health["status"].is_string().then_some(()).ok_or_else(|| not_router(HEALTH, status, &body))
        })
        .boxed()
    }
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, RouterError>>,
) -> Result<T, RouterError> {
    tokio::time::timeout(limit, call).await.unwrap_or(Err(RouterError::Timeout { limit }))
}

fn not_router(path: &'static str, status: u16, body: &[u8]) -> RouterError {
    RouterError::NotRouter { path, status, said: beginning(&String::from_utf8_lossy(body)) }
}
