//! Look-ups: known keys, the clock.

use super::schema::{change_clock, chunks};
use super::{Store, StoreError};
use crate::chunk::{ChunkKey, Tagging, TmdSource};
use crate::tmd::{AxisConfidence, Tmd};
use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use std::collections::HashMap;
use std::time::Duration;
use uuid::Uuid;

/// What a repeated upload of a stored chunk needs of it.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownChunk {
    /// The public identifier of the chunk.
    pub cpe_id: Uuid,
    /// BLAKE3 of the content. Tells a repetition from a conflict.
    pub content_hash: [u8; 32],
    /// Its TMD codes and their source.
    pub tagging: Tagging,
    /// The clock value of its last change.
    pub seq: i64,
    /// Its number in the search index.
    pub item: u32,
    /// When it was stored, by the database's clock.
    pub created_at: DateTime<Utc>,
    /// The model read only the first part of its text.
    pub truncated: bool,
}

impl Store {
    /// Looks the keys up in one query; keys that are not stored are missing from the map.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn known(&self, keys: &[ChunkKey]) -> Result<HashMap<ChunkKey, KnownChunk>, StoreError> {
        if keys.is_empty() {
            return Ok(HashMap::new());
        }
        let mut connection = self.pool.get().await?;
        let found = find_known(connection.conn(), keys.iter()).await;
        connection.done(found)?.into_iter().map(known).collect()
    }

    /// The clock value of the last committed change.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn clock(&self) -> Result<i64, StoreError> {
        let mut connection = self.pool.get().await?;
        let clock = change_clock::table.select(change_clock::seq).first(connection.conn()).await;
        connection.done(clock)
    }

    /// The number of stored chunks, by `count(*)`: slow on a large store.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn count_chunks(&self) -> Result<i64, StoreError> {
        let mut connection = self.pool.get().await?;
        let count = chunks::table.count().get_result(connection.conn()).await;
        connection.done(count)
    }
}

/// The stored rows of these keys. Also used inside the transaction of an insert.
pub(super) async fn find_known<'k>(
    conn: &mut AsyncPgConnection,
    keys: impl Iterator<Item = &'k ChunkKey>,
) -> QueryResult<Vec<KnownRow>> {
    let (datasets, ids) = keys.map(|key| (&*key.dataset, &*key.id)).unzip();
    KnownKeys { columns: <KnownRow as Selectable<Pg>>::construct_selection(), datasets, ids }.load(conn).await
}

type KnownColumns = <KnownRow as Selectable<Pg>>::SelectExpression;

/// Raw SQL, because diesel has no `unnest`.
struct KnownKeys<'a> {
    columns: KnownColumns,
    datasets: Vec<&'a str>,
    ids: Vec<&'a str>,
}

/// The type identifies the statement, so each connection prepares it once.
impl QueryId for KnownKeys<'_> {
    type QueryId = KnownKeys<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for KnownKeys<'_> {
    type SqlType = diesel::dsl::SqlTypeOf<KnownColumns>;
}

impl QueryFragment<Pg> for KnownKeys<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT ");
        self.columns.walk_ast(out.reborrow())?;
        out.push_sql(" FROM unnest(");
        out.push_bind_param::<Array<Text>, _>(&self.datasets)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.ids)?;
        // LIMIT keeps the planner from replacing the index look-ups by another join.
        out.push_sql(
            ") AS key (dataset_source, id) CROSS JOIN LATERAL (SELECT * FROM chunks \
             WHERE chunks.dataset_source = key.dataset_source AND chunks.id = key.id LIMIT 1) AS chunks",
        );
        Ok(())
    }
}

/// The key of a stored chunk and the columns of its [`KnownChunk`].
#[derive(Queryable, Selectable)]
#[diesel(table_name = chunks, check_for_backend(Pg))]
pub(super) struct KnownRow {
    dataset_source: String,
    id: String,
    cpe_id: Uuid,
    content_hash: Vec<u8>,
    domain_code: i16,
    task_code: i16,
    modifier_code: i16,
    tmd_source: String,
    tmd_model: Option<String>,
    tmd_failure: Option<String>,
    domain_confidence: Option<f32>,
    task_confidence: Option<f32>,
    modifier_confidence: Option<f32>,
    tmd_took_us: Option<i64>,
    seq: i64,
    item: i64,
    created_at: DateTime<Utc>,
    truncated: bool,
}

pub(super) fn known(row: KnownRow) -> Result<(ChunkKey, KnownChunk), StoreError> {
    let confidence = match (row.domain_confidence, row.task_confidence, row.modifier_confidence) {
        (Some(domain), Some(task), Some(modifier)) => Some(AxisConfidence { domain, task, modifier }),
        _ => None,
    };
    let chunk = KnownChunk {
        cpe_id: row.cpe_id,
        content_hash: row.content_hash.try_into().map_err(|_| unreadable("content_hash"))?,
        tagging: Tagging {
            tmd: tmd(row.domain_code, row.task_code, row.modifier_code)?,
            source: tmd_source(&row.tmd_source, row.tmd_model.as_deref(), row.tmd_failure.as_deref())?,
            confidence,
            took: row.tmd_took_us.and_then(|us| u64::try_from(us).ok()).map(Duration::from_micros),
        },
        seq: row.seq,
        item: item_number(row.item)?,
        created_at: row.created_at,
        truncated: row.truncated,
    };
    Ok((ChunkKey { dataset: row.dataset_source.into(), id: row.id.into() }, chunk))
}

pub(super) fn unreadable(problem: impl Into<String>) -> StoreError {
    StoreError::Unreadable { problem: problem.into() }
}

pub(super) fn tmd(domain: i16, task: i16, modifier: i16) -> Result<Tmd, StoreError> {
    Tmd::new(domain, task, modifier).map_err(|error| unreadable(error.to_string()))
}

pub(super) fn tmd_source(
    kind: &str,
    model: Option<&str>,
    failure: Option<&str>,
) -> Result<TmdSource, StoreError> {
    TmdSource::from_parts(kind, model, failure).ok_or_else(|| unreadable("tmd_source"))
}

pub(super) fn item_number(item: i64) -> Result<u32, StoreError> {
    u32::try_from(item).map_err(|_| unreadable("item"))
}
