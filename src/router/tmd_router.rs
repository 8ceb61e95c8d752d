//! TMD routers as a source of codes: the service that this one replaces, or another one of this kind.

use super::client::{RouterClient, RouterSettings};
use super::error::RouterError;
use crate::flow::Backoff;
use crate::metrics;
use crate::server_pool::{
    CallError, CallPolicy, Member, Pauses, PoolSettings, ServerPool, ServerStatus, Turn,
};
use crate::threads::Lane;
use crate::tmd::Tmd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A call is repeated once, at once by another router, after a pause by the same one.
const RETRY: CallPolicy = CallPolicy {
    repeats: 1,
    backoff: Backoff { first: Duration::from_millis(250), ceiling: Duration::from_millis(250) },
    waits: false,
    turn: Turn::InOrder,
};

/// The codes of a text, from a router.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RoutedCodes {
    /// The codes, each within its axis.
    pub tmd: Tmd,
    /// The time of the call, without the wait for a router with room.
    pub took: Duration,
}

/// A handle to the routers; cheap to clone.
#[derive(Clone)]
pub struct TmdRouter {
    pool: ServerPool<RouterClient>,
    endpoint: Arc<str>,
    name: Arc<str>,
}

impl TmdRouter {
    /// A handle to routers, at least one. It makes no call.
    ///
    /// # Errors
    /// [`RouterError::Client`] when an HTTP client cannot be built.
    pub fn new(servers: &[RouterSettings]) -> Result<TmdRouter, RouterError> {
        let member = |settings: &RouterSettings| {
            let endpoint = settings.endpoint.to_string().into();
            Ok(Member { endpoint, slots: settings.calls, client: RouterClient::new(settings)? })
        };
        let members = servers.iter().map(member).collect::<Result<Vec<_>, RouterError>>()?;
        let join = |each: Vec<String>| Arc::<str>::from(each.join(", "));
        let endpoint = join(servers.iter().map(|server| server.endpoint.to_string()).collect());
        let names = join(servers.iter().map(|server| server.endpoint.name().to_owned()).collect());
        let settings = PoolSettings {
            what: "the TMD router",
            pauses: Pauses::default(),
            count_retry: metrics::llm_retry,
            count_exhausted: metrics::llm_retries_exhausted,
        };
        let pool = ServerPool::new(members, settings);
        Ok(TmdRouter { pool, endpoint, name: format!("router:{names}").into() })
    }

    /// Asks each router whether it is there. Those that are not are left out for now, as long as one is.
    pub async fn probe(&self) -> Vec<(Arc<str>, Result<(), RouterError>)> {
        let answers = self.pool.probe_all().await;
        self.pool.clients().map(|(endpoint, _)| endpoint.clone()).zip(answers).collect()
    }

    /// The codes of a text. Waits for a router with room.
    ///
    /// # Errors
    /// The error of the last attempt, or [`RouterError::Resting`] without a call.
    pub async fn extract(&self, text: &str) -> Result<RoutedCodes, RouterError> {
        let mut started = None;
        let asked = self.pool.call(Lane::Bulk, RETRY, &[], |router, _| {
            started.get_or_insert_with(Instant::now);
            async move { router.extract(text).await }
        });
        match asked.await {
            Ok(tmd) => {
                let took = started.map_or(Duration::ZERO, |started: Instant| started.elapsed());
                Ok(RoutedCodes { tmd, took })
            }
            Err(CallError::Server { error, .. }) => Err(error),
            Err(CallError::NoServer) => Err(RouterError::Resting),
        }
    }

    /// The base addresses of the routers, for sentences.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The name of the routers in stored rows, in the place of that of a model: `router:localhost:8002`.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The state of each router.
    pub fn servers(&self) -> Vec<ServerStatus> {
        self.pool.servers()
    }

    /// Whether no router is used: all rest after failures, or are left out.
    pub fn is_resting(&self) -> bool {
        !self.pool.is_usable()
    }
}
