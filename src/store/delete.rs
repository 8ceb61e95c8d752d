//! Deleting chunks: which rows a selection means, and their deletion in transactions of bounded size.
//!
//! The triggers of the database take the numbers of the clock and write the tombstones, as for a deletion by SQL. The
//! caller gives the tombstones to the index.

use super::clock::{BEGIN, locked_clock};
use super::connection::PooledConnection;
use super::read::item_number;
use super::schema::tombstones;
use super::selection::Selected;
use super::{Selection, Store, StoreError};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};

/// The rows that a selection means, in one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectedItems {
    /// How many there are.
    pub count: u64,
    /// The numbers of the first ones in the search index, ascending: in the order in which they were stored.
    pub items: Vec<u32>,
}

/// A committed transaction that deleted chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletedItems {
    /// The history that counted them; see [`super::ClockReading::history`].
    pub history: String,
    /// The clock before the transaction.
    pub after: i64,
    /// The clock after it. Equal to `after` when nothing was deleted.
    pub upto: i64,
    /// The deleted chunks, as `(seq, item)`, ascending.
    pub tombstones: Vec<(i64, u32)>,
}

impl Store {
    /// Counts the chunks of a selection, and names the first `limit` of them. Reads an index entry a chunk; a condition
    /// on metadata alone reads the whole table.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn selected_items(
        &self,
        selection: &Selection,
        limit: u32,
    ) -> Result<SelectedItems, StoreError> {
        let query = SelectItems { condition: selection.condition(), limit: limit.into() };
        let mut connection = self.pool.get().await?;
        let found = query.load::<(i64, i64)>(connection.conn_for_scan()).await;
        let found = connection.done(found)?;
        // Every row has the count of all.
        let count = found.as_slice().first().map_or(0, |(_, count)| count.unsigned_abs());
        let items = found.into_iter().map(|(item, _)| item_number(item)).collect::<Result<_, _>>()?;
        Ok(SelectedItems { count, items })
    }

    /// Deletes those of these items that still fit the selection, with their vectors, in one flushed transaction. Other
    /// writers wait meanwhile: give about a thousand at a time.
    ///
    /// # Errors
    /// Nothing is deleted, except that after [`StoreError::Lost`] it may be.
    pub async fn delete_items(
        &self,
        items: &[u32],
        selection: &Selection,
    ) -> Result<DeletedItems, StoreError> {
        let mut connection = self.pool.get().await?;
        match delete(&mut connection, items, selection).await {
            Ok(deleted) => {
                connection.commit().await?;
                Ok(deleted)
            }
            Err(error) => {
                connection.roll_back().await;
                Err(error)
            }
        }
    }
}

/// Everything but the commit.
async fn delete(
    connection: &mut PooledConnection,
    items: &[u32],
    selection: &Selection,
) -> Result<DeletedItems, StoreError> {
    let begun = connection.conn().batch_execute(BEGIN).await;
    connection.checked(begun)?;
    let (history, after) = locked_clock(connection).await?;
    let content = selection.of_content();
    let items = items.iter().map(|item| i64::from(*item)).collect();
    let deleted = DeleteItems { items, condition: content.condition() }.execute(connection.conn()).await;
    let count = connection.checked(deleted)?;
    let found = tombstones::table.select((tombstones::seq, tombstones::item));
    let found = found.filter(tombstones::seq.gt(after)).order(tombstones::seq).load(connection.conn()).await;
    let found: Vec<(i64, i64)> = connection.checked(found)?;
    if found.len() != count {
        let problem = format!(
            "{count} rows were deleted and {} tombstones written: the triggers on the table chunks are missing or \
             disabled; restore them as in the migration 2026-11-30-000002_deletions",
            found.len()
        );
        return Err(StoreError::Database { state: None, problem });
    }
    let found = found.into_iter().map(|(seq, item)| Ok((seq, item_number(item)?)));
    let tombstones = found.collect::<Result<Vec<_>, StoreError>>()?;
    Ok(DeletedItems { history, after, upto: tombstones.last().map_or(after, |(seq, _)| *seq), tombstones })
}

/// Item, and the count of all.
struct SelectItems<'a> {
    condition: Selected<'a>,
    limit: i64,
}

/// As that of the condition.
impl QueryId for SelectItems<'_> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for SelectItems<'_> {
    type SqlType = (BigInt, BigInt);
}

impl QueryFragment<Pg> for SelectItems<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT item, count(*) OVER () FROM chunks WHERE ");
        self.condition.walk_ast(out.reborrow())?;
        out.push_sql(" ORDER BY item LIMIT ");
        out.push_bind_param::<BigInt, _>(&self.limit)
    }
}

/// The deletion of those of these items that meet the condition.
struct DeleteItems<'a> {
    items: Vec<i64>,
    condition: Selected<'a>,
}

/// As that of the condition.
impl QueryId for DeleteItems<'_> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl QueryFragment<Pg> for DeleteItems<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("DELETE FROM chunks WHERE chunks.item = ANY(");
        out.push_bind_param::<Array<BigInt>, _>(&self.items)?;
        out.push_sql(") AND ");
        self.condition.walk_ast(out.reborrow())
    }
}
