//! The language model as a source of codes: a port that asks a server of language models for Domain, Task and Modifier,
//! and for the CPESH parts of a text.
//!
//! [`Llm`] is the handle. It limits the calls in flight, gives each a deadline, repeats a call once after a transient
//! error, and makes no calls while the circuit breaker is open ([`breaker`]). The prompt is in [`prompt`], the
//! ways to ask in [`dialect`], parsing in [`answer`], the errors in [`LlmError`]. The first stage decides what follows an error.

mod answer;
mod breaker;
mod client;
mod dialect;
mod error;
mod health;
mod model_name;
mod prompt;
mod schema;
mod settings;
mod shape;
mod transport;

pub use answer::{AnswerError, CpeshFailure, Labels, TokenLogprob, read as read_answer};
pub use client::{ServerInfo, ServerSoftware};
pub use dialect::{Dialect, InvalidDialect, Parameters, Thinking, TokenLimit};
pub use error::LlmError;
pub use health::Status;
pub use prompt::{Question, Wanted};
pub use settings::LlmSettings;
pub use shape::{AnswerForm, AnswerShape, InvalidAnswerForm};

use crate::chunk::Cpesh;
use crate::endpoint::Endpoint;
use crate::metrics;
use crate::threads::lock;
use crate::tmd::{AxisConfidence, Tmd};
use client::LlmClient;
use dialect::Attempt;
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
    /// The CPESH parts; `None` when only the codes were wanted. Usable codes are kept when the parts are not usable.
    pub cpesh: Option<Result<Cpesh, CpeshFailure>>,
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
    pub async fn inspect(&self) -> Result<ServerSoftware, LlmError> {
        self.0.client.inspect().await
    }

    /// Asks for what is wanted of one text. Waits for a permit; after that it takes at most two timeouts and the pause between them.
    ///
    /// # Errors
    /// The error of the last attempt, or [`LlmError::BreakerOpen`] without a call.
    pub async fn classify(&self, text: &str, wanted: Wanted) -> Result<LlmAnswer, LlmError> {
        let inner = &*self.0;
        // The semaphore is never closed.
        let _permit = inner.permits.acquire().await;
        let Some(permit) = inner.health.try_acquire() else { return Err(LlmError::BreakerOpen) };
        let (question, started) = (Question { text, wanted }, Instant::now());
        let _flight = metrics::llm_flight();
        let asked = match self.ask(question, Attempt::First).await {
            Err(error) if error.is_transient() => {
                metrics::llm_retry(error.kind());
                tokio::time::sleep(RETRY_PAUSE).await;
                self.ask(question, Attempt::Second).await
            }
            asked => asked,
        };
        match asked {
            Ok(Labels { tmd, confidence, cpesh }) => {
                inner.health.on_success();
                Ok(LlmAnswer { tmd, confidence, cpesh, took: started.elapsed() })
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
        let doubtful = self.0.client.take_doubts();
        match &*handshake {
            Some(known) if !doubtful && !matches!(known.peek(), Some(Err(_))) => known.clone(),
            _ => {
                let client = self.0.client.clone();
                let asking = async move { client.handshake().await.map(Arc::new) };
                handshake.insert(asking.boxed().shared()).clone()
            }
        }
    }

    /// One attempt within the timeout.
    async fn ask(&self, question: Question<'_>, attempt: Attempt) -> Result<Labels, LlmError> {
        let inner = &*self.0;
        let started = Instant::now();
        let call = async {
            let server = self.handshake().await?;
            inner.client.ask(question, attempt, &server).await
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
