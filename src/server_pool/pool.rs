//! [`ServerPool`]: takes a call to a server that has room, and notes what becomes of it.

use super::breaker::{Effect, Pauses, Standing};
use super::dispatch::{Dispatch, Grant, Turn};
use super::status::ServerStatus;
use crate::threads::{Lane, lock};
use futures_util::future::{BoxFuture, join_all};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// After a logged failure of a server, its failures within this time are only counted.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// What an error says about the server and about another attempt. Its message follows "the LLM at ...".
pub trait ServerFault: fmt::Display + Send + Sync + 'static {
    /// What it says about the server.
    fn effect(&self) -> Effect;
    /// Whether the same server may be asked the same once more.
    fn again(&self) -> Repeatable;
    /// Its name in metrics, from a closed set.
    fn kind(&self) -> &'static str;
    /// The pause that the server asked for.
    fn retry_after(&self) -> Option<Duration> {
        None
    }
}

/// Whether the same server may be asked the same again after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeatable {
    /// It would fail in the same way.
    Never,
    /// Once: more would only add load to a slow server.
    Once,
    /// As often as the policy allows.
    Often,
}

/// The client of one server.
pub trait PooledClient: Send + Sync + 'static {
    /// Why a call fails.
    type Error: ServerFault;

    /// Finds out whether the server can be used now.
    fn probe(&self) -> BoxFuture<'_, Result<(), Self::Error>>;
}

/// One server of a pool.
pub struct Member<C> {
    /// The base address, for sentences.
    pub endpoint: Arc<str>,
    /// The requests that it takes at once.
    pub slots: usize,
    /// The client of this server.
    pub client: C,
}

/// What pools differ in.
#[derive(Debug, Clone, Copy)]
pub struct PoolSettings {
    /// What the servers are, for sentences that go on "at ...": "the LLM".
    pub what: &'static str,
    /// The pauses between probes.
    pub pauses: Pauses,
    /// Counts a repeated call by the kind of its error.
    pub count_retry: fn(&'static str),
    /// Counts a call that was not repeated because the budget of retries is exhausted.
    pub count_exhausted: fn(),
}

/// No server is used at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoServer;

/// Servers that do the same work; cheap to clone.
pub struct ServerPool<C>(Arc<PoolInner<C>>);

struct PoolInner<C> {
    settings: PoolSettings,
    members: Vec<MemberState<C>>,
    dispatch: Mutex<Dispatch>,
    tasks: AtomicU64,
}

struct MemberState<C> {
    endpoint: Arc<str>,
    client: Arc<C>,
    log: Mutex<LogRate>,
}

#[derive(Default)]
struct LogRate {
    logged: Option<Instant>,
    unlogged: u64,
}

impl<C> Clone for ServerPool<C> {
    fn clone(&self) -> Self {
        ServerPool(self.0.clone())
    }
}

impl<C: PooledClient> ServerPool<C> {
    /// A pool of these servers, at least one. It makes no call.
    pub fn new(members: Vec<Member<C>>, settings: PoolSettings) -> ServerPool<C> {
        let slots: Vec<usize> = members.iter().map(|member| member.slots).collect();
        let place = |Member { endpoint, client, .. }: Member<C>| MemberState {
            endpoint,
            client: Arc::new(client),
            log: Mutex::default(),
        };
        let dispatch = Dispatch::new(&slots, settings.pauses, Instant::now());
        ServerPool(Arc::new(PoolInner {
            settings,
            members: members.into_iter().map(place).collect(),
            dispatch: Mutex::new(dispatch),
            tasks: AtomicU64::default(),
        }))
    }

    pub(super) fn settings(&self) -> &PoolSettings {
        &self.0.settings
    }

    pub(super) fn dispatch(&self) -> MutexGuard<'_, Dispatch> {
        lock(&self.0.dispatch)
    }

    /// The clients with their addresses, in the order of the list.
    pub fn clients(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<C>)> {
        self.0.members.iter().map(|place| (&place.endpoint, &place.client))
    }

    /// Whether calls are made to any server.
    pub fn is_usable(&self) -> bool {
        self.dispatch().is_usable()
    }

    /// Whether calls are made to a server that is not among `others`.
    pub fn has_another(&self, others: &[Arc<str>]) -> bool {
        self.dispatch().has_another(&self.places(others))
    }

