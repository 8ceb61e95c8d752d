//! Embedding servers instead of a local model.
//!
//! [`Remote`] is a pool of servers that have the same model: that of the store, else that of the first server that
//! answers at the start. A server with another one is left out. Transient errors (no connection, time-out, 429, 5xx) go
//! to another server at once, or are retried with exponential backoff. After an error that a text may cause, the server
//! is asked for a vector that it has computed before: if it fails too, the server is the cause. Searches have their own
//! slots and do not wait for requests of ingest.

use super::error::{FailedPass, Suspect, VectorError};
use super::remote_error::RemoteError;
use super::remote_server::{RemoteClient, RemoteFacts, RemoteServer};
use crate::encoder::Vector;
use crate::endpoint::EndpointList;
use crate::flow::{Backoff, Verdict, retry};
use crate::metrics;
use crate::model::ModelIdentity;
use crate::output::throttled;
use crate::server_pool::{
    CallError, CallPolicy, Member, Pauses, PoolSettings, ServerPool, ServerStatus, Turn,
};
use crate::threads::Lane;
use crate::threads::lock;
use futures_util::future::join_all;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Failures older than this are not reported by `/health`.
const FAILURE_MEMORY: Duration = Duration::from_secs(30);

/// Which embedding servers are called, and the limits of the calls.
#[derive(Debug, Clone)]
pub struct RemoteSettings {
    /// The servers, with their slots.
    pub servers: EndpointList,
    /// The time limit of one request, from sending it to the end of the response.
    pub timeout: Duration,
    /// The most concurrent requests of ingest to a server that the list gives no slots; searches may have as many again.
    pub calls: usize,
    /// The most retries of a request after transient errors.
    pub repeats: u32,
    /// The pauses between retries.
    pub backoff: Backoff,
    /// The model of the store: servers that have it are preferred to those that do not.
    pub stored: Option<ModelIdentity>,
}

impl RemoteSettings {
    /// The slots of a server that the list gives none: enough to keep it busy.
    pub const SLOTS: usize = 4;

    /// The defaults: [`Self::SLOTS`], 30 s for a request, 6 retries over about twelve seconds, in which a server can
    /// restart.
    pub fn at(servers: EndpointList) -> RemoteSettings {
        let backoff = Backoff { first: Duration::from_millis(250), ceiling: Duration::from_secs(4) };
        let timeout = Duration::from_secs(30);
        RemoteSettings { servers, timeout, calls: Self::SLOTS, repeats: 6, backoff, stored: None }
    }
}

/// Embedding servers whose identity is known; cheap to clone.
#[derive(Clone)]
pub struct Remote(Arc<RemoteInner>);

struct RemoteInner {
    settings: RemoteSettings,
    name: Arc<str>,
    facts: Arc<RemoteFacts>,
    pool: ServerPool<RemoteServer>,
    /// The last failure since the last success, as a sentence, and when it happened.
    failure: Mutex<Option<(String, Instant)>>,
}

/// What each server said of itself.
type FactsOfAll = Vec<Result<RemoteFacts, RemoteError>>;

impl Remote {
    /// Asks each server for its identity and one vector. It goes on as soon as one has answered; the others are left
    /// out for now.
    ///
    /// # Errors
    /// [`VectorError::Server`] if no server can be reached, has a response with encoder and dimension, and gives a
    /// vector of that dimension.
    pub async fn connect(settings: RemoteSettings) -> Result<Remote, VectorError> {
        let mut clients = Vec::new();
        for (endpoint, slots) in settings.servers.with_slots(settings.calls) {
            let client = RemoteClient::new(endpoint, slots, settings.timeout)
                .map_err(|error| VectorError::Server { endpoint: endpoint.to_string().into(), error })?;
            clients.push((client, slots));
        }
        let answers = ask_all(&clients, &settings).await?;
        let found = || answers.iter().flatten();
        let stored = found().find(|facts| settings.stored.as_ref() == Some(&facts.identity));
        let Some(facts) = stored.or_else(|| found().next()).cloned().map(Arc::new) else {
            // Not reached: an answer without any is an error.
            return Err(VectorError::Gone);
        };
        let fits = |answer: Result<RemoteFacts, RemoteError>| answer.and_then(|found| found.check(&facts));
        let results: Vec<Result<(), RemoteError>> = answers.into_iter().map(fits).collect();
        let member = |(client, slots): (RemoteClient, usize)| Member {
            endpoint: client.endpoint().to_string().into(),
            slots,
            client: RemoteServer { client, wanted: facts.clone() },
        };
        let pool = ServerPool::new(
            clients.into_iter().map(member).collect(),
            PoolSettings {
                what: "the embedding server",
                pauses: Pauses::default(),
                count_retry: metrics::embed_repeat,
                count_exhausted: metrics::embed_retries_exhausted,
            },
        );
        pool.settle(&results);
        let (name, failure) = (settings.servers.to_string().into(), Mutex::default());
        Ok(Remote(Arc::new(RemoteInner { settings, name, facts, pool, failure })))
    }

