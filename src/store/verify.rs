//! What the search indexes compare themselves with: the history of the store, hashes of blocks of rows, and the rows of a
//! block.

use super::changes::ChangedChunk;
use super::filter_fields::{FIELD_COLUMNS, FieldTypes, FieldsFound, filter_fields};
use super::read::{floats, item_number, unreadable};
use super::{ModelId, Store, StoreError};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{BigInt, Binary, Integer, Nullable, Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use std::ops::Range;
use uuid::Uuid;

/// The clock of a store, and what tells its history from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockReading {
    /// The number of the last committed change.
    pub seq: i64,
    /// The timeline of the server, which is another one after a failover, and the identity of the table, which is another
    /// one after a restore. Also the column `change_clock.history`, once it has a value.
    pub history: String,
    /// The model in use, with its fingerprint; `None` before the first one.
    pub model: Option<(ModelId, String)>,
    /// The id of the store. A restore may bring that of another one.
    pub store_id: Uuid,
}

/// The hashes of some blocks of rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowDigests {
    /// The number of each block that has rows, and the SHA-256 of them.
    pub blocks: Vec<(u32, [u8; 32])>,
    /// The first item after them.
    pub next_item: Option<u32>,
}

/// The vectors that are compared.
#[derive(Debug, Clone, Copy)]
pub struct VectorsOf {
    /// The model that made them.
    pub model: ModelId,
    /// `concept` or `question`.
    pub kind: &'static str,
}

impl Store {
    /// The clock and the history that it counts.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn clock_reading(&self) -> Result<ClockReading, StoreError> {
        let mut connection = self.pool.get().await?;
        let found = ClockQuery.get_result::<ClockRow>(connection.conn()).await;
        let (seq, history, model, fingerprint, store_id) = connection.done(found)?;
        Ok(ClockReading { seq, history, model: model.map(ModelId).zip(fingerprint), store_id })
    }

    /// The hashes of the rows of these items, a block of `block` items at a time: of item and `seq` as 64-bit numbers in
    /// network order and the vector, row by row.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn row_digests(
        &self,
        of: VectorsOf,
        items: Range<u32>,
        block: u32,
    ) -> Result<RowDigests, StoreError> {
        let query = DigestQuery { of, items: bounds(&items), block: block.into() };
        let mut connection = self.pool.get().await?;
        let found = query.load::<(i64, Option<Vec<u8>>)>(connection.conn()).await;
        let mut digests = RowDigests::default();
        for (number, digest) in connection.done(found)? {
            match digest {
                Some(digest) => {
                    let digest = digest.try_into().map_err(|_| unreadable("sha256"))?;
                    digests.blocks.push((item_number(number)?, digest));
                }
                None => digests.next_item = Some(item_number(number)?),
            }
        }
        Ok(digests)
    }

    /// The rows of these items that have such a vector, in their order.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn rows_of_items(
        &self,
        of: VectorsOf,
        items: Range<u32>,
    ) -> Result<Vec<ChangedChunk>, StoreError> {
        let query = RowsQuery { of, items: bounds(&items) };
        let mut connection = self.pool.get().await?;
        let found = query.load::<(i64, i64, Vec<u8>, FieldsFound)>(connection.conn()).await;
        let row = |(seq, item, vector, fields): (i64, i64, Vec<u8>, FieldsFound)| {
            let (item, vector) = (item_number(item)?, floats(&vector)?);
            Ok(ChangedChunk { seq, item, vector, fields: filter_fields(fields)? })
        };
        connection.done(found)?.into_iter().map(row).collect()
    }
}

fn bounds(items: &Range<u32>) -> Range<i64> {
    items.start.into()..items.end.into()
}

#[derive(QueryId)]
struct ClockQuery;

/// Clock, history, the model in use and its fingerprint, the id of the store.
type ClockRow = (i64, String, Option<i32>, Option<String>, Uuid);

impl Query for ClockQuery {
    type SqlType = (BigInt, Text, Nullable<Integer>, Nullable<Text>, SqlUuid);
}

impl QueryFragment<Pg> for ClockQuery {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(
            "SELECT seq, store_history(), model_id, \
             (SELECT fingerprint FROM models WHERE models.model_id = change_clock.model_id), store_id FROM change_clock",
        );
        Ok(())
    }
}

#[derive(QueryId)]
struct DigestQuery {
    of: VectorsOf,
    items: Range<i64>,
    block: i64,
}

impl Query for DigestQuery {
    type SqlType = (BigInt, Nullable<Binary>);
}

impl QueryFragment<Pg> for DigestQuery {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT rows.item / ");
        out.push_bind_param::<BigInt, _>(&self.block)?;
        out.push_sql(
            ", sha256(string_agg(int8send(rows.item) || int8send(rows.seq) || vectors.vector, ''::bytea \
             ORDER BY rows.item)) FROM chunks AS rows",
        );
        with_vectors(&mut out, &self.of, &self.items)?;
        out.push_sql(" GROUP BY 1 UNION ALL (SELECT item, NULL FROM chunks WHERE item >= ");
        out.push_bind_param::<BigInt, _>(&self.items.end)?;
        out.push_sql(" ORDER BY item LIMIT 1)");
        Ok(())
    }
}

#[derive(QueryId)]
struct RowsQuery {
    of: VectorsOf,
    items: Range<i64>,
}

impl Query for RowsQuery {
    type SqlType = (BigInt, BigInt, Binary, FieldTypes);
}

impl QueryFragment<Pg> for RowsQuery {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        for part in ["SELECT rows.seq, rows.item, vectors.vector, ", FIELD_COLUMNS, " FROM chunks AS rows"] {
            out.push_sql(part);
        }
        out.push_sql(" JOIN chunks AS fields ON fields.item = rows.item");
        with_vectors(&mut out, &self.of, &self.items)?;
        out.push_sql(" ORDER BY rows.item");
        Ok(())
    }
}

/// The join of the vectors, and the range of the items.
fn with_vectors<'b>(
    out: &mut AstPass<'_, 'b, Pg>,
    of: &'b VectorsOf,
    items: &'b Range<i64>,
) -> QueryResult<()> {
    out.push_sql(" JOIN chunk_vectors AS vectors ON vectors.item = rows.item AND vectors.model_id = ");
    out.push_bind_param::<Integer, _>(&of.model.0)?;
    out.push_sql(" AND vectors.kind = ");
    out.push_bind_param::<Text, _>(of.kind)?;
    out.push_sql(" WHERE rows.item >= ");
    out.push_bind_param::<BigInt, _>(&items.start)?;
    out.push_sql(" AND rows.item < ");
    out.push_bind_param::<BigInt, _>(&items.end)
}