    /// The places of these servers in the list.
    pub(super) fn places(&self, endpoints: &[Arc<str>]) -> Vec<usize> {
        let found = self.clients().enumerate().filter(|(_, (endpoint, _))| endpoints.contains(endpoint));
        found.map(|(place, _)| place).collect()
    }

    /// The state of each server, in the order of the list.
    pub fn servers(&self) -> Vec<ServerStatus> {
        let dispatch = self.dispatch();
        let each = self.0.members.iter().zip(&dispatch.servers);
        each.map(|(place, state)| ServerStatus::of(place.endpoint.clone(), state)).collect()
    }

    /// Probes all servers at once, each as at the start: those that fail are left out for now, as long as others can be
    /// used.
    pub async fn probe_all(&self) -> Vec<Result<(), C::Error>> {
        let probes = self.clients().map(|(_, client)| client.probe());
        let results = join_all(probes).await;
        self.settle(&results);
        results
    }

    /// Notes the results of probes of all servers, in their order.
    pub fn settle(&self, results: &[Result<(), C::Error>]) {
        // Those that can be used first: a failure is judged by whether there are others.
        for (place, result) in results.iter().enumerate().filter(|(_, result)| result.is_ok()) {
            self.note_probe(place, result.as_ref().err());
        }
        for (place, result) in results.iter().enumerate().filter(|(_, result)| result.is_err()) {
            if let Some(pause) = self.note_probe(place, result.as_ref().err()) {
                self.probe_after(place, pause);
            }
        }
    }

    fn note_probe(&self, place: usize, error: Option<&C::Error>) -> Option<Duration> {
        let sentence = error.map(|error| self.sentence(place, error));
        let mut dispatch = self.dispatch();
        let before = dispatch.servers[place].breaker.standing();
        let pause = dispatch.on_probe(place, error.map(ServerFault::effect));
        let after = dispatch.servers[place].breaker.standing();
        if let Some(sentence) = sentence {
            if after == Standing::LeftOut && before != Standing::LeftOut {
                tracing::warn!("{sentence}; it is left out, and asked again every minute");
            }
            dispatch.servers[place].last_failure = Some((sentence, Instant::now()));
        }
        pause
    }

    fn sentence(&self, place: usize, error: &C::Error) -> String {
        format!("{} at {} {error}", self.0.settings.what, self.0.members[place].endpoint)
    }

    /// Waits in line for a server with room; those in `avoid` are taken only where no other is used.
    ///
    /// # Errors
    /// [`NoServer`] while all servers rest or are left out.
    pub(super) async fn acquire(
        &self,
        lane: Lane,
        turn: Turn,
        avoid: &[usize],
    ) -> Result<Lease<C>, NoServer> {
        self.mend_probes();
        let mut waiting = {
            let mut dispatch = self.dispatch();
            if !dispatch.is_usable() {
                return Err(NoServer);
            }
            if let Some(grant) = dispatch.grant_at_once(lane, turn, avoid) {
                return Ok(self.lease(grant));
            }
            let receiver = dispatch.wait(lane, turn, avoid);
            WaitGuard { pool: self, receiver }
        };
        (&mut waiting.receiver).await.map(|grant| self.lease(grant)).map_err(|_| NoServer)
    }

    fn lease(&self, grant: Grant) -> Lease<C> {
        Lease { pool: self.clone(), grant: Some(grant), started: Instant::now() }
    }

    /// A probing task ends with the runtime that it was spawned on; then another one takes its place.
    fn mend_probes(&self) {
        let lost: Vec<usize> = {
            let dispatch = self.dispatch();
            let lost = |state: &super::dispatch::ServerRecord| {
                !state.breaker.standing().is_usable() && state.probing.is_none()
            };
            (0..dispatch.servers.len()).filter(|place| lost(&dispatch.servers[*place])).collect()
        };
        for place in lost {
            self.probe_after(place, self.0.settings.pauses.unreachable.first);
        }
    }

