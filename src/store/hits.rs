//! The rows of a search: how large they are, and the rows themselves.
//!
//! Small rows are read at once. Of others the sizes are read first, so that only as many texts are read at a time as
//! their sizes allow.

use super::read::{CodesRow, ConfidenceRow, item_number, json_text};
use super::schema::{chunk_cpesh, chunks};
use super::{Store, StoreError};
use crate::chunk::TmdSource;
use crate::tmd::{AxisConfidence, Tmd};
use chrono::{DateTime, Utc};
use diesel::dsl::sql;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Integer, Nullable, Text};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

/// The row behind an item that a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// Its number in the search index.
    pub item: u32,
    /// The name of its dataset.
    pub dataset_source: String,
    /// Its id within the dataset.
    pub id: String,
    /// The public identifier of the chunk.
    pub cpe_id: Uuid,
    /// The text of the chunk.
    pub text: String,
    /// The concept of its CPESH parts.
    pub concept_text: Option<String>,
    /// Their question.
    pub probe_question: Option<String>,
    /// The answer to it.
    pub expected_answer: Option<String>,
    /// The TMD codes of the row, if it has any.
    pub tmd: Option<Tmd>,
    /// Where the codes come from, or why there are none.
    pub tmd_source: TmdSource,
    /// How sure the source of the codes was, where it can say.
    pub confidence: Option<AxisConfidence>,
    /// The id of its document.
    pub document_id: Option<String>,
    /// Its position in the document.
    pub chunk_index: i64,
    /// The title that the client gave.
    pub article_title: Option<String>,
    /// The source document that the client named.
    pub source_document: Option<String>,
    /// Further JSON that the client sent with the chunk, as PostgreSQL writes it.
    pub metadata: Option<String>,
    /// When it was stored, by the database's clock.
    pub created_at: DateTime<Utc>,
    /// The clock value of its last change.
    pub seq: i64,
}

diesel::define_sql_function! {
    /// The bytes of a text; a text that is stored elsewhere is not read for it.
    #[sql_name = "octet_length"]
    fn text_bytes(text: Nullable<Text>) -> Nullable<Integer>;
}

/// What counts as the size of a row: text, metadata, concept, question and answer.
const ROW_BYTES: &str = "octet_length(chunks.text) + coalesce(octet_length(chunks.metadata::text), 0) \
    + coalesce(octet_length(chunk_cpesh.concept_text), 0) + coalesce(octet_length(chunk_cpesh.probe_question), 0) \
    + coalesce(octet_length(chunk_cpesh.expected_answer), 0) <= ";

impl Hit {
    /// The bytes of text, metadata, concept, question and answer.
    pub fn bytes(&self) -> usize {
        let Hit { text, metadata, concept_text, probe_question, expected_answer, .. } = self;
        let parts = [metadata, concept_text, probe_question, expected_answer];
        text.len() + parts.into_iter().flatten().map(String::len).sum::<usize>()
    }
}

impl Store {
    /// The bytes of text, metadata, concept, question and answer in the rows of these items, in no particular order.
    /// Deleted items are missing.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn hit_sizes(&self, items: &[u32]) -> Result<Vec<(u32, usize)>, StoreError> {
        type Sizes = (Option<i32>, Option<i32>, Option<i32>, Option<i32>, Option<i32>);
        let sizes = (
            text_bytes(chunks::text.nullable()),
            text_bytes(json_text(chunks::metadata)),
            text_bytes(chunk_cpesh::concept_text.nullable()),
            text_bytes(chunk_cpesh::probe_question.nullable()),
            text_bytes(chunk_cpesh::expected_answer.nullable()),
        );
        let query = with_cpesh().select((chunks::item, sizes)).filter(chunks::item.eq_any(numbers(items)));
        let mut connection = self.pool.get().await?;
        let found = query.load::<(i64, Sizes)>(connection.conn()).await;
        let found = connection.done(found)?.into_iter();
        let bytes = |(text, json, concept, probe, answer): Sizes| {
            let sizes = [text, json, concept, probe, answer].into_iter().flatten();
            sizes.filter_map(|size| usize::try_from(size).ok()).sum()
        };
        found.map(|(item, sizes)| Ok((item_number(item)?, bytes(sizes)))).collect()
    }

    /// As [`Self::hits`], without rows of more than `most` bytes.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn small_hits(&self, items: &[u32], most: usize) -> Result<Vec<Hit>, StoreError> {
        let most = i32::try_from(most).unwrap_or(i32::MAX);
        let parts = (chunk_cpesh::concept_text, chunk_cpesh::probe_question, chunk_cpesh::expected_answer);
        let query = with_cpesh().select((HitRow::as_select(), parts.nullable()));
        let query = query.filter(chunks::item.eq_any(numbers(items)));
        let query = query.filter(sql::<Bool>(ROW_BYTES).bind::<Integer, _>(most));
        let mut connection = self.pool.get().await?;
        let found = query.load::<(HitRow, Option<PartsOfHit>)>(connection.conn()).await;
        connection.done(found)?.into_iter().map(|(row, parts)| hit(row, parts.unwrap_or_default())).collect()
    }

    /// The rows of these items, in no particular order. Deleted items are missing.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn hits(&self, items: &[u32]) -> Result<Vec<Hit>, StoreError> {
        self.small_hits(items, usize::MAX).await
    }
}

/// Concept, question and answer of a row.
type PartsOfHit = (Option<String>, Option<String>, Option<String>);

/// Every chunk, with its CPESH parts where it has any.
#[diesel::dsl::auto_type]
fn with_cpesh() -> _ {
    chunks::table.left_join(chunk_cpesh::table.on(chunk_cpesh::item.eq(chunks::item)))
}

/// Items in the type of their column.
fn numbers(items: &[u32]) -> Vec<i64> {
    items.iter().map(|item| i64::from(*item)).collect()
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = chunks, check_for_backend(Pg))]
struct HitRow {
    item: i64,
    dataset_source: String,
    id: String,
    cpe_id: Uuid,
    text: String,
    #[diesel(embed)]
    codes: CodesRow,
    #[diesel(embed)]
    confidence: ConfidenceRow,
    document_id: Option<String>,
    chunk_index: i64,
    article_title: Option<String>,
    source_document: Option<String>,
    #[diesel(select_expression = json_text(chunks::metadata))]
    metadata: Option<String>,
    created_at: DateTime<Utc>,
    seq: i64,
}

fn hit(row: HitRow, parts: PartsOfHit) -> Result<Hit, StoreError> {
    let (concept_text, probe_question, expected_answer) = parts;
    Ok(Hit {
        item: item_number(row.item)?,
        tmd: row.codes.tmd()?,
        tmd_source: row.codes.source()?,
        confidence: row.confidence.into(),
        dataset_source: row.dataset_source,
        id: row.id,
        cpe_id: row.cpe_id,
        text: row.text,
        concept_text,
        probe_question,
        expected_answer,
        document_id: row.document_id,
        chunk_index: row.chunk_index,
        article_title: row.article_title,
        source_document: row.source_document,
        metadata: row.metadata,
        created_at: row.created_at,
        seq: row.seq,
    })
}
