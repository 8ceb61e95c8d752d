//! The connection pool: where connections run, how they are opened, and when one is reused.
//!
//! A connection is driven by a task on the runtime that opened it, and stalls or ends with that runtime. So all
//! connections are opened on one single-threaded runtime, on a thread of its own that lives as long as the store.
//! Queries may be polled from any runtime.

use super::dsn::Dsn;
use super::error::{SqlState, StoreError};
use super::opening::{OpenedConnection, open};
use super::server::ServerFacts;
use super::sqlstate_sniffer::SessionNotes;
use super::timeouts::StoreTimeouts;
use crate::metrics;
use crate::threads::lock;
use deadpool::managed::{self, Manager, Metrics, Object, PoolError, RecycleError, RecycleResult, Timeouts};
use diesel::dsl::sql;
use diesel::sql_types::{Integer, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

/// The timeout of the check that a pooled connection still works.
const RECYCLE_WITHIN: Duration = Duration::from_secs(5);

/// One connection, with what its stream notes.
pub(super) struct Connection {
    conn: AsyncPgConnection,
    notes: Arc<SessionNotes>,
    timeouts: StoreTimeouts,
    /// Whether the statements are prepared that must not wait for that inside of their transaction: without and with
    /// dead letters.
    pub prepared: [bool; 2],
    /// The process of the server that runs the session.
    backend: i32,
    use_state: UseState,
}

/// Whether the next call may have the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UseState {
    Free,
    /// From the first statement of a call to its end. A connection that is dropped in between (the caller was
    /// cancelled) may be inside a transaction and is never reused.
    InCall,
    /// The server said that the session is of no further use, see [`SqlState::ends_session`].
    Spent,
}

impl Connection {
    fn new(opened: OpenedConnection, timeouts: StoreTimeouts) -> Connection {
        let OpenedConnection { conn, notes, facts } = opened;
        let (backend, use_state) = (facts.backend, UseState::Free);
        Connection { conn, notes, timeouts, prepared: [false; 2], backend, use_state }
    }

    /// The diesel connection, for the next statement. Pass the result to [`Self::done`] or [`Self::checked`]. The
    /// connection ends when the server is silent for longer than such a statement takes.
    pub fn conn(&mut self) -> &mut AsyncPgConnection {
        self.conn_within(self.timeouts.answer)
    }

    /// The same for a statement that may read a whole table.
    pub fn conn_for_scan(&mut self) -> &mut AsyncPgConnection {
        self.conn_within(self.timeouts.scan)
    }

    fn conn_within(&mut self, time: Duration) -> &mut AsyncPgConnection {
        self.enter(UseState::InCall);
        self.notes.expect_answer(time);
        &mut self.conn
    }

    /// Ends the call: outside a transaction, or after its commit or rollback.
    pub fn done<T>(&mut self, result: diesel::QueryResult<T>) -> Result<T, StoreError> {
        let result = self.checked(result);
        self.enter(UseState::Free);
        result
    }

    /// Checks one step of a transaction; the call goes on.
    pub fn checked<T>(&mut self, result: diesel::QueryResult<T>) -> Result<T, StoreError> {
        self.notes.answered();
        let result = result.map_err(|error| {
            let error = StoreError::from_diesel(&error, self.notes.take_error());
            match (error, self.notes.silent_for()) {
                (StoreError::Lost, Some(time)) => StoreError::NoAnswer { seconds: time.as_secs() },
                (error, _) => error,
            }
        });
        if result.as_ref().is_err_and(|error| error.sqlstate().is_some_and(SqlState::ends_session)) {
            self.enter(UseState::Spent);
        }
        result
    }

    /// Rolls a failed transaction back, so that the connection can be reused.
    pub async fn roll_back(&mut self) {
        if self.conn().batch_execute("ROLLBACK").await.is_ok() {
            self.enter(UseState::Free);
        }
        self.notes.answered();
    }

    /// Commits a transaction whose steps were checked.
    pub async fn commit(&mut self) -> Result<(), StoreError> {
        let committed = self.conn().batch_execute("COMMIT").await;
        self.committed(Ok(()), committed)
    }

