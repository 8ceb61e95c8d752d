//! One call through a pool: to the freest server, to another one at once when it fails, and to the same one again, after
//! a pause, only where there is no other.

use super::breaker::Effect;
use super::dispatch::Turn;
use super::pool::{Lease, NoServer, PooledClient, Repeatable, ServerFault, ServerPool};
use super::retry_budget::with_jitter;
use crate::flow::Backoff;
use crate::threads::Lane;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The largest pause that a server can ask for; a larger one is reduced to it.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(15);

/// How often a call is repeated.
#[derive(Debug, Clone, Copy)]
pub struct CallPolicy {
    /// The most repetitions, by any server. A server that could not be reached, or has not the model, has done no work:
    /// going on from it to the next one does not count.
    pub repeats: u32,
    /// The pauses before the same server is asked again.
    pub backoff: Backoff,
    /// While no server is used, waits for one as long as the repetitions take, instead of failing at once.
    pub waits: bool,
    /// When it is served, if there is no room.
    pub turn: Turn,
}

/// Why a call has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError<E> {
    /// All servers rest or are left out; none was asked.
    NoServer,
    /// The last attempt failed.
    Server {
        /// The address of the server.
        endpoint: Arc<str>,
        /// The error of that attempt.
        error: E,
    },
}

/// What follows a failed attempt.
enum Next {
    /// Another server, at once.
    Elsewhere,
    /// Any server, after a pause.
    After(Duration),
    GiveUp,
}

/// The attempts of one call.
struct Attempts {
    policy: CallPolicy,
    tried: Vec<usize>,
    repeats: u32,
    slow: u32,
}

impl<C: PooledClient> ServerPool<C> {
    /// Calls `ask` with the client of a server and the number of earlier attempts, until it succeeds or is not to be
    /// repeated. Waits in line for a server with room. The servers `failed` are asked only where no other is used.
    ///
    /// # Errors
    /// [`CallError`] with the error of the last attempt.
    pub async fn call<T, F>(
        &self,
        lane: Lane,
        policy: CallPolicy,
        failed: &[Arc<str>],
        mut ask: impl FnMut(Arc<C>, u32) -> F,
    ) -> Result<T, CallError<C::Error>>
    where
        F: Future<Output = Result<T, C::Error>>,
    {
        let mut attempts = Attempts { policy, tried: self.places(failed), repeats: 0, slow: 0 };
        let (mut count, mut last) = (0, CallError::NoServer);
        loop {
            let Ok(lease) = self.acquire(lane, policy.turn, &attempts.tried).await else {
                match attempts.without_server() {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return Err(last),
                }
                continue;
            };
            if count == 0 {
                self.dispatch().budget.on_call();
            }
            let (server, endpoint) = (lease.server(), lease.endpoint());
            let error = match ask(lease.client(), count).await {
                Ok(value) => {
                    lease.succeed();
                    return Ok(value);
                }
                Err(error) => error,
            };
            lease.fail(&error);
            count += 1;
            let next = attempts.after(self, server, &error);
            let kind = error.kind();
            last = CallError::Server { endpoint, error };
            match next {
                Next::GiveUp => return Err(last),
                Next::Elsewhere => (self.settings().count_retry)(kind),
                Next::After(pause) => {
                    (self.settings().count_retry)(kind);
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Asks the server at `endpoint` once, or another one where it is not used, without repetition.
    ///
    /// # Errors
    /// [`CallError`] with the error of the attempt.
    pub async fn call_at<T, F>(
        &self,
        lane: Lane,
        endpoint: &str,
        ask: impl FnOnce(Arc<C>) -> F,
    ) -> Result<T, CallError<C::Error>>
    where
        F: Future<Output = Result<T, C::Error>>,
    {
        let others = self.clients().map(|(other, _)| other.clone()).filter(|other| **other != *endpoint);
        let others = self.places(&others.collect::<Vec<_>>());
        let lease: Lease<C> =
            self.acquire(lane, Turn::InOrder, &others).await.map_err(|NoServer| CallError::NoServer)?;
        let endpoint = lease.endpoint();
        match ask(lease.client()).await {
            Ok(value) => {
                lease.succeed();
                Ok(value)
            }
            Err(error) => {
                lease.fail(&error);
                Err(CallError::Server { endpoint, error })
            }
        }
    }
}

impl Attempts {
    /// The pause until a server is looked for again, if it is waited for.
    fn without_server(&mut self) -> Option<Duration> {
        if !self.policy.waits || self.repeats >= self.policy.repeats {
            return None;
        }
        self.tried.clear();
        Some(self.pause())
    }

    fn pause(&mut self) -> Duration {
        let pause = with_jitter(self.policy.backoff.pause(self.repeats));
        self.repeats += 1;
        pause
    }

    fn after<C: PooledClient>(&mut self, pool: &ServerPool<C>, server: usize, error: &C::Error) -> Next {
        let (effect, again) = (error.effect(), error.again());
        self.slow += u32::from(again == Repeatable::Once);
        if (effect == Effect::Request && again == Repeatable::Never) || self.slow > 1 {
            return Next::GiveUp;
        }
        self.tried.push(server);
        let idle = matches!(effect, Effect::Unreachable | Effect::Unfit);
        let mut dispatch = pool.dispatch();
        let elsewhere = dispatch.has_another(&self.tried);
        if elsewhere && idle {
            return Next::Elsewhere;
        }
        if self.repeats >= self.policy.repeats || (!elsewhere && again == Repeatable::Never) {
            return Next::GiveUp;
        }
        // A server that cannot be reached gets no load from a retry.
        if effect != Effect::Unreachable && !dispatch.budget.try_take(Instant::now()) {
            drop(dispatch);
            (pool.settings().count_exhausted)();
            return Next::GiveUp;
        }
        drop(dispatch);
        if elsewhere {
            self.repeats += 1;
            return Next::Elsewhere;
        }
        self.tried.clear();
        Next::After(self.pause().max(error.retry_after().unwrap_or_default().min(MAX_RETRY_AFTER)))
    }
}
