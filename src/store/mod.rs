//! The truth: PostgreSQL, with a row per acknowledged chunk and its vector in the same transaction.
//!
//! ```text
//! Store          open, adopt a model, look up keys, insert batches, follow changes, rows for a search
//!   insert       the batched insert, in the order of the change clock
//!   changes      what a follower of that clock reads
//!   read, model  look-ups; the one model of a store
//!   letters      chunks that could not be stored, kept to be sent again
//!   link, wire   the pool, its own thread, and the SQLSTATE of what goes wrong
//!   look         what a database is, without changing it
//! managed        a PostgreSQL of our own, for those who have none
//! ```
//!
//! Invariants: every change takes a number from the one-row clock, in the order of commits, so that a follower who
//! asks for "everything after n" misses nothing. All vectors of a store are of one model. A session flushes what it
//! commits, and a server that does not flush is refused. Nothing is retried in here: an error says whether
//! repeating helps ([`StoreError::is_transient`]) or a row is at fault ([`StoreError::is_data_error`]).

mod changes;
mod connection;
mod dsn;
mod error;
mod insert;
mod inspect;
mod letters;
pub mod managed;
mod migrate;
mod model;
mod read;
mod schema;
mod sqlstate_sniffer;

pub use changes::{ChangedRow, Changes};
pub use dsn::Dsn;
pub use error::{SqlState, StoreError};
pub use insert::InsertOutcome;
pub use inspect::{DatabaseInfo, inspect};
pub use letters::{DeadLetter, LetterFilter, StoredDeadLetter};
pub use model::ModelId;
pub use read::{Hit, KnownChunk, SearchFilter};

use connection::Pool;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// How long a call waits for a connection before it says so. Shorter than any deadline of a chunk.
const POOL_WAIT: Duration = Duration::from_secs(10);
/// The oldest server whose SQL the migrations need, as PostgreSQL numbers itself.
const OLDEST_SERVER: i32 = 140_000;

/// Where the store is and how many connections it may use.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The database.
    pub dsn: Dsn,
    /// Connections at most. One is enough for the writer; each further one lets a read go on beside it.
    pub pool_size: usize,
}

/// The store. Clones share one pool.
#[derive(Clone)]
pub struct Store {
    pool: Arc<Pool>,
    store_id: Uuid,
    /// Dead letters at the last look, kept up by what this store does: while there are none, storing a chunk costs
    /// nothing more.
    letters: Arc<letters::LetterCount>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("store_id", &self.store_id).finish_non_exhaustive()
    }
}

impl Store {
    /// Connects, refuses a server that would lose acknowledged chunks, and brings the tables up to date.
    ///
    /// # Errors
    /// Transient while the server cannot be reached; permanent, with what to do, when it is too old, unsafe, used by
    /// a later version, or refuses the migrations.
    pub async fn open(options: StoreOptions) -> Result<Store, StoreError> {
        let pool = Pool::new(options.dsn, options.pool_size)?;
        let mut link = pool.dial().await?;
        let settings = settings(link.conn()).await;
        check(&link.done(settings)?)?;
        migrate::run(link.into_conn()).await?;
        let mut link = pool.get().await?;
        let store_id = schema::change_clock::table.select(schema::change_clock::store_id);
        let store_id = store_id.first(link.conn()).await;
        let store_id = link.done(store_id)?;
        drop(link);
        let store = Store { pool: Arc::new(pool), store_id, letters: Arc::default() };
        store.count_letters().await?;
        Ok(store)
    }

    /// Made with the tables; tells this store from every other.
    pub fn store_id(&self) -> Uuid {
        self.store_id
    }

    /// A query just ran.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.clock().await.map(drop)
    }

    /// Waits for a call to this store on a thread that belongs to no runtime, as the index's does.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.pool.runtime().block_on(work)
    }

    /// Ends the connections once they are idle; every later call is [`StoreError::Closed`]. Waits for calls under
    /// way, 5 s at most.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

#[derive(Debug, QueryableByName)]
struct Settings {
    #[diesel(sql_type = diesel::sql_types::Integer)]
    number: i32,
    #[diesel(sql_type = diesel::sql_types::Text)]
    version: String,
    #[diesel(sql_type = diesel::sql_types::Text)]
    fsync: String,
    #[diesel(sql_type = diesel::sql_types::Text)]
    full_page_writes: String,
    #[diesel(sql_type = diesel::sql_types::Text)]
    synchronous_commit: String,
}

async fn settings(conn: &mut AsyncPgConnection) -> QueryResult<Settings> {
    let shown = diesel::sql_query(
        "SELECT current_setting('server_version_num')::integer AS number,
                current_setting('server_version') AS version,
                current_setting('fsync') AS fsync,
                current_setting('full_page_writes') AS full_page_writes,
                current_setting('synchronous_commit') AS synchronous_commit",
    );
    shown.get_result(conn).await
}

fn check(settings: &Settings) -> Result<(), StoreError> {
    if settings.number < OLDEST_SERVER {
        return Err(StoreError::TooOld { found: settings.version.clone() });
    }
    let flushing = [
        ("fsync", &settings.fsync),
        ("full_page_writes", &settings.full_page_writes),
        ("synchronous_commit", &settings.synchronous_commit),
    ];
    match flushing.into_iter().find(|(_, value)| *value != "on") {
        Some((setting, found)) => Err(StoreError::Unsafe { setting, found: found.clone() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Settings {
        let on = || "on".to_owned();
        let (fsync, full_page_writes, synchronous_commit) = (on(), on(), on());
        Settings { number: 150_018, version: "15.18".into(), fsync, full_page_writes, synchronous_commit }
    }

    #[test]
    fn a_server_that_loses_what_it_commits_is_refused() {
        assert!(check(&server()).is_ok());
        let error = check(&Settings { fsync: "off".into(), ..server() }).unwrap_err();
        assert!(!error.is_transient() && error.to_string().contains("fsync=off"), "{error}");
        let error = check(&Settings { full_page_writes: "off".into(), ..server() }).unwrap_err();
        assert!(error.to_string().contains("full_page_writes"), "{error}");
        let error = check(&Settings { number: 130_012, version: "13.12".into(), ..server() }).unwrap_err();
        assert!(error.to_string().contains("13.12"), "{error}");
    }
}