    /// Probes a server in the background, after the pause and again, until it can be used.
    fn probe_after(&self, place: usize, pause: Duration) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let task = self.0.tasks.fetch_add(1, Ordering::Relaxed);
        self.dispatch().servers[place].probing = Some(task);
        let watch = ProbeTask { pool: Arc::downgrade(&self.0), place, task };
        runtime.spawn(watch.run(pause));
    }

    fn note_failure(&self, grant: &Grant, took: Duration, error: &C::Error) {
        let (place, now) = (grant.server, Instant::now());
        let sentence = self.sentence(place, error);
        let (pause, standing, failures) = {
            let mut dispatch = self.dispatch();
            dispatch.servers[place].last_failure = Some((sentence.clone(), now));
            let pause = dispatch.on_failure(grant, took, error.effect());
            let breaker = &dispatch.servers[place].breaker;
            (pause, breaker.standing(), breaker.failures())
        };
        let mut log = lock(&self.0.members[place].log);
        if let Some(pause) = pause {
            let what = match standing {
                Standing::LeftOut => "it is left out",
                _ => "no calls are made for a while",
            };
            tracing::warn!(failures, pause_s = pause.as_secs_f64(), "{sentence}; {what}");
        } else if standing.is_usable() && log.logged.is_none_or(|logged| now - logged >= LOG_INTERVAL) {
            match log.unlogged {
                0 => tracing::warn!("{sentence}"),
                more => tracing::warn!(more, "{sentence}"),
            }
            *log = LogRate { logged: Some(now), unlogged: 0 };
        } else {
            log.unlogged += 1;
        }
        drop(log);
        if let Some(pause) = pause {
            self.probe_after(place, pause);
        }
    }
}

/// A call in line. When it is dropped, a grant that came too late goes back.
struct WaitGuard<'a, C: PooledClient> {
    pool: &'a ServerPool<C>,
    receiver: oneshot::Receiver<Grant>,
}

impl<C: PooledClient> Drop for WaitGuard<'_, C> {
    fn drop(&mut self) {
        self.receiver.close();
        if let Ok(grant) = self.receiver.try_recv() {
            self.pool.dispatch().on_abandoned(&grant);
        }
    }
}

/// Permission for one call. Dropped without a report, the call counts as given up.
pub(super) struct Lease<C: PooledClient> {
    pool: ServerPool<C>,
    grant: Option<Grant>,
    started: Instant,
}

impl<C: PooledClient> Lease<C> {
    /// The place of the server in the list.
    pub fn server(&self) -> usize {
        self.grant.as_ref().map_or(0, |grant| grant.server)
    }

    /// The client of the server.
    pub fn client(&self) -> Arc<C> {
        self.pool.0.members[self.server()].client.clone()
    }

    /// The address of the server.
    pub fn endpoint(&self) -> Arc<str> {
        self.pool.0.members[self.server()].endpoint.clone()
    }

    /// Reports that the call was answered.
    pub fn succeed(mut self) {
        let Some(grant) = self.grant.take() else { return };
        if self.pool.dispatch().on_success(&grant, self.started.elapsed()) {
            let ServerPool(inner) = &self.pool;
            tracing::info!(
                "{} at {} answers again",
                inner.settings.what,
                inner.members[grant.server].endpoint
            );
        }
    }

    /// Reports that the call failed.
    pub fn fail(mut self, error: &C::Error) {
        if let Some(grant) = self.grant.take() {
            self.pool.note_failure(&grant, self.started.elapsed(), error);
        }
    }
}

impl<C: PooledClient> Drop for Lease<C> {
    fn drop(&mut self) {
        if let Some(grant) = self.grant.take() {
            self.pool.dispatch().on_abandoned(&grant);
        }
    }
}

/// Probes one server until it can be used.
struct ProbeTask<C: PooledClient> {
    pool: Weak<PoolInner<C>>,
    place: usize,
    task: u64,
}

impl<C: PooledClient> ProbeTask<C> {
    async fn run(self, mut pause: Duration) {
        loop {
            tokio::time::sleep(pause).await;
            let Some(client) = self.pool.upgrade().map(|inner| inner.members[self.place].client.clone())
            else {
                return;
            };
            let result = client.probe().await;
            let Some(pool) = self.pool.upgrade().map(ServerPool) else { return };
            match pool.note_probe(self.place, result.as_ref().err()) {
                Some(next) => pause = next,
                None => return,
            }
        }
    }
}

impl<C: PooledClient> Drop for ProbeTask<C> {
    fn drop(&mut self) {
        if let Some(inner) = self.pool.upgrade() {
            let probing = &mut lock(&inner.dispatch).servers[self.place].probing;
            if *probing == Some(self.task) {
                *probing = None;
            }
        }
    }
}

#[cfg(test)]
mod tests;
