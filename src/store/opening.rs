//! How a connection is opened: at the first host that takes writes, and only where a session belongs to its connection.

use super::dsn::Dsn;
use super::error::StoreError;
use super::hosts::{SocketPlace, hosts};
use super::server::ServerFacts;
use super::session_lock::SessionLock;
use super::sqlstate_sniffer::{SessionNotes, SniffedStream};
use diesel_async::AsyncPgConnection;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{Client, Error, NoTls};

/// The time that a host has to answer. A server in recovery refuses at once.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The same, where another host may answer instead.
const ANSWER_WITHIN_OF_SEVERAL: Duration = Duration::from_secs(3);
/// The time that a session has to end after its client has closed it.
const CLOSED_WITHIN: Duration = Duration::from_secs(1);

/// Every statement of the store finds its rows by key or along an index. A plan made while a table is small must also
/// suit a large table, so sequential scans and the joins that need them are off, and one generic plan serves all
/// batches. A batch of 2,048 rows with their vectors is worked on in memory.
///
/// The idle timeout ends the transactions of a frozen service; those that hold the lock of the clock have a shorter one
/// (see [`super::clock`]). A statement that waits for a lock gives up before its client does, so that no session is left
/// waiting without one.
const SESSION: &str = "
    SET synchronous_commit = on;
    SET default_transaction_isolation = 'read committed';
    SET lock_timeout = '20s';
    SET work_mem = '32MB';
    SET plan_cache_mode = force_generic_plan;
    SET enable_seqscan = off;
    SET enable_bitmapscan = off;
    SET enable_mergejoin = off;
    SET enable_hashjoin = off;
    SET jit = off;
    SET idle_in_transaction_session_timeout = '60s';";

/// A connection that is fit for the store.
pub(super) struct OpenedConnection {
    pub conn: AsyncPgConnection,
    pub notes: Arc<SessionNotes>,
    pub facts: ServerFacts,
}

/// Opens a connection, driven by the runtime that polls this. `alive` is held until the connection has ended.
pub(super) async fn open(dsn: Dsn, alive: mpsc::Sender<()>) -> Result<OpenedConnection, StoreError> {
    let hosts = hosts(dsn.config());
    let usual = if hosts.len() > 1 { ANSWER_WITHIN_OF_SEVERAL } else { ANSWER_WITHIN };
    let within = dsn.config().get_connect_timeout().copied().unwrap_or(usual);
    let opening = Opening { dsn: &dsn, within, alive };
    let mut problems = Vec::new();
    for host in &hosts {
        let places = match timeout(within, host.places()).await {
            Ok(Ok(places)) => places,
            Ok(Err(error)) => {
                problems.push((host, opening.failed(error.to_string())));
                continue;
            }
            Err(_) => {
                problems.push((host, opening.failed("its name is not resolved".to_owned())));
                continue;
            }
        };
        for place in places {
            match opening.at(&place).await {
                Ok(opened) => return Ok(opened),
                Err(error) if may_be_elsewhere(&error) => problems.push((host, error)),
                Err(error) => return Err(error),
            }
        }
    }
    let several = hosts.len() > 1;
    match problems.pop() {
        None => Err(opening.failed("it has no address".to_owned())),
        Some((_, last)) if !several => Err(last),
        Some(last) => {
            problems.push(last);
            let of = |(host, error): (_, StoreError)| format!("{host}: {}", in_short(error));
            let problems: Vec<String> = problems.into_iter().map(of).collect();
            Err(opening.failed(format!("no host takes writes ({})", problems.join("; "))))
        }
    }
}

/// Whether another host of the list may be better: this one does not answer, or takes no writes.
fn may_be_elsewhere(error: &StoreError) -> bool {
    matches!(error, StoreError::ReadOnly { .. }) || error.is_transient()
}

/// Without the address, which names all hosts.
fn in_short(error: StoreError) -> String {
    match error {
        StoreError::Connect { problem, .. } => problem,
        StoreError::ReadOnly { cause, .. } => cause.to_string(),
        other => other.to_string(),
    }
}

