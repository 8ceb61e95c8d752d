//! The connection pool: where connections run, how they are opened, and when one is reused.
//!
//! A connection is driven by a task on the runtime that opened it, and stalls or ends with that runtime. So all
//! connections are opened on one single-threaded runtime, on a thread of its own that lives as long as the store.
//! Queries may be polled from any runtime.

use super::dsn::Dsn;
use super::error::StoreError;
use super::sqlstate_sniffer::{LastError, SniffedStream};
use crate::threads::lock;
use deadpool::managed::{self, Manager, Metrics, Object, PoolError, RecycleError, RecycleResult, Timeouts};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::NoTls;

/// How long a call waits for a free connection before it fails. Shorter than any deadline of a chunk.
const POOL_WAIT: Duration = Duration::from_secs(10);
/// The timeout of one attempt to connect. A server in recovery refuses at once.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// The timeout of the check that a pooled connection still works.
const RECYCLE_WITHIN: Duration = Duration::from_secs(5);

/// Every statement of the store finds its rows by key or along an index. A plan made while a table is small must also
/// suit a large table, so sequential scans and the joins that need them are off, and one generic plan serves all
/// batches. The idle timeout keeps a frozen service from holding the lock of the clock for ever.
const SESSION: &str = "
    SET synchronous_commit = on;
    SET plan_cache_mode = force_generic_plan;
    SET enable_seqscan = off;
    SET enable_bitmapscan = off;
    SET enable_mergejoin = off;
    SET enable_hashjoin = off;
    SET jit = off;
    SET idle_in_transaction_session_timeout = '60s';";

/// One connection, with the last error the server reported on it.
pub(super) struct Connection {
    conn: AsyncPgConnection,
    errors: Arc<LastError>,
    /// True from the first statement of a call to its end. A connection that is dropped in between (the caller was
    /// cancelled) may be inside a transaction and is never reused.
    busy: bool,
}

impl Connection {
    /// The diesel connection, for the next statement. Pass the result to [`Self::done`] or [`Self::checked`].
    pub fn conn(&mut self) -> &mut AsyncPgConnection {
        self.busy = true;
        self.errors.take();
        &mut self.conn
    }

    /// Ends the call: outside a transaction, or after its commit or rollback.
    pub fn done<T>(&mut self, result: diesel::QueryResult<T>) -> Result<T, StoreError> {
        let result = self.checked(result);
        self.busy = false;
        result
    }

    /// Checks one step of a transaction; the call goes on.
    pub fn checked<T>(&self, result: diesel::QueryResult<T>) -> Result<T, StoreError> {
        result.map_err(|error| StoreError::from_diesel(&error, self.errors.take()))
    }

    /// Rolls a failed transaction back, so that the connection can be reused.
    pub async fn roll_back(&mut self) {
        self.busy = self.conn.batch_execute("ROLLBACK").await.is_err();
    }

    pub fn into_conn(self) -> AsyncPgConnection {
        self.conn
    }
}

/// A connection taken from the pool; returned on drop.
pub(super) type PooledConnection = Object<Connector>;

/// The pool and the thread that drives its connections.
pub(super) struct Pool {
    pool: managed::Pool<Connector>,
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

impl Pool {
    /// Starts the thread. Opens no connection yet.
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

    /// A connection from the pool, checked just before.
    pub async fn get(&self) -> Result<PooledConnection, StoreError> {
        self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => error,
            PoolError::Closed => StoreError::Closed,
            _ => StoreError::NoConnection { seconds: POOL_WAIT.as_secs() },
        })
    }

    /// Opens a connection outside of the pool, on the same thread.
    pub async fn connect(&self) -> Result<Connection, StoreError> {
        self.pool.manager().create().await
    }

    /// The runtime that drives the connections.
    pub fn runtime(&self) -> &Handle {
        &self.pool.manager().handle
    }

    /// Closes all idle connections, refuses new requests, and waits up to 5 s for the connections in use.
    pub async fn close(&self) {
        self.pool.close();
        drop(lock(&self.pool.manager().alive).take());
        let ended = lock(&self.ended).take();
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
    /// Taken when the store is closed. Each connection holds a clone until it has ended.
    alive: Mutex<Option<mpsc::Sender<()>>>,
}

impl Manager for Connector {
    type Type = Connection;
    type Error = StoreError;

    async fn create(&self) -> Result<Connection, StoreError> {
        let alive = lock(&self.alive).clone();
        let alive = alive.ok_or(StoreError::Closed)?;
        let opening = self.handle.spawn(open(self.dsn.clone(), alive));
        opening.await.unwrap_or(Err(StoreError::Closed))
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<StoreError> {
        if connection.busy {
            return Err(RecycleError::message("the call before was cancelled"));
        }
        // Takes about 20 us, and finds a killed backend before a batch does.
        let alive = diesel::select(diesel::dsl::sql::<diesel::sql_types::Integer>("1"));
        let answer = alive.get_result::<i32>(connection.conn()).await;
        connection.done(answer).map(|_| ()).map_err(RecycleError::Backend)
    }
}

async fn open(dsn: Dsn, alive: mpsc::Sender<()>) -> Result<Connection, StoreError> {
    let refused = |state, problem: String| StoreError::Connect { to: dsn.to_string(), state, problem };
    let errors = Arc::new(LastError::default());
    let within = dsn.config().get_connect_timeout().copied().unwrap_or(CONNECT_WITHIN);
    let wire =
        match tokio::time::timeout(within, SniffedStream::open(dsn.config(), Arc::clone(&errors))).await {
            Ok(wire) => wire.map_err(|error| refused(None, error.to_string()))?,
            Err(_) => return Err(refused(None, "it does not answer".to_owned())),
        };
    let (client, driver) = dsn.config().connect_raw(wire, NoTls).await.map_err(|error| {
        let answer = error.as_db_error().map(|answer| answer.message().to_owned());
        refused(errors.take(), answer.unwrap_or_else(|| error.to_string()))
    })?;
    tokio::spawn(async move {
        if let Err(error) = driver.await {
            tracing::debug!(%error, "a database connection ended");
        }
        drop(alive);
    });
    let mut conn = AsyncPgConnection::try_from(client)
        .await
        .map_err(|error| refused(errors.take(), error.to_string()))?;
    let prepared = conn.batch_execute(SESSION).await;
    let mut connection = Connection { conn, errors, busy: false };
    connection.done(prepared)?;
    Ok(connection)
}
