//! The language model as a source of codes: a port that asks servers of language models for Domain, Task and Modifier,
//! and for the CPESH parts of a text.
//!
//! [`Llm`] is the handle: a pool of servers that have the model. It limits the calls in flight, gives each a deadline,
//! repeats a call once after a transient error, by another server where there is one, and makes no calls to a server
//! while its circuit breaker is open ([`crate::server_pool`]). The prompt is in [`prompt`], the ways to ask in
//! [`dialect`], parsing in [`answer`], the errors in [`LlmError`]. The first stage decides what follows an error.

mod answer;
mod call;
mod client;
mod dialect;
mod error;
mod extraction;
mod flights;
mod model_name;
mod prompt;
mod question;
mod schema;
mod server;
mod settings;
mod shape;
mod stored_answer;
mod transport;
mod trial;

pub use answer::{AnswerError, CpeshFailure, Labels, TokenLogprob, read as read_answer};
pub use call::{CacheUse, CallPriority};
pub use client::{ServerInfo, ServerSoftware};
pub use dialect::{Dialect, InvalidDialect, Parameters, Thinking, TokenLimit};
pub use error::LlmError;
pub use question::{Question, Wanted};
pub use settings::LlmSettings;
pub use shape::{AnswerForm, AnswerShape, InvalidAnswerForm};
pub use trial::{LlmTrial, TrialAnswer};

use crate::answer_cache::{AnswerCache, AnswerKey};
use crate::chunk::Cpesh;
use crate::flow::Backoff;
use crate::metrics;
use crate::server_pool::{
    CallError, CallPolicy, Member, Pauses, PoolSettings, ServerPool, ServerStatus, Standing, Turn,
};
use crate::threads::Lane;
use crate::tmd::{AxisConfidence, Tmd};
use dialect::Attempt;
use flights::Flights;
use server::LlmServer;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use stored_answer::{decode, encode};

/// A call is repeated once. The pause before the same server is asked again is long enough for Ollama to restart a model
/// runner that has crashed.
const RETRY: CallPolicy = CallPolicy {
    repeats: 1,
    backoff: Backoff { first: Duration::from_millis(250), ceiling: Duration::from_millis(250) },
    waits: false,
    turn: Turn::InOrder,
};

/// The result of a successful call.
#[derive(Debug, Clone, PartialEq)]
pub struct LlmAnswer {
    /// The codes behind the names that the model chose.
    pub tmd: Tmd,
    /// Probability of each name according to the model, in (0, 1]; `None` when the server sends none.
    pub confidence: Option<AxisConfidence>,
    /// The CPESH parts; `None` when only the codes were wanted. Usable codes are kept when the parts are not usable.
    pub cpesh: Option<Result<Cpesh, CpeshFailure>>,
    /// Duration of the call, including a second attempt, excluding the wait for the first server; of the look-up, where the
    /// answer was known.
    pub took: Duration,
}

/// A handle to the language model; cheap to clone.
#[derive(Clone)]
pub struct Llm(Arc<LlmInner>);

struct LlmInner {
    model: Arc<str>,
    endpoint: Arc<str>,
    pool: ServerPool<LlmServer>,
    flights: Flights<Result<LlmAnswer, LlmError>>,
    /// Answers that were given before, where they are kept.
    known: Option<AnswerCache>,
    /// False while it is looked for: see [`Llm::available`].
    found: AtomicBool,
}

