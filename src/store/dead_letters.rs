//! Dead letters: chunks that were accepted and could not be stored, with the input to send them again.
//!
//! A dead letter is written before its client gets the answer, and is removed in the transaction that stores its
//! chunk. The store keeps their count, so that inserts skip the removal while there are none.

use super::schema::dead_letters;
use super::{Store, StoreError};
use crate::chunk::{BatchId, Chunk};
use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::query_dsl::methods;
use diesel::sql_types::{Array, Binary, Bool, Text};
use diesel::upsert::excluded;
use diesel_async::RunQueryDsl;
use std::sync::Arc;

/// A chunk that was rejected just now.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The chunk that could not be stored.
    pub chunk: Arc<Chunk>,
    /// The stage that rejected it.
    pub stage: &'static str,
    /// The code of the rejection, see [`crate::error_code`].
    pub cause: &'static str,
    /// The message of the error.
    pub message: String,
    /// Attempts of a stage before this rejection.
    pub attempts: u32,
    /// When it failed, by the service's clock. A second write with the same time is the same failure and counts once.
    pub failed_at: DateTime<Utc>,
}

/// A row of the table `dead_letters`.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = dead_letters, check_for_backend(Pg))]
pub struct StoredDeadLetter {
    /// Its number; pages are ordered by it.
    pub letter: i64,
    /// The name of its dataset.
    pub dataset_source: String,
    /// The id within the dataset.
    pub id: String,
    /// The stage of the last failure.
    pub stage: String,
    /// The code of the last error.
    pub cause: String,
    /// The message of the last error.
    pub message: String,
    /// Attempts of a stage, over all failures.
    pub attempts: i64,
    /// The number of failures: how often the chunk was sent and rejected.
    pub times: i64,
    /// The chunk as JSON, in the form of an upload.
    pub input: Vec<u8>,
    /// The batch id of the last request.
    pub batch_id: Option<String>,
    /// The time of the first failure.
    pub first_failed_at: DateTime<Utc>,
    /// The time of the last failure.
    pub last_failed_at: DateTime<Utc>,
}

/// Restricts a listing to dead letters with these values; an absent value matches any.
#[derive(Debug, Clone, Default)]
pub struct DeadLetterFilter {
    /// The code of the last error.
    pub cause: Option<&'static str>,
    /// The name of the dataset.
    pub dataset_source: Option<String>,
}

#[derive(Insertable)]
#[diesel(table_name = dead_letters)]
struct NewDeadLetter<'a> {
    dataset_source: &'a str,
    id: &'a str,
    content_hash: &'a [u8],
    stage: &'a str,
    cause: &'a str,
    message: String,
    attempts: i64,
    input: Vec<u8>,
    batch_id: Option<&'a str>,
    first_failed_at: DateTime<Utc>,
    last_failed_at: DateTime<Utc>,
}

impl<'a> NewDeadLetter<'a> {
    fn new(letter: &'a DeadLetter) -> Result<Self, StoreError> {
        let chunk = &*letter.chunk;
        let input = chunk.as_sent().map_err(|error| {
            let problem = format!("a dead letter could not be written as JSON: {error}");
            StoreError::Database { state: None, problem }
        })?;
        Ok(NewDeadLetter {
            dataset_source: &chunk.key.dataset,
            id: &chunk.key.id,
            content_hash: &chunk.content_hash,
            stage: letter.stage,
            cause: letter.cause,
            // A message may quote a server, and PostgreSQL's text type refuses NUL.
            message: letter.message.replace('\0', ""),
            attempts: i64::from(letter.attempts),
            input,
            batch_id: chunk.batch.as_ref().map(BatchId::as_str),
            first_failed_at: letter.failed_at,
            last_failed_at: letter.failed_at,
        })
    }
}

diesel::define_sql_function!(fn octet_length(bytes: Binary) -> Integer);

impl Store {
    /// Writes dead letters in one statement. A chunk that has one already keeps its number, and its failures add up.
    ///
    /// # Errors
    /// As any query. Repeating the call after [`StoreError::Lost`] counts nothing twice.
    pub async fn write_dead_letters(&self, letters: &[DeadLetter]) -> Result<(), StoreError> {
        let mut rows = letters.iter().map(NewDeadLetter::new).collect::<Result<Vec<_>, _>>()?;
        // In the order of the keys, as those who remove them lock them, so the two cannot deadlock; of one key the later counts.
        rows.sort_by_key(|row| (row.dataset_source, row.id, std::cmp::Reverse(row.last_failed_at)));
        rows.dedup_by_key(|row| (row.dataset_source, row.id));
        let mut connection = self.pool.get().await?;
        let upsert = diesel::insert_into(dead_letters::table)
            .values(&rows)
            .on_conflict((dead_letters::dataset_source, dead_letters::id))
            .do_update()
            .set((
                dead_letters::content_hash.eq(excluded(dead_letters::content_hash)),
                dead_letters::stage.eq(excluded(dead_letters::stage)),
                dead_letters::cause.eq(excluded(dead_letters::cause)),
                dead_letters::message.eq(excluded(dead_letters::message)),
                dead_letters::attempts.eq(dead_letters::attempts + excluded(dead_letters::attempts)),
                dead_letters::times.eq(dead_letters::times + 1),
                dead_letters::input.eq(excluded(dead_letters::input)),
                dead_letters::batch_id.eq(excluded(dead_letters::batch_id)),
                dead_letters::last_failed_at.eq(excluded(dead_letters::last_failed_at)),
            ));
        let another = dead_letters::last_failed_at.ne(excluded(dead_letters::last_failed_at));
        let written = methods::FilterDsl::filter(upsert, another)
            .returning(diesel::dsl::sql::<Bool>("xmax = 0"))
            .load::<bool>(connection.conn())
            .await;
        let new = connection.done(written)?.into_iter().filter(|new| *new).count();
        self.dead_letters.add(i64::try_from(new).unwrap_or_default());
        Ok(())
    }

