//! Look-ups: known keys, the clock.

use super::schema::{change_clock, chunk_vectors, chunks};
use super::{Store, StoreError};
use crate::chunk::{
    Chunk, ChunkKey, Cpesh, Differences, Extraction, ExtractionCall, Metadata, Placement, StoredFields,
    StoredLabels, Tagging, TmdSource,
};
use crate::tmd::{AxisConfidence, Tmd};
use chrono::{DateTime, Utc};
use diesel::dsl::sql;
use diesel::expression::SqlLiteral;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, Binary, Jsonb, Nullable, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// What a repeated upload of a stored chunk needs of it.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownChunk {
    /// The public identifier of the chunk.
    pub cpe_id: Uuid,
    /// See [`Chunk::content_hash`]. Tells a repetition from a conflict.
    pub content_hash: [u8; 32],
    /// See [`Chunk::details_hash`].
    pub details_hash: Option<[u8; 32]>,
    /// The id of its batch.
    pub batch_id: Option<Arc<str>>,
    /// Its TMD codes, if it has any, and their source.
    pub tagging: Tagging,
    /// The clock value of its last change.
    pub seq: i64,
    /// Its number in the search index.
    pub item: u32,
    /// When it was stored, by the database's clock.
    pub created_at: DateTime<Utc>,
    /// The model read only the first part of its text.
    pub truncated: bool,
    /// See [`crate::chunk::Embedding::unread`].
    pub unread: Option<f32>,
    /// What a language model extracted from its text, or why it did not; `None` where none was asked.
    pub extracted: Option<Extraction>,
}

/// The stored vectors of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredVectors {
    /// The clock value of the row's last change.
    pub seq: i64,
    /// That of the concept, or of the text.
    pub concept: Arc<[f32]>,
    /// That of the question, if the row has one.
    pub question: Option<Arc<[f32]>>,
}

impl KnownChunk {
    /// The differences of a chunk with the same content and details; `None` if those differ, so that
    /// [`Store::stored_fields`] has to be asked.
    pub fn differences(&self, sent: &Chunk) -> Option<Differences> {
        let stored = StoredLabels { batch_id: self.batch_id.as_deref(), tmd: self.tagging.tmd };
        self.is_repeated_by(sent).then(|| Differences::in_labels(sent, stored))
    }

    fn is_repeated_by(&self, sent: &Chunk) -> bool {
        self.content_hash == sent.content_hash && self.details_hash == Some(sent.details_hash)
    }
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

    /// The fields of the stored chunks with these keys, for a comparison with what was sent; keys that are not stored are
    /// missing from the map.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn stored_fields(
        &self,
        keys: &[&ChunkKey],
    ) -> Result<HashMap<ChunkKey, StoredFields>, StoreError> {
        let mut connection = self.pool.get().await?;
        let found = by_keys::<FieldsRow>(keys.iter().copied()).load(connection.conn()).await;
        connection.done(found)?.into_iter().map(stored_fields).collect()
    }

    /// The stored vectors of these items, of the model of the store.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn vectors(&self, items: &[u32]) -> Result<HashMap<u32, StoredVectors>, StoreError> {
        let items: Vec<i64> = items.iter().map(|item| i64::from(*item)).collect();
        let mut connection = self.pool.get().await?;
        let query = chunk_vectors::table
            .inner_join(change_clock::table.on(change_clock::model_id.eq(chunk_vectors::model_id.nullable())))
            .inner_join(chunks::table.on(chunks::item.eq(chunk_vectors::item)))
            .select((chunk_vectors::item, chunks::seq, chunk_vectors::kind, chunk_vectors::vector))
            .filter(chunk_vectors::item.eq_any(items));
        let found = query.load::<(i64, i64, String, Vec<u8>)>(connection.conn()).await;
        let (questions, concepts): (Vec<_>, Vec<_>) =
            connection.done(found)?.into_iter().partition(|(_, _, kind, _)| kind == "question");
        let questions = questions.into_iter().map(|(item, _, _, bytes)| Ok((item, floats(&bytes)?.into())));
        let mut questions = questions.collect::<Result<HashMap<i64, Arc<[f32]>>, StoreError>>()?;
        let vectors = |(item, seq, _, bytes): (i64, i64, String, Vec<u8>)| {
            let (concept, question) = (floats(&bytes)?.into(), questions.remove(&item));
            Ok((item_number(item)?, StoredVectors { seq, concept, question }))
        };
        concepts.into_iter().map(vectors).collect()
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
        let count = chunks::table.count().get_result(connection.conn_for_scan()).await;
        connection.done(count)
    }
}

/// The stored rows of these keys.
pub(super) async fn find_known<'k>(
    conn: &mut AsyncPgConnection,
    keys: impl Iterator<Item = &'k ChunkKey>,
) -> QueryResult<Vec<KnownRow>> {
    by_keys::<KnownRow>(keys).load(conn).await
}

/// The query for the rows of these keys.
fn by_keys<'k, Row: Selectable<Pg>>(keys: impl Iterator<Item = &'k ChunkKey>) -> ByKeys<'k, Row> {
    let (datasets, ids) = keys.map(|key| (&*key.dataset, &*key.id)).unzip();
    ByKeys { columns: Row::construct_selection(), datasets, ids }
}