impl LlmInner {
    /// The answer that is known, else that of a server, which is known from then on.
    async fn answer(
        &self,
        priority: CallPriority,
        cache: CacheUse,
        question: Question<'_>,
    ) -> Result<LlmAnswer, LlmError> {
        let looked = Instant::now();
        if cache == CacheUse::Use && self.known.is_some() {
            let known = self.known(question).await;
            metrics::llm_answer_cache(known.is_some());
            if let Some(labels) = known {
                return Ok(LlmAnswer::of(labels, looked.elapsed()));
            }
        }
        let turn = match priority {
            CallPriority::Ingest => Turn::InOrder,
            CallPriority::Background => Turn::Last,
        };
        let (policy, mut started) = (CallPolicy { turn, ..RETRY }, None);
        let Question { text, wanted } = question;
        let is_kept = self.known.is_some();
        let asked = self.pool.call(Lane::Bulk, policy, &[], |server, before| {
            started.get_or_insert_with(Instant::now);
            let attempt = if before == 0 { Attempt::First } else { Attempt::Second };
            async move {
                let labels = server.ask(text, wanted, attempt).await?;
                // The key takes the whole request, so it is made only where it is used.
                let key = if is_kept { server.answer_key(question) } else { None };
                Ok((labels, key))
            }
        });
        match asked.await {
            Ok((labels, key)) => {
                if let (Some(known), Some(key), Some(bytes)) = (&self.known, key, encode(&labels)) {
                    known.put(key, bytes);
                }
                Ok(LlmAnswer::of(labels, started.map_or(Duration::ZERO, |started| started.elapsed())))
            }
            Err(CallError::Server { error, .. }) => Err(error),
            Err(CallError::NoServer) => Err(LlmError::BreakerOpen),
        }
    }

    /// The answer that one of the servers, or another one with the same model, has given before.
    async fn known(&self, question: Question<'_>) -> Option<Labels> {
        let known = self.known.as_ref()?;
        // Equal servers have equal keys.
        let mut keys: Vec<AnswerKey> = Vec::new();
        for key in self.pool.clients().filter_map(|(_, server)| server.answer_key(question)) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        for key in keys {
            if let Some(labels) = known.get(key).await.and_then(|bytes| decode(&bytes)) {
                return Some(labels);
            }
        }
        None
    }
}

impl LlmAnswer {
    fn of(labels: Labels, took: Duration) -> LlmAnswer {
        let Labels { tmd, confidence, cpesh } = labels;
        LlmAnswer { tmd, confidence, cpesh, took }
    }
}

/// One server, for `/health`.
#[derive(Debug, Clone, PartialEq)]
pub struct LlmServerStatus {
    /// How it is used.
    pub status: ServerStatus,
    /// What it reported in the last handshake, if that succeeded.
    pub info: Option<Arc<ServerInfo>>,
}

/// The answer of each server to a question about itself, with its address.
pub type ServerAnswers<T> = Vec<(Arc<str>, Result<T, LlmError>)>;

impl Llm {
    /// Creates a handle to the servers with these settings, all with the same model, without contacting any.
    ///
    /// # Errors
    /// [`LlmError::Client`] when an HTTP client cannot be built.
    pub fn new(servers: &[LlmSettings]) -> Result<Llm, LlmError> {
        Llm::with_cache(servers, None)
    }

