//! What a follower of the clock reads: the search index, or a copy of the store.

use super::read::{item_number, unreadable};
use super::{ModelId, Store, StoreError};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{BigInt, Binary, Integer, Nullable};
use diesel_async::RunQueryDsl;

/// What happened in the store after some number of the clock, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Changes {
    /// The clock, read in the same snapshot as the rest.
    pub clock: i64,
    /// Everything up to this number is in here; the place to go on from. Equal to `clock` when nothing was left out.
    pub through: i64,
    /// Chunks that were stored or changed, by rising number.
    pub rows: Vec<ChangedRow>,
    /// Chunks that were deleted, as (number, item), by rising number.
    pub tombstones: Vec<(i64, u32)>,
}

/// A chunk that was stored or changed.
#[derive(Debug, Clone, PartialEq)]
pub struct ChangedRow {
    /// The number of its last change.
    pub seq: i64,
    /// Its number in the search index.
    pub item: u32,
    /// Its concept vector.
    pub vector: Vec<f32>,
}

impl Store {
    /// The changes after `seq`, at most `limit` of them (at least one), oldest first. Going on from [`Changes::through`] until it
    /// equals the clock gives every chunk there is; from 0, a copy of the whole.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn changes_after(&self, seq: i64, limit: i64, model: ModelId) -> Result<Changes, StoreError> {
        let limit = limit.max(1);
        let mut link = self.pool.get().await?;
        let found = ChangesAfter { seq, limit, model }.load::<ChangeRow>(link.conn()).await;
        changes(link.done(found)?, limit)
    }
}

/// Clock, chunks and tombstones in one statement, and so in one snapshot.
#[derive(QueryId)]
struct ChangesAfter {
    seq: i64,
    limit: i64,
    model: ModelId,
}

/// Number, item and vector; a tombstone has no vector, the row of the clock has no item either.
type ChangeRow = (i64, Option<i64>, Option<Vec<u8>>);

impl Query for ChangesAfter {
    type SqlType = (BigInt, Nullable<BigInt>, Nullable<Binary>);
}

impl QueryFragment<Pg> for ChangesAfter {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(
            "SELECT seq, NULL::bigint, NULL::bytea FROM change_clock UNION ALL \
             (SELECT c.seq, c.item, v.vector FROM chunks c CROSS JOIN LATERAL (SELECT vector FROM chunk_vectors \
             WHERE chunk_vectors.item = c.item AND kind = 'concept' AND model_id = ",
        );
        out.push_bind_param::<Integer, _>(&self.model.0)?;
        out.push_sql(" LIMIT 1) v WHERE c.seq > ");
        out.push_bind_param::<BigInt, _>(&self.seq)?;
        out.push_sql(" ORDER BY c.seq LIMIT ");
        out.push_bind_param::<BigInt, _>(&self.limit)?;
        out.push_sql(") UNION ALL (SELECT seq, item, NULL FROM tombstones WHERE seq > ");
        out.push_bind_param::<BigInt, _>(&self.seq)?;
        out.push_sql(" ORDER BY seq LIMIT ");
        out.push_bind_param::<BigInt, _>(&self.limit)?;
        out.push_sql(")");
        Ok(())
    }
}

/// Both lists are cut at `limit`, so the first `limit` of them together are complete.
fn changes(found: Vec<ChangeRow>, limit: i64) -> Result<Changes, StoreError> {
    let (mut clock, mut rows, mut tombstones, mut numbers) = (0, Vec::new(), Vec::new(), Vec::new());
    for (seq, item, vector) in found {
        let Some(item) = item else {
            clock = seq;
            continue;
        };
        numbers.push(seq);
        match vector {
            Some(bytes) => rows.push(ChangedRow { seq, item: item_number(item)?, vector: floats(&bytes)? }),
            None => tombstones.push((seq, item_number(item)?)),
        }
    }
    numbers.sort_unstable();
    let last = usize::try_from(limit - 1).unwrap_or_default();
    let through = numbers.get(last).copied().unwrap_or(clock);
    rows.retain(|row| row.seq <= through);
    tombstones.retain(|(seq, _)| *seq <= through);
    Ok(Changes { clock, through, rows, tombstones })
}

/// Little-endian f32.
fn floats(bytes: &[u8]) -> Result<Vec<f32>, StoreError> {
    let (parts, rest) = bytes.as_chunks::<4>();
    if rest.is_empty() {
        Ok(parts.iter().map(|b| f32::from_le_bytes(*b)).collect())
    } else {
        Err(unreadable("vector"))
    }
}
