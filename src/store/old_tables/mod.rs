//! Reads the tables of the old service, as they are at one moment and without changing anything: each row of `cpe_entry`
//! as a JSON object.
//!
//! The tables were made by many scripts, so no column is asked for by its name but the key and the time. A row is sent
//! by PostgreSQL as an object of the columns that it has.

mod error;

pub use error::OldTablesError;

use super::dsn::Dsn;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{Client, NoTls, Row, RowStream};

/// The time that the server has to accept the connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);
/// Rows asked for at once. They are read one by one, so this is no bound of memory.
const PAGE: usize = 500;

/// One snapshot for all that is read. Inside the transaction, because behind a pooler the session may be another one
/// afterwards. The transaction is open for as long as the service takes the rows, which may be longer than the limits.
/// A database without an encoding sends its bytes as they are: asked for UTF-8, it would end the cursor at the first that
/// are none.
const BEGIN: &str = "
    BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
    SET LOCAL TIME ZONE 'UTC';
    SET LOCAL extra_float_digits = 3;
    SET LOCAL statement_timeout = 0;
    SET LOCAL idle_in_transaction_session_timeout = 0;
    SELECT set_config('client_encoding', 'SQL_ASCII', true) WHERE current_setting('server_encoding') = 'SQL_ASCII'";

/// What there is, without reading it.
const TABLES: &str = "
    SELECT to_regclass('change_clock') IS NOT NULL,
           EXISTS (SELECT FROM pg_attribute
                   WHERE attrelid = to_regclass('cpe_entry') AND attname = 'cpe_id' AND NOT attisdropped),
           EXISTS (SELECT FROM pg_attribute
                   WHERE attrelid = to_regclass('cpe_entry') AND attname = 'created_at' AND NOT attisdropped),
           coalesce(to_regclass('cpe_vectors'), to_regclass('cpe_vectors_json')) IS NOT NULL";

const COUNT: &str = "SELECT count(*) FROM cpe_entry";

/// Rows of one batch have the same time, so the key is a part of the order. The old index on the time can be used.
const IN_ORDER_OF_TIME: &str = "
    DECLARE old_rows NO SCROLL CURSOR FOR
    SELECT to_jsonb(e) - '{fused_vec,question_vec,concept_vec,tmd_dense,fused_norm}'::text[] FROM cpe_entry e
    ORDER BY e.created_at, e.cpe_id";
const IN_ORDER_OF_KEY: &str = "
    DECLARE old_rows NO SCROLL CURSOR FOR
    SELECT to_jsonb(e) - '{fused_vec,question_vec,concept_vec,tmd_dense,fused_norm}'::text[] FROM cpe_entry e
    ORDER BY e.cpe_id";
const FETCH: &str = "FETCH FORWARD 500 FROM old_rows";

/// The tables of the old service, in one snapshot.
pub struct OldTables {
    client: Client,
    cursor: &'static str,
    rows: u64,
    has_vectors: bool,
}

impl OldTables {
    /// Connects, begins the snapshot, and counts the rows. Any server with these tables will do, also one in which the
    /// service could not store: a standby, or one with another encoding.
    ///
    /// # Errors
    /// The server cannot be reached or refuses, or the database has no such tables.
    pub async fn open(dsn: &Dsn) -> Result<Arc<OldTables>, OldTablesError> {
        let to = dsn.to_string();
        let unreachable = |problem: String| OldTablesError::Connect { to: dsn.to_string(), problem };
        let connected = timeout(CONNECT_WITHIN, dsn.config().connect(NoTls)).await;
        let connected = connected.map_err(|_| unreachable("it does not answer".to_owned()))?;
        let (client, connection) = connected.map_err(|error| unreachable(error::sentence(&error)))?;
        // Ends with the client; what went wrong is told to the query that waits.
        tokio::spawn(async move { drop(connection.await) });
        client.batch_execute(BEGIN).await?;
        let tables = client.query_one(TABLES, &[]).await?;
        let has = |column: usize| tables.try_get::<_, bool>(column);
        if has(0)? {
            return Err(OldTablesError::OwnDatabase { to });
        }
        if !has(1)? {
            return Err(OldTablesError::NoTable { to });
        }
        let cursor = if has(2)? { IN_ORDER_OF_TIME } else { IN_ORDER_OF_KEY };
        let has_vectors = has(3)?;
        let rows: i64 = client.query_one(COUNT, &[]).await?.try_get(0)?;
        Ok(Arc::new(OldTables { client, cursor, rows: rows.unsigned_abs(), has_vectors }))
    }

    /// The number of rows of `cpe_entry`.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Whether there is a table of vectors beside it.
    pub fn has_vectors(&self) -> bool {
        self.has_vectors
    }

    /// The rows in the order of their time, each as the text of a JSON object, which is not UTF-8 where the database has
    /// no encoding. Every call begins at the first row and gives the same ones; only the last call may be read.
    pub fn read(self: &Arc<Self>) -> impl Stream<Item = Result<Bytes, OldTablesError>> + Send + use<> {
        stream::try_unfold(RowCursor::new(self.clone()), |mut cursor| async {
            Ok(cursor.next().await?.map(|row| (row, cursor)))
        })
    }
}

/// A cursor on its way through the rows.
struct RowCursor {
    tables: Arc<OldTables>,
    page: Option<Pin<Box<RowStream>>>,
    /// Rows of the page so far; `None` before the cursor is open.
    count: Option<usize>,
}

impl RowCursor {
    fn new(tables: Arc<OldTables>) -> RowCursor {
        RowCursor { tables, page: None, count: None }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, OldTablesError> {
        loop {
            if let Some(page) = &mut self.page {
                if let Some(row) = page.next().await {
                    *self.count.get_or_insert(0) += 1;
                    return Ok(Some(json(&row?)?));
                }
                if self.count.is_some_and(|count| count < PAGE) {
                    return Ok(None);
                }
            }
            let client = &self.tables.client;
            if self.count.is_none() {
                // A call before may have left its cursor open.
                client.batch_execute("CLOSE ALL").await?;
                client.batch_execute(self.tables.cursor).await?;
            }
            self.page = Some(Box::pin(client.query_raw(FETCH, std::iter::empty::<i32>()).await?));
            self.count = Some(0);
        }
    }
}

fn json(row: &Row) -> Result<Bytes, OldTablesError> {
    let RawJson(bytes) = row.try_get(0)?;
    Ok(bytes.into())
}

/// The text of a `jsonb` value.
struct RawJson(Vec<u8>);

impl<'a> FromSql<'a> for RawJson {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        // The version of the format, as PostgreSQL's jsonb_send writes it, and the text.
        match raw {
            [1, text @ ..] => Ok(RawJson(text.to_owned())),
            _ => Err("a jsonb value of another version".into()),
        }
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::JSONB
    }
}