/// What the attempts to open one connection have in common.
struct Opening<'a> {
    dsn: &'a Dsn,
    within: Duration,
    alive: mpsc::Sender<()>,
}

/// A session before it has its settings.
struct BareSession {
    client: Client,
    notes: Arc<SessionNotes>,
    driver: JoinHandle<()>,
}

impl Opening<'_> {
    /// Opens the connection at one place. The session of a connection before it tells whether there is a pooler that
    /// shares sessions. They are open one after the other: a pooler may have no session for a second one.
    async fn at(&self, place: &SocketPlace) -> Result<OpenedConnection, StoreError> {
        let lock = SessionLock::new();
        let first = self.within(self.session(place)).await?;
        let facts = self.within(self.ask(&first, ServerFacts::ask(&first.client))).await?;
        facts.check_server(self.dsn)?;
        let owns_session = self.within(self.ask(&first, lock.take(&first.client))).await?;
        first.close().await;
        let session = self.within(self.session(place)).await?;
        let ended = self.ask(&session, lock.has_ended(&session.client)).await?;
        if !owns_session || !ended {
            return Err(StoreError::SharedSession { to: self.dsn.to_string() });
        }
        self.within(self.prepare(session)).await
    }

    async fn within<T>(&self, step: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let late = |_| Err(self.failed("it does not answer".to_owned()));
        timeout(self.within, step).await.unwrap_or_else(late)
    }

    async fn session(&self, place: &SocketPlace) -> Result<BareSession, StoreError> {
        let notes = Arc::new(SessionNotes::default());
        let socket = place.connect().await.map_err(|error| self.failed(error.to_string()))?;
        let wire = SniffedStream::new(socket, Arc::clone(&notes));
        let connected = self.dsn.config().connect_raw(wire, NoTls).await;
        let (client, connection) = connected.map_err(|error| self.refused(&notes, &error))?;
        let alive = self.alive.clone();
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a database connection ended");
            }
            drop(alive);
        });
        Ok(BareSession { client, notes, driver })
    }

    /// Gives the session its settings, and checks the server again: behind a name there may be another one by now.
    async fn prepare(&self, session: BareSession) -> Result<OpenedConnection, StoreError> {
        self.ask(&session, session.client.batch_execute(SESSION)).await?;
        let facts = self.ask(&session, ServerFacts::ask(&session.client)).await?;
        facts.check_session(self.dsn)?;
        let BareSession { client, notes, .. } = session;
        match AsyncPgConnection::try_from(client).await {
            Ok(conn) => Ok(OpenedConnection { conn, notes, facts }),
            Err(error) => {
                let state = notes.take_error();
                Err(StoreError::Connect { to: self.dsn.to_string(), state, problem: error.to_string() })
            }
        }
    }

    async fn ask<T>(
        &self,
        session: &BareSession,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, StoreError> {
        answer.await.map_err(|error| self.refused(&session.notes, &error))
    }

    /// The server's refusal, or the end of the connection.
    fn refused(&self, notes: &SessionNotes, error: &Error) -> StoreError {
        let problem = match (error.as_db_error(), std::error::Error::source(error)) {
            (Some(answer), _) => answer.message().to_owned(),
            (None, Some(cause)) if cause.to_string() == "password missing" => {
                "it asks for a password; put one into DATABASE_URL or PGPASSWORD".to_owned()
            }
            (None, _) => error.to_string(),
        };
        StoreError::Connect { to: self.dsn.to_string(), state: notes.take_error(), problem }
    }

    fn failed(&self, problem: String) -> StoreError {
        StoreError::Connect { to: self.dsn.to_string(), state: None, problem }
    }
}

impl BareSession {
    /// Closes the connection, and waits until that was sent.
    async fn close(self) {
        drop(self.client);
        drop(timeout(CLOSED_WITHIN, self.driver).await);
    }
}
