//! Reading changes in the order of the clock, for the search indexes or a copy of the store.

use super::read::{floats, item_number};
use super::{ModelId, Store, StoreError};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{BigInt, Binary, Bool, Integer, Nullable};
use diesel_async::RunQueryDsl;

/// The changes of a store after a number of its clock, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct ChunkChanges {
    /// The clock in the snapshot that the lists were read in.
    pub clock: i64,
    /// The lists are complete up to this number; the next page starts after it. Equal to `clock` on the last page.
    pub through: i64,
    /// Chunks that were stored or changed and have a vector of the kind, ascending by `seq`.
    pub rows: Vec<ChangedChunk>,
    /// Chunks that were deleted, or lost their vector of the kind, as `(seq, item)`, ascending by `seq`.
    pub tombstones: Vec<(i64, u32)>,
}

/// A chunk that was stored or changed.
#[derive(Debug, Clone, PartialEq)]
pub struct ChangedChunk {
    /// The clock value of its last change.
    pub seq: i64,
    /// Its number in the search index.
    pub item: u32,
    /// Its vector of the kind, as long as the model's `dims`.
    pub vector: Vec<f32>,
}

impl Store {
    /// The changes after `seq`, with concept vectors, oldest first: at most `limit`, where a limit below 1 counts as 1.
    /// Repeating the call from [`ChunkChanges::through`] until it equals the clock gives every change; from 0, every
    /// stored chunk.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn changes_after(
        &self,
        seq: i64,
        limit: i64,
        model: ModelId,
    ) -> Result<ChunkChanges, StoreError> {
        let limit = limit.max(1);
        let mut connection = self.pool.get().await?;
        let found = ChangesAfter { seq, limit, model }.load::<ChangeRow>(connection.conn()).await;
        changes(connection.done(found)?, limit)
    }

    /// As [`Self::changes_after`], with question vectors. Changed chunks without one count towards `limit`, but are not
    /// in the answer, so a page may be empty.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn question_changes_after(
        &self,
        seq: i64,
        limit: i64,
        model: ModelId,
    ) -> Result<ChunkChanges, StoreError> {
        let limit = limit.max(1);
        let mut connection = self.pool.get().await?;
        let found = QuestionChangesAfter { seq, limit, model }.load::<ChangeRow>(connection.conn()).await;
        changes(connection.done(found)?, limit)
    }
}

/// Clock, chunks and tombstones in one statement, and so in one snapshot.
#[derive(QueryId)]
struct ChangesAfter {
    seq: i64,
    limit: i64,
    model: ModelId,
}

/// The same for questions.
#[derive(QueryId)]
struct QuestionChangesAfter {
    seq: i64,
    limit: i64,
    model: ModelId,
}

/// `(seq, item, gone, vector)`. A tombstone is gone; the row of the clock has no item.
type ChangeRow = (i64, Option<i64>, bool, Option<Vec<u8>>);
type ChangeRowSql = (BigInt, Nullable<BigInt>, Bool, Nullable<Binary>);

impl Query for ChangesAfter {
    type SqlType = ChangeRowSql;
}

impl Query for QuestionChangesAfter {
    type SqlType = ChangeRowSql;
}

impl QueryFragment<Pg> for QuestionChangesAfter {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let after = |out: &mut AstPass<'_, 'b, Pg>, before: &str| {
            out.push_sql(before);
            out.push_bind_param::<BigInt, _>(&self.seq)?;
            out.push_sql(" ORDER BY seq LIMIT ");
            out.push_bind_param::<BigInt, _>(&self.limit)
        };
        // The limit comes before the vectors: a page reads as many chunks, however few of them have a question.
        out.push_sql(
            "SELECT seq, NULL::bigint, false, NULL::bytea FROM change_clock UNION ALL \
             (SELECT c.seq, c.item, false, v.vector FROM ",
        );
        after(&mut out, "(SELECT seq, item FROM chunks WHERE seq > ")?;
        out.push_sql(
            ") c LEFT JOIN LATERAL (SELECT vector FROM chunk_vectors \
             WHERE chunk_vectors.item = c.item AND kind = 'question' AND model_id = ",
        );
        out.push_bind_param::<Integer, _>(&self.model.0)?;
        out.push_sql(" LIMIT 1) v ON true ORDER BY c.seq)");
        after(&mut out, " UNION ALL (SELECT seq, item, true, NULL FROM tombstones WHERE seq > ")?;
        after(&mut out, ") UNION ALL (SELECT seq, item, true, NULL FROM question_tombstones WHERE seq > ")?;
        out.push_sql(")");
        Ok(())
    }
}

impl QueryFragment<Pg> for ChangesAfter {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(
            "SELECT seq, NULL::bigint, false, NULL::bytea FROM change_clock UNION ALL \
             (SELECT c.seq, c.item, false, v.vector FROM chunks c CROSS JOIN LATERAL (SELECT vector FROM chunk_vectors \
             WHERE chunk_vectors.item = c.item AND kind = 'concept' AND model_id = ",
        );
        out.push_bind_param::<Integer, _>(&self.model.0)?;
        out.push_sql(" LIMIT 1) v WHERE c.seq > ");
        out.push_bind_param::<BigInt, _>(&self.seq)?;
        out.push_sql(" ORDER BY c.seq LIMIT ");
        out.push_bind_param::<BigInt, _>(&self.limit)?;
        out.push_sql(") UNION ALL (SELECT seq, item, true, NULL FROM tombstones WHERE seq > ");
        out.push_bind_param::<BigInt, _>(&self.seq)?;
        out.push_sql(" ORDER BY seq LIMIT ");
        out.push_bind_param::<BigInt, _>(&self.limit)?;
        out.push_sql(")");
        Ok(())
    }
}

/// The query limits each list to `limit` rows, so the first `limit` changes of both together are complete.
fn changes(found: Vec<ChangeRow>, limit: i64) -> Result<ChunkChanges, StoreError> {
    let (mut clock, mut rows, mut tombstones, mut numbers) = (0, Vec::new(), Vec::new(), Vec::new());
    for (seq, item, gone, vector) in found {
        let Some(item) = item else {
            clock = seq;
            continue;
        };
        numbers.push(seq);
        match vector {
            Some(bytes) => rows.push(ChangedChunk { seq, item: item_number(item)?, vector: floats(&bytes)? }),
            None if gone => tombstones.push((seq, item_number(item)?)),
            None => {}
        }
    }
    numbers.sort_unstable();
    tombstones.sort_unstable();
    let last = usize::try_from(limit - 1).unwrap_or_default();
    let through = numbers.get(last).copied().unwrap_or(clock);
    rows.retain(|row| row.seq <= through);
    tombstones.retain(|(seq, _)| *seq <= through);
    Ok(ChunkChanges { clock, through, rows, tombstones })
}
