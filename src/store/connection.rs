//! Connections: where they live, how they are made, and when one is used again.
//!
//! A connection is moved by a task on the runtime that opened it, and is dead or stalls with that runtime. So all
//! of them are opened on one small runtime of their own, on a thread that lives as long as the store and does
//! nothing else. Queries may be polled from any runtime.

use super::error::StoreError;
use super::sqlstate_sniffer::{LastError, Wire};
use super::{Dsn, POOL_WAIT};
use deadpool::managed::{self, Manager, Metrics, Object, PoolError, RecycleError, RecycleResult, Timeouts};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::NoTls;

/// How long one attempt to connect may take; a server that recovers refuses at once.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// How long the look whether a connection still lives may take.
const RECYCLE_WITHIN: Duration = Duration::from_secs(5);

/// Every statement here finds its rows by key or goes along an index, so the plan made while a table was small has
/// to be the one for a large table: scans, sorts of whole tables and joins that need them are no choice, and one
/// generic plan serves all batches. A frozen service must not hold the clock for ever.
const SESSION: &str = "
    SET synchronous_commit = on;
    SET plan_cache_mode = force_generic_plan;
    SET enable_seqscan = off;
    SET enable_bitmapscan = off;
    SET enable_mergejoin = off;
    SET enable_hashjoin = off;
    SET jit = off;
    SET idle_in_transaction_session_timeout = '60s';";

/// One connection, and the errors that passed through it.
pub(super) struct Connection {
    conn: AsyncPgConnection,
    errors: Arc<LastError>,
    /// From the first statement of a piece of work to its end. A connection that is dropped in between (the
    /// caller was cancelled) may be inside a transaction and is never used again.
    at_work: bool,
}

impl Connection {
    /// For the next statement. Follow it with [`Self::done`] or [`Self::failed`].
    pub fn conn(&mut self) -> &mut AsyncPgConnection {
        self.at_work = true;
        self.errors.take();
        &mut self.conn
    }

    /// The work is over, in a transaction: committed or rolled back.
    pub fn done<T>(&mut self, result: diesel::QueryResult<T>) -> Result<T, StoreError> {
        let result = self.checked(result);
        self.at_work = false;
        result
    }

    /// A step of a transaction is over; the work goes on.
    pub fn checked<T>(&self, result: diesel::QueryResult<T>) -> Result<T, StoreError> {
        result.map_err(|error| StoreError::from_diesel(&error, self.errors.take()))
    }

    /// Ends a transaction that failed, so that the connection can be used again.
    pub async fn roll_back(&mut self) {
        self.at_work = self.conn.batch_execute("ROLLBACK").await.is_err();
    }

    pub fn into_conn(self) -> AsyncPgConnection {
        self.conn
    }
}

/// A connection on loan.
pub(super) type PooledConnection = Object<Connector>;

/// The pool and the thread behind it.
pub(super) struct Pool {
    pool: managed::Pool<Connector>,
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

impl Pool {
    /// Starts the thread; connects to nothing yet.
    pub fn new(dsn: Dsn, size: usize) -> Result<Pool, StoreError> {
        let thread_error = |e: std::io::Error| StoreError::Thread { problem: e.to_string() };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(thread_error)?;
        let handle = runtime.handle().clone();
        // Nothing is ever sent: the channel closes when the connector and the last connection are gone.
        let (alive, mut all_gone) = mpsc::channel(1);
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("lnsp-store".into())
            .spawn(move || {
                runtime.block_on(async { while all_gone.recv().await.is_some() {} });
                drop(end);
            })
            .map_err(thread_error)?;
        let connector = Connector { dsn, handle, alive: Mutex::new(Some(alive)) };
        let timeouts =
            Timeouts { wait: Some(POOL_WAIT), create: Some(CONNECT_WITHIN), recycle: Some(RECYCLE_WITHIN) };
        let pool = managed::Pool::builder(connector)
            .max_size(size.max(1))
            .timeouts(timeouts)
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .map_err(|e| StoreError::Thread { problem: e.to_string() })?;
        Ok(Pool { pool, ended: Mutex::new(Some(ended)) })
    }

    /// A connection from the pool, seen alive just now.
    pub async fn get(&self) -> Result<PooledConnection, StoreError> {
        self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => error,
            PoolError::Closed => StoreError::Closed,
            _ => StoreError::NoConnection { seconds: POOL_WAIT.as_secs() },
        })
    }

    /// A connection outside of the pool, on the same thread.
    pub async fn dial(&self) -> Result<Connection, StoreError> {
        self.pool.manager().create().await
    }

    /// Where the connections live.
    pub fn runtime(&self) -> &Handle {
        &self.pool.manager().handle
    }

    /// Ends all idle connections, refuses new loans, and waits for the loans to come back, 5 s at most.
    pub async fn close(&self) {
        self.pool.close();
        drop(self.pool.manager().alive.lock().unwrap_or_else(PoisonError::into_inner).take());
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(ended) = ended
            && tokio::time::timeout(Duration::from_secs(5), ended).await.is_err()
        {
            tracing::warn!("a database connection is still in use");
        }
    }
}

/// Opens connections on the thread of the store.
pub(super) struct Connector {
    dsn: Dsn,
    handle: Handle,
    /// Taken when the store is closed. Each connection holds a copy until it has said goodbye to the server.
    alive: Mutex<Option<mpsc::Sender<()>>>,
}

impl Manager for Connector {
    type Type = Connection;
    type Error = StoreError;

    async fn create(&self) -> Result<Connection, StoreError> {
        let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let alive = alive.ok_or(StoreError::Closed)?;
        let opening = self.handle.spawn(open(self.dsn.clone(), alive));
        opening.await.unwrap_or(Err(StoreError::Closed))
    }

    async fn recycle(&self, link: &mut Connection, _: &Metrics) -> RecycleResult<StoreError> {
        if link.at_work {
            return Err(RecycleError::message("left in the middle of its work"));
        }
        // Some twenty microseconds, and a killed backend is noticed here and not in a batch.
        let alive = diesel::select(diesel::dsl::sql::<diesel::sql_types::Integer>("1"));
        let answer = alive.get_result::<i32>(link.conn()).await;
        link.done(answer).map(|_| ()).map_err(RecycleError::Backend)
    }
}

async fn open(dsn: Dsn, alive: mpsc::Sender<()>) -> Result<Connection, StoreError> {
    let refused = |state, problem: String| StoreError::Connect { to: dsn.to_string(), state, problem };
    let errors = Arc::new(LastError::default());
    let within = dsn.config().get_connect_timeout().copied().unwrap_or(CONNECT_WITHIN);
    let wire = match tokio::time::timeout(within, Wire::open(dsn.config(), Arc::clone(&errors))).await {
        Ok(wire) => wire.map_err(|error| refused(None, error.to_string()))?,
        Err(_) => return Err(refused(None, "it does not answer".to_owned())),
    };
    let (client, connection) = dsn.config().connect_raw(wire, NoTls).await.map_err(|error| {
        let answer = error.as_db_error().map(|answer| answer.message().to_owned());
        refused(errors.take(), answer.unwrap_or_else(|| error.to_string()))
    })?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a database connection ended");
        }
        drop(alive);
    });
    let mut conn = AsyncPgConnection::try_from(client)
        .await
        .map_err(|error| refused(errors.take(), error.to_string()))?;
    let prepared = conn.batch_execute(SESSION).await;
    let mut link = Connection { conn, errors, at_work: false };
    link.done(prepared)?;
    Ok(link)
}
