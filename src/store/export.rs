//! Reading everything out again, in the order of datasets, documents and places.
//!
//! One transaction, and so one state of the store, over a connection of its own: an export takes none from the pool. A
//! cursor gives the items in order, from the narrow columns of the key; their rows and vectors are read in pages that
//! are bounded in rows and bytes. The server ends a session whose reader pauses for longer than [`READER_PAUSE`], so no
//! reader keeps an old state of the tables for ever.

use super::connection::{Connection, Pool};
use super::model::{ModelId, current_model};
use super::read::{
    CLIENT_CPESH, CodesRow, ConfidenceRow, LLM_CPESH, PlacementRow, cpesh, extracted, floats, json_text,
    unreadable,
};
use super::schema::{chunk_vectors, chunks};
use super::selection::{Selected, Selection};
use super::{Dsn, Store, StoreError, StoreTimeouts};
use crate::chunk::{ExportRow, Tagging};
use crate::model::ModelIdentity;
use chrono::{DateTime, Utc};
use diesel::dsl::sql;
use diesel::expression::SqlLiteral;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::sql_types::{BigInt, Nullable, Text};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// The most rows of a page.
const PAGE_ROWS: usize = 256;
/// The bytes of texts and metadata, as they are stored, after which a page ends.
const PAGE_BYTES: i64 = 2 * 1024 * 1024;
/// Items that are fetched from the cursor at a time.
const FETCHED: usize = 4096;
/// How long the server lets a reader pause.
const READER_PAUSE: &str = "5min";

/// SQLSTATE `undefined_table` and `undefined_column`: the migrations of this version have not run.
const NO_SCHEMA: [&str; 2] = ["42P01", "42703"];

/// An export in progress. Dropping it ends its session.
pub struct ChunkExport {
    connection: Connection,
    model: Option<(ModelId, ModelIdentity)>,
    with_vectors: bool,
    /// Items that are next, with the bytes of their rows.
    next: VecDeque<(i64, i64)>,
    ended: bool,
    pool: Arc<Pool>,
}

impl Store {
    /// Begins to read the selected chunks, as they are now.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn export(&self, selection: &Selection, with_vectors: bool) -> Result<ChunkExport, StoreError> {
        ChunkExport::begin(self.pool.clone(), selection, with_vectors).await
    }
}

impl ChunkExport {
    /// Begins to read from a database, which no service has to be running for. Changes nothing there.
    ///
    /// # Errors
    /// When the server cannot be reached or is one that [`Store::open`] refuses. [`StoreError::NoStore`] for a database
    /// without the tables of this version.
    pub async fn of_database(
        dsn: Dsn,
        selection: &Selection,
        with_vectors: bool,
    ) -> Result<ChunkExport, StoreError> {
        let shown = dsn.to_string();
        let pool = Arc::new(Pool::new(dsn, 1, StoreTimeouts::default())?);
        let begun = ChunkExport::begin(pool, selection, with_vectors).await;
        begun.map_err(|error| match error.sqlstate() {
            Some(state) if NO_SCHEMA.contains(&state.as_str()) => StoreError::NoStore { to: shown },
            _ => error,
        })
    }

    async fn begin(
        pool: Arc<Pool>,
        selection: &Selection,
        with_vectors: bool,
    ) -> Result<ChunkExport, StoreError> {
        let (mut connection, _) = pool.connect().await?;
        // The whole table is sorted once; the settings of other sessions are for look-ups by key.
        let settings = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL enable_seqscan = on; \
             SET LOCAL enable_bitmapscan = on; SET LOCAL work_mem = '64MB'; \
             SET LOCAL idle_in_transaction_session_timeout = '{READER_PAUSE}'"
        );
        let begun = connection.conn().batch_execute(&settings).await;
        connection.checked(begun)?;
        let model = current_model(connection.conn()).await;
        let model = connection.checked(model)?;
        let declared =
            DeclareItems { condition: selection.condition() }.execute(connection.conn_for_scan()).await;
        connection.checked(declared)?;
        // From here on items are looked up.
        let settings = "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off";
        let set = connection.conn().batch_execute(settings).await;
        connection.checked(set)?;
        Ok(ChunkExport { connection, model, with_vectors, next: VecDeque::new(), ended: false, pool })
    }

    /// The model of the vectors; `None` for a store that never had one, which is empty.
    pub fn model(&self) -> Option<&ModelIdentity> {
        self.model.as_ref().map(|(_, identity)| identity)
    }

    /// The next rows, in order; `None` after the last.
    ///
    /// # Errors
    /// As any query. After an error the export is at its end.
    pub async fn next_page(&mut self) -> Result<Option<Vec<ExportRow>>, StoreError> {
        if self.next.is_empty() && !self.ended {
            let fetched = diesel::sql_query(format!("FETCH {FETCHED} FROM items"));
            let fetched = fetched.load::<ItemRow>(self.connection.conn_for_scan()).await;
            let fetched = self.connection.checked(fetched)?;
            self.ended = fetched.len() < FETCHED;
            self.next.extend(fetched.into_iter().map(|row| (row.item, row.bytes)));
        }
        let (mut items, mut bytes) = (Vec::new(), 0);
        while items.len() < PAGE_ROWS
            && bytes < PAGE_BYTES
            && let Some((item, more)) = self.next.pop_front()
        {
            bytes += more;
            items.push(item);
        }
        if items.is_empty() { Ok(None) } else { self.page(&items).await.map(Some) }
    }

    /// The rows of these items, in their order.
    async fn page(&mut self, items: &[i64]) -> Result<Vec<ExportRow>, StoreError> {
        let query = chunks::table.select((chunks::item, StoredRowColumns::as_select()));
        let rows = query.filter(chunks::item.eq_any(items)).load(self.connection.conn()).await;
        let rows: Vec<(i64, StoredRowColumns)> = self.connection.checked(rows)?;
        let mut rows: HashMap<i64, StoredRowColumns> = rows.into_iter().collect();
        let mut vectors = HashMap::new();
        if let (true, Some((model, _))) = (self.with_vectors, &self.model) {
            let of_model = chunk_vectors::model_id.eq(model.0).and(chunk_vectors::kind.eq("concept"));
            let query = chunk_vectors::table.select((chunk_vectors::item, chunk_vectors::vector));
            let query = query.filter(chunk_vectors::item.eq_any(items).and(of_model));
            let found = query.load::<(i64, Vec<u8>)>(self.connection.conn()).await;
            vectors = self.connection.checked(found)?.into_iter().collect();
        }
        let row = |item: &i64| {
            // The snapshot that has the item has its row.
            let columns = rows.remove(item).ok_or_else(|| unreadable("item"))?;
            export_row(columns, vectors.get(item))
        };
        items.iter().map(row).collect()
    }

    /// Ends the session, and the thread of an own pool. Dropping does so too, without waiting.
    pub async fn close(self) {
        drop(self.connection);
        if let Some(pool) = Arc::into_inner(self.pool) {
            pool.close().await;
        }
    }
}

