//! The source of truth: PostgreSQL. Each acknowledged chunk is a row, committed together with its vector.
//!
//! ```text
//! Store             open, adopt a model, look up keys, insert batches, read changes, rows for a search
//!   insert          the batched insert, in the order of the change clock, which one statement locks
//!   replace         rows that take the place of stored ones, in the transaction of an insert
//!   incoming        rows as arrays, for both
//!   identity        brings the ids and hashes of an earlier version up to date
//!   clock           how other transactions begin that hold the lock of that clock
//!   changes         changes after a number of that clock
//!   read, model     look-ups; the one model of a store
//!   export          everything again, in order
//!   hits            the rows of a search
//!   filter_fields   what filters of a search need of a row
//!   verify          what the indexes compare themselves with
//!   selection       which chunks a call is about
//!   delete          their deletion; delete_letters: that of their dead letters
//!   retag           other codes for stored rows
//!   extract         CPESH parts and question vectors for stored rows
//!   reembed         vectors of a further model, and the switch to it
//!   access          how often chunks were read and found
//!   chunk_record    single chunks and those of a document, with all that is stored of them
//!   named_chunks    which chunks ids and links mean
//!   listing         documents and datasets, with their counts
//!   holdings        how much there is
//!   dead_letters    chunks that could not be stored, kept to be sent again
//!   connection      the connection pool and its thread; timeouts: how long they wait
//!   opening         how a connection is opened: the hosts, the server's fitness, the session's settings
//!   session_lock    whether a session belongs to its connection, or to a pooler that shares it
//!   sqlstate_sniffer  the SQLSTATE of an error, read from the connection's bytes, and the end of silent ones
//!   old_tables      reads the tables of the old service
//!   old_service     recognises a database of the old service
//!   restore         the SQL around a restore from a backup
//!   inspect         version, settings and model of a database, without changing it
//! managed           a PostgreSQL server that the service installs and runs itself
//! ```
//!
//! Invariants: every change takes a number from the one-row table `change_clock`, in the order of commits, so that a
//! reader of "everything after n" misses nothing. All vectors of a store are of one model. Sessions commit
//! synchronously, and a server that does not flush is refused. The store retries nothing: an error says whether a
//! retry can help ([`StoreError::is_transient`]) or a row is at fault ([`StoreError::is_data_error`]).

mod access;
mod backfill;
mod changes;
mod chunk_record;
mod clock;
mod connection;
mod dead_letter_count;
mod dead_letters;
mod delete;
mod delete_letters;
mod dsn;
mod error;
mod export;
mod extract;
mod filter_fields;
mod hits;
mod holdings;
mod hosts;
mod identity;
mod incoming;
mod insert;
mod inspect;
mod listing;
pub mod managed;
mod migrate;
mod model;
mod named_chunks;
mod old_service;
mod old_tables;
mod opening;
mod read;
mod reembed;
mod replace;
pub mod restore;
mod retag;
mod schema;
mod selection;
mod server;
mod session_lock;
mod sqlstate_sniffer;
mod timeouts;
mod verify;

pub use access::Accesses;
pub use backfill::BackfilledRows;
pub use changes::{ChangedChunk, ChunkChanges};
pub use chunk_record::{ChunkDetails, ChunkPlace, ChunkRecord, DocumentPage, PageOfDocument};
pub use dead_letters::{DeadLetter, DeadLetterFilter, StoredDeadLetter};
pub use delete::{DeletedItems, SelectedItems};
pub use dsn::Dsn;
pub use error::{ReadOnlyCause, SqlState, StoreError};
pub use export::ChunkExport;
pub use extract::{ExtractionLack, ExtractionRow, ExtractionRows, ExtractionScope, ExtractionUpdate};
pub use hits::Hit;
pub use holdings::{Amount, Holdings};
pub use insert::{CommittedBatch, InsertOutcome};
pub use inspect::{DatabaseInfo, inspect};
pub use listing::{ListedDataset, ListedDocument};
pub use migrate::known_migrations;
pub use model::{ModelId, StoredModel};
pub use named_chunks::{ChunkLink, NamedChunk};
pub use old_tables::{OldTables, OldTablesError};
pub use read::{KnownChunk, StoredVectors};
pub use reembed::{AddedVectors, LackingChunk, ModelSwitched};
pub use retag::{Retag, RetagRow, RetagScope, RetagSource};
pub use selection::Selection;
pub use timeouts::StoreTimeouts;
pub use verify::{ClockReading, RowDigests, VectorsOf};

use connection::Pool;
use dead_letter_count::DeadLetterCount;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use std::sync::Arc;
use uuid::Uuid;

/// Where the store is and how many connections it may use.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The address of the database.
    pub dsn: Dsn,
    /// The largest number of connections. One is enough for the writer; each further one allows a concurrent read.
    pub pool_size: usize,
}

/// The store. Clones share one pool.
#[derive(Clone)]
pub struct Store {
    pool: Arc<Pool>,
    store_id: Uuid,
    /// Dead letters at the last count, adjusted by the calls of this store. At zero, an insert skips their removal.
    dead_letters: Arc<DeadLetterCount>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("store_id", &self.store_id).finish_non_exhaustive()
    }
}

impl Store {
    /// As [`Self::open_with`], with the usual time-outs.
    ///
    /// # Errors
    /// Those of [`Self::open_with`].
    pub async fn open(options: StoreOptions) -> Result<Store, StoreError> {
        Store::open_with(options, StoreTimeouts::default()).await
    }

    /// Connects, refuses a server that would lose acknowledged chunks or cannot hold every text, one that takes no
    /// writes, and a pooler that shares sessions; then runs the pending migrations.
    ///
    /// # Errors
    /// Transient while the server cannot be reached. Permanent when the server is unfit, the database is one of the old
    /// service, was migrated by a later version
    /// of this program, or refuses the migrations; the message says what to do.
    pub async fn open_with(options: StoreOptions, timeouts: StoreTimeouts) -> Result<Store, StoreError> {
        let pool = Pool::new(options.dsn.clone(), options.pool_size, timeouts)?;
        let (mut connection, _) = pool.connect().await?;
        old_service::refuse(&mut connection, &options.dsn).await?;
        migrate::run(connection.into_conn()).await?;
        let mut connection = pool.get().await?;
        let store_id = schema::change_clock::table.select(schema::change_clock::store_id);
        let store_id = store_id.first(connection.conn()).await;
        let store_id = connection.done(store_id)?;
        drop(connection);
        let store = Store { pool: Arc::new(pool), store_id, dead_letters: Arc::default() };
        store.update_identities().await?;
        store.count_dead_letters().await?;
        Ok(store)
    }

    /// Identifies this store. Generated when its tables are created.
    pub fn store_id(&self) -> Uuid {
        self.store_id
    }

    /// Runs one short query, to check that the database answers.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.clock().await.map(drop)
    }

    /// Blocks on a call to this store. Only for threads outside any tokio runtime, such as the index thread.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.pool.runtime().block_on(work)
    }

    /// Closes the idle connections; every later call fails with [`StoreError::Closed`]. Waits up to 5 s for calls in
    /// progress.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
