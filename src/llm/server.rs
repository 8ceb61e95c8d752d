//! One server of the pool: its client, and the handshake that its calls share.

use super::client::{LlmClient, ServerInfo, ServerSoftware};
use super::dialect::{Attempt, Dialect};
use super::error::LlmError;
use super::question::Question;
use super::settings::LlmSettings;
use super::{Labels, Wanted};
use crate::answer_cache::AnswerKey;
use crate::metrics;
use crate::server_pool::{Effect, PooledClient, Repeatable, ServerFault};
use crate::threads::lock;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The result of the handshake, shared by all calls that wait for it.
type Handshake = Shared<BoxFuture<'static, Result<Arc<ServerInfo>, LlmError>>>;

pub struct LlmServer {
    name: Arc<str>,
    timeout: Duration,
    cpesh_timeout: Duration,
    client: Arc<LlmClient>,
    handshake: Mutex<Option<Handshake>>,
}

impl LlmServer {
    /// Builds the HTTP client; makes no call.
    pub fn new(settings: &LlmSettings) -> Result<LlmServer, LlmError> {
        Ok(LlmServer {
            name: settings.endpoint.name().into(),
            timeout: settings.timeout,
            cpesh_timeout: settings.cpesh_timeout,
            client: Arc::new(LlmClient::new(settings)?),
            handshake: Mutex::default(),
        })
    }

    /// Asks for version and models; nothing is loaded and nothing is remembered.
    pub async fn inspect(&self) -> Result<ServerSoftware, LlmError> {
        self.client.inspect().await
    }

    /// What the server reported in the last handshake, if that succeeded.
    pub fn info(&self) -> Option<Arc<ServerInfo>> {
        let handshake = lock(&self.handshake);
        handshake.as_ref().and_then(|known| known.peek()).and_then(|known| known.clone().ok())
    }

    /// One attempt within the time limit.
    pub async fn ask(&self, text: &str, wanted: Wanted, attempt: Attempt) -> Result<Labels, LlmError> {
        let started = Instant::now();
        let call = async {
            let server = self.handshake().await?;
            self.client.ask(Question { text, wanted }, attempt, &server).await
        };
        let limit = match wanted {
            Wanted::Codes => self.timeout,
            Wanted::CodesAndCpesh => self.cpesh_timeout,
        };
        let answer = tokio::time::timeout(limit, call).await.unwrap_or(Err(LlmError::Timeout { limit }));
        let outcome = answer.as_ref().err().map_or("ok", LlmError::kind);
        metrics::llm_request(&self.name, outcome, started.elapsed());
        answer
    }

    /// The key of the answer to a question, if the last handshake succeeded.
    pub fn answer_key(&self, question: Question<'_>) -> Option<AnswerKey> {
        self.client.answer_key(question, &*self.info()?)
    }

    /// The handshake: finished, in progress, or started again after a failure or after errors that a new one may cure.
    /// Loading a model can take longer than the time limit of a call, so a handshake continues for later calls when the
    /// first one times out.
    fn handshake(&self) -> Handshake {
        let mut handshake = lock(&self.handshake);
        let doubtful = self.client.take_doubts();
        match &*handshake {
            Some(known) if !doubtful && !matches!(known.peek(), Some(Err(_))) => known.clone(),
            _ => handshake.insert(self.begin_handshake()).clone(),
        }
    }

    fn begin_handshake(&self) -> Handshake {
        let client = self.client.clone();
        let asking = async move { client.handshake().await.map(Arc::new) };
        asking.boxed().shared()
    }
}

impl PooledClient for LlmServer {
    type Error = LlmError;

    /// A new handshake: the server may be another program than at the last one.
    fn probe(&self) -> BoxFuture<'_, Result<(), LlmError>> {
        let asking = {
            let mut handshake = lock(&self.handshake);
            match &*handshake {
                Some(begun) if begun.peek().is_none() => begun.clone(),
                _ => handshake.insert(self.begin_handshake()).clone(),
            }
        };
        async move { asking.await.map(|_| ()) }.boxed()
    }
}

impl ServerFault for LlmError {
    fn effect(&self) -> Effect {
        match self {
            LlmError::Connect { .. } => Effect::Unreachable,
            LlmError::Timeout { .. } | LlmError::Status { status: 429 | 503, .. } => Effect::Overloaded,
            LlmError::NoModel { .. }
            | LlmError::Unauthorized { .. }
            | LlmError::Untrusted { .. }
            | LlmError::NoDialect { .. } => Effect::Unfit,
            // A page of a proxy in the place of one answer may pass; a server without the API is another one.
            LlmError::Foreign { path, .. } if !Dialect::is_generation(path) => Effect::Unfit,
            error if error.is_about_the_text() => Effect::Request,
            _ => Effect::Faulty,
        }
    }

    fn again(&self) -> Repeatable {
        if self.is_transient() { Repeatable::Often } else { Repeatable::Never }
    }

    fn kind(&self) -> &'static str {
        LlmError::kind(self)
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            LlmError::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