    /// The base addresses of the servers, as configured.
    pub fn endpoint(&self) -> &str {
        &self.0.name
    }

    /// The identity of their model. The fingerprint hashes the reported names, because the files are not available.
    pub fn identity(&self) -> &ModelIdentity {
        &self.0.facts.identity
    }

    /// The device that the first of them reports, or "unknown".
    pub fn device(&self) -> &str {
        &self.0.facts.device
    }

    /// The most concurrent requests of ingest: the slots of all servers.
    pub fn calls(&self) -> usize {
        self.0.settings.servers.total_slots(self.0.settings.calls)
    }

    /// The last failure within 30 s, unless a request has succeeded since. A request that another server answered has
    /// not failed.
    pub fn problem(&self) -> Option<String> {
        let failure = lock(&self.0.failure);
        failure.as_ref().filter(|(_, at)| at.elapsed() < FAILURE_MEMORY).map(|(problem, _)| problem.clone())
    }

    /// The state of each server, in the order of the configuration.
    pub fn servers(&self) -> Vec<ServerStatus> {
        self.0.pool.servers()
    }

    /// One request for the vectors of `texts`; returns them with the duration of the last attempt. Transient errors are
    /// retried if `whole`: not for a part of a pass that has failed.
    pub(super) async fn pass(
        &self,
        lane: Lane,
        texts: &[&str],
        whole: bool,
    ) -> Result<(Vec<Vector>, Duration), FailedPass> {
        let RemoteInner { settings, pool, .. } = &*self.0;
        let repeats = match lane {
            _ if !whole => 0,
            Lane::Bulk => settings.repeats,
            // A client waits and can repeat the search.
            Lane::Express => 1,
        };
        let policy = CallPolicy { repeats, backoff: settings.backoff, waits: true, turn: Turn::InOrder };
        let mut broken = Vec::new();
        loop {
            let asked = pool.call(lane, policy, &broken, |server, _| async move { server.ask(texts).await });
            let (endpoint, error) = match asked.await {
                Ok(vectors) => {
                    self.note(None);
                    return Ok(vectors);
                }
                Err(CallError::Server { endpoint, error }) => (endpoint, error),
                Err(CallError::NoServer) => (self.0.name.clone(), RemoteError::Resting),
            };
            if !error.may_be_a_text() {
                return Err(self.failed(endpoint, error, Suspect::Pass));
            }
            if !whole && texts.len() > 1 {
                return Err(FailedPass::new(VectorError::Server { endpoint, error }, Suspect::Texts));
            }
            // Whose fault it is shows in another text: before the halves, and before a text is rejected.
            let suspected = error.clone();
            let works =
                pool.call_at(lane, &endpoint, |server| async move { server.still_works(suspected).await });
            match works.await {
                Ok(()) => {
                    self.note(None);
                    return Err(FailedPass::new(VectorError::Server { endpoint, error }, Suspect::Texts));
                }
                Err(failed) => {
                    broken.push(endpoint.clone());
                    if pool.has_another(&broken) {
                        continue;
                    }
                    let error = match failed {
                        CallError::Server { error: RemoteError::Broken(error), .. } => *error,
                        CallError::Server { error, .. } => error,
                        CallError::NoServer => error,
                    };
                    return Err(self.failed(endpoint, error, Suspect::Server));
                }
            }
        }
    }

    fn failed(&self, endpoint: Arc<str>, error: RemoteError, suspect: Suspect) -> FailedPass {
        let error = VectorError::Server { endpoint, error };
        self.note(Some(&error));
        FailedPass::new(error, suspect)
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

/// Asks all servers at once for their identity until one has answered, or none is going to.
async fn ask_all(
    clients: &[(RemoteClient, usize)],
    settings: &RemoteSettings,
) -> Result<FactsOfAll, VectorError> {
    let mut repeats = settings.repeats;
    let classify = |answers: &FactsOfAll, before| {
        let waited =
            answers.iter().filter_map(|answer| answer.as_ref().err()).find(|error| error.is_transient());
        let Some(error) = waited.filter(|_| before < repeats) else { return Verdict::GiveUp };
        metrics::embed_repeat(error.kind());
        if matches!(error, RemoteError::Timeout { .. }) {
            repeats = before + 1;
        }
        Verdict::Retry
    };
    let ask = async || {
        let answers: FactsOfAll = join_all(clients.iter().map(|(client, _)| client.facts())).await;
        if answers.iter().any(Result::is_ok) { Ok(answers) } else { Err(answers) }
    };
    retry(settings.backoff, classify, ask).await.map_err(|answers| {
        let errors = clients.iter().zip(answers).filter_map(|((client, _), answer)| {
            Some(VectorError::Server { endpoint: client.endpoint().to_string().into(), error: answer.err()? })
        });
        errors.into_iter().next().unwrap_or(VectorError::Gone)
    })
}
