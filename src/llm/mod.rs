//! The language model as a source of codes: a port that asks an Ollama server for Domain, Task and Modifier.
//!
//! [`Llm`] is the handle. It limits the calls in flight, gives each a deadline, repeats a call once after a transient
//! error, and makes no calls while the circuit breaker is open ([`breaker`]). The prompt is in [`prompt`], parsing in
//! [`answer`], the errors in [`LlmError`]. The first stage decides what follows an error.

mod answer;
mod breaker;
mod client;
mod error;
mod health;

mod prompt;
mod settings;

pub use answer::{AnswerError, Labels, TokenLogprob, read as read_answer};
pub use client::ServerInfo;
pub use error::LlmError;
pub use health::Status;
pub use settings::LlmSettings;

use crate::endpoint::Endpoint;
use crate::metrics;
use crate::threads::lock;
use crate::tmd::{AxisConfidence, Tmd};
use client::{Attempt, LlmClient};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use health::ServerHealth;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// The pause before the second attempt of a call: long enough for Ollama to restart a model runner that has crashed.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// The result of a successful call.
#[derive(Debug, Clone, PartialEq)]
pub struct LlmAnswer {
    /// The codes behind the names that the model chose.
    pub tmd: Tmd,
    /// Probability of each name according to the model, in (0, 1]; `None` when the server sends none.
    pub confidence: Option<AxisConfidence>,
    /// Duration of the call, including a second attempt, excluding the wait for a permit.
    pub took: Duration,
}

/// A handle to the language model; cheap to clone.
#[derive(Clone)]
pub struct Llm(Arc<LlmInner>);

/// The result of the handshake, shared by all calls that wait for it.
type Handshake = Shared<BoxFuture<'static, Result<Arc<ServerInfo>, LlmError>>>;

struct LlmInner {
    settings: LlmSettings,
    model: Arc<str>,
    client: Arc<LlmClient>,
    handshake: Mutex<Option<Handshake>>,
    permits: Semaphore,
    health: ServerHealth,
}

impl Llm {
    /// Creates a handle without contacting the server.
    ///
    /// # Errors
    /// [`LlmError::Client`] when the HTTP client cannot be built.
    pub fn new(settings: LlmSettings) -> Result<Llm, LlmError> {
        let client = LlmClient::new(&settings)?;
        let permits = Semaphore::new(settings.calls);
        let health = ServerHealth::new(settings.endpoint.to_string(), settings.timeout);
        let model = settings.model.as_str().into();
        metrics::llm_limit(settings.calls);
        let (client, handshake) = (Arc::new(client), Mutex::new(None));
        Ok(Llm(Arc::new(LlmInner { settings, model, client, handshake, permits, health })))
    }

    /// Checks that the server answers, has the model and can load it. A success is remembered: later calls return it
    /// without contacting the server.
    ///
    /// # Errors
    /// [`LlmError`], whose message follows "the LLM at ...".
    pub async fn probe(&self) -> Result<Arc<ServerInfo>, LlmError> {
        let server = self.handshake().await;
        if let Err(error) = &server {
            self.0.health.note(error);
        }
        server
    }

    /// Checks that the server answers and has the model, without loading the model.
    ///
    /// # Errors
    /// [`LlmError`], whose message follows "the LLM at ...".
    pub async fn inspect(&self) -> Result<ServerInfo, LlmError> {
        self.0.client.inspect().await
    }

    /// Classifies one text. Waits for a permit; after that it takes at most two timeouts and the pause between them.
    ///
    /// # Errors
    /// The error of the last attempt, or [`LlmError::BreakerOpen`] without a call.
    pub async fn classify(&self, text: &str) -> Result<LlmAnswer, LlmError> {
        let inner = &*self.0;
        // The semaphore is never closed.
        let _permit = inner.permits.acquire().await;
        let Some(permit) = inner.health.try_acquire() else { return Err(LlmError::BreakerOpen) };
        let started = Instant::now();
        let _flight = metrics::llm_flight();
        let asked = match self.ask(text, Attempt::First).await {
            Err(error) if error.is_transient() => {
                metrics::llm_retry(error.kind());
                tokio::time::sleep(RETRY_PAUSE).await;
                self.ask(text, Attempt::Second).await
            }
            asked => asked,
        };
        match asked {
            Ok(Labels { tmd, confidence }) => {
                inner.health.on_success();
                Ok(LlmAnswer { tmd, confidence, took: started.elapsed() })
            }
            Err(error) => {
                inner.health.on_failure(permit, &error);
                Err(error)
            }
        }
    }

    /// The handshake: finished, in progress, or started again after a failure. Loading a model can take longer than the
    /// timeout of a call, so a handshake continues for later calls when the first one times out.
    fn handshake(&self) -> Handshake {
        let mut handshake = lock(&self.0.handshake);
        match &*handshake {
            Some(known) if !matches!(known.peek(), Some(Err(_))) => known.clone(),
            _ => {
                let client = self.0.client.clone();
                let asking = async move { client.handshake().await.map(Arc::new) };
                handshake.insert(asking.boxed().shared()).clone()
            }
        }
    }

    /// One attempt within the timeout.
    async fn ask(&self, text: &str, attempt: Attempt) -> Result<Labels, LlmError> {
        let inner = &*self.0;
        let started = Instant::now();
        let call = async {
            let server = self.handshake().await?;
            inner.client.ask(text, attempt, &server).await
        };
        let limit = inner.settings.timeout;
        let answer = tokio::time::timeout(limit, call).await.unwrap_or(Err(LlmError::Timeout { limit }));
        metrics::llm_request(answer.as_ref().err().map_or("ok", LlmError::kind), started.elapsed());
        answer
    }

    /// The model, as the server names it.
    pub fn model(&self) -> &Arc<str> {
        &self.0.model
    }

    /// The base address of the server.
    pub fn endpoint(&self) -> &Endpoint {
        &self.0.settings.endpoint
    }

    /// The recent health of the server.
    pub fn status(&self) -> Status {
        self.0.health.status()
    }

    /// The number of calls in flight.
    pub fn in_flight(&self) -> usize {
        self.0.settings.calls - self.0.permits.available_permits()
    }
}