    /// As [`Self::new`]; answers are kept in `known` and taken from it.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_cache(servers: &[LlmSettings], known: Option<AnswerCache>) -> Result<Llm, LlmError> {
        let member = |settings: &LlmSettings| {
            let (endpoint, slots) = (settings.endpoint.to_string().into(), settings.calls);
            Ok(Member { endpoint, slots, client: LlmServer::new(settings)? })
        };
        let members = servers.iter().map(member).collect::<Result<Vec<_>, LlmError>>()?;
        let endpoints: Vec<&str> = members.iter().map(|member| &*member.endpoint).collect();
        let endpoint = endpoints.join(", ").into();
        let pool = ServerPool::new(
            members,
            PoolSettings {
                what: "the LLM",
                pauses: Pauses::default(),
                count_retry: metrics::llm_retry,
                count_exhausted: metrics::llm_retries_exhausted,
            },
        );
        let model = servers.first().map_or("", |settings| &settings.model).into();
        let (flights, found) = (Flights::default(), AtomicBool::new(true));
        Ok(Llm(Arc::new(LlmInner { model, endpoint, pool, flights, known, found })))
    }

    /// Checks that each server answers, has the model and can load it. Those that do not are left out for now, as long
    /// as one does.
    pub async fn probe(&self) -> ServerAnswers<Arc<ServerInfo>> {
        let pool = &self.0.pool;
        let answers = pool.probe_all().await;
        let each = pool.clients().zip(answers).map(|((endpoint, server), answer)| {
            // The handshake is remembered where it succeeded.
            let missing = LlmError::Client { problem: "its handshake was lost".to_owned() };
            (endpoint.clone(), answer.and_then(|()| server.info().ok_or(missing)))
        });
        each.collect()
    }

    /// Checks that each server answers and has the model, without loading it.
    pub async fn inspect(&self) -> ServerAnswers<ServerSoftware> {
        let each =
            self.0.pool.clients().map(async |(endpoint, server)| (endpoint.clone(), server.inspect().await));
        futures_util::future::join_all(each).await
    }

    /// Looks for a language model that was not there at the start, every so often, and returns when one is there. Until
    /// then it is not [`Self::available`].
    pub async fn look_for(&self, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            let answers = self.probe().await;
            if let Some((endpoint, _)) = answers.iter().find(|(_, answer)| answer.is_ok()) {
                self.0.found.store(true, Ordering::Relaxed);
                tracing::info!("the LLM at {endpoint} is there now, and gives the codes");
                return;
            }
        }
    }

    /// Marks it as not there; to be followed by [`Self::look_for`].
    pub fn set_absent(&self) {
        self.0.found.store(false, Ordering::Relaxed);
    }

    /// Whether it is to be asked at all: false when there was none at the start and it is still looked for. True also
    /// while all servers rest, because that is a failure.
    pub fn available(&self) -> bool {
        self.0.found.load(Ordering::Relaxed)
    }

    /// Whether the answer for a text is known, so that [`Self::classify`] makes no call.
    pub async fn knows(&self, text: &str, wanted: Wanted) -> bool {
        self.0.known(Question { text, wanted }).await.is_some()
    }

    /// As [`Self::classify_as`], for a chunk that a client waits for.
    ///
    /// # Errors
    /// As [`Self::classify_as`].
    pub async fn classify(&self, text: &str, wanted: Wanted) -> Result<LlmAnswer, LlmError> {
        self.classify_as(CallPriority::Ingest, CacheUse::Use, text, wanted).await
    }

    /// Asks for what is wanted of one text, unless the answer is known or the same is being asked. Waits for a server with
    /// room; after that it takes at most two timeouts and the pause between them.
    ///
    /// # Errors
    /// The error of the last attempt, or [`LlmError::BreakerOpen`] without a call.
    pub async fn classify_as(
        &self,
        priority: CallPriority,
        cache: CacheUse,
        text: &str,
        wanted: Wanted,
    ) -> Result<LlmAnswer, LlmError> {
        let asked = AnswerKey::of(&[&[wanted as u8, priority as u8, cache as u8], text.as_bytes()]);
        let start = || {
            let (inner, text) = (self.0.clone(), text.to_owned());
            async move { inner.answer(priority, cache, Question { text: &text, wanted }).await }
        };
        let (call, is_shared) = self.0.flights.join(asked, start);
        if is_shared {
            metrics::llm_answer_shared();
        }
        call.await
    }

    /// The slots of all servers together: the most calls in flight.
    pub fn slots(&self) -> usize {
        self.servers().iter().map(|server| server.status.slots).sum()
    }

    /// The model, as the servers name it.
    pub fn model(&self) -> &Arc<str> {
        &self.0.model
    }

    /// The base addresses of the servers, for sentences.
    pub fn endpoint(&self) -> &str {
        &self.0.endpoint
    }

    /// The state of each server, in the order of the configuration.
    pub fn servers(&self) -> Vec<LlmServerStatus> {
        let pool = &self.0.pool;
        let each = pool.servers().into_iter().zip(pool.clients());
        each.map(|(status, (_, server))| LlmServerStatus { status, info: server.info() }).collect()
    }

    /// Whether the last call to one of the servers succeeded.
    pub fn is_healthy(&self) -> bool {
        self.servers().iter().any(|server| server.status.standing == Standing::Ready)
    }

    /// Whether no server is used: all rest after failures, or are left out.
    pub fn is_resting(&self) -> bool {
        !self.0.pool.is_usable()
    }
}