type Columns<Row> = <Row as Selectable<Pg>>::SelectExpression;

/// Raw SQL, because diesel has no `unnest`.
struct ByKeys<'a, Row: Selectable<Pg>> {
    columns: Columns<Row>,
    datasets: Vec<&'a str>,
    ids: Vec<&'a str>,
}

/// The type identifies the statement, so each connection prepares it once.
impl<Row: Selectable<Pg> + 'static> QueryId for ByKeys<'_, Row> {
    type QueryId = ByKeys<'static, Row>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<Row: Selectable<Pg>> Query for ByKeys<'_, Row>
where
    Columns<Row>: Expression,
{
    type SqlType = diesel::dsl::SqlTypeOf<Columns<Row>>;
}

impl<Row: Selectable<Pg>> QueryFragment<Pg> for ByKeys<'_, Row>
where
    Columns<Row>: QueryFragment<Pg>,
{
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

diesel::define_sql_function! {
    /// JSON as PostgreSQL writes it: the cast to text.
    #[sql_name = "text"]
    fn json_text(json: Nullable<Jsonb>) -> Nullable<Text>;
}

/// The key of a stored chunk and the columns of its [`KnownChunk`].
#[derive(Queryable, Selectable)]
#[diesel(table_name = chunks, check_for_backend(Pg))]
pub(super) struct KnownRow {
    dataset_source: String,
    id: String,
    cpe_id: Uuid,
    content_hash: Vec<u8>,
    details_hash: Option<Vec<u8>>,
    batch_id: Option<String>,
    #[diesel(embed)]
    codes: CodesRow,
    #[diesel(embed)]
    confidence: ConfidenceRow,
    tmd_took_us: Option<i64>,
    seq: i64,
    item: i64,
    created_at: DateTime<Utc>,
    truncated: bool,
    unread: Option<f32>,
    #[diesel(select_expression = sql::<Nullable<Text>>(LLM_CPESH))]
    #[diesel(select_expression_type = SqlLiteral<Nullable<Text>>)]
    extracted: Option<String>,
}

pub(super) fn known(row: KnownRow) -> Result<(ChunkKey, KnownChunk), StoreError> {
    let chunk = KnownChunk {
        cpe_id: row.cpe_id,
        content_hash: hash(row.content_hash, "content_hash")?,
        details_hash: row.details_hash.map(|bytes| hash(bytes, "details_hash")).transpose()?,
        batch_id: row.batch_id.map(Into::into),
        tagging: Tagging {
            tmd: row.codes.tmd()?,
            source: row.codes.source()?,
            confidence: row.confidence.into(),
            took: row.tmd_took_us.and_then(|us| u64::try_from(us).ok()).map(Duration::from_micros),
        },
        seq: row.seq,
        item: item_number(row.item)?,
        created_at: row.created_at,
        truncated: row.truncated,
        unread: row.unread,
        extracted: row.extracted.map(|json| extracted(&json)).transpose()?,
    };
    Ok((ChunkKey { dataset: row.dataset_source.into(), id: row.id.into() }, chunk))
}

/// The CPESH parts that a client gave, as JSON.
pub(super) const CLIENT_CPESH: &str =
    "(SELECT to_jsonb(p)::text FROM chunk_cpesh p WHERE p.item = chunks.item AND p.source = 'client')";

/// What a language model extracted, with the failures of that, as JSON.
pub(super) const LLM_CPESH: &str =
    "(SELECT to_jsonb(p)::text FROM chunk_cpesh p WHERE p.item = chunks.item AND p.source = 'llm')";

/// The columns of `chunk_cpesh` beside the parts.
#[derive(Deserialize)]
struct ExtractionColumns {
    #[serde(flatten)]
    cpesh: Cpesh,
    model: Option<String>,
    took_us: Option<u64>,
    failure: Option<String>,
}

/// Reads the value of [`LLM_CPESH`].
pub(super) fn extracted(json: &str) -> Result<Extraction, StoreError> {
    let row: ExtractionColumns = serde_json::from_str(json).map_err(|_| unreadable("chunk_cpesh"))?;
    let call = ExtractionCall {
        model: row.model.unwrap_or_default().into(),
        took: row.took_us.map(Duration::from_micros),
    };
    Ok(match row.failure {
        Some(reason) => Extraction::Failed { reason: reason.into(), call },
        None => Extraction::ByLlm { cpesh: Arc::new(row.cpesh), call },
    })
}

/// The key of a stored chunk and the columns of its [`StoredFields`].
#[derive(Queryable, Selectable)]
#[diesel(table_name = chunks, check_for_backend(Pg))]
struct FieldsRow {
    dataset_source: String,
    id: String,
    #[diesel(select_expression = sql::<Binary>("sha256(convert_to(chunks.text, 'UTF8'))"))]
    #[diesel(select_expression_type = SqlLiteral<Binary>)]
    text_sha256: Vec<u8>,
    #[diesel(embed)]
    placement: PlacementRow,
    #[diesel(select_expression = json_text(chunks::metadata))]
    metadata: Option<String>,
    #[diesel(select_expression = sql::<Nullable<Text>>(CLIENT_CPESH))]
    #[diesel(select_expression_type = SqlLiteral<Nullable<Text>>)]
    cpesh: Option<String>,
    batch_id: Option<String>,
    #[diesel(embed)]
    codes: CodesRow,
}

/// The columns of a code triple and its source.
#[derive(Queryable, Selectable)]
#[diesel(table_name = chunks, check_for_backend(Pg))]
pub(super) struct CodesRow {
    domain_code: Option<i16>,
    task_code: Option<i16>,
    modifier_code: Option<i16>,
    tmd_source: String,
    tmd_model: Option<String>,
    tmd_failure: Option<String>,
}

impl CodesRow {
    pub(super) fn tmd(&self) -> Result<Option<Tmd>, StoreError> {
        tmd(self.domain_code, self.task_code, self.modifier_code)
    }

    pub(super) fn source(&self) -> Result<TmdSource, StoreError> {
        TmdSource::from_parts(&self.tmd_source, self.tmd_model.as_deref(), self.tmd_failure.as_deref())
            .ok_or_else(|| unreadable("tmd_source"))
    }
}

/// The columns of an [`AxisConfidence`].
#[derive(Queryable, Selectable)]
#[diesel(table_name = chunks, check_for_backend(Pg))]
pub(super) struct ConfidenceRow {
    domain_confidence: Option<f32>,
    task_confidence: Option<f32>,
    modifier_confidence: Option<f32>,
}

impl From<ConfidenceRow> for Option<AxisConfidence> {
    fn from(row: ConfidenceRow) -> Self {
        let ConfidenceRow { domain_confidence, task_confidence, modifier_confidence } = row;
        Some(AxisConfidence {
            domain: domain_confidence?,
            task: task_confidence?,
            modifier: modifier_confidence?,
        })
    }
}

/// The columns of a [`Placement`].
#[derive(Queryable, Selectable)]
#[diesel(table_name = chunks, check_for_backend(Pg))]
pub(super) struct PlacementRow {
    document_id: Option<String>,
    chunk_index: i64,
    source_document: Option<String>,
    article_title: Option<String>,
    article_index: Option<i64>,
    parent_cpe_ids: Vec<Option<String>>,
    child_cpe_ids: Vec<Option<String>>,
}

impl From<PlacementRow> for Placement {
    fn from(row: PlacementRow) -> Self {
        Placement {
            document_id: row.document_id,
            chunk_index: row.chunk_index,
            source_document: row.source_document,
            article_title: row.article_title,
            article_index: row.article_index,
            parent_cpe_ids: row.parent_cpe_ids.into_iter().flatten().collect(),
            child_cpe_ids: row.child_cpe_ids.into_iter().flatten().collect(),
        }
    }
}

fn stored_fields(row: FieldsRow) -> Result<(ChunkKey, StoredFields), StoreError> {
    let fields = StoredFields {
        text_sha256: hash(row.text_sha256, "text")?,
        placement: row.placement.into(),
        metadata_hash: metadata(row.metadata)?.as_ref().and_then(Metadata::hash),
        cpesh: row.cpesh.map(|json| cpesh(&json)).transpose()?,
        batch_id: row.batch_id.map(Into::into),
        tmd: row.codes.tmd()?,
    };
    Ok((ChunkKey { dataset: row.dataset_source.into(), id: row.id.into() }, fields))
}

/// The metadata of a row.
pub(super) fn metadata(json: Option<String>) -> Result<Option<Metadata>, StoreError> {
    json.map(|json| Metadata::of_stored(json).ok_or_else(|| unreadable("metadata"))).transpose()
}

pub(super) fn cpesh(json: &str) -> Result<Cpesh, StoreError> {
    serde_json::from_str(json).map_err(|_| unreadable("chunk_cpesh"))
}

fn hash(bytes: Vec<u8>, column: &str) -> Result<[u8; 32], StoreError> {
    bytes.try_into().map_err(|_| unreadable(column))
}

/// A stored vector: little-endian f32.
pub(super) fn floats(bytes: &[u8]) -> Result<Vec<f32>, StoreError> {
    let (parts, rest) = bytes.as_chunks::<4>();
    if rest.is_empty() {
        Ok(parts.iter().map(|b| f32::from_le_bytes(*b)).collect())
    } else {
        Err(unreadable("vector"))
    }
}

pub(super) fn unreadable(problem: impl Into<String>) -> StoreError {
    StoreError::Unreadable { problem: problem.into() }
}

/// The codes of a row; `None` where it has none.
pub(super) fn tmd(
    domain: Option<i16>,
    task: Option<i16>,
    modifier: Option<i16>,
) -> Result<Option<Tmd>, StoreError> {
    let (Some(domain), Some(task), Some(modifier)) = (domain, task, modifier) else { return Ok(None) };
    Tmd::new(domain, task, modifier).map(Some).map_err(|error| unreadable(error.to_string()))
}

pub(super) fn item_number(item: i64) -> Result<u32, StoreError> {
    u32::try_from(item).map_err(|_| unreadable("item"))
}