    /// Ends a transaction that was sent as a whole, COMMIT included. After a step that failed, the server answers the
    /// COMMIT with ROLLBACK.
    pub fn committed<T>(
        &mut self,
        steps: diesel::QueryResult<T>,
        commit: diesel::QueryResult<()>,
    ) -> Result<T, StoreError> {
        let steps = self.checked(steps);
        if steps.is_err() {
            // Without an answer to the COMMIT the transaction may still be open, and the connection is not used again.
            if commit.is_ok() {
                self.enter(UseState::Free);
            }
            return steps;
        }
        self.done(commit)?;
        if self.notes.rolled_back() { Err(StoreError::RolledBack) } else { steps }
    }

    /// Once spent, always spent.
    fn enter(&mut self, next: UseState) {
        if self.use_state != UseState::Spent {
            self.use_state = next;
        }
    }

    /// The diesel connection alone. The server may be silent as long as it likes.
    pub fn into_conn(self) -> AsyncPgConnection {
        self.notes.answered();
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
    pub fn new(dsn: Dsn, size: usize, timeouts: StoreTimeouts) -> Result<Pool, StoreError> {
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
        let connector = Connector { dsn, handle, timeouts, alive: Mutex::new(Some(alive)) };
        let recycle = RECYCLE_WITHIN.min(timeouts.answer);
        let timeouts = Timeouts { wait: Some(timeouts.wait), create: None, recycle: Some(recycle) };
        let pool = managed::Pool::builder(connector)
            .max_size(size.max(1))
            .timeouts(timeouts)
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .map_err(|e| StoreError::Thread { problem: e.to_string() })?;
        Ok(Pool { pool, ended: Mutex::new(Some(ended)) })
    }

    /// A connection from the pool, checked just before. A new one that cannot be had is a transient error, whatever the
    /// reason: a call is not at fault when the server of an open store has become unfit, and goes on when that is mended.
    pub async fn get(&self) -> Result<PooledConnection, StoreError> {
        self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => error,
            PoolError::Closed => StoreError::Closed,
            _ => {
                metrics::store_pool_limit();
                let (limit, wait) = (self.pool.status().max_size, self.pool.manager().timeouts.wait);
                StoreError::NoConnection { limit, seconds: wait.as_secs() }
            }
        })
    }

    /// Opens a connection outside of the pool, on the same thread.
    pub async fn connect(&self) -> Result<(Connection, ServerFacts), StoreError> {
        let opened = self.pool.manager().open().await?;
        let facts = opened.facts.clone();
        Ok((Connection::new(opened, self.pool.manager().timeouts), facts))
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
    timeouts: StoreTimeouts,
    /// Taken when the store is closed. Each connection holds a clone until it has ended.
    alive: Mutex<Option<mpsc::Sender<()>>>,
}

impl Connector {
    async fn open(&self) -> Result<OpenedConnection, StoreError> {
        let alive = lock(&self.alive).clone();
        let alive = alive.ok_or(StoreError::Closed)?;
        let opening = self.handle.spawn(open(self.dsn.clone(), alive));
        opening.await.unwrap_or(Err(StoreError::Closed))
    }

    /// See [`Pool::get`].
    fn for_now(&self, error: StoreError) -> StoreError {
        match error {
            error if error.is_transient() => error,
            StoreError::Closed => StoreError::Closed,
            StoreError::Connect { to, problem, .. } => StoreError::Connect { to, state: None, problem },
            other => {
                StoreError::Connect { to: self.dsn.to_string(), state: None, problem: other.to_string() }
            }
        }
    }
}

impl Manager for Connector {
    type Type = Connection;
    type Error = StoreError;

    async fn create(&self) -> Result<Connection, StoreError> {
        let opened = self.open().await.map_err(|error| self.for_now(error))?;
        Ok(Connection::new(opened, self.timeouts))
    }

    /// Takes about 20 us, and finds a killed backend before a batch does. A server that takes no writes any more is
    /// found, too, and a pooler that has begun to share sessions.
    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<StoreError> {
        if connection.use_state != UseState::Free {
            return Err(RecycleError::message("the call before was cancelled, or its session is spent"));
        }
        let backend = sql::<Integer>("pg_backend_pid()");
        let read_only = sql::<Text>("current_setting('transaction_read_only')");
        let answer =
            diesel::select((backend, read_only)).get_result::<(i32, String)>(connection.conn()).await;
        let (backend, read_only) = connection.done(answer).map_err(RecycleError::Backend)?;
        match (backend == connection.backend, read_only.as_str()) {
            (false, _) => Err(RecycleError::message("the session belongs to another connection")),
            (true, "off") => Ok(()),
            (true, _) => Err(RecycleError::message("the server takes no writes any more")),
        }
    }
}
