//! The language model as a source of codes: a port that asks an Ollama server for Domain, Task and Modifier.
//!
//! [`Llm`] is the handle. It bounds the calls in flight, gives each a deadline, asks once more where that can help,
//! and rests while the server fails in a row ([`breaker`]). What is asked is in [`prompt`], what counts as an answer
//! in [`answer`], what can go wrong in [`LlmError`]. What to do without an answer is decided by the first stage.

mod answer;
mod breaker;
mod error;
mod health;
mod ollama;
mod prompt;

pub use answer::{AnswerError, Labels, Token, read as read_answer};
pub use error::LlmError;
pub use health::Status;

use crate::endpoint::Endpoint;
use crate::metrics;
use crate::tmd::{AxisConfidence, Tmd};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use health::ServerHealth;
use ollama::{Attempt, Ollama};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// A failed call is repeated after this pause: long enough for a model runner that has just died to be started.
const PAUSE: Duration = Duration::from_millis(250);

/// Whom to ask, and how.
#[derive(Debug, Clone)]
pub struct LlmSettings {
    /// Where the server is.
    pub endpoint: Endpoint,
    /// The model, as the server names it.
    pub model: String,
    /// Calls in flight at once; the server must be told to serve as many (`OLLAMA_NUM_PARALLEL`).
    pub calls: usize,
    /// For one call, from sending it to the end of its answer.
    pub timeout: Duration,
}

/// A usable answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The codes behind the names that the model chose.
    pub tmd: Tmd,
    /// How probable the model found its own names; absent when the server does not say.
    pub confidence: Option<AxisConfidence>,
    /// What the asking took, a second try included, waiting for a turn excluded.
    pub took: Duration,
}

/// What the server has said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its version.
    pub version: String,
    /// The model thinks aloud unless it is told not to.
    pub thinks: bool,
}

/// The handle; cheap to clone.
#[derive(Clone)]
pub struct Llm(Arc<Inner>);

/// The server's first answer, for all who wait for it.
type Handshake = Shared<BoxFuture<'static, Result<Arc<Server>, LlmError>>>;

struct Inner {
    settings: LlmSettings,
    model: Arc<str>,
    ollama: Arc<Ollama>,
    handshake: Mutex<Option<Handshake>>,
    turns: Semaphore,
    watch: ServerHealth,
}

impl Llm {
    /// A handle; nothing is asked yet.
    ///
    /// # Errors
    /// [`LlmError::Client`] when the HTTP client cannot be built.
    pub fn new(settings: LlmSettings) -> Result<Llm, LlmError> {
        let ollama = Ollama::new(&settings)?;
        let turns = Semaphore::new(settings.calls);
        let watch = ServerHealth::new(settings.endpoint.to_string(), settings.timeout);
        let model = settings.model.as_str().into();
        metrics::llm_limit(settings.calls);
        let (ollama, handshake) = (Arc::new(ollama), Mutex::new(None));
        Ok(Llm(Arc::new(Inner { settings, model, ollama, handshake, turns, watch })))
    }

    /// Asks the server whether it is there, has the model and can load it. Once it has said yes, later calls
    /// answer from memory.
    ///
    /// # Errors
    /// What is wrong, as a sentence to follow "the LLM at ...".
    pub async fn probe(&self) -> Result<Arc<Server>, LlmError> {
        let server = self.handshake().await;
        if let Err(error) = &server {
            self.0.watch.note(error);
        }
        server
    }

    /// Asks the server whether it is there and has the model, which is not loaded for it.
    ///
    /// # Errors
    /// What is wrong, as a sentence to follow "the LLM at ...".
    pub async fn look(&self) -> Result<Server, LlmError> {
        self.0.ollama.look().await
    }

    /// Asks for the codes of one text. Waits for a turn; then at most the time of two calls.
    ///
    /// # Errors
    /// Why there is no answer; [`LlmError::Resting`] without having asked.
    pub async fn classify(&self, text: &str) -> Result<Answer, LlmError> {
        let inner = &*self.0;
        // The semaphore is never closed.
        let _turn = inner.turns.acquire().await;
        let Some(permit) = inner.watch.ask() else { return Err(LlmError::Resting) };
        let started = Instant::now();
        let _flight = metrics::llm_flight();
        let asked = match self.ask(text, Attempt::First).await {
            Err(error) if error.may_pass() => {
                metrics::llm_retry(error.kind());
                tokio::time::sleep(PAUSE).await;
                self.ask(text, Attempt::Second).await
            }
            asked => asked,
        };
        match asked {
            Ok(Labels { tmd, confidence }) => {
                inner.watch.answered();
                Ok(Answer { tmd, confidence, took: started.elapsed() })
            }
            Err(error) => {
                inner.watch.failed(permit, &error);
                Err(error)
            }
        }
    }

    /// The server, as it has said or is saying; asked anew after it had failed to. Loading a model can take longer than
    /// a call may: who waits here and gives up leaves it going on for the next.
    fn handshake(&self) -> Handshake {
        let mut handshake = self.0.handshake.lock().unwrap_or_else(PoisonError::into_inner);
        match &*handshake {
            Some(known) if !matches!(known.peek(), Some(Err(_))) => known.clone(),
            _ => {
                let ollama = self.0.ollama.clone();
                let asking = async move { ollama.introduce().await.map(Arc::new) };
                handshake.insert(asking.boxed().shared()).clone()
            }
        }
    }

    /// One call within its deadline.
    async fn ask(&self, text: &str, attempt: Attempt) -> Result<Labels, LlmError> {
        let inner = &*self.0;
        let started = Instant::now();
        let call = async {
            let server = self.handshake().await?;
            inner.ollama.ask(text, attempt, &server).await
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

    /// Where the server is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.0.settings.endpoint
    }

    /// How it has been lately.
    pub fn status(&self) -> Status {
        self.0.watch.status()
    }

    /// Calls in flight now.
    pub fn in_flight(&self) -> usize {
        self.0.settings.calls - self.0.turns.available_permits()
    }
}