    /// The dead letters numbered above `after`, ascending: at most `limit`, and at most `bytes` bytes of inputs, but at
    /// least one where there is one.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: i64,
        limit: u32,
        bytes: usize,
    ) -> Result<Vec<StoredDeadLetter>, StoreError> {
        let matching = || {
            let mut query = dead_letters::table.filter(dead_letters::letter.gt(after)).into_boxed();
            if let Some(cause) = filter.cause {
                query = query.filter(dead_letters::cause.eq(cause));
            }
            if let Some(dataset) = &filter.dataset_source {
                query = query.filter(dead_letters::dataset_source.eq(dataset));
            }
            query.order(dead_letters::letter).limit(i64::from(limit))
        };
        let mut connection = self.pool.get().await?;
        let sizes = matching()
            .select((dead_letters::letter, octet_length(dead_letters::input)))
            .load::<(i64, i32)>(connection.conn())
            .await;
        let mut room = i64::try_from(bytes).unwrap_or(i64::MAX);
        let mut last = None;
        for (letter, size) in connection.checked(sizes)? {
            if last.is_some() && room < i64::from(size) {
                break;
            }
            (last, room) = (Some(letter), room - i64::from(size));
        }
        let found = match last {
            Some(last) => {
                let page =
                    matching().filter(dead_letters::letter.le(last)).select(StoredDeadLetter::as_select());
                page.load(connection.conn()).await
            }
            None => Ok(Vec::new()),
        };
        connection.done(found)
    }

    /// Counts the dead letters in the database.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn count_dead_letters(&self) -> Result<i64, StoreError> {
        let mut connection = self.pool.get().await?;
        let count = dead_letters::table.count().get_result::<i64>(connection.conn_for_scan()).await;
        let count = connection.done(count)?;
        self.dead_letters.set(count);
        Ok(count)
    }

    /// The number of dead letters as this store knows it, without a query.
    pub fn dead_letter_count(&self) -> i64 {
        self.dead_letters.get()
    }

    /// Removes the dead letters of stored chunks. [`Self::insert`] does so itself.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn remove_dead_letters<'c>(
        &self,
        stored: impl Iterator<Item = &'c Chunk>,
    ) -> Result<(), StoreError> {
        let mut stored: Vec<&Chunk> = stored.collect();
        stored.sort_by_key(|chunk| &chunk.key);
        let remove = RemoveDeadLetters {
            datasets: stored.iter().map(|chunk| &*chunk.key.dataset).collect(),
            ids: stored.iter().map(|chunk| &*chunk.key.id).collect(),
            hashes: stored.iter().map(|chunk| chunk.content_hash.as_slice()).collect(),
        };
        let mut connection = self.pool.get().await?;
        let removed = remove.execute(connection.conn()).await;
        self.subtract_dead_letters(connection.done(removed)?);
        Ok(())
    }

    pub(super) fn subtract_dead_letters(&self, count: usize) {
        self.dead_letters.add(-i64::try_from(count).unwrap_or_default());
    }
}

/// Raw SQL, because diesel has no `unnest`.
struct RemoveDeadLetters<'a> {
    datasets: Vec<&'a str>,
    ids: Vec<&'a str>,
    hashes: Vec<&'a [u8]>,
}

/// The type identifies the statement, so each connection prepares it once.
impl QueryId for RemoveDeadLetters<'_> {
    type QueryId = RemoveDeadLetters<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl QueryFragment<Pg> for RemoveDeadLetters<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("DELETE FROM dead_letters USING unnest(");
        out.push_bind_param::<Array<Text>, _>(&self.datasets)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.ids)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Binary>, _>(&self.hashes)?;
        out.push_sql(
            ") AS stored (dataset_source, id, content_hash) \
             WHERE dead_letters.dataset_source = stored.dataset_source AND dead_letters.id = stored.id \
             AND dead_letters.content_hash = stored.content_hash",
        );
        Ok(())
    }
}