#[derive(QueryableByName)]
struct ItemRow {
    #[diesel(sql_type = BigInt)]
    item: i64,
    #[diesel(sql_type = BigInt)]
    bytes: i64,
}

/// Declares the cursor `items`. The order of names is that of their bytes, the same on every server.
struct DeclareItems<'a> {
    condition: Selected<'a>,
}

impl QueryId for DeclareItems<'_> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<Conn> diesel::RunQueryDsl<Conn> for DeclareItems<'_> {}

impl QueryFragment<Pg> for DeclareItems<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.unsafe_to_cache_prepared();
        // The length of a text that is stored elsewhere is known without reading it.
        out.push_sql(
            "DECLARE items NO SCROLL CURSOR FOR SELECT chunks.item, \
             (octet_length(chunks.text) + coalesce(pg_column_size(chunks.metadata), 0))::bigint AS bytes \
             FROM chunks WHERE ",
        );
        self.condition.walk_ast(out.reborrow())?;
        out.push_sql(
            " ORDER BY chunks.dataset_source COLLATE \"C\", chunks.document_id COLLATE \"C\" NULLS FIRST, \
             chunks.chunk_index, chunks.id COLLATE \"C\"",
        );
        Ok(())
    }
}

/// The columns of an [`ExportRow`].
#[derive(Queryable, Selectable)]
#[diesel(table_name = chunks, check_for_backend(Pg))]
pub(super) struct StoredRowColumns {
    dataset_source: String,
    id: String,
    cpe_id: Uuid,
    seq: i64,
    created_at: DateTime<Utc>,
    text: String,
    #[diesel(embed)]
    placement: PlacementRow,
    batch_id: Option<String>,
    #[diesel(select_expression = json_text(chunks::metadata))]
    metadata: Option<String>,
    #[diesel(select_expression = sql::<Nullable<Text>>(CLIENT_CPESH))]
    #[diesel(select_expression_type = SqlLiteral<Nullable<Text>>)]
    cpesh: Option<String>,
    #[diesel(select_expression = sql::<Nullable<Text>>(LLM_CPESH))]
    #[diesel(select_expression_type = SqlLiteral<Nullable<Text>>)]
    extracted: Option<String>,
    #[diesel(embed)]
    codes: CodesRow,
    #[diesel(embed)]
    confidence: ConfidenceRow,
    tmd_took_us: Option<i64>,
    truncated: bool,
    unread: Option<f32>,
}

pub(super) fn export_row(row: StoredRowColumns, vector: Option<&Vec<u8>>) -> Result<ExportRow, StoreError> {
    let took = row.tmd_took_us.and_then(|us| u64::try_from(us).ok()).map(Duration::from_micros);
    Ok(ExportRow {
        tagging: Tagging {
            tmd: row.codes.tmd()?,
            source: row.codes.source()?,
            confidence: row.confidence.into(),
            took,
        },
        dataset_source: row.dataset_source,
        id: row.id,
        cpe_id: row.cpe_id,
        seq: row.seq,
        created_at: row.created_at,
        text: row.text,
        placement: row.placement.into(),
        batch_id: row.batch_id,
        cpesh: row.cpesh.map(|json| cpesh(&json)).transpose()?,
        extracted: row.extracted.map(|json| extracted(&json)).transpose()?,
        metadata: row.metadata,
        truncated: row.truncated,
        unread: row.unread,
        vector: vector.map(|bytes| floats(bytes)).transpose()?,
    })
}
