//! How often chunks were read and found.

use super::connection::PooledConnection;
use super::{Store, StoreError};
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Timestamptz};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};

/// The accesses to one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accesses {
    /// How many there were.
    pub count: u64,
    /// When the last one was.
    pub last_at: DateTime<Utc>,
}

impl Accesses {
    /// These and others.
    #[must_use]
    pub fn and(self, others: Accesses) -> Accesses {
        Accesses { count: self.count + others.count, last_at: self.last_at.max(others.last_at) }
    }
}

/// Not for chunks that are deleted. Counting waits for no writer for long, so that it cannot make one fail: in a deadlock
/// it is the one that gives up. It is worth no flush either.
const SETTINGS: &str = "BEGIN; SET LOCAL lock_timeout = '100ms'; SET LOCAL synchronous_commit = off";

const ADD: &str = "
    INSERT INTO chunk_access AS known (item, count, last_at)
    SELECT seen.item, seen.count, seen.last_at
    FROM unnest($1, $2, $3) AS seen (item, count, last_at)
    WHERE EXISTS (SELECT FROM chunks WHERE chunks.item = seen.item)
    ORDER BY seen.item
    ON CONFLICT (item) DO UPDATE SET count = known.count + excluded.count,
        last_at = greatest(known.last_at, excluded.last_at)";

const READ: &str = "SELECT count, last_at FROM chunk_access WHERE item = $1";

#[derive(QueryableByName)]
struct AccessRow {
    #[diesel(sql_type = BigInt)]
    count: i64,
    #[diesel(sql_type = Timestamptz)]
    last_at: DateTime<Utc>,
}

impl Store {
    /// Adds accesses to those that are stored, in one statement. Those to chunks that are deleted are dropped.
    ///
    /// # Errors
    /// As any query. Nothing is added then, except that after [`StoreError::Lost`] it may be.
    pub async fn add_accesses(&self, seen: &[(u32, Accesses)]) -> Result<(), StoreError> {
        let items: Vec<i64> = seen.iter().map(|(item, _)| i64::from(*item)).collect();
        let counts = seen.iter().map(|(_, seen)| i64::try_from(seen.count).unwrap_or(i64::MAX));
        let counts: Vec<i64> = counts.collect();
        let times: Vec<DateTime<Utc>> = seen.iter().map(|(_, seen)| seen.last_at).collect();
        let mut connection = self.pool.get().await?;
        let begun = connection.conn().batch_execute(SETTINGS).await;
        connection.checked(begun)?;
        let add = diesel::sql_query(ADD).bind::<Array<BigInt>, _>(items).bind::<Array<BigInt>, _>(counts);
        let added = add.bind::<Array<Timestamptz>, _>(times).execute(connection.conn()).await;
        if let Err(error) = connection.checked(added) {
            connection.roll_back().await;
            return Err(error);
        }
        let committed = connection.conn().batch_execute("COMMIT").await;
        connection.done(committed)
    }
}

/// The stored accesses to an item.
pub(super) async fn accesses(
    connection: &mut PooledConnection,
    item: i64,
) -> Result<Option<Accesses>, StoreError> {
    let found = diesel::sql_query(READ).bind::<BigInt, _>(item);
    let found = found.get_result::<AccessRow>(connection.conn()).await.optional();
    let accesses = |row: AccessRow| Accesses { count: row.count.unsigned_abs(), last_at: row.last_at };
    Ok(connection.checked(found)?.map(accesses))
}
